"""The one-line error for an optional dependency that is absent."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["MissingExtra", "optional"]


class MissingExtra(ImportError):
    """An optional dependency is absent; the message is one line that names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'deva-theory[{extra}]'", name=package)
        self.package = package
        self.extra = extra
        self.purpose = purpose

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), (self.package, self.extra, self.purpose)


def optional(package: str, extra: str, purpose: str) -> Any:
    """Return the imported package, or say which extra brings it.

    Raises
    ------
    MissingExtra
        When the package itself is not installed; errors inside it pass through.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        raise MissingExtra(package.partition(".")[0], extra, purpose) from error

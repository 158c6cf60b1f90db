"""From ``module:function`` to the function: the checks live in the clone, not in the package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from deva_theory.claims.ledger import LedgerError

__all__ = ["resolve"]


def resolve(root: Path, name: str, *, package: str = "paper_checks") -> Callable[..., Any]:
    """Import a function of the clone at `root`.

    Parameters
    ----------
    root : Path
        The clone's top folder.
    name : str
        ``module:function`` below `package`, or ``package.module:function``.

    Raises
    ------
    LedgerError
        If there is no such module or function, or another clone's module is loaded under its name.
    """
    module_name, _, function_name = name.partition(":")
    qualified = module_name if module_name.startswith(f"{package}.") else f"{package}.{module_name}"
    path = root.joinpath(*qualified.split(".")).with_suffix(".py")
    if not path.is_file():
        raise LedgerError(f"{name!r}: {path.relative_to(root).as_posix()} does not exist; correct the entry or add the file")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    other = LedgerError(f"{name!r}: the module {qualified} of another clone is loaded; start a fresh process in {root.name}")
    try:
        module = import_module(qualified)
    except ModuleNotFoundError as error:
        if error.name != qualified:  # the module is there, but imports something that is not
            raise
        raise other from None
    if Path(module.__file__ or "").resolve() != path.resolve():
        raise other
    function = getattr(module, function_name, None)
    if not callable(function):
        raise LedgerError(f"{name!r}: {path.relative_to(root).as_posix()} has no function {function_name}")
    return function

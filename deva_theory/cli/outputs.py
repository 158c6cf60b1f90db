"""The files that a command is asked to write: refused before the work if they cannot be written, and written whole or not at all."""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deva_theory.cli.errors import BadInput

__all__ = ["FIGURES", "check_outputs", "whole"]

FIGURES = (".pdf", ".png", ".svg")


def check_outputs(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise unless every file that the options name can be written; ``--figure`` must end in one of `FIGURES`.

    Parameters
    ----------
    options : Namespace
    names : sequence of str
        Options that hold a path or None.

    Raises
    ------
    BadInput
        A folder, a missing folder, a loop of links, no permission, or one file for two options.
    """
    taken: dict[Path, str] = {}
    for option in names:
        path: Path | None = getattr(options, option)
        if path is None:
            continue
        if path.is_dir():
            raise BadInput(f"--{option} {path} is a folder: name a file")
        special = _special(path)
        # Where a link leads is what is written.
        real = path if special else _resolved(path, option)
        if not real.parent.is_dir():
            raise BadInput(f"--{option} {path}: its folder does not exist")
        if (real.exists() and not os.access(real, os.W_OK)) or (not special and not os.access(real.parent, os.W_OK)):
            raise BadInput(f"--{option} {path}: no permission to write there")
        other = option if special else taken.setdefault(real, option)
        if other != option:
            raise BadInput(f"--{other} and --{option} both write {path}: name two files")
        if option == "figure" and path.suffix.lower() not in FIGURES:
            raise BadInput(f"--figure {path}: end the name in {', '.join(FIGURES)}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a name to write to, of the same ending; the file takes the place of `path` at the end, and after an error nothing does."""
    if _special(path):
        yield path
        return
    path = path.resolve()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".deva-theory-") as folder:
        temporary = Path(folder, path.name)
        yield temporary
        os.replace(temporary, path)


def _resolved(path: Path, option: str) -> Path:
    try:
        real = path.resolve()
        loop = real.is_symlink()  # newer versions of Python return what they could resolve
    except (OSError, RuntimeError):
        loop = True
    if loop:
        raise BadInput(f"--{option} {path}: its links lead round in a loop; name another file")
    return real


def _special(path: Path) -> bool:
    """Return whether it is a device or a pipe, which nothing may replace."""
    return path.exists() and not path.is_file()

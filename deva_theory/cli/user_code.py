"""The user's own code, named ``pkg.mod:name`` on the command line: import, call, and one line for whatever it raises."""

import difflib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from deva_theory.cli.errors import BadInput

__all__ = ["called", "imported", "near", "place", "users_frame"]

_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_STANDARD = sysconfig.get_path("stdlib") + os.sep


def imported(name: str, option: str) -> Any:
    """Return the object ``pkg.mod:name``, importing with the working folder in front.

    Raises
    ------
    BadInput
        No such module or name, or the module's own code failed.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise BadInput(f"{option} is {name!r}; write it as PKG.MOD:NAME")
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            raise BadInput(f"no module {error.name!r} here or among the installed ones: run in the folder that holds it") from error
        raise BadInput(f"{module} imports {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise BadInput(f"{module} cannot be imported: {place(error)}") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise BadInput(f"{module} has no {part!r}{near(part, [n for n in dir(found) if not n.startswith('_')])}") from error
        except (Exception, SystemExit) as error:
            raise BadInput(f"{name} cannot be had: {place(error)}") from error
    return found


def near(name: str, known: list[str]) -> str:
    """Return ``"; did you mean …?"``, or nothing if no known name is close."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def called(function: Callable[..., Any], name: str, *arguments: Any, remedy: str = "") -> Any:
    """Return ``function(*arguments)``.

    Raises
    ------
    BadInput
        It failed, or asked the interpreter to exit; `remedy` follows the error.
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        raise BadInput(f"{name} failed: {place(error)}{remedy}") from error


def place(error: BaseException) -> str:
    """Return the error in one line, with the file and line of the innermost frame of the user's own code."""
    frame = users_frame(error)
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{f' ({frame})' if frame else ''}"


def users_frame(error: BaseException) -> str:
    """Return "file, line n" of the innermost frame that is neither installed, nor Python's, nor of this package; "" if there is none."""
    own = [(f.filename.replace("\\", "/"), f.lineno) for f in traceback.extract_tb(error.__traceback__) if not _foreign(f.filename)]
    return f"{own[-1][0].rpartition('/')[2]}, line {own[-1][1]}" if own else ""


def _foreign(filename: str) -> bool:
    return filename.startswith(("<", _STANDARD, _PACKAGE)) or "site-packages" in filename

"""Reading untrusted JSON: numbers, lists, objects and expressions, each checked before use.

Everything below raises only `Rejected`.  Expressions are parsed by ``ast`` against a whitelist and never compiled or run.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

MAX_LENGTH = 50_000
"""Characters in one expression."""

MAX_DIGITS = 4000
"""Characters in one number, and the size of its decimal exponent."""

_NUMBER = re.compile(r"[+-]?(\d+/\d+|(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,5})?)", re.ASCII)
# No '#' (what follows would be invisible to the parser), no quotes, brackets, commas, colons or '@'.
# ASCII only: other letters look alike, and Python reads some of them as another name than the one written.
_CHARACTERS = re.compile(r"[\w\s+\-*/().]*", re.ASCII)
_ALLOWED = (
    ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub,
)  # fmt: skip


class Rejected(Exception):
    """A certificate does not show what it says; the message says where and why."""


def quoted(value: object, limit: int = 80) -> str:
    """Return the value for a message, on one line and cut to a readable length."""
    text = " ".join(value.split()) if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= limit else text[:limit] + " ...") if isinstance(value, str) else text[:limit]


def number(value: object) -> Fraction:
    """Return an exact rational from an integer or a string such as "-3/4", "0.05", "1e-6"."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > 4 * MAX_DIGITS:
            raise Rejected("a number is too long")
        return Fraction(value)
    if not isinstance(value, str):
        raise Rejected(f"{quoted(value)} is not an exact number; write it as a string, like '1/3' or '0.05'")
    text = value.strip()
    if len(text) > MAX_DIGITS or not _NUMBER.fullmatch(text):
        raise Rejected(f"{quoted(value)} is not a rational number")
    exponent = re.split("[eE]", text)[1:]
    if exponent and abs(int(exponent[0])) > MAX_DIGITS:
        raise Rejected(f"{quoted(value)} is out of range")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise Rejected(f"{quoted(value)} divides by zero") from None


def shown(value: Fraction) -> str:
    """Return a number for a message: exactly if it is short, else in decimals."""
    if max(abs(value.numerator), value.denominator) < 10**12:
        return str(value)
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "a huge number"


def exponent_of(node: ast.expr) -> int:
    """Return an integer literal with its sign, from its syntax tree."""
    sign = 1
    while isinstance(node, ast.UnaryOp):
        sign = -sign if isinstance(node.op, ast.USub) else sign
        node = node.operand
    if not isinstance(node, ast.Constant):
        raise Rejected("an exponent is not an integer literal")
    return sign * int(node.value)  # type: ignore[arg-type]


def items(value: object, what: str, least: int = 0) -> Sequence[Any]:
    """Return a JSON list of at least so many entries."""
    if not isinstance(value, (list, tuple)):
        raise Rejected(f"{what} is not a list")
    if len(value) < least:
        raise Rejected(f"{what} has {len(value)} entries; at least {least} needed")
    return value


def fields(value: object, what: str, needed: Collection[str] = (), optional: Collection[str] | None = None) -> Mapping[str, Any]:
    """Return a JSON object that has the needed keys and, unless `optional` is None, no others but those."""
    if not isinstance(value, Mapping):
        raise Rejected(f"{what} is not an object")
    for key in value:
        # A key we do not know could be an assumption that we would silently drop.
        if not isinstance(key, str) or (optional is not None and key not in needed and key not in optional):
            raise Rejected(f"{what} has the unknown key {quoted(key)}")
    for key in needed:
        if key not in value:
            raise Rejected(f"{what} has no {key!r}")
    return value


def numbers(value: object, what: str, least: int = 1) -> list[Fraction]:
    """Return a list of exact rationals."""
    return [number(entry) for entry in items(value, what, least)]


def matrix(value: object, what: str, size: int = 200) -> list[list[Fraction]]:
    """Return a rectangular, non-empty matrix of exact rationals."""
    rows = [numbers(row, f"a row of {what}") for row in items(value, what, 1)]
    if len({len(row) for row in rows}) != 1:
        raise Rejected(f"the rows of {what} differ in length")
    if max(len(rows), len(rows[0])) > size:
        raise Rejected(f"{what} is larger than {size}")
    return rows


def parse(text: object, transpose: bool = False) -> ast.expr:
    """Return the syntax tree of an expression over + - * / **, parentheses, integers and names.

    Parameters
    ----------
    text : object
        What the certificate has; anything but a string is rejected.
    transpose : bool
        Whether ``.T`` is allowed.
    """
    if not isinstance(text, str):
        raise Rejected(f"{quoted(text)} is not an expression in a string")
    if len(text) > MAX_LENGTH:
        raise Rejected(f"an expression has {len(text)} characters; the limit is {MAX_LENGTH}")
    if not _CHARACTERS.fullmatch(text):
        raise Rejected(f"{quoted(text)} has characters other than ASCII names, digits, + - * / ( ) .")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Rejected(f"{quoted(text)} is not an expression") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is not int:
            raise Rejected(f"{quoted(text)}: {node.value!r} is not an integer; write fractions as 1/2")
        if isinstance(node, ast.Attribute) and transpose and node.attr == "T":
            continue
        if not isinstance(node, _ALLOWED):
            raise Rejected(f"{quoted(text)}: {type(node).__name__} is not allowed")
    return tree

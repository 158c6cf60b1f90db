"""Reading and printing rational numbers."""

from __future__ import annotations

from fractions import Fraction
from numbers import Rational

__all__ = ["Number", "as_text", "rational"]

Number = int | float | str | Fraction
"""What counts as a rational number: a float means its shortest decimal, 0.1 is 1/10."""


def rational(value: Number) -> Fraction:
    """Return the number as a fraction; a float is read as the shortest decimal that prints it, not as its binary value.

    Raises
    ------
    ValueError
        For NaN, infinities and text that is no number.
    """
    if isinstance(value, str | Rational):
        return Fraction(value)
    return Fraction(repr(float(value)))


def as_text(value: Fraction) -> str:
    """Return a terminating decimal where there is one of at most 40 digits, else numerator/denominator."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > 40 or places == 0:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"

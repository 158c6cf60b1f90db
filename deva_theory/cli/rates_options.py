"""Options of ``deva-theory rates``; nothing heavy is imported here."""

import argparse
from collections.abc import Callable
from pathlib import Path

__all__ = ["FAMILIES", "RULES", "add_options"]

FAMILIES = ("diagonal", "rotated", "e1-heterogeneous", "e1-homogeneous", "logistic", "wells", "factorisation")
RULES = ("signsgd", "adagrad", "deva-linf", "muon", "deva-spectral")
ORACLES = ("gaussian", "spikes", "student", "rows")
"""Names as in `deva_theory.rates.catalogue` (which imports torch); a test compares them."""
STATEMENTS = ("R1", "R2", "R3", "R5")


def add_options(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the arguments of ``rates``; `positive` parses whole numbers from 1."""
    command.epilog = (
        "R1: exact gradients. R2: a mini-batch of T samples in every step. R5: momentum and one sample. R3: matrices. "
        "Every horizon T is a run of its own, with the statement's step size for it."
    )
    command.add_argument("problem", metavar="PROBLEM", choices=FAMILIES, help=f"one of {', '.join(FAMILIES)}")
    command.add_argument("--rule", type=_some(RULES, "rule"), default=("signsgd", "deva-linf"), dest="rules", metavar="R,..",
                         help=f"some of {', '.join(RULES)} (default: signsgd,deva-linf)")  # fmt: skip
    command.add_argument("--statement", type=_some(STATEMENTS, "statement"), dest="statements", metavar="S,..",
                         help="some of R1, R2, R3, R5 (default: all that cover the rule)")  # fmt: skip
    command.add_argument("--seeds", type=positive, default=20, metavar="N", help="starting points and noises (default: %(default)s)")
    command.add_argument("--instances", type=positive, default=2, metavar="N", help="problems of the family (default: %(default)s)")
    command.add_argument("--steps", type=_horizons, default=(4, 8, 16, 32, 64, 128, 256, 512), metavar="T,..",
                         help="horizons T, at least five of them for a slope (default: 4,8,16,...,512)")  # fmt: skip
    command.add_argument("--oracle", choices=ORACLES, help="noise of R2, R3 and R5 (default: rows of a finite sum, else gaussian)")
    command.add_argument("--scale", type=float, default=1.0, metavar="X", help="multiply the statement's step size (default: 1)")
    command.add_argument("--seed", type=_count, default=0, metavar="N", help="of problems, starts and noise (default: 0)")
    command.add_argument("--json", type=Path, metavar="F", help="write everything to this file")
    command.add_argument("--csv", type=Path, metavar="F", help="write a row per statement, rule and T")
    command.add_argument("--figure", type=Path, metavar="F", help="draw both sides over T: .pdf, .png or .svg")
    command.add_argument("--quiet", action="store_true", help="show no progress")


def _some(known: tuple[str, ...], what: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {what} {unknown[0]!r}, use some of {', '.join(known)}")
        return names

    return parse


def _horizons(text: str) -> tuple[int, ...]:
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1 or list(steps) != sorted(set(steps)):
        raise argparse.ArgumentTypeError(f"{text!r} are no increasing whole numbers from 1 such as 4,8,16,32,64")
    return steps


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)

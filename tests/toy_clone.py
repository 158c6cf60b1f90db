"""A clone of its own with a few toy claims, for tests of the ledger's machinery."""

import importlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path

CHECKS = '''
"""Toy checks: of squares, and of everything that can be wrong with a check."""
from pathlib import Path

import torch

from deva_theory.certify import MissingExtra, SearchProblem
from deva_theory.claims import Counterexample, Evidence, Verdict

HERE = Path(__file__).parent


def evidence(verdict, **fields):
    return Evidence(verdict, "search", f"the toy is {verdict}", **fields)


def log(name):
    """Note that a check really ran (what the cache answers leaves no line)."""
    with (HERE.parent / "log.txt").open("a") as file:
        file.write(name + "\\n")
    if (HERE.parent / f"interrupt-{name}").exists():
        raise KeyboardInterrupt


def square_gap(x, level):
    """By how much x^2 is below the level."""
    return level - x * x


def squares(run, level=0.0):
    """No square of the instances is below the level; in the control it is 5."""
    if not run.twin:
        log("squares")
    level = 5.0 if run.twin else level
    gap = max(square_gap(x, level) for x in (-2.0, 0.0, 1.0))
    return evidence(Verdict.REFUTED if gap > 0 else Verdict.SUPPORTED, margin=-gap, numbers={"gap": gap}, budget={"instances": 3})


def second(run):
    if not run.twin:
        log("second")
    return evidence(Verdict.REFUTED if run.twin else Verdict.SUPPORTED)


def above_one(run):
    """Squares are at least 1: false, and at least 0 in the control."""
    level = 0.0 if run.twin else 1.0
    gap = square_gap(0.0, level)
    if gap <= 0:
        return evidence(Verdict.SUPPORTED)
    data = {"x": 0.0, "level": level}
    found = Counterexample("zero", "every square is at least 1; 0 is not", "paper_checks.toy:square_gap", data, 0.5)
    return evidence(Verdict.REFUTED, counterexample=found)


def random_squares(run):
    """Random squares are below 25; in the control, below 0."""
    x = torch.randn(100 if run.full else 10, generator=run.generator(), dtype=torch.float64).abs().max().item()
    level = 0.0 if run.twin else 25.0
    if x * x <= level:
        return evidence(Verdict.SUPPORTED, seed=run.seed)
    found = Counterexample("large", "every square is below 25", "paper_checks.toy:excess", {"x": x, "level": level}, 1e-9)
    return evidence(Verdict.REFUTED, seed=run.seed, counterexample=found)


def excess(x, level):
    return x * x - level


def proved(run):
    comparison = ["2", "<" if run.twin else ">", "1"]
    if comparison[1] != ">":
        return evidence(Verdict.REFUTED)
    return evidence(Verdict.PROVED, certificates=[{"type": "values", "show": [comparison]}], steps=[f"line {i}" for i in range(50)])


def proved_wrongly(run):
    certificates = [{"type": "values", "show": [["1", ">", "2"]]}]
    return evidence(Verdict.REFUTED) if run.twin else evidence(Verdict.PROVED, certificates=certificates)


def proved_by_nothing(run):
    return evidence(Verdict.REFUTED) if run.twin else evidence(Verdict.PROVED, certificates=[])


def blind(run):
    return evidence(Verdict.SUPPORTED)


def blind_refuter(run):
    found = Counterexample("blind", "every square is at least 1", "paper_checks.toy:square_gap", {"x": 0.0, "level": 1.0}, 0.5)
    return evidence(Verdict.REFUTED, counterexample=found)


def undecided(run):
    return evidence(Verdict.INCONCLUSIVE)


def refuted(run, **fields):
    if run.twin:
        return evidence(Verdict.SUPPORTED)
    settings = {"name": "bad", "statement": "s", "replay": "paper_checks.toy:square_gap", "data": {"x": 0.0, "level": 1.0}, "margin": 0.5}
    return evidence(Verdict.REFUTED, counterexample=Counterexample(**(settings | fields)))


def refuted_without(run):
    return evidence(Verdict.SUPPORTED if run.twin else Verdict.REFUTED)


def refuted_below_margin(run):
    return refuted(run, margin=1.5)


def refuted_with_no_margin(run):
    return refuted(run, margin=0.0)


def refuted_by_nan(run):
    return refuted(run, replay="paper_checks.toy:nan")


def nan(x, level):
    return float("nan")


def refuted_by_nobody(run):
    return refuted(run, replay="paper_checks.toy:nobody")


def refuted_by_a_tensor(run):
    return refuted(run, data={"x": torch.tensor(0.5), "level": 1.0}, margin=0.25)


def raising(run):
    return evidence(Verdict.SUPPORTED if 1 / 0 else Verdict.REFUTED)


def raising_control(run):
    if run.twin:
        raise ValueError("two\\nlines")
    return evidence(Verdict.SUPPORTED)


def nothing(run):
    return None


def unwritable(run):
    return evidence(Verdict.REFUTED if run.twin else Verdict.SUPPORTED, numbers={"f": print})


def needing(run):
    raise MissingExtra("PEPit", "certify", "the cross-check")


def only_full(run):
    log("only_full" if run.full else "fast!")
    return evidence(Verdict.REFUTED if run.twin else Verdict.SUPPORTED)


def below_attack():
    """Squares are at least -1: true."""
    return SearchProblem(
        (2,), lambda x: -1.0 - x.square().sum(1), replay="paper_checks.toy:below", statement="a sum of squares is at least -1"
    )


def above_attack():
    """Sums of two squares are at most 4: false."""
    return SearchProblem((2,), lambda x: x.square().sum(1) - 4.0, replay="paper_checks.toy:above", statement="sums are at most 4")


def below(x):
    return -1.0 - sum(a * a for a in x)


def above(x):
    return sum(a * a for a in x) - 4.0


def no_replay_attack():
    return SearchProblem((2,), lambda x: x.square().sum(1) - 4.0)


def other_replay_attack():
    return SearchProblem((2,), lambda x: x.square().sum(1) - 4.0, replay="paper_checks.toy:below")
'''


def claim(name: str, check: str | None, expected: str = "SUPPORTED", **more: object) -> str:
    """One [[claim]], a field a line."""
    fields = {
        "id": name, "title": f"title of {name}", "kind": "identity", "source": "derived here", "statement": f"Statement of {name}.",
        "latex": "x = x", "assumptions": [], "depends_on": [], "method": "search", "tolerance": "none: a toy", "control": "another level",
        "expected": expected, **({"check": check if ":" in check else f"toy:{check}"} if check else {}), **more,
    }
    # A JSON string or list of strings is a TOML one.
    return "\n".join(["[[claim]]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items())]) + "\n"


def make_clone(root: Path, *claims: str) -> Path:
    """Write ``paper_checks`` with the toy checks and these claims."""
    folder = root / "paper_checks"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("")
    (folder / "toy.py").write_text(CHECKS)
    (folder / "claims.toml").write_text("\n".join(claims))
    return root


@contextmanager
def no_checks_loaded():
    """Forget the modules of every clone, here and afterwards: the toys share the package's name with the real checks."""

    def mine(name: str) -> bool:
        return name == "paper_checks" or name.startswith("paper_checks.")

    def forget() -> dict:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if mine(name)}

    path, saved = list(sys.path), forget()
    importlib.invalidate_caches()
    try:
        yield
    finally:
        forget()
        sys.modules.update(saved)
        sys.path[:] = path

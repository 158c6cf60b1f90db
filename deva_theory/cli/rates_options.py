"""Options of ``deva-theory rates``; nothing heavy is imported here."""

import argparse
import difflib
from collections.abc import Callable
from pathlib import Path

__all__ = ["EXAMPLES", "FAMILIES", "ORACLES", "RULES", "add_options"]

FAMILIES = {
    "diagonal": "convex quadratics ½ Σ h_i x_i² in 6 variables, log-uniform curvatures",
    "rotated": "the same spectra in random orthogonal bases: coordinates are coupled",
    "e1-heterogeneous": "½ tr(XᵀHX), X 9×9, H with blocks of different spectra (the experiment E1 of the ledger)",
    "e1-homogeneous": "the same with blocks of one spectrum",
    "logistic": "regularised logistic regression on the breast cancer data of scikit-learn, 30 variables",
    "wells": "non-convex sums of cosine wells in 6 variables, coupled along a random direction",
    "factorisation": "non-convex ½‖XYᵀ - A‖_F², X 5×2 and Y 4×2 stacked as a matrix, on a ball",
}
RULES = {
    "signsgd": "the sign of the gradient",
    "adagrad": "AdaGrad: Γ of the sum of squares",
    "deva-linf": "DeVA ℓ∞ without momentum: Γ of the bias-corrected mean square",
    "muon": "the exact polar factor, no momentum",
    "deva-spectral": "DeVA S∞ without momentum",
}
MATRIX_RULES = ("muon", "deva-spectral")
"""Names as in `deva_theory.rates.catalogue` (which imports torch); a test compares them."""
ORACLES = ("none", "gaussian", "spikes", "student", "rows")
STATEMENTS = ("R1", "R2", "R3", "R5")
RULES_DEFAULT, STEPS, GRADIENTS = ("signsgd", "deva-linf"), (4, 8, 16, 32, 64, 128, 256, 512), (16, 64, 256, 1024, 4096)
SEEDS, INSTANCES = 20, 2
MOST_STEPS = 10**9
MOST_SEED = 2**32 - 1

EXAMPLES = (
    "deva-theory rates wells --rule deva-linf,signsgd",
    "deva-theory rates e1-heterogeneous --rule muon,deva-spectral --seeds 5 --steps 4,8,16,32,64 --figure rates.pdf",
    "deva-theory rates rotated --known --gradients 16,64,256",
    "deva-theory rates deva_theory.rates.catalogue:trace --statement R2 --oracle student --sigma 0.5 --json rates.json",
)
"""Commands that run as they stand; a test runs them."""


def add_options(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the arguments of ``rates``; `positive` parses whole numbers from 1."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _epilog()
    # fmt: off
    command.add_argument("problem", metavar="PROBLEM", type=_problem,
                         help="a name of the list below, or PKG.MOD:FACTORY, where FACTORY(instances, seed) returns a Problem: see README")
    what = command.add_argument_group("what runs")
    what.add_argument("--rule", type=_some(tuple(RULES), "rule", own=True), dest="rules", metavar="R,..",
                      help=f"names of the list below, or PKG.MOD:FACTORY, where FACTORY(event_ndim) returns a Rule (default: "
                           f"{','.join(RULES_DEFAULT)})")
    what.add_argument("--statement", type=_some(STATEMENTS, "statement"), dest="statements", metavar="S,..",
                      help="some of R1, R2, R3, R5 (default: all that cover the rule)")
    what.add_argument("--steps", type=_increasing("horizons"), metavar="T,..",
                      help="horizons T, at least five of them for a slope (default: 4,8,16,...,512)")
    what.add_argument("--scale", type=float, metavar="X", help="multiply the statement's step size (default: 1)")
    what.add_argument("--known", action="store_true",
                      help="instead of rules under R1-R5: every method of the table of known rates, at equal numbers of gradients, each at "
                           "the step size of its own statement, from constants known beforehand; for an adaptive Γ that is the worst case "
                           "γ_max, so that these rows rank guarantees and not tuned methods (the steps of R1-R5 are without --known)")
    what.add_argument("--gradients", type=_increasing("numbers of gradients"), metavar="N,..",
                      help="of --known; squares where they are noisy, since T steps with batch T take T² samples (default: "
                           f"{','.join(map(str, GRADIENTS))})")

    how = command.add_argument_group("instances and noise")
    how.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help="starting points and noises (default: %(default)s)")
    how.add_argument("--instances", type=positive, metavar="N", help=f"problems of the family (default: {INSTANCES})")
    how.add_argument("--oracle", choices=ORACLES, metavar="O",
                     help=f"none (exact gradients: R1, R3, --known), or the noise, one of {', '.join(ORACLES[1:])} (default: rows of a "
                          "finite sum, else gaussian; --known: exact gradients too)")
    how.add_argument("--sigma", type=_deviation, metavar="X",
                     help="standard deviation of the noise in each coordinate; rows have their own (default: 1)")
    how.add_argument("--seed", type=_seed, default=0, metavar="N", help="of problems, starts and noise (default: 0)")

    out = command.add_argument_group("results")
    out.add_argument("--json", type=_file, metavar="F", help="write everything to this file: curves of every seed, step sizes, all bounds")
    out.add_argument("--csv", type=_file, metavar="F",
                     help="write the tables in full precision: a row per statement, rule and T (--known: per method and N)")
    out.add_argument("--figure", type=_file, metavar="F", help="draw both sides over T: .pdf, .png or .svg")
    out.add_argument("--quiet", action="store_true", help="show no progress")
    # fmt: on


def _epilog() -> str:
    width = max(map(len, (*FAMILIES, *RULES)))
    matrices = {name: f"{text}; matrices only" if name in MATRIX_RULES else text for name, text in RULES.items()}
    lines = [
        "problems (every constant in the bounds is known, none is estimated):",
        *(f"  {name:{width}}  {text}" for name, text in FAMILIES.items()),
        "", "rules (matrices: e1-heterogeneous, e1-homogeneous, factorisation):",
        *(f"  {name:{width}}  {text}" for name, text in matrices.items()),
        "", "statements, proved in deva_theory.rates; every horizon T is a run of its own, with the statement's step size:",
        "  R1  exact gradients             R2  a mini-batch of T samples in every step",
        "  R5  momentum and one sample     R3  matrices, exact gradients or mini-batches of T",
        "  R4 (from the weighted left side to ‖∇f‖_1) is in `deva-theory figures rates`,",
        "  R6 (how tight the bounds are) in `deva-theory claims R6`; both need the clone.",
        "", "columns:",
        "  observed  the statement's left side, averaged over steps, seeds and instances.  That of an adaptive rule carries its own Γ:",
        "            compare rules in the column behind it, ‖∇f‖_1 (R3: ‖∇f‖_*)",
        "  bound     the right side, where L_Γ and Γ are measured along the run (R5: by constants)",
        "  a priori  the right side from constants known before the run; empty where there is none",
        "  ratio     bound/observed, with a 95% interval over seeds: at least 1 if the statement holds, 1 if it is attained",
        "", "exit codes:",
        "  0    no bound exceeded",
        "  1    a bound is exceeded beyond doubt, by a single run or by an average over seeds (an average: by more than five standard",
        "       errors, Student's t): a constant of your own problem is wrong, or a statement is",
        "  2    bad input; a run proves a constant, a gradient or another assumption wrong",
        "  130  interrupted",
        "", "examples:", *(f"  {example}" for example in EXAMPLES),
    ]  # fmt: skip
    return "\n".join(lines)


def _file(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: name a file")
    return Path(text)


def _problem(text: str) -> str:
    if ":" in text or text in FAMILIES:
        return text
    raise argparse.ArgumentTypeError(_unknown("problem", text, tuple(FAMILIES), own=True))


def _unknown(what: str, name: str, known: tuple[str, ...], *, own: bool) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    others = f"{', '.join(known)}{', or PKG.MOD:FACTORY' if own else ''}"
    return f"unknown {what} {name!r}" + (f"; did you mean {near[0]}? Known: {others}" if near else f", use one of {others}")


def _some(known: tuple[str, ...], what: str, *, own: bool = False) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        unknown = [name for name in names if name not in known and not (own and ":" in name)]
        if unknown:
            raise argparse.ArgumentTypeError(_unknown(what, unknown[0], known, own=own))
        return names

    return parse


def _increasing(what: str) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        try:
            numbers = tuple(int(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1 or max(numbers) > MOST_STEPS or list(numbers) != sorted(set(numbers)):
            raise argparse.ArgumentTypeError(f"{text!r}: {what} are increasing whole numbers from 1 to 10^9 such as 4,16,64,256,1024")
        return numbers

    return parse


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 20 or int(text) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {MOST_SEED}")
    return int(text)


def _deviation(text: str) -> float:
    try:
        sigma = float(text)
    except ValueError:
        sigma = -1.0
    if not 0 <= sigma < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no standard deviation: use a finite number from 0")
    return sigma

"""Options of ``deva-theory probe``; nothing heavy is imported here."""

import argparse
from collections.abc import Callable
from pathlib import Path

__all__ = ["ZOO", "add_options"]

ZOO = ("mlp", "cnn", "vit", "gpt", "gpt-tied", "lstm", "logistic")
"""Names of the zoo, as in `deva_theory.problems.zoo` (which imports torch); a test compares the two."""
NORMS = ("l2", "linf", "spectral", "l11")
RULES = {"deva-linf": "gamma-linf", "deva-spectral": "gamma-spectral"}
"""Rules that give Γ, and the norm of the set in which each moves."""
TASKS = ("causal-lm", "masked-lm", "seq2seq-lm", "sequence-classification", "token-classification")


def add_options(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the arguments of ``probe``; `positive` parses whole numbers from 1."""
    command.epilog = (
        "Under torchrun the batches are shared out among the processes; rank 0 prints and writes. "
        "An interval that is wider than the tolerance is marked and holds all the same."
    )
    command.add_argument(
        "model", nargs="?", metavar="MODEL",
        help=f"one of {', '.join(ZOO)}; PKG.MOD:FACTORY, which returns a model, (model, loss) or (model, loss, batches); "
        "or hf:NAME_OR_FOLDER (transformers)",
    )
    what = command.add_argument_group("what is probed")
    what.add_argument(
        "--norm", type=_norms, default=("l2",), metavar="N,..",
        help=f"some of {', '.join(NORMS)}, gamma (weighted by --rule's Γ) and gamma-l2, ... (default: l2)",
    )
    what.add_argument("--blocks", default="tensor", metavar="B", help="tensor, layer, head, model, or a REGEX (default: tensor)")
    what.add_argument("--select", metavar="REGEX", help="only blocks whose name or parameters match")
    what.add_argument("--curvature", choices=("hessian", "gauss-newton"), default="hessian", help="(default: %(default)s)")
    what.add_argument("--rule", choices=tuple(RULES), default="deva-linf", help="whose Γ weights the gamma norms (default: %(default)s)")
    what.add_argument("--warmup", type=positive, default=50, metavar="N", help="gradients that make Γ (default: %(default)s)")

    data = command.add_argument_group("model and data")
    data.add_argument("--data", metavar="PKG.MOD:BATCHES", help="an iterable of batches, or a function that returns one")
    data.add_argument("--loss", metavar="PKG.MOD:NAME", help="loss(model, batch), or a criterion such as torch.nn:CrossEntropyLoss")
    data.add_argument("--size", choices=("tiny", "small"), default="small", help="of the zoo's models (default: %(default)s)")
    data.add_argument("--train", type=_count, default=0, metavar="STEPS", help="train a zoo model first (default: 0)")
    data.add_argument("--batch-size", type=positive, metavar="N", help="of the zoo's data (default: the problem's own) and of tokens (4)")
    data.add_argument("--max-batches", type=positive, metavar="N", help="read at most so many batches (default: all; zoo and tokens: 4)")
    data.add_argument("--task", choices=TASKS, help="of an hf: model (default: what its configuration says, else causal-lm)")
    data.add_argument("--random-weights", action="store_true", help="hf: build the model from its configuration alone")
    data.add_argument("--text", type=Path, metavar="F", help="hf: read tokens from this file (default: random tokens)")
    data.add_argument("--context", type=positive, metavar="N", help="hf: tokens per example (default: 64, or what the model takes)")

    how = command.add_argument_group("how")
    how.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, ... (default: cpu)")
    how.add_argument("--dtype", choices=("float32", "float64"), help="(default: float64 for the zoo, otherwise the model's)")
    how.add_argument("--tolerance", type=_tolerance, metavar="T", help="relative width, for all norms or as l2=1e-3,linf=0.3")
    how.add_argument("--failure", type=float, default=1e-3, metavar="P", help="probability that one interval is wrong (default: 0.001)")
    how.add_argument(
        "--stop", choices=("certificate", "value"), default="certificate", help="when l2 stops: at a certified width, or a settled value"
    )
    how.add_argument("--max-products", type=positive, default=300, metavar="N", help="Lanczos steps, columns of l11 (default: %(default)s)")
    how.add_argument(
        "--effort", choices=("low", "normal", "high"), default="normal", help="budget of linf and spectral (default: %(default)s)"
    )
    how.add_argument("--sampling", action="store_true", help="also how far the lower ends vary from batch to batch")
    how.add_argument("--seed", type=_count, default=0, metavar="N", help="of weights, data and probe vectors (default: 0)")
    how.add_argument("--no-check", action="store_true", help="skip the checks that products are symmetric, linear and repeatable")
    how.add_argument("--dry-run", action="store_true", help="print what the probe would cost and stop")

    out = command.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="F", help="write everything to this file")
    out.add_argument("--csv", type=Path, metavar="F", help="write a row per block and norm")
    out.add_argument("--figure", type=Path, metavar="F", help="draw the intervals over depth: .pdf, .png or .svg")
    out.add_argument("--resume", type=Path, metavar="F", help="journal of finished blocks: written as they finish, read when it exists")
    out.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="compare two files written by --json; no MODEL then")
    out.add_argument("--quiet", action="store_true", help="show no progress")


def _norms(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    known = (*NORMS, "gamma", *(f"gamma-{norm}" for norm in NORMS))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown norm {unknown[0]!r}, use some of {', '.join(known)}")
    return names


def _tolerance(text: str) -> float | dict[str, float]:
    try:
        if "=" not in text:
            return float(text)
        pairs = dict(part.split("=") for part in text.split(","))
        values = {norm.strip(): float(value) for norm, value in pairs.items()}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no tolerance such as 0.01 or l2=1e-3,linf=0.3") from None
    for norm in values:
        _norms(norm)
    return values


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return number

"""What ``deva-theory probe`` is given as MODEL: a problem of the zoo, a user's factory, or a transformers model."""

import argparse
import difflib
import traceback
from collections.abc import Mapping

import torch
from torch import nn

from deva_theory.cli.errors import BadInput
from deva_theory.cli.probe_options import ZOO
from deva_theory.cli.probe_subject import Subject
from deva_theory.cli.user_code import called, imported
from deva_theory.problems import zoo

__all__ = ["DTYPES", "subject", "users_own"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def subject(options: argparse.Namespace, device: torch.device) -> Subject:
    """Return the model, loss and data that the options name.

    Raises
    ------
    BadInput
        MODEL, ``--loss`` or ``--data`` cannot be had, or an option does not go with this kind of model.
    """
    kind = "hf" if options.model.startswith("hf:") else "factory" if ":" in options.model else "zoo"
    _refuse(options, kind)
    if kind == "zoo":
        found = _zoo(options, device)
    elif kind == "hf":
        from deva_theory.cli.probe_hf import transformers_subject

        found = transformers_subject(options)
    else:
        found = _factory(options)
    if options.loss is not None:
        loss = imported(options.loss, "--loss")
        found.loss = loss() if isinstance(loss, type) and issubclass(loss, nn.Module) else loss
    if options.data is not None:
        data = imported(options.data, "--data")
        found.batches = called(data, options.data) if callable(data) and not isinstance(data, Mapping) else data
    if found.batches is None:
        raise BadInput(f"{options.model} brings no data: name an iterable of batches, or a function that returns one, with --data")
    found.model.to(device=device, dtype=DTYPES.get(options.dtype))
    return found


def _refuse(options: argparse.Namespace, kind: str) -> None:
    """Options that would silently do nothing are errors."""
    needs = {
        "zoo": {"--train": options.train},
        "hf": {
            "--task": options.task, "--random-weights": options.random_weights, "--text": options.text, "--context": options.context,
        },
    }
    names = {"zoo": "a model of the zoo", "hf": "an hf: model"}
    for owner, given in needs.items():
        wrong = [name for name, value in given.items() if value]
        if owner != kind and wrong:
            raise BadInput(f"{wrong[0]} goes with {names[owner]}, not with {options.model}")
    if options.batch_size and (kind == "factory" or options.data):
        raise BadInput("--batch-size goes with the zoo's data and with token batches; yours come in batches already")
    if kind == "hf" and options.text and options.data:
        raise BadInput("--text and --data both give the data: drop one")


def _zoo(options: argparse.Namespace, device: torch.device) -> Subject:
    if options.model not in ZOO:
        near = difflib.get_close_matches(options.model, ZOO, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the zoo has {', '.join(ZOO)}"
        raise BadInput(f"unknown model {options.model!r}: {hint} Others are PKG.MOD:FACTORY and hf:NAME_OR_FOLDER")
    # On the CPU float64 costs little, and rounding is no question then.
    options.dtype = options.dtype or "float64"
    try:
        problem = zoo.load(
            options.model, size=options.size, seed=options.seed, dtype=DTYPES[options.dtype], device=device,
            batches=options.max_batches or 4, batch_size=options.batch_size,
        )
    except (ValueError, ImportError, FileNotFoundError) as error:
        raise BadInput(str(error)) from error
    return Subject(problem.model, problem.criterion, list(problem.batches), problem=problem)


def _factory(options: argparse.Namespace) -> Subject:
    found = imported(options.model, "MODEL")
    # The same weights in every run and every process.
    torch.manual_seed(options.seed)
    made = found if isinstance(found, nn.Module) else called(found, options.model) if callable(found) else found
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], nn.Module):
        got = f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
        raise BadInput(f"{options.model} gives {got}; return a torch.nn.Module, (model, loss) or (model, loss, batches)")
    model, loss, batches = (*parts, None, None)[:3]
    return Subject(model, loss, batches)


def users_own(error: Exception) -> bool:
    """Return whether an error came out of the user's model, loss or data, called by the probe, and not out of the probe itself."""
    files = [f.filename.replace("\\", "/") for f in traceback.extract_tb(error.__traceback__)]
    return any("/deva_theory/smoothness/curvature/" in name for name in files) and "/deva_theory/" not in files[-1]

"""What ``deva-theory probe`` is given as MODEL: a problem of the zoo, a user's factory, or a transformers model."""

import argparse
import difflib
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from deva_theory.cli.errors import BadInput
from deva_theory.cli.probe_options import ZOO
from deva_theory.cli.probe_subject import Subject
from deva_theory.problems import zoo

__all__ = ["DTYPES", "imported", "place", "subject", "users_own"]

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
        found.batches = _called(data, options.data) if callable(data) and not isinstance(data, Mapping) else data
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
    made = found if isinstance(found, nn.Module) else _called(found, options.model) if callable(found) else found
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], nn.Module):
        got = f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
        raise BadInput(f"{options.model} gives {got}; return a torch.nn.Module, (model, loss) or (model, loss, batches)")
    model, loss, batches = (*parts, None, None)[:3]
    return Subject(model, loss, batches)


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
    except Exception as error:
        raise BadInput(f"{module} cannot be imported: {place(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], n=1)
            raise BadInput(f"{module} has no {part!r}" + (f"; did you mean {near[0]}?" if near else ""))
        found = getattr(found, part)
    return found


def _called(function: Callable[[], Any], name: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise BadInput(f"{name} failed: {place(error)}") from error


def place(error: Exception) -> str:
    """Return the error in one line, with the file and line of the innermost frame of the user's own code."""
    places = [(f.filename.replace("\\", "/"), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    places = [(name, line) for name, line in places if not any(part in name for part in ("site-packages/", "<frozen", "/deva_theory/"))]
    where = f" ({places[-1][0].rpartition('/')[2]}, line {places[-1][1]})" if places else ""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def users_own(error: Exception) -> bool:
    """Return whether an error came out of the user's model, loss or data, called by the probe, and not out of the probe itself."""
    files = [f.filename.replace("\\", "/") for f in traceback.extract_tb(error.__traceback__)]
    return any("/deva_theory/smoothness/curvature/" in name for name in files) and "/deva_theory/" not in files[-1]

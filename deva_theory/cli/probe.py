"""``deva-theory probe``: certified smoothness of a model's blocks, of the zoo, the user's or transformers'; needs no clone."""

import argparse
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.outputs import check_outputs
from deva_theory.cli.pipeline import set_threads
from deva_theory.cli.probe_gamma import prepare, tensors_of_gamma
from deva_theory.cli.probe_models import DTYPES, subject, users_own
from deva_theory.cli.probe_options import RULES
from deva_theory.cli.probe_subject import Subject
from deva_theory.cli.user_code import place
from deva_theory.report.style import figure_style
from deva_theory.runtime import Progress
from deva_theory.smoothness.compare_results import compare
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.planning import plan
from deva_theory.smoothness.probing import probe
from deva_theory.smoothness.result import ProbeResult, draw_intervals

__all__ = ["run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.probe_options` for its options.

    Raises
    ------
    BadInput
        Model, loss, data, an option or a file cannot be used; under torchrun on rank 0 only, the others end with its code.
    """
    _check_outputs(options)
    try:
        if options.compare is not None:
            return _compare(options)
        if options.model is None:
            raise BadInput("probe needs a MODEL (a name of the zoo, PKG.MOD:FACTORY or hf:NAME), or --compare A.json B.json")
        device = _device(options.device)
        set_threads(options.threads)
        if options.dry_run and "RANK" in os.environ and int(os.environ["RANK"]) > 0:
            return Exit.OK  # one process estimates
        with _processes(device, alone=options.dry_run) as (rank, device):
            try:
                return _probe(options, device, rank)
            except (BadInput, ProbeError):
                if rank:
                    return Exit.BAD_INPUT
                raise
    except ProbeError as error:
        raise BadInput(str(error)) from error
    except (BadInput, OSError):
        raise
    except Exception as error:
        if not users_own(error):
            raise
        raise BadInput(f"the model, the loss or the data of {options.model} failed: {place(error)}") from error


def _probe(options: argparse.Namespace, device: torch.device, rank: int) -> Exit:
    found = subject(options, device)
    rule = options.rule if any(norm.startswith("gamma") for norm in options.norm) else None
    gamma = prepare(found, options, rule)
    _agree([*found.model.parameters(), *found.model.buffers(), *tensors_of_gamma(gamma)])
    settings: dict[str, Any] = {
        "norm": tuple(RULES[options.rule] if norm == "gamma" else norm for norm in options.norm),
        "blocks": options.blocks, "select": options.select, "curvature": options.curvature.replace("-", "_"), "gamma": gamma,
        "tolerance": _tolerance(options), "failure": options.failure, "stop": options.stop, "max_products": options.max_products,
        "effort": options.effort, "max_batches": options.max_batches, "sampling": options.sampling, "check": not options.no_check,
        "device": device, "dtype": DTYPES.get(options.dtype), "resume": options.resume, "seed": options.seed,
    }
    if options.dry_run:
        settings["resume"] = None
        print("\n".join([*_head(options, found), plan(found.model, found.loss, found.batches, **settings).summary()]))
        return Exit.OK
    silent = options.quiet or rank > 0
    result = probe(found.model, found.loss, found.batches, progress=Progress("silent" if silent else "auto"), **settings)
    if rank:
        return Exit.OK
    print("\n".join([*_head(options, found), result.summary()]))
    _write(options, {"": result}, result)
    return Exit.OK


def _head(options: argparse.Namespace, found: Subject) -> list[str]:
    name = f"{options.model} ({options.size})" if found.problem is not None else options.model
    return [f"{name}: {'; '.join(found.remarks)}", ""] if found.remarks else [name, ""]


def _compare(options: argparse.Namespace) -> Exit:
    if options.model is not None:
        raise BadInput("--compare reads two files and probes nothing: drop MODEL")
    if options.json is not None or options.resume is not None:
        raise BadInput("--compare writes --csv and --figure only")
    first, second = options.compare
    results = {"a": ProbeResult.from_json(first), "b": ProbeResult.from_json(second)}
    compared = compare(results["a"], results["b"])
    print(f"a: {first}\nb: {second}\n\n{compared.summary()}")
    _write(options, results, compared)
    return Exit.OK


def _tolerance(options: argparse.Namespace) -> float | dict[str, float] | None:
    given = options.tolerance
    if not isinstance(given, Mapping):
        return given
    return {RULES[options.rule] if norm == "gamma" else norm: value for norm, value in given.items()}


def _check_outputs(options: argparse.Namespace) -> None:
    """What would fail after the long run fails before it."""
    check_outputs(options, ("json", "csv", "figure", "resume"))
    if options.dry_run and (options.json or options.csv or options.figure):
        raise BadInput("--dry-run computes no result that could be written: drop --json, --csv and --figure")


def _write(options: argparse.Namespace, results: dict[str, ProbeResult], table: Any) -> None:
    if options.json is not None:
        results[""].to_json(options.json)
    if options.csv is not None:
        table.to_csv(options.csv)
    if options.figure is not None:
        _draw(options.figure, results)
    for path in (options.json, options.csv, options.figure):
        if path is not None:
            print(path)


def _draw(path: Path, results: dict[str, ProbeResult]) -> None:
    """Draw the intervals over the blocks, as wide as their number and as high as their names need."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # without dates inside, unchanged pictures are equal files
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(block.name for result in results.values() for block in result))
    series = len(results) * len({norm for result in results.values() for norm in result.norms})
    longest = max(map(len, names), default=1)
    # Inches: a column per block wide enough for its markers; the names stand upright below at 7 points.
    width = min(24.0, max(3.6, 1.0 + max(0.17, 0.08 * series) * len(names)))
    height = 2.6 + min(3.5, 0.062 * longest) + 0.2 * -(-series // 4)
    style: Any = figure_style(width=width, height=height)
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots()
        try:
            with warnings.catch_warnings():
                # Blocks without any curvature have no place on a logarithmic axis, and then no legend.
                warnings.filterwarnings("ignore", message="No artists with labels|.*no positive values.*|.*non-positive.*")
                draw_intervals(axes, results)
            axes.margins(x=0.6 / max(len(names), 1))
            axes.grid(visible=False, axis="x", which="both")
            handles, labels = axes.get_legend_handles_labels()
            if handles:
                # Above the axes, where no interval lies.
                columns = max(1, min(len(handles), int(width / 1.4)))
                axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
            figure.savefig(path)
        finally:
            pyplot.close(figure)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"unknown device {name!r}: use cpu, cuda, cuda:1, ...") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput("no CUDA device is available: use --device cpu, or install a torch build for your GPU")
    return device


@contextmanager
def _processes(device: torch.device, *, alone: bool) -> Iterator[tuple[int, torch.device]]:
    """Join the processes that torchrun started, if any; yield the rank and this process's device."""
    if alone or not {"RANK", "WORLD_SIZE"} <= set(os.environ) or torch.distributed.is_initialized():
        yield 0, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        rank = torch.distributed.get_rank()
        if rank:
            warnings.simplefilter("ignore")  # rank 0 says it
        yield rank, device
    finally:
        torch.distributed.destroy_process_group()


def _agree(tensors: list[torch.Tensor]) -> None:
    """Give every process rank 0's parameters and Γ: training in each of them may round differently."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            torch.distributed.broadcast(whole, src=0)
            tensor.detach().copy_(whole)


"""Probe the smoothness of a model: certified intervals for every block, in the geometry of every optimizer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deva_theory.geometry import LInf
from deva_theory.runtime import Progress, provenance
from deva_theory.smoothness.curvature.blocks import Block
from deva_theory.smoothness.curvature.checks import check_operator
from deva_theory.smoothness.curvature.objective import Batch, Loss, ProbeError, as_batches, moved
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.estimate import Estimate
from deva_theory.smoothness.estimators.programs import NotFinite, run_together
from deva_theory.smoothness.journal import Entry, Journal, fingerprint
from deva_theory.smoothness.request import Request, keeps_witnesses
from deva_theory.smoothness.result import BlockResult, ProbeResult
from deva_theory.smoothness.sampling import sampling_intervals
from deva_theory.smoothness.weighting import Weights


def probe(
    model: nn.Module,
    loss: Loss | nn.Module | None,
    batches: Any,
    *,
    norm: str | Sequence[str] = "l2",
    blocks: str | Mapping[str, str] | Sequence[Block] = "tensor",
    select: str | None = None,
    curvature: str = "hessian",
    gamma: Mapping[str, Weights] | None = None,
    tolerance: float | Mapping[str, float] | None = None,
    failure: float = 1e-3,
    stop: str = "certificate",
    max_products: int = 300,
    effort: str = "normal",
    weights: Callable[[Batch], float] | Sequence[float] | None = None,
    max_batches: int | None = None,
    sampling: bool | Any = False,
    eval_mode: bool = True,
    check: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    memory: int | None = None,
    vector_batch: int | None = None,
    keep_graph: bool | None = None,
    resume: Path | str | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    group: Any = None,
) -> ProbeResult:
    """Enclose the smoothness of each block of a model.

    Parameters
    ----------
    model, loss, batches
        See :class:`~deva_theory.smoothness.curvature.products.CurvatureOperator`: the loss is ``loss(model, batch)``, a criterion, or
        None for a model that returns its own; the data are one batch or an iterable of batches.  The model is left as it is.
    norm : str or sequence of str
        "l2" (max|λ|), "linf" (‖H‖_{∞→1}: SignSGD, Adam), "spectral" (‖H‖_{S∞→S1}: Muon), "l11" (Σ|H_ij|).  "gamma-" in front:
        weighted by `gamma`.  Every interval also has a `quadratic` part, sup uᵀHu, except for l11.
    blocks, select
        See :func:`~deva_theory.smoothness.curvature.blocks.make_blocks`.
    curvature : {"hessian", "gauss_newton"}
    gamma : mapping, optional
        Γ of each parameter: a tensor of its shape, or the diagnostics of a rule's update (Γ may live in a rotated basis).
    tolerance : float or mapping, optional
        Requested relative width of the intervals; by default 1e-3 for l2, .25 for linf and spectral, .1 for l11.
    failure : float
        Probability that one interval is wrong.  Over all B blocks and norms the union bound gives B times it.
    stop : {"certificate", "value"}
        l2 only, see :func:`~deva_theory.smoothness.estimators.krylov.extreme_eigenvalues`.
    max_products : int
        Lanczos steps at most, and columns of l11.
    effort : {"low", "normal", "high"}
        Budget of linf and spectral; "low" needs about a third of the products, and its intervals are wider.
    sampling : bool or batches
        True: also the sampling interval of each lower end over the batches given; batches: over these held-out ones.
    device, dtype : optional
        Where and in which precision to work; a copy of the model is made if that differs from the model's own.
    resume : path, optional
        Journal of finished blocks: written as they finish, read when it exists.
    progress : Progress, optional
        Default silent.
    seed : int
        Of all random vectors.
    weights, max_batches, eval_mode, memory, vector_batch, keep_graph, group
        See :class:`~deva_theory.smoothness.curvature.products.CurvatureOperator`.

    Returns
    -------
    ProbeResult

    Raises
    ------
    ProbeError
        One line: what is wrong with the model, the loss, the data or an option.  Finished blocks stay in the journal.

    Notes
    -----
    SPEC S1-S6, ESTIMATORS.  Under ``torchrun`` every rank gets the same result.

    Examples
    --------
    >>> import torch
    >>> from deva_theory import probe
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> result = probe(model, torch.nn.MSELoss(), (x, torch.zeros(2, 1, dtype=torch.float64)), norm=("l2", "linf"))
    >>> [round(result["weight"].estimates[n].bilinear.lower, 6) for n in ("l2", "linf")]  # H = diag(4, 1)
    [4.0, 5.0]
    """
    began = time.perf_counter()
    data = as_batches(batches, limit=max_batches)
    model, data = placed(model, data, device, dtype)
    options: dict[str, Any] = {
        "curvature": curvature, "eval_mode": eval_mode, "keep_graph": keep_graph, "vector_batch": vector_batch, "memory": memory,
        "group": group,
    }
    operator = CurvatureOperator(model, loss, data, blocks=blocks, select=select, weights=weights, **options)
    request = Request.checked(
        operator, norm=norm, tolerance=tolerance, failure=failure, stop=stop, max_products=max_products, effort=effort, seed=seed,
        gamma=gamma,
    )
    settings = request.settings() | {
        "blocks": blocks if isinstance(blocks, str) else [block.name for block in operator.blocks], "select": select,
        "curvature": curvature, "batches": len(data), "weights": "sizes" if weights is None else "given", "eval_mode": eval_mode,
        "dtype": str(operator.dtype).removeprefix("torch."), "device": operator.device.type,
    }
    checks = check_operator(operator, seed=seed).to_dict() if check else {}
    gradient = operator.gradient()
    journal = Journal(resume, fingerprint(settings, operator, gamma)) if resume is not None else None
    holdout = None
    if not isinstance(sampling, bool):
        held_out = [moved(b, operator.device, dtype) for b in as_batches(sampling)]
        holdout = CurvatureOperator(model, loss, held_out, blocks=list(operator.blocks), **options)

    results: list[BlockResult] = []
    progress = progress or Progress("silent")
    with progress, progress.task("probe", total=len(operator.blocks)) as task:
        for blocks_in_step in request.in_step(operator.keeps_graph):
            found = _estimates(request, blocks_in_step, journal)
            for block in blocks_in_step:
                entries = {name: found[block.name, name] for name in request.norms}
                if sampling is not False:
                    _add_sampling(holdout or operator, block, entries, journal, held_out=holdout is not None)
                estimates = {name: entry[0] for name, entry in entries.items()}
                if not keeps_witnesses(block):
                    estimates = {name: _without_witnesses(estimate) for name, estimate in estimates.items()}
                results.append(
                    BlockResult(
                        block.name, block.size, block.depth, tuple(piece.shape for piece in block.pieces),
                        _gradient_norms(block, operator.block_gradient(block, gradient)), estimates,
                        {name: interval for name, (_, interval) in entries.items() if interval is not None},
                    )
                )
                task.advance()
    seconds = time.perf_counter() - began
    cost = {"gradients": operator.gradients, "products": operator.products, "seconds": seconds}
    return ProbeResult(tuple(results), operator.loss_value, settings, checks, cost, provenance(seconds=seconds))


def placed(
    model: nn.Module, data: list[Batch], device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[nn.Module, list[Batch]]:
    """Return a model and data where and as they are asked for; the caller's model is copied, never moved."""
    if (device is None and dtype is None) or not isinstance(model, nn.Module):
        return model, data
    place = None if device is None else torch.device(device)
    if place is not None and place.type == "cuda" and not torch.cuda.is_available():
        raise ProbeError("no CUDA device is available; use device='cpu', or install a torch build for your GPU")
    first = next((p for p in model.parameters() if p.dtype.is_floating_point), None)
    if first is not None and (place not in (None, first.device) or dtype not in (None, first.dtype)):
        model = copy.deepcopy(model).to(device=place, dtype=dtype)
    target = place or (first.device if first is not None else torch.device("cpu"))
    return model, [moved(batch, target, dtype) for batch in data]


def _estimates(request: Request, blocks: Sequence[Block], journal: Journal | None) -> dict[tuple[str, str], Entry]:
    """Return the estimates of some blocks in all norms, from the journal or computed in step and written to it."""
    known = journal.read() if journal else {}
    named = {block.name: block for block in blocks}
    wanted = [(block.name, norm) for block in blocks for norm in request.norms]

    def sweep(requests: dict[tuple[str, str], Tensor]) -> dict[tuple[str, str], Tensor]:
        return request.operator.sweep({key: (named[key[0]], V) for key, V in requests.items()})

    def finished(key: tuple[str, str], estimate: Estimate) -> None:
        if journal:
            journal.write(*key, estimate, None)

    programs = {(block, norm): request.program(norm, named[block]) for block, norm in wanted if (block, norm) not in known}
    try:
        fresh = run_together(programs, sweep, finished=finished)
    except NotFinite as error:
        raise ProbeError(str(error)) from error
    return {key: known[key] if key in known else (fresh[key], None) for key in wanted}


def _add_sampling(
    operator: CurvatureOperator, block: Block, entries: dict[str, Entry], journal: Journal | None, *, held_out: bool
) -> None:
    """Fill in the sampling intervals that are missing; those of journal entries need their witness and stay as they are."""
    bounds = {name: estimate.bilinear for name, (estimate, interval) in entries.items() if interval is None}
    for name, interval in sampling_intervals(operator, block, bounds, held_out=held_out).items():
        entries[name] = (entries[name][0], interval)
        if journal:
            journal.write(block.name, name, *entries[name])


def _without_witnesses(estimate: Estimate) -> Estimate:
    quadratic = estimate.quadratic and replace(estimate.quadratic, witness=None)
    return replace(estimate, bilinear=replace(estimate.bilinear, witness=None), quadratic=quadratic)


def _gradient_norms(block: Block, flat: Tensor) -> dict[str, float]:
    values = {"l2": torch.linalg.vector_norm(flat).item(), "linf": LInf().dual_norm(flat).item()}
    nuclear = 0.0
    for piece, part in zip(block.pieces, flat.split([piece.size for piece in block.pieces]), strict=True):
        nuclear += piece.ball.dual_norm(part.unsqueeze(0)).item()
    return values | {"spectral": nuclear}

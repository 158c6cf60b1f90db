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
from deva_theory.smoothness.curvature.objective import Batch, Loss, ProbeError, as_batches, batch_weights, moved, tensors_of
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.estimate import Estimate
from deva_theory.smoothness.estimators.programs import NotFinite, run_together
from deva_theory.smoothness.journal import Entry, Journal, hashed, identity
from deva_theory.smoothness.request import Request, keeps_witnesses
from deva_theory.smoothness.result import BlockResult, ProbeResult
from deva_theory.smoothness.sampling import sampling_intervals
from deva_theory.smoothness.weighting import Weights, weight_tensors


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
    dtype: torch.dtype | str | None = None,
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
        Γ by parameter name: a tensor of its shape, or the diagnostics of a rule's update (Γ may live in a rotated basis).
        Parameters that are missing have Γ ≡ 1.
    tolerance : float or mapping, optional
        Requested relative width of the intervals, for all norms or by norm; by default 1e-3 for l2, .25 for linf and spectral,
        .1 for l11.
    failure : float
        Probability that one interval is wrong.  Over all B blocks and norms the union bound gives B times it.  An l11 interval that
        is not exact has 95% whatever is asked for, asymptotically; its `failure` says so.
    stop : {"certificate", "value"}
        l2 only, see :func:`~deva_theory.smoothness.estimators.krylov.extreme_eigenvalues`: with "value" the interval may be wider
        than the tolerance.
    max_products : int
        Lanczos steps at most, and columns of l11.
    effort : {"low", "normal", "high"}
        Budget of linf and spectral; "low" needs about a third of the products, and its intervals are wider.
    sampling : bool or batches
        True: also the sampling interval of each lower end over the batches given; batches: over these held-out ones.
    device, dtype : optional
        Where and in which precision ("float64", say) to work; a copy of the model is made if that differs from the model's own.
    resume : path, optional
        Journal of finished blocks: written as they finish, read when it exists.  It serves one loss at one set of parameters and
        data; blocks, norms and settings may differ from run to run, and what fits is used.
    progress : Progress, optional
        Default silent.
    seed : int
        Of all random vectors.
    weights, max_batches, eval_mode, memory, vector_batch, keep_graph, group
        See :class:`~deva_theory.smoothness.curvature.products.CurvatureOperator`; `weights` that are a function also weigh
        held-out batches.

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
    model, data, dtype = prepared(model, batches, blocks=blocks, max_batches=max_batches, device=device, dtype=dtype)
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
    sample: CurvatureOperator | None = operator if sampling is True else None
    if not isinstance(sampling, bool):
        held_out = [moved(b, operator.device, dtype) for b in as_batches(sampling)]
        # Given weights belong to the batches of the probe; a function knows these as well.
        own = weights if callable(weights) else None
        sample = CurvatureOperator(model, loss, held_out, blocks=list(operator.blocks), weights=own, **options)
    journal = None
    if resume is not None:
        about = identity(
            operator, gradient, batch_weights(data, weights), {key: settings[key] for key in ("curvature", "eval_mode", "dtype", "device")}
        )
        batches_of_sample = None if sample is None else "own" if sample is operator else _hash_of_batches(sample, weights)
        journal = Journal(resume, about, _keys(request), batches_of_sample, group=operator.group, device=operator.device)
    sizes = {block.name: block.size for block in operator.blocks}
    known = {key: entry for key, entry in (journal.read() if journal else {}).items() if entry[0].size == sizes[key[0]]}

    results: list[BlockResult] = []
    progress = progress or Progress("silent")
    with progress, progress.task("probe", total=len(operator.blocks)) as task:
        for blocks_in_step in request.in_step(operator.keeps_graph):
            found = _estimates(request, blocks_in_step, known, journal)
            for block in blocks_in_step:
                entries = {name: found[block.name, name] for name in request.norms}
                if sample is not None:
                    fresh = [name for name in request.norms if (block.name, name) not in known]
                    _add_sampling(sample, block, entries, fresh, journal, held_out=sample is not operator)
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


def prepared(
    model: nn.Module, batches: Any, *, blocks: Any, max_batches: int | None, device: torch.device | str | None,
    dtype: torch.dtype | str | None,
) -> tuple[nn.Module, list[Batch], torch.dtype | None]:
    """Return a model and data where and as they are asked for, and the dtype; the caller's model is copied, never moved.

    Raises
    ------
    ProbeError
        No data, or a dtype, a device, a number of batches or blocks that are none.
    """
    if not isinstance(blocks, str | Mapping | Sequence):
        raise ProbeError(f"blocks is {blocks!r}; use a name such as 'tensor', an expression, a mapping, or a sequence of Block")
    check_limit(max_batches)
    data = as_batches(batches, limit=max_batches)
    kind, place = _dtype(dtype), _place(device)
    if (place is None and kind is None) or not isinstance(model, nn.Module):
        return model, data, kind
    first = next((p for p in model.parameters() if p.dtype.is_floating_point), None)
    if first is not None and (place not in (None, first.device) or kind not in (None, first.dtype)):
        model = copy.deepcopy(model).to(device=place, dtype=kind)
    target = place or (first.device if first is not None else torch.device("cpu"))
    return model, [moved(batch, target, kind) for batch in data], kind


def check_limit(max_batches: Any) -> None:
    """Check a number of batches; None: no limit.

    Raises
    ------
    ProbeError
        It is none.
    """
    if max_batches is not None and (not isinstance(max_batches, int) or isinstance(max_batches, bool) or max_batches < 1):
        raise ProbeError(f"max_batches is {max_batches!r}; it must be an integer, at least 1")


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is not None or dtype is not None:
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ProbeError(f"dtype is {dtype!r}; use float64, float32, bfloat16 or float16")
        return found
    return None


def _place(device: torch.device | str | None) -> torch.device | None:
    if device is None:
        return None
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise ProbeError(f"device is {device!r}; use 'cpu' or 'cuda'") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ProbeError("no CUDA device is available; use device='cpu', or install a torch build for your GPU")
    return place


def _keys(request: Request) -> dict[tuple[str, str], str]:
    """Return the hashes of what each estimate depends on beyond the function and the point."""
    keys = {}
    for block in request.operator.blocks:
        for norm in request.norms:
            gamma = request.gamma if norm.startswith("gamma-") else None
            tensors = () if gamma is None else weight_tensors(block, gamma)
            keys[block.name, norm] = hashed(request.settings_of(norm) | {"pieces": repr(block.pieces)}, tensors)
    return keys


def _hash_of_batches(operator: CurvatureOperator, weights: Any) -> str:
    values = batch_weights(operator.all_batches, weights if callable(weights) else None)
    return hashed({"weights": values}, tensors_of(operator.all_batches))


def _estimates(
    request: Request, blocks: Sequence[Block], known: Mapping[tuple[str, str], Entry], journal: Journal | None
) -> dict[tuple[str, str], Entry]:
    """Return the estimates of some blocks in all norms, from the journal or computed in step and written to it."""
    named = {block.name: block for block in blocks}
    wanted = [(block.name, norm) for block in blocks for norm in request.norms]

    def sweep(requests: dict[tuple[str, str], Tensor]) -> dict[tuple[str, str], Tensor]:
        return request.operator.sweep({key: (named[key[0]], V) for key, V in requests.items()})

    def finished(key: tuple[str, str], estimate: Estimate) -> None:
        if journal:
            journal.write(*key, estimate)

    programs = {(block, norm): request.program(norm, named[block]) for block, norm in wanted if (block, norm) not in known}
    try:
        fresh = run_together(programs, sweep, finished=finished)
    except NotFinite as error:
        raise ProbeError(str(error)) from error
    return {key: known[key] if key in known else (fresh[key], None) for key in wanted}


def _add_sampling(
    operator: CurvatureOperator, block: Block, entries: dict[str, Entry], fresh: Sequence[str], journal: Journal | None, *, held_out: bool
) -> None:
    """Fill in the sampling intervals of estimates that were just computed and still have their witness."""
    intervals = sampling_intervals(operator, block, {name: entries[name][0].bilinear for name in fresh}, held_out=held_out)
    for name in fresh:
        entries[name] = (entries[name][0], intervals.get(name))
        if journal:
            journal.write(block.name, name, *entries[name], sampled=True)


def _without_witnesses(estimate: Estimate) -> Estimate:
    quadratic = estimate.quadratic and replace(estimate.quadratic, witness=None)
    return replace(estimate, bilinear=replace(estimate.bilinear, witness=None), quadratic=quadratic)


def _gradient_norms(block: Block, flat: Tensor) -> dict[str, float]:
    values = {"l2": torch.linalg.vector_norm(flat).item(), "linf": LInf().dual_norm(flat).item()}
    nuclear = 0.0
    for piece, part in zip(block.pieces, flat.split([piece.size for piece in block.pieces]), strict=True):
        nuclear += piece.ball.dual_norm(part.unsqueeze(0)).item()
    return values | {"spectral": nuclear}

"""Estimators are programs: generators that yield vectors and are sent their products with H.

An estimator says which products it wants and not how they are made.  The same program therefore runs against a
dense matrix, against one block of a model, and, through :func:`run_together`, in step with the programs of all
other blocks, so that one sweep over the data serves every block and every norm at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

Program = Generator[Tensor, Tensor, T]
"""Yields vectors V of shape (k, d), is sent H V of shape (k, d), returns its result."""


class NotFinite(ValueError):
    """A product with H has a NaN or infinite entry."""


def run(program: Program[T], apply: Callable[[Tensor], Tensor]) -> T:
    """Run one program against ``apply``: (k, d) → (k, d), the products of each row with H.

    Raises
    ------
    NotFinite
        A product is NaN or infinite.
    """

    def sweep(requests: dict[int, Tensor]) -> dict[int, Tensor]:
        return {key: apply(V) for key, V in requests.items()}

    return run_together({0: program}, sweep)[0]


def run_together(
    programs: Mapping[K, Program[T]],
    sweep: Callable[[dict[K, Tensor]], Mapping[K, Tensor]],
    *,
    finished: Callable[[K, T], None] | None = None,
) -> dict[K, T]:
    """Run programs in step: each round asks `sweep` for the products that all unfinished programs wait for.

    Parameters
    ----------
    programs : mapping
        Programs by key.
    sweep : callable
        Takes ``{key: V}`` and returns ``{key: H_key V}``.
    finished : callable, optional
        Called with key and result as soon as a program returns, so that a finished block can be kept.

    Returns
    -------
    dict
        Results by key.

    Raises
    ------
    NotFinite
        Naming the key.
    """
    results: dict[K, T] = {}
    requests: dict[K, Tensor] = {}

    def step(key: K, answer: Tensor | None) -> None:
        program = programs[key]
        try:
            requests[key] = next(program) if answer is None else program.send(answer)
        except StopIteration as stop:
            results[key] = stop.value
            if finished is not None:
                finished(key, stop.value)

    for key in programs:
        step(key, None)
    while requests:
        pending, requests = requests, {}
        answers = sweep(pending)
        for key, V in pending.items():
            answer = answers[key]
            if answer.shape != V.shape:
                raise ValueError(f"{key}: the product of vectors of shape {tuple(V.shape)} has shape {tuple(answer.shape)}")
            if not bool(torch.isfinite(answer).all()):
                raise NotFinite(f"{key}: a Hessian-vector product has NaN or infinite entries; look at the loss at these parameters")
            step(key, answer)
    return {key: results[key] for key in programs}


def congruence(program: Program[T], transform: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]) -> Program[T]:
    """Return the program run against ``TᵀHT`` instead of H.

    With ``T = diag(γ)`` an estimator over the unit box becomes one over the box of half-widths γ (SPEC S2); with
    ``T: O ↦ Q_L(Γ⊙O)Q_Rᵀ`` the spectral ball becomes the set in which the S∞ rule moves.

    Parameters
    ----------
    transform, adjoint : callable
        T and Tᵀ on rows: (k, d) → (k, d').
    """
    try:
        V = next(program)
        while True:
            answer = yield transform(V)
            V = program.send(adjoint(answer))
    except StopIteration as stop:
        result: T = stop.value
    return result

"""What a probe is asked for: checked once, then the program of each block and what it may spend.

The probe runs the programs and the plan counts them, so both read the same budgets here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from deva_theory.smoothness.curvature.blocks import Block
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.balls import MAX_SIDE
from deva_theory.smoothness.estimators.entrywise import entrywise_norm
from deva_theory.smoothness.estimators.estimate import NOISE, NORMS, Estimate
from deva_theory.smoothness.estimators.krylov import STOPS, euclidean_products, euclidean_smoothness
from deva_theory.smoothness.estimators.operator_norms import EFFORTS, Effort, operator_norm, operator_norm_products
from deva_theory.smoothness.estimators.programs import Program
from deva_theory.smoothness.weighting import Adaptation, Weights, checked_weights, weighted_program

TOLERANCES = {"l2": 1e-3, "linf": 0.25, "spectral": 0.25, "l11": 0.1}
"""Default relative widths."""
COLUMNS = 100
"""Products of an l11 estimate, if `max_products` allows."""
CONFIDENCE = 0.95
"""Of an l11 interval, whatever `failure` is: it is a central-limit interval from some dozens of columns, whose tails beyond
a percent are not those of the limit."""
_FEWEST_COLUMNS = 7
_COLUMN_BATCH = 8
_SINGLE = 4_000_000
_FEWEST_STEPS = 20


@dataclass(frozen=True)
class Request:
    """Norms, tolerances and budgets of a probe of one operator.

    Attributes
    ----------
    operator : CurvatureOperator
    norms : tuple of str
    tolerances : dict
        By norm.
    failure, stop, max_products, effort, seed, gamma
        See :func:`deva_theory.smoothness.probing.probe`.
    """

    operator: CurvatureOperator
    norms: tuple[str, ...]
    tolerances: dict[str, float]
    failure: float
    stop: str
    max_products: int
    effort: str
    seed: int
    gamma: Mapping[str, Weights] | None

    @classmethod
    def checked(
        cls, operator: CurvatureOperator, *, norm: str | Sequence[str], tolerance: float | Mapping[str, float] | None, failure: float,
        stop: str, max_products: int, effort: str, seed: int, gamma: Mapping[str, Weights] | None,
    ) -> Request:
        """Return the request, or say what is wrong with it.

        Raises
        ------
        ProbeError
            An unknown norm, effort or stopping rule; a number out of its range; a Γ-weighted norm without Γ, or a Γ that does not fit;
            a matrix that is too large for the spectral norm.
        """
        norms = _norms(norm, gamma)
        if not _is_number(failure) or not 1e-100 < failure < 1:
            raise ProbeError(f"failure is {failure!r}; it is a probability between 0 and 1")
        for name, value in (("max_products", max_products), ("seed", seed)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise ProbeError(f"{name} is {value!r}; it must be an integer")
        if max_products < 1:
            raise ProbeError(f"max_products is {max_products}; it must be at least 1")
        if stop not in STOPS:
            raise ProbeError(f"stop is {stop!r}; use one of {', '.join(STOPS)}")
        if effort not in EFFORTS:
            raise ProbeError(f"effort is {effort!r}; use one of {', '.join(EFFORTS)}")
        tolerances = _tolerances(norms, tolerance)
        if gamma is not None:
            gamma = checked_weights(gamma, operator.model)
        # What a program would find out when its block's turn comes.
        for block in operator.blocks:
            if any(name.endswith("spectral") for name in norms):
                _check_sides(block)
            if gamma is not None and any(name.startswith("gamma-") for name in norms):
                Adaptation(block, gamma)
        return cls(operator, norms, tolerances, failure, stop, max_products, effort, seed, gamma)

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as JSON values."""
        return {
            "norms": list(self.norms), "tolerance": self.tolerances, "failure": self.failure, "stop": self.stop,
            "max_products": self.max_products, "effort": self.effort, "seed": self.seed,
        }

    def settings_of(self, norm: str) -> dict[str, Any]:
        """Return those that an estimate in one norm depends on."""
        plain = norm.removeprefix("gamma-")
        own: dict[str, Any] = {"norm": norm, "tolerance": self.tolerances[norm], "seed": self.seed}
        if plain != "l11":
            own["failure"] = self.failure
        if plain in ("l2", "l11"):
            own["max_products"] = self.max_products
        return own | ({"stop": self.stop} if plain == "l2" else {} if plain == "l11" else {"effort": self.effort})

    def program(self, norm: str, block: Block) -> Program[Estimate]:
        """Return the program that estimates one norm of one block."""
        operator = self.operator
        noise = NOISE.get(operator.precision, 1e-2)
        common: dict[str, Any] = {"dtype": _dtype(block), "device": operator.device, "seed": self.seed, "tolerance": self.tolerances[norm]}
        plain = norm.removeprefix("gamma-")
        program: Program[Estimate]
        if plain == "l2":
            program = euclidean_smoothness(
                block.size, failure=self.failure, stop=self.stop, max_products=self._steps(block), noise=noise, **common
            )
        elif plain == "l11":
            program = _entrywise(block.size, self._columns, {**common, "noise": noise})
        else:
            program = operator_norm(
                block.ball(plain), norm=plain, failure=self.failure, effort=self._effort(block), noise=noise, **common
            )
        if plain != norm:
            assert self.gamma is not None
            program = weighted_program(program, block, self.gamma, name=norm)
        return program

    def products(self, norm: str, block: Block) -> tuple[int, int]:
        """Return (typical, at most) numbers of products; :attr:`Estimate.products` never exceeds the second."""
        plain = norm.removeprefix("gamma-")
        if plain == "l2":
            return euclidean_products(block.size, self._steps(block))
        if plain == "l11":
            most = min(block.size, self._columns)
            return most, most
        return operator_norm_products(block.size, self._effort(block))

    def rows_per_pass(self, norm: str, block: Block) -> int:
        """Return how many vectors a program asks for at once, for the most part."""
        plain = norm.removeprefix("gamma-")
        if plain == "l2":
            return 1
        if plain == "l11":
            return min(_COLUMN_BATCH, block.size)
        effort = self._effort(block)
        return block.size if block.size <= effort.dense else effort.columns

    def vector_bytes(self, norm: str, block: Block) -> int:
        """Return the bytes of the vectors that a program holds at its peak, about."""
        plain = norm.removeprefix("gamma-")
        typical, _ = self.products(norm, block)
        effort = self._effort(block)
        if plain == "l2":
            held = float(typical)
        elif plain == "l11":
            held = 0.25 * typical  # the pilot's vectors and products
        elif block.size <= effort.dense:
            held = 3.0 * block.size
        else:
            held = max(5.0 * effort.columns, 40.0)
        return int((held + 2 * self.rows_per_pass(norm, block)) * block.size * _dtype(block).itemsize)

    def in_step(self, keeps_graph: bool) -> list[list[Block]]:
        """Return the blocks in groups that are probed in step.

        With kept graphs, a block at a time costs the same and loses least when interrupted; without them a sweep should
        serve as many blocks as the memory of their Krylov bases allows.
        """
        blocks = self.operator.blocks
        if keeps_graph:
            return [[block] for block in blocks]
        groups: list[list[Block]] = [[]]
        load = 0
        for block in blocks:
            if groups[-1] and load + block.size > self.operator.memory // (8 * 200):
                groups.append([])
                load = 0
            groups[-1].append(block)
            load += block.size
        return groups

    @property
    def _columns(self) -> int:
        return max(_FEWEST_COLUMNS, min(self.max_products, COLUMNS))

    def _room(self, block: Block, share: int) -> int:
        """Vectors of a block that fit in a share of the memory."""
        return self.operator.memory // (share * block.size * _dtype(block).itemsize)

    def _steps(self, block: Block) -> int:
        return min(self.max_products, max(_FEWEST_STEPS, self._room(block, 4)))

    def _effort(self, block: Block) -> Effort:
        effort = EFFORTS[self.effort]
        # Lifted vectors, their products and three temporaries.
        columns = max(2, min(effort.columns, self._room(block, 40)))
        steps = min(effort.certificate_products, max(_FEWEST_STEPS, self._room(block, 4)))
        return replace(effort, columns=columns, restarts=min(effort.restarts, columns), certificate_products=steps)


def keeps_witnesses(block: Block) -> bool:
    """Whether a result keeps the block's witnesses: those of larger blocks would hold gigabytes."""
    return block.size <= _SINGLE


def _dtype(block: Block) -> torch.dtype:
    return torch.float64 if block.size <= _SINGLE else torch.float32


def _entrywise(size: int, vectors: int, common: dict[str, Any]) -> Program[Estimate]:
    result = yield from entrywise_norm(size, vectors=vectors, batch=_COLUMN_BATCH, confidence=CONFIDENCE, **common)
    return result.estimate


_KNOWN = (*NORMS, *(f"gamma-{name}" for name in NORMS))


def _norms(norm: Any, gamma: Any) -> tuple[str, ...]:
    if not isinstance(norm, str | Sequence):
        raise ProbeError(f"norm is {norm!r}; use some of {', '.join(_KNOWN)}")
    norms = (norm,) if isinstance(norm, str) else tuple(norm)
    unknown = [name for name in norms if name not in _KNOWN]
    if unknown or not norms:
        raise ProbeError(f"norm {unknown[0] if unknown else '(none)'!r} is unknown; use some of {', '.join(_KNOWN)}")
    if gamma is None and any(name.startswith("gamma-") for name in norms):
        raise ProbeError("a gamma- norm needs gamma=, the variance adaptation of each parameter")
    return tuple(dict.fromkeys(norms))


def _tolerances(norms: Sequence[str], tolerance: float | Mapping[str, float] | None) -> dict[str, float]:
    given = dict(tolerance) if isinstance(tolerance, Mapping) else {} if tolerance is None else dict.fromkeys(norms, tolerance)
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise ProbeError(f"tolerance has the norm {unknown[0]!r}, which is unknown; use some of {', '.join(_KNOWN)}")
    values = {name: given.get(name, TOLERANCES[name.removeprefix("gamma-")]) for name in norms}
    for name, value in values.items():
        if not _is_number(value) or not 0 < value < float("inf"):
            raise ProbeError(f"the tolerance of {name} is {value!r}; it must be positive and finite")
    return {name: float(value) for name, value in values.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_sides(block: Block) -> None:
    for piece in block.pieces:
        sides = (piece.shape[0], piece.size // max(piece.shape[0], 1)) if piece.shape else (1, 1)
        if min(sides) > MAX_SIDE:
            raise ProbeError(
                f"block {block.name!r} holds a {sides[0]}×{sides[1]} matrix; for the spectral norm one side must be at most {MAX_SIDE}: "
                "leave the block out with select=, or divide it"
            )

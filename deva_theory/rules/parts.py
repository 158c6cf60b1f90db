r"""The parts every update rule is composed of.

One step of every rule of this package reads

    direction = step scale · restore( Γ ⊙ s(momentum of the projected gradient) )

with a *scale-invariant map* s (sign or polar factor: it forgets all magnitudes) and a *variance adaptation* Γ.
The thesis of DeVA (SPEC sections 1 to 3) is that Γ has one form in both geometries,

    Γ = amplitude / root mean square of past amplitudes,

where the amplitude is ``|m_i|`` for coordinates (Adam, ℓ∞) and ``√(r_i c_j)``, from the row and column
norms of the rotated momentum, for matrix spectra (Muon, Schatten-∞).  :class:`Adaptation` is that formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deva_theory.linalg import bias_correction, ema_update, polar_factor, power_of_two, rms_update, unit_scale
from deva_theory.linalg.polar import POLAR_METHODS
from deva_theory.rules.validation import check_beta, check_bool, check_choice, check_nonnegative

State = dict[str, "Tensor | int"]

NUMERATORS = ("momentum", "gradient", "unit")
TRACKED = ("momentum", "gradient", "scale_invariant")
AMPLITUDES = ("entries", "marginals")
FACTORED = ("no", "root_mean_square", "mean")
EPS_MODES = ("outside", "inside", "numerator", "relative")
SHAPE_FACTORS = ("none", "sqrt_max", "sqrt_ratio", "unit_rms", "unit_norm")
BIAS_FACTORS = ("none", "adam")


@dataclass(frozen=True)
class Moment:
    """First moment ``m_t = β m_{t-1} + (1-β) g_t``, started at 0.

    Attributes
    ----------
    beta : float
        0 keeps no state: m = g.
    nesterov : bool
        The scale-invariant map then sees ``(1-β) g_t + β m_t``.
    bias_correction : bool
        Amplitudes are then taken of ``m_t / (1-β^t)``.
    """

    beta: float = 0.0
    nesterov: bool = False
    bias_correction: bool = False

    def __post_init__(self) -> None:
        check_beta("beta1", self.beta)
        check_bool("nesterov", self.nesterov)

    def init(self, params: Tensor) -> State:
        """Return the zero moment, or nothing for β = 0."""
        return {} if self.beta == 0.0 else {"momentum": torch.zeros_like(params)}

    def update(self, g: Tensor, state: State, *, donate: bool) -> Tensor:
        """Advance the moment in `state` and return it."""
        if self.beta == 0.0:
            return g
        m = ema_update(state_tensor(state, "momentum"), g, self.beta, donate=donate)
        state["momentum"] = m
        return m

    def lookahead(self, m: Tensor, g: Tensor) -> Tensor:
        """Return what the scale-invariant map sees."""
        return ema_update(m, g, self.beta) if self.nesterov and self.beta > 0.0 else m

    def correction(self, step: int) -> float:
        """Return the factor that makes the moment unbiased."""
        return 1.0 / bias_correction(self.beta, step) if self.bias_correction else 1.0


@dataclass(frozen=True)
class Identity:
    """No scale-invariant map: gradient descent."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


@dataclass(frozen=True)
class Sign:
    """The scale-invariant map of the ℓ∞ geometry: entrywise sign (SPEC D1, M8)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return sign(x), 0 at 0."""
        return torch.sign(x)


@dataclass(frozen=True)
class Polar:
    """The scale-invariant map of the spectral geometry: the polar factor (SPEC M1, M8).

    Attributes
    ----------
    method : {"svd", "newton_schulz", "polar_express"}
        See :func:`deva_theory.linalg.polar_factor`.
    dtype : torch.dtype, optional
        Arithmetic of the iterative methods; None keeps the state's.
    of_sign : bool
        Take ``msign(sign(X))`` (the *sign* variant, AdaMuon).
    sign_floor : bool
        The sign of entries up to ``√eps`` of the largest is 0. In the eigenbases of the current gradient X is diagonal up to
        rounding, and the literal sign (False: `reference`, AdaMuon) reads the step off the last bits.
    """

    method: str = "svd"
    dtype: torch.dtype | None = None
    of_sign: bool = False
    sign_floor: bool = False

    def __post_init__(self) -> None:
        check_choice("polar", self.method, POLAR_METHODS)
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ValueError(f"polar_dtype is {self.dtype!r}; use a floating-point torch.dtype such as torch.float32")
        if self.method == "svd" and self.dtype is not None:
            raise ValueError("polar_dtype applies to the iterative polar factors; drop it or choose polar='newton_schulz'")

    def __call__(self, x: Tensor) -> Tensor:
        """Return msign(x) or msign(sign(x))."""
        if self.of_sign and self.sign_floor and x.numel():
            # The bases come from squares, GGᵀ: they resolve singular values down to √eps of the largest.
            noise = math.sqrt(torch.finfo(x.dtype).eps) * x.abs().amax(dim=(-2, -1), keepdim=True)
            x = torch.where(x.abs() > noise, x, 0.0)
        x = torch.sign(x) if self.of_sign else x
        if self.method == "svd":
            return polar_factor(x)
        return polar_factor(x, method=self.method, dtype=self.dtype)


@dataclass(frozen=True)
class StepScale:
    """The scalar in front of a direction: a shape factor times a bias factor.

    Attributes
    ----------
    shape : {"none", "sqrt_max", "sqrt_ratio", "unit_rms", "unit_norm"}
        1; √max(m, n); √max(1, m/n); √(mn)/‖D‖_F (the entries then have root mean square 1); 1/‖D‖_F.
    coefficient : float
        Multiplies the shape factor (0.2 in DeVA).
    bias : {"none", "adam"}
        ``adam``: √(1-β2^t)/(1-β1^t), the reference's point 5.
    beta2 : float
        β2 of the bias factor; it stays in force where a rule has no adaptation.
    """

    shape: str = "none"
    coefficient: float = 1.0
    bias: str = "none"
    beta2: float = 0.0

    def __post_init__(self) -> None:
        check_choice("shape factor", self.shape, SHAPE_FACTORS)
        check_choice("bias factor", self.bias, BIAS_FACTORS)
        check_nonnegative("step coefficient", self.coefficient)
        check_beta("beta2", self.beta2)

    def __call__(self, D: Tensor, *, step: int, beta1: float, event_ndim: int) -> Tensor | float:
        """Return the factor for the batch of directions D."""
        factor = self.coefficient
        if self.bias == "adam":
            factor *= math.sqrt(bias_correction(self.beta2, step)) / bias_correction(beta1, step)
        if self.shape == "none":
            return factor
        if self.shape.startswith("unit"):
            dims = tuple(range(-event_ndim, 0))
            size = math.prod(D.shape[d] for d in dims) if self.shape == "unit_rms" else 1
            norm = torch.linalg.vector_norm(D, dim=dims, keepdim=True)
            return factor * math.sqrt(size) / torch.where(norm > 0, norm, 1.0)
        m, n = D.shape[-2:]
        return factor * math.sqrt(max(m, n) if self.shape == "sqrt_max" else max(1.0, m / max(n, 1)))


@dataclass(frozen=True)
class Adaptation:
    r"""Variance adaptation ``Γ = a_t / √(Σ_s w_s a_s²)``: the amplitude now over its root mean square.

    Attributes
    ----------
    beta : float or None
        β2 of the mean square; None sums without decay (AdaGrad).
    numerator : {"momentum", "gradient", "unit"}
        Whose amplitude stands above; ``unit`` puts 1 there (AdaMuon).
    tracked : {"momentum", "gradient", "scale_invariant"}
        Whose amplitude is averaged below.
    amplitude : {"entries", "marginals"}
        ``|x_ij|``, or ``√(r_i c_j)`` with row and column 2-norms r, c.
    factored : {"no", "root_mean_square", "mean"}
        Marginals only, second moment of size m + n: ``V_ij = √(EMA(r_i²) EMA(c_j²))``, or ``EMA(r)_i EMA(c)_j``.
    eps, eps_mode : float, {"outside", "inside", "numerator", "relative"}
        ``a/(√v+ε)``, ``a/√(v+ε)``, ``√((a²+ε)/v)``, ``a/√max(v, ε·max v)``, with the maximum over the event.
    bias_correction : bool
        Divide the mean square by ``1-β2^t``.

    Notes
    -----
    Roots are stored, never squares: ``rms`` has the shape of the parameters, ``rms_rows``/``rms_columns`` the
    factored one.  SPEC D1, D3, D5, section 3; ``0/0 := 0``.
    """

    beta: float | None = 0.999
    numerator: str = "momentum"
    tracked: str = "momentum"
    amplitude: str = "entries"
    factored: str = "no"
    eps: float = 0.0
    eps_mode: str = "outside"
    bias_correction: bool = False

    def __post_init__(self) -> None:
        if self.beta is not None:
            check_beta("beta2", self.beta)
        check_nonnegative("eps", self.eps)
        check_choice("numerator", self.numerator, NUMERATORS)
        check_choice("tracked", self.tracked, TRACKED)
        check_choice("amplitude", self.amplitude, AMPLITUDES)
        check_choice("factored", self.factored, FACTORED)
        check_choice("eps_mode", self.eps_mode, EPS_MODES)
        if self.factored != "no" and self.amplitude != "marginals":
            raise ValueError("a factored second moment needs amplitude='marginals'")
        if self.factored == "mean" and self.bias_correction:
            raise ValueError("factored='mean' has no bias correction here: V is a product of two means; use 'root_mean_square'")

    def init(self, params: Tensor) -> State:
        """Return the zero second moment."""
        if self.factored == "no":
            return {"rms": torch.zeros_like(params)}
        return {"rms_rows": torch.zeros_like(params[..., :1]), "rms_columns": torch.zeros_like(params[..., :1, :])}

    def update(
        self, sources: Mapping[str, Tensor], corrections: Mapping[str, float], state: State, *, step: int,
        event_ndim: int, donate: bool,
    ) -> Tensor:
        """Advance the second moment in `state` and return Γ.

        Parameters
        ----------
        sources : mapping
            "momentum", "gradient" (both projected) and "scale_invariant".
        corrections : mapping
            Factor by which each source's amplitude is multiplied.
        """
        decay, weight = (1.0, 1.0) if self.beta is None else (self.beta, 1.0 - self.beta)
        below = self._factors(sources[self.tracked], corrections[self.tracked])
        if self.factored == "no":
            state["rms"] = rms_update(state_tensor(state, "rms"), _product(below), decay, weight, donate=donate)
            rms = state_tensor(state, "rms")
        else:
            power = 2.0 if self.factored == "root_mean_square" else 1.0
            for key, x in zip(("rms_rows", "rms_columns"), below, strict=True):
                state[key] = rms_update(state_tensor(state, key), x**power, decay, weight, donate=donate)
            root = 1.0 / power
            rms = state_tensor(state, "rms_rows") ** root * state_tensor(state, "rms_columns") ** root
        if self.bias_correction and self.beta is not None:
            rms = rms / math.sqrt(bias_correction(self.beta, step))
        if self.numerator == "unit":
            above = torch.ones_like(rms)
        elif self.numerator == self.tracked:
            above = _product(below)
        else:
            above = _product(self._factors(sources[self.numerator], corrections[self.numerator]))
        return self._ratio(above, rms, event_ndim)

    def _factors(self, x: Tensor, correction: float) -> tuple[Tensor, ...]:
        """Return factors whose product is the amplitude: (|x|,) or (√r, √c)."""
        if self.amplitude == "entries":
            return (x.abs() * correction if correction != 1.0 else x.abs(),)
        root = math.sqrt(correction)
        return tuple(side.sqrt() * root for side in marginals(x))

    def _ratio(self, above: Tensor, rms: Tensor, event_ndim: int) -> Tensor:
        if self.eps_mode == "outside":
            below = rms + self.eps
        elif self.eps_mode == "inside":
            below = torch.hypot(rms, rms.new_full((), math.sqrt(self.eps)))
        elif self.eps_mode == "numerator":
            above = torch.hypot(above, above.new_full((), math.sqrt(self.eps)))
            below = rms
        else:
            dims = tuple(range(-min(event_ndim, rms.ndim), 0))
            below = rms
            if dims and rms.numel():
                below = torch.maximum(rms, math.sqrt(self.eps) * rms.amax(dim=dims, keepdim=True))
        # 0/0 := 0, and Γ := 0 where V = 0 also with ε in the numerator.
        return torch.where(below == 0, 0.0, above / below)

    def permute(self, state: State, rows: Tensor, columns: Tensor) -> None:
        """Reorder the second moment with the columns of the bases (the reference at a refresh)."""
        for key, order, dim in (("rms", rows, -2), ("rms", columns, -1), ("rms_rows", rows, -2), ("rms_columns", columns, -1)):
            if key in state:
                index = order.unsqueeze(-1 if dim == -2 else -2)
                state[key] = torch.take_along_dim(state_tensor(state, key), index, dim=dim)

    def carry(self, state: State, left: Tensor, right: Tensor) -> None:
        r"""Carry the second moment into refreshed bases by squared overlaps.

        Parameters
        ----------
        left, right : Tensor, shapes ``(..., m, m)`` and ``(..., n, n)``
            Overlaps ``Q_newᵀ Q_old``.

        Notes
        -----
        ``V_ij ← Σ_kl left_ik² right_jl² V_kl``: exact for mean squares of coordinates that are uncorrelated in the
        old basis. Along gradient streams it is no better than :meth:`permute`, see ``benchmarks/carry.py``.
        """
        A, B = left.square(), right.square()
        for key, rows, columns in (("rms", A, B), ("rms_rows", A, None), ("rms_columns", None, B)):
            if key in state:
                state[key] = _mix_squares(state_tensor(state, key), rows, columns)


def marginals(X: Tensor) -> tuple[Tensor, Tensor]:
    """Return row norms ``(..., m, 1)`` and column norms ``(..., 1, n)``, safe against over- and underflow."""
    scaled, exponent = unit_scale(X, 2)
    rows = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    columns = torch.linalg.vector_norm(scaled, dim=-2, keepdim=True)
    back = power_of_two(exponent, X.dtype)
    return rows * back, columns * back


def _mix_squares(rms: Tensor, A: Tensor | None, B: Tensor | None) -> Tensor:
    scaled, exponent = unit_scale(rms, 2)
    x = scaled.square()
    x = x if A is None else A @ x
    x = x if B is None else x @ B.mT
    return x.clamp_min(0).sqrt() * power_of_two(exponent, rms.dtype)


def _product(factors: tuple[Tensor, ...]) -> Tensor:
    return factors[0] if len(factors) == 1 else factors[0] * factors[1]


def state_tensor(state: State, key: str) -> Tensor:
    """Return a tensor of a state."""
    value = state[key]
    assert isinstance(value, Tensor)
    return value

"""DeVA as a ``torch.optim.Optimizer``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from deva_theory.optim.shell import RuleOptimizer
from deva_theory.rules import Rule, deva_linf, deva_spectral
from deva_theory.rules.validation import check_bool, check_choice, check_positive_int

GEOMETRIES = ("auto", "linf", "spectral")


class DeVA(RuleOptimizer):
    """Decoupled Variance Adaptation for training: the rules of :mod:`deva_theory.rules`, batched over parameters.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters or parameter groups; every option below may differ between groups and may be
        changed between steps (by a scheduler, say): the next step uses it.
    lr : float
        Learning rate. Entries of a spectral step have root mean square about 0.2, those of an ℓ∞ step about 1: give
        vectors a group with a smaller `lr` where that matters.
    geometry : {"auto", "linf", "spectral"}
        ``auto``: the S∞ rule for 2-D parameters whose sides lie in [2, `max_basis_dim`], the ℓ∞ rule for
        vectors, scalars, convolutions and everything else.
    preset, variant : str
        See :func:`deva_theory.rules.deva_spectral`.
    betas : (float, float), optional
        β1, β2; default (.9, .999) for ℓ∞ and (.95, .95) for S∞.
    beta3, refresh_every
        Average of the bases (default β2) and their period; S∞ only.
    eps : float, optional
        Overrides the preset's ε.
    weight_decay : float
        Decoupled weight decay.
    polar, polar_dtype : str, torch.dtype, optional
        Polar factor of the S∞ rule. Default: 8 Polar Express steps in the dtype of the state; the
        ``reference`` preset's own. Give "svd" for the exact one.
    nesterov : bool, optional
        Default: the preset's.
    max_basis_dim : int
        Largest side for which ``auto`` keeps an eigenbasis (its memory is the side squared).
    check_finite : bool
        Refuse NaN and infinite gradients before anything changes.

    Raises
    ------
    ValueError, TypeError
        Naming the option or the parameter, see :class:`RuleOptimizer`.

    Examples
    --------
    >>> model = torch.nn.Linear(8, 4)
    >>> optimizer = DeVA(model.parameters(), lr=3e-3)
    >>> model(torch.ones(2, 8)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        geometry: str = "auto",
        preset: str = "corrected",
        variant: str = "full",
        betas: tuple[float, float] | None = None,
        beta3: float | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        refresh_every: int = 10,
        polar: str | None = None,
        polar_dtype: torch.dtype | None = None,
        nesterov: bool | None = None,
        max_basis_dim: int = 8192,
        check_finite: bool = True,
    ) -> None:
        check_bool("check_finite", check_finite)
        options: dict[str, Any] = {
            "geometry": geometry, "preset": preset, "variant": variant, "beta3": beta3, "eps": eps,
            "refresh_every": refresh_every, "polar": polar, "polar_dtype": polar_dtype, "nesterov": nesterov,
            "max_basis_dim": max_basis_dim,
        }
        if betas is not None:
            # Absent otherwise: schedulers that cycle betas then say so instead of unpacking None.
            options["betas"] = betas
        super().__init__(params, None, lr, weight_decay=weight_decay, check_finite=check_finite, **options)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_choice("geometry", group["geometry"], GEOMETRIES)
        check_positive_int("max_basis_dim", group["max_basis_dim"])
        # Both rules, so that a bad option is named even when no parameter needs it.
        for spectral in (False, True):
            self._rule(group, spectral)
        super()._check_group(group)

    def rule_for(self, p: Tensor, group: dict[str, Any]) -> Rule:
        """Return the ℓ∞ or S∞ rule for a parameter."""
        check_choice("geometry", group["geometry"], GEOMETRIES)
        if group["geometry"] == "auto":
            spectral = p.ndim == 2 and 2 <= min(p.shape) and max(p.shape) <= group["max_basis_dim"]
        else:
            spectral = group["geometry"] == "spectral"
        return self._rule(group, spectral)

    @staticmethod
    def _rule(group: dict[str, Any], spectral: bool) -> Rule:
        betas = group.get("betas")
        common = (group["preset"], group["variant"], tuple(betas) if isinstance(betas, list) else betas, group["eps"], group["nesterov"])
        if not spectral:
            return _linf(*common)
        return _spectral(*common, group["beta3"], group["refresh_every"], group["polar"], group["polar_dtype"])


@lru_cache(maxsize=256, typed=True)  # True is not 1: it must reach the checks
def _linf(preset: str, variant: str, betas: Any, eps: float | None, nesterov: bool | None) -> Rule:
    options = {} if betas is None else {"betas": betas}
    return deva_linf(preset=preset, variant=variant, eps=eps, nesterov=nesterov, **options)


@lru_cache(maxsize=256, typed=True)  # True is not 1: it must reach the checks
def _spectral(
    preset: str, variant: str, betas: Any, eps: float | None, nesterov: bool | None, beta3: float | None,
    refresh_every: int, polar: str | None, polar_dtype: torch.dtype | None,
) -> Rule:
    options = {} if betas is None else {"betas": betas}
    if polar is None and preset != "reference":
        polar = "polar_express"
    return deva_spectral(
        preset=preset, variant=variant, eps=eps, nesterov=nesterov, beta3=beta3, refresh_every=refresh_every,
        polar=polar, polar_dtype=polar_dtype, **options,
    )

"""``torch.optim.Optimizer`` shells over the update rules.

A shell stacks parameters of one shape into a batch, calls the rule and scatters the result. Nothing changes before
every direction of the step has been computed: an error leaves parameters, gradients and state as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deva_theory.rules import FullMatrixAdaGrad, Rule, Shampoo, State, apply_direction
from deva_theory.rules.validation import check_nonnegative

AnyRule = Rule | Shampoo | FullMatrixAdaGrad


class _Bucket(NamedTuple):
    """Parameters that take one batched update together."""

    rule: AnyRule
    group: dict[str, Any]
    event: tuple[int, ...]
    params: list[Tensor]


class RuleOptimizer(torch.optim.Optimizer):
    """Any update rule as an optimizer with learning rate and decoupled weight decay.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters or parameter groups.
    rule : Rule or None
        Applied to every parameter: matrix rules to 2-D parameters, vector rules to flattened ones.
        None in subclasses that choose a rule for each parameter (:meth:`rule_for`).
    lr : float
        Learning rate, ≥ 0.
    weight_decay : float
        λ in ``x ← (1-ηλ)x - ηd`` (or after the update, as the rule says).
    check_finite : bool
        Refuse gradients with NaN or infinite entries (one host synchronisation a step).

    Raises
    ------
    ValueError, TypeError
        Hyper-parameters out of range, parameters a rule cannot take; in :meth:`step`: unusable gradients, named,
        before anything has changed.

    Notes
    -----
    The state of half-precision parameters is float32. `step` may be given a closure; it runs with gradients enabled.
    """

    def __init__(
        self, params: Iterable[Any], rule: AnyRule | None, lr: float = 1e-3, *,
        weight_decay: float = 0.0, check_finite: bool = True, **defaults: Any,
    ) -> None:
        if rule is not None and not isinstance(rule, (Rule, Shampoo, FullMatrixAdaGrad)):
            raise TypeError(f"rule is {rule!r}; pass a rule such as deva_theory.rules.adam()")
        if rule is None and type(self).rule_for is RuleOptimizer.rule_for:
            raise TypeError("rule is None; pass a rule such as deva_theory.rules.adam()")
        self._rule_of_all = rule
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "check_finite": check_finite, **defaults})
        self._stacked: dict[tuple[int, ...], tuple[AnyRule, State, list[State]]] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its hyper-parameters and its parameters."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        _check_rates(group, tensors=True)
        for index, p in enumerate(group["params"]):
            name = self._name(group, index)
            if not p.dtype.is_floating_point:
                raise TypeError(f"parameter {name} has dtype {p.dtype}; leave it out: only real floating-point parameters can be trained")
            rule = self.rule_for(p, group)
            if rule.event_ndim == 2 and p.ndim != 2:
                raise ValueError(
                    f"parameter {name} has shape {tuple(p.shape)}; {rule.name} acts on 2-D parameters. "
                    "Put it in a group with a vector rule (geometry='linf'), or reshape it"
                )

    def rule_for(self, p: Tensor, group: dict[str, Any]) -> AnyRule:
        """Return the rule that updates parameter p of a group."""
        assert self._rule_of_all is not None
        return self._rule_of_all

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        buckets = self._buckets()
        results = []
        for bucket in buckets:
            state = self._state_of(bucket)
            grads = torch.stack([_gradient(p).reshape(bucket.event) for p in bucket.params])
            skipped = bucket.rule.only_builds(state)
            direction, new, _ = bucket.rule.update(grads, state, check_finite=False)
            results.append((bucket, direction, new, skipped))
        checked = [(bucket, direction) for bucket, direction, _, _ in results if bucket.group["check_finite"]]
        if not _all_finite([direction for _, direction in checked]):
            bucket = next(b for b, d in checked if not _all_finite([d]))
            raise ValueError(
                f"{bucket.rule.name}: the step of the parameters of shape {bucket.event} is not finite though their gradients are: they "
                "overflow; nothing was changed. Skip this step, or lower the loss scale"
            )
        for bucket, direction, new, skipped in results:
            self._commit(bucket, direction, new, skipped)
        return loss

    def _buckets(self) -> list[_Bucket]:
        """Group the parameters that have gradients; reject unusable ones while nothing has changed."""
        buckets: dict[tuple, _Bucket] = {}
        finite: list[tuple[str, Tensor]] = []
        for number, group in enumerate(self.param_groups):
            _check_rates(group)
            for index, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise TypeError(f"the gradient of parameter {self._name(group, index)} is sparse; use sparse=False in its layer")
                if group["check_finite"]:
                    finite.append((self._name(group, index), p.grad))
                rule = self.rule_for(p, group)
                event = tuple(p.shape) if rule.event_ndim == 2 else (p.numel(),)
                state = self.state.get(p, {})
                key = (number, rule, event, p.dtype, p.device, state.get("step"), state.get("built"))
                buckets.setdefault(key, _Bucket(rule, group, event, [])).params.append(p)
        self._reject_nonfinite(finite)
        return list(buckets.values())

    @staticmethod
    def _reject_nonfinite(named: list[tuple[str, Tensor]]) -> None:
        if _all_finite([grad for _, grad in named]):
            return
        bad = [name for name, grad in named if not _all_finite([grad])]
        raise ValueError(
            f"the gradient of {len(bad)} parameter(s) has NaN or infinite entries, first {bad[0]}; nothing was changed. "
            "Skip this step, lower the learning rate or the loss scale, or pass check_finite=False"
        )

    def _state_of(self, bucket: _Bucket) -> State:
        key = tuple(id(p) for p in bucket.params)
        if key in self._stacked:
            rule, stacked, views = self._stacked[key]
            # The batch counts only while `state` still holds the views that were issued for it.
            if rule == bucket.rule and all(p in self.state for p in bucket.params) and all(
                self.state[p].keys() == view.keys() and all(self.state[p][k] is v for k, v in view.items())
                for p, view in zip(bucket.params, views, strict=True)
            ):
                return stacked
        states = [self.state.get(p, {}) for p in bucket.params]
        fresh = bucket.rule.init(torch.stack([p.detach().reshape(bucket.event) for p in bucket.params]))
        if not states[0]:
            return fresh
        first = states[0]
        if first.keys() != fresh.keys():
            other = sorted(first.keys() ^ fresh.keys())
            raise ValueError(
                f"{bucket.rule.name}: the state of these parameters was made with options that store something else ({', '.join(other)}); "
                "variant, geometry and whether beta1 is 0 cannot change between steps. Change them back, or make a new optimizer"
            )
        return {k: torch.stack([s[k] for s in states]) if isinstance(v, Tensor) else v for k, v in first.items()}

    def _commit(self, bucket: _Bucket, direction: Tensor, state: State, skipped: bool) -> None:
        key = tuple(id(p) for p in bucket.params)
        taken = set(key)
        for other in [k for k in self._stacked if k != key and not taken.isdisjoint(k)]:
            del self._stacked[other]
        views = [
            {k: v[index] if isinstance(v, Tensor) else v for k, v in state.items()} for index in range(len(bucket.params))
        ]
        self._stacked[key] = (bucket.rule, state, views)
        group = bucket.group
        for index, p in enumerate(bucket.params):
            # Views into the batch: state_dict sees per-parameter tensors, nothing is stored twice.
            self.state[p] = dict(views[index])
            if not skipped:
                p.copy_(apply_direction(
                    p, direction[index].view(p.shape), lr=group["lr"], weight_decay=group["weight_decay"],
                    decay=bucket.rule.decay,
                ))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; unlike the base class, tensors keep their dtype (float32 state of bfloat16 parameters)."""
        super().load_state_dict(state_dict)
        self._stacked = {}
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for number, p in zip(saved["params"], group["params"], strict=True):
                for key, value in state_dict["state"].get(number, {}).items():
                    if isinstance(value, Tensor):
                        self.state[p][key] = value.to(p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle or a deep copy keeps."""
        return super().__getstate__() | {"_rule_of_all": self._rule_of_all}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle; batches are rebuilt at the next step."""
        super().__setstate__(state)
        self._stacked = {}

    @staticmethod
    def _name(group: dict[str, Any], index: int) -> str:
        names = group.get("param_names")
        return repr(names[index]) if names else f"number {index} of its group, shape {tuple(group['params'][index].shape)}"


def _all_finite(tensors: list[Tensor]) -> bool:
    # One flag per device, so one synchronisation instead of one per tensor.
    flags: dict[torch.device, Tensor] = {}
    for x in tensors:
        flag = torch.isfinite(x).all()
        flags[x.device] = flag if x.device not in flags else flags[x.device] & flag
    return all(bool(flag) for flag in flags.values())


def _check_rates(group: dict[str, Any], *, tensors: bool = False) -> None:
    for key in ("lr", "weight_decay"):
        value = group[key]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{key} has shape {tuple(value.shape)}; Tensor {key} must be 1-element")
        # A tensor may live on a GPU: it is read when the group is added, not at every step.
        if tensors or not isinstance(value, Tensor):
            check_nonnegative(key, float(value) if isinstance(value, Tensor) else value)


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad

"""The search for worst instances: it finds what is known to be attained, its result replays, and it is reproducible."""

import math

import pytest
import torch

from deva_theory import rates
from deva_theory.rates.tightness import worst_case

SMALL = {"starts": 10, "rounds": 12, "seeds": 16, "final_seeds": 64, "steps": (4,)}


@pytest.mark.parametrize("seed", range(3))
def test_R1_is_reached_within_5_percent_whatever_the_seed(seed):
    found = worst_case("R1", **{**SMALL, "steps": (4, 8)}, seed=seed)
    assert 0.95 <= found.ratio <= 1 + 1e-9
    assert found.error == found.noise_share == 0


def test_the_instance_of_R1_written_out_has_the_ratio():
    found = worst_case("R1", **SMALL)
    L, gamma = (torch.tensor(found.instance[f"log {name}"], dtype=torch.float64).exp() for name in ("curvature", "factors"))
    x = torch.tensor(found.instance["start"], dtype=torch.float64)
    gap = (L * x**2).sum() / 2
    eta, left = math.sqrt(2 * gap / (L.sum() * 4)), 0.0
    for _ in range(4):
        left += float((gamma * (L * x).abs()).sum()) / 4
        x = x - eta * gamma * (L * x).sign()
    bound = rates.deterministic(gap, 4, eta, (L * gamma**2).sum()).value
    assert left == pytest.approx(found.left, rel=1e-12)
    assert left / bound.item() == pytest.approx(found.ratio, rel=1e-12)


@pytest.mark.parametrize(("statement", "family", "noise", "share"), [
    ("R2", "quadratic", "gaussian", 0.5), ("R2", "wells", "signs", 0.3), ("R3", "trace", "none", 0.0), ("R3", "trace", "gaussian", 0.5),
    ("R5", "quadratic", "gaussian", 0.5), ("R5", "wells", "signs", 0.0),
])  # fmt: skip
def test_no_instance_is_above_its_bound_and_the_demanded_noise_is_there(statement, family, noise, share):
    found = worst_case(statement, family, noise=noise, noise_share=share, **SMALL)
    assert 0 < found.ratio <= 1 + 1e-9 + 5 * found.error
    assert found.ratio == pytest.approx(found.left / found.bound)
    assert found.noise_share >= share
    assert found.evaluations > 50 and found.summary().startswith(statement)


def test_the_result_depends_on_the_seed_alone():
    first, again, other = (worst_case("R2", noise="gaussian", seed=seed, **SMALL) for seed in (0, 0, 1))
    assert first == again != other


def test_a_bound_with_half_its_smoothness_is_violated():
    assert worst_case("R1", weights={"smoothness": 0.5}, **SMALL).ratio > 1.5


def test_demanded_noise_that_no_instance_has_gives_0():
    assert worst_case("R2", noise="gaussian", noise_share=0.999999, starts=2, rounds=1, seeds=2, final_seeds=2, steps=(1,)).ratio == 0


@pytest.mark.parametrize(("arguments", "message"), [
    ({"statement": "R4"}, "unknown statement"), ({"statement": "R1", "family": "circle"}, "unknown family"),
    ({"statement": "R2", "noise": "pink"}, "unknown noise"), ({"statement": "R1", "noise": "gaussian"}, "R1 assumes exact gradients"),
    ({"statement": "R2"}, "R2 assumes a stochastic gradient"), ({"statement": "R3"}, "does not speak of the family"),
    ({"statement": "R2", "family": "trace", "noise": "gaussian"}, "does not speak of the family"),
    ({"statement": "R2", "noise": "gaussian", "noise_share": 1.0}, "noise_share"), ({"statement": "R1", "noise_share": 0.1}, "noise_share"),
    ({"statement": "R1", "steps": ()}, "at least one T"), ({"statement": "R1", "starts": 0}, "at least one T"),
    ({"statement": "R1", "steps": (0,)}, "T ≥ 1"), ({"statement": "R1", "scales": (-1.0,)}, "η > 0"),
])  # fmt: skip
def test_bad_input_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        worst_case(**arguments)

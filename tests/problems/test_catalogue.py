"""Named families: their parameters have nothing in common with the starting points of the same seed."""

import numpy as np
import pytest
import torch
from scipy import stats

from deva_theory.problems import SPECTRA, block_hessian
from deva_theory.rates import catalogue

SEEDS = 300


def numbers(problem):
    """Parameters of a problem in the order they were drawn, as normal or monotone functions of normal numbers."""
    for name in ("target", "eigenvalues", "curvature"):
        if hasattr(problem, name):
            return getattr(problem, name).flatten()
    raise AssertionError(problem.name)


def test_the_target_of_a_factorisation_is_not_its_starting_point():
    for instances in (1, 2, 5):
        for seed in range(5):
            problem = catalogue.factorisation(instances, seed)
            target, start = numbers(problem), problem.start(torch.Generator().manual_seed(seed)).flatten()
            count = min(len(target), len(start))
            assert abs(np.corrcoef(target[:count], start[:count])[0, 1]) < 0.8


@pytest.mark.parametrize("family", ["diagonal", "rotated", "wells", "factorisation"])
def test_parameters_and_starts_are_uncorrelated(family):
    problems = [catalogue.FAMILIES[family](2, seed) for seed in range(SEEDS)]
    starts = torch.stack([p.start(torch.Generator().manual_seed(seed)).flatten()[:12] for seed, p in enumerate(problems)])
    parameters = torch.stack([numbers(p)[:12] for p in problems])
    for points in (starts, starts.abs()):
        rank = stats.spearmanr(parameters, points).statistic[:12, 12:]
        assert np.abs(rank).max() < 5 / SEEDS**0.5


def test_seeds_give_streams_of_their_own():
    def drawn(generator):
        return tuple(torch.randn(4, generator=generator, dtype=torch.float64).tolist())

    seeds = (0, 1, 2, -1, 2**63)
    own = [drawn(catalogue.parameter_generator(seed)) for seed in seeds]
    assert own == [drawn(catalogue.parameter_generator(seed)) for seed in seeds]
    assert len({*own, *(drawn(torch.Generator().manual_seed(seed)) for seed in (0, 1, 2))}) == len(seeds) + 3


def test_the_published_hessians_are_those_of_their_seed():
    for name, spectrum in SPECTRA.items():
        rng = np.random.default_rng(3)
        H = np.stack([block_hessian(spectrum, rng) for _ in range(2)])
        assert np.array_equal(catalogue.FAMILIES[f"e1-{name}"](2, 3).quadratic.H.numpy(), H)

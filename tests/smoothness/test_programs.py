"""Programs in step: the same numbers as alone, results as they come, bad products named; congruence."""

import itertools

import pytest
import torch

from deva_theory.smoothness.estimators.balls import Box, SpectralBall
from deva_theory.smoothness.estimators.krylov import euclidean_smoothness, extreme_eigenvalues
from deva_theory.smoothness.estimators.operator_norms import Effort, operator_norm
from deva_theory.smoothness.estimators.programs import NotFinite, congruence, run, run_together


def symmetric(d, seed):
    A = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return A + A.mT


MATRICES = {"a": symmetric(30, 0), ("b", 1): symmetric(6, 1), 3: symmetric(12, 2), "zero": torch.zeros(5, 5, dtype=torch.float64)}


def programs():
    return {
        "a": euclidean_smoothness(30, seed=1),
        ("b", 1): operator_norm(SpectralBall(2, 3), norm="spectral", effort=Effort(dense=0)),
        3: operator_norm(Box(12), norm="linf"),
        "zero": operator_norm(Box(5), norm="linf", effort=Effort(dense=0)),
    }


def sweep_of(log=None):
    def sweep(requests):
        if log is not None:
            log.append({key: len(V) for key, V in requests.items()})
        return {key: V @ MATRICES[key] for key, V in requests.items()}

    return sweep


def test_lockstep_is_separate_runs():
    log, finished = [], []
    together = run_together(programs(), sweep_of(log), finished=lambda key, estimate: finished.append((key, estimate)))
    assert list(together) == list(MATRICES)
    for key, program in programs().items():
        alone = run(program, lambda V, key=key: V @ MATRICES[key])
        assert alone.to_dict() == together[key].to_dict()
        assert sum(round.get(key, 0) for round in log) == alone.products
    # Every result is reported once, when it is there: short programs first.
    assert {key: estimate for key, estimate in finished} == together
    assert [key for key, _ in finished][:2] == [3, "zero"] and len(log[0]) == 4 and len(log[-1]) == 1
    assert all(len(round) <= len(before) for before, round in itertools.pairwise(log))


def test_program_without_products_finishes_at_once():
    def constant():
        return 7
        yield

    reported = []
    results = run_together({"x": constant()}, lambda requests: pytest.fail("no products wanted"), finished=lambda *r: reported.append(r))
    assert results == {"x": 7} and reported == [("x", 7)]
    assert run_together({}, lambda requests: {}) == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_products_name_the_key(bad):
    sweeps = sweep_of()

    def broken(requests):
        answers = sweeps(requests)
        if 3 in answers:
            answers[3][0, 0] = bad
        return answers

    with pytest.raises(NotFinite, match=r"^3: a Hessian-vector product has NaN"):
        run_together(programs(), broken)
    with pytest.raises(NotFinite):
        run(euclidean_smoothness(4), lambda V: V * bad)


def test_finished_results_survive_a_later_failure():
    kept = {}
    count = 0

    def fails_late(requests):
        nonlocal count
        count += 1
        answers = sweep_of()(requests)
        if count > 3:
            answers["a"] = answers["a"] * float("nan")
        return answers

    with pytest.raises(NotFinite, match=r"^a:"):
        run_together(programs(), fails_late, finished=kept.__setitem__)
    assert {"zero", 3} <= set(kept)


def test_wrong_shape_names_the_key():
    with pytest.raises(ValueError, match=r"a: the product of vectors of shape \(1, 30\) has shape \(30,\)"):
        run_together({"a": euclidean_smoothness(30)}, lambda requests: {"a": requests["a"][0]})


def test_congruence_runs_the_same_program_on_the_transformed_operator():
    H = MATRICES["a"]
    T = torch.randn(20, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    asked = []

    def apply(V):
        asked.append(V.shape[1])
        return V @ H

    # T maps 20 coordinates to 30: the program lives on the small space, the products on the large one.
    inner = run(congruence(extreme_eigenvalues(20), lambda V: V @ T, lambda W: W @ T.mT), apply)
    direct = torch.linalg.eigvalsh(T @ H @ T.mT)
    assert set(asked) == {30} and inner.vectors.shape == (2, 20)
    slack = 1e-12 * float(direct.abs().max())
    assert inner.floor <= float(direct[0]) <= inner.lowest + slack
    assert inner.highest - slack <= float(direct[-1]) <= inner.ceiling


def test_congruence_of_a_finished_program():
    def constant():
        return "done"
        yield

    assert run(congruence(constant(), lambda V: V, lambda V: V), lambda V: V) == "done"

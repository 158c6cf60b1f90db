"""The strategies produce what they promise, the degenerate and adversarial cases included."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import (
    KINDS,
    adversarial_values,
    batched,
    betas,
    finite_floats,
    gradient_histories,
    matrices,
    matrix_batches,
    orthogonal,
    powers_of_two,
    refuted,
    spd,
    tensors,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def occurs(strategy, condition, max_examples=2000):
    return refuted(strategy, lambda x: not condition(x), max_examples=max_examples)


def rank(A):
    return int(np.linalg.matrix_rank(A.double().numpy())) if A.numel() else 0


def sigma(A):
    return torch.linalg.svdvals(A.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finite_floats_are_held_exactly(dtype):
    @given(finite_floats(dtype))
    def check(x):
        assert math.isfinite(x)
        assert torch.tensor(x, dtype=torch.float64).to(dtype).item() == x

    check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adversarial_values_straddle_the_thresholds_of_squares(dtype):
    values = torch.tensor(adversarial_values(dtype), dtype=torch.float64).to(dtype)
    assert torch.isfinite(values).all()
    squares = (values * values)[values != 0]
    tiny = torch.finfo(dtype).tiny
    assert squares.isinf().any() and (squares == 0).any()
    assert ((squares > 0) & (squares < tiny)).any() and ((squares >= tiny) & squares.isfinite()).any()
    # The exponent next to each threshold is on the good side of it.
    assert (squares[squares.isfinite()].max().double() >= torch.finfo(dtype).max / 8).item()


@pytest.mark.parametrize("condition", [
    pytest.param(lambda x: x == 0.0, id="zero"),
    pytest.param(lambda x: math.copysign(1.0, x) < 0 and x == 0.0, id="minus zero"),
    pytest.param(lambda x: 0 < abs(x) < 2.3e-308, id="subnormal"),
    pytest.param(lambda x: 1e154 < abs(x) < 1e156, id="square overflows"),
    pytest.param(lambda x: 1e-163 < abs(x) < 1e-161, id="square vanishes"),
    pytest.param(lambda x: abs(x) > 1e308, id="huge"),
    pytest.param(lambda x: abs(x) > 4 and x not in adversarial_values(), id="arbitrary"),
])
def test_adversarial_values_occur(condition):
    assert occurs(finite_floats(torch.float64), condition)


def test_float32_values_around_two_to_the_64_occur():
    assert occurs(finite_floats(torch.float32), lambda x: abs(x) == 2.0**64)
    assert occurs(finite_floats(torch.float32), lambda x: abs(x) == 2.0**63)
    assert occurs(finite_floats(torch.float32), lambda x: 0 < abs(x) < torch.finfo(torch.float32).tiny)


@given(powers_of_two(torch.float32, margin=6))
def test_powers_of_two_are_powers_within_the_margin(x):
    mantissa, exponent = math.frexp(x)
    assert mantissa == 0.5 and abs(exponent - 1) <= 120


@given(betas())
def test_betas_are_averaging_factors(beta):
    assert 0.0 <= beta < 1.0


@pytest.mark.parametrize("value", [0.0, 0.9, 0.999])
def test_betas_in_use_occur(value):
    assert occurs(betas(), lambda beta: beta == value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("adversarial", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (4, 5, 3)], ids=str)
def test_tensors_have_the_shape_and_dtype_asked_for(shape, dtype, adversarial):
    @given(tensors(shape, dtype, adversarial=adversarial))
    def check(x):
        assert tuple(x.shape) == shape and x.dtype == dtype
        assert torch.isfinite(x).all()

    check()


@pytest.mark.parametrize(("d", "event"), [(3, (3,)), ((2, 4), (2, 4)), (st.just((1, 5)), (1, 5)), (0, (0,))])
@pytest.mark.parametrize("adversarial", [False, True])
def test_histories_have_a_leading_time_axis(d, event, adversarial):
    @given(gradient_histories(st.integers(1, 6), d, torch.float32, adversarial=adversarial))
    def check(history):
        assert 1 <= history.shape[0] <= 6 and tuple(history.shape[1:]) == event
        assert history.dtype == torch.float32
        assert torch.isfinite(history).all()

    check()


def test_histories_mix_magnitudes_within_one_coordinate():
    def mixed(history):
        sizes = history.abs()[history != 0]
        return sizes.numel() > 1 and bool(sizes.max() > 1e150 and sizes.min() < 1e-150)

    small, large = gradient_histories(3, 1, adversarial=True), gradient_histories(8, 20, adversarial=True)
    assert occurs(small, mixed) and occurs(large, mixed)
    assert not occurs(gradient_histories(3, 2), mixed, max_examples=200)


def test_histories_start_late_and_have_dead_coordinates():
    histories = gradient_histories(4, 3)
    assert occurs(histories, lambda h: bool((h[0] == 0).all() and (h[-1] != 0).any()))
    assert occurs(histories, lambda h: bool((h[:, 0] == 0).all() and (h[:, 1:] != 0).any()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_orthogonal_matrices_are_orthogonal(n, dtype):
    @given(orthogonal(n, dtype))
    def check(Q):
        assert Q.dtype == dtype
        error = (Q.mT @ Q - torch.eye(n, dtype=dtype)).abs().max().item()
        assert error <= 20 * torch.finfo(dtype).eps

    check()


def test_orthogonal_matrices_are_signed_permutations_and_general_ones_of_both_determinants():
    def permutation(Q):
        return bool(((Q == 0) | (Q.abs() == 1)).all())

    assert occurs(orthogonal(3), permutation) and occurs(orthogonal(3), lambda Q: not permutation(Q))
    for det in (1, -1):
        assert occurs(orthogonal(3), lambda Q, det=det: not permutation(Q) and det * torch.linalg.det(Q) > 0)


@given(st.integers(1, 6).flatmap(spd))
def test_spd_matrices_are_symmetric_and_within_the_condition(A):
    assert torch.equal(A, A.mT)
    eigenvalues = torch.linalg.eigvalsh(A)
    assert eigenvalues[0] >= 0.99e-4
    assert abs(eigenvalues[-1].item() - 1.0) < 1e-12


def test_spd_condition_is_used():
    assert occurs(spd(3, max_condition=1e8), lambda A: bool(torch.linalg.cond(A) > 1e6))


# What each kind of matrix is, in float64.
DEFINITIONS = {
    "generic": lambda A: A.numel() > 0,
    "zero": lambda A: A.numel() > 0 and not A.any(),
    "rank_one": lambda A: rank(A) == 1,
    "repeated": lambda A: bool(sigma(A)[0] - sigma(A)[1] < 1e-13 * sigma(A)[0]) and bool(A.any()),
    "orthogonal": lambda A: bool((sigma(A) - 1).abs().max() < 1e-13),
    "diagonal": lambda A: A.count_nonzero() == A.diagonal().count_nonzero(),
    "graded": lambda A: bool(abs(sigma(A)[0] - 1) < 1e-13) and bool(sigma(A)[-1] > 0.5e-12),
    "wide": lambda A: 0 < A.shape[0] < A.shape[1],
    "tall": lambda A: 0 < A.shape[1] < A.shape[0],
    "row": lambda A: A.shape[0] == 1 and A.numel() > 0,
    "column": lambda A: A.shape[1] == 1 and A.numel() > 0,
    "empty": lambda A: A.numel() == 0,
}


def test_every_kind_has_a_definition():
    assert set(DEFINITIONS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_of_their_kind(kind):
    @given(matrices(kind))
    def check(A):
        assert A.ndim == 2 and A.dtype == torch.float64 and max(A.shape) <= 5
        assert DEFINITIONS[kind](A)

    check()


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "generic"])
def test_every_kind_occurs_among_all_matrices(kind):
    # Beyond what other kinds produce anyway: at least 2×2 where the shape is not the point.
    by_shape = ("row", "column", "wide", "tall", "empty")
    assert occurs(matrices(), lambda A: (kind in by_shape or min(A.shape) >= 2) and DEFINITIONS[kind](A))


@pytest.mark.parametrize(("kind", "condition"), [
    ("graded", lambda A: min(A.shape) >= 2 and sigma(A)[-1] < 1e-11),
    ("repeated", lambda A: min(A.shape) >= 3 and rank(A) < min(A.shape)),
    ("repeated", lambda A: A.count_nonzero() == A.numel()),
    ("diagonal", lambda A: bool((A.diagonal() < 0).any() and (A.diagonal() == 0).any())),
    ("rank_one", lambda A: min(A.shape) >= 2 and A.count_nonzero() == A.numel()),
    ("generic", lambda A: rank(A) == min(A.shape) >= 3),
    ("generic", lambda A: A.shape[0] == A.shape[1] and rank(A) < A.shape[0] and bool(A.any())),
    ("empty", lambda A: tuple(A.shape) == (3, 0)),
    ("empty", lambda A: tuple(A.shape) == (0, 3)),
])
def test_kinds_reach_their_hard_cases(kind, condition):
    assert occurs(matrices(kind), condition)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (1, 4), (4, 1), (0, 3)], ids=str)
def test_matrices_take_a_shape(shape, dtype):
    @given(matrices(shape=shape, dtype=dtype))
    def check(A):
        assert tuple(A.shape) == shape and A.dtype == dtype
        assert torch.isfinite(A).all()

    check()


@pytest.mark.parametrize(("strategy", "message"), [
    (matrices("square"), "kind is 'square'; use one of"),
    (matrices("wide", shape=(3, 2)), "kind 'wide' cannot have shape"),
    (matrices("zero", shape=(0, 2)), "kind 'zero' cannot have shape"),
    (batched(matrices("row")), "draw the shape first"),
])
def test_impossible_requests_are_errors(strategy, message):
    with pytest.raises(ValueError, match=message):
        refuted(strategy, lambda x: True)


@given(matrix_batches(max_side=3))
def test_batches_have_leading_dimensions(A):
    assert 2 <= A.ndim <= 4 and A.numel() > 0


def test_batches_mix_kinds_and_number_of_dimensions():
    def zero_beside_full_rank(A):
        return A.ndim == 3 and A.shape[-1] > 1 and len({rank(B) for B in A} & {0, min(A.shape[-2:])}) == 2

    assert occurs(matrix_batches(), zero_beside_full_rank)
    for ndim in (2, 3, 4):
        assert occurs(matrix_batches(), lambda A, ndim=ndim: A.ndim == ndim)


def test_refuted_tells_false_from_true():
    assert refuted(st.integers(), lambda x: x < 1000)
    assert not refuted(st.integers(0, 5), lambda x: x <= 5)

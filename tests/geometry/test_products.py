"""Products of blocks: the same properties as for one geometry, on tuples and dicts of tensors."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.geometry import L1, L2, OUTER_NORMS, LInf, Product, Schatten, Spectral
from tests.strategies import matrices, powers_of_two, refuted, tensors

BLOCKS = {
    "vectors": (L2(), LInf(), L1()),
    "matrices": (Spectral(), Schatten(1), LInf(2), Schatten(3)),
    "mixed": (LInf(), Spectral()),
}
PRODUCTS = {
    f"{name}-{outer}-weighted": Product(blocks, outer, (0.3, 2.0, 5.0, 0.01)[: len(blocks)])
    for (name, blocks), outer in itertools.product(BLOCKS.items(), OUTER_NORMS)
}
PRODUCTS |= {f"mixed-{outer}-unit": Product(BLOCKS["mixed"], outer) for outer in OUTER_NORMS}
PRODUCTS["one-max-weighted"] = Product((Spectral(),), "max", (3.0,))
OUTER = {"max": math.inf, "l2": 2, "l1": 1}

every_product = pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
every_outer = pytest.mark.parametrize("outer", OUTER_NORMS)


def block_tensors(geometry):
    if geometry.event_ndim == 2:
        return matrices(max_side=3)
    return st.integers(0, 3).flatmap(lambda d: tensors((d,)))


def points(product):
    """Draw a tuple of block tensors; some blocks are zero, rank-deficient or empty."""
    return st.tuples(*(block_tensors(block) for block in product.blocks))


def pairs(product):
    return points(product).flatmap(
        lambda x: st.tuples(st.just(x), st.tuples(*(tensors(tuple(b.shape)) for b in x)))
    )


def inner(x, g):
    return sum(float((a * b).sum()) for a, b in zip(x, g, strict=True))


def close(a, b, tolerance=1e-12):
    return abs(float(a) - float(b)) <= tolerance * max(abs(float(a)), abs(float(b)))


# Properties


def dual_inequality(product, pair, *, factor=1.0):
    x, g = pair
    return abs(inner(x, g)) <= factor * float(product.norm(x) * product.dual_norm(g)) * (1 + 1e-12)


def steepest_attains(product, g, *, steepest=None):
    d = (steepest or product.steepest)(g)
    if not any(bool(b.any()) for b in g):
        return not any(bool(b.any()) for b in d) and float(product.dual_norm(g)) == 0.0
    return close(inner(d, g), product.dual_norm(g)) and close(product.norm(d), 1.0)


def bidual(product, x, *, predual=None):
    predual = predual or product.dual
    norm = product.norm(x)
    return close(predual.dual_norm(x), norm) and close(inner(predual.steepest(x), x), norm)


def within_radius(product, x, *, factor=1.0):
    euclidean = math.sqrt(inner(x, x))
    radius = product.radius([tuple(b.shape) for b in x])
    return euclidean <= factor * radius * float(product.norm(x)) * (1 + 1e-12)


def triangle(product, pair, *, power=1.0):
    x, y = pair
    total = tuple(a + b for a, b in zip(x, y, strict=True))
    whole, left, right = (float(product.norm(z)) ** power for z in (total, x, y))
    return whole <= (left + right) * (1 + 1e-12)


def homogeneous(product, scaled, *, norm=None):
    x, c = scaled
    norm = norm or product.norm
    return torch.equal(norm(tuple(c * b for b in x)), c * norm(x))


def blocks_times(product, factors):
    """The steepest direction with its blocks scaled as they should not be."""
    return lambda g: tuple(f * d for f, d in zip(factors, product.steepest(g), strict=True))


@every_product
def test_dual_inequality(product):
    @given(pairs(product))
    def check(pair):
        assert dual_inequality(product, pair)

    check()


@every_product
def test_dual_inequality_with_a_smaller_bound_is_refuted(product):
    # Random pairs are far from tight: x is the steepest direction here.
    tight = points(product).map(lambda g: (product.steepest(g), g))
    assert refuted(tight, lambda pair: dual_inequality(product, pair, factor=0.99))


@every_product
def test_steepest_attains_the_dual_norm(product):
    @given(points(product))
    def check(g):
        assert steepest_attains(product, g)
        for a, b in zip(product.lmo(g), product.steepest(g), strict=True):
            assert torch.equal(a, -b)

    check()


@pytest.mark.parametrize("product", [p for p in PRODUCTS.values() if len(p.blocks) > 1], ids=str)
def test_the_steepest_direction_of_another_outer_norm_does_not_attain(product):
    for outer in OUTER_NORMS:
        if outer != product.outer:
            wrong = Product(product.blocks, outer, product.weights).steepest
            assert refuted(points(product), lambda g, w=wrong: steepest_attains(product, g, steepest=w))


@every_product
def test_the_bidual_norm_is_the_norm(product):
    @given(points(product))
    def check(x):
        assert bidual(product, x)

    check()


@pytest.mark.parametrize("product", [p for n, p in PRODUCTS.items() if n.endswith("-weighted")], ids=str)
def test_a_dual_that_keeps_the_weights_is_refuted(product):
    wrong = Product(product.dual.blocks, product.dual.outer, product.weights)
    assert refuted(points(product), lambda x: bidual(product, x, predual=wrong))


@every_product
def test_the_unit_ball_lies_within_the_radius(product):
    @given(points(product))
    def check(x):
        assert within_radius(product, x)

    check()


def widest(product, shapes):
    """A point of the unit ball with the largest Euclidean norm."""
    corners = []
    for block, shape, weight in zip(product.blocks, shapes, product.weights, strict=True):
        corner = torch.zeros(shape, dtype=torch.float64)
        corner[tuple(slice(0, 1) for _ in shape)] = 1.0
        choices = [corner, torch.ones_like(corner)]
        if len(shape) == 2:
            choices.append(torch.eye(*shape, dtype=torch.float64))
        unit = [weight * c / block.norm(c) for c in choices]
        corners.append(max(unit, key=torch.linalg.vector_norm))
    if product.outer == "max":
        return tuple(corners)
    largest = max(range(len(corners)), key=lambda b: torch.linalg.vector_norm(corners[b]))
    return tuple(c if b == largest else torch.zeros_like(c) for b, c in enumerate(corners))


@every_product
def test_the_radius_is_attained(product):
    shapes = [(4,), (3, 5)]
    shapes = [shapes[block.event_ndim - 1] for block in product.blocks]
    x = widest(product, shapes)
    assert product.norm(x).item() == pytest.approx(1.0, rel=1e-14)
    assert math.sqrt(inner(x, x)) == pytest.approx(product.radius(shapes), rel=1e-14)
    # The twin: one percent less does not contain it.
    assert within_radius(product, x) and not within_radius(product, x, factor=0.99)


@every_product
def test_triangle_inequality(product):
    @given(pairs(product))
    def check(pair):
        assert triangle(product, pair)

    check()


@every_product
def test_the_square_of_a_norm_violates_the_triangle_inequality(product):
    assert refuted(pairs(product), lambda pair: triangle(product, pair, power=2.0))


def scaled_points(product):
    coarse = points(product).map(lambda x: tuple((b * 64).round() / 64 for b in x))
    return st.tuples(coarse, powers_of_two(margin=20))


@every_product
def test_norm_and_dual_norm_are_homogeneous_over_the_float_range(product):
    @given(scaled_points(product))
    def check(scaled):
        assert homogeneous(product, scaled)
        assert homogeneous(product, scaled, norm=product.dual_norm)
        x, c = scaled
        for a, b in zip(product.steepest(x), product.steepest(tuple(c * b for b in x)), strict=True):
            assert torch.equal(a, b)

    check()


def test_the_root_of_naive_squares_of_block_norms_is_not():
    product = PRODUCTS["mixed-l2-unit"]

    def naive(x):
        return sum(block.norm(b).square() for block, b in zip(product.blocks, x, strict=True)).sqrt()

    assert refuted(scaled_points(product), lambda scaled: homogeneous(product, scaled, norm=naive))


# Definition and closed forms


@every_product
def test_norm_is_the_outer_norm_of_weighted_block_norms(product):
    @given(points(product))
    def check(x):
        blocks = list(zip(product.blocks, x, product.weights, strict=True))
        sizes = torch.tensor([float(b.norm(t)) / w for b, t, w in blocks], dtype=torch.float64)
        duals = torch.tensor([float(b.dual_norm(t)) * w for b, t, w in blocks], dtype=torch.float64)
        p = OUTER[product.outer]
        q = {math.inf: 1, 2: 2, 1: math.inf}[p]
        assert close(product.norm(x), torch.linalg.vector_norm(sizes, p))
        assert close(product.dual_norm(x), torch.linalg.vector_norm(duals, q))

    check()


@pytest.mark.parametrize(("outer", "norm", "dual", "first", "second"), [
    # Block norms 3 (max) and 5 (Euclidean), dual norms 4 (sum) and 5; with weights 1 and 2: 3, 2.5 and 4, 10.
    ("max", 3.0, 14.0, [1.0, -1.0], [1.2, 1.6]),
    ("l2", 15.25**0.5, 116**0.5, [4 / 116**0.5, -4 / 116**0.5], [12 / 116**0.5, 16 / 116**0.5]),
    ("l1", 5.5, 10.0, [0.0, 0.0], [1.2, 1.6]),
])
def test_closed_forms(outer, norm, dual, first, second):
    product = Product({"a": LInf(), "b": L2()}, outer, {"a": 1.0, "b": 2.0})
    g = {"b": torch.tensor([3.0, 4.0]).double(), "a": torch.tensor([3.0, -1.0]).double()}
    assert product.norm(g).item() == pytest.approx(norm, rel=1e-15)
    assert product.dual_norm(g).item() == pytest.approx(dual, rel=1e-15)
    d = product.steepest(g)
    assert list(d) == ["a", "b"]
    assert d["a"].tolist() == pytest.approx(first, rel=1e-14)
    assert d["b"].tolist() == pytest.approx(second, rel=1e-14)


@every_outer
def test_blocks_of_l2_or_linf_are_the_norm_of_the_concatenation(outer):
    block, whole = {"max": (LInf(), LInf()), "l2": (L2(), L2()), "l1": (L1(), L1())}[outer]
    product = Product((block, block, block), outer)

    @given(st.tuples(tensors((2,)), tensors((1,)), tensors((3,))))
    def check(x):
        joined = torch.cat(x)
        assert close(product.norm(x), whole.norm(joined))
        assert close(product.dual_norm(x), whole.dual_norm(joined))
        torch.testing.assert_close(torch.cat(product.steepest(x)), whole.steepest(joined), rtol=1e-13, atol=0)
        assert product.radius([b.shape for b in x]) == pytest.approx(whole.radius(joined.shape), rel=1e-15)

    check()


@every_product
def test_dual_norm_is_not_exceeded_by_random_points_of_the_ball_and_nearly_reached(product):
    """Brute force on blocks with two entries or fewer per side."""
    shape = {1: (2,), 2: (1, 2)}
    generator = torch.Generator().manual_seed(3)
    shapes = [shape[b.event_ndim] for b in product.blocks]
    g = tuple(torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    x = [torch.randn(200_000, *b.shape, dtype=torch.float64, generator=generator) for b in g]
    # Half of the points have most of their size in one block: the outer ℓ1 ball has its corners there.
    shares = torch.rand(200_000, len(g), dtype=torch.float64, generator=generator)
    shares[::2] = shares[::2] ** 20
    units = [
        t / b.norm(t).reshape(-1, *(1,) * b.event_ndim) for b, t in zip(product.blocks, x, strict=True)
    ]
    if product.outer == "max":
        shares.fill_(1.0)
    points = tuple(
        w * s.reshape(-1, *(1,) * b.event_ndim) * u
        for b, u, s, w in zip(product.blocks, units, shares.unbind(1), product.weights, strict=True)
    )
    values = sum((p * b).flatten(1).sum(1) for p, b in zip(points, g, strict=True)) / product.norm(points)
    best, dual = values.max().item(), product.dual_norm(g).item()
    assert 0.85 * dual <= best <= dual * (1 + 1e-12)


# Batches, range, form


@every_product
def test_batched_is_one_by_one(product):
    generator = torch.Generator().manual_seed(0)
    shape = {1: (3,), 2: (3, 2)}
    shapes = [shape[b.event_ndim] for b in product.blocks]
    x = tuple(torch.randn(2, 4, *s, dtype=torch.float64, generator=generator) for s in shapes)
    x[0][1, 2] = 0.0
    d = product.steepest(x)
    for i, j in itertools.product(range(2), range(4)):
        event = tuple(b[i, j] for b in x)
        assert close(product.norm(x)[i, j], product.norm(event))
        assert close(product.dual_norm(x)[i, j], product.dual_norm(event))
        for whole, one in zip(d, product.steepest(event), strict=True):
            torch.testing.assert_close(whole[i, j], one, rtol=1e-12, atol=1e-14)
    # The twin: another event of the batch is another result.
    assert not close(product.norm(x)[0, 0], product.norm(tuple(b[0, 1] for b in x)))


@every_outer
def test_blocks_at_opposite_ends_of_the_float_range(outer):
    product = Product((L2(), Spectral()), outer, (2.0**-1000, 2.0**1000))
    g = (torch.full((2,), 2.0**1000, dtype=torch.float64), torch.eye(2, dtype=torch.float64) * 2.0**-1000)
    # Duals: 2**-1000 · √2 · 2**1000 and 2**1000 · 2 · 2**-1000, neither of which may be lost.
    expected = {"max": 2**0.5 + 2, "l2": 6**0.5, "l1": 2.0}[outer]
    assert product.dual_norm(g).item() == pytest.approx(expected, rel=1e-14)
    d = product.steepest(g)
    assert inner(d, g) == pytest.approx(expected, rel=1e-14)
    assert product.norm(d).item() == pytest.approx(1.0, rel=1e-14)


@every_outer
def test_block_norms_that_overflow_leave_the_direction_right(outer):
    huge = torch.full((4,), torch.finfo(torch.float64).max, dtype=torch.float64)
    product = Product((LInf(), LInf()), outer)
    assert product.dual_norm((huge, huge / 2)).item() == math.inf
    for a, b in zip(product.steepest((huge, huge / 2)), product.steepest((huge / 4, huge / 8)), strict=True):
        assert torch.equal(a, b)


@every_outer
def test_each_block_keeps_its_dtype_and_norms_take_the_widest(outer):
    product = Product({"h": LInf(), "f": Spectral(), "d": L2()}, outer)
    g = {"h": torch.ones(3).half(), "f": torch.ones(2, 2), "d": torch.ones(2, dtype=torch.float64)}
    assert product.norm(g).dtype == torch.float64
    assert {k: v.dtype for k, v in product.steepest(g).items()} == {k: v.dtype for k, v in g.items()}
    halves = Product((LInf(), L2()), outer)
    assert halves.norm((g["h"], g["h"])).dtype == torch.float16


def test_zero_blocks_get_no_step_and_leave_the_others_theirs():
    for outer in OUTER_NORMS:
        d = Product((LInf(), Spectral()), outer).steepest((torch.zeros(3), torch.eye(2)))
        assert not d[0].any()
        torch.testing.assert_close(d[1], torch.eye(2))


def test_duals_and_immutability():
    blocks = {"a": LInf(), "b": Spectral()}
    product = Product(blocks, "max", {"b": 4.0, "a": 0.5})
    blocks["a"] = L2()
    assert product.blocks == {"a": LInf(), "b": Spectral()}
    assert list(product.weights) == ["a", "b"]
    assert product.dual == Product({"a": L1(), "b": Schatten(1)}, "l1", {"a": 2.0, "b": 0.25})
    assert product.dual.dual == product == copy.deepcopy(product)
    assert Product([L1(), L2()]) == Product((L1(), L2()), weights=(1.0, 1.0))


def test_the_input_is_left_alone():
    g = (torch.tensor([1.0, -2.0]), torch.eye(2))
    before = tuple(b.clone() for b in g)
    for outer in OUTER_NORMS:
        product = Product((LInf(), Spectral()), outer, (2.0, 3.0))
        product.norm(g), product.dual_norm(g), product.steepest(g), product.lmo(g)
    assert all(torch.equal(a, b) for a, b in zip(g, before, strict=True))


TWO = Product((LInf(), Spectral()))
NAMED = Product({"a": LInf(), "b": Spectral()})
V, M = torch.ones(3), torch.ones(2, 2)
ERRORS = [
    (lambda: Product(()), ValueError, "blocks is empty"),
    (lambda: Product(LInf()), TypeError, "blocks is a LInf; pass a tuple or dict"),
    (lambda: Product((LInf(), "l2")), TypeError, r"blocks\[1\] is a str; pass a Geometry"),
    (lambda: Product((LInf(),), "sum"), ValueError, "outer is 'sum'; use one of max, l2, l1"),
    (lambda: Product((LInf(),), weights=(1.0, 2.0)), ValueError, "weights has 2 entries for 1 blocks"),
    (lambda: Product((LInf(),), weights=(0.0,)), ValueError, r"weights\[0\] is 0.0"),
    (lambda: Product((LInf(),), weights=(-1,)), ValueError, r"weights\[0\] is -1"),
    (lambda: Product((LInf(),), weights=(math.nan,)), ValueError, r"weights\[0\] is nan"),
    (lambda: Product((LInf(),), weights=(math.inf,)), ValueError, r"weights\[0\] is inf"),
    (lambda: Product((LInf(),), weights=(5e-324,)), ValueError, r"weights\[0\] is 5e-324"),
    (lambda: Product((LInf(),), weights=("1",)), ValueError, r"weights\[0\] is '1'"),
    (lambda: Product({"a": LInf()}, weights=(1.0,)), TypeError, "weights is a tuple; the blocks are named"),
    (lambda: Product({"a": LInf()}, weights={"b": 1.0}), ValueError, r"lacks the blocks \['a'\]"),
    (lambda: TWO.norm(V), TypeError, "x is a Tensor; pass a tuple"),
    (lambda: TWO.norm((V,)), ValueError, "x has 1 entries for 2 blocks"),
    (lambda: TWO.dual_norm((V, V)), ValueError, r"g\[1\] has shape \(3,\); it needs at least 2"),
    (lambda: TWO.steepest((V.int(), M)), TypeError, r"g\[0\] has dtype torch.int32"),
    (lambda: TWO.lmo((V, M * math.nan)), ValueError, r"g\[1\] has 4 NaN or infinite entries"),
    (lambda: TWO.norm((V.expand(5, 3), M)), ValueError, r"x\[1\] has leading dimensions \(\), x\[0\] has"),
    (lambda: TWO.norm((V, M.to("meta"))), ValueError, r"x\[1\] is on meta, x\[0\] on cpu"),
    (lambda: NAMED.norm((V, M)), TypeError, "x is a tuple; the blocks are named"),
    (lambda: NAMED.norm({"a": V}), ValueError, r"x lacks the blocks \['b'\]"),
    (lambda: NAMED.norm({"a": V, "b": M, "c": V}), ValueError, r"unknown ones \['c'\]"),
    (lambda: NAMED.steepest({"a": V, "b": M.cfloat()}), TypeError, r"g\['b'\] has dtype torch.complex64"),
    (lambda: NAMED.radius({"a": (3,), "b": (3,)}), ValueError, r"shape is \(3,\)"),
    (lambda: NAMED.radius(((3,), (3, 3))), TypeError, "shapes is a tuple"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()

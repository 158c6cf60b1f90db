"""decompose(): kinds, options, arrays in and out, errors. The identities are in tests/identities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deva_theory
from deva_theory import decompose
from deva_theory.decomposition import _checked_history
from deva_theory.rules import adam, adamuon, deva_linf, deva_spectral, muon, rmsprop, sign_sgd, soap
from tests.strategies import gradient_histories, refuted

ENTRYWISE = ["adagrad", "rmsprop", "adam", "deva_linf"]
MATRIX = ["shampoo", "kronecker", "deva_spectral"]
KINDS = [*ENTRYWISE, "full_matrix", *MATRIX]
kinds = pytest.mark.parametrize("kind", KINDS)


def history(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def factors(split):
    v = split.variance_adaptation
    return v if isinstance(v, tuple) else (v,)


def fields(split):
    return [
        *factors(split),
        split.scale_invariant,
        split.update,
        *(split.basis or ()),
        *([] if split.scale is None else [split.scale]),
    ]


def reproducible(split):
    """The arrays that rounding in another order leaves alone.

    Where a basis has directions without any gradient (2×3 matrices), Γ and the basis there are quotients of
    rounding errors; the update is not, since msign vanishes there.
    """
    return [split.update, split.scale_invariant] if split.basis is not None else fields(split)


# --- results --------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    "shape",
    [(4, 3, 2), (1, 2, 3), (3, 1, 4), (3, 4, 1), (2, 2, 3, 2), (2, 3, 2, 3, 2), (2, 0, 3), (2, 3, 0)],
    ids=str,
)
def test_shapes_and_recomposition(kind, shape):
    h = history(*shape)
    split = decompose(h, kind=kind)
    assert split.kind == kind
    assert split.update.shape == split.scale_invariant.shape == h.shape
    m, n = shape[-2:]
    expected = {
        "full_matrix": [(*shape, n)],
        "shampoo": [(*shape[:-1], m), (*shape[:-2], n, n)],
        "kronecker": [(*shape[:-2], m * n, m * n)],
    }.get(kind, [shape])
    assert [f.shape for f in factors(split)] == expected
    np.testing.assert_allclose(split.recompose(), split.update, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ENTRYWISE)
@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=str)
def test_entrywise_kinds_take_scalars_and_vectors(kind, shape):
    if kind == "deva_linf" and len(shape) == 1:
        with pytest.raises(ValueError, match="dimension"):
            decompose(history(*shape), kind=kind)
    else:
        assert decompose(history(*shape), kind=kind).update.shape == shape


def recomposes(drawn, *, spoil=lambda x: x):
    h, kind = drawn
    split = decompose(h, kind=kind)
    error = (spoil(split.recompose()) - split.update).abs()
    # The products of an SVD kind act on every entry: tolerance on the scale of the whole step.
    size = split.update.abs().amax(tuple(range(1, h.ndim)), keepdim=True) if h.numel() else 1.0
    tolerance = 2e3 * torch.finfo(h.dtype).eps
    return bool((error <= tolerance * (1.0 + size)).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_recompose_equals_update(dtype):
    examples = st.tuples(gradient_histories(st.integers(1, 4), (2, 3), dtype), st.sampled_from(KINDS))
    given(examples)(lambda x: _assert(recomposes(x)))()
    assert refuted(examples, lambda x: recomposes(x, spoil=lambda u: 1.01 * u))
    assert refuted(examples, lambda x: recomposes(x, spoil=lambda u: u.flip(0)))


def _assert(truth):
    assert truth


@kinds
def test_batch_dimensions_are_independent(kind):
    h = history(3, 2, 2, 3)
    whole = decompose(h, kind=kind)
    for i in range(2):
        alone = decompose(h[:, i], kind=kind)
        for a, b in zip(reproducible(alone), reproducible(whole), strict=True):
            np.testing.assert_allclose(a, b if b.ndim == 1 else b[:, i], rtol=1e-10, atol=1e-12)


@kinds
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numpy_is_torch(kind, dtype):
    h = history(3, 2, 3, dtype=dtype)
    a, b = decompose(h, kind=kind), decompose(torch.from_numpy(h), kind=kind)
    assert all(isinstance(x, np.ndarray) for x in fields(a)) and isinstance(a.recompose(), np.ndarray)
    assert all(isinstance(x, torch.Tensor) for x in fields(b)) and isinstance(b.recompose(), torch.Tensor)
    for x, y in zip(fields(a), fields(b), strict=True):
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, y.numpy())


@kinds
def test_zero_gradients_stay_zero(kind):
    h = history(3, 2, 2)
    h[0] = 0
    split = decompose(h, kind=kind)
    assert np.all(split.update[0] == 0) and all(np.isfinite(x).all() for x in fields(split))
    assert np.all(decompose(np.zeros((2, 2, 2)), kind=kind).update == 0)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("deva")])
@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_scale_does_not_matter(kind, scale):
    h = history(3, 2, 3)
    np.testing.assert_allclose(
        decompose(h * scale, kind=kind).update, decompose(h, kind=kind).update, rtol=1e-9, atol=1e-12
    )


# --- closed forms ---------------------------------------------------------------------------------


def test_adagrad_by_hand():
    split = decompose(np.array([[3.0, 0.0], [-4.0, 0.0], [0.0, 2.0]]), kind="adagrad")
    np.testing.assert_allclose(split.variance_adaptation, [[1, 0], [0.8, 0], [0, 1]])
    np.testing.assert_array_equal(split.scale_invariant, [[1, 0], [-1, 0], [0, 1]])
    np.testing.assert_allclose(split.update, [[1, 0], [-0.8, 0], [0, 1]])


def test_rmsprop_and_adam_by_hand():
    h = np.array([[1.0], [-2.0]])
    v1, v2 = 0.5, 0.5 * 0.5 + 0.5 * 4
    plain = decompose(h, kind="rmsprop", beta2=0.5).update.ravel()
    np.testing.assert_allclose(plain, [1 / math.sqrt(v1), -2 / math.sqrt(v2)])
    corrected = decompose(h, kind="rmsprop", beta2=0.5, bias_correction=True).update.ravel()
    np.testing.assert_allclose(corrected, [1.0, -2 / math.sqrt(v2 / 0.75)])
    m2 = 0.9 * 0.1 - 0.1 * 2
    book = decompose(h, kind="adam", betas=(0.9, 0.5)).update.ravel()
    np.testing.assert_allclose(book, [1.0, (m2 / 0.19) / math.sqrt(v2 / 0.75)])
    assert decompose(h, kind="adam", betas=(0.9, 0.5)).scale_invariant.ravel().tolist() == [1.0, -1.0]


def test_full_matrix_by_hand():
    # One step: S = g gᵀ, S^{†1/2} g = g/‖g‖; then an orthogonal gradient changes nothing of it.
    split = decompose(np.array([[3.0, 4.0], [-4.0, 3.0]]), kind="full_matrix")
    np.testing.assert_allclose(split.update, [[0.6, 0.8], [-0.8, 0.6]], atol=1e-15)
    np.testing.assert_allclose(split.variance_adaptation[0], np.outer([0.6, 0.8], [0.6, 0.8]), atol=1e-15)
    np.testing.assert_allclose(split.scale_invariant, split.update, atol=1e-15)


@pytest.mark.parametrize("kind", ["shampoo", "kronecker"])
def test_one_sample_shampoo_is_the_polar_factor(kind):
    G = history(1, 3, 4)
    U, _, Vt = np.linalg.svd(G[0], full_matrices=False)
    split = decompose(G, kind=kind)
    np.testing.assert_allclose(split.update[0], U @ Vt, atol=1e-12)
    np.testing.assert_allclose(split.scale_invariant[0], U @ Vt, atol=1e-12)


def test_shampoo_average_of_one_step_is_scaled():
    # L^{-1/4} and R^{-1/4} each carry (1-β)^{-1/4}.
    G = history(1, 3, 3)
    np.testing.assert_allclose(
        decompose(G, kind="shampoo", beta=0.9).update,
        decompose(G, kind="shampoo").update / math.sqrt(0.1),
        rtol=1e-10,
    )


def test_defaults_of_the_docstring():
    h = history(4, 3)
    for kind, options in [
        ("rmsprop", {"beta2": 0.999, "bias_correction": False}),
        ("adam", {"betas": (0.9, 0.999), "bias_correction": True}),
        ("deva_linf", {"preset": "corrected", "variant": "full", "betas": (0.9, 0.999)}),
    ]:
        np.testing.assert_array_equal(
            decompose(h, kind=kind).update, decompose(h, kind=kind, **options).update
        )
    G = history(3, 3, 2)
    np.testing.assert_array_equal(
        decompose(G, kind="shampoo").update, decompose(G, kind="shampoo", beta=None).update
    )


# --- rules as kinds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        rmsprop(),
        adam(),
        sign_sgd(),
        muon(),
        adamuon(),
        soap(),
        deva_linf(),
        deva_spectral(),
        deva_spectral(preset="reference"),
        deva_spectral(preset="paper"),
        deva_spectral(variant="none"),
        deva_spectral(variant="memory"),
    ],
    ids=lambda rule: rule.name,
)
def test_a_rule_is_a_kind(rule):
    h = history(12, 2, 3, 4)
    split = decompose(h, kind=rule)
    assert split.kind == rule.name
    state = rule.init(torch.zeros(2, 3, 4, dtype=torch.float64))
    for g, update in zip(h, split.update, strict=True):
        direction, state, _ = rule.update(torch.from_numpy(g), state)
        np.testing.assert_array_equal(direction.numpy(), update)
    # The printed rule has Γ of 1e4 and more where msign is a rounding error, which this magnifies.
    np.testing.assert_allclose(split.recompose(), split.update, rtol=0, atol=1e-9)


def test_the_named_deva_kinds_are_the_rules():
    h = history(12, 3, 4)
    options = {"preset": "paper", "betas": (0.5, 0.9)}
    for kind, make in (("deva_linf", deva_linf), ("deva_spectral", deva_spectral)):
        a, b = decompose(h, kind=kind, **options), decompose(h, kind=make(**options))
        np.testing.assert_array_equal(a.update, b.update)
        assert a.kind == kind and b.kind == make(**options).name


def test_adam_without_epsilon_is_the_adam_rule():
    h = history(6, 4)
    np.testing.assert_allclose(
        decompose(h, kind="adam").update, decompose(h, kind=adam(eps=0.0)).update, rtol=1e-13
    )


# --- arrays ---------------------------------------------------------------------------------------


def test_numpy_arrays_are_read_without_a_copy():
    h = history(3, 4)
    assert _checked_history(h).data_ptr() == h.ctypes.data
    view = h.T
    assert _checked_history(view).data_ptr() == h.ctypes.data
    x = torch.from_numpy(h)
    assert _checked_history(x).data_ptr() == h.ctypes.data


@kinds
def test_the_history_is_not_changed_and_not_aliased(kind):
    h = history(3, 2, 3)
    before = h.copy()
    split = decompose(h, kind=kind)
    np.testing.assert_array_equal(h, before)
    for x in fields(split):
        assert not np.shares_memory(x, h)


def _read_only(h):
    h = h.copy()
    h.flags.writeable = False
    return h


UNUSUAL = {
    "read-only": _read_only,
    "broadcast": lambda h: np.broadcast_to(h[:1], h.shape),
    "reversed": lambda h: h[::-1],
    "reversed columns": lambda h: h[..., ::-1],
    "every other": lambda h: np.repeat(h, 2, axis=0)[::2],
    "fortran": np.asfortranarray,
    "big-endian": lambda h: h.astype(h.dtype.newbyteorder(">")),
    "transposed": lambda h: np.ascontiguousarray(h.T).T,
}


@kinds
@pytest.mark.parametrize("layout", UNUSUAL)
def test_memory_layouts(kind, layout):
    h = UNUSUAL[layout](history(4, 2, 3))
    plain = np.array(h, dtype=np.float64, order="C")
    # Fused products may add in another order.
    for x, y in zip(*(reproducible(decompose(x, kind=kind)) for x in (h, plain)), strict=True):
        assert x.dtype == np.float64 and x.dtype.isnative
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("deva")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_comes_back_in_half_precision(kind, dtype):
    h = torch.from_numpy(history(3, 2, 2)).to(dtype)
    half, single = decompose(h, kind=kind), decompose(h.float(), kind=kind)
    assert all(x.dtype == dtype for x in fields(half))
    assert torch.equal(half.scale_invariant, single.scale_invariant.to(dtype))
    for x, y in zip(factors(half), factors(single), strict=True):
        assert torch.equal(x, y.to(dtype))


@pytest.mark.parametrize("kind", ["deva_linf", "deva_spectral"])
def test_rules_answer_half_precision_in_float32(kind):
    split = decompose(history(3, 2, 2).astype(np.float16), kind=kind)
    assert all(x.dtype == np.float32 for x in fields(split))


def test_a_history_that_requires_grad_is_detached():
    h = torch.ones(2, 2, requires_grad=True)
    split = decompose(h, kind="adagrad")
    assert not split.update.requires_grad and h.grad is None


# --- summary --------------------------------------------------------------------------------------


@kinds
def test_summary_is_one_line(kind):
    text = decompose(history(3, 2, 3), kind=kind).summary()
    assert text.startswith(f"{kind}: 3 steps of shape (2, 3), variance adaptation in [")
    assert "recomposition error" in text and "\n" not in text


def test_summary_by_hand():
    split = decompose(np.array([[3.0], [4.0]]), kind="adagrad")
    assert split.summary() == (
        "adagrad: 2 steps of shape (1,), variance adaptation in [0.8, 1], recomposition error 0.0e+00"
    )


def test_public_name():
    assert deva_theory.decompose is decompose and deva_theory.Decomposition.__name__ == "Decomposition"


# --- errors ---------------------------------------------------------------------------------------

X = np.ones((2, 3))
ERRORS = [
    # history, kind, options, error, message
    ([[1.0, 2.0]], "adagrad", {}, TypeError, r"history is a list; pass a torch.Tensor or a numpy.ndarray"),
    (3.0, "adagrad", {}, TypeError, "history is a float"),
    (
        np.ones((2, 2), dtype=np.int64),
        "adagrad",
        {},
        TypeError,
        "int64; convert it to float16, float32 or float64",
    ),
    (np.ones((2, 2), dtype=bool), "adagrad", {}, TypeError, "bool; convert it"),
    (np.ones((2, 2), dtype=complex), "adagrad", {}, TypeError, "complex128; convert it"),
    (np.array([["a"]]), "adagrad", {}, TypeError, "convert it"),
    (torch.ones(2, 2, dtype=torch.int32), "adagrad", {}, TypeError, "torch.int32; convert it"),
    (torch.ones(2, 2, dtype=torch.complex64), "adam", {}, TypeError, "complex64; convert it"),
    (np.array(1.0), "adagrad", {}, ValueError, r"shape \(\); stack at least one gradient"),
    (np.ones((0, 3)), "adagrad", {}, ValueError, r"shape \(0, 3\); stack at least one gradient"),
    (torch.ones(0, 3, 3), "shampoo", {}, ValueError, r"shape \(0, 3, 3\)"),
    (np.array([[1.0, math.nan]]), "adagrad", {}, ValueError, r"NaN or infinite entry at index \(0, 1\)"),
    (np.array([[1.0], [-math.inf]]), "adam", {}, ValueError, r"NaN or infinite entry at index \(1, 0\)"),
    (torch.tensor([[[1.0, math.inf]]]), "deva_spectral", {}, ValueError, r"index \(0, 0, 1\)"),
    (X, "adagard", {}, ValueError, "did you mean 'adagrad'"),
    (X, "spectral", {}, ValueError, "did you mean 'deva_spectral'"),
    (X, "zzz", {}, ValueError, "kind is 'zzz'; use one of 'adagrad'"),
    (X, None, {}, ValueError, "kind is None"),
    (X, "shampoo", {}, ValueError, r"kind 'shampoo' acts on 2 dimension\(s\).*shape \(2, 3\)"),
    (X, "kronecker", {}, ValueError, "acts on 2 dimension"),
    (X, "deva_spectral", {}, ValueError, "acts on 2 dimension"),
    (np.ones(3), "full_matrix", {}, ValueError, "acts on 1 dimension"),
    (X, "adagrad", {"eps": 1e-8}, TypeError, "kind 'adagrad' has no option 'eps'"),
    (X, "rmsprop", {"betas": (0.9, 0.99)}, TypeError, "kind 'rmsprop' has no option 'betas'"),
    (X, "deva_linf", {"beta3": 0.9}, TypeError, "kind 'deva_linf' has no option 'beta3'"),
    (
        X,
        "rmsprop",
        {"beta2": 1.0},
        ValueError,
        r"beta2 is 1.0; an averaging factor must be a number in \[0, 1\)",
    ),
    (X, "rmsprop", {"beta2": math.nan}, ValueError, "beta2 is nan"),
    (X, "rmsprop", {"beta2": "0.9"}, ValueError, "beta2 is '0.9'"),
    (X, "adam", {"betas": (-0.1, 0.9)}, ValueError, "beta1 is -0.1"),
    (X, "adam", {"betas": (0.9, 2)}, ValueError, "beta2 is 2"),
    (np.ones((2, 2, 2)), "shampoo", {"beta": 1.0}, ValueError, "beta is 1.0"),
    (X, "deva_linf", {"preset": "correct"}, ValueError, "did you mean 'corrected'"),
    (X, "deva_linf", {"eps": -1.0}, ValueError, "eps is -1.0"),
    (X, rmsprop(), {"beta2": 0.9}, TypeError, r"options \['beta2'\] do not apply to a Rule"),
    (X, muon(), {}, ValueError, "muon acts on 2 dimension"),
]


@pytest.mark.parametrize(("bad", "kind", "options", "error", "match"), ERRORS)
def test_errors(bad, kind, options, error, match):
    with pytest.raises(error, match=match) as caught:
        decompose(bad, kind=kind, **options)
    assert "\n" not in str(caught.value)

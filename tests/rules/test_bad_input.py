"""Rules refuse what they cannot take before any state changes, and say which argument it is."""

import copy
from dataclasses import replace

import pytest
import torch

from deva_theory.rules import (
    PRESETS,
    Adaptation,
    FullMatrixAdaGrad,
    KroneckerBasis,
    Moment,
    Polar,
    Rule,
    Shampoo,
    StepScale,
    adagrad,
    adam,
    adamuon,
    deva_linf,
    deva_spectral,
    gradient_descent,
    muon,
    rmsprop,
    sign_sgd,
    soap,
    without_rotation_back,
)

NAN, INF = float("nan"), float("inf")

# ---- hyper-parameters ----------------------------------------------------------------------------

BAD_BETAS = [1.0, -0.1, NAN, INF, True, "0.9", None]
BAD_EPS = [-1e-8, NAN, INF, True, "1e-8"]
OPTIONS = [
    *((lambda b=b: deva_linf(betas=(b, 0.9)), f"beta1 is {b!r}") for b in BAD_BETAS),
    *((lambda b=b: deva_linf(betas=(0.9, b)), f"beta2 is {b!r}") for b in BAD_BETAS),
    *((lambda b=b: deva_spectral(betas=(b, 0.9)), f"beta1 is {b!r}") for b in BAD_BETAS),
    *((lambda b=b: deva_spectral(betas=(0.9, b)), f"beta2 is {b!r}") for b in BAD_BETAS),
    *((lambda b=b: deva_spectral(beta3=b), f"beta3 is {b!r}") for b in BAD_BETAS if b is not None),
    *((lambda e=e: deva_linf(eps=e), f"eps is {e!r}") for e in BAD_EPS),
    *((lambda e=e: deva_spectral(eps=e), f"eps is {e!r}") for e in BAD_EPS),
    *(
        (lambda k=k: deva_spectral(refresh_every=k), f"refresh_every is {k!r}")
        for k in (0, -1, 1.5, True, None)
    ),
    (lambda: deva_linf(betas=0.9), "betas is 0.9"),
    (lambda: deva_linf(betas=(0.9,)), r"betas is (0.9,)"),
    (lambda: deva_spectral(betas=(0.9, 0.9, 0.9)), "betas is"),
    (lambda: deva_linf(preset="papr"), "did you mean 'paper'"),
    (lambda: deva_spectral(preset="adam"), "preset is 'adam'; use one of 'corrected', 'paper', 'reference'"),
    (lambda: deva_linf(variant="fulll"), "did you mean 'full'"),
    (lambda: deva_spectral(variant="instant"), "did you mean 'instantaneous'"),
    (lambda: deva_spectral(refresh="qrr"), "did you mean 'qr'"),
    (lambda: deva_spectral(polar="newton-schulz"), "did you mean 'newton_schulz'"),
    (lambda: deva_spectral(polar="svd", polar_dtype=torch.float32), "polar_dtype"),
    (lambda: deva_linf(event_ndim=3), "event_ndim is 3"),
    (lambda: adam(betas=(0.9, 1.0)), "beta2 is 1.0"),
    (lambda: adam(betas=(-0.9, 0.9)), "beta1 is -0.9"),
    (lambda: adam(eps=-1.0), "eps is -1.0"),
    (lambda: rmsprop(beta2=2.0), "beta2 is 2.0"),
    (lambda: rmsprop(eps_mode="in"), "eps_mode is 'in'"),
    (lambda: adagrad(eps=NAN), "eps is nan"),
    (lambda: sign_sgd(beta1=1.0), "beta1 is 1.0"),
    (lambda: gradient_descent(beta1=INF), "beta1 is inf"),
    (lambda: muon(shape="max"), "shape factor is 'max'"),
    (lambda: muon(coefficient=-1.0), "coefficient is -1.0"),
    (lambda: muon(polar="qr"), "polar is 'qr'"),
    (lambda: soap(beta3=1.0), "beta3 is 1.0"),
    (lambda: soap(refresh_every=0), "refresh_every is 0"),
    (lambda: adamuon(betas=(0.9, NAN)), "beta2 is nan"),
    (lambda: Shampoo(1.5), "beta2 is 1.5"),
    (lambda: Shampoo(eps=-1.0), "eps is -1.0"),
    (lambda: FullMatrixAdaGrad(True), "beta2 is True"),
    (lambda: FullMatrixAdaGrad(eps=INF), "eps is inf"),
    (lambda: Moment(1.0), "beta1 is 1.0"),
    (lambda: StepScale("sqrt"), "did you mean 'sqrt_"),
    (lambda: StepScale(bias="adams"), "did you mean 'adam'"),
    (lambda: Adaptation(numerator="moment"), "did you mean 'momentum'"),
    (lambda: Adaptation(tracked="grad"), "tracked is 'grad'"),
    (lambda: Adaptation(amplitude="rows"), "amplitude is 'rows'"),
    (lambda: Adaptation(factored="mean"), "amplitude='marginals'"),
    (lambda: KroneckerBasis(carry_adaptation="permuted"), "did you mean 'permute'"),
    (lambda: Rule("x", scale_invariant=Polar()), "x: its parts act on matrices; set event_ndim=2"),
    (lambda: Rule("x", basis=KroneckerBasis()), "event_ndim=2"),
    (lambda: Rule("x", adaptation=Adaptation(amplitude="marginals")), "event_ndim=2"),
    (lambda: Rule("x", step_scale=StepScale("sqrt_max")), "event_ndim=2"),
    (lambda: Rule("x", decay="later"), "decay is 'later'"),
    (lambda: without_rotation_back(adam()), "adam has no basis"),
]


@pytest.mark.parametrize(
    "make, words", OPTIONS, ids=[f"{k}: {words}" for k, (_, words) in enumerate(OPTIONS)]
)
def test_options(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize("make", [deva_linf, deva_spectral, adam, soap, muon])
def test_unknown_options_are_refused_by_name(make):
    with pytest.raises(TypeError, match="momentun"):
        make(momentun=0.9)


# ---- tensors -------------------------------------------------------------------------------------

RULES = [
    deva_linf(event_ndim=2),
    deva_linf(preset="reference", event_ndim=2),
    *(deva_spectral(preset=p, refresh_every=2) for p in PRESETS),
    deva_spectral(variant="memory"),
    adam(),
    adagrad(),
    muon(),
    soap(),
    adamuon(),
    Shampoo(),
    FullMatrixAdaGrad(),
]


def filled(value, where=(1, 1), dtype=torch.float32):
    G = torch.ones(3, 2, dtype=dtype)
    G[where] = value
    return G


GRADIENTS = [
    (filled(NAN), ValueError, "1 NaN or infinite entries out of 6; nothing was changed"),
    (filled(INF, ()), ValueError, "6 NaN or infinite entries"),
    (filled(-INF, (0, 0)), ValueError, "NaN or infinite"),
    (filled(NAN, dtype=torch.bfloat16), ValueError, "NaN or infinite"),
    (torch.ones(3, 2, dtype=torch.int64), TypeError, "dtype torch.int64"),
    (torch.ones(3, 2, dtype=torch.bool), TypeError, "dtype torch.bool"),
    (torch.ones(3, 2, dtype=torch.complex64), TypeError, "dtype torch.complex64"),
    (torch.ones(2, 3), ValueError, "shape (2, 3), the state was initialised for (3, 2)"),
    (torch.ones(3, 3), ValueError, "shape (3, 3), the state was initialised for (3, 2)"),
    (torch.ones(1, 3, 2), ValueError, "shape (1, 3, 2)"),
    (torch.ones(2), ValueError, "shape (2,)"),
    (torch.ones(()), ValueError, "shape ()"),
    ([[1.0, 1.0]] * 3, TypeError, "is a list; pass a torch.Tensor"),
    (None, TypeError, "is a NoneType"),
]


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
@pytest.mark.parametrize("grad, error, words", GRADIENTS, ids=[w for _, _, w in GRADIENTS])
def test_gradients(rule, grad, error, words, steps):
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(4, 3, 2, generator=generator)
    state = rule.init(torch.zeros(3, 2))
    for G in good[:steps]:
        _, state, _ = rule.update(G, state)
    before, kept = copy.deepcopy(state), copy.deepcopy(grad)
    for donate in (False, True):
        with pytest.raises(error) as caught:
            rule.update(grad, state, donate=donate)
        assert words in str(caught.value) and rule.name in str(caught.value)
    assert state.keys() == before.keys()
    for key, value in state.items():
        assert torch.equal(value, before[key]) if isinstance(value, torch.Tensor) else value == before[key]
    if isinstance(grad, torch.Tensor):
        torch.testing.assert_close(grad, kept, rtol=0, atol=0, equal_nan=True)
    D, _, _ = rule.update(good[3], state)
    E, _, _ = rule.update(good[3], before)
    assert torch.equal(D, E)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
@pytest.mark.parametrize(
    "params, error, words",
    [
        (torch.zeros(3, 2, dtype=torch.int32), TypeError, "dtype torch.int32"),
        (torch.zeros(3, 2, dtype=torch.complex128), TypeError, "dtype torch.complex128"),
        ([[0.0]], TypeError, "is a list"),
        (torch.zeros(()), ValueError, "shape ()"),
    ],
    ids=["integer", "complex", "list", "scalar"],
)
def test_parameters(rule, params, error, words):
    if words == "shape ()" and rule.event_ndim == 1:
        rule = replace(rule, event_ndim=1)
    with pytest.raises(error) as caught:
        rule.init(params)
    assert words in str(caught.value) and rule.name in str(caught.value)


def test_vectors_are_named_to_a_matrix_rule():
    for rule in (deva_spectral(), muon(), Shampoo()):
        with pytest.raises(ValueError, match=r"shape \(3,\); the rule acts on the last 2 dimension"):
            rule.init(torch.zeros(3))


@pytest.mark.parametrize("rule", [deva_linf(), deva_spectral(preset="paper"), adam()], ids=lambda r: r.name)
def test_the_check_of_finiteness_can_be_left_out(rule):
    """A NaN that is let in shows in the direction: it does not turn into steps of length zero."""
    if rule.event_ndim == 2:
        with pytest.raises(RuntimeError):  # eigh or svd; the state is pure
            rule.update(filled(NAN), rule.init(torch.zeros(3, 2)), check_finite=False)
        return
    D, _, _ = rule.update(filled(NAN), rule.init(torch.zeros(3, 2)), check_finite=False)
    assert bool(D.isnan().any())


def test_dtype_layout_and_shape_are_checked_against_the_state():
    rule = deva_spectral(variant="memory", betas=(0.0, 0.9))
    state = rule.init(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="shape"):
        rule.update(torch.ones(2, 2), state)
    with pytest.raises(TypeError, match="float64"):
        rule.update(torch.ones(3, 2, dtype=torch.float64), state)
    with pytest.raises(TypeError, match="sparse"):
        rule.update(torch.ones(3, 2).to_sparse(), state)
    for betas in ((0.9,), (0.9, 0.9, 0.9), 0.9):
        with pytest.raises(ValueError, match="pair"):
            adam(betas=betas)

"""The forms in which models, losses and data come: all give the same loss, gradient and products."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deva_theory.smoothness.curvature.objective import Objective, ProbeError, as_batches, batch_size, batch_weights, moved, tensors_of
from deva_theory.smoothness.curvature.products import CurvatureOperator
from tests.oracles import dense


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SIZES = (4, 4, 3)
X, Y = normal(sum(SIZES), 3), torch.arange(sum(SIZES)) % 2
BATCHES = list(zip(X.split(SIZES), Y.split(SIZES), strict=True))
Pair = namedtuple("Pair", ["inputs", "targets"])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()


class Keyword(nn.Module):
    """Takes its inputs by keyword."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, features, scale):
        return self.body(features) * scale.mean()


class OwnLoss(nn.Module):
    """Returns its own loss, as transformers' models do: an object with attributes, or a mapping."""

    def __init__(self, wrap=lambda loss: SimpleNamespace(loss=loss, logits=None)):
        super().__init__()
        self.body, self.wrap = network(), wrap

    def forward(self, inputs, labels=None):
        logits = self.body(inputs)
        return self.wrap(None if labels is None else F.cross_entropy(logits, labels))


class TensorOnly(OwnLoss):
    def forward(self, inputs):
        return super().forward(inputs[:, :3], inputs[:, 3].long())


@dataclass(frozen=True)
class Record:
    x: torch.Tensor
    y: torch.Tensor


class Encoding(UserDict):
    """Entries that are attributes as well, as transformers' BatchEncoding has them."""

    def __getattr__(self, name):
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=4, **options)


def own_batches(kind=dict):
    return [kind({"inputs": x, "labels": y}) for x, y in BATCHES]


def by_function(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class CallableLoss:
    def __call__(self, model, batch):
        return by_function(model, batch)


def by_name(output, target):
    return F.cross_entropy(output, target)


FORMS = {
    "criterion module": (network, nn.CrossEntropyLoss(), BATCHES),
    "criterion of torch": (network, F.cross_entropy, BATCHES),
    "criterion by its argument's name": (network, by_name, BATCHES),
    "function": (network, by_function, BATCHES),
    "callable object": (network, CallableLoss(), BATCHES),
    "dictionaries": (network, nn.CrossEntropyLoss(), [{"inputs": x, "targets": y} for x, y in BATCHES]),
    "dictionaries to a function": (network, lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), [{"x": x, "y": y} for x, y in BATCHES]),
    "lists": (network, nn.CrossEntropyLoss(), [list(batch) for batch in BATCHES]),
    "named tuples": (network, lambda m, b: F.cross_entropy(m(b.inputs), b.targets), [Pair(*batch) for batch in BATCHES]),
    "one batch": (network, nn.CrossEntropyLoss(), (X, Y)),
    "one dictionary": (network, nn.CrossEntropyLoss(), {"inputs": X, "targets": Y}),
    "single tensor": (network, lambda m, b: F.cross_entropy(m(b[:, :3]), b[:, 3].long()), torch.cat([X, Y[:, None].double()], 1)),
    "loader": (network, nn.CrossEntropyLoss(), loader()),
    "shuffled loader": (network, nn.CrossEntropyLoss(), loader(shuffle=True)),
    "generator": (network, nn.CrossEntropyLoss(), lambda: (batch for batch in BATCHES)),
    "own loss": (OwnLoss, None, own_batches),
    "own loss in a mapping": (lambda: OwnLoss(lambda loss: {"loss": loss}), None, own_batches),
    "own loss on mappings of another type": (OwnLoss, None, lambda: own_batches(UserDict)),
    "own loss on tensors": (TensorOnly, None, torch.cat([X, Y[:, None].double()], 1)),
    "criterion of predictions": (network, lambda pred, y: F.cross_entropy(pred, y), BATCHES),
    "records": (network, lambda m, b: F.cross_entropy(m(b.x), b.y), [Record(*batch) for batch in BATCHES]),
    "encodings": (OwnLoss, lambda m, b: m(b.inputs, b.labels).loss, lambda: own_batches(Encoding)),
    "inputs by keyword": (
        Keyword, nn.CrossEntropyLoss(), [({"features": x, "scale": torch.ones(len(x), dtype=torch.float64)}, y) for x, y in BATCHES],
    ),
}


@pytest.fixture(scope="module")
def reference():
    model = network()
    loss = F.cross_entropy(model(X), Y)
    return (*dense.hessian(loss, list(model.parameters())), loss.item())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_problem(form, reference):
    H, gradient, loss = reference
    build, criterion, batches = FORMS[form]
    made = CurvatureOperator(build(), criterion, batches() if callable(batches) else batches, blocks="model")
    torch.testing.assert_close(made.block_gradient(made.blocks[0]), gradient, rtol=1e-12, atol=1e-14)
    assert made.loss_value == pytest.approx(loss, rel=1e-13)
    V = normal(2, len(H))
    torch.testing.assert_close(made.product("model", V), V @ H, rtol=1e-12, atol=1e-14)


def test_which_losses_have_outputs_of_their_own():
    for loss in (nn.MSELoss(), F.cross_entropy, by_name, lambda logits, labels: F.cross_entropy(logits, labels)):
        assert Objective(network(), loss).has_outputs
    for loss in (None, by_function, CallableLoss(), lambda m, b: F.cross_entropy(m(b[0]), b[1])):
        assert not Objective(network(), loss).has_outputs


def test_a_loss_of_one_entry_is_a_scalar():
    value = Objective(network(), lambda m, b: by_function(m, b).view(1, 1)).value((X, Y))
    assert value.shape == () and value.requires_grad


# ---- data ---------------------------------------------------------------------------------------------------


def test_batches_are_read_once_and_no_further_than_the_limit():
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield X

    assert len(as_batches(endless(), limit=3)) == 3
    assert read == [0, 1, 2]


def test_the_size_of_a_batch_is_that_of_its_first_tensor():
    assert batch_size((X, Y[:2])) == 11
    assert batch_size({"meta": "text", "inputs": [X[:5], X]}) == 5
    assert batch_size("text") == batch_size((1, 2)) == batch_size(torch.tensor(3.0)) == 1


def test_weights_are_sizes_or_given():
    assert batch_weights(BATCHES, None) == [4, 4, 3]
    assert batch_weights(BATCHES, lambda batch: batch[1].sum().item()) == [2, 2, 1]
    assert batch_weights(BATCHES, torch.tensor([1, 0, 2])) == [1, 0, 2]


def test_moved_keeps_structure_and_integers():
    batch = {"a": [X, Y], "b": Pair(X, "text"), "c": UserDict({"d": X}), "e": None}
    result = moved(batch, torch.device("cpu"), torch.float32)
    assert [t.dtype for t in tensors_of(result)] == [torch.float32, torch.int64, torch.float32, torch.float32]
    assert isinstance(result["b"], Pair) and result["b"].targets == "text" and result["e"] is None and isinstance(result["a"], list)
    assert moved(X, torch.device("cpu")) is X


@pytest.mark.parametrize("build", [
    dict, UserDict, OrderedDict, Encoding, lambda entries: defaultdict(list, entries),
])
def test_moved_keeps_the_type_of_mappings_and_the_batch(build):
    batch = build({"x": X, "y": Y})
    result = moved(batch, torch.device("cpu"), torch.float32)
    assert type(result) is type(batch) and result["x"].dtype == torch.float32 and batch["x"] is X
    assert list(result) == ["x", "y"]


def test_moved_copies_records():
    batch = Record(X, Y)
    assert moved(batch, torch.device("cpu"), torch.float32).x.dtype == torch.float32 and batch.x is X
    assert batch_size(batch) == 11 and as_batches(batch) == [batch]


# ---- errors -------------------------------------------------------------------------------------------------

exhausted = iter(BATCHES)
list(exhausted)

ERRORS = {
    "model": (lambda: Objective(lambda x: x, None), "model is a function; pass a torch.nn.Module"),
    "loss": (lambda: Objective(network(), "mse"), "loss is a str; pass a function loss(model, batch), a criterion such as "),
    "no data": (lambda: as_batches(None), "no data: pass batches=, a tensor, a tuple, a dictionary or an iterable of them"),
    "empty list": (lambda: as_batches([]), "no data: batches is empty (an iterator that was read before gives nothing)"),
    "exhausted": (lambda: as_batches(exhausted), "no data: batches is empty (an iterator that was read before gives nothing)"),
    "number": (lambda: as_batches(3), "batches is a int; pass a tensor, a tuple, a dictionary or an iterable of them"),
    "empty batch": (lambda: as_batches([(X, Y), (X[:0], Y[:0])]), "batch 1 is empty: drop it"),
    "empty tensor": (lambda: as_batches(X[:0]), "batch 0 is empty: drop it"),
    "array": (lambda: as_batches(X.numpy()), "batches is a NumPy array; convert it with torch.as_tensor"),
    "arrays": (
        lambda: Objective(network(), nn.MSELoss()).value((X.numpy(), Y)),
        "a batch holds a NumPy array; convert it with torch.as_tensor, in the dtype of the parameters",
    ),
    "arrays of a model": (lambda: Objective(OwnLoss(), None).value({"inputs": X.numpy()}), "a batch holds a NumPy array; "),
    "sizes unknown": (
        lambda: batch_weights([SimpleNamespace(x=x) for x, _ in BATCHES], None),
        "batch 0 is a SimpleNamespace without tensors, so its size is unknown: convert arrays, or pass weights=",
    ),
    "criterion": (
        lambda: Objective(network(), lambda a, b: F.cross_entropy(a, b)).value((X, Y)),
        "loss(a, b), called with model and batch, failed: cross_entropy_loss(): argument 'input' (position 1) must be Tensor, not ",
    ),
    "too few weights": (lambda: batch_weights(BATCHES, [1, 2]), "2 weights for 3 batches"),
    "negative weight": (lambda: batch_weights(BATCHES, [1, -1, 2]), "the weights of the batches are [1.0, -1.0, 2.0]; they must be "),
    "infinite weight": (lambda: batch_weights(BATCHES, lambda b: float("inf")), "the weights of the batches are [inf, inf, inf]; "),
    "nan": (lambda: batch_weights(BATCHES, [1, float("nan"), 1]), "the weights of the batches are [1.0, nan, 1.0]; "),
    "all zero": (lambda: batch_weights(BATCHES, [0, 0, 0]), "the weights of the batches are [0.0, 0.0, 0.0]; "),
    "no pair": (lambda: Objective(network(), nn.MSELoss()).value(X), "a criterion needs batches (inputs, targets) or {'inputs': ..., "),
    "three parts": (lambda: Objective(network(), nn.MSELoss()).value((X, Y, Y)), "a criterion needs batches (inputs, targets) or "),
    "no labels": (lambda: Objective(OwnLoss(), None).value({"inputs": X}), "the model returned no loss; put labels into the batch, "),
    "no loss": (lambda: Objective(network(), None).value(X), "the model returned no loss; put labels into the batch, or pass loss="),
    "vector": (
        lambda: Objective(network(), nn.CrossEntropyLoss(reduction="none")).value((X, Y)),
        "the loss has shape (11,); return a scalar, for instance its mean over the batch",
    ),
    "complex": (
        lambda: Objective(network(), lambda m, b: m(b).mean() * 1j).value(X), "the loss has dtype torch.complex128; return a real ",
    ),
    "several outputs": (
        lambda: Objective(OwnLoss(), nn.MSELoss()).outputs((X, Y)),
        "the model returns a SimpleNamespace; the Gauss-Newton operator needs a tensor of outputs",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_say_in_one_line_what_is_wrong(kind):
    call, message = ERRORS[kind]
    with pytest.raises(ProbeError) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)

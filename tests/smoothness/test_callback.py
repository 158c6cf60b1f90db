"""Probes during training leave the training bit for bit as it was, and collect what a probe at that step would give."""

import matplotlib
import pytest
import torch
from torch import nn

from deva_theory.problems import zoo
from deva_theory.smoothness.callback import ProbeCallback
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.probing import probe
from deva_theory.smoothness.result import ProbeResult

matplotlib.use("Agg")


def problem(name="logistic"):
    return zoo.load(name, size="tiny", dtype=torch.float64, batches=2)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_training_is_the_same_with_and_without(name):
    plain, probed = problem(name), problem(name)
    callback = ProbeCallback(probed.criterion, list(probed.batches), every=2, select="bias", check=False)
    assert probed.train(4, callback=callback) == plain.train(4)
    for a, b in zip(plain.model.state_dict().values(), probed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert list(callback.results) == [2, 4]


def test_modes_gradients_and_random_state_stay():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)).double()
    model[1].eval()
    batch = (torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,)))
    nn.CrossEntropyLoss()(model(batch[0]), batch[1]).backward()
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    gradients = [p.grad.clone() for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    ProbeCallback(nn.CrossEntropyLoss(), batch, at=[1])(1, model)
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))


def test_results_are_those_of_a_probe_at_that_step(tmp_path):
    training = problem()
    callback = ProbeCallback(training.criterion, list(training.batches), at=(3,), every=4, folder=tmp_path / "steps", norm=("l2", "linf"))
    training.train(4, callback=callback)
    assert list(callback.results) == [3, 4]
    fresh = problem()
    fresh.train(4)
    expected = probe(fresh.model, fresh.criterion, list(fresh.batches), norm=("l2", "linf"))
    assert callback.results[4].rows() == expected.rows()
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["step-000003.json", "step-000004.json"]
    assert ProbeResult.from_json(tmp_path / "steps" / "step-000004.json").rows() == callback.results[4].rows()


def test_a_result_is_on_disk_before_the_next_step_fails(tmp_path):
    training = problem()

    def stop(step, model):
        callback(step, model)
        if step == 2:
            raise KeyboardInterrupt

    callback = ProbeCallback(training.criterion, list(training.batches), every=1, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        training.train(5, callback=stop)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_generator_of_batches_serves_every_step():
    training = problem()
    callback = ProbeCallback(training.criterion, iter(list(training.batches)), every=1, max_batches=1)
    training.train(2, callback=callback)
    assert [result.settings["batches"] for result in callback.results.values()] == [1, 1]


def test_one_step_is_given_as_a_number():
    training = problem()
    callback = ProbeCallback(training.criterion, list(training.batches), at=2)
    training.train(3, callback=callback)
    assert list(callback.results) == [2]


def test_forms():
    pytest.importorskip("pandas")
    from matplotlib import pyplot

    training = problem()
    callback = ProbeCallback(training.criterion, list(training.batches), every=2)
    training.train(6, callback=callback)
    frame = callback.to_dataframe()
    assert list(frame.step.unique()) == [2, 4, 6]
    assert set(frame.block) == {"weight", "bias"}
    axes = callback.plot()
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["weight", "bias"]
    with pytest.raises(ProbeError, match="'linf' was not probed"):
        callback.plot(norm="linf")
    pyplot.close("all")


def test_many_blocks_have_a_colour_bar():
    from matplotlib import pyplot

    training = problem("vit")
    callback = ProbeCallback(training.criterion, list(training.batches), at=[1], check=False)
    training.train(1, callback=callback)
    figure, axes = pyplot.subplots()
    callback.plot(axes)
    assert axes.get_legend() is None
    assert len(figure.axes) == 2
    figure.canvas.draw()
    pyplot.close("all")


BAD = {
    "no step": ({}, "no step is probed"),
    "every 0": ({"every": 0}, "at least 1"),
    "every 2.5": ({"every": 2.5}, "must be an integer"),
    "every True": ({"every": True}, "must be an integer"),
    "negative": ({"at": [-1]}, "step -1"),
    "negative number": ({"at": -1}, "step -1"),
    "a fraction": ({"at": 1.5}, "give a step or a sequence"),
    "fractions": ({"at": [1, 2.0]}, "give a step or a sequence"),
    "a text": ({"at": "12"}, "give a step or a sequence"),
    "no batches": ({"every": 1, "max_batches": 0}, "max_batches is 0"),
    "resume": ({"every": 1, "resume": "journal"}, "use folder="),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_options(options, words):
    with pytest.raises(ProbeError, match=words):
        ProbeCallback(None, torch.ones(1), **options)

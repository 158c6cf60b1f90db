"""An interrupted probe goes on where it stopped, and never on what belongs to another probe."""

import json

import pytest
import torch
from torch import nn

from deva_theory.rules import Diagnostics
from deva_theory.runtime import Progress, Task
from deva_theory.smoothness.curvature.blocks import Block, Piece
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.probing import probe
from deva_theory.smoothness.result import ProbeResult
from tests.smoothness.test_probe import problem, toy


class Interrupting(Progress):
    """Interrupts after so many blocks."""

    def __init__(self, after):
        super().__init__("silent")
        self.after = after

    def task(self, description, total=None):
        outer = self

        class Stopping(Task):
            def _advanced(self, steps):
                if self.done == outer.after:
                    raise KeyboardInterrupt

        return Stopping(description, total)


OPTIONS = {"norm": ("l2", "linf"), "check": False}


def interrupted(journal, after, **options):
    with pytest.raises(KeyboardInterrupt):
        probe(*problem(), **OPTIONS, **options, resume=journal, progress=Interrupting(after))


def total_products(result, blocks):
    return sum(estimate.products for block in blocks for estimate in block.estimates.values())


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_probe_computes_only_the_rest(tmp_path, after):
    whole = probe(*problem(), **OPTIONS)
    journal = tmp_path / "journal"
    interrupted(journal, after)
    rest = probe(*problem(), **OPTIONS, resume=journal)
    assert rest.rows() == whole.rows()
    assert rest.cost["products"] == total_products(whole, whole.blocks[after:])
    assert probe(*problem(), **OPTIONS, resume=journal).cost["products"] == 0


def test_a_torn_last_line_is_computed_again(tmp_path):
    whole = probe(*problem(), **OPTIONS)
    journal = tmp_path / "journal"
    interrupted(journal, 2)
    text = journal.read_text()
    journal.write_text(text[:-20])
    lost = json.loads(text.splitlines()[-1])
    rest = probe(*problem(), **OPTIONS, resume=journal)
    assert rest.rows() == whole.rows()
    again = whole[lost["block"]].estimates[lost["norm"]].products
    assert rest.cost["products"] == total_products(whole, whole.blocks[2:]) + again
    # What was appended after the torn line is found.
    assert probe(*problem(), **OPTIONS, resume=journal).cost["products"] == 0


def test_sampling_intervals_are_kept_too(tmp_path):
    journal = tmp_path / "journal"
    first = probe(*toy(), sampling=True, check=False, resume=journal)
    assert probe(*toy(), sampling=True, check=False, resume=journal).rows() == first.rows()


def test_a_foreign_file_is_not_overwritten(tmp_path):
    journal = tmp_path / "notes.txt"
    journal.write_text("my notes\n")
    with pytest.raises(ProbeError, match="is no journal of a probe"):
        probe(*toy(), resume=journal, check=False)
    assert journal.read_text() == "my notes\n"


def moved_parameter(model, loss, batches):
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-9
    return (model, loss, batches), {}


def same_value_doubled(model, batch):
    """The cross entropy's value with twice its gradient and Hessian."""
    value = nn.CrossEntropyLoss()(model(batch[0]), batch[1])
    return 2 * value - value.detach()


def plain(model, batch):
    return nn.CrossEntropyLoss()(model(batch[0]), batch[1])


OTHERS = {
    "a parameter": moved_parameter,
    "the data": lambda m, l, b: ((m, l, [(x + 1e-9, y) for x, y in b]), {}),
    "a batch fewer": lambda m, l, b: ((m, l, b[:-1]), {}),
    "the curvature": lambda m, l, b: ((m, l, b), {"curvature": "gauss_newton"}),
    "the loss": lambda m, l, b: ((m, nn.CrossEntropyLoss(label_smoothing=1e-6), b), {}),
    "a loss of the same value": lambda m, l, b: ((m, same_value_doubled, b), {}),
    "the loss by a constant": lambda m, l, b: ((m, lambda model, batch: plain(model, batch) + 1e-6, b), {}),
    "the model's code": lambda m, l, b: ((nn.Sequential(m[0], nn.Sigmoid(), m[2]), l, b), {}),
    "the weights": lambda m, l, b: ((m, l, b), {"weights": [1.0, 1.0, 1.0]}),
    "the weights' function": lambda m, l, b: ((m, l, b), {"weights": lambda batch: len(batch[1]) ** 2}),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_journal_of_another_probe_is_refused(tmp_path, change):
    journal = tmp_path / "journal"
    probe(*toy(), check=False, resume=journal)
    arguments, options = change(*toy())
    with pytest.raises(ProbeError, match="other parameters, data or settings, or of another loss") as caught:
        probe(*arguments, check=False, resume=journal, **options)
    assert "\n" not in str(caught.value)


def test_weights_are_told_apart_where_the_loss_cannot(tmp_path):
    model, loss, batches = toy()
    batches = [batches[0], batches[0]]
    probe(model, loss, batches, check=False, weights=[1.0, 2.0], resume=tmp_path / "j")
    with pytest.raises(ProbeError, match="belongs to a probe"):
        probe(model, loss, batches, check=False, weights=[2.0, 1.0], resume=tmp_path / "j")
    # Only their ratios count.
    assert probe(model, loss, batches, check=False, weights=[2.0, 4.0], resume=tmp_path / "j").cost["products"] == 0


def test_losses_that_agree_to_rounding_are_one(tmp_path):
    """Sums in another order, as of a GPU or of more threads."""
    probe(*toy(), check=False, resume=tmp_path / "j")
    model, _, batches = toy()
    found = probe(model, lambda m, b: plain(m, b) * (1 + 1e-13), batches, check=False, resume=tmp_path / "j")
    assert found.cost["products"] == 0


def row(name, index):
    return [Block(name, (Piece("0.weight", (1, 2), (slice(index, index + 1),)),))]


def weights_of(value, basis=None):
    values = torch.full((2, 2), value, dtype=torch.float64)
    return {"0.weight": Diagnostics(values, torch.ones(2, 2), basis, 1.0)}


def turned(angle):
    c, s = torch.tensor(angle).cos().item(), torch.tensor(angle).sin().item()
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return turn, turn


G = {"norm": "gamma-l2", "select": "0.weight"}
CHANGES = {
    "the seed": ({}, {"seed": 1}),
    "the norm": ({}, {"norm": "linf"}),
    "the tolerance": ({}, {"tolerance": 0.5}),
    "the failure": ({}, {"failure": 0.1}),
    "the stop": ({}, {"stop": "value"}),
    "the products": ({}, {"max_products": 2}),
    "the effort": ({"norm": "linf"}, {"norm": "linf", "effort": "low"}),
    "the slices": ({"blocks": row("part", 0)}, {"blocks": row("part", 1)}),
    "the pieces": ({"blocks": row("part", 0)}, {"blocks": [Block("part", (Piece("0.bias", (2,)),))]}),
    "gamma": (G | {"gamma": {"0.weight": torch.ones(2, 2)}}, G | {"gamma": {"0.weight": 2 * torch.ones(2, 2)}}),
    "diagnostics": (G | {"gamma": weights_of(1.0)}, G | {"gamma": weights_of(0.5)}),
    "the basis": (G | {"gamma": weights_of(1.0, turned(0.1))}, G | {"gamma": weights_of(1.0, turned(0.7))}),
    "the owner of gamma": (
        {"norm": "gamma-l2", "blocks": "model", "gamma": {"0.bias": torch.full((2,), 0.5)}},
        {"norm": "gamma-l2", "blocks": "model", "gamma": {"2.bias": torch.full((2,), 0.5)}},
    ),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_what_an_estimate_depends_on_is_computed_anew(tmp_path, before, after):
    journal = tmp_path / "journal"
    probe(*toy(), check=False, resume=journal, **before)
    alone = probe(*toy(), check=False, **after)
    found = probe(*toy(), check=False, resume=journal, **after)
    assert found.rows() == alone.rows()
    assert found.cost["products"] == alone.cost["products"] > 0
    # Both are in the journal now.
    for options in (before, after):
        assert probe(*toy(), check=False, resume=journal, **options).cost["products"] == 0


def test_norms_and_blocks_are_added_to_a_journal(tmp_path):
    journal = tmp_path / "journal"
    probe(*toy(), check=False, norm="l2", select="0", resume=journal)
    both = probe(*toy(), check=False, norm=("l2", "linf"))
    found = probe(*toy(), check=False, norm=("l2", "linf"), select="0", resume=journal)
    assert found.rows() == both.rows()[:4]
    assert found.cost["products"] == sum(block.estimates["linf"].products for block in both.blocks[:2])
    whole = probe(*toy(), check=False, norm=("l2", "linf"), resume=journal)
    assert whole.rows() == both.rows()
    assert whole.cost["products"] == total_products(both, both.blocks[2:])


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_an_empty_file_and_a_torn_header_are_empty_journals(tmp_path, kept):
    journal = tmp_path / "journal"
    probe(*toy(), check=False, resume=journal)
    whole = journal.read_text()
    journal.write_text(whole[:kept])
    probe(*toy(), check=False, resume=journal)
    assert journal.read_text() == whole


def test_an_entry_of_another_size_is_computed_again(tmp_path):
    journal = tmp_path / "journal"
    first = probe(*toy(), check=False, resume=journal)
    journal.write_text(journal.read_text().replace('"size": 4', '"size": 5'))
    found = probe(*toy(), check=False, resume=journal)
    assert found.rows() == first.rows()
    assert found.cost["products"] == sum(b.estimates["l2"].products for b in first if b.size == 4)


def test_a_folder_and_a_file_for_a_folder_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path, "name a file in it"), (tmp_path / "file" / "journal", "cannot be read and written")):
        with pytest.raises(ProbeError, match=words) as caught:
            probe(*toy(), check=False, resume=path)
        assert "\n" not in str(caught.value)


# ---- sampling ------------------------------------------------------------------------------------------------------------


def other_batches(seed=5):
    return toy(seed)[2]


SAMPLINGS = {
    "off to own": (False, True),
    "own to off": (True, False),
    "off to held out": (False, other_batches()),
    "own to held out": (True, other_batches()),
    "held out to own": (other_batches(), True),
    "held out to others": (other_batches(), other_batches(6)),
}


@pytest.mark.parametrize(("before", "after"), SAMPLINGS.values(), ids=SAMPLINGS)
def test_sampling_intervals_are_those_that_were_asked_for(tmp_path, before, after):
    journal = tmp_path / "journal"
    probe(*toy(), check=False, sampling=before, resume=journal)
    alone = probe(*toy(), check=False, sampling=after)
    found = probe(*toy(), check=False, sampling=after, resume=journal)
    assert [b.sampling for b in found] == [b.sampling for b in alone]
    assert all(bool(b.sampling) == (after is not False) for b in found)
    again = probe(*toy(), check=False, sampling=after, resume=journal)
    assert [b.sampling for b in again] == [b.sampling for b in alone]
    assert again.cost["products"] == 0


def test_weights_of_held_out_batches_are_told_apart(tmp_path):
    journal = tmp_path / "journal"
    options = {"check": False, "sampling": other_batches(), "resume": journal}
    model, loss, batches = toy()
    batches = [batches[0], batches[0]]
    first = probe(model, loss, batches, weights=lambda b: 1.0, **options)
    found = probe(model, loss, batches, weights=lambda b: float(len(b[1])), **options)
    assert first["0.weight"].sampling["l2"].value != found["0.weight"].sampling["l2"].value


def test_one_batch_without_an_interval_is_not_computed_again(tmp_path):
    arguments = toy(count=1)
    probe(*arguments, check=False, sampling=True, resume=tmp_path / "j")
    assert probe(*arguments, check=False, sampling=True, resume=tmp_path / "j").cost["products"] == 0


# ---- low precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_that_misses_its_tolerance_round_trips(tmp_path, dtype):
    options = {"norm": ("l2", "linf", "spectral", "l11"), "tolerance": 1e-9, "check": False, "resume": tmp_path / "journal"}
    result = probe(*toy(dtype=dtype), **options)
    assert not any(block.estimates["l2"].met for block in result)
    assert result.summary().count(" !") >= len(result)
    result.to_json(tmp_path / "r.json")
    assert ProbeResult.from_json(tmp_path / "r.json") == result
    again = probe(*toy(dtype=dtype), **options)
    assert again.blocks == result.blocks
    assert again.cost["products"] == 0

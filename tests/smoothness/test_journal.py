"""An interrupted probe goes on where it stopped, and never on what belongs to another probe."""

import json

import pytest
import torch

from deva_theory.runtime import Progress, Task
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.probing import probe
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


OTHERS = {
    "a parameter": moved_parameter,
    "the data": lambda m, l, b: ((m, l, [(x + 1e-9, y) for x, y in b]), {}),
    "a batch fewer": lambda m, l, b: ((m, l, b[:-1]), {}),
    "the seed": lambda m, l, b: ((m, l, b), {"seed": 1}),
    "the norm": lambda m, l, b: ((m, l, b), {"norm": "linf"}),
    "the tolerance": lambda m, l, b: ((m, l, b), {"tolerance": 0.5}),
    "the curvature": lambda m, l, b: ((m, l, b), {"curvature": "gauss_newton"}),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_journal_of_another_probe_is_refused(tmp_path, change):
    journal = tmp_path / "journal"
    probe(*toy(), check=False, resume=journal)
    arguments, options = change(*toy())
    with pytest.raises(ProbeError, match="other parameters, data or settings"):
        probe(*arguments, check=False, resume=journal, **options)

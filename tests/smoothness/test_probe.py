"""The whole probe: dense truth inside every interval, forms, the journal, and everything that must not change."""

import copy
import csv
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import deva_theory
from deva_theory.problems import zoo
from deva_theory.smoothness.curvature.blocks import Block, Piece, make_blocks
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.probing import probe
from deva_theory.smoothness.result import ProbeResult

matplotlib.use("Agg")
NORMS = ("l2", "linf", "spectral", "l11")


def toy(seed=0, widths=(2, 2, 2), count=3, dtype=torch.float64):
    """A perceptron of 2×2 matrices: small enough to search both balls exhaustively."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(widths[0], widths[1]), nn.Tanh(), nn.Linear(widths[1], widths[2])).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    # Of different sizes: weights matter.
    batches = [
        (torch.randn(n, widths[0], generator=generator, dtype=torch.float64).to(dtype), torch.randint(widths[2], (n,), generator=generator))
        for n in range(3, 3 + count)
    ]
    return model, nn.CrossEntropyLoss(), batches


def problem(name="mlp", batches=2):
    found = zoo.load(name, size="tiny", dtype=torch.float64, batches=batches)
    return found.model, found.criterion, list(found.batches)


def dense(model, criterion, batches, name):
    """The block's Hessian by double backward, one row at a time."""
    model.eval()
    parameter = dict(model.named_parameters())[name]
    total = sum(len(y) for _, y in batches)
    with sdpa_kernel(SDPBackend.MATH):
        value = sum(len(y) / total * criterion(model(x), y) for x, y in batches)
    (gradient,) = torch.autograd.grad(value, parameter, create_graph=True)
    rows = [torch.autograd.grad(g, parameter, retain_graph=True)[0].reshape(-1) for g in gradient.reshape(-1)]
    model.train()
    return torch.stack(rows)


def signs(d):
    bits = torch.arange(2**d).unsqueeze(-1) >> torch.arange(d)
    return 1.0 - 2.0 * (bits & 1).double()


def box_value(H):
    return (signs(len(H)) @ H).abs().sum(-1).max().item()


def spectral_value(H, points=1500):
    """‖H‖_{S∞→S1} on 2×2 matrices: rotations and reflections Y on a grid, the best X in closed form."""
    angle = torch.linspace(0, 2 * math.pi, points, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    rotations = torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)
    Y = torch.cat((rotations, rotations * torch.tensor([1.0, -1.0], dtype=torch.float64)))
    return torch.linalg.svdvals((Y.reshape(-1, 4) @ H).reshape(-1, 2, 2)).sum(-1).max().item()


ORACLES = {
    "l2": lambda H: torch.linalg.eigvalsh(H).abs().max().item(),
    "linf": box_value,
    "spectral": spectral_value,
    "l11": lambda H: H.abs().sum().item(),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", NORMS)
def test_the_dense_value_lies_in_every_interval(norm, seed):
    model, loss, batches = toy(seed)
    result = probe(model, loss, batches, norm=norm, check=False)
    for block in result:
        H = dense(model, loss, batches, block.name)
        # A vector stands for a diagonal matrix: its spectral ball is the box.
        value = ORACLES["linf" if norm == "spectral" and block.size < 4 else norm](H)
        bounds = block.estimates[norm].bilinear
        # The grid misses the maximum by its spacing squared.
        slack = 1e-5 if norm == "spectral" else 1e-12
        assert bounds.contains(value, rtol=slack), (block.name, value, bounds)
        quadratic = block.estimates[norm].quadratic
        if norm == "l2":
            assert quadratic.contains(max(0.0, torch.linalg.eigvalsh(H)[-1].item()), rtol=1e-12)
        elif norm == "linf" and bool((H.diagonal() >= 0).all()):
            S = signs(len(H))
            assert quadratic.contains(((S @ H) * S).sum(-1).max().item(), rtol=1e-12)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "gpt-tied"])
def test_eigenvalues_of_the_zoo_lie_in_the_intervals(name):
    model, loss, batches = problem(name)
    result = probe(model, loss, batches, norm="l2", check=False, select="tokens" if name == "gpt-tied" else None)
    for block in result:
        parameter = dict(model.named_parameters())[block.name]
        if parameter.numel() > 800:
            continue
        assert block.estimates["l2"].bilinear.contains(ORACLES["l2"](dense(model, loss, batches, block.name)), rtol=1e-10)
        assert block.estimates["l2"].met


@pytest.mark.parametrize("norm", ["gamma-l2", "gamma-linf", "gamma-l11"])
def test_weighted_norms_are_those_of_the_weighted_matrix(norm):
    model, loss, batches = toy()
    generator = torch.Generator().manual_seed(1)
    weights = {name: p for name, p in model.named_parameters() if "weight" in name}
    gamma = {name: torch.rand(p.shape, generator=generator, dtype=torch.float64) for name, p in weights.items()}
    result = probe(model, loss, batches, norm=norm, gamma=gamma, check=False)
    for block in result:
        g = gamma.get(block.name, torch.ones(block.shapes[0], dtype=torch.float64)).reshape(-1)
        H = g.unsqueeze(-1) * dense(model, loss, batches, block.name) * g
        assert block.estimates[norm].bilinear.contains(ORACLES[norm.removeprefix("gamma-")](H), rtol=1e-12)


def test_gradient_norms_and_loss_are_the_weighted_means():
    model, loss, batches = toy()
    result = probe(model, loss, batches, check=False)
    total = sum(len(y) for _, y in batches)
    value = sum(len(y) / total * loss(model(x), y) for x, y in batches)
    value.backward()
    assert result.loss == pytest.approx(value.item(), rel=1e-12)
    for block in result:
        gradient = dict(model.named_parameters())[block.name].grad
        nuclear = torch.linalg.svdvals(gradient).sum() if gradient.ndim == 2 else gradient.abs().sum()
        expected = {"l2": gradient.norm().item(), "linf": gradient.abs().sum().item(), "spectral": nuclear.item()}
        assert block.gradient == pytest.approx(expected, rel=1e-10)


# ---- forms -----------------------------------------------------------------------------------------------------------


def test_json_csv_and_dataframe_round_trip(tmp_path):
    pandas = pytest.importorskip("pandas")
    result = probe(*toy(), norm=NORMS, sampling=True)
    result.to_json(tmp_path / "r.json")
    again = ProbeResult.from_json(tmp_path / "r.json")
    assert again == result  # but for witnesses and provenance
    assert again.to_dict() == result.to_dict()
    result.to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * len(NORMS) == len(result.rows())
    assert [float(row["lower"]) for row in rows] == [row["lower"] for row in result.rows()]
    pandas.testing.assert_frame_equal(result.to_dataframe(), pandas.DataFrame(again.rows()))
    assert "0.weight" in result.summary()
    assert result.norms == NORMS


def test_plot_draws_every_block_once_per_norm():
    from matplotlib import pyplot

    axes = probe(*toy(), norm=("l2", "linf"), check=False).plot()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(axes.containers) == 2
    pyplot.close("all")


def swapped(data):
    bounds = data["blocks"][0]["estimates"]["l2"]["bilinear"]
    bounds["lower"], bounds["upper"] = 2.0, 1.0


def of_another_size(data):
    data["blocks"][0]["estimates"]["l2"]["size"] += 1


INCONSISTENT = {
    "ends": swapped,
    "sizes": of_another_size,
    "a text for a number": lambda data: data["blocks"][0]["estimates"]["l2"]["bilinear"].update(lower="x"),
    "a list for a mapping": lambda data: data["blocks"][0].update(estimates=[]),
    "a number for settings": lambda data: data.update(settings=3),
}


@pytest.mark.parametrize("change", INCONSISTENT.values(), ids=INCONSISTENT)
def test_inconsistent_numbers_are_named(tmp_path, change):
    data = probe(*toy(), check=False).to_dict()
    change(data)
    (tmp_path / "r.json").write_text(json.dumps(data))
    for read in (lambda: ProbeResult.from_json(tmp_path / "r.json"), lambda: ProbeResult.from_dict(data)):
        with pytest.raises(ProbeError, match="inconsistent") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_folder_is_no_result(tmp_path):
    with pytest.raises(ProbeError, match="cannot be read"):
        ProbeResult.from_json(tmp_path)


FOREIGN = {
    "missing": (None, "no such file"),
    "text": ("hello", "is no probe result"),
    "other json": ('{"format": "else"}', "is no probe result"),
    "a list": ("[1]", "is no probe result"),
    "cut off": ('{"format": "deva_theory probe 1", "blocks": [{"name": "w"}]}', "is no probe result"),
}


@pytest.mark.parametrize(("text", "words"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(ProbeError, match=words) as caught:
        ProbeResult.from_json(tmp_path / "r.json")
    assert str(tmp_path) not in str(caught.value)


# ---- what must not change ------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_another_others():
    rows = [probe(*toy(widths=(6, 6, 4)), norm="l2", seed=seed, check=False).rows() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float32}, {"device": "cpu"}, {"curvature": "gauss_newton"}], ids=str)
def test_the_model_is_left_untouched(options):
    model, loss, batches = problem("cnn")
    model[0].eval()
    model[-1].weight.requires_grad_(False)
    loss(model(batches[0][0]), batches[0][1]).backward()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes, needs = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    data = [(x.clone(), y.clone()) for x, y in batches]
    random = torch.get_rng_state()
    result = probe(model, loss, batches, norm="l2", **options)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs
    for name, p in model.named_parameters():
        assert (p.grad is None) == (gradients[name] is None)
        assert p.grad is None or torch.equal(p.grad, gradients[name])
    assert all(torch.equal(a, b) for old, new in zip(data, batches, strict=True) for a, b in zip(old, new, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert result.settings["dtype"] == str(options.get("dtype", torch.float64)).removeprefix("torch.")
    assert next(model.parameters()).dtype == torch.float64


def test_single_precision_encloses_nearly_the_same_numbers():
    double, single = probe(*toy(), norm="l2"), probe(*toy(), norm="l2", dtype=torch.float32)
    for a, b in zip(double, single, strict=True):
        assert b.estimates["l2"].bilinear.lower == pytest.approx(a.estimates["l2"].bilinear.lower, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_intervals_of_single_precision_hold_the_values_of_double(name):
    """Products in float32 are off by 1e-7: an interval that counts on float64's accuracy misses the value."""
    found = zoo.load(name, size="tiny", dtype=torch.float32, batches=1)
    model, loss, (batch,) = found.model, found.criterion, found.batches
    exact = copy.deepcopy(model).double(), loss, [tuple(t.double() if t.is_floating_point() else t for t in batch)]
    blocks = [block for block in make_blocks(model) if block.size <= 150 and not block.name.startswith("blocks.1")]
    for block in probe(model, loss, [batch], norm=NORMS, blocks=blocks, check=False):
        H = dense(*exact, block.name)
        intervals = {norm: estimate.bilinear for norm, estimate in block.estimates.items()}
        assert intervals["l2"].contains(ORACLES["l2"](H)), (block.name, intervals["l2"])
        if not intervals["l11"].approximate:
            assert intervals["l11"].contains(ORACLES["l11"](H)), (block.name, intervals["l11"])
        if block.size <= 12:
            assert intervals["linf"].contains(box_value(H)), (block.name, intervals["linf"])
            if len(block.shapes[0]) == 1:
                assert intervals["spectral"].contains(box_value(H)), (block.name, intervals["spectral"])
        for norm in ("linf", "spectral"):
            # Larger balls are not searched: the form at the witness, and what the power iteration makes of it, lie below the value.
            x, y = intervals[norm].witness
            assert intervals[norm].lower <= (x @ H @ y).item()
            ball = block_ball(block, norm)
            for _ in range(20):
                y = ball.steepest((H @ y).unsqueeze(0))[0]
            assert ball.dual_norm((H @ y).unsqueeze(0)).item() <= intervals[norm].upper


def block_ball(block, norm):
    return Block(block.name, tuple(Piece(block.name, shape) for shape in block.shapes)).ball(norm)


def test_graphs_that_are_not_kept_give_the_same_intervals():
    kept, built = (probe(*toy(), norm=("l2", "linf"), check=False, keep_graph=keep) for keep in (True, False))
    for a, b in zip(kept.rows(), built.rows(), strict=True):
        assert (a["lower"], a["upper"]) == pytest.approx((b["lower"], b["upper"]), rel=1e-10)


# ---- sampling ------------------------------------------------------------------------------------------------------------


def regression(generator, batches):
    inputs = torch.randn(batches, 4, 3, generator=generator, dtype=torch.float64)
    return [(x, torch.zeros(4, 1, dtype=torch.float64)) for x in inputs]


def test_held_out_intervals_cover_the_population():
    """H = 2 E[xxᵀ] = 2I in the population: 2 at every unit witness, whatever batches it was found on."""
    covered, biased = 0, 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        model = nn.Linear(3, 1, bias=False).double()
        own, other = regression(generator, 5), regression(generator, 15)
        result = probe(model, nn.MSELoss(), own, sampling=other, check=False)
        interval = result["weight"].sampling["l2"]
        assert interval.held_out and interval.batches == 15
        covered += interval.lower <= 2.0 <= interval.upper
        biased += probe(model, nn.MSELoss(), own, sampling=True, check=False)["weight"].sampling["l2"].value > 2.0
    assert covered >= 51  # of 60 at 95 %
    # Without held-out batches the witness is fitted to the very data: too large most of the time.
    assert biased >= 50


def test_one_batch_has_no_sampling_interval():
    model, loss, batches = toy(count=1)
    assert probe(model, loss, batches, sampling=True, check=False)["0.weight"].sampling == {}


# ---- bad options -----------------------------------------------------------------------------------------------------------

BAD = {
    "norm": ({"norm": "l3"}, "'l3' is unknown; use some of l2"),
    "no norm": ({"norm": ()}, "is unknown"),
    "gamma": ({"norm": "gamma-l2"}, "needs gamma="),
    "gamma's shape": ({"norm": "gamma-l2", "gamma": {"0.weight": torch.ones(3, dtype=torch.float64)}}, "has shape"),
    "failure 0": ({"failure": 0.0}, "between 0 and 1"),
    "failure 1": ({"failure": 1.0}, "between 0 and 1"),
    "tolerance": ({"tolerance": 0.0}, "must be positive"),
    "tolerance nan": ({"tolerance": float("nan")}, "must be positive"),
    "tolerance inf": ({"tolerance": float("inf")}, "positive and finite"),
    "tolerance text": ({"tolerance": "1e-3"}, "must be positive"),
    "tolerance by norm": ({"tolerance": {"l2": 0.0}}, "must be positive"),
    "tolerance of a typo": ({"tolerance": {"l2": 0.1, "L2": 0.2}}, "tolerance has the norm 'L2'"),
    "norm None": ({"norm": None}, "norm is None; use some of l2"),
    "norm a number": ({"norm": 2}, "norm is 2"),
    "norms of numbers": ({"norm": ("l2", 2)}, "2 is unknown"),
    "failure text": ({"failure": "small"}, "between 0 and 1"),
    "failure None": ({"failure": None}, "between 0 and 1"),
    "products": ({"max_products": 0}, "at least 1"),
    "half a product": ({"max_products": 2.5}, "max_products is 2.5; it must be an integer"),
    "true products": ({"max_products": True}, "max_products is True; it must be an integer"),
    "seed": ({"seed": 0.5}, "seed is 0.5; it must be an integer"),
    "no batches": ({"max_batches": 0}, "max_batches is 0"),
    "fewer batches": ({"max_batches": -1}, "max_batches is -1"),
    "half a batch": ({"max_batches": 1.5}, "max_batches is 1.5"),
    "an integer dtype": ({"dtype": torch.int64}, "dtype is torch.int64; use float64"),
    "an integer's name": ({"dtype": "int64"}, "dtype is 'int64'; use float64"),
    "a complex dtype": ({"dtype": torch.complex64}, "use float64"),
    "no dtype": ({"dtype": "double precision"}, "dtype is 'double precision'"),
    "a function's name": ({"dtype": "randn"}, "dtype is 'randn'"),
    "a number for a dtype": ({"dtype": 64}, "dtype is 64"),
    "device": ({"device": "gpu"}, "device is 'gpu'"),
    "blocks None": ({"blocks": None}, "blocks is None; use a name"),
    "blocks a number": ({"blocks": 3}, "blocks is 3; use a name"),
    "curvature": ({"curvature": "fisher"}, "use one of hessian, gauss_newton"),
    "blocks": ({"blocks": "nowhere"}, "matches none"),
    "select": ({"select": "nowhere"}, "matches none"),
    "expression": ({"blocks": "("}, "no valid regular expression"),
    "heads": ({"blocks": "head"}, "no attention heads"),
    "vectors": ({"vector_batch": 0}, "at least 1"),
    "weights": ({"weights": [1.0]}, "1 weights for 3 batches"),
    "negative weights": ({"weights": [1.0, -1.0, 1.0]}, "not negative"),
    "held-out nothing": ({"sampling": []}, "no data"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_options_are_one_line(options, words):
    with pytest.raises(ProbeError, match=words) as caught:
        probe(*toy(), check=False, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", ["spectral", "gamma-spectral"])
def test_a_matrix_too_large_for_the_spectral_norm_is_named_before_anything_runs(norm):
    model = nn.Sequential(nn.utils.skip_init(nn.Linear, 4097, 4097, bias=False))
    calls = []

    def loss(model, batch):
        calls.append(1)
        return model(batch).sum()

    with pytest.raises(ProbeError, match=r"block '0\.weight' holds a 4097×4097 matrix"):
        probe(model, loss, torch.ones(1, 4097), norm=("l2", norm), gamma={})
    assert not calls


def test_one_long_side_is_not_too_large():
    model, loss, batches = toy(widths=(4100, 2, 2), count=1)
    probe(model, loss, batches, norm="spectral", select="0.weight", check=False, effort="low")


@pytest.mark.parametrize("name", ["float32", "torch.float32"])
def test_a_dtype_is_also_known_by_its_name(name):
    assert probe(*toy(), dtype=name, check=False).rows() == probe(*toy(), dtype=torch.float32, check=False).rows()


def test_known_norms_may_have_a_tolerance_without_being_probed():
    result = probe(*toy(), norm="l2", tolerance={"l2": 0.1, "linf": 0.2, "gamma-l2": 0.3}, check=False)
    assert result["0.weight"].estimates["l2"].tolerance == 0.1


@pytest.mark.parametrize("failure", [1e-3, 0.2])
def test_an_entrywise_interval_says_its_own_confidence(failure):
    result = probe(*problem(), norm=("l2", "l11"), select="0.weight|1.weight", max_products=30, failure=failure, check=False)
    intervals = [b.estimates["l11"].bilinear for b in result if b.estimates["l11"].bilinear.approximate]
    assert intervals
    assert all(bounds.failure == pytest.approx(0.05) for bounds in intervals)
    assert all(b.estimates["l2"].bilinear.failure in (0.0, failure) for b in result)
    assert "confidence intervals for Σ|H_ij| (0.95, asymptotically)" in result.summary()


def test_a_value_in_a_wider_interval_is_told_apart():
    options = {"norm": "l2", "select": "1.weight", "check": False, "tolerance": 1e-3}
    by_value = probe(*problem(), stop="value", **options)
    estimate = by_value["1.weight"].estimates["l2"]
    assert estimate.met and estimate.bilinear.ratio > 1.002
    assert f"{estimate.bilinear.ratio:.3f} ~" in by_value.summary()
    assert "stopped at the value" in by_value.summary()
    assert "was not met" not in by_value.summary()
    assert "~" not in probe(*problem(), **options).summary()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_unknown_stopping_rule_is_named(norm):
    with pytest.raises(ProbeError, match="'soon'"):
        probe(*toy(), check=False, norm=norm, stop="soon")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_named():
    with pytest.raises(ProbeError, match="no CUDA device"):
        probe(*toy(), device="cuda")


@pytest.mark.gpu
def test_on_a_gpu_the_intervals_are_those_of_the_cpu():
    here, there = probe(*toy(), norm=("l2", "linf")), probe(*toy(), norm=("l2", "linf"), device="cuda")
    for a, b in zip(here.rows(), there.rows(), strict=True):
        assert (a["lower"], a["upper"]) == pytest.approx((b["lower"], b["upper"]), rel=1e-8)


# ---- several processes -------------------------------------------------------------------------------------------------------

SCRIPT = """
import pathlib, runpy, sys
import torch
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
toy = runpy.run_path(sys.argv[1])["toy"]
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.probing import probe
rank = torch.distributed.get_rank()
# Each rank names another file: what the first one finds counts.
journal = f"{sys.argv[2]}.{rank}.journal"
result = probe(*toy(), norm=("l2", "linf", "l11"), sampling=True, resume=journal)
result.to_json(f"{sys.argv[2]}.{rank}")
again = probe(*toy(), norm=("l2", "linf", "l11"), sampling=True, resume=journal)
assert again.cost["products"] == 0, again.cost
assert repr(again.rows()) == repr(result.rows())
assert pathlib.Path(journal).exists() == (rank == 0)
torch.distributed.barrier()
if rank == 0:
    pathlib.Path(journal).write_text("my notes")
try:
    probe(*toy(), resume=journal)
except ProbeError as error:
    assert "is no journal" in str(error), error
else:
    raise AssertionError("a foreign file was taken for a journal")
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_give_the_numbers_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(deva_theory.__file__).parent.parent
    shared = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, __file__, str(tmp_path / "r")],
            env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    alone = probe(*toy(), norm=("l2", "linf", "l11"), sampling=True)
    numbers = ("lower", "upper", "quadratic_lower", "quadratic_upper", "sampling_lower", "sampling_upper")
    for rank in range(2):
        together = ProbeResult.from_json(tmp_path / f"r.{rank}")
        assert together.loss == pytest.approx(alone.loss, rel=1e-12)
        for mine, theirs in zip(alone.rows(), together.rows(), strict=True):
            assert [theirs[key] for key in numbers] == pytest.approx([mine[key] for key in numbers], rel=1e-9, nan_ok=True)

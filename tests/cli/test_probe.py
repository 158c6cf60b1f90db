"""``deva-theory probe``: every kind of model, what it writes, and one line for everything that cannot be."""

import argparse
import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deva_theory
from deva_theory.cli import main, probe_options
from deva_theory.cli.probe_hf import transformers_subject
from deva_theory.problems import zoo
from deva_theory.smoothness.result import ProbeResult

TOY = '''
import torch
from torch import nn

def batches():
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 3, generator=g), torch.randint(2, (5,), generator=g)) for _ in range(3)]

def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

def pair():
    return model(), nn.CrossEntropyLoss()

def triple():
    return model(), nn.CrossEntropyLoss(), batches()

class Output:
    def __init__(self, loss):
        self.loss = loss

class Like(nn.Module):
    """In the manner of transformers: takes a dictionary's entries, returns its own loss."""
    def __init__(self):
        super().__init__()
        self.inner = model()
    def forward(self, inputs, labels):
        return Output(nn.functional.cross_entropy(self.inner(inputs), labels))

data = [{"inputs": x, "labels": y} for x, y in batches()]

def own(model, batch):
    return (model(batch[0]) ** 2).mean()

def failing(model, batch):
    return model(batch[0]).nothing

def broken():
    raise RuntimeError("no such\\nthing")

three = 3

def interrupting():
    raise KeyboardInterrupt
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder outside any clone with a module of models, fresh for every test."""
    (tmp_path / "toymodels.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "toymodels", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield tmp_path
    sys.modules.pop("toymodels", None)


def probe(*arguments):
    try:
        return main(["probe", "--threads", "1", "--quiet", *arguments])
    except SystemExit as stop:
        return stop.code


def one_line(text):
    (line,) = text.splitlines()
    return line


def test_the_zoo_with_everything_that_can_be_written(folder, capsys):
    options = ["--size", "tiny", "--norm", "l2,linf,gamma", "--json", "r.json", "--csv", "r.csv", "--figure", "r.png", "--sampling"]
    assert probe("logistic", *options) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "logistic (tiny)" in out and "Γ of deva-linf after 50 gradients" in out
    assert out.splitlines()[-3:] == ["r.json", "r.csv", "r.png"]
    result = ProbeResult.from_json("r.json")
    assert result.norms == ("l2", "linf", "gamma-linf")
    assert result.settings["dtype"] == "float64"
    assert result.checks
    with open("r.csv") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")


def test_the_names_of_the_zoo_are_those_of_the_zoo():
    assert set(probe_options.ZOO) == set(zoo.ALL_NAMES)


FACTORIES = {
    "triple": ["toymodels:triple"],
    "pair and data": ["toymodels:pair", "--data", "toymodels:batches"],
    "model, loss, data": ["toymodels:model", "--loss", "torch.nn:CrossEntropyLoss", "--data", "toymodels:batches"],
    "a function as loss": ["toymodels:model", "--loss", "toymodels:own", "--data", "toymodels:batches"],
    "a class, own loss, data as list": ["toymodels:Like", "--data", "toymodels:data"],
    "gamma from its batches": ["toymodels:triple", "--norm", "gamma,gamma-l2", "--rule", "deva-spectral", "--warmup", "7"],
    "layers": ["toymodels:triple", "--blocks", "layer", "--curvature", "gauss-newton", "--max-batches", "2"],
    "a regular expression": ["toymodels:triple", "--blocks", r"(\d)\.", "--select", "0", "--dtype", "float64", "--tolerance", "l2=0.1"],
}


@pytest.mark.parametrize("arguments", FACTORIES.values(), ids=FACTORIES)
def test_factories(folder, capsys, arguments):
    assert probe(*arguments, "--json", "r.json") == 0
    assert "products in" in capsys.readouterr().out
    result = ProbeResult.from_json("r.json")
    assert all(e.bilinear.lower <= e.bilinear.upper for block in result for e in block.estimates.values())


def test_the_same_seed_gives_the_same_weights(folder, capsys):
    losses = []
    for seed in ("0", "0", "1"):
        probe("toymodels:triple", "--seed", seed, "--json", "r.json")
        losses.append(ProbeResult.from_json("r.json").loss)
    assert losses[0] == losses[1] != losses[2]


def test_training_comes_first_and_feeds_gamma(folder, capsys):
    common = ["logistic", "--size", "tiny", "--norm", "gamma", "--json", "r.json"]
    assert probe(*common, "--train", "20", "--warmup", "5") == 0
    assert "20 training steps" in (out := capsys.readouterr().out)
    assert "after the last 5 of them" in out
    trained = ProbeResult.from_json("r.json")
    assert probe(*common) == 0
    assert trained.loss < ProbeResult.from_json("r.json").loss


def test_dry_run_probes_nothing(folder, capsys):
    assert probe("mlp", "--size", "tiny", "--norm", "l2,spectral", "--dry-run", "--resume", "journal") == 0
    out = capsys.readouterr().out
    assert "nothing was probed" in out and "spectral" in out
    assert not Path("journal").exists()


def test_compare(folder, capsys):
    for name, size in (("a.json", "5"), ("b.json", "40")):
        probe("logistic", "--size", "tiny", "--batch-size", size, "--max-batches", "2", "--json", name)
    capsys.readouterr()
    assert probe("--compare", "a.json", "b.json", "--csv", "c.csv", "--figure", "c.svg") == 0
    out = capsys.readouterr().out
    assert "weight" in out and "not separated" in out
    assert Path("c.csv").read_text().startswith("block,norm,size,a_lower")
    assert Path("c.svg").stat().st_size > 0


@pytest.mark.parametrize("suffix", ["pdf", "png", "svg"])
def test_pictures_do_not_change_between_runs(folder, suffix, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    pictures = []
    for name in ("a", "b"):
        probe("toymodels:triple", "--figure", f"{name}.{suffix}", "--no-check")
        pictures.append(Path(f"{name}.{suffix}").read_bytes())
    if suffix != "svg":  # its identifiers are random
        assert pictures[0] == pictures[1]


def test_plain_lines_of_progress_go_to_standard_error(folder, capsys):
    assert main(["probe", "toymodels:triple", "--threads", "1"]) == 0
    assert "probe: 4/4" in capsys.readouterr().err


def test_an_interrupt_names_the_way_to_resume(folder, capsys):
    assert probe("toymodels:interrupting") == 130
    assert "with --resume FILE" in one_line(capsys.readouterr().err)
    assert probe("toymodels:interrupting", "--resume", "j") == 130
    assert "the same command resumes: finished blocks are kept in j" in one_line(capsys.readouterr().err)


def test_resume(folder, capsys):
    first = ["toymodels:triple", "--resume", "journal", "--json", "r.json"]
    assert probe(*first) == 0
    done = ProbeResult.from_json("r.json")
    assert probe(*first) == 0
    again = ProbeResult.from_json("r.json")
    assert again.rows() == done.rows()
    assert again.cost["products"] == 0 < done.cost["products"]
    capsys.readouterr()
    assert probe(*first, "--seed", "3") == 2
    assert "other parameters, data or settings" in one_line(capsys.readouterr().err)


BAD = {
    "no model": ([], "probe needs a MODEL"),
    "unknown model": (["mpl"], "did you mean mlp?"),
    "no module": (["nowhere:model"], "no module 'nowhere'"),
    "no attribute": (["toymodels:modle"], "did you mean model?"),
    "half a name": (["toymodels:"], "write it as PKG.MOD:NAME"),
    "broken factory": (["toymodels:broken"], "toymodels:broken failed: RuntimeError: no such (toymodels.py, line"),
    "no model made": (["toymodels:three"], "gives a int; return a torch.nn.Module"),
    "no data": (["toymodels:pair"], "brings no data"),
    "failing loss": (["toymodels:triple", "--loss", "toymodels:failing"], "has no attribute 'nothing' (toymodels.py, line"),
    "train": (["toymodels:triple", "--train", "3"], "--train goes with a model of the zoo"),
    "context": (["mlp", "--context", "3"], "--context goes with an hf: model"),
    "batch size": (["toymodels:triple", "--batch-size", "3"], "come in batches already"),
    "norm": (["mlp", "--norm", "l2,l3"], "unknown norm 'l3'"),
    "tolerance": (["mlp", "--tolerance", "small"], "is no tolerance"),
    "tolerance of": (["mlp", "--tolerance", "l3=1"], "unknown norm 'l3'"),
    "tolerance 0": (["mlp", "--size", "tiny", "--tolerance", "0"], "must be positive"),
    "failure": (["mlp", "--size", "tiny", "--failure", "2"], "between 0 and 1"),
    "blocks": (["mlp", "--size", "tiny", "--blocks", "attention"], "matches none of 6"),
    "device": (["mlp", "--device", "tpuu"], "unknown device 'tpuu'"),
    "figure": (["mlp", "--figure", "x.gif"], "end the name in .pdf, .png, .svg"),
    "json folder": (["mlp", "--json", "no/r.json"], "its folder does not exist"),
    "csv is a folder": (["mlp", "--csv", "."], "is a folder"),
    "dry run writes": (["mlp", "--dry-run", "--json", "r.json"], "--dry-run computes no result"),
    "compare and model": (["mlp", "--compare", "a", "b"], "drop MODEL"),
    "compare nothing": (["--compare", "a", "b"], "a: no such file"),
    "compare others": (["--compare", "toymodels.py", "b"], "is no probe result"),
    "too many batches": (["logistic", "--size", "tiny", "--max-batches", "1000"], "need more than"),
    "root": (["mlp", "--root", "."], "--root"),
    "hf without a name": (["hf:"], "needs a name or a folder"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_code_2(folder, capsys, arguments, words):
    assert probe(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in one_line(err)


# ---- transformers ----------------------------------------------------------------------------------------------------


def test_without_transformers_the_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert probe("hf:gpt2") == 2
    assert "pip install 'deva-theory[hf]'" in one_line(capsys.readouterr().err)


@pytest.fixture
def gpt2(folder):
    """A folder with the configuration of a tiny GPT-2, and no weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=260, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, architectures=["GPT2LMHeadModel"]
    )
    config.save_pretrained(folder / "gpt2")
    return folder


def test_a_configuration_with_random_weights(gpt2, capsys):
    assert probe("hf:gpt2", "--random-weights", "--blocks", "head", "--norm", "l2,gamma", "--json", "r.json") == 0
    out = capsys.readouterr().out
    assert "random weights; 4 batches of 4 × 16 random tokens" in out
    assert [block.size for block in ProbeResult.from_json("r.json")] == [108, 108]


def test_a_text_is_read_as_bytes_for_want_of_a_tokenizer(gpt2, capsys):
    options = ["--random-weights", "--select", "ln_f", "--context", "8", "--batch-size", "2", "--max-batches", "3", "--dtype", "float64"]
    assert probe("hf:gpt2", *options, "--text", "toymodels.py") == 0
    assert "3 batches of 2 × 8 tokens of toymodels.py, as bytes" in capsys.readouterr().out
    Path("short.txt").write_text("abc")
    assert probe("hf:gpt2", "--random-weights", "--text", "short.txt") == 2
    assert "short.txt has 3 tokens" in one_line(capsys.readouterr().err)


def test_saved_weights_are_used(gpt2, capsys):
    import transformers

    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config.from_pretrained("gpt2"))
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained("saved")
    capsys.readouterr()
    losses = []
    for seed in ("0", "0"):
        assert probe("hf:saved", "--select", "ln_f", "--seed", seed, "--json", "r.json") == 0
        losses.append(ProbeResult.from_json("r.json").loss)
    assert losses[0] == losses[1]
    assert "random weights" not in capsys.readouterr().out


BAD_HF = {
    "no weights": (["hf:gpt2"], "holds no weights that can be read: add --random-weights"),
    "no configuration": (["hf:."], "holds no config.json"),
    "not cached": (["hf:surely/not-cached"], "is no folder and not in the local cache, and HF_HUB_OFFLINE"),
    "context": (["hf:gpt2", "--random-weights", "--context", "99"], "at most 16"),
    "task": (["hf:gpt2", "--random-weights", "--task", "masked-lm"], "choose another --task"),
    "gauss-newton": (["hf:gpt2", "--random-weights", "--curvature", "gauss-newton"], "Gauss-Newton operator needs outputs"),
    "text and data": (["hf:gpt2", "--random-weights", "--text", "toymodels.py", "--data", "toymodels:data"], "drop one"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_HF.values(), ids=BAD_HF)
def test_bad_transformers_input_is_one_line(gpt2, capsys, arguments, words):
    assert probe(*arguments) == 2
    assert words in one_line(capsys.readouterr().err)


TASKS = {
    "masked-lm": ("BertConfig", "BertForMaskedLM"),
    "sequence-classification": ("BertConfig", "BertForSequenceClassification"),
    "token-classification": ("BertConfig", "BertForTokenClassification"),
}


@pytest.mark.parametrize(("config", "architecture"), TASKS.values(), ids=TASKS)
def test_the_task_is_read_off_the_configuration(folder, capsys, config, architecture):
    transformers = pytest.importorskip("transformers")
    getattr(transformers, config)(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=16,
        architectures=[architecture],
    ).save_pretrained("bert")
    options = argparse.Namespace(
        model="hf:bert", task=None, random_weights=True, data=None, text=None, context=None, batch_size=None, max_batches=1, seed=0
    )
    found = transformers_subject(options)
    assert type(found.model).__name__ == architecture
    # The loss is the model's own, in its own precision.
    (batch,) = found.batches
    found.model.eval()
    assert found.loss(found.model, batch).item() == pytest.approx(found.model(**batch).loss.item(), rel=1e-6)
    assert probe("hf:bert", "--random-weights", "--select", "output.LayerNorm", "--max-batches", "1", "--dtype", "float64") == 0
    assert "products in" in capsys.readouterr().out


def test_a_causal_model_is_scored_on_the_next_token(gpt2, capsys):
    options = argparse.Namespace(
        model="hf:gpt2", task=None, random_weights=True, data=None, text=None, context=None, batch_size=None, max_batches=1, seed=0
    )
    found = transformers_subject(options)
    (batch,) = found.batches
    found.model.eval()
    assert found.loss(found.model, batch).item() == pytest.approx(found.model(**batch).loss.item(), rel=1e-6)


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_two_processes_give_the_numbers_of_one_and_print_once(folder, capsys):
    options = ["toymodels:triple", "--norm", "l2,gamma", "--dtype", "float64"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(deva_theory.__file__).parent.parent),
    }
    command = [sys.executable, "-m", "deva_theory", "probe", "--threads", "1", *options, "--json", "two.json"]
    started = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "products in" in outputs[0][0]
    assert outputs[1][0] == ""
    assert probe(*options, "--json", "one.json") == 0
    one, two = (json.loads(Path(name).read_text()) for name in ("one.json", "two.json"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-12)
    for a, b in zip(ProbeResult.from_dict(one).rows(), ProbeResult.from_dict(two).rows(), strict=True):
        assert (b["lower"], b["upper"]) == pytest.approx((a["lower"], a["upper"]), rel=1e-9)

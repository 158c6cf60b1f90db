"""The command line on a clone of its own: one toy experiment of three parts, two figures."""

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import deva_theory
from deva_theory.cli import doctor, main
from deva_theory.cli.errors import BadInput
from deva_theory.cli.project import find_root

EXPERIMENT = '''
"""A toy: powers of two, in three parts."""
from dataclasses import dataclass
from pathlib import Path
import numpy as np

@dataclass(frozen=True)
class Config:
    base: float = 2.0
    parts: int = 3

TOLERANCES = {"powers": {"value": (0.01, 0.0)}}

def compute(config, *, cache, progress):
    values = []
    with progress.task("powers", total=config.parts) as task:
        for part in range(config.parts):
            log = Path(__file__).parent.parent / "log.txt"
            def power(part=part):
                if (log.parent / f"interrupt-{part}").exists():
                    raise KeyboardInterrupt
                log.write_text((log.read_text() if log.exists() else "") + str(part))
                return {"value": np.array([config.base**part])}
            key = {"config": config, "part": part}
            sources = [Path(__file__).parent / "_code.py"]
            found = cache.get_or_compute(f"powers-{part}", key, power, sources=sources)
            values.append(found["value"][0])
            task.advance()
    return {
        "powers": {"part": np.arange(config.parts), "value": np.array(values)},
        "names": {"name": ["first", "second"]},
    }

def summary(tables):
    return f"largest {tables['powers']['value'].max():g}"
'''

FIGURE = '''
"""{title}."""
from deva_theory.report import read_csv

EXPERIMENT = "powers"
TABLES = ("powers",)

def draw(data, out, formats):
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots()
    axes.plot(read_csv(data / "powers.csv")["value"])
    paths = [out / f"{name}.{{f}}" for f in formats]
    for path in paths:
        figure.savefig(path)
    return paths
'''


@pytest.fixture
def root(tmp_path, monkeypatch):
    for folder in ("paper_checks", "experiments", "figures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "paper_checks" / "claims.toml").write_text("")
    (tmp_path / "experiments" / "_code.py").write_text("x = 1\n")
    (tmp_path / "experiments" / "powers.py").write_text(EXPERIMENT)
    for name in ("growth", "decay"):
        (tmp_path / "figures" / f"{name}.py").write_text(FIGURE.format(title=name.title(), name=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return tmp_path


@pytest.fixture
def published(root, capsys):
    """The clone with its results committed, and its cache filled."""
    assert main(["reproduce", "--update", "--format", "png"]) == 0
    (root / "log.txt").unlink()
    capsys.readouterr()
    return root


def one_line(text):
    (line,) = text.splitlines()
    return line


def parts_computed(root):
    log = root / "log.txt"
    return log.read_text() if log.exists() else ""


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_reproduce_writes_everything_below_build_and_reports_what_is_not_committed(root, capsys):
    assert main(["reproduce", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "largest 4" in out
    assert "changed: figures/data/powers.csv: not committed yet" in out
    assert parts_computed(root) == "012"  # once, although two figures need it
    build = root / "build"
    assert (build / "data" / "powers.csv").read_text() == "part,value\n0,1.0\n1,2.0\n2,4.0\n"
    assert (build / "powers.txt").read_text() == "largest 4\n"
    for name in ("growth.pdf", "growth.png", "decay.pdf", "decay.png"):
        assert (build / "figures" / name).stat().st_size > 0
    record = json.loads((build / "provenance.json").read_text())
    assert record["package"]["version"] == deva_theory.__version__
    # Python's own bytecode folder aside, nothing was written there.
    assert sorted(path.name for path in (root / "figures").glob("*.*")) == ["decay.py", "growth.py"]


def test_update_publishes_and_the_next_run_agrees(published, capsys):
    assert (published / "figures" / "data" / "names.csv").exists()
    assert (published / "figures" / "growth.png").exists()
    assert (published / "figures" / "powers.txt").read_text() == "largest 4\n"
    assert main(["reproduce"]) == 0
    assert "all tables agree" in capsys.readouterr().out
    assert parts_computed(published) == ""  # from the cache


def test_pictures_do_not_change_between_runs(published):
    pictures = []
    for _ in range(2):
        assert main(["figures", "growth", "--quiet"]) == 0
        pictures.append((published / "build" / "figures" / "growth.pdf").read_bytes())
    assert pictures[0] == pictures[1]


def test_changed_result_is_reported_with_file_column_and_deviation(published, capsys):
    replace(published / "figures" / "data" / "powers.csv", "2,4.0", "2,4.5")
    replace(published / "figures" / "data" / "names.csv", "second", "other")
    assert main(["reproduce"]) == 1
    out = capsys.readouterr().out
    assert (
        "changed: figures/data/powers.csv, column value, row 2: 1 of 3 values differ, worst 4 for 4.5" in out
    )
    assert "changed: figures/data/names.csv, column name, row 1" in out
    assert main(["reproduce", "--update"]) == 0
    assert "updated: figures/data/powers.csv, column value" in capsys.readouterr().out
    assert main(["reproduce"]) == 0


def test_change_within_the_experiments_tolerance_is_none(published):
    replace(published / "figures" / "data" / "powers.csv", "2,4.0", "2,4.03")
    assert main(["reproduce"]) == 0


def test_damaged_committed_table_is_a_change(published, capsys):
    (published / "figures" / "data" / "powers.csv").write_text("part,value\n1\n")
    assert main(["reproduce"]) == 1
    assert "figures/data/powers.csv: damaged" in capsys.readouterr().out


def test_interrupted_run_resumes(root, capsys):
    (root / "interrupt-2").touch()
    assert main(["reproduce", "--quiet"]) == 130
    assert "resumes" in one_line(capsys.readouterr().err)
    assert parts_computed(root) == "01"
    (root / "interrupt-2").unlink()
    main(["reproduce", "--quiet"])
    assert parts_computed(root) == "012"


def test_corrupted_and_foreign_cache_files_are_computed_again_with_a_warning(published, capsys):
    first, second, _ = sorted((published / "build" / "cache").glob("powers-*.cache"))
    first.write_bytes(second.read_bytes())
    second.write_bytes(second.read_bytes()[:-5])
    with warnings.catch_warnings():
        # As for a user: warnings are shown, not raised.
        warnings.simplefilter("default")
        assert main(["reproduce", "--quiet"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("deva-theory: warning: cache file powers-") for line in lines)
    assert "another configuration" in lines[0]
    assert "checksum" in lines[1]
    assert parts_computed(published) == "01"


def test_changed_code_and_no_cache_compute_again(published):
    assert main(["reproduce", "--no-cache"]) == 0
    assert parts_computed(published) == "012"
    (published / "experiments" / "_code.py").write_text("x = 2\n")
    assert main(["reproduce"]) == 0
    assert parts_computed(published) == "012012"


def test_figures_reuse_data_computes_nothing(published, capsys):
    assert main(["figures", "growth", "--reuse-data", "--format", "svg", "--no-cache"]) == 0
    assert parts_computed(published) == ""
    assert capsys.readouterr().out == "build/figures/growth.svg\n"
    assert main(["figures", "--reuse-data", "--format", "pdf", "--update"]) == 0
    assert (published / "figures" / "decay.pdf").exists()


BAD_INPUT = {
    "unknown figure": (["figures", "grow"], "unknown figure 'grow': did you mean growth?"),
    "unlike any figure": (["figures", "zzz"], "there are decay, growth"),
    "no committed data": (["figures", "--reuse-data"], "figures/data/powers.csv is missing: run"),
    "root is no clone": (["figures", "--root", "experiments"], "name the top folder of a clone"),
    "doctor's root is no clone": (["doctor", "--root", "experiments"], "name the top folder of a clone"),
    "format": (["figures", "--format", "pdf,gif"], "unknown format 'gif'"),
    "threads": (["reproduce", "--threads", "0"], "'0' is no positive whole number"),
    "threads in words": (["reproduce", "--threads", "two"], "'two' is no positive whole number"),
    "option": (["reproduce", "--fast"], "--fast; see deva-theory"),
    "command": (["reprduce"], "reprduce"),
    "no command": ([], "COMMAND"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_one_line_and_code_2(root, capsys, arguments, words):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in one_line(err)
    assert parts_computed(root) == ""


BROKEN_PROJECTS = {
    "no experiment": ("figures/growth.py", '"powers"\n', '"power"\n', "experiments/power.py does not exist"),
    "unknown table": (
        "figures/growth.py",
        '("powers",)',
        '("cubes",)',
        "makes powers, names: correct TABLES",
    ),
    "no draw": ("figures/growth.py", "def draw", "def drew", "figures/growth.py lacks draw"),
    "no summary": ("experiments/powers.py", "def summary", "def other", "lacks summary"),
    "tolerance table": (
        "experiments/powers.py",
        '{"powers": {"v',
        '{"cubes": {"v',
        "TOLERANCES names 'cubes'",
    ),
    "ragged table": ("experiments/powers.py", "np.arange(config.parts)", "np.arange(5)", "part: 5, value: 3"),
}


@pytest.mark.parametrize(("file", "old", "new", "words"), BROKEN_PROJECTS.values(), ids=BROKEN_PROJECTS)
def test_broken_contracts_are_named(root, capsys, file, old, new, words):
    replace(root / file, old, new)
    assert main(["reproduce", "--quiet"]) == 2
    assert words in one_line(capsys.readouterr().err)


def test_tolerance_for_an_unknown_column_is_named(published, capsys):
    replace(published / "experiments" / "powers.py", '{"value": (', '{"cube": (')
    assert main(["reproduce", "--quiet"]) == 2
    assert "names column 'cube'" in one_line(capsys.readouterr().err)


def test_root_is_found_upwards_and_without_one_the_clone_is_named(root, tmp_path_factory):
    inner = root / "a" / "b"
    inner.mkdir(parents=True)
    assert find_root(None, inner) == root.resolve()
    with pytest.raises(BadInput, match="needs a clone of deva_theory"):
        find_root(None, tmp_path_factory.mktemp("elsewhere"))


def test_doctor_on_a_clone(root, capsys):
    assert main(["doctor", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out
    for subject in (
        "torch",
        "device",
        "threads",
        "linear algebra",
        "font",
        "clone",
        "figures",
        "cache",
        "extra hf",
    ):
        assert f"  {subject}: " in out


def test_doctor_without_a_clone_still_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--threads", "1"]) == 0
    assert "note  clone: none here" in capsys.readouterr().out


def test_doctor_names_faults_and_missing_extras(root, monkeypatch, capsys):
    (root / "build").write_text("in the way")
    (root / "paper_checks" / "claims.toml").write_text("not toml")
    monkeypatch.setitem(doctor._EXTRAS, "exact", {"python-flint": "surely_not_installed"})
    assert main(["doctor", "--threads", "1"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  cache: build/cache cannot be written" in out
    assert "FAIL  paper_checks/claims.toml: cannot be read" in out
    assert "note  extra exact: python-flint not installed (optional): pip install 'deva-theory[exact]'" in out
    assert "2 faults" in out


def run_python(code, **options):
    # The tests' own threads and profile settings do not matter here; the environment is passed on.
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, **options
    )


def test_help_imports_nothing_heavy():
    done = run_python(
        """
        import sys
        from deva_theory.cli import main
        try:
            main(["--help"])
        finally:
            heavy = {"torch", "numpy", "scipy", "matplotlib", "sympy", "rich"} & set(sys.modules)
            print("heavy:", sorted(heavy))
        """
    )
    assert done.returncode == 0
    assert "reproduce" in done.stdout
    assert "heavy: []" in done.stdout


def test_module_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "deva_theory", "--version"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(deva_theory.__file__).parent.parent)},
    )
    assert done.returncode == 0
    assert done.stdout.strip() == f"deva-theory {deva_theory.__version__}"


def test_package_import_is_lazy_and_complete():
    done = run_python(
        """
        import sys
        import deva_theory
        assert not {"torch", "numpy"} & set(sys.modules)
        assert set(deva_theory.__all__) <= set(dir(deva_theory))
        for name in deva_theory.__all__:
            assert getattr(deva_theory, name) is getattr(deva_theory, name)
        try:
            deva_theory.nothing
        except AttributeError as error:
            assert "nothing" in str(error)
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(closed):
    program = f'"{sys.executable}" -m deva_theory rates --help'
    found = subprocess.run(f"{program} {closed}", shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and "Traceback" not in found.stderr + found.stdout

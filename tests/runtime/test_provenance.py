import getpass
import json
import platform
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

import deva_theory
from deva_theory.runtime import provenance
from deva_theory.runtime.provenance import _commit


def test_names_versions_threads_and_time():
    record = provenance(seconds=1.23456)
    assert record["package"]["version"] == deva_theory.__version__
    assert record["packages"]["numpy"] == np.__version__
    assert record["packages"]["torch"] == torch.__version__
    assert record["threads"]["torch"] == torch.get_num_threads()
    assert datetime.fromisoformat(record["utc"]).utcoffset().total_seconds() == 0
    assert record["seconds"] == 1.23
    assert provenance()["seconds"] is None


def test_is_json_and_names_no_machine_and_no_path():
    text = json.dumps(provenance())
    assert str(Path.cwd()) not in text
    assert str(Path(deva_theory.__file__).parent) not in text
    assert len(platform.node()) < 4 or platform.node() not in text
    assert len(getpass.getuser()) < 5 or getpass.getuser() not in text


@pytest.fixture
def clone(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "core.hooksPath=/dev/null"]

    def run(*arguments):
        return subprocess.run([*git, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)

    run("init", "--quiet")
    return package, run


def test_commit_and_dirty_flag_of_the_clone(clone):
    package, git = clone
    assert _commit(package) == (None, None)  # not tracked: someone else's repository
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert _commit(package) == (commit, False)
    (package / "__init__.py").write_text("x = 1\n")
    assert _commit(package) == (commit, True)


def test_without_git_the_commit_is_unknown(clone, monkeypatch):
    package, _ = clone
    monkeypatch.setenv("PATH", "")
    assert _commit(package) == (None, None)

import io
import subprocess
import sys

import pytest

from deva_theory.runtime import Progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def stream():
    return io.StringIO()


def test_auto_is_plain_when_not_on_a_terminal(stream):
    assert Progress(stream=stream).mode == "plain"


def test_auto_is_a_bar_on_a_terminal(stream, monkeypatch):
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Progress(stream=stream).mode == "bar"
    monkeypatch.setenv("TERM", "dumb")
    assert Progress(stream=stream).mode == "plain"


def test_plain_lines_are_rate_limited_and_the_last_one_always_appears(stream):
    clock = Clock()
    with Progress("plain", stream=stream, interval=10, clock=clock) as progress:
        with progress.task("steps", total=100) as task:
            for _ in range(100):
                clock.now += 0.25
                task.advance()
    assert stream.getvalue().splitlines() == [
        "steps: 40/100, 10 s",
        "steps: 80/100, 20 s",
        "steps: 100/100, 25 s, done",
    ]


def test_plain_without_total_ends_with_its_context(stream):
    with Progress("plain", stream=stream, clock=Clock()) as progress, progress.task("search") as task:
        task.advance(7)
        assert stream.getvalue() == ""
    assert stream.getvalue() == "search: 7, 0 s, done\n"


def test_failed_task_is_not_called_done(stream):
    with Progress("plain", stream=stream, clock=Clock()) as progress:
        with pytest.raises(KeyboardInterrupt), progress.task("search"):
            raise KeyboardInterrupt
    assert stream.getvalue() == ""


@pytest.mark.parametrize("mode", ["bar", "plain", "silent"])
def test_every_mode_counts_and_takes_any_text(mode, stream):
    with Progress(mode, stream=stream) as progress:
        task = progress.task("[/odd] text", total=3)
        for _ in range(3):
            task.advance()
        progress.say("[/a] line")
    assert task.done == 3
    assert (stream.getvalue() == "") == (mode == "silent")
    assert ("[/a] line" in stream.getvalue()) == (mode != "silent")


def test_bar_stops_when_interrupted(stream):
    progress = Progress("bar", stream=stream)
    with pytest.raises(KeyboardInterrupt), progress, progress.task("x", total=2):
        raise KeyboardInterrupt
    progress.say("after")
    assert stream.getvalue().endswith("after\n")


def test_unknown_mode():
    with pytest.raises(ValueError, match="choose auto, bar, plain or silent"):
        Progress("loud")


def test_rich_is_not_imported_without_a_bar():
    code = (
        "import sys; from deva_theory.runtime import Progress\n"
        "with Progress('plain') as p: p.task('x', 1).advance()\n"
        "assert 'rich' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

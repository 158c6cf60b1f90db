"""Progress of long work: a bar on a terminal, plain lines elsewhere, or nothing.

Code that works long takes a `Progress` and does not know which of the three it writes to::

    with Progress() as progress:
        with progress.task("trace_quadratic", total=16) as task:
            for part in parts:
                ...
                task.advance()
"""

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self, TextIO

__all__ = ["Progress", "Task"]

Mode = Literal["auto", "bar", "plain", "silent"]


class Progress:
    """Where the progress of long work is shown.

    Parameters
    ----------
    mode : {"auto", "bar", "plain", "silent"}, default "auto"
        ``"bar"`` draws bars with rich, ``"plain"`` prints lines, ``"silent"`` nothing; ``"auto"`` is
        ``"bar"`` if `stream` is a terminal and ``"plain"`` otherwise.
    stream : text stream, optional
        Default ``sys.stderr``: results go to standard output, progress does not mix with them.
    interval : float, default 10.0
        Plain lines of one task are at least this many seconds apart (its last line always appears).
    clock : callable, default `time.monotonic`
        Returns seconds.

    Attributes
    ----------
    mode : {"bar", "plain", "silent"}
        What "auto" became.
    """

    def __init__(
        self,
        mode: Mode = "auto",
        *,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if mode not in ("auto", "bar", "plain", "silent"):
            raise ValueError(f"progress mode {mode!r}: choose auto, bar, plain or silent")
        self.stream = sys.stderr if stream is None else stream
        self.interval = interval
        self.clock = clock
        if mode == "auto":
            drawable = self.stream.isatty() and os.environ.get("TERM") != "dumb"
            mode = "bar" if drawable else "plain"
        self.mode: Mode = mode
        self._bars: Any = None

    def __enter__(self) -> Self:
        if self.mode == "bar":
            self._bars = _rich_bars(self.stream)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def task(self, description: str, total: int | None = None) -> "Task":
        """Begin a piece of work.

        Parameters
        ----------
        description : str
            A few words.
        total : int, optional
            How many steps it takes; None if that is not known.

        Returns
        -------
        Task
            Call its ``advance()`` after each step; used as a context manager it says when it is done.
        """
        if self._bars is not None:
            return _BarTask(description, total, self._bars)
        if self.mode == "silent":
            return Task(description, total)
        return _PlainTask(description, total, self)

    def say(self, line: str) -> None:
        """Print one line, without tearing a bar."""
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif self.mode != "silent":
            print(line, file=self.stream, flush=True)


class Task:
    """One piece of work; this base class counts and shows nothing.

    Attributes
    ----------
    description : str
        What the work is.
    total : int or None
        How many steps it takes, if known.
    done : int
        How many steps are done.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self.description = description
        self.total = total
        self.done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finished()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more steps as done."""
        self.done += steps
        self._advanced(steps)

    def _advanced(self, steps: int) -> None:
        """Show that `steps` more steps are done."""

    def _finished(self) -> None:
        """Show that the work ended well."""


class _PlainTask(Task):
    def __init__(self, description: str, total: int | None, progress: Progress) -> None:
        super().__init__(description, total)
        self._progress = progress
        self._began = self._spoke = progress.clock()
        self._closed = False

    def _advanced(self, steps: int) -> None:
        if self.total is not None and self.done >= self.total:
            self._finished()
        elif self._progress.clock() - self._spoke >= self._progress.interval:
            self._speak("")

    def _finished(self) -> None:
        if not self._closed:
            self._closed = True
            self._speak(", done")

    def _speak(self, suffix: str) -> None:
        self._spoke = self._progress.clock()
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        self._progress.say(f"{self.description}: {count}, {self._spoke - self._began:.0f} s{suffix}")


class _BarTask(Task):
    def __init__(self, description: str, total: int | None, bars: Any) -> None:
        super().__init__(description, total)
        self._bars = bars
        self._identity = bars.add_task(description, total=total)

    def _advanced(self, steps: int) -> None:
        self._bars.advance(self._identity, steps)

    def _finished(self) -> None:
        self._bars.update(self._identity, total=max(self.done, 1), completed=max(self.done, 1))


def _rich_bars(stream: TextIO) -> Any:
    # Imported here: most uses of the package draw no bar.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        # Standard output holds results: rich would send it to `stream`.
        redirect_stdout=False,
    )

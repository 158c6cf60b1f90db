"""Options, dispatch and exit codes of the command line.

The commands live in modules of their own, imported once one is chosen: ``--help`` answers at once.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from deva_theory import __version__
from deva_theory.cli import probe_options, rates_options
from deva_theory.cli.errors import BadInput, Exit

__all__ = ["main"]

_FORMATS = ("pdf", "png", "svg")
_VERDICTS = ("PROVED", "CERTIFIED", "SUPPORTED", "HOLDS_IF", "REFUTED", "INCONCLUSIVE", "NOT_CHECKED")

# command: (module with run(options) -> Exit, one line for --help)
_COMMANDS = {
    "reproduce": (
        "deva_theory.cli.reproduce",
        "verify the fast tier, compute every figure's data, draw, and compare with the committed numbers",
    ),
    "claims": ("deva_theory.cli.claims", "list the statements about DeVA with their verdicts, without running anything"),
    "verify": (
        "deva_theory.cli.verify",
        "check claims with their negative controls and compare with the expected verdicts",
    ),
    "explain": ("deva_theory.cli.explain", "one claim: statement, method, evidence, counter-example as a snippet that runs"),
    "falsify": ("deva_theory.cli.falsify", "search for a violation of one claim until the time is up"),
    "figures": (
        "deva_theory.cli.figures",
        "the same for some figures, or redraw them from the committed numbers",
    ),
    "probe": ("deva_theory.cli.probe", "certified smoothness of a model's blocks, in the geometry of each optimizer"),
    "rates": ("deva_theory.cli.rates", "measured convergence of update rules against their proved bounds, with slopes"),
    "doctor": (
        "deva_theory.cli.doctor",
        "check versions, threads, device, fonts, caches and optional extras",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: the process's own arguments.

    Returns
    -------
    int
        0 all as expected; 1 a result changed, `doctor` found a fault, or a run of `rates` exceeds its bound; 2 bad input, after one line
        on standard error; 130 interrupted; 141 the reader of standard output went away.

    Raises
    ------
    SystemExit
        From ``--help``, ``--version`` and options that cannot be parsed.
    """
    try:
        return _main(arguments)
    except BrokenPipeError:
        # As `head` leaves it; the interpreter would complain when it flushes what nobody reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE


def _main(arguments: Sequence[str] | None) -> int:
    for name in ("stdout", "stderr"):
        # Closed by the caller: what is said there is said to nobody.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show ‖∇f‖ shows question marks.
        sys.stdout.reconfigure(errors="replace")
    try:
        options = _parser().parse_args(arguments)
    finally:
        sys.stdout.flush()  # --help, while a broken pipe can still be told
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = int(import_module(_COMMANDS[options.command][0]).run(options))
        sys.stdout.flush()
        return code
    except BadInput as error:
        print(f"deva-theory: {error}", file=sys.stderr)
        return Exit.BAD_INPUT
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"deva-theory: {error.strerror or error}{where}; make that place readable and writable", file=sys.stderr)
        return Exit.BAD_INPUT
    except KeyboardInterrupt:
        print(f"deva-theory: interrupted; {_kept(options)}", file=sys.stderr)
        return Exit.INTERRUPTED


def _kept(options: argparse.Namespace) -> str:
    """Say what an interrupted command leaves behind."""
    if options.command == "falsify":
        return "nothing was found so far"  # a search has no parts to keep
    if options.command == "rates":
        return "nothing was kept"
    if options.command == "probe":
        return (
            f"the same command resumes: finished blocks are kept in {options.resume}" if options.resume
            else "nothing was kept: with --resume FILE finished blocks are"
        )
    return "the same command resumes: finished parts are kept in build/cache"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage as well; an error is one line.
        self.exit(Exit.BAD_INPUT, f"deva-theory: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="deva-theory",
        description="Check the claims of the DeVA paper and regenerate its theory figures, compared with the committed results.",
        epilog="Exit codes: 0 all as expected, 1 a verdict or result changed or a bound is exceeded, 2 bad input, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"deva-theory {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name not in ("probe", "rates"):
            command.add_argument(
                "--root",
                type=Path,
                metavar="DIR",
                help="the clone (default: the nearest folder upwards that holds paper_checks/claims.toml)",
            )
        command.add_argument(
            "--threads",
            type=_thread_count,
            # The runs of `rates` are many small steps, where threads would wait for each other.
            default=1 if name == "rates" else min(2, os.cpu_count() or 1),
            metavar="N",
            help="threads that torch computes with (default: %(default)s)",
        )
        if name == "figures":
            command.add_argument("names", nargs="*", default=["all"], metavar="NAME", help="default: all")
            command.add_argument(
                "--reuse-data", action="store_true", help="draw from the committed CSV files, compute nothing"
            )
        if name in ("claims", "verify"):
            command.add_argument("ids", nargs="*", metavar="ID", help="D3 stands for D3-... too (default: all)")
        if name in ("explain", "falsify"):
            command.add_argument("id", metavar="ID")
        if name == "claims":
            command.add_argument("--verdict", action="append", choices=_VERDICTS, help="only these; may be repeated")
        if name == "verify":
            command.add_argument("--tier", choices=("fast", "full"), default="fast", help="budgets (default: %(default)s)")
            command.add_argument("--json", type=Path, metavar="F", help="write all verdicts to this file too")
        if name == "explain":
            command.add_argument("--all", action="store_true", help="print every line of the derivation")
        if name == "falsify":
            command.add_argument("--budget", type=_seconds, default=60.0, metavar="T", help="60s, 2m, ... (default: 60s)")
            command.add_argument("--quiet", action="store_true", help="show no progress")
        if name == "probe":
            probe_options.add_options(command, _positive)
        if name == "rates":
            rates_options.add_options(command, _positive)
        if name in ("reproduce", "figures"):
            _add_picture_options(command)
        if name in ("reproduce", "figures", "verify"):
            committed = "evidence to paper_checks/ (needs --tier full)" if name == "verify" else "tables, pictures and texts to figures/"
            _add_run_options(command, committed)
    return parser


def _add_picture_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        type=_formats,
        default=("pdf", "png"),
        dest="formats",
        metavar="F,..",
        help=f"of the pictures: some of {', '.join(_FORMATS)} (default: pdf,png)",
    )


def _add_run_options(command: argparse.ArgumentParser, committed: str) -> None:
    command.add_argument("--update", action="store_true", help=f"copy from build/ to the committed places: {committed}")
    command.add_argument("--no-cache", action="store_true", help="compute everything, read and keep no cache")
    command.add_argument("--quiet", action="store_true", help="show no progress")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return number


def _thread_count(text: str) -> int:
    number, most = _positive(text), max(64, os.cpu_count() or 1)
    if number > most:
        raise argparse.ArgumentTypeError(f"{text} threads are too many: use at most {most}; there are {os.cpu_count() or 1} cores")
    return number


def _seconds(text: str) -> float:
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 60s or 2m")
    return seconds


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [name for name in formats if name not in _FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown format {unknown[0]!r}, use some of {','.join(_FORMATS)}")
    return formats


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    # A user of the command line is not helped by the file and line that warned.
    print(f"deva-theory: warning: {message}", file=sys.stderr)

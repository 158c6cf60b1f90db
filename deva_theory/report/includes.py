"""Blocks of a Markdown file that are copied from result files, so that no number is typed by hand.

A block reads::

    <!-- include: figures/trace_quadratic.txt, until: All methods -->
    ...
    <!-- end include -->

Everything between the two comments is replaced by the file's text, as a code block, up to the first line that starts with
the words behind ``until:`` (to the end of the file without them).  With ``as: claim table`` or ``as: claim summary``
instead, the file is what ``deva-theory verify --json`` wrote, and the block becomes its Markdown table, one row for each claim
or for each item of the specification.
"""

from __future__ import annotations

import re
from pathlib import Path

from deva_theory.report.claims import claim_summary_markdown, claim_table_markdown

__all__ = ["refresh_includes"]

_BLOCK = re.compile(
    r"(?P<open><!-- include: (?P<file>[^,>]+?)(?:, until: (?P<until>[^>]+?)|, as: (?P<form>claim table|claim summary))? -->\n)"
    r".*?(?P<close><!-- end include -->)",
    re.DOTALL,
)


def refresh_includes(text: str, root: Path, folder: Path | None = None) -> str:
    """Return a Markdown text with every include block filled from its file below `root`.

    Parameters
    ----------
    text : str
    root : Path
        Top folder: the files' names are relative to it.
    folder : Path, optional
        Where the text lies, for relative links; default `root`.

    Raises
    ------
    FileNotFoundError
        If a block names a file that does not exist.
    ValueError
        If no line of the file starts with the words behind ``until:``, or a block is not closed.
    """
    folder = folder or root
    if text.count("<!-- include: ") != len(_BLOCK.findall(text)):
        raise ValueError("an include comment has no matching '<!-- end include -->', or is not of the form of this module's docstring")

    def filled(match: re.Match[str]) -> str:
        path = root / match["file"]
        if match["form"]:
            try:
                write = claim_table_markdown if match["form"] == "claim table" else claim_summary_markdown
                # Links are relative to the document: the top folder's README, or the one beside the evidence.
                table = write(path.read_text(encoding="utf-8"), evidence=(path.parent.relative_to(folder) / "evidence").as_posix())
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{match['file']}: {error}") from error
            return f"{match['open']}\n{table}\n\n{match['close']}"
        lines = path.read_text(encoding="utf-8").splitlines()
        if match["until"]:
            ends = [i for i, line in enumerate(lines) if line.startswith(match["until"])]
            if not ends:
                raise ValueError(f"{match['file']}: no line starts with {match['until']!r}")
            lines = lines[: ends[0]]
        body = "\n".join(lines).strip("\n")
        return f"{match['open']}```text\n{body}\n```\n{match['close']}"

    return _BLOCK.sub(filled, text)

"""Blocks of a Markdown file that are copied from result files, so that no number is typed by hand.

A block reads::

    <!-- include: figures/trace_quadratic.txt, until: All methods -->
    ...
    <!-- end include -->

Everything between the two comments is replaced by the file's text, as a code block, up to the first line that starts with
the words behind ``until:`` (to the end of the file without them).
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["refresh_includes"]

_BLOCK = re.compile(
    r"(?P<open><!-- include: (?P<file>[^,>]+?)(?:, until: (?P<until>[^>]+?))? -->\n).*?(?P<close><!-- end include -->)", re.DOTALL
)


def refresh_includes(text: str, root: Path) -> str:
    """Return a Markdown text with every include block filled from its file below `root`.

    Raises
    ------
    FileNotFoundError
        If a block names a file that does not exist.
    ValueError
        If no line of the file starts with the words behind ``until:``, or a block is not closed.
    """
    if text.count("<!-- include: ") != len(_BLOCK.findall(text)):
        raise ValueError("an include comment has no matching '<!-- end include -->', or is not of the form of this module's docstring")

    def filled(match: re.Match[str]) -> str:
        path = root / match["file"]
        lines = path.read_text(encoding="utf-8").splitlines()
        if match["until"]:
            ends = [i for i, line in enumerate(lines) if line.startswith(match["until"])]
            if not ends:
                raise ValueError(f"{match['file']}: no line starts with {match['until']!r}")
            lines = lines[: ends[0]]
        body = "\n".join(lines).strip("\n")
        return f"{match['open']}```text\n{body}\n```\n{match['close']}"

    return _BLOCK.sub(filled, text)

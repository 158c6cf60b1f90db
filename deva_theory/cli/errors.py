"""Exit codes, and the error that becomes one line on standard error."""

from enum import IntEnum

__all__ = ["BadInput", "Exit"]


class Exit(IntEnum):
    """What the command line's exit code says."""

    OK = 0
    CHANGED = 1
    BAD_INPUT = 2
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class BadInput(Exception):
    """The user's input cannot be used; the message is one line: what is wrong, and the fix."""

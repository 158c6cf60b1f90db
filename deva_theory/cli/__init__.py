"""The command line ``deva-theory``. Nothing here imports torch before a command needs it."""

from deva_theory.cli.app import main

__all__ = ["main"]

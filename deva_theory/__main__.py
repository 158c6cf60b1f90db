"""``python -m deva_theory``: the command line."""

from deva_theory.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

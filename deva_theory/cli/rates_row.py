"""One rule under one statement, as ``deva-theory rates`` prints and writes it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from deva_theory.rates.fits import RatioFit, SlopeFit
from deva_theory.rates.runner import Measurement

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """One rule under one statement.

    Attributes
    ----------
    statement, rule, oracle : str
        Names; exact gradients are the oracle "none".
    found : Measurement
    ratio : RatioFit or None
        None where a left side is not positive.
    slope : SlopeFit or None
        None without enough horizons too.
    """

    statement: str
    rule: str
    oracle: str
    found: Measurement
    ratio: RatioFit | None
    slope: SlopeFit | None

    def exceeded(self) -> tuple[int, int]:
        """Return how many single runs and how many averages over seeds exceed a bound beyond doubt."""
        runs = self.found.closest()[1]
        return runs, self.found.exceeded() - runs

    def table(self) -> dict[str, Any]:
        """Return the columns over T."""
        found = self.found
        n = len(found.T)
        observed, bound = found.curve(found.left).mean(0), found.curve(found.right(found.expected)).mean(0)
        nothing = np.full(n, np.nan)
        prior = found.curve(found.right("a_priori")).mean(0) if "a_priori" in found.bounds else nothing
        ratio = self.ratio
        return {
            "statement": [self.statement] * n, "rule": [self.rule] * n, "oracle": [self.oracle] * n, "T": found.T.numpy(),
            "observed": observed, "plain": found.curve(found.plain).mean(0), "bound": bound, "a_priori": prior,
            "ratio": np.divide(bound, observed, out=nothing.copy(), where=observed > 0),
            "ratio_low": nothing if ratio is None or ratio.low is None else np.asarray(ratio.low),
            "ratio_high": nothing if ratio is None or ratio.high is None else np.asarray(ratio.high),
        }  # fmt: skip

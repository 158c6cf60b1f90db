"""Random numbers of the estimators: one independent stream for each purpose of a seed.

The guarantees are over the estimator's own random vectors, which must not depend on H.  ``torch.manual_seed(seed)`` followed by
``torch.randn`` is how most models are initialised, and then the vector drawn that way *is* the parameter vector, an invariant
direction of every radial loss.  So no stream is the one that ``torch.manual_seed(seed)`` starts, and no two streams are the same.
"""

from __future__ import annotations

import operator

import numpy as np
import torch

_DOMAIN = "deva_theory.smoothness.estimators "


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a generator on the CPU.

    Parameters
    ----------
    seed : int
        Not negative, of any size.
    stream : str
        What the numbers are for: the streams of one seed are independent of each other.

    Raises
    ------
    ValueError
        A seed that is negative or no integer.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise ValueError(f"seed is {seed!r}; it must be an integer") from None
    if number < 0:
        raise ValueError(f"seed is {number}; it must not be negative")
    tag = int.from_bytes((_DOMAIN + stream).encode(), "little")
    state = np.random.SeedSequence([number, tag]).generate_state(1, np.uint64)[0]
    return torch.Generator("cpu").manual_seed(int(state) >> 1)

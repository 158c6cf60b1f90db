"""Small neural networks with bundled data, for probes of the training loss's curvature.

Every problem is a model of a real family (perceptron, convolutional network with batch normalisation, vision
transformer, GPT, LSTM, logistic regression), the fixed mini-batches a probe sums over, and a short trainer. All are twice
continuously differentiable in evaluation mode, and all data come with Python or with scikit-learn: nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from deva_theory.problems.zoo import language, linear, vision
from deva_theory.problems.zoo.base import SIZES, Recipe, ZooProblem, at_least, generator, pristine

__all__ = ["ALL_NAMES", "NAMES", "SIZES", "ZooProblem", "load"]

NAMES = ("mlp", "cnn", "vit", "gpt", "lstm", "logistic")
"""One name per family."""

ALL_NAMES = (*NAMES, "gpt-tied")
"""Every name :func:`load` knows: :data:`NAMES` and the GPT whose output head is its token embedding."""

_BUILDERS: dict[str, Callable[[str], Recipe]] = {
    "mlp": vision.mlp,
    "cnn": vision.cnn,
    "vit": vision.vit,
    "gpt": language.gpt,
    "gpt-tied": language.gpt_tied,
    "lstm": language.lstm,
    "logistic": linear.logistic,
}


def load(
    name: str,
    *,
    size: str = "small",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batches: int = 4,
    batch_size: int | None = None,
) -> ZooProblem:
    """Return a problem of the zoo, freshly initialised.

    Parameters
    ----------
    name : str
        One of :data:`ALL_NAMES`.
    size : {"tiny", "small"}
        "tiny": under 1500 parameters, so that a dense Hessian is cheap. "small": a few hundred training steps on one core
        take seconds.
    seed : int, not negative
        Decides the initial parameters and the choice of the probe data, each from a stream of its own. The draws are
        made in float64 on the CPU: other dtypes and devices round and move the same numbers.
    dtype : torch.dtype
        Floating-point type of the parameters and of the images or features. Token inputs and targets are int64.
    device : torch.device or str
        Where the model and the data live.
    batches, batch_size : int
        Number and size of the probe's mini-batches, disjoint subsets of the training data; the last is smaller where the
        data run out. The default size depends on the problem. Training has its own mini-batch size.

    Returns
    -------
    ZooProblem
        Its model in train mode.

    Raises
    ------
    ValueError
        For an unknown name or size, a dtype that is not floating-point, a negative seed, counts below one, or more
        mini-batches than the data can fill.
    ImportError
        Where scikit-learn, which bundles the digits and the tables, is not installed.
    FileNotFoundError
        For the language models where Python came without the standard library's source.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown problem {name!r}: the zoo has {', '.join(ALL_NAMES)}")
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: the zoo has {', '.join(SIZES)}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point torch.dtype, not {dtype!r}")
    seed, batches = at_least("seed", seed, 0), at_least("batches", batches, 1)
    recipe = pristine(lambda: _BUILDERS[name](size), seed)
    count = recipe.probe_batch if batch_size is None else at_least("batch_size", batch_size, 1)
    if (batches - 1) * count >= len(recipe.data):
        raise ValueError(f"{batches} mini-batches of {count} need more than the {len(recipe.data)} examples of {name!r}")
    data = recipe.data.to(device, dtype)
    order = torch.randperm(len(data), generator=generator(seed, "probe"), device="cpu")[: batches * count]
    return ZooProblem(
        name=name,
        model=recipe.model.to(device=device, dtype=dtype),
        criterion=torch.nn.CrossEntropyLoss(),
        batches=[data.take(index) for index in order.split(count)],
        data=data,
        train_batch=recipe.train_batch,
        rate=recipe.rate,
    )

"""Classifiers of the 8×8 digits: a perceptron, a convolutional network with batch normalisation, a vision transformer.

All activations are GELU and all pooling is by averages, so that the loss is smooth in the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deva_theory.problems.zoo.base import Recipe
from deva_theory.problems.zoo.data import digits
from deva_theory.problems.zoo.transformer import Block

_CLASSES = 10


class VisionTransformer(nn.Module):
    """Patch embedding, learned positions, blocks, final norm, mean over positions, linear head.

    Parameters
    ----------
    width, num_heads, depth, expansion : int
        Embedding width E, heads per block, number of blocks, and the multiple of E inside a block's perceptron.
    patch : int
        Side of the square patches; divides 8.
    """

    def __init__(self, *, width: int, num_heads: int, depth: int, expansion: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.positions = nn.Embedding((8 // patch) ** 2, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads, expansion=expansion, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, 1, 8, 8)`` to logits ``(batch, 10)``."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = x + self.positions(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def mlp(size: str) -> Recipe:
    """Return a perceptron with two hidden layers."""
    width = {"tiny": 12, "small": 64}[size]
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, _CLASSES)
    )
    return _recipe(model, size, rate=3e-3)


def cnn(size: str) -> Recipe:
    """Return a network of 3×3 convolutions, each with batch normalisation and GELU, then averages over 2×2, last over all."""
    channels: Sequence[int] = {"tiny": (6, 10), "small": (16, 32, 32)}[size]
    layers: list[nn.Module] = []
    previous = 1
    for index, width in enumerate(channels):
        if index:
            layers.append(nn.AvgPool2d(2))
        # No bias: the normalisation would cancel it.
        layers += [nn.Conv2d(previous, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        previous = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(previous, _CLASSES))
    return _recipe(model, size, rate=1e-2)


def vit(size: str) -> Recipe:
    """Return a vision transformer: 4 patches of 4×4 and one block, or 16 patches of 2×2 and two blocks."""
    if size == "tiny":
        model = VisionTransformer(width=8, num_heads=2, depth=1, expansion=2, patch=4)
    else:
        model = VisionTransformer(width=32, num_heads=4, depth=2, expansion=4, patch=2)
    return _recipe(model, size, rate=3e-3)


def _recipe(model: nn.Module, size: str, *, rate: float) -> Recipe:
    return Recipe(model, digits(), train_batch=64, probe_batch={"tiny": 16, "small": 128}[size], rate=rate)

"""Language models of the standard library's source text: a GPT, the same with a tied head, and an LSTM.

The small models read bytes; the tiny ones read sixteen symbols (:data:`deva_theory.problems.zoo.data.COARSE_ALPHABET`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deva_theory.problems.zoo.base import Recipe
from deva_theory.problems.zoo.data import COARSE_ALPHABET, Windows, text
from deva_theory.problems.zoo.transformer import Block

_CONTEXT = {"tiny": 8, "small": 32}
_VOCABULARY = {"tiny": len(COARSE_ALPHABET) + 1, "small": 256}


class GPT(nn.Module):
    """Token and position embeddings, causal blocks, final norm, linear head without bias.

    Parameters
    ----------
    vocabulary, context : int
        Number of tokens, and of positions at most.
    width, num_heads, depth, expansion : int
        Embedding width E, heads per block, number of blocks, and the multiple of E inside a block's perceptron.
    tied : bool
        Whether the head's weight is the token embedding, one parameter in two places.
    """

    def __init__(
        self, *, vocabulary: int, context: int, width: int, num_heads: int, depth: int, expansion: int, tied: bool
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads, expansion=expansion, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(batch, time)`` to logits ``(batch, vocabulary, time)``, as the cross-entropy takes them."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


class LanguageLSTM(nn.Module):
    """Token embedding, one LSTM layer, linear head.

    On CUDA, cuDNN runs the layer; it has no second derivative, and in evaluation mode not even a first: a probe there needs
    ``torch.backends.cudnn.flags(enabled=False)``. On the CPU both derivatives exist in float32 and float64.

    Parameters
    ----------
    vocabulary, width, hidden : int
        Number of tokens, embedding width and size of the LSTM's state.
    """

    def __init__(self, *, vocabulary: int, width: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(batch, time)`` to logits ``(batch, vocabulary, time)``, as the cross-entropy takes them."""
        states, _ = self.lstm(self.tokens(tokens))
        return self.head(states).transpose(1, 2)


def gpt(size: str) -> Recipe:
    """Return the GPT with a head of its own: two blocks, or four and so 53 parameter tensors."""
    return _gpt(size, tied=False)


def gpt_tied(size: str) -> Recipe:
    """Return the GPT whose head is its token embedding, a parameter tensor fewer than :func:`gpt`."""
    return _gpt(size, tied=True)


def lstm(size: str) -> Recipe:
    """Return the LSTM."""
    width, hidden = {"tiny": (8, 10), "small": (32, 64)}[size]
    return _recipe(LanguageLSTM(vocabulary=_VOCABULARY[size], width=width, hidden=hidden), size, rate=1e-2)


def _gpt(size: str, *, tied: bool) -> Recipe:
    width, heads, depth, expansion = {"tiny": (8, 2, 2, 1), "small": (32, 4, 4, 4)}[size]
    model = GPT(
        vocabulary=_VOCABULARY[size], context=_CONTEXT[size],
        width=width, num_heads=heads, depth=depth, expansion=expansion, tied=tied,
    )
    return _recipe(model, size, rate=3e-3)


def _recipe(model: nn.Module, size: str, *, rate: float) -> Recipe:
    data = Windows(text(coarse=size == "tiny"), _CONTEXT[size])
    return Recipe(model, data, train_batch=16, probe_batch={"tiny": 8, "small": 16}[size], rate=rate)

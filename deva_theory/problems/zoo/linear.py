"""Multinomial logistic regression, the one convex problem of the zoo.

For a row x of the features and class probabilities p the Hessian is ``(diag(p) − ppᵀ) ⊗ x̃x̃ᵀ`` with ``x̃ = (x, 1)``: the
largest eigenvalue of the loss's Hessian is at most half that of the mean of ``x̃x̃ᵀ``, whatever the parameters. There is no
penalty, so that on separable classes the infimum is not attained.
"""

from __future__ import annotations

from torch import nn

from deva_theory.problems.zoo.base import Recipe
from deva_theory.problems.zoo.data import table


def logistic(size: str) -> Recipe:
    """Return softmax regression with bias on the standardised wines (tiny) or breast-cancer table (small).

    Four mini-batches of the default size hold all rows, the last a few fewer than the others.
    """
    data = table({"tiny": "wine", "small": "breast_cancer"}[size])
    features, classes = data.inputs.shape[1], int(data.targets.max()) + 1
    return Recipe(nn.Linear(features, classes), data, train_batch=64, probe_batch=-(-len(data) // 4), rate=1e-2)

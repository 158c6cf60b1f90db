"""Gradient streams, runs of a rule along them, and how far two runs are apart."""

import numpy as np
import torch


def noisy(shape, *, steps=30, seed=0, scale=1.0):
    """Constant signal plus noise, NumPy."""
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal(shape)
    return [scale * (signal + rng.standard_normal(shape)) for _ in range(steps)]


def gapped(shape, *, steps=30, seed=0, scale=1.0, turn=None):
    """Singular values 8, 2, 1/2, … and little noise; in reverse order from step `turn` on."""
    rng = np.random.default_rng(seed)
    k = min(shape)
    U, V = (np.linalg.qr(rng.standard_normal((d, d)))[0][:, :k] for d in shape)
    values = 8.0 * 4.0 ** -np.arange(k)
    return [
        scale
        * (
            U * (values if turn is None or t < turn else values[::-1]) @ V.T
            + 0.02 * rng.standard_normal(shape)
        )
        for t in range(steps)
    ]


def stationary(steps, shape, *, noise=1.0, seeds=1, dtype=torch.float64):
    """Constant signal plus `noise` times as much noise; shape (steps, seeds, *shape)."""
    generator = torch.Generator().manual_seed(seeds)
    signal = torch.randn(seeds, *shape, generator=generator, dtype=torch.float64)
    noises = torch.randn(steps, seeds, *shape, generator=generator, dtype=torch.float64)
    return (signal + noise * noises).to(dtype)


def run_rule(rule, grads, dtype=torch.float64):
    """Directions of a rule along a list of NumPy gradients."""
    return list(directions(rule, torch.from_numpy(np.stack(grads)).to(dtype)).double().numpy())


def run_oracle(oracle, grads):
    """Directions of an oracle."""
    return [np.asarray(oracle.direction(G)) for G in grads]


def directions(rule, grads):
    """Directions of a rule along a tensor of gradients (or a list of tensors), stacked."""
    state, out = rule.init(grads[0]), []
    for G in grads:
        D, state, _ = rule.update(G, state)
        out.append(D)
    return torch.stack(out)


def diagnosed(rule, grads):
    """Diagnostics of every step that was not skipped, and its direction."""
    state, out = rule.init(grads[0]), []
    for G in grads:
        D, state, details = rule.update(G, state, diagnostics=True)
        if not details.skipped:
            out.append((D, details))
    return out


def worst(ours, theirs):
    """Largest relative distance over the steps (absolute where theirs is zero)."""
    ours, theirs = np.stack([np.asarray(x) for x in ours]), np.stack([np.asarray(x) for x in theirs])
    axes = tuple(range(1, ours.ndim))
    size = np.sqrt((theirs**2).sum(axis=axes))
    return float((np.sqrt(((ours - theirs) ** 2).sum(axis=axes)) / np.where(size > 0, size, 1.0)).max())


def shared(log, first_qr=0):
    """Factorisations of a recorded run, for an oracle to replay."""
    from tests.oracles.scalar_matrix import Replay

    return {"eigh": Replay(log["eigh"]), "qr": Replay(log["qr"][first_qr:])}

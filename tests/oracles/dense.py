"""Dense second derivatives of small models, one gradient entry at a time, from the loss over all data at once."""

import functools

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from deva_theory.problems.zoo import load


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def positions(model):
    """Where each parameter's entries lie in the flat vector of all, in the parameter's shape."""
    found, start = {}, 0
    for name, p in trainable(model).items():
        found[name] = torch.arange(start, start + p.numel()).view(p.shape)
        start += p.numel()
    return found


def jacobian(outputs, parameters):
    """Rows: the entries of `outputs`; columns: the entries of the parameters."""
    rows = []
    for entry in outputs.reshape(-1):
        row = [None] * len(parameters)
        if entry.requires_grad:
            row = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(row, parameters, strict=True)]))
    return torch.stack(rows)


def gradient(loss, parameters):
    parts = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(parts, parameters, strict=True)])


def hessian(loss, parameters):
    """Return the Hessian and the gradient."""
    first = gradient(loss, parameters)
    return jacobian(first, parameters), first.detach()


def gauss_newton(criterion, outputs, targets, parameters):
    """``Jᵀ ∇²ℓ J``."""
    leaf = outputs.detach().requires_grad_()
    curved, _ = hessian(criterion(leaf, targets), [leaf])
    J = jacobian(outputs, parameters)
    return J.T @ curved @ J


class Case:
    """A tiny model of the zoo after a few steps of training, with six examples in batches of unequal size."""

    SIZES = (3, 1, 2)

    def __init__(self, name):
        problem = load(name, size="tiny", dtype=torch.float64, batches=1, batch_size=sum(self.SIZES))
        problem.train(3, lr=1e-2)  # normalisation layers have left their initial values
        self.model, self.criterion = problem.model, problem.criterion
        ((self.inputs, self.targets),) = problem.batches
        self.batches = list(zip(self.inputs.split(self.SIZES), self.targets.split(self.SIZES), strict=True))
        self.positions = positions(self.model)
        self.size = sum(where.numel() for where in self.positions.values())

    def _loss(self, inputs, targets):
        self.model.eval()
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return self.criterion(self.model(inputs), targets)
        finally:
            self.model.train()

    @functools.cached_property
    def dense(self):
        """(Hessian, gradient, loss) over the six examples."""
        loss = self._loss(self.inputs, self.targets)
        return (*hessian(loss, list(trainable(self.model).values())), loss.item())

    @functools.cached_property
    def per_batch(self):
        """The Hessian of each batch."""
        return [hessian(self._loss(*batch), list(trainable(self.model).values()))[0] for batch in self.batches]

    @functools.cached_property
    def gauss_newton(self):
        self.model.eval()
        with sdpa_kernel(SDPBackend.MATH):
            outputs = self.model(self.inputs)
        self.model.train()
        return gauss_newton(self.criterion, outputs, self.targets, list(trainable(self.model).values()))


case = functools.cache(Case)

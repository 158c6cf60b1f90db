"""Fixtures of the rules' tests."""

import pytest
import torch


@pytest.fixture
def recorded(monkeypatch):
    """Record what the library's factorisations return, in order, for the oracle to replay."""
    log = {"eigh": [], "qr": []}

    def spy(name, function):
        def call(A, *args, **kwargs):
            out = function(A, *args, **kwargs)
            log[name].append(tuple(x.double().numpy().copy() for x in out))
            return out

        return call

    for name in log:
        monkeypatch.setattr(torch.linalg, name, spy(name, getattr(torch.linalg, name)))
    return log

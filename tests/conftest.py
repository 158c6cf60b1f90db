"""Settings that every test shares: hypothesis profiles, one thread."""

import os

import hypothesis
import pytest
import torch

# HYPOTHESIS_PROFILE chooses: `dev` while writing, `ci` (`make test`: the same examples always), or `deep`.
hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("deep", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# Test processes run side by side, and sums keep one order.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))

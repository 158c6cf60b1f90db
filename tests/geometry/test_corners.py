import itertools

import pytest

from deva_theory.geometry import sign_vectors


@pytest.mark.parametrize("size", range(1, 8))
def test_every_corner_appears_once_up_to_sign(size):
    signs = sign_vectors(size)
    assert signs.shape == (2 ** (size - 1), size)
    found = {tuple(row) for row in signs.tolist()} | {tuple(row) for row in (-signs).tolist()}
    assert found == set(itertools.product((-1.0, 1.0), repeat=size))

"""Second moments of rows and columns against numpy's own products."""

import numpy as np
import pytest
import torch

from simgap.overlaps import second_moments as module
from simgap.overlaps.second_moments import lengths, second_moments


@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize("dtype, scale", [(torch.float64, 1e200), (torch.float32, 1.0), (torch.bfloat16, 1.0)])
def test_they_are_those_of_numpy(dtype, scale, at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    w = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 6, 4)) * np.arange(1, 5)).to(dtype) * scale
    plain = w.double().numpy() / scale
    for matrices, values in ((w, plain), (w.mT, plain.transpose(0, 2, 1))):
        found = second_moments(matrices)
        tables = [a @ a.T / (a * a).sum() for a in values]
        np.testing.assert_allclose(found.alike, [[np.trace(a @ b) for b in tables] for a in tables], rtol=1e-12)
        mean = sum(tables) / 3
        assert found.powers == pytest.approx((np.trace(mean @ mean), np.trace(mean @ mean @ mean)), rel=1e-12)


def test_lengths():
    w = torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]]])
    assert [each.tolist() for each in lengths(w)] == [[4.0, 0.0], [25 / 16, 0.0]]

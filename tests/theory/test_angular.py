"""The circle's series against the closed forms that it does not use, and its errors."""

import numpy as np
import pytest
import scipy.special

from simgap.theory.activations import Activation
from simgap.theory.angular import pair_expectation
from tests.theory.gauss import narrow_pair


def test_polynomials():
    """E (su)^2 (sv)^2 = s^4 (1 + 2 rho^2) and E (su)^3 (sv)^3 = s^6 (9 rho + 6 rho^3), by Isserlis' theorem, at every scale."""
    square = Activation("square", lambda x, ctx: x * x, lambda x, ctx: 2 * x, lambda x, ctx: x * x, linear=0)
    cube = Activation("cube", lambda x, ctx: x * x * x, lambda x, ctx: 3 * x * x)
    rho, std = np.meshgrid([-1, -0.5, 0, 1e-3, 0.7, 1], [1e-6, 0.1, 1, 1e3])
    assert pair_expectation(square, rho, std, odd=False) == pytest.approx(std**4 * (1 + 2 * rho**2), rel=1e-13)
    assert pair_expectation(cube, rho, std, odd=True) == pytest.approx(std**6 * (9 * rho + 6 * rho**3), rel=1e-13)


@pytest.mark.parametrize(
    "name, f, odd", [("erf", scipy.special.erf, True), ("gelu", lambda x: x * scipy.special.erf(x / 2**0.5) / 2, False)]
)
def test_smooth_ones_in_blocks(name, f, odd):
    """More correlations than one block holds; a few of them against a quadrature of the plane."""
    rho = np.linspace(-1, 1, 4100)
    found = pair_expectation(name, rho, np.full(rho.shape, 0.8), odd=odd)
    for at in (0, 1000, 4095, 4099):
        assert found[at] == pytest.approx(narrow_pair(f, rho[at], 0.8), rel=1e-12)
    assert found[1000] != pytest.approx(found[1001], rel=1e-6)


def test_many_scales_at_once():
    rho, std = np.linspace(-0.9, 0.9, 50), np.geomspace(0.01, 10, 50)
    together = pair_expectation("silu", rho, std, odd=False)
    alone = [pair_expectation("silu", rho[i : i + 1], std[i : i + 1], odd=False)[0] for i in (0, 20, 49)]
    assert together[[0, 20, 49]] == pytest.approx(np.array(alone), rel=1e-13)


def test_series_of_every_length_together():
    """At std 200 SiLU's series have from 4 to over 16,000 terms; each correlation alone, and all of them in one recurrence."""
    rho = np.array([-1.0, -0.3, 0.0, 0.99, 1.0])
    std = np.full(5, 200.0)
    together = pair_expectation("silu", rho, std, odd=False)
    # silu is relu but for O(1) about 0: E |su||sv| / 4, law A2, up to O(1 / s^2).
    kernel = 200.0**2 * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho)) / (2 * np.pi)
    assert together == pytest.approx(kernel, rel=2e-3)
    assert together == pytest.approx([pair_expectation("silu", rho[i : i + 1], std[:1], odd=False)[0] for i in range(5)], rel=1e-13)


def test_refusals():
    one = np.ones(1)
    with pytest.raises(ValueError, match="activation: 'relu' is not smooth at 0"):
        pair_expectation("relu", one, one, odd=False)
    with pytest.raises(ValueError, match="std: expected numbers from 1e-06 to 1000, got 1e-07"):
        pair_expectation("silu", one, 1e-7 * one, odd=False)
    tilted = Activation("tilted", lambda x, ctx: x + x * x / 1000, lambda x, ctx: 1 + x / 500)
    with pytest.raises(ValueError, match="activation: 'tilted' is not odd; expected its even part"):
        pair_expectation(tilted, one, one, odd=True)
    assert pair_expectation("silu", np.zeros((2, 0)), np.zeros((2, 0)), odd=False).shape == (2, 0)

"""Laws L1 and L2 against the oracle's quadratures, and roots found by scipy."""

import math

import numpy as np
import pytest
import scipy.optimize

from simgap.specs import ACTIVATIONS
from simgap.theory.activations import Activation
from simgap.theory.dual_map import dual_map
from simgap.theory.normalisation import (
    explaining_correlation,
    layernorm_cosine,
    layernorm_map,
    raises_overlap_below,
    unique_above,
)
from tests.theory.gauss import ACT, pair

RHO = np.array([-1.0, -0.6, -1e-3, 0.0, 1e-3, 0.4, 0.999, 1.0])


@pytest.mark.parametrize("std", [0.01, 30.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layernorm_map(name, std):
    """Covariance over variance, from pair expectations of another route."""
    at = np.array([pair(name, rho, std) for rho in RHO])
    expected = (at - at[3]) / (at[-1] - at[3])
    found = layernorm_map(name, RHO, std)
    assert np.abs(found - expected).max() < 1e-12
    assert (np.abs(found) <= np.abs(RHO) + 1e-14).all()
    assert (found <= dual_map(name, RHO, std) + 1e-14).all()
    assert found[3] == pytest.approx(0, abs=1e-15)


def test_where_it_raises_overlap():
    """ReLU, either side of kappa0 / (2 - kappa0): LayerNorm's cos^2 against the activation's."""
    edge = raises_overlap_below(1 / math.pi)
    rho = scipy.optimize.brentq(lambda rho: pair("relu", rho, 1.0) / pair("relu", 1.0, 1.0) - edge, -0.9, 0.5, xtol=1e-14)
    for shift, raised in ((-1e-3, True), (1e-3, False)):
        assert (layernorm_map("relu", rho + shift) ** 2 > dual_map("relu", rho + shift) ** 2) is raised
    assert layernorm_map("relu", -1.0) ** 2 == pytest.approx(1 / (math.pi - 1) ** 2, rel=1e-13)
    assert layernorm_cosine(0.5, 0.2) == pytest.approx(0.375, rel=1e-15)


def test_long_vectors():
    """One pair of 4e5 entries, normed: within 5 standard errors, (1 - c^2) / sqrt(f) at least for a normal, 3 times that here."""
    rng, f, rho = np.random.default_rng(1), 400_000, 0.5
    u, w = rng.standard_normal((2, f))
    a, b = ACT["silu"](u), ACT["silu"](rho * u + math.sqrt(1 - rho**2) * w)
    cosine = np.corrcoef(a, b)[0, 1]
    assert abs(cosine - layernorm_map("silu", rho)) < 15 / math.sqrt(f)
    assert abs(cosine - dual_map("silu", rho)) > 15 / math.sqrt(f)


def test_constants_of_silu():
    """Certified in law L2."""
    assert explaining_correlation(0.6, "silu") == pytest.approx(0.779694277782634392948, abs=1e-13)
    assert explaining_correlation(0.6, "silu", norm="rmsnorm") == explaining_correlation(0.6, "silu")
    assert explaining_correlation(0.6, "silu", norm="layernorm") == pytest.approx(0.807132107664795508891, abs=1e-13)


@pytest.mark.parametrize("norm", [None, "layernorm"])
@pytest.mark.parametrize("name, std", [("silu", 1.0), ("relu", 2.0), ("tanh", 0.8), ("gelu", 20.0)])
def test_the_inverse_by_brent(name, std, norm):
    top, rest = pair(name, 1.0, std), pair(name, 0.0, std) if norm else 0.0
    for mso in (0.05, 0.9):

        def gap(rho, mso=mso):
            return (pair(name, rho, std) - rest) / (top - rest) - math.sqrt(mso)

        root = scipy.optimize.brentq(gap, -0.9 if gap(0.0) > 0 else 0.0, 1.0, xtol=1e-15, rtol=1e-14)
        assert explaining_correlation(mso, name, std, norm) == pytest.approx(root, abs=1e-10)


@pytest.mark.parametrize("norm", [None, "layernorm"])
def test_ends_and_arrays(norm):
    mso = np.array([[0.0, 0.3], [0.7, 1.0]])
    rho = explaining_correlation(mso, "silu", 1.0, norm)
    function = layernorm_map if norm else dual_map
    assert rho.shape == (2, 2)
    assert function("silu", rho, 1.0) ** 2 == pytest.approx(mso, abs=1e-12)
    assert rho[1, 1] == 1
    assert isinstance(explaining_correlation(0.3, "silu", 1.0, norm), float)
    both = explaining_correlation(0.3, "silu", np.array([0.5, 1.0]), norm)
    assert both[1] == pytest.approx(rho[0, 1], abs=1e-14)


def test_the_larger_of_several():
    """SiLU at s = 10 falls at -1: just below (min kappa)^2 there are three correlations, and the one on the rising branch is returned."""
    rho = np.linspace(-1, -0.98, 401)
    value = dual_map("silu", rho, 10.0)
    lowest = value.min()
    assert lowest < value[0] - 1e-5
    mso = ((lowest + value[0]) / 2) ** 2
    assert value[0] ** 2 < mso < unique_above(value[0], lowest)
    crossings = np.sum(np.diff(np.sign(value**2 - mso)) != 0)
    assert crossings == 2
    found = explaining_correlation(mso, "silu", 10.0)
    assert found > -0.98
    assert dual_map("silu", found, 10.0) == pytest.approx(math.sqrt(mso), abs=1e-12)


TILTED = Activation(
    "tilted",
    lambda x, ctx: x / 8 + x * ctx.tanh(x),
    lambda x, ctx: ctx.number("0.125") + ctx.tanh(x) + x * (1 - ctx.tanh(x) ** 2),
    lambda x, ctx: x * ctx.tanh(x),
    linear=0.125,
)


def test_an_overlap_that_no_correlation_gives():
    """x/8 + x tanh x overlaps at every correlation: its kappa has a positive minimum inside (-1, 0)."""
    rho = np.linspace(-1, 0, 201)
    value = dual_map(TILTED, rho, 1.0)
    at = value.argmin()
    assert 0 < at < 200
    found = explaining_correlation((value[at] + 1e-3) ** 2, TILTED)
    assert found > rho[at]
    assert dual_map(TILTED, found) == pytest.approx(value[at] + 1e-3, abs=1e-12)
    with pytest.raises(ValueError, match="mso: no correlation gives an overlap as small as"):
        explaining_correlation((value[at] - 1e-3) ** 2, TILTED)


def test_unique_above():
    assert unique_above(-0.4, -0.4) == pytest.approx(0.16, rel=1e-15)
    assert unique_above(-0.1, -0.2) == pytest.approx(0.04, rel=1e-15)
    assert unique_above(0.3, -0.2) == pytest.approx(0.09, rel=1e-15)


def test_why_unique_above_needs_a_minimum_below_zero_and_some_overlap():
    """SiLU at s = 1 has no overlap at one correlation alone; x/8 + x tanh x its least at one alone, and less at none."""
    rho = np.linspace(-1, 1, 4001)
    value = dual_map("silu", rho, 1.0)
    assert np.sum(np.diff(np.sign(value)) != 0) == 1
    tilted = dual_map(TILTED, rho, 1.0)
    assert 0 < tilted.min() < tilted[0]
    assert (tilted**2 < unique_above(tilted[0], tilted.min())).any()


@pytest.mark.parametrize("mso", [-1e-9, 1.0001, math.nan])
def test_mso_out_of_range(mso):
    with pytest.raises(ValueError, match=r"mso: expected numbers in \[0, 1\]"):
        explaining_correlation(mso, "silu")


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm: expected None, 'rmsnorm' or 'layernorm', got 'batchnorm'"):
        explaining_correlation(0.5, "silu", norm="batchnorm")

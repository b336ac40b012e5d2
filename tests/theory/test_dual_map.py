"""Law A1 against quadratures of their own (tests/theory/gauss.py) and against mpmath."""

import dataclasses
import itertools
import math

import mpmath
import numpy as np
import pytest

from simgap.specs import ACTIVATIONS, ODD_ACTIVATIONS
from simgap.theory.activations import Activation, activation_of
from simgap.theory.dual_map import dual_map, dual_parts, kappa, kappa_zero
from tests.theory.gauss import ACT, narrow_pair, pair, wide_pair

RHO = (-1.0, -0.999999, -0.3, 0.0, 1e-6, 0.5, 0.999999, 1.0)
STD = (0.01, 1.0, 100.0)
CLOSE = 1e-12  # what dual_map's docstring promises


@pytest.mark.parametrize("std", STD)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dual_map(name, std):
    size = pair(name, 1.0, std)
    expected = np.array([pair(name, rho, std) for rho in RHO]) / size
    found = dual_map(name, np.array(RHO), std)
    assert np.abs(found - expected).max() < CLOSE
    acute = np.array(RHO) >= 0
    # Where the value is 0 but for round-off (odd activations at rho = 0), the relative error has no meaning.
    relative = acute & (expected > 1e-15)
    assert np.abs(found[relative] / expected[relative] - 1).max() < CLOSE
    gated = dual_map(name, np.array(RHO), std, gated=True)
    assert np.abs(gated - np.array(RHO) * expected).max() < CLOSE
    if std == 1:
        assert np.abs(dual_map(name, np.array(RHO), 1.01) - expected).max() > 1e-4 or name in ("identity", "relu")


def test_the_two_quadratures_of_the_oracle_agree():
    """Where both reach: at s = 1, and the wide one's segments against the narrow one's plane."""
    for name, rho in itertools.product(("silu", "tanh", "gelu_tanh"), (-0.3, 0.5)):
        assert wide_pair(name, rho, 1.0) == pytest.approx(narrow_pair(ACT[name], rho, 1.0), rel=1e-13)


MP_ACT = {
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))) / 2,
    "tanh": mpmath.tanh,
}


@pytest.mark.parametrize("name, std", [("silu", 1.0), ("gelu", 0.01), ("gelu_tanh", 1.0), ("silu", 100.0), ("tanh", 100.0)])
def test_both_ends_and_zero_by_mpmath(name, std):
    """kappa(-1) and kappa(0) are single integrals: 20 digits, segments down to the scale 1/std of the activation."""
    f = MP_ACT[name]
    edges = sorted({0.0, *(side * min(p / std, 14.0) for p in (1, 6, 40) for side in (1, -1)), -14.0, 14.0})
    with mpmath.workdps(20):

        def mean(g):
            return mpmath.quad(lambda z: g(std * z) * mpmath.npdf(z), edges, maxdegree=6)

        square = mean(lambda x: f(x) ** 2)
        opposite, first = mean(lambda x: f(x) * f(-x)) / square, mean(f) ** 2 / square
    assert dual_map(name, -1.0, std) == pytest.approx(float(opposite), abs=CLOSE)
    assert dual_map(name, 0.0, std) == pytest.approx(float(first), rel=CLOSE, abs=1e-30)
    assert kappa_zero(name, std) == pytest.approx(float(first), rel=CLOSE, abs=1e-28)


def test_constants_of_silu():
    # 20 and more certified digits of law A2 and A1.
    assert dual_map("silu", 0.0, 1.0) == pytest.approx(0.11999764021101998, rel=1e-14)
    assert dual_map("silu", -1.0, 1.0) == pytest.approx(-0.40538056203723553, rel=1e-14)


@pytest.mark.parametrize("name", ["silu", "relu", "tanh"])
def test_the_plain_route(name):
    assert kappa(name, -0.4, 3.0) == pytest.approx(pair(name, -0.4, 3.0) / pair(name, 1.0, 3.0), abs=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_shape_on_the_unit_interval(name):
    rho = np.linspace(0, 1, 41)
    value = dual_map(name, rho, 2.0)
    assert value[-1] == pytest.approx(1, abs=1e-14)
    assert (np.diff(value) > 0).all()
    assert (np.diff(value, 2) > (-1e-14 if name == "identity" else 0)).all()
    assert (np.abs(dual_map(name, -rho, 2.0)) <= value + 1e-14).all()
    if name in ODD_ACTIVATIONS:
        assert (value <= rho + 1e-14).all()
        assert dual_map(name, 0.0, 2.0) == 0


def test_monotone_only_there():
    """kappa of x^2 falls on [-1, 0]; GELU's at s = 10 has its minimum inside, not at -1."""
    square = Activation("square", lambda x, ctx: x * x, lambda x, ctx: 2 * x, lambda x, ctx: x * x, linear=0)
    assert dual_map(square, -1.0, 1.0) == pytest.approx(1, abs=1e-14)
    assert dual_map(square, 0.5, 1.0) == pytest.approx((1 + 2 * 0.25) / 3, rel=1e-14)
    assert dual_map("gelu", -0.998, 10.0) < dual_map("gelu", -1.0, 10.0) - 1e-6


def test_parts_and_shapes():
    rho, std = np.array([[-0.5], [0.25]]), np.array([0.5, 1.0, 4.0])
    even, odd, size = dual_parts("silu", rho, std)
    assert even.shape == odd.shape == size.shape == (2, 3)
    assert odd == pytest.approx(std**2 * rho / 4, rel=1e-15)
    assert dual_map("silu", rho, std) == pytest.approx((even + odd) / size, rel=1e-15)
    each = [[dual_map("silu", float(r), float(s)) for s in std] for r in rho[:, 0]]
    assert dual_map("silu", rho, std) == pytest.approx(np.array(each), rel=1e-13)
    assert isinstance(dual_map("silu", 0.5), float)
    assert dual_map("silu", np.zeros((0,)), 1.0).shape == (0,)


@pytest.mark.parametrize("rho", [1.0000001, -1.5, math.nan])
def test_rho_out_of_range(rho):
    with pytest.raises(ValueError, match=r"rho: expected correlations in \[-1, 1\]"):
        dual_map("silu", np.array([0.0, rho]), 1.0)


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_std_out_of_range(std):
    with pytest.raises(ValueError, match="std: expected finite numbers above 0"):
        dual_map("relu", 0.5, std)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("std", [1e4, 1e200, 9e-7])
def test_std_beyond_the_range(name, std):
    with pytest.raises(ValueError, match="std: expected numbers from 1e-06 to 1000"):
        dual_map(name, 0.5, std)


@pytest.mark.parametrize("rho", [1.0000001, -2.0, math.nan])
def test_the_plain_route_refuses_too(rho):
    with pytest.raises(ValueError, match=r"rho: expected correlations in \[-1, 1\]"):
        kappa("silu", rho)


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation: expected one of .* got 'sillu'"):
        dual_map("sillu", 0.5)


@pytest.mark.parametrize("name", ["relu", "gelu", "erf"])
def test_a_closed_form_belongs_to_its_function_not_to_its_name(name):
    """SiLU, or tanh, under the name of an activation with a closed form keeps a map of its own."""
    true = activation_of("tanh" if name == "erf" else "silu")
    assert dual_map(dataclasses.replace(true, name=name), 0.3) == dual_map(true, 0.3)
    assert dual_map(name, 0.3) != dual_map(true, 0.3)


def squared_relu(x):
    return np.maximum(x, 0) ** 2


def arc_cosine_2(rho):
    """E relu(u)^2 relu(v)^2: the arc-cosine kernel of degree 2 (Cho and Saul 2009), over its value 3/2 at rho = 1."""
    angle = np.arccos(rho)
    return (3 * np.sin(angle) * np.cos(angle) + (np.pi - angle) * (1 + 2 * np.cos(angle) ** 2)) / (3 * np.pi)


def test_a_function_of_arrays():
    rho = np.linspace(-1, 1, 21)
    for std in (0.5, 2.0):
        assert np.abs(dual_map(squared_relu, rho, std) - arc_cosine_2(rho)).max() < 1e-12
    assert np.abs(dual_map(squared_relu, rho, gated=True) - rho * arc_cosine_2(rho)).max() < 1e-12
    assert np.abs(dual_map(lambda x: np.maximum(x, 0) ** 3, rho) - arc_cosine_2(rho)).max() > 0.01
    assert isinstance(dual_map(squared_relu, 0.5), float)


@pytest.mark.parametrize("name", ["relu", "silu", "tanh"])
def test_a_function_that_has_a_name_too(name):
    rho = np.array(RHO)
    assert np.abs(dual_map(ACT[name], rho, 1.5) - dual_map(name, rho, 1.5)).max() < 1e-9


def test_a_function_with_kinks_has_no_map():
    with pytest.raises(ValueError, match=r"^activation: 'hard_swish' is not smooth on either side of 0 on the scale of std 1\.93"):
        dual_map(hard_swish, 0.5)


def hard_swish(x):
    return x * np.clip(x + 3, 0, 6) / 6

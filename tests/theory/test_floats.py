"""The float context: its numbers, its functions at the ends of their range, its quadratures."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import scipy.special

from simgap import theory
from simgap.theory.floats import FLOAT, larger, legendre_rule, normal_rule, shared, smaller


def test_rules_that_callers_share():
    """The rule is the one of `expect`, and no caller can write into what the next one gets."""
    z, w = normal_rule()
    assert w.sum() == pytest.approx(1, rel=1e-14)
    assert float(np.exp(-(z**2)) @ w) == FLOAT.expect(lambda x: np.exp(-(x**2)))
    x, weights = legendre_rule(5)
    assert float(x**8 @ weights) == pytest.approx(2 / 9, rel=1e-14)
    assert legendre_rule(5)[0] is x
    for array in (z, w, x, weights, shared(np.zeros(2))):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


@pytest.mark.parametrize("mine, numpys", [(larger, np.maximum), (smaller, np.minimum)])
def test_bounds_of_numbers_are_those_of_arrays(mine, numpys):
    x = np.array([-math.inf, -1.5, 0.0, 0.25, 1.0, 7.0, math.inf, math.nan])
    for bound in (0.0, 1.0):
        np.testing.assert_array_equal(mine(x, bound), numpys(x, bound))
        one_by_one = [mine(value, bound) for value in x.tolist()]
        assert {type(value) for value in one_by_one} == {float}
        np.testing.assert_array_equal(one_by_one, numpys(x, bound))


def test_numbers():
    third = Fraction(1, 3)
    assert FLOAT.number(third) is third
    assert FLOAT.number(7) == 7
    assert isinstance(FLOAT.number(7), int)
    assert FLOAT.number("0.1") == 0.1
    assert FLOAT.number("1/3") == 1 / 3
    assert FLOAT.number([1, 2]).dtype == np.float64
    assert isinstance(FLOAT.number(np.float32(0.5)), float)


def test_functions():
    x = np.array([-800.0, -3.0, 0.0, 2.0, 800.0])
    assert FLOAT.logistic(x) == pytest.approx(scipy.special.expit(x), rel=1e-15)
    assert FLOAT.positive_part(x).tolist() == [0, 0, 0, 2, 800]
    assert FLOAT.step(x)[[0, 1, 3, 4]].tolist() == [0, 0, 1, 1]
    assert FLOAT.magnitude(x).tolist() == [800, 3, 0, 2, 800]
    quarter = Fraction(1, 4)
    for name, value in (("sqrt", 0.5), ("exp", math.exp(0.25)), ("log", math.log(0.25)), ("erf", math.erf(0.25))):
        assert float(getattr(FLOAT, name)(quarter)) == pytest.approx(value, rel=1e-15)
    assert float(FLOAT.tanh(quarter)) == pytest.approx(math.tanh(0.25), rel=1e-15)
    assert float(FLOAT.asin(quarter)) == pytest.approx(math.asin(0.25), rel=1e-15)
    assert FLOAT.pi == math.pi


@pytest.mark.parametrize("std", [1e-6, 0.3, 1.0, 1e3])
def test_moments(std):
    """E |sz|^p = s^p 2^(p/2) Gamma((p+1)/2) / sqrt(pi): kinked at 0 for odd p."""
    for p in range(9):
        exact = std**p * 2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)
        assert FLOAT.expect(lambda x, p=p: np.abs(x) ** p, std) == pytest.approx(exact, rel=1e-13)
    assert FLOAT.expect(lambda x: 1, std) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("std", [1.0, 100.0, 2.0**20])
def test_a_scale_much_smaller_than_the_normal(std):
    """E exp(-(sz)^2 / 2) = 1 / sqrt(1 + s^2), all of it near 0."""
    assert FLOAT.expect(lambda x: np.exp(-x * x / 2), std) == pytest.approx(1 / math.sqrt(1 + std**2), rel=1e-12)
    assert FLOAT.expect(lambda x: np.exp(-x * x / 2), 1.001 * std) != pytest.approx(1 / math.sqrt(1 + std**2), rel=1e-12)


def test_arrays_of_scales():
    std = np.array([[0.5, 1.0], [2.0, 3.0]])
    assert FLOAT.expect(lambda x: x * x, std) == pytest.approx(std**2, rel=1e-14)
    assert isinstance(FLOAT.expect(lambda x: x * x, 2), float)


def test_pairs():
    """Isserlis, Sheppard and Cho and Saul: smooth, jumping and kinked functions."""
    rho = np.array([-0.7, 0.2])
    assert FLOAT.expect_pair(lambda x: x, lambda x: x, rho, 2.0) == pytest.approx(4 * rho, rel=1e-13)
    assert FLOAT.expect_pair(lambda x: x * x, lambda x: 1 + x, 0.5, 2.0) == pytest.approx(4, rel=1e-13)
    assert FLOAT.expect_pair(np.sign, np.sign, 0.4) == pytest.approx(2 * math.asin(0.4) / math.pi, rel=1e-12)
    relu = FLOAT.positive_part
    assert FLOAT.expect_pair(relu, relu, 0.4) == pytest.approx(
        (math.sqrt(0.84) + 0.4 * (math.pi - math.acos(0.4))) / (2 * math.pi), rel=1e-12
    )


def test_numbers_and_arrays_go_through_the_public_laws():
    """Every public law takes arrays, element by element the number it gives alone; broadcasting as numpy does."""
    d, f = np.array([8, 16]), np.array([[32], [64]])
    s = np.array([1.0, 2.0])
    laws = {
        "null_weight_mso": (theory.null_weight_mso, d, f),
        "null_output_mso": (theory.null_output_mso, d),
        "null_gap": (theory.null_gap, d, f),
        "null_layernorm_mso": (theory.null_layernorm_mso, f),
        "null_subspace_overlap": (theory.null_subspace_overlap, d, np.array([2, 3])),
        "null_jacobian_alignment": (theory.null_jacobian_alignment, d, f),
        "hidden_token_mso": (partial(theory.hidden_token_mso, "silu"), f, s),
        "dual_map": (partial(theory.dual_map, "silu"), np.array([0.1, 0.2]), s),
        "dual_slope": (partial(theory.dual_slope, "gelu"), s),
        "compression_threshold": (partial(theory.compression_threshold, "gelu"), s),
        "layernorm_map": (partial(theory.layernorm_map, "relu"), np.array([0.1, 0.2]), s),
        "explaining_correlation": (lambda mso, std: theory.explaining_correlation(mso, "silu", std), np.array([0.5, 0.6]), s),
        "futility_share": (theory.futility_share, d, f),
        "pearson_p": (theory.pearson_p, np.array([0.1, 1.0]), np.array([[25], [30]])),
        "mso_interval, low": (lambda width, level: theory.mso_interval(width, 28, 10, level)[0], d, np.array([0.9, 0.99])),
    }
    for name, (law, *arguments) in laws.items():
        shape = np.broadcast_shapes(*(np.shape(a) for a in arguments))
        found = law(*arguments)
        assert found.shape == shape, name
        for at in np.ndindex(shape):
            alone = law(*(np.broadcast_to(a, shape)[at].item() for a in arguments))
            assert np.ndim(alone) == 0, name
            assert found[at] == pytest.approx(alone, rel=1e-12), name

"""Law F5 against brute force over orders, another quadrature, the binomial law, and draws."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import scipy.stats

from simgap.theory.row_spaces import (
    alignment_from_moments,
    complement_change,
    disjoint_units,
    mirrored_limit,
    mirrored_rows,
    orthogonal_rows_limit,
    orthogonal_rows_overlap,
    row_alignment,
)

SIGMA = 5.0
NODES, WEIGHTS = np.polynomial.legendre.leggauss(150)
ACTS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * scipy.special.expit(x),
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "tanh": np.tanh,
}


def gauss(function, std=1.0):
    """E function(std z): 150 Gauss-Legendre nodes on either side of 0 up to 12, at round-off for functions analytic there."""
    z, weights = 6 * (NODES + 1), WEIGHTS
    return float(6 * weights * scipy.stats.norm.pdf(z) @ (function(std * z) + function(-std * z)))


@pytest.mark.parametrize("f", [2, 3, 4])
def test_independent_lists_in_every_order(f):
    """u and v drawn from lists whose order is uniform: cos^2 averaged over all orders, in fractions."""
    u, v = ([Fraction(n) for n in numbers[:f]] for numbers in ((1, 3, -2, 5), (2, 2, 7, -1)))
    norms = sum(x * x for x in u) * sum(x * x for x in v)
    orders = list(itertools.permutations(u))
    mean = sum(sum(x * y for x, y in zip(order, v, strict=True)) ** 2 for order in orders) / (len(orders) * norms)
    q = [sum(side) ** 2 / (f * sum(x * x for x in side)) for side in (u, v)]
    assert orthogonal_rows_overlap(*q, Fraction(f)) == mean
    assert orthogonal_rows_overlap(q[0], q[0], Fraction(f)) != mean


def test_ends_of_the_row_law():
    f = Fraction(7)
    assert orthogonal_rows_overlap(1 / f, 1 / f, f) == 1 / f  # sign-symmetric entries
    assert orthogonal_rows_overlap(0, 0, f) == 1 / (f - 1)  # centred vectors
    assert orthogonal_rows_overlap(1, 1, f) == 1


@pytest.mark.parametrize("p", [Fraction(1, 3), Fraction(3, 5)])
def test_the_alignment_of_coin_flips(p):
    """Entries 1 with probability p and else 3: the exact q by the binomial law; f^2 times the rest stays bounded, so it is O(1/f^2)."""
    moments = [p + (1 - p) * 3**k for k in (1, 2, 3, 4)]

    def exact(f):
        weights = scipy.stats.binom.pmf(np.arange(f + 1), f, float(p))
        ones = np.arange(f + 1)
        return float(weights @ ((ones + 3.0 * (f - ones)) ** 2 / (f * (ones + 9.0 * (f - ones)))))

    rest = [f * f * abs(exact(f) - float(alignment_from_moments(*moments, Fraction(f)))) for f in (50, 200, 800)]
    assert max(rest) < 2 * min(rest) < 1
    limit = float(moments[0] ** 2 / moments[1])
    assert 800 * 800 * abs(exact(800) - limit) > 10


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("std", [0.5, 1.0])
def test_limits_against_quadrature(name, std):
    act = ACTS[name]
    square = gauss(lambda x: act(x) ** 2, std)
    assert orthogonal_rows_limit(name, std) == pytest.approx((gauss(act, std) ** 2 / square) ** 2, abs=1e-12)
    turned = gauss(lambda x: act(x) * act(-x), std) / square
    assert mirrored_limit(name, std) == pytest.approx(((1 + turned) / 2) ** 2, abs=1e-12)
    # Where act is odd both are 0, up to round-off squared twice.
    assert mirrored_limit(name, std) >= orthogonal_rows_limit(name, std) - 1e-60
    moments = [gauss(lambda x, p=p: act(x) ** p, std) for p in (1, 2, 3, 4)]
    assert row_alignment(name, 20, std) == pytest.approx(float(alignment_from_moments(*moments, 20)), abs=1e-11)


def test_stated_values():
    assert orthogonal_rows_limit("relu") == pytest.approx(1 / math.pi**2, rel=1e-14)
    assert mirrored_limit("relu") == pytest.approx(0.25, rel=1e-14)
    assert mirrored_limit("tanh") == pytest.approx(0, abs=1e-28)
    assert orthogonal_rows_limit("tanh") == pytest.approx(0, abs=1e-28)


def test_mirrored_rows_overlap_though_pre_activations_do_not():
    random = np.random.default_rng(0)
    w1, w2 = mirrored_rows(random.standard_normal((4000, 3)))
    # 8000 products that cancel in pairs, of total size 4000: round-off of any order of summing is under 8000 * 1e-16 * 4000.
    assert np.abs(w1.T @ w2).max() < 1e-8
    x = random.standard_normal(3)
    g1, g2 = w1 @ x, w2 @ x
    assert abs(g1 @ g2) < 1e-12 * (g1 @ g1)
    h1, h2 = np.maximum(g1, 0), np.maximum(g2, 0)
    cos2 = (h1 @ h2) ** 2 / ((h1 @ h1) * (h2 @ h2))
    # 8000 units: the cosine's standard deviation is about 1/sqrt(4000).
    assert abs(math.sqrt(cos2) - 0.5) < SIGMA / math.sqrt(4000)
    assert abs(math.sqrt(cos2) - 1 / math.pi) > SIGMA / math.sqrt(4000)


@pytest.mark.parametrize("f1, f2", [(2, 2), (5, 3)])
def test_disjoint_units(f1, f2):
    random = np.random.default_rng(f1)
    w1, w2 = disjoint_units(random.standard_normal((f1, 2)), random.standard_normal((f2, 2)))
    assert w1.shape == w2.shape == (f1 + f2, 2)
    assert np.abs(w1.T @ w2).max() == 0
    x = random.standard_normal(2)
    assert np.tanh(w1 @ x) @ np.tanh(w2 @ x) == 0
    assert scipy.special.expit(w1 @ x) @ scipy.special.expit(w2 @ x) > 0.1


def test_moving_columns_off_changes_d_units_worth():
    random = np.random.default_rng(2)
    values = []
    for _ in range(2000):
        w1, w2 = random.standard_normal((2, 12, 3))
        q, _ = np.linalg.qr(w1)
        values.append(((q.T @ (w2 @ [0.0, 2.0, 0.0])) ** 2).sum())
    values = np.array(values)
    error = values.std(ddof=1) / math.sqrt(values.size)
    assert abs(values.mean() - complement_change(3, 2)) < SIGMA * error
    assert abs(values.mean() - complement_change(4, 2)) > SIGMA * error

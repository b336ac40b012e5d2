"""Law A6 against scipy's integrals, brute force over token pairs, and simulated tokens."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from simgap.theory.mean_vectors import (
    hermite_shares,
    jensen_excess,
    leading_mean_kappa,
    mean_hidden_mso,
    mean_pair_kappa,
    mso_of_means,
    relu_sphere_kappa,
    routed_mean_cosine,
    routed_remainder,
    selected_logit_mean,
    selected_logit_moment,
    selection_probability,
    sphere_cosine_moment,
    sphere_mean_kappa,
    sphere_mean_magnitude,
    sphere_remainder,
    sphere_routed_cosine,
)
from tests.reference import ACTIVATIONS

SIGMA = 5.0


def arc_cosine(rho):
    rho = np.clip(rho, -1, 1)
    return (np.sqrt(1 - rho * rho) + rho * (np.pi - np.arccos(rho))) / np.pi


def over_sphere(f, d):
    """E f(rho) by scipy, in the polar angle: density sin^(d-2)."""
    size = scipy.integrate.quad(lambda t: math.sin(t) ** (d - 2), 0, math.pi)[0]
    return scipy.integrate.quad(lambda t: f(math.cos(t)) * math.sin(t) ** (d - 2), 0, math.pi, limit=200)[0] / size


@pytest.mark.parametrize("d", [2, 3, 8, 50])
def test_moments_of_a_cosine_on_the_sphere(d):
    for power in (0, 2, 4, 6):
        assert sphere_cosine_moment(Fraction(d), power) == pytest.approx(over_sphere(lambda r, p=power: r**p, d), rel=1e-9)
    assert sphere_cosine_moment(d, 3) == 0
    magnitude = math.exp(scipy.special.gammaln(d / 2) - scipy.special.gammaln((d + 1) / 2)) / math.sqrt(math.pi)
    assert sphere_mean_magnitude(d) == pytest.approx(magnitude, rel=1e-12)
    assert relu_sphere_kappa(d) == pytest.approx(over_sphere(arc_cosine, d), rel=1e-9)
    assert sphere_mean_kappa("relu", 2.0, d) == pytest.approx(relu_sphere_kappa(d), abs=1e-12)


def test_the_sphere_of_one_and_of_many_dimensions():
    assert sphere_mean_kappa("relu", 1.0, 1) == pytest.approx(0.5, abs=1e-12)
    shares = hermite_shares("silu", 1)
    for d in (32, 4096):
        left = sphere_mean_kappa("silu", 1.0, d) - leading_mean_kappa(shares, d)
        assert -1e-12 < left < sphere_remainder(shares, d) + 1e-12
    widths = np.array([[16], [128]])
    assert sphere_mean_kappa("silu", np.array([1.0, 1.4]), widths).shape == (2, 2)


@pytest.mark.parametrize("name, std", [("silu", 1.0), ("gelu", 1.4), ("tanh", 0.7), ("relu", 2.0)])
def test_shares_are_hermite_coefficients(name, std):
    def mean(f):
        return sum(scipy.integrate.quad(lambda z: f(z) * scipy.stats.norm.pdf(z), *ends, epsabs=1e-12)[0] for ends in ((-12, 0), (0, 12)))

    size = mean(lambda z: ACTIVATIONS[name](std * z) ** 2)
    for j, share in enumerate(hermite_shares(name, std)):
        hermite = scipy.special.hermitenorm(j)
        coefficient = mean(lambda z, h=hermite: ACTIVATIONS[name](std * z) * h(z)) / math.sqrt(math.factorial(j))
        assert share == pytest.approx(coefficient**2 / size, abs=1e-9)


def test_pairs_are_counted_by_brute_force():
    q = Fraction(1, 3)
    for n in (1, 2, 5):
        total = sum(1 if t == s else q for t, s in itertools.product(range(n), repeat=2)) / Fraction(n * n)
        assert mean_pair_kappa(Fraction(n), q) == total
    assert mso_of_means(Fraction(1, 3), Fraction(1, 2), Fraction(2, 3)) == Fraction(1, 3)


def test_jensen_excess_bounds_random_tokens():
    """kappa0^2 E 1/D^2 of ReLU at n = 4 tokens in d = 5: above the law, below law plus excess."""
    n, d, draws = 4, 5, 20_000
    x = np.random.default_rng(1).standard_normal((draws, n, d))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    values = (arc_cosine(x @ x.transpose(0, 2, 1)).mean(axis=(1, 2)) * np.pi) ** -2
    error = SIGMA * values.std(ddof=1) / math.sqrt(draws)
    law = mean_hidden_mso("relu", 1.0, n, d)
    variance = over_sphere(lambda r: arc_cosine(r) ** 2, d) - relu_sphere_kappa(d) ** 2
    assert law < values.mean() - error
    assert values.mean() + error < law + jensen_excess(1 / math.pi, n, relu_sphere_kappa(d), variance)


def test_finite_experts_approach_the_law():
    """SiLU, d = 24, 32 tokens, f = 4096: the error in f is O(1/f), 2e-4, the excess O(1/(n^2 d)) is bounded above."""
    d, n, f, trials = 24, 32, 4096, 24
    generator = np.random.default_rng(7)
    values = []
    for _ in range(trials):
        x = generator.standard_normal((n, d))
        x *= math.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
        pre = (generator.standard_normal((2, f, d)) / math.sqrt(d)) @ x.T
        u, v = (pre / (1 + np.exp(-pre))).mean(axis=2)
        values.append((u @ v) ** 2 / ((u @ u) * (v @ v)))
    law = mean_hidden_mso("silu", 1.0, n, d)
    error = SIGMA * np.std(values, ddof=1) / math.sqrt(trials) + 0.01
    assert abs(np.mean(values) - law) < error
    assert abs(np.mean(values) - mean_hidden_mso("silu", 1.0, n // 2, d)) > error


def order_statistic(experts, rank):
    """E of the rank-th largest of normals, by scipy."""
    scale = math.factorial(experts) / (math.factorial(rank - 1) * math.factorial(experts - rank))
    norm = scipy.stats.norm
    return scipy.integrate.quad(lambda z: z * scale * norm.cdf(z) ** (experts - rank) * norm.sf(z) ** (rank - 1) * norm.pdf(z), -9, 9)[0]


@pytest.mark.parametrize("experts, k", [(2, 1), (4, 2), (8, 2), (16, 4)])
def test_selected_logits_are_order_statistics(experts, k):
    expected = sum(order_statistic(experts, rank) for rank in range(1, k + 1)) / k
    assert selected_logit_mean(experts, k) == pytest.approx(expected, abs=1e-8)
    p = 0.3
    assert selection_probability(p, experts, k) == pytest.approx(scipy.stats.binom.cdf(k - 1, experts - 1, 1 - p), rel=1e-10)


def test_selected_logits_at_the_ends():
    assert selected_logit_mean(5, 5) == pytest.approx(0, abs=1e-12)
    assert selected_logit_moment(5, 5, 2) == pytest.approx(1, abs=1e-12)
    assert math.isfinite(selected_logit_mean(1000, 500))
    assert routed_mean_cosine(64, 1, 1) == 0
    with pytest.raises(ValueError, match="top_k: expected 1 <= top_k <= n_experts <= 1000, got top_k = 3, n_experts = 2"):
        selected_logit_mean(2, 3)
    with pytest.raises(ValueError, match="tokens: expected numbers >= 1, got 0"):
        mean_hidden_mso("relu", 1.0, 0, 8)
    with pytest.raises(ValueError, match="d_model: expected integers >= 1, got 0"):
        sphere_mean_kappa("relu", 1.0, 0)


def test_routed_tokens_of_random_linear_routers():
    """ReLU, d = 48, 8 experts, top-3, 768 tokens: the law's error, O(1/d^2 + 1/(n d)), is within 4/d^2 of both."""
    d, experts, k, n, trials = 48, 8, 3, 768, 12
    generator = np.random.default_rng(11)
    overlaps, cosines = [], []
    for _ in range(trials):
        x = generator.standard_normal((n, d))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        chosen = np.argpartition(-(x @ generator.standard_normal((d, experts))), k - 1, axis=1)[:, :k]
        inverse = []
        for e in range(experts):
            gram = (lambda t: t @ t.T)(x[(chosen == e).any(axis=1)])
            m = len(gram)
            cosines.append((gram.sum() - m) / (m * (m - 1)))
            inverse.append(1 / (np.pi * arc_cosine(gram).mean()))
        overlaps.append(np.mean([a * b for a, b in itertools.combinations(inverse, 2)]))
    b = routed_mean_cosine(d, experts, k)
    assert b < sphere_routed_cosine(d, experts, k) < b * (1 + 1 / d)
    assert abs(np.mean(cosines) - b) < SIGMA * np.std(cosines) / math.sqrt(trials * experts) + b / d
    law = mean_hidden_mso("relu", 1.0, n * k / experts, d, b)
    room = SIGMA * np.std(overlaps) / math.sqrt(trials) + 4 / d**2
    assert abs(np.mean(overlaps) - law) < room
    for twin in (mean_hidden_mso("relu", 1.0, n * k / experts, d, b * 7 / 8), mean_hidden_mso("relu", 1.0, n * k / experts, d)):
        assert abs(np.mean(overlaps) - twin) > room
    assert 0 < routed_remainder(hermite_shares("relu"), d, experts, k) < 1 / d**2


def test_arrays_of_tokens():
    law = mean_hidden_mso("silu", 1.0, np.array([1, 10, 1000]), 64, 0.01)
    assert law.shape == (3,)
    assert law[0] == pytest.approx(hermite_shares("silu", 1)[0] ** 2, rel=1e-12)
    assert law[1] == mean_hidden_mso("silu", 1.0, 10, 64, 0.01)

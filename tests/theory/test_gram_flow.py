"""Law R1: mpmath's integration of the flow, matrix exponentials of generators, descent in small steps; the spike by explicit matrices."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from simgap.theory.gram_flow import gram_flow, gram_flow_singular, shared_spike_cosine, two_by_two_variance, unsquared_speed, unsquared_time
from simgap.theory.weight_null import haar_variance, null_variance
from simgap.training.gram_descent import gram_descent

SIGMA = 5.0


@pytest.mark.parametrize("s0", [0.01, 0.5, 1.0, 3.0, 20.0])
def test_a_singular_value_follows_its_equation(s0):
    """mpmath's Taylor integration of ds/dt = -s (s^2 - 1), to 15 digits."""
    flow = mpmath.odefun(lambda t, s: -s * (s * s - 1), 0, mpmath.mpf(s0))
    assert gram_flow_singular(s0, 0.3) == pytest.approx(float(flow(0.3)), rel=1e-12)
    assert gram_flow_singular(s0, 0) == s0
    if s0 != 1:
        assert gram_flow_singular(s0, 0.15) != pytest.approx(float(flow(0.3)), rel=1e-3)


def test_long_times_end_at_one_and_zero_stays():
    assert gram_flow_singular(np.array([0.0, 1e-3, 1e3]), 200.0) == pytest.approx([0, 1, 1], abs=1e-15)
    assert gram_flow_singular(5.0, 1e4) == 1.0


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_flow_of_a_matrix(shape):
    """scipy's integrator on the entries, rtol 1e-10."""
    w = np.random.default_rng(3).standard_normal(shape)

    def velocity(_, flat):
        m = flat.reshape(shape)
        return (m - m @ m.T @ m).ravel()

    end = solve_ivp(velocity, (0, 0.7), w.ravel(), rtol=1e-10, atol=1e-12).y[:, -1].reshape(shape)
    assert gram_flow(w, 0.7) == pytest.approx(end, abs=1e-8)
    assert gram_flow(np.stack([w, 2 * w]), 0.7)[0] == pytest.approx(end, abs=1e-8)


@pytest.mark.parametrize("shape", [(6, 4), (3, 4)])
def test_the_unsquared_norm_runs_along_the_same_orbit(shape):
    """gram_descent in 4,000 small steps: its error falls as the step, 1e-4 here."""
    w = np.random.default_rng(4).standard_normal(shape)
    singular = np.zeros(4)
    singular[: min(shape)] = np.linalg.svd(w, compute_uv=False)
    t = 0.2
    tau = unsquared_time(singular, t)
    steps = 4000
    ends = gram_descent(torch.from_numpy(w), 1.0, steps, tau / steps).numpy()
    assert ends == pytest.approx(gram_flow(w, t), abs=1e-3)
    assert gram_descent(torch.from_numpy(w), 1.0, steps, 2 * tau / steps).numpy() != pytest.approx(gram_flow(w, t), abs=1e-2)
    h = 1e-4
    speed = 2 * h / (unsquared_time(singular, h) - unsquared_time(singular, 0)) / 2
    assert unsquared_speed(singular) == pytest.approx(speed, rel=1e-2)


def test_the_unsquared_flow_arrives():
    """Equal singular values: s = s0 e^{-+2 tau/sqrt d}, at 1 after sqrt d |log s0| / 2."""
    for s0 in (0.3, 4.0):
        assert unsquared_time(np.full(3, s0), math.inf) == pytest.approx(math.sqrt(3) * abs(math.log(s0)) / 2, rel=1e-9)
    with pytest.raises(ValueError, match="t: expected a finite time"):
        unsquared_time(np.array([1.5, 0.0]), math.inf)


@pytest.mark.parametrize("t", [0.0, 0.2, 1.5])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_shared_spike_by_explicit_matrices(t, d):
    """W_1 = [spike; noise; 0] and W_2 = [spike; 0; noise], turned at random on both sides."""
    generator = np.random.default_rng(d)
    spike, noise, f = 1.7, 0.4, 2 * d + 1
    rows, columns = (np.linalg.qr(generator.standard_normal((n, n)))[0] for n in (f, d))
    experts = []
    for first in (1, 1 + d):
        w = np.zeros((f, d))
        w[0, 0] = spike
        w[first : first + d] = noise * np.eye(d)
        experts.append(gram_flow(rows @ w @ columns, t).ravel())
    a, b = experts
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert shared_spike_cosine(spike, noise, d, t) == pytest.approx(cosine, rel=1e-12)
    if d > 1:
        assert shared_spike_cosine(spike, noise, d + 1, t) != pytest.approx(cosine, rel=1e-3)


def test_the_spike_in_fractions():
    assert shared_spike_cosine(2, Fraction(1, 2), 2, 0) == pytest.approx(8 / 9, rel=1e-15)
    assert shared_spike_cosine(2, Fraction(1, 2), 2, 100) == pytest.approx(8 / 17, rel=1e-15)


def test_two_by_two_variances_at_both_ends():
    assert two_by_two_variance(Fraction(1, 3)) == Fraction(1, 16) == null_variance(Fraction(4))
    assert two_by_two_variance(1) == pytest.approx(haar_variance(2, 2), rel=1e-15)


def test_two_by_two_variance_on_the_way():
    """20,000 Gaussian pairs at t = 0.4; |dVar/dD| <= 3/16 carries D's own error."""
    pairs = gram_flow(np.random.default_rng(6).standard_normal((2, 20_000, 2, 2)), 0.4)
    norms = (pairs**2).sum((-2, -1))
    cos2 = (pairs[0] * pairs[1]).sum((-2, -1)) ** 2 / norms.prod(0)
    roundness = (2 * np.linalg.det(pairs) / norms).ravel() ** 2
    spread = (cos2 - 0.25) ** 2
    error = spread.std() / math.sqrt(spread.size) + 3 / 16 * roundness.std() / math.sqrt(roundness.size)
    assert abs(spread.mean() - two_by_two_variance(roundness.mean())) < SIGMA * error
    for end in (1 / 3, 1):
        assert abs(spread.mean() - two_by_two_variance(end)) > SIGMA * error

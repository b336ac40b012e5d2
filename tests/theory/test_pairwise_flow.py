"""Laws R2 and R2B: mpmath and scipy integrate the flow, descent in small steps, simplices that attain the floor, minima found by scipy."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from simgap.theory.pairwise_flow import gibbs_slope, gram_velocity, log_det_rate, loss_bound, pair_mso, penalty_slope, rank_floor
from simgap.training.pairwise_descent import pairwise_descent


def table(w):
    w = w / np.linalg.norm(w, axis=-1, keepdims=True)
    return w @ w.swapaxes(-1, -2)


def loss(gram):
    return (np.sum(gram**2) - len(gram)) / 2


@pytest.mark.parametrize("c0", [0.0, 1e-6, 0.3, 0.999, 1.0])
def test_two_vectors(c0):
    """mpmath's Taylor integration of dc/dt = -8 c (1 - c)."""
    flow = mpmath.odefun(lambda t, c: -8 * c * (1 - c), 0, mpmath.mpf(c0))
    assert pair_mso(c0, 0.25) == pytest.approx(float(flow(0.25)), rel=1e-12)
    assert pair_mso(Fraction(3, 10), 0) == pytest.approx(0.3, rel=1e-15)
    assert pair_mso(c0, 80.0) == pytest.approx(1 if c0 == 1 else 0, abs=1e-200)
    assert pair_mso(0.5, 1e4) == 0


def test_small_steps_of_descent_follow_the_curve():
    """pairwise_descent, 2,000 steps of 1e-4: errors O(step)."""
    w = torch.tensor([[[1.0, 0.0, 0.0]], [[0.8, 0.6, 0.0]]], dtype=torch.float64)
    ends = pairwise_descent(w, 1.0, 2000, 1e-4).numpy()[:, 0]
    assert table(ends)[0, 1] ** 2 == pytest.approx(pair_mso(0.64, 0.2), abs=1e-3)
    assert table(ends)[0, 1] ** 2 != pytest.approx(pair_mso(0.64, 0.1), abs=1e-2)


@pytest.mark.parametrize("experts, width", [(2, 2), (3, 5), (6, 9)])
def test_the_table_flows_as_the_vectors_do(experts, width):
    """The velocity of the table against a difference quotient of descent's first step; the volume against scipy's integral of the loss."""
    w = np.random.default_rng(experts).standard_normal((experts, width))
    gram = table(w)
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    step = 1e-6
    moved = pairwise_descent(torch.from_numpy(w[:, None]), 1.0, 1, step).numpy()[:, 0]
    assert (table(moved) - gram) / step == pytest.approx(gram_velocity(gram), abs=1e-4)

    def velocity(_, state):
        return np.append(gram_velocity(state[:-1].reshape(experts, experts)).ravel(), log_det_rate(loss(state[:-1].reshape(experts, -1))))

    path = solve_ivp(velocity, (0, 0.5), np.append(gram.ravel(), 0.0), rtol=1e-10, atol=1e-12)
    end, gained = path.y[:-1, -1].reshape(experts, -1), path.y[-1, -1]
    before, after = (np.linalg.slogdet(g)[1] for g in (gram, end))
    assert after - before == pytest.approx(gained, abs=1e-7)
    assert after - before != pytest.approx(gained / 2, rel=0.1)
    assert np.diagonal(end) == pytest.approx(1, abs=1e-8)
    losses = [loss(g.reshape(experts, -1)) for g in path.y[:-1].T]
    assert np.all(np.diff(losses) <= 1e-12)
    assert all(r <= loss_bound(before, t) for t, r in zip(path.t[1:], losses[1:], strict=True))


def test_the_bound_is_nearly_attained():
    """A nearly parallel pair stays until 8t is about -log det G(0): the share of the bound rises towards 1 with its nearness."""
    shares = []
    for rest in (1e-3, 1e-6, 1e-12):
        log_det = math.log(rest)
        times = -log_det * np.linspace(0.5, 1, 20) / 8
        shares.append(max(pair_mso(1 - rest, t) / loss_bound(log_det, t) for t in times))
    assert 0.6 < shares[0] < shares[1] < shares[2] < 1
    assert shares[2] > 0.8


@pytest.mark.parametrize("rank", [1, 2, 3, 6])
def test_simplices_attain_the_floor(rank):
    """rank + 1 corners of a regular simplex: all cos^2 are 1/rank^2; and copies of an orthonormal basis."""
    assert rank_floor(Fraction(rank + 1), rank) == Fraction(1, rank**2)
    basis = np.tile(np.eye(rank), (3, 1))
    assert loss(basis @ basis.T) / math.comb(3 * rank, 2) == pytest.approx(rank_floor(3 * rank, rank), rel=1e-14)
    assert rank_floor(Fraction(rank + 1), rank + 1) == 0


def test_the_slope_along_a_branch():
    """scipy's minimiser of a task with two overlapping angles; central differences of what it finds."""

    def task(x):
        return (x[0] - 0.2) ** 2 + 2 * (x[1] - 0.5) ** 2 + 0.3 * x[0] * x[1] + x[0] ** 4

    def overlap(x):
        return math.cos(x[0] - x[1]) ** 2 + 0.5 * math.cos(x[0]) ** 2

    def at(strength):
        return minimize(lambda x: task(x) + strength * overlap(x), [0.2, 0.5], tol=1e-14, method="Nelder-Mead", options={"maxiter": 4000}).x

    strength, h = 0.3, 1e-2
    x, e = at(strength), 1e-4 * np.eye(2)
    gradient = np.array([overlap(x + u) - overlap(x - u) for u in e]) / 2e-4
    total = lambda y: task(y) + strength * overlap(y)  # noqa: E731
    hessian = np.array([[total(x + u + v) - total(x + u - v) - total(x - u + v) + total(x - u - v) for u in e] for v in e]) / 4e-8
    found = (overlap(at(strength + h)) - overlap(at(strength - h))) / (2 * h)
    claimed = penalty_slope(gradient, np.linalg.solve(hessian, gradient))
    assert claimed == pytest.approx(found, rel=1e-3)
    assert claimed < 0
    assert claimed != pytest.approx(-gradient @ gradient, rel=0.05)
    with pytest.raises(ValueError, match="argument 2 is"):
        penalty_slope([1, 2], [1])


def test_the_slope_of_a_stationary_law():
    """Two states, R = 0 and 1 at equal tasks: E R = 1/(1 + e^{lambda/tau}), whose slope is -p(1-p)/tau."""
    heat, strength = 0.7, 0.4
    p = [1 / (1 + math.exp((strength + h) / heat)) for h in (-1e-5, 0, 1e-5)]
    assert gibbs_slope(p[1] * (1 - p[1]), heat) == pytest.approx((p[2] - p[0]) / 2e-5, rel=1e-8)

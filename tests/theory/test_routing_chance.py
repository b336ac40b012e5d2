"""Laws I1 and I2 against every order of a few tokens, and against draws of many."""

import math
from itertools import permutations

import numpy as np
import pytest

from simgap.theory import information_bias, null_saturation

SIGMA, DRAWS = 5.0, 400


def chosen(rng, tokens, count, each, slope):
    """Different ones of `count` on each token, later ones more often."""
    return np.argsort(rng.gumbel(size=(tokens, count)) + slope * np.linspace(-1, 1, count), 1)[:, count - each :]


def table(experts, labels, shape):
    met = np.zeros(shape)
    for one in experts.T:
        for other in labels.T:
            met += np.bincount(one * shape[1] + other, minlength=math.prod(shape)).reshape(shape)
    return met


def information(met):
    p = met / met.sum()
    apart = p.sum(1, keepdims=True) * p.sum(0)
    return float((p[met > 0] * np.log(p[met > 0] / apart[met > 0])).sum())


@pytest.mark.parametrize(("n_experts", "k", "n_labels", "each"), [(6, 2, 3, 1), (5, 1, 4, 1), (6, 4, 5, 2)])
def test_the_bias_of_independent_tokens(n_experts, k, n_labels, each):
    """400 tables of 2,000 tokens and uneven loads. The twin is Miller and Madow's for independent pairs."""
    rng, tokens = np.random.default_rng(0), 2000
    values = [
        information(table(chosen(rng, tokens, n_experts, k, 0.5), chosen(rng, tokens, n_labels, each, 0.3), (n_experts, n_labels)))
        for _ in range(DRAWS)
    ]
    pairs, error = tokens * k * each, np.std(values, ddof=1) / math.sqrt(DRAWS)
    assert abs(np.mean(values) - information_bias(n_experts, k, n_labels, pairs, each)) < SIGMA * error
    if k > 1:
        assert abs(np.mean(values) - information_bias(n_experts, 1, n_labels, pairs)) > SIGMA * error


def test_the_chi_square_over_every_order_is_exact():
    """(E - k)(D - l) n/(n - 1), whatever the loads: all orders of 6 tokens, none of which is filled."""
    n = 6
    experts, labels = np.array([[0, 1], [0, 2], [0, 3], [1, 0], [2, 0], [0, 1]]), np.array([0, 0, 0, 1, 1, 2])[:, None]
    squares = []
    for order in permutations(range(n)):
        met = table(experts, labels[list(order)], (4, 3))
        expected = met.sum(1, keepdims=True) * met.sum(0) / met.sum()
        squares.append(((met - expected) ** 2 / expected).sum())
    assert np.mean(squares) == pytest.approx((4 - 2) * (3 - 1) * n / (n - 1), rel=1e-12)


def test_a_token_of_all_experts_says_nothing():
    assert information_bias(4, 4, 3, 1000) == 0
    assert information_bias(16, 4, 4, 4 * 4000) == 0.001125


def test_two_routings_over_every_order():
    """The mean over all orders of 6 tokens, some of which have one expert and some two; not k/E."""
    rng, n = np.random.default_rng(2), 6
    one, other = [set(row[: 1 + t % 2].tolist()) for t, row in enumerate(chosen(rng, n, 4, 2, 1.5))], chosen(rng, n, 4, 2, 1.5)
    shared = [
        np.mean([len(one[t] & set(other[u].tolist())) / len(one[t]) for t, u in enumerate(order)]) for order in permutations(range(n))
    ]
    shares = [np.mean([(e in own) / len(own) for own in one]) for e in range(4)]
    inclusion = [np.mean((other == e).any(1)) for e in range(4)]
    assert np.mean(shared) == pytest.approx(null_saturation(shares, inclusion), rel=1e-12)
    assert abs(np.mean(shared) - 2 / 4) > 0.05


def test_equal_loads_share_k_of_e():
    assert null_saturation([1 / 8] * 8, [2 / 8] * 8) == pytest.approx(2 / 8)
    with pytest.raises(ValueError, match="shares, inclusion: expected as many experts"):
        null_saturation([1.0], [0.5, 0.5])

"""Law N4 by enumeration of every order of the entries, in fractions."""

import itertools
from fractions import Fraction

import pytest

from simgap.theory.layernorm_null import null_layernorm_mso
from simgap.theory.weight_null import null_mso


def centred(values):
    mean = Fraction(sum(values), len(values))
    return [v - mean for v in values]


def exact_cos2(u, v):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return Fraction(dot * dot) / (sum(a * a for a in u) * sum(b * b for b in v))


def mean_over_orders(u, v, centre=centred):
    orders = list(itertools.permutations(u))
    return sum(exact_cos2(centre(order), centre(v)) for order in orders) / len(orders)


CASES = [((1, 2), (3, 5)), ((0, 1, 3), (2, 2, 7)), ((1, 1, 0, 5), (4, 0, 0, 1)), ((0, 0, 0, 1, 2), (9, 8, 1, 1, 0))]


@pytest.mark.parametrize("u, v", CASES, ids=str)
def test_one_exchangeable_side_is_enough(u, v):
    assert mean_over_orders(u, v) == null_layernorm_mso(Fraction(len(u)))


@pytest.mark.parametrize("u, v", CASES, ids=str)
def test_without_centring_the_common_mean_adds_overlap(u, v):
    assert mean_over_orders(u, v, centre=list) > null_mso(Fraction(len(u)))
    assert mean_over_orders(u, v, centre=list) != null_layernorm_mso(Fraction(len(u)))


def test_means_of_normed_vectors_keep_the_value():
    """One permutation of hidden units moves all tokens of an expert together, so their mean is exchangeable too."""
    tokens, other = [(0, 1, 3, 3), (5, 1, 1, 0)], (2, 0, 0, 1)
    values = []
    for order in itertools.permutations(range(4)):
        normed = [centred([token[i] for i in order]) for token in tokens]
        values.append(exact_cos2([a + b for a, b in zip(*normed, strict=True)], centred(other)))
    assert sum(values) / len(values) == null_layernorm_mso(Fraction(4))


def test_a_shared_gain_breaks_it():
    gain, v = (5, 1, 1, 1), (2, 0, 0, 1)

    def scaled(values):
        return [g * a for g, a in zip(gain, centred(values), strict=True)]

    assert mean_over_orders((0, 1, 3, 3), v, centre=scaled) != null_layernorm_mso(Fraction(4))


def test_the_value_in_floats():
    assert null_layernorm_mso(512) == 1 / 511
    assert null_layernorm_mso(2) == 1
    assert null_layernorm_mso(512) != null_mso(512)

"""Law N7 in fractions, and on whole sets of vectors whose mean overlap is known."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from simgap.theory.calibrated import deviation, effective_dimension, excess, excess_ceiling, scaled_excess, scaled_floor

NULLS = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 1000)]


def mean_overlap(pairs):
    values = [Fraction(sum(a * b for a, b in zip(u, v, strict=True)) ** 2, len(u) ** 2) for u, v in pairs]
    return sum(values) / len(values)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_all_sign_vectors_are_at_the_null(n):
    signs = list(itertools.product((-1, 1), repeat=n))
    mso, null = mean_overlap(itertools.product(signs, repeat=2)), Fraction(1, n)
    assert excess(mso, null) == 1
    assert scaled_excess(mso, null) == 0
    assert effective_dimension(mso) == n


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_share_of_identical_pairs_is_the_scaled_excess(n):
    """As many pairs (u, u) again as there are pairs (u, v): half of all are identical, in every dimension."""
    signs = list(itertools.product((-1, 1), repeat=n))
    pairs = list(itertools.product(signs, repeat=2))
    mso = mean_overlap(pairs + [(u, u) for u, _ in pairs])
    assert scaled_excess(mso, Fraction(1, n)) == Fraction(1, 2)
    assert excess(mso, Fraction(1, n)) == Fraction(1 + n, 2)  # which grows with the dimension


@pytest.mark.parametrize("null", NULLS)
def test_the_ends(null):
    assert excess(1, null) == excess_ceiling(null) == 1 / null
    assert excess(0, null) == 0
    assert scaled_excess(Fraction(0), null) == scaled_floor(null)
    assert scaled_excess(Fraction(1), null) == 1
    assert scaled_floor(null) == 1 - 1 / (1 - null)
    assert effective_dimension(Fraction(1)) == 1


def test_one_excess_means_different_cosines():
    assert excess(Fraction(1), Fraction(1, 2)) == excess(Fraction(1, 500), Fraction(1, 1000)) == 2
    assert scaled_excess(Fraction(1, 500), Fraction(1, 1000)) == Fraction(1, 999)
    assert scaled_excess(Fraction(1), Fraction(1, 2)) == 1


def test_z_is_the_same_on_every_scale():
    mso, null, sd = Fraction(3, 10), Fraction(1, 4), Fraction(1, 50)
    z = deviation(mso, null, sd)
    assert z == Fraction(5, 2)
    assert z == (excess(mso, null) - 1) / (sd / null) == scaled_excess(mso, null) / (sd / (1 - null))
    assert z != deviation(mso, null, sd**2)


def test_arrays_and_text():
    assert scaled_excess(np.array([0.25, 1.0]), "0.25") == pytest.approx([0.0, 1.0], abs=1e-15)
    assert excess(np.array([0.25, 1.0]), 0.25) == pytest.approx([1.0, 4.0])

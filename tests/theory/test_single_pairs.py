"""The place of a score, as a product and as beta functions, and its limit."""

import math
from fractions import Fraction

import numpy as np
import pytest

from simgap.theory.single_pairs import harmonic, place_p
from simgap.theory.symbols import SYMBOLIC


def test_a_place_by_hand():
    # Above the smallest of two: of three alike, by three times its value at least.
    assert place_p(1, 1, 2, ctx=SYMBOLIC) == Fraction(2, 3)
    assert place_p(0.0, 3, 5) == 1
    assert place_p(2, 3, 5, ctx=SYMBOLIC) == Fraction(3 * 4 * 5, 5 * 6 * 7)


@pytest.mark.parametrize(("first", "count"), [(1, 1), (3, 5), (7, 14), (100, 200)])
def test_beta_functions_are_the_product(first, count):
    ratios = [0.0, 0.5, 3.0, 40.0, 1e3]
    exact = [float(math.prod(Fraction(i) / (i + Fraction(r)) for i in range(count - first + 1, count + 1))) for r in ratios]
    assert place_p(np.array(ratios), first, count) == pytest.approx(exact, rel=1e-9)


def test_many_know_their_median():
    assert place_p(10.0, 5 * 10**5, 10**6) == pytest.approx(2**-10, rel=1e-3)
    assert place_p(10.0, 7, 14) > 10 * 2**-10


def test_harmonic_numbers():
    assert harmonic(4) == pytest.approx(25 / 12, rel=1e-15)
    assert harmonic(4, ctx=SYMBOLIC) == Fraction(25, 12)

"""Claims over boxes: proved, refuted at a point that is one, undecided; and roots between signs."""

from fractions import Fraction as F

import pytest
from flint import arb

from simgap.certify import Verdict, enclose_root, interval, positive_over


def test_an_interval_holds_its_ends():
    ball = interval(F(1, 3), F(2, 3))
    assert ball.contains(arb(1) / 3)
    assert ball.contains(arb(2) / 3)
    assert not ball.contains(arb("0.7"))


def test_proved_with_its_least_value():
    """x^2 - x + 1 has its minimum 3/4 at 1/2; plain interval arithmetic needs halving to see that it is positive."""
    found = positive_over(lambda x: x * x - x + 1, [(F(-1), F(2))])
    assert found.verdict is Verdict.PROVED
    assert found.boxes > 1
    assert found.counterexample is None
    assert 0 < float(found.lowest.lower()) <= 0.75


def test_refuted_at_a_point():
    found = positive_over(lambda x, y: x * x + y * y - x * y - arb("0.01"), [(F(-1), F(1)), (F(-1), F(1))])
    assert found.verdict is Verdict.REFUTED
    x, y = found.counterexample
    assert x * x + y * y - x * y <= F(1, 100)
    almost = positive_over(lambda x: (x - arb("0.3")) ** 2 - arb("1e-6"), [(F(0), F(1))])
    assert almost.verdict is Verdict.REFUTED
    assert (almost.counterexample[0] - F(3, 10)) ** 2 <= F(1, 10**6)


def test_undecided_is_no_proof():
    touching = positive_over(lambda x: (x - arb(1) / 3) ** 2, [(F(0), F(1))], max_boxes=300)
    assert touching.verdict is Verdict.UNDECIDED
    assert touching.boxes >= 300
    assert positive_over(lambda x: arb(0, 1), [(F(1), F(1))]).verdict is Verdict.UNDECIDED
    assert positive_over(lambda x: arb("nan"), [(F(0), F(1))], max_boxes=20).verdict is Verdict.UNDECIDED


def test_boxes_that_are_none():
    with pytest.raises(ValueError, match="box: expected at least one pair of ends"):
        positive_over(lambda: arb(1), [])
    with pytest.raises(ValueError, match="box: expected low <= high"):
        positive_over(lambda x: x, [(F(2), F(1))])


@pytest.mark.parametrize("orientation", [1, -1])
def test_a_root(orientation):
    root = enclose_root(lambda x: orientation * (x * x - 2), F(1), F(2), 40)
    assert root.contains(arb(2).sqrt())
    assert float(root.rad()) < 1e-11
    assert not root.contains(arb("1.41422"))


def test_a_root_where_round_off_ends_the_search():
    root = enclose_root(lambda x: x - arb(1) / 3, F(0), F(1), 10_000)
    assert root.contains(arb(1) / 3)


def test_no_change_of_sign():
    with pytest.raises(ValueError, match="no sure change of sign between 2 and 3"):
        enclose_root(lambda x: x * x - 2, F(2), F(3), 10)

"""Verdicts: no truth value, the weakest of several, and what the sign of a ball decides."""

import itertools

import pytest
from flint import arb

from simgap.certify.verdict import Verdict, sign, weakest

PROVED, AGREES, REFUTED, UNDECIDED, NOT_APPLICABLE = (
    Verdict.PROVED,
    Verdict.AGREES,
    Verdict.REFUTED,
    Verdict.UNDECIDED,
    Verdict.NOT_APPLICABLE,
)


@pytest.mark.parametrize("verdict", Verdict)
def test_no_truth_value(verdict):
    with pytest.raises(TypeError, match=f"compare it: verdict is Verdict.{verdict.name}"):
        bool(verdict)


def test_the_weakest_decides_in_any_order():
    order = [REFUTED, UNDECIDED, AGREES, PROVED, NOT_APPLICABLE]
    for some in itertools.product(Verdict, repeat=3):
        assert weakest(list(some)) is min(some, key=order.index)
    assert weakest([]) is UNDECIDED


def test_words():
    assert [str(v) for v in Verdict] == ["proved", "agrees", "refuted", "undecided", "not applicable"]


CASES = [
    (arb(2, 1), ">", PROVED), (arb(-2, 1), ">", REFUTED), (arb(0, 1), ">", UNDECIDED), (arb(0), ">", REFUTED),
    (arb(2, 1), "<", REFUTED), (arb(-2, 1), "<", PROVED), (arb(0, 1), "<", UNDECIDED), (arb(0), "<", REFUTED),
    (arb(2, 1), "=", REFUTED), (arb(0, 1), "=", AGREES), (arb(0), "=", AGREES),
    (arb("nan"), ">", UNDECIDED), (arb("inf"), "=", UNDECIDED), (arb(1, 1), ">", UNDECIDED),
]  # fmt: skip


@pytest.mark.parametrize("ball, expected, verdict", CASES)
def test_sign(ball, expected, verdict):
    assert sign(ball, expected) is verdict

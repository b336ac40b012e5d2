"""Law F3 against overlaps in plain loops, in fractions where the roots are rational, in sixty digits near the end."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from simgap.theory.independence import linear_pair_with_overlaps, pair_with_overlaps


def overlap(left, right):
    """cos^2 in plain loops of extended precision."""
    left, right = (list(map(float, np.ravel(v))) for v in (left, right))
    dot = math.fsum(a * b for a, b in zip(left, right, strict=True))
    return dot * dot / (math.fsum(a * a for a in left) * math.fsum(b * b for b in right))


def forward(w_up, w_down, x, act):
    hidden = [act(sum(w * v for w, v in zip(row, x, strict=True))) for row in w_up.tolist()]
    return [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in w_down.tolist()]


ACTS = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, 0.0),
    "softplus": lambda z: math.log1p(math.exp(z)),
    "square": lambda z: z * z,
    "tanh": math.tanh,
}
VALUES = [0.0, 1e-9, 0.25, 0.6, 1 - 1e-9, 1.0]


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("d, f", [(2, 2), (5, 3), (3, 8)])
def test_both_overlaps_are_what_was_asked(act, d, f):
    inputs = np.random.default_rng(d * f).standard_normal((5, d)).tolist()
    for a in VALUES:
        for b in VALUES:
            pair = pair_with_overlaps(a, b, d, f)
            assert pair.W_up1.shape == pair.W_up2.shape == (f, d)
            assert pair.W_down1.shape == pair.W_down2.shape == (d, f)
            assert overlap(pair.W_up1, pair.W_up2) == pytest.approx(a, abs=1e-15)
            for x in inputs:
                outputs = (forward(pair.W_up1, pair.W_down1, x, act), forward(pair.W_up2, pair.W_down2, x, act))
                assert overlap(*outputs) == pytest.approx(b, abs=1e-13)


def test_sums_over_tokens_keep_the_overlap():
    pair = pair_with_overlaps(0.3, 0.7, 4, 4)
    random = np.random.default_rng(3)
    x, gates = random.standard_normal((50, 4)), random.uniform(0.1, 1, (2, 50))
    y1 = gates[0] @ (np.tanh(x @ pair.W_up1.T) @ pair.W_down1.T)
    y2 = gates[1] @ (np.tanh(x @ pair.W_up2.T) @ pair.W_down2.T)
    assert overlap(y1, y2) == pytest.approx(0.7, abs=1e-12)


def test_a_second_direction_written_breaks_it():
    """The twin: W_down of rank two, whose output overlap moves with the input."""
    pair = pair_with_overlaps(0.3, 0.7, 3, 4)
    broken = pair.W_down2.copy()
    broken[2, 0] += 1
    x = np.random.default_rng(4).standard_normal((3, 3)).tolist()
    found = [overlap(forward(pair.W_up1, pair.W_down1, v, ACTS["softplus"]), forward(pair.W_up2, broken, v, ACTS["softplus"])) for v in x]
    assert all(abs(value - 0.7) > 1e-3 for value in found)


def test_the_linear_construction_in_fractions():
    """a = b = 1/4 make k rational: p = q = 1/2, k = 1 - 1/2, t^2 = 2, and the inner product 1/2 + 1 is 1/2 of the norms' 3."""
    w1, w2 = linear_pair_with_overlaps(0.25, 0.25, 2)
    assert w1[0, 1] ** 2 == pytest.approx(2, rel=1e-15)
    assert w2[0, 0] == 0.5
    assert w2[0, 1] / w1[0, 1] == pytest.approx(0.5, rel=1e-15)
    inner = Fraction(1, 2) + 2 * Fraction(1, 2)
    assert (inner / 3) ** 2 == Fraction(1, 4)


@pytest.mark.parametrize("d", [2, 5])
def test_the_linear_construction_takes_all_pairs_below_weight_overlap_one(d):
    axis = np.eye(d)[0]
    for a in VALUES[:-2]:
        for b in VALUES:
            w1, w2 = linear_pair_with_overlaps(a, b, d)
            assert overlap(w1, w2) == pytest.approx(a, abs=1e-13)
            assert overlap(w1 @ axis, w2 @ axis) == pytest.approx(b, abs=1e-13)


def test_the_linear_construction_near_weight_overlap_one():
    """1 - a = 2^-30: the columns' lengths differ by 2^15, and the overlap's complement keeps six digits."""
    a = 1 - 2.0**-30
    w1, w2 = linear_pair_with_overlaps(a, 0.5, 2)
    with mpmath.workdps(60):
        u, v = ([mpmath.mpf(float(x)) for x in w.ravel()] for w in (w1, w2))
        cos2 = mpmath.fdot(u, v) ** 2 / (mpmath.fdot(u, u) * mpmath.fdot(v, v))
        assert float((1 - cos2) * 2**30) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), 2])
def test_overlaps_out_of_range(bad):
    with pytest.raises(ValueError, match=r"weight_overlap: expected a number in \[0, 1\], got"):
        pair_with_overlaps(bad, 0.5, 2, 2)
    with pytest.raises(ValueError, match=r"output_overlap: expected a number in \[0, 1\], got"):
        linear_pair_with_overlaps(0.5, bad, 2)


def test_what_the_constructions_need():
    with pytest.raises(ValueError, match="d_model: expected at least 2"):
        pair_with_overlaps(0.5, 0.5, 1, 4)
    with pytest.raises(ValueError, match="d_ff: expected at least 1"):
        pair_with_overlaps(0.5, 0.5, 2, 0)
    with pytest.raises(ValueError, match="weight_overlap: expected less than 1 for linear experts"):
        linear_pair_with_overlaps(1, 0.5, 2)

"""Which other tokens a vector is held against, and the overlaps with them, against loops."""

import numpy as np
import pytest

from simgap.kernels.partners import add_partners, partner_cos2
from simgap.kernels.token_overlap import token_lengths
from tests import reference
from tests.kernels.test_token_overlap import DTYPES, as_kernel, plain, round_off


def brute(ends, documents, r):
    found = np.full((len(documents), r), -1)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for p in range(begin, end):
            others = sorted((q for q in range(begin, end) if documents[q] != documents[p]), key=lambda q: (abs(q - p), -q))
            found[p, : len(others[:r])] = others[:r]
    return found


@pytest.mark.parametrize("kinds", [1, 2, 3, 50])
@pytest.mark.parametrize("r", [1, 2, 5])
def test_partners_are_the_nearest_of_other_documents(kinds, r):
    rng = np.random.default_rng([kinds, r])
    ends = np.array([1, 7, 7, 40, 60])
    # Of two documents of unequal size, in stretches.
    documents = np.where(rng.random(60) < 0.2, rng.integers(0, kinds, 60), 0)
    found = np.empty((60, 1 + r), np.int64)[:, 1:]
    add_partners(ends, documents, found)
    np.testing.assert_array_equal(found, brute(ends, documents, r))


class Counted:
    """An array that counts how often it is read."""

    def __init__(self, values):
        self.values, self.size, self.reads = values, len(values), 0

    def __getitem__(self, at):
        self.reads += 1
        return self.values[at]


@pytest.mark.parametrize("documents", [np.arange(2000) == 1999, np.arange(2000) % 2, np.arange(2000), np.arange(2000) < 1000])
def test_partners_cost_as_much_for_any_documents(documents):
    """Two neighbours are compared twice, and each partner's successor once: a scan of a document would read 2,000 a place."""
    counted, found = Counted(documents.astype(np.int64)), np.empty((2000, 2), np.int64)
    add_partners.py_func(np.array([2000]), counted, found)
    assert counted.reads <= 8 * 2000
    np.testing.assert_array_equal(found[::97], brute([2000], counted.values, 2)[::97])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "width"), [(3, 5), (4, 64), (4, 100), (6, 33)])
def test_overlaps_with_partners(dtype, m, width):
    rng = np.random.default_rng([m, width])
    values = rng.standard_normal((20, width))
    values[3] = 0
    if dtype == np.float64:
        values[4] *= 1e-200
        values[5] *= 1e200
    rows = as_kernel(values, dtype)
    index = np.array([rng.choice(20, m, replace=False) for _ in range(30)])
    index[::3, 3:] = -1
    index[0, 2:] = -1
    lengths = np.empty((20, 1))
    token_lengths(rows.ravel(), np.arange(20)[:, None] * width, width, lengths)
    lengths = lengths[:, 0].copy()
    numbers = plain(rows).astype(np.longdouble)
    np.testing.assert_allclose(lengths, np.sqrt((numbers**2).sum(1)).astype(float), rtol=1e-13)
    same, other = np.empty(30), np.empty(30)
    starts = np.arange(20) * width
    partner_cos2(rows.ravel(), (starts[index[:, 0]], lengths[index[:, 0]]), (starts, lengths), index[:, 1:].copy(), width, same, other)
    units = (numbers / np.where(lengths > 0, lengths, 1)[:, None]).astype(float)
    for p, (left, right, *rest) in enumerate(index):
        rest = [i for i in rest if i >= 0 and i != 3]
        if left == 3 or right == 3 or not rest:
            assert np.isnan(other[p])
            continue
        assert same[p] == pytest.approx(reference.cos2(units[left], units[right]), abs=round_off(width))
        assert other[p] == pytest.approx(np.mean([reference.cos2(units[left], units[i]) for i in rest]), abs=round_off(width))


def test_what_is_not_finite_shows():
    rows = np.random.default_rng(0).standard_normal((5, 6))
    rows[1, 2], rows[2, 0] = np.nan, np.inf
    lengths = np.empty((5, 1))
    token_lengths(rows.ravel(), np.array([[0], [6], [12], [18], [-1]]), 6, lengths)
    lengths = lengths[:, 0].copy()
    assert np.isfinite(lengths).tolist() == [True, False, False, True, True]
    assert lengths[4] == 0
    same, other = np.empty(3), np.empty(3)
    index = np.array([[1, 0, 3], [0, 2, 3], [0, 3, 1]])
    starts = np.arange(5) * 6
    partner_cos2(rows.ravel(), (starts[index[:, 0]], lengths[index[:, 0]]), (starts, lengths), index[:, 1:].copy(), 6, same, other)
    assert np.isnan(same).tolist() == [True, True, False]
    assert np.isnan(other).all()

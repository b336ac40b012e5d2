"""For each vector of a pair of experts, others of the same pair to hold it against: the nearest in an order, of other documents."""

import numpy as np

from simgap.kernels.compiled import BORROWED, kernel
from simgap.kernels.products import widened
from simgap.kernels.tiles import STEP, tile

# How far ahead of the arithmetic memory is asked, in bytes.
AHEAD_BYTES = 1 << 13
# Lengths that are squared as they are: beyond, a product of four of them could leave float64.
SHORT, LONG = 1e-70, 1e70


@kernel()
def add_partners(ends, documents, partners):
    """partners[p] are the nearest places to p in its group, of another document than its own, after it and before it in turn; -1 where
    there are no more.

    ends: (G,) int64, where each group of places ends; the first begins at 0. documents: (M,) int64. partners: (M, r) int64 out. O(M r).
    """
    # Beside each place, the nearest ones of another document after it and before it: a stretch of one document is passed in one step.
    after, before = np.empty(documents.size, np.int64), np.empty(documents.size, np.int64)
    begin = 0
    for end in ends:
        for p in range(begin, end):
            before[p] = p - 1 if p == begin or documents[p - 1] != documents[p] else before[p - 1]
        for q in range(begin, end):
            p = begin + end - 1 - q
            after[p] = p + 1 if p == end - 1 or documents[p + 1] != documents[p] else after[p + 1]
        for p in range(begin, end):
            high, low = after[p], before[p]
            for count in range(partners.shape[1]):
                # The nearer one, and of two the one after, so that neither end of an order is held against one side more than it must.
                if high < end and (low < begin or high - p <= p - low):
                    partners[p, count] = high
                    high += 1
                    if high < end and documents[high] == documents[p]:
                        high = after[high]
                elif low >= begin:
                    partners[p, count] = low
                    low -= 1
                    if low >= begin and documents[low] == documents[p]:
                        low = before[low]
                else:
                    partners[p, count] = -1
        begin = end


@kernel()
def partner_cos2(flat, left, right, partners, width, same, other):
    """cos^2 of each left row with the first of its right rows, and the mean with the others; NaN where a row is zero or not finite, or
    where there is no other.

    flat: (N,) float32, float64, or uint16 for the bits of bfloat16. left, right: where in `flat` the rows of `width` begin, (q,) and (M,)
    int64, and their lengths, float64. partners: (q, r) int64, places among the right rows, -1 for none, which comes last. same, other: (q,)
    float64 out. Where partners follow each other, a right row is read from memory once.
    """
    starts, lengths = left
    others, norms = right
    q, r = partners.shape
    whole = width // STEP * STEP
    ahead = max(1, AHEAD_BYTES // max(1, 2 * width * flat.itemsize))
    for p in range(q):
        later = min(p + ahead, q - 1)
        soon = starts[later], others[partners[later, min(1, r - 1)]]
        total, count, own = 0.0, 0, np.nan
        for first in range(0, r, 3):
            if partners[p, first] < 0:
                break
            last = first
            while last < min(first + 2, r - 1) and partners[p, last + 1] >= 0:
                last += 1
            a, b, c = partners[p, first], partners[p, min(first + 1, last)], partners[p, last]
            products = _three(flat, starts[p], (others[a], others[b], others[c]), soon, whole)
            for j in range(first, last + 1):
                at = partners[p, j]
                value = _cos2(flat, (starts[p], others[at]), (whole, width), products[j - first], (lengths[p], norms[at]))
                if j == 0:
                    own = value
                elif norms[at] != 0.0:
                    total += value
                    count += 1
        same[p] = own
        other[p] = total / count if count and own == own else np.nan


@kernel(**BORROWED)
def _three(flat, left, right, soon, whole):
    return tile(flat, (left,), right, soon, whole)


@kernel(**BORROWED)
def _cos2(flat, starts, columns, product, lengths):
    """product: of the first columns, all but those from columns[0] to columns[1]."""
    u, v = lengths
    if not (u > 0.0 and v > 0.0 and u < np.inf and v < np.inf):
        return np.nan
    if SHORT < u < LONG and SHORT < v < LONG:
        for i in range(columns[0], columns[1]):
            product += np.float64(widened(flat[starts[0] + i])) * np.float64(widened(flat[starts[1] + i]))
        value = (product / u / v) ** 2
    else:
        product = 0.0
        for i in range(columns[1]):
            product += (np.float64(widened(flat[starts[0] + i])) / u) * (np.float64(widened(flat[starts[1] + i])) / v)
        value = product**2
    # Round-off of parallel vectors; a NaN compares false and stays.
    return 1.0 if value > 1.0 else value

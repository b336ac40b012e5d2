"""Squared cosines of the vectors that share a token, each read from memory once, wherever it lies: no (n, k, width) copy is made."""

import numpy as np

from simgap.kernels.compiled import BORROWED, kernel
from simgap.kernels.products import TILE, add_products
from simgap.kernels.sign_flips import add_flips, add_lanes

# Outside this range of squared norms a product of two of them could leave float64; such a token is done again with its rows scaled.
SAFE_LOW, SAFE_HIGH = 1e-140, 1e140
# Columns of a token's rows that are multiplied at a time: 16 rows of them stay in the nearest cache.
COLUMNS = 1024
# How far ahead of the arithmetic memory is asked, in bytes of a token's rows: about the latency of memory times its bandwidth, and enough.
AHEAD_BYTES = 1 << 13


@kernel()
def _scaled_dot(a, b):
    """<a, b> after each is divided by its largest entry; 0 if either is zero, NaN if either is not finite."""
    top_a, top_b = 0.0, 0.0
    for i in range(a.size):
        x, y = abs(a[i]), abs(b[i])
        if not (np.isfinite(x) and np.isfinite(y)):
            return np.nan
        top_a, top_b = max(top_a, x), max(top_b, y)
    if top_a == 0.0 or top_b == 0.0:
        return 0.0
    total = 0.0
    for i in range(a.size):
        total += (a[i] / top_a) * (b[i] / top_b)
    return total


@kernel()
def _rescale(flat, at, count, width, table, tops):
    """The same products of rows divided by their largest entries, and those."""
    for i in range(count):
        tops[i] = 0.0
        for x in flat[at[i] : at[i] + width]:
            tops[i] = max(tops[i], abs(x))
        for j in range(i, count):
            table[i, j] = _scaled_dot(flat[at[i] : at[i] + width], flat[at[j] : at[j] + width])


@kernel()
def token_cos2(flat, starts, width, n_first, cos2, pairs, moments):
    """Per token, the mean cos^2 over its pairs of defined vectors and how many pairs that is; over tokens, their moments.

    flat: (N,) float32, float64, or uint16 for the bits of bfloat16. starts: (n, m) int64, where in `flat` each of a token's vectors
    begins, -1 for none. n_first: pairs are all i < j where it is negative, else those of one of the first `n_first` columns with one of the
    others. cos2: (n,) float64 out, NaN for a vector that is not finite, 0 where there is no pair. pairs: (n,) int64 out; a zero vector has
    none. moments: (5,) float64, in and out, over the tokens that have a pair: how many, mean and sum of squared deviations of their cos2
    (Welford), sum of cos2 times pairs, pairs. A NaN enters all but the counts.
    """
    _each_token(flat, starts, width, n_first, (cos2, pairs, np.empty((0, 0))), moments, _scratch(flat, starts, width), None, None)


@kernel()
def token_flips(flat, starts, width, overlaps, moments, signs, state):
    """`token_cos2` of all pairs, and what `add_flips` makes of them in the same pass: signs and state are its.

    overlaps: cos2 and pairs as there, and lengths: (n, m) float64 out, of the vectors that are there, 0 for others; or of shape (0, m), for
    none."""
    _each_token(flat, starts, width, -1, overlaps, moments, _scratch(flat, starts, width), signs, state)


@kernel()
def token_lengths(flat, starts, width, lengths):
    """The lengths that `token_flips` finds, to the bit, without what it is for."""
    n = starts.shape[0]
    overlaps = np.empty(n), np.empty(n, np.int64), lengths
    _each_token(flat, starts, width, -1, overlaps, np.zeros(5), _scratch(flat, starts, width), None, None)


@kernel()
def _scratch(flat, starts, width):
    """Indices (where a token's vectors begin, where those of a later one do, which columns hold the first), the table of their products,
    two scales of each, and how many tokens later that one comes."""
    m = starts.shape[1]
    size = -(-max(m, 1) // TILE) * TILE
    ahead = max(1, AHEAD_BYTES // max(1, m * width * flat.itemsize))
    return np.empty((3, size), np.int64), np.empty((size, size)), np.empty((2, size)), ahead


@kernel(**BORROWED)
def _each_token(flat, starts, width, n_first, overlaps, moments, scratch, signs, state):
    indices, table, scales, ahead = scratch
    cos2, pairs, lengths = overlaps
    n, m = starts.shape
    at, soon, slots = indices[0], indices[1], indices[2]
    inverse, tops = scales[0], scales[1]
    for t in range(n):
        count, count_first = 0, 0
        for j in range(m):
            if starts[t, j] >= 0:
                at[count] = starts[t, j]
                slots[count] = j
                count += 1
                count_first += j < n_first
        cos2[t], pairs[t] = 0.0, 0
        if lengths.size:
            lengths[t, :] = 0.0
        if count == 0:
            continue
        later = min(t + ahead, n - 1)
        for j in range(m):
            soon[j] = starts[later, j]
        # Memory is asked for half of it while the vectors are multiplied, for the other half while they are sketched.
        halved = state is not None and m == 2 and width <= COLUMNS
        other = soon[1] if halved else at[0]
        if halved:
            soon[1] = soon[0]
        table[:, :] = 0.0
        for first in range(0, width, COLUMNS):
            last = min(first + COLUMNS, width)
            add_products(flat, at, soon, count, first, last, table)
            if state is not None:
                add_lanes(flat, (at, slots, tops, count), (first, last, other), t, signs, state)
        tops[:] = 1.0
        # The square of no other format leaves float64.
        if flat.itemsize == 8:
            safe = True
            for i in range(count):
                safe = safe and SAFE_LOW < table[i, i] < SAFE_HIGH
            if not safe:
                _rescale(flat, at, count, width, table, tops)
        if lengths.size:
            for i in range(count):
                lengths[t, slots[i]] = tops[i] * np.sqrt(table[i, i])
        total, n_pairs = _over_pairs(table, count, count_first if n_first >= 0 else -1, inverse)
        if n_pairs == 0 and not np.isnan(total):
            continue
        pairs[t] = n_pairs
        cos2[t] = total / max(n_pairs, 1)
        moments[0] += n_pairs > 0
        moments[3] += total
        moments[4] += n_pairs
        deviation = cos2[t] - moments[1]
        moments[1] += deviation / max(moments[0], 1.0)
        moments[2] += deviation * (cos2[t] - moments[1])
        if state is not None and n_pairs > 0 and not np.isnan(total):
            add_flips(flat, (at, slots, tops, count), inverse, width, t, signs, state)


@kernel(**BORROWED)
def _over_pairs(table, count, n_first, inverse):
    """Sum of cos^2 over pairs of non-zero rows, NaN where any norm is, and how many pairs there are.

    n_first: pairs run from so many first rows to the others, or where it is negative from every row to those after it.
    """
    defined, first, broken = 0, 0, 0.0
    for i in range(count):
        # A zero row's products are zero, so that its pairs add nothing.
        inverse[i] = 1.0 / table[i, i] if table[i, i] != 0.0 else 0.0
        defined += table[i, i] != 0.0
        first += i < n_first and table[i, i] != 0.0
        broken += table[i, i] * 0.0
    total = broken
    for i in range(count if n_first < 0 else n_first):
        for j in range(i + 1 if n_first < 0 else n_first, count):
            value = (table[i, j] * inverse[i]) * (table[i, j] * inverse[j])
            # Round-off of parallel vectors; a NaN compares false and stays.
            total += 1.0 if value > 1.0 else value
    return total, defined * (defined - 1) // 2 if n_first < 0 else first * (defined - first)

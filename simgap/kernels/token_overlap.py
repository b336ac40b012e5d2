"""Squared cosines of the vectors that share a token, gathered by their row: no (n, k, width) copy is made."""

import numpy as np
from numba import njit

# Outside this range of squared norms a product of two of them could leave float64; such a token is done again with its rows scaled.
SAFE_LOW, SAFE_HIGH = 1e-140, 1e140


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@njit(nogil=True, cache=True)
def _scaled_dot(a, b):
    """<a, b> after each is divided by its largest entry; 0 if either is zero, NaN if either is not finite."""
    top_a = np.float64(np.abs(a).max())
    top_b = np.float64(np.abs(b).max())
    if not (np.isfinite(top_a) and np.isfinite(top_b)):
        return np.nan
    if top_a == 0.0 or top_b == 0.0:
        return 0.0
    total = 0.0
    for i in range(a.size):
        total += (np.float64(a[i]) / top_a) * (np.float64(b[i]) / top_b)
    return total


@njit(nogil=True, cache=True)
def token_cos2(rows, index, lead, cos2, pairs):
    """Per token, the mean cos^2 over its pairs of defined vectors, and how many pairs that is.

    rows: (R, width) float32 or float64, contiguous in width. index: (n, m) int64, the row of each vector on the token, -1 for none.
    lead: pairs are all i < j where lead is negative, else those of one of the first `lead` columns with one of the others.
    cos2: (n,) float64 out, NaN for a vector that is not finite, 0 where there is no pair. pairs: (n,) int64 out; a zero vector has none.
    Products accumulate in float64; each row is read from memory once, its k - 1 products find it in cache.
    """
    n, m = index.shape
    norms = np.empty(m)
    for t in range(n):
        safe = True
        for j in range(m):
            norms[j] = 0.0
            if index[t, j] >= 0:
                norms[j] = _dot(rows[index[t, j]], rows[index[t, j]])
                if not (SAFE_LOW < norms[j] < SAFE_HIGH):
                    safe = False
        if not safe:
            for j in range(m):
                if index[t, j] >= 0:
                    norms[j] = _scaled_dot(rows[index[t, j]], rows[index[t, j]])
        total = 0.0
        count = 0
        for i in range(m if lead < 0 else lead):
            for j in range(i + 1 if lead < 0 else lead, m):
                if index[t, i] >= 0 and index[t, j] >= 0 and norms[i] != 0.0 and norms[j] != 0.0:
                    a, b = rows[index[t, i]], rows[index[t, j]]
                    dot = _dot(a, b) if safe else _scaled_dot(a, b)
                    value = dot * dot / (norms[i] * norms[j])
                    # Round-off of parallel vectors; a NaN compares false and stays.
                    total += 1.0 if value > 1.0 else value
                    count += 1
        cos2[t] = total / count if count else 0.0
        if np.isnan(norms).any():
            cos2[t] = np.nan
        pairs[t] = count

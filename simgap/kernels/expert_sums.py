"""Sums of vectors by expert: what mean vectors are made of."""

import numpy as np

from simgap.kernels.compiled import BORROWED, kernel
from simgap.kernels.products import widened


@kernel()
def add_by_expert(flat, starts, experts, width, sums):
    """sums[experts[i]] += row i, in float64 and in the order of the rows; rows of expert -1 are passed over.

    flat: (N,) float32, float64, or uint16 for the bits of bfloat16. starts: (R,) int64, where in `flat` each row of `width` columns begins.
    experts: (R,) int64. sums: (E, width) float64. A value that is not finite is not finite in its sum.
    """
    total = sums.reshape(-1)
    for row in range(starts.size):
        if experts[row] >= 0:
            _add_row(flat, np.uint64(starts[row]), total, np.uint64(experts[row] * width), np.uint64(width))


@kernel(**BORROWED)
def _add_row(flat, start, total, to, width):
    # Unsigned indices: a signed one might count from the end, and the test for that keeps the loop from being vectorised.
    for i in range(width):
        total[to + i] += widened(flat[start + i])

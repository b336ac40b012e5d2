"""Inner products of a few long vectors, each read once."""

from simgap.kernels.compiled import kernel
from simgap.kernels.products import add_products

# Columns that are multiplied at a time, and asked for ahead of that. Part of the order of summation: another number gives other last bits.
COLUMNS = 1024


@kernel()
def add_grams(flat, starts, width, tables):
    """tables[s, i, j] += <row i, row j> of batch s for i <= j, summed in float64 over COLUMNS columns at a time, in their order.

    flat: (N,) float32, float64, or uint16 for the bits of bfloat16. starts: (S, E) int64, E >= 1, where in `flat` the rows of `width`
    columns begin. tables: (S, M, M) float64, M a multiple of TILE and at least E; what lies outside the upper triangle of E rows holds no
    meaning. Calls over consecutive stretches of columns, each but the last a multiple of COLUMNS long, give the bits of one call over all.
    """
    soon = starts + COLUMNS
    for s in range(starts.shape[0]):
        for first in range(0, width, COLUMNS):
            add_products(flat, starts[s], soon[s], starts.shape[1], first, min(first + COLUMNS, width), tables[s])

"""Vectors whose entries are all of one sign: they share a direction without being related, and no law of signs is theirs."""

import math

from jaxtyping import Float
from torch import Tensor

# Entries that have to agree before they are called rectified, and the share that may not.
FEWEST, ODD = 64, 0.005
# Mean cosine with (1, ..., 1): 0.56 for ReLU of a standard normal, 0.43 for GELU, 0.35 for SiLU; and how many standard deviations of it
# under fair signs it has to be away from 0.
ALIGNED, SIGMA = 0.25, 5.0


def refuse_rectified(name: str, rows: Float[Tensor, "n width"], free: int, remedy: str) -> None:
    """ValueError for vectors that are rectified (ReLU), or lean towards (1, ..., 1) as those of SiLU and GELU do.

    rows: some of the vectors. free: how many of them may differ in sign: those of one expert need not. remedy: what to do instead.
    """
    rows = rows.double()
    positive, negative = int((rows > 0).sum()), int((rows < 0).sum())
    nonzero = positive + negative
    # Different coordinates of different experts have signs of their own, whatever repeats from token to token.
    entries = int((rows != 0).any(0).sum()) * min(free, len(rows))
    if entries < FEWEST:
        return
    odd = min(positive, negative) / nonzero
    largest = rows.abs().amax(1, keepdim=True).clamp(min=1e-300)
    scaled = rows / largest
    aligned = abs(float((scaled.sum(1) / scaled.norm(dim=1).clamp(min=1e-300)).mean())) / math.sqrt(rows.shape[1])
    if odd <= ODD or aligned >= max(ALIGNED, SIGMA / math.sqrt(entries)):
        what = f"{1 - odd:.1%} of their entries have one sign" if odd <= ODD else f"their mean cosine with (1, ..., 1) is {aligned:.2f}"
        raise ValueError(
            f"{name}: expected vectors whose signs could be either, got rectified ones (ReLU, SiLU, GELU): {what}, so that they overlap "
            f"without being related; {remedy}"
        )

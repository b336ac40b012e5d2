"""A user's own overlaps when only signs are left to chance: law T0."""

import math
from typing import Any

from simgap.nulls.prediction import Prediction
from simgap.theory import sign_flips

SUPPOSES = "fair signs of independent experts (no shared space, bias or W_down)"
# A variance that is smaller than this share of the squared mean is round-off: no sign moves the overlap.
ROUND_OFF = 1e-13


def of_cumulants(cumulants: tuple[float, float, float], pairs: int, factor: float = 1.0) -> Prediction:
    """The null of a mean over `pairs`, from the cumulants of their sum; factor: what signs come short by (law N4)."""
    by = factor / pairs
    varies = cumulants[1] > ROUND_OFF * cumulants[0] ** 2
    mean, sd = cumulants[0] * by, math.sqrt(cumulants[1]) * by if varies else 0.0
    skew = cumulants[2] * by**3 / sd**3 if sd else None
    return Prediction(mean, sd, "exact", "leading", sign_flips.ID, sign_flips.HYPOTHESES, skew=skew, supposes=SUPPOSES)


def of_vectors(vectors: Any, factor: float, work: Any) -> Prediction:
    """One vector to an expert, (E, N); zeros are left out."""
    from simgap.overlaps import size_sums
    from simgap.overlaps.rectified import one_signed_experts

    if why := one_signed_experts(vectors):
        return Prediction.missing(f"no law: rectified: {why}")
    sums = size_sums(vectors, work.task_map)
    if not sums.pairs:
        return Prediction.missing("fewer than 2 experts have a non-zero vector")
    return of_cumulants(sums.cumulants, sums.pairs, factor)


def after_norm(source: Any) -> float:
    """By how much overlaps exceed what signs make of them where LayerNorm took the mean (law N4)."""
    width = source.vectors.shape[-1]
    return width / (width - 1) if source.site == "normed" else 1.0

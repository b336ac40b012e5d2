"""A user's own overlaps when only signs are left to chance: law T0."""

import math
from typing import Any

from simgap.nulls.prediction import Prediction
from simgap.theory import sign_flips

SUPPOSES = "independent experts, sign-symmetric in this basis,"


def of_cumulants(cumulants: tuple[float, float, float], pairs: int, factor: float = 1.0) -> Prediction:
    """The null of a mean over `pairs`, from the cumulants of their sum; factor: what signs come short by (law N4)."""
    by = factor / pairs
    mean, sd = cumulants[0] * by, math.sqrt(max(cumulants[1], 0.0)) * by
    skew = cumulants[2] * by**3 / sd**3 if sd else None
    return Prediction(mean, sd, "exact", "leading", sign_flips.ID, sign_flips.HYPOTHESES, skew=skew, supposes=SUPPOSES)


def of_vectors(vectors: Any, factor: float, work: Any) -> Prediction:
    """One vector to an expert, (E, N); zeros are left out."""
    from simgap.overlaps import size_sums

    sums = size_sums(vectors, work.task_map)
    if not sums.pairs:
        return Prediction.missing("fewer than 2 experts have a non-zero vector")
    return of_cumulants(
        (sums.p, 2 * (sums.p2 - sums.q), 8 * (sums.p3 - 3 * sums.pq + 2 * sums.r) + 24 * sums.triangles), sums.pairs, factor
    )


def after_norm(source: Any) -> float:
    """By how much overlaps exceed what signs make of them where LayerNorm took the mean (law N4)."""
    width = source.vectors.shape[-1]
    return width / (width - 1) if source.site == "normed" else 1.0

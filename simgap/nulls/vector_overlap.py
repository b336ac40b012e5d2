"""Vectors of untrained experts on a token: law N2 for outputs, N1, N4, A7, A5 and L1 for what comes before; their spread by N2B; of a
user's own: T0."""

from typing import Any

from simgap.nulls.mean_overlap import null
from simgap.nulls.prediction import Prediction
from simgap.nulls.sign_flips import after_norm, of_cumulants
from simgap.quantities import Quantity

__all__ = ["null", "of_arrays"]


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    from simgap.overlaps import Signs, token_overlap

    if source.one_signed:
        return Prediction.missing(f"no law: {source.one_signed}")
    experts, width = source.indices[0].cpu().numpy(), source.vectors.shape[-1]
    overlap = token_overlap(source.vectors, work.task_map, experts >= 0, Signs.of(experts, experts.shape, width))
    if not overlap.moments.pairs or overlap.sketches is None:
        return Prediction.missing("no token has two non-zero vectors")
    return of_cumulants(overlap.sketches.cumulants(width), overlap.moments.pairs, after_norm(source))

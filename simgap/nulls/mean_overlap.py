"""Mean vectors of untrained experts: law N2 for outputs, N1, N4, A7, A6 and L1 for what comes before; of a user's own: T0."""

from typing import Any

from simgap.nulls.prediction import Prediction, null_of_activations, pairs_of
from simgap.nulls.sign_flips import after_norm, of_vectors
from simgap.quantities import SHARED, Quantity
from simgap.specs import LayerSpec, RunSpec


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    pairs = pairs_of(spec, run, quantity.side)
    return null_of_activations(spec, run, quantity.reading, quantity.site, pairs, quantity.side == SHARED)


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    from simgap.overlaps import means_by_routing

    if source.one_signed:
        return Prediction.missing(f"no law: {source.one_signed}")
    means = means_by_routing(source.vectors, source.indices[0], source.spec.n_experts, work.task_map)
    return of_vectors(means[~means.isnan().any(1)], after_norm(source), work)

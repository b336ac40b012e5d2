"""Mean vectors of untrained experts: law N2 for outputs, T5 where their space is not round; N1, N4, A7, A6 and L1 for what comes before;
of a user's own: T0."""

from typing import Any

from simgap.nulls.prediction import Prediction, null_of_activations, pairs_of
from simgap.nulls.sign_flips import after_norm, of_vectors
from simgap.quantities import SHARED, Quantity
from simgap.specs import LayerSpec, RunSpec

CENTRED = 'a common mean was taken out of them, so that they depend on each other; metrics="centred_overlap" wants them as they were'


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    pairs = pairs_of(spec, run, quantity.side)
    return null_of_activations(spec, run, quantity.reading, quantity.site, pairs, quantity.side == SHARED)


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    means = means_of(source, work)
    return Prediction.missing(f"no law: {means}") if isinstance(means, str) else of_vectors(means, after_norm(source), work)


def means_of(source: Any, work: Any) -> Any:
    """Mean vectors of the experts that a token reached, (E', width), or why no law is theirs."""
    import torch

    from simgap.overlaps import is_centred, means_by_routing

    if source.one_signed:
        return source.one_signed
    means = means_by_routing(source.vectors, source.indices[0], source.spec.n_experts, work.task_map)
    reached = ~means.isnan().any(1)
    if is_centred(means[reached], torch.from_numpy(source.taken[0]).to(means.device)[reached]):
        return CENTRED
    return means[reached]

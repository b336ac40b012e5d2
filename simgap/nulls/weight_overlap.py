"""Weights of untrained experts: laws N1 and N1B, T5 and T1 where the space is not round; of a user's own: T0."""

from typing import Any

from simgap.nulls.prediction import Prediction, null_of_weights, pairs_of
from simgap.nulls.sign_flips import of_vectors
from simgap.quantities import SHARED, Quantity
from simgap.specs import LayerSpec, RunSpec


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    return null_of_weights(spec, quantity.site, pairs_of(spec, run, quantity.side), quantity.side == SHARED)


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    import torch

    matrices = source.weights.matrices
    chosen = [matrices[quantity.site]] if quantity.site in matrices else list(matrices.values())
    return of_vectors(chosen[0] if len(chosen) == 1 else torch.cat(chosen, 1), 1.0, work)

"""Weights of untrained experts: laws N1 and N1B; of a user's own: T0."""

from typing import Any

from simgap.nulls.prediction import Prediction, null_of_weights, pairs_of
from simgap.nulls.sign_flips import of_vectors
from simgap.quantities import Quantity
from simgap.specs import LayerSpec, RunSpec


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    return null_of_weights(spec, quantity.site, pairs_of(spec, run, quantity.side))


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    import torch

    matrices = source.weights.matrices
    chosen = [matrices[quantity.site]] if quantity.site in matrices else list(matrices.values())
    return of_vectors(chosen[0] if len(chosen) == 1 else torch.cat(chosen, 1), 1.0, work)

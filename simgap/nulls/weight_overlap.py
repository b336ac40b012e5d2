"""Weights of untrained experts: laws N1 and N1B."""

from simgap.nulls.prediction import Prediction, null_of_weights, pairs_of
from simgap.quantities import Quantity
from simgap.specs import LayerSpec, RunSpec


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    return null_of_weights(spec, quantity.site, pairs_of(spec, run, quantity.side))

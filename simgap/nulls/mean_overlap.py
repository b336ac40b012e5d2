"""Mean vectors of untrained experts: law N2 for outputs, N1, N4, A7, A6 and L1 for what comes before."""

from simgap.nulls.prediction import Prediction, null_of_activations, pairs_of
from simgap.quantities import SHARED, Quantity
from simgap.specs import LayerSpec, RunSpec


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    pairs = pairs_of(spec, run, quantity.side)
    return null_of_activations(spec, run, quantity.reading, quantity.site, pairs, quantity.side == SHARED)

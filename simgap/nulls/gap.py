"""Gap and ratio of untrained experts: law N3, or each side's own where the space is not round."""

from simgap.metrics.gap import OUTPUT, UP
from simgap.nulls import mean_overlap, weight_overlap
from simgap.nulls.prediction import Prediction, null_of_gap, null_of_ratio, pairs_of
from simgap.quantities import Quantity
from simgap.specs import LayerSpec, RunSpec


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    output = mean_overlap.null(spec, run, OUTPUT.on(quantity.side))
    up = weight_overlap.null(spec, run, UP.on(quantity.side))
    if quantity.metric == "gap":
        return null_of_gap(spec, output, up)
    return null_of_ratio(spec, output, up, pairs_of(spec, run, quantity.side))

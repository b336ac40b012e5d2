"""What taking an untrained expert away costs: no law gives it, so untrained layers of the same spec are simulated.

Of a user's own vectors: the same with the vectors of each expert on other tokens of its own, which have nothing to do with each other.
"""

from simgap.metrics.ablation import QUANTITIES, ZEROED
from simgap.nulls import simulated
from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.selection import metrics
from simgap.specs import LayerSpec, RunSpec

# Layers that differ in anything have other nulls, if only by their seed.
WHOLE_SPEC = True
# What a user's own arrays are held against.
CONTROL = "permuted"


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    # Every expert on every token costs more than those that are routed.
    alone = quantity.reading == ZEROED
    kin = tuple(q for q in QUANTITIES if (q.reading == ZEROED) == alone and not metrics()["ablation"].missing(spec, q))
    return simulated.of_layer(spec, run, quantity, kin)

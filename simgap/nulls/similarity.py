"""Similarities of independent untrained experts: 8/d for a router row in its expert's leading directions (law N5), else simulated."""

import math

from simgap.metrics.similarity import QUANTITIES, RANK, ROUTER_SHARE
from simgap.nulls import simulated
from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.selection import metrics
from simgap.specs import LayerSpec, RunSpec
from simgap.theory import subspace_null

# Layers that differ in anything have other nulls, if only by their seed.
WHOLE_SPEC = True
HYPOTHESES = ("router rows Gaussian, independent of each other and of the experts' matrices",)


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    metric = metrics()["similarity"]
    if why := metric.missing(spec, quantity):
        return Prediction.missing(why)
    if quantity == ROUTER_SHARE:
        mean = float(subspace_null.null_subspace_overlap(spec.d_model, RANK, 1))
        rows = spec.n_experts * run.trials
        sd = math.sqrt(float(subspace_null.null_subspace_variance(spec.d_model, RANK, 1)) / rows)
        supposes = "router rows that know nothing of their experts"
        return Prediction(mean, sd, "exact", "exact", subspace_null.ID, HYPOTHESES, pairs=rows, supposes=supposes)
    # Matching costs more than all the rest, which one simulation gives.
    alone = quantity.reading == "neuron_matched"
    kin = tuple(q for q in QUANTITIES if (q.reading == "neuron_matched") == alone and not metric.missing(spec, q))
    return simulated.of_layer(spec, run, quantity, kin)

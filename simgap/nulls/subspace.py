"""Subspaces of independent untrained experts: r/d for those of outputs in a round space (law N5), else such layers are simulated.

Of a user's own vectors: random groups of the experts' sizes, which share whatever space there is.
"""

import math

from simgap.metrics.subspace import QUANTITIES, RANK
from simgap.nulls import simulated
from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.selection import metrics
from simgap.specs import GAUSSIAN_INITS, LayerSpec, RunSpec
from simgap.theory import subspace_null

# Layers that differ in anything have other nulls, if only by their seed.
WHOLE_SPEC = True
# What a user's own arrays are held against.
CONTROL = "random_groups"
SUPPOSES = "independent experts whose outputs lie in a round space"


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    if why := metrics()["subspace"].missing(spec, quantity):
        return Prediction.missing(why)
    if quantity == Quantity("subspace_overlap", "rank_8", "output") and _round(spec):
        pairs = math.comb(spec.n_experts, 2)
        mean = float(subspace_null.null_subspace_overlap(spec.d_model, RANK))
        sd = math.sqrt(float(subspace_null.null_subspace_variance(spec.d_model, RANK)) / (pairs * run.trials))
        hypotheses = (
            *subspace_null.HYPOTHESES,
            "every expert has tokens enough (else fewer pairs); W_down isotropic on the left (Gaussian)",
        )
        return Prediction(mean, sd, "exact", "exact", subspace_null.ID, hypotheses, pairs=pairs * run.trials, supposes=SUPPOSES)
    kin = tuple(q for q in QUANTITIES if q.site == quantity.site and not metrics()["subspace"].missing(spec, q))
    return simulated.of_layer(spec, run, quantity, kin)


def _round(spec: LayerSpec) -> bool:
    return spec.init in GAUSSIAN_INITS and not spec.space.uneven and not spec.space.bias

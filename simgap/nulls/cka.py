"""CKA of independent untrained experts: no law gives it, so untrained layers of the same spec are simulated. Of a user's own: no law.

Two random experts on the same tokens share those tokens' geometry and are far from 0: 0.9 at a hidden site is no sign of training.
"""

from typing import Any

from simgap.metrics.cka import KINDS, QUANTITIES
from simgap.nulls import simulated
from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.specs import LayerSpec, RunSpec

# Layers that differ in anything have other nulls, if only by their seed.
WHOLE_SPEC = True


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    return simulated.of_layer(spec, run, quantity, tuple(quantity._replace(metric=kind) for kind in KINDS))


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    return Prediction.missing('no law; null="permuted" holds it against the same experts on other tokens')

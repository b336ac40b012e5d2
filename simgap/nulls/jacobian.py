"""Jacobians of independent untrained experts: squared, 1/d^2 for linear and ReLU ones (law N6); for the rest such layers are simulated."""

from dataclasses import replace
from typing import Any

from simgap.metrics.jacobian import QUANTITIES
from simgap.nulls import simulated
from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.specs import GAUSSIAN_INITS, LayerSpec, RunSpec
from simgap.theory import jacobian_null

# Layers that differ in anything have other nulls, if only by their seed.
WHOLE_SPEC = True
# Activations whose slope does not hang on the size of what it reads.
HOMOGENEOUS = ("identity", "relu")


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    spectrum = quantity.metric == "jacobian_spectrum"
    # All that the same slopes give comes of one simulation.
    kin = tuple(q for q in QUANTITIES if (q.metric == "jacobian_spectrum") == spectrum and (spectrum or q.reading == quantity.reading))
    untrained = simulated.of_layer(spec, run, quantity, kin)
    if untrained.mean is None or quantity.metric != "jacobian_mso" or quantity.reading == "mean" or not _has_law(spec):
        return untrained
    mean = 1 / spec.d_model**2
    return replace(untrained, mean=mean, kind="exact", law=jacobian_null.ID, hypotheses=jacobian_null.HYPOTHESES, skew=None, draws=None)


def _has_law(spec: LayerSpec) -> bool:
    plain = spec.activation in HOMOGENEOUS and not spec.gated and spec.norm == "none" and not spec.space.uneven
    return plain and spec.init in GAUSSIAN_INITS


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    return Prediction.missing("no law: the Jacobians of trained experts have no null yet")

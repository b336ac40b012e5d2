"""N3: the gap of untrained experts is a difference of two dimensions."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.output_null import null_output_mso
from simgap.theory.weight_null import null_weight_mso

ID = "N3"


def null_gap(d_model: Any, d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E (activation MSO - weight MSO) = 1/d - 1/(d f), exactly, from N1 for W_up and N2 for the outputs (law N3)."""
    return null_output_mso(d_model, ctx=ctx) - null_weight_mso(d_model, d_ff, ctx=ctx)


def null_ratio(d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E activation MSO / E weight MSO = f: it grows with the hidden width, and is not constant across scale (law N3).

    The expectation of the ratio is larger than this ratio of expectations, by about the squared relative error of the weight MSO.
    """
    return ctx.number(d_ff)


def ratio_variance(activation_mean: Any, activation_variance: Any, weight_mean: Any, weight_variance: Any) -> Any:
    """Variance of the ratio of two uncorrelated means by the delta method: r^2 (Var a / a^2 + Var w / w^2), leading order."""
    ratio = activation_mean / weight_mean
    return ratio * ratio * (activation_variance / activation_mean**2 + weight_variance / weight_mean**2)

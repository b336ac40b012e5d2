"""N3: the gap of untrained experts is a difference of two dimensions."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.output_null import null_output_mso
from simgap.theory.weight_null import null_weight_mso

ID = "N3"
HYPOTHESES = (
    "weight MSO of W_up by law N1, activation MSO of outputs by law N2: W_down independent of W_up, of the tokens and of the routing",
    "every trial has a pair of defined vectors",
)


def null_gap(d_model: Any, d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E (activation MSO - weight MSO) = 1/d - 1/(d f), exactly, from N1 for W_up and N2 for the outputs (law N3)."""
    return null_output_mso(d_model, ctx=ctx) - null_weight_mso(d_model, d_ff, ctx=ctx)


def null_ratio(d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E activation MSO / E weight MSO = f: it grows with the hidden width, and is not constant across scale (law N3).

    The expectation of the ratio is larger: see `null_ratio_floor`.
    """
    return ctx.number(d_ff)


def null_ratio_floor(d_ff: Any, relative_sd: Any, skewness: Any, *, ctx: Context = FLOAT) -> Any:
    """E (activation MSO / weight MSO) >= f (1 + c^2 / (1 + g c)) > f, c the weight MSO's sd over its mean, g its skewness (law N3).

    Given W_up the activation MSO has expectation 1/d, so E ratio = (1/d) E [1 / weight MSO]; c^2 / (1 + g c) is Cauchy-Schwarz on
    E [(w - m)^2 / w]. The expectation is infinite where P T independent pairs of isotropic W_up are 2 or fewer: w has density w^(P T/2 - 1)
    near 0. relative_sd: c > 0; skewness: g > -1/c.
    """
    f, c, g = ctx.number(d_ff), ctx.number(relative_sd), ctx.number(skewness)
    return f * (1 + c * c / (1 + g * c))


def ratio_variance(activation_mean: Any, activation_variance: Any, weight_mean: Any, weight_variance: Any) -> Any:
    """Variance of the ratio of two uncorrelated means by the delta method: r^2 (Var a / a^2 + Var w / w^2), leading order."""
    ratio = activation_mean / weight_mean
    return ratio * ratio * (activation_variance / activation_mean**2 + weight_variance / weight_mean**2)

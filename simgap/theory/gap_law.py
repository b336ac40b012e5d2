"""N3: the gap of untrained experts is a difference of two dimensions."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.stats import two_sided_p
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, shared
from simgap.theory.output_null import null_output_mso
from simgap.theory.pearson import Distribution, PearsonIV, nodes_of, pearson_law
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


def gap_p(value: Any, output: Distribution, up: Distribution) -> Any:
    """Two-sided p of measured gaps a - w, an array, for independent a and w with these laws: P(a - w > g) = E P(a > g + w | w) (law N3).

    Independent they are where W_down is isotropic: given W_up, the directions of the outputs are those of isotropic vectors all the same.
    Where a's law is of type IV, which is slow to evaluate and nearly normal, by Pearson's law with the first four cumulants of a - w.
    """
    if isinstance(output, PearsonIV):
        law, sign = _sum_law(output, up)
        return two_sided_p(sign * np.asarray(value), law.cdf, law.sf)
    w, weights = nodes_of(up)
    return _two_sided(np.log(np.maximum(np.asarray(value)[:, None] + w, 1e-300)), _scores(output), weights)


@lru_cache(maxsize=1024)
def _sum_law(output: Distribution, up: Distribution) -> tuple[Distribution, int]:
    """The law of a - w, or where its skewness is negative of w - a, with the sign."""
    mean, second, third, fourth = (
        a + (-1) ** order * w for order, (a, w) in enumerate(zip(_cumulants(output), _cumulants(up), strict=True), 1)
    )
    sign = 1 if third >= 0 else -1
    return pearson_law(sign * mean, second, abs(third), fourth)[0], sign


def _cumulants(law: Distribution) -> tuple[float, float, float, float]:
    x, weights = nodes_of(law)
    mean = float((weights * x).sum())
    second, third, fourth = (float((weights * (x - mean) ** p).sum()) for p in (2, 3, 4))
    return mean, second, third, fourth - 3 * second**2


def ratio_p(value: Any, output: Distribution, up: Distribution) -> Any:
    """Two-sided p of measured ratios a / w, an array, for independent a and w with these laws: P(a / w > r) = E P(w < a / r | a) (law N3).

    With P pairs and T trials a / w is nearly f F(P T, P T), whose upper tail falls as slowly as r^(-P T / 2): no z knows it.
    """
    a, weights = nodes_of(output)
    log_a, weights = np.log(a[a > 0]), weights[a > 0]
    return _two_sided(log_a - np.log(np.maximum(value, 1e-300))[:, None], _scores(up), weights)


def _two_sided(
    points: Float[np.ndarray, "s n"], scores: tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]], weights: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " s"]:
    """p of each value: twice the smaller mean of one law's tails beyond the points, given by their logarithms, that it and the other law
    make, by interpolation; relative error below 2% for p above 1e-5, below 10% above 1e-8. No sum is over values: each has the bits that it
    has alone."""
    from scipy.special import ndtr

    def mean(score: Any) -> Any:
        return (ndtr(score) * weights).sum(-1)

    return two_sided_p(np.interp(points, *scores), mean, lambda score: mean(-score))


@lru_cache(maxsize=1024)
def _scores(law: Distribution) -> tuple[Any, Any]:
    """log x at and between the points of a law, and the standard normal z with P(Z < z) = P(X < x): nearly straight, so that interpolation
    is good."""
    from scipy.special import ndtri

    x = nodes_of(law)[0]
    nodes = np.log(x[x > 0])
    log_x = np.sort(np.concatenate([nodes, (nodes[1:] + nodes[:-1]) / 2]))
    x = np.exp(log_x)
    lower = law.cdf(x)
    upper = lower > 0.5
    score = ndtri(np.maximum(lower, 1e-300))
    score[upper] = -ndtri(np.maximum(law.sf(x[upper]), 1e-300))
    return shared(log_x, score)

"""N2B: how far the mean output overlap over tokens spreads, when all tokens share the same few experts."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, plain, shared
from simgap.theory.weight_null import null_variance

ID = "N2B"
HYPOTHESES = (
    "W_down Gaussian, independent of each other, of the hidden vectors and of the routing (Haar will do, but not for Q(c))",
    "hidden vectors non-zero",
    "no residual or shared expert added to the vectors, no norm after W_down",
)


DE_STEP = 1 / 16


def output_alignment(d_model: int, c: Any, *, ctx: Context = FLOAT) -> Any:
    """Q(c) = E cos^2 of one expert's outputs W h, W h' at two tokens whose hidden vectors have cosine c, W Gaussian (law N2B).

    1 - Q = (d - 1) int_0^1 u^(d-1) / (1 + w u^2) du, w = c^2 / (1 - c^2), which is (1 - c^2) (d - 1)/d 2F1(1, 1; d/2 + 1; c^2): the second
    moment of a sample correlation without centring (Muirhead 1982, section 5.1). Q(0) = 1/d, Q(1) = 1, near 0
    Q - 1/d = c^2 (d - 1) / (d + 2) + O(c^4).
    d_model: a whole number >= 1. c: in [-1, 1]; in floats a number or an array, absolute error below 1e-14; in symbols and balls
    0 < |c| < 1, by a recurrence over d that loses about d log2(1/|c|) bits. Raises ValueError out of range.
    """
    if d_model < 1 or d_model != int(d_model):
        raise ValueError(f"d_model: expected a whole number >= 1, got {d_model!r}")
    d = int(d_model)
    if ctx is FLOAT:
        return _alignment_in_floats(d, c)
    c = ctx.number(c)
    # integral_d = int u^(d-1) / (1 + w u^2) du, from d = 1 or 2 upwards: w integral_(d+2) = 1/d - integral_d.
    rest = 1 - c * c
    w = c * c / rest
    integral = ctx.asin(c) * ctx.sqrt(rest) / c if d % 2 else -ctx.log(rest) / (2 * w)
    for lower in range(2 - d % 2, d, 2):
        integral = (1 / ctx.number(lower) - integral) / w
    return 1 - (d - 1) * integral


def _alignment_in_floats(d: int, c: Any) -> Any:
    c = np.asarray(c, np.float64)
    inside = (c >= -1) & (c <= 1)
    if not inside.all():
        raise ValueError(f"c: expected cosines in [-1, 1], got {float(c[~inside].flat[0])!r}")
    # u^d = exp(-t): 1 - Q = (d - 1)/d int_0^inf (1 - c^2) / (1 - c^2 + c^2 exp(-2 t/d)) exp(-t) dt, by the doubly exponential trapezoid
    # rule t = exp(x - exp(-x)) (scipy's 2F1 is NaN here for d >= 256 and c^2 > 0.9).
    t, weights = _exponential_rule()
    rest = ((1 - c) * (1 + c))[..., None]
    q = 1 - (d - 1) / d * ((rest / (rest + (c * c)[..., None] * np.exp(-2 * t / d))) @ weights)
    # At c = 1 the integrand is 0 but where the exponential underflows.
    q = np.where(np.abs(c) == 1, 1.0, q)
    return plain(q)


@lru_cache(maxsize=1)
def _exponential_rule() -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes t and weights of E f(t), t standard exponential."""
    x = np.arange(-4.5, 4.0, DE_STEP)
    t = np.exp(x - np.exp(-x))
    return shared(t, DE_STEP * t * (1 + np.exp(-x)) * np.exp(-t))


def token_covariance(d_model: Any, q1: Any, q2: Any, *, ctx: Context = FLOAT) -> Any:
    """Cov(cos^2(t), cos^2(t')) of two experts' outputs at two tokens: 2 (Q_1 - 1/d)(Q_2 - 1/d) / ((d + 2)(d - 1)) (law N2B).

    q1, q2: Q_e = E cos^2(y_e(t), y_e(t')) of either expert, given the hidden vectors; 1/d for tokens whose outputs are unrelated, and then
    the covariance is 0; 1 for one token twice, and then it is Var cos^2. Isotropy of one expert's W_down is enough. d_model: d >= 2.
    Overlaps of different pairs of experts are uncorrelated, at one token and across tokens.
    """
    d, q1, q2 = ctx.number(d_model), ctx.number(q1), ctx.number(q2)
    return 2 * (q1 - 1 / d) * (q2 - 1 / d) / ((d + 2) * (d - 1))


def token_mso_variance(
    d_model: Any, tokens_per_pair: Any, pairs: Any, trials: Any = 1, covariance: Any = 0, *, ctx: Context = FLOAT
) -> Any:
    """Variance of the mean of cos^2 over n tokens of each of P pairs and T trials: [v / n + (1 - 1/n) cov] / (P T) (law N2B).

    v = 2 (d-1) / (d^2 (d+2)) is that of one cos^2; covariance: the mean of `token_covariance` over pairs of experts and of different
    tokens, cov / (P T) being the floor that no number of tokens removes. tokens_per_pair: n >= 1, the same for every pair; see
    `uneven_token_variance` for any counts. d_model >= 2.
    """
    n, copies = ctx.number(tokens_per_pair), ctx.number(pairs) * ctx.number(trials)
    return (null_variance(d_model, ctx=ctx) / n + (1 - 1 / n) * ctx.number(covariance)) / copies


def uneven_token_variance(d_model: Any, counts: Sequence[int], covariance: Any, *, ctx: Context = FLOAT) -> Any:
    """`token_mso_variance` of one trial with n_p tokens for pair p: [v sum n_p + cov sum n_p (n_p - 1)] / (sum n_p)^2 (law N2B).

    Each token of each pair weighs the same. counts: whole numbers >= 0, not all 0; covariance: the same for every pair. Raises ValueError
    for other counts.
    """
    if any(n < 0 or n != int(n) for n in counts) or sum(counts) == 0:
        raise ValueError(f"counts: expected whole numbers >= 0, not all 0, got {list(counts)}")
    total, ordered_pairs = sum(int(n) for n in counts), sum(int(n) * (int(n) - 1) for n in counts)
    return (total * null_variance(d_model, ctx=ctx) + ordered_pairs * ctx.number(covariance)) / ctx.number(total) ** 2


def null_token_sd(d_model: int, pairs: int, trials: int, tokens_per_pair: float, covariance: float) -> float:
    """Standard deviation of a token reading at the output site: the root of `token_mso_variance` (law N2B). 0 at d_model = 1."""
    for name, value, least in (
        ("pairs", pairs, 1),
        ("trials", trials, 1),
        ("tokens_per_pair", tokens_per_pair, 1),
        ("covariance", covariance, 0),
    ):
        if not value >= least:
            raise ValueError(f"{name}: expected at least {least}, got {value!r}")
    return math.sqrt(token_mso_variance(d_model, tokens_per_pair, pairs, trials, covariance))

"""L1B: what a gain and a bias after the norm do to angles, and units of unequal mean before it."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "L1B"
HYPOTHESES = (
    "wide: d_ff to infinity; the units (a_i, b_i) of the two normed vectors independent of each other and alike, of mean square 1",
    "gain and bias independent of the normed vectors and of each other, drawn unit by unit: gain of mean 1, bias of mean 0",
)
SHARED = "one gain and one bias for both experts"


def affine_token_cosine(cosine: Any, gain_std: Any, bias_std: Any, shared: bool, *, ctx: Context = FLOAT) -> Any:
    """The cosine of g a + b and g' a' + b' in the wide limit, from the cosine c of the normed vectors a and a' (law L1B).

    shared (g' = g, b' = b): ((1 + t^2) c + v^2) / (1 + t^2 + v^2); per expert: c / (1 + t^2 + v^2). t = gain_std, v = bias_std, both >= 0.
    cosine: 0 for independent experts under LayerNorm, kappa0 under RMSNorm. The mean entry of a and a' does not enter, as the bias has
    mean 0.
    """
    c, gain, bias = ctx.number(cosine), 1 + ctx.number(gain_std) ** 2, ctx.number(bias_std) ** 2
    return (gain * c + bias) / (gain + bias) if shared else c / (gain + bias)


def learned_affine_cosine(cosine: Any, mean: Any, gain_square: Any, gain_bias: Any, bias_square: Any, *, ctx: Context = FLOAT) -> Any:
    """The same for one given gain g and bias b shared by both experts: c' = c + (1 - c) B / (G + B), B = 2 mu <g b> + <b^2>, G = <g^2>.

    <.>: mean over units. mean: the mean entry mu of both normed vectors: 0 after LayerNorm, +- sqrt(kappa0) after RMSNorm. A gain alone
    (b = 0) changes no cosine; a bias raises every c < 1 iff B > 0, always under LayerNorm (law L1B). Wide limit: no few units may hold most
    of sum g_i^2. Undefined where G + B = 0.
    """
    c, gain = ctx.number(cosine), ctx.number(gain_square)
    bias = 2 * ctx.number(mean) * ctx.number(gain_bias) + ctx.number(bias_square)
    return c + (1 - c) * bias / (gain + bias)


def unequal_units_cosine(profile: Any, spread: Any, covariance: Any = 0, *, ctx: Context = FLOAT) -> Any:
    """(M + r) / (M + N): the cosine that LayerNorm leaves where units have means m_i of their own, shared by the experts (law L1B).

    profile: M, the variance of m_i over units, >= 0; spread: N > 0, a unit's variance, mean over units; covariance: r in [-N, N], of the
    two experts' units about their means, mean over units, 0 where they are independent. LayerNorm takes away the mean of the m_i alone:
    what is left of them is a common component. 0 for M = r = 0, law L1 at rho = 0.
    """
    m, n, r = ctx.number(profile), ctx.number(spread), ctx.number(covariance)
    return (m + r) / (m + n)


def per_expert_mso(d_ff: Any, gain_std: Any, bias_std: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = 1/f + 1/((1 + t^2 + v^2)^2 f^2) + o(1/f^2) of independent experts' vectors after LayerNorm, each with a gain and a bias of
    its own (law L1B): from N4's 1/(f-1) without them towards 1/f. t = gain_std, v = bias_std, both >= 0."""
    f = ctx.number(d_ff)
    return 1 / f + 1 / ((1 + ctx.number(gain_std) ** 2 + ctx.number(bias_std) ** 2) * f) ** 2

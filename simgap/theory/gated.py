"""A7: hidden vectors act(g) u of gated experts overlap by 1/f, like signs, and spread more than a normal vector would."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.activations import Activation, activation_of
from simgap.theory.context import Context
from simgap.theory.dual_map import kappa
from simgap.theory.floats import FLOAT, normal_rule, shared
from simgap.theory.weight_null import null_mso, null_variance_general, share_moment

ID = "A7"
HYPOTHESES = (
    "hidden vector act(W_gate x) * W_up x, and its means over tokens, without a norm",
    "rows of (W_gate, W_up) i.i.d. over the hidden units of one expert, and the law of W_up's row symmetric given W_gate's",
    "the other expert independent of it given the tokens and the routing",
    "both vectors non-zero",
)
GAUSSIAN = "sd: W_gate and W_up Gaussian, one token with ||x||^2 = d_model"

# The trapezoid rule in log t: the integrand falls like t^2 below and at least like t^(-1/2) above, and is analytic for |arg t| < pi.
LOG_STEP, LOG_LOW, LOG_HIGH = 1 / 8, -40, 80


def gated_mso(d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = 1/f, exactly at every f, for two experts' gated hidden vectors on a token and for their means over tokens (law A7)."""
    return null_mso(d_ff, ctx=ctx)


def gated_kurtosis(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E h^4 / (E h^2)^2 = 3 E act(sz)^4 / (E act(sz)^2)^2 of h = act(sz) u, u normal: 9 for the identity, 18 for ReLU (law A7)."""
    act, std = activation_of(activation), ctx.number(std)
    second = ctx.expect(lambda x: act.value(x, ctx) ** 2, std, degree=2)
    return 3 * ctx.expect(lambda x: act.value(x, ctx) ** 4, std, degree=4) / second**2


def gated_kappa(activation: str | Activation, rho: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """rho kappa(rho): cosine of one gated expert's vectors on two tokens of correlation rho, wide limit (law A7)."""
    return ctx.number(rho) * kappa(activation, rho, std, ctx=ctx)


def excess_over_beta(width: Any, a: Any, b: Any, *, ctx: Context = FLOAT) -> Any:
    """Var cos^2 - 2(N-1)/(N^2(N+2)) = N(N+2)/(N-1) (A - 3/(N(N+2))) (B - 3/(N(N+2))), exactly (laws N1, A7).

    a, b: E[(h_1^2/||h||^2)^2] of either side. Never negative for two experts of one law, A = B, and 0 only at the Gaussian's A. N >= 2.
    """
    n = ctx.number(width)
    gaussian = 3 / (n * (n + 2))
    return n * (n + 2) / (n - 1) * (ctx.number(a) - gaussian) * (ctx.number(b) - gaussian)


def gated_variance(d_ff: Any, kurtosis: Any, *, ctx: Context = FLOAT) -> Any:
    """Var cos^2 on one token by N1's general law at A = B = K/(f (K + f - 1)): 2/f^2 + (K^2 - 6K + 3)/f^3 + O(1/f^4) (law A7).

    d_ff: f >= 2; kurtosis: K of `gated_kurtosis`. Above the Beta law's variance by (K-3)^2/f^3 to this order. Leading order: A is a
    ratio of expectations; where f is not far above K^2 (SiLU: K = 22) use `gated_share_moment`. Not for means over tokens: another
    kurtosis.
    """
    share = share_moment(d_ff, kurtosis, ctx=ctx)
    return null_variance_general(d_ff, share, share, ctx=ctx)


def gated_share_moment(activation: str | Activation, std: float, d_ff: int) -> float:
    """A = E[(h_1^2/||h||^2)^2] exactly at width f: int_0^inf t psi''(t) psi(t)^(f-1) dt, psi(t) = E exp(-t h^2) (law A7).

    Since 1/S^2 = int t exp(-tS) dt; with u normal psi(t) = E (1 + 2t a^2)^(-1/2) and psi'' = 3 E a^4 (1 + 2t a^2)^(-5/2), a = act(sz).
    ReLU's dead vectors (probability 2^-f) count as 0. d_ff: an int >= 2. Raises ValueError below.
    """
    if d_ff < 2:
        raise ValueError(f"d_ff: expected an int >= 2, got {d_ff}")
    weighted_curvature, log_psi = _transform(activation_of(activation), float(std))
    return float((weighted_curvature * np.exp((d_ff - 1) * log_psi)).sum())


@lru_cache(maxsize=64)
def _transform(act: Activation, std: float) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """t^2 psi''(t) times the lattice's step, and log psi(t): one pair serves every width."""
    scale = FLOAT.expect(lambda x: act.value(x, FLOAT) ** 2, std, degree=2)
    # In units of 1/E a^2: psi^(f-1) falls from about t = 1/f on.
    t = np.exp(np.arange(LOG_LOW, LOG_HIGH, LOG_STEP))[:, None]
    nodes, weights = normal_rule()
    square = act.value(std * nodes, FLOAT) ** 2
    # In place: the table of all t and all nodes is 11 MB.
    laplace = 2 * t * square
    laplace /= scale
    laplace += 1
    laplace **= -0.5
    log_psi = np.log(laplace @ weights)
    laplace **= 5
    laplace *= 3 * (square / scale) ** 2
    return shared(LOG_STEP * t[:, 0] ** 2 * (laplace @ weights), log_psi)

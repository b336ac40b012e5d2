"""R1: descent on an expert's own Gram loss ||W'W - I||: what it does to singular values, and to the overlap of two experts."""

from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "R1"
HYPOTHESES = (
    "each expert follows the gradient flow of ||W'W - I||_F^2 / 4 on its own weights, and no other loss",
    "overlap between experts: they start independent, one of them from i.i.d. entries symmetric about 0, not all zero",
)


def gram_flow_singular(s0: Any, t: Any, *, ctx: Context = FLOAT) -> Any:
    """The singular value at time t of the flow dW/dt = -W (W'W - I) that starts at s0 (law R1); singular vectors stay.

    s(t)^2 = s0^2 e^{2t} / (1 + s0^2 (e^{2t} - 1)), written in x = e^{-2t} so that it does not overflow. s0 >= 0, t >= 0; in floats element
    by element, and s0 = 0 needs t < 300.
    """
    s0, x = ctx.number(s0), ctx.exp(-2 * ctx.number(t))
    return s0 / ctx.sqrt(s0 * s0 * (1 - x) + x)


def unsquared_speed(singular_values: Any, *, ctx: Context = FLOAT) -> Any:
    """dt/dtau = 2 / ||W'W - I||_F: how fast the flow of the unsquared norm, in its own time tau, runs along the same orbit (law R1).

    singular_values: all d of them, zeros beyond the rank included; not all 1 (there the norm has no gradient).
    """
    return 2 / ctx.sqrt(sum((s * s - 1) ** 2 for s in map(ctx.number, singular_values)))


def shared_spike_cosine(spike: Any, noise: Any, d_model: Any, t: Any, *, ctx: Context = FLOAT) -> Any:
    """cos of two experts W_e = spike u v' + noise G_e (u, v shared unit vectors) after time t of the flow (law R1).

    With x = e^{-2t}, a = spike^2, b = noise^2: a (x + (1-x) b) / ((a+b)(x + (1-x) b) + (d-1) b (x + (1-x)(a+b))); from a/(a + d b) at t = 0
    it falls to (a/(a+b))/d. Exact where G_e'G_e = I, G_1'G_2 = 0 and G_e'u = 0; for i.i.d. entries of mean 0 and variance 1/f the limit
    f -> infinity at fixed d. spike, noise > 0, d_model >= 1, t >= 0.
    """
    a, b, d, x = ctx.number(spike) ** 2, ctx.number(noise) ** 2, ctx.number(d_model), ctx.exp(-2 * ctx.number(t))
    alone, with_spike = x + (1 - x) * b, x + (1 - x) * (a + b)
    return a * alone / ((a + b) * alone + (d - 1) * b * with_spike)


def two_by_two_variance(roundness: Any, *, ctx: Context = FLOAT) -> Any:
    """Var cos^2 = (5 - 6 D + 9 D^2) / 64 of two independent 2 x 2 matrices whose law no orthogonal matrix on either side changes.

    roundness: D = E (2 s1 s2 / (s1^2 + s2^2))^2, in [0, 1], the same for both: 1/3 for Gaussian entries (Var 1/16), rising along the flow
    to 1 (Haar, Var 1/8) (law R1).
    """
    d = ctx.number(roundness)
    return (5 - 6 * d + 9 * d * d) / 64


def gram_flow(weight: Float[np.ndarray, "... f d"], t: float) -> Float[np.ndarray, "... f d"]:
    """W(t) = e^t W (I + (e^{2t} - 1) W'W)^{-1/2}: the flow of `gram_flow_singular` on whole matrices (law R1). O(f d min(f, d))."""
    u, s, vt = np.linalg.svd(np.asarray(weight, np.float64), full_matrices=False)
    return u * gram_flow_singular(s, t)[..., None, :] @ vt


def unsquared_time(singular_values: Float[np.ndarray, " d"], t: float) -> float:
    """tau = (1/2) int_0^t ||W'W - I||_F: when the unsquared norm's flow is where the squared one's is at time t (law R1).

    singular_values: all d of them at the start. t may be inf, where they are all above 0: the unsquared flow arrives after a finite time.
    """
    from scipy.integrate import quad

    squared = np.asarray(singular_values, np.float64) ** 2
    if t == np.inf and not squared.all():
        raise ValueError(f"t: expected a finite time, as a singular value 0 stays there, got {t} and {singular_values}")

    def half_norm(time: float) -> float:
        x = np.exp(-2 * time)
        rest = squared * (1 - x) + x
        excess = np.where(squared > 0, (squared - 1) * x / np.where(rest > 0, rest, 1.0), -1.0)
        return float(np.linalg.norm(excess)) / 2

    return quad(half_norm, 0, t, epsabs=1e-13, epsrel=1e-11, limit=200)[0]

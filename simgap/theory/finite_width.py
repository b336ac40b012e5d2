"""A5: the overlap of independent experts' hidden vectors at finite width, one token."""

from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.activations import RELU, Activation, activation_of
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, normal_rule, shared

ID = "A5"
HYPOTHESES = (
    "one token; the two experts' pre-activations independent of each other",
    "entries of a pre-activation independent normals of one standard deviation s (Gaussian W_up, s^2 its variance times ||x||^2)",
    "both hidden vectors non-zero",
)
LEADING = "wide: relative to kappa0^2 + C/f the error is O(1/f^2)"

# Lattice of log(t f E h^2) for the integral over t. The left end is where t^2 is lost; the right end is the range of exp: SiLU is
# exponentially small, not 0, on the left, so that a wide pre-activation's small vectors need t that large. The integrand is analytic in a
# strip.
STEP = 1 / 4
LOW, HIGH = -40, 690
BLOCK = 32


def hidden_token_mso(activation: str | Activation, d_ff: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E cos^2(h_1, h_2) = kappa0^2 + C / f + O(1/f^2), C of `finite_width_constant` (law A5). d_ff: f >= 1; std: s > 0."""
    act = activation_of(activation)
    m1, m2, _, _ = _moments(act, std, ctx)
    return (m1 * m1 / m2) ** 2 + finite_width_constant(act, std, ctx=ctx) / ctx.number(d_ff)


def finite_width_constant(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """C = 1 + k^2 (1 + 2 m4 / m2^2) - 4 k m1 m3 / m2^2, with m_p = E act(sz)^p and k = kappa0 = m1^2 / m2 (law A5); 1 where m1 = 0."""
    return constant_from_moments(*_moments(activation_of(activation), std, ctx), ctx=ctx)


def constant_from_moments(m1: Any, m2: Any, m3: Any, m4: Any, *, ctx: Context = FLOAT) -> Any:
    """`finite_width_constant` from the moments m_p = E h^p of an entry of the hidden vector; m2 > 0."""
    m1, m2, m3, m4 = (ctx.number(m) for m in (m1, m2, m3, m4))
    k = m1 * m1 / m2
    return 1 + k * k * (1 + 2 * m4 / (m2 * m2)) - 4 * k * m1 * m3 / (m2 * m2)


def exchangeable_mso(d_ff: Any, first: Any, second: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = 1/f + (f c_1 - 1)(f c_2 - 1) / (f (f - 1)) of two independent vectors with exchangeable entries, exactly (law A5).

    first, second: c_e = E cos^2(h_e, 1), the share that the all-ones vector has in each. d_ff: f >= 2. One vector with c = 1/f is enough
    for 1/f; one that is centred has c = 0, and two give 1/(f-1), law N4.
    """
    f = ctx.number(d_ff)
    return 1 / f + (f * ctx.number(first) - 1) * (f * ctx.number(second) - 1) / (f * (f - 1))


def relu_token_mso(d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = 1/f + f (f-1) G^2 / (1 - 2^-f)^2, G = [2 (1 - 2^-f)/f - (1 - 2^(1-f))/(f-1)] / pi, exactly, for ReLU at any s (law A5).

    d_ff: f >= 2. A vector is dead with probability 2^-f, and its pair is dropped.
    """
    f = ctx.number(d_ff)
    dead = ctx.number(2) ** (-f) if not isinstance(f, int) else 1 / ctx.number(2**f)
    pair = (2 * (1 - dead) / f - (1 - 2 * dead) / (f - 1)) / ctx.number(ctx.pi)
    return 1 / f + f * (f - 1) * (pair / (1 - dead)) ** 2


def exact_token_mso(activation: str | Activation, d_ff: int, std: float = 1.0) -> float:
    """E cos^2(h_1, h_2) at every width, by a single integral (law A5):

    1/f + f (f-1) G^2,  G = int_0^inf E[h exp(-t h^2)]^2 E[exp(-t h^2)]^(f-2) dt,  h = act(sz).

    d_ff: f >= 2. Relative error about 1e-10 for std <= 1 or f >= 32; below 1e-3 for fewer units of a larger std, whose pre-activations may
    all be negative: SiLU and GELU are then exponentially small, on a scale that the quadrature does not resolve. ReLU, whose vectors may
    be dead, in closed form.
    Raises ValueError for f < 2, std not above 0, and an activation that is not odd and comes without its even part.
    """
    act = activation_of(activation)
    if not d_ff >= 2:
        raise ValueError(f"d_ff: expected at least 2, got {d_ff}")
    if not (np.isfinite(std) and std > 0):
        raise ValueError(f"std: expected a finite number above 0, got {std}")
    if act == RELU:
        return float(relu_token_mso(int(d_ff)))
    if act.even is None:
        # A sign that flips leaves only 1/f, but of an odd activation alone.
        x = std * np.array([0.1, 1.0, 2.0])
        there, back = act.value(x, FLOAT), act.value(-x, FLOAT)
        if not np.allclose(there, -back, rtol=1e-12, atol=0):
            raise ValueError(f"activation: {act.name!r} is not odd; expected its even part")
        return 1 / d_ff
    share = _ones_share(act, d_ff, float(std))
    return float(exchangeable_mso(d_ff, share, share))


def _ones_share(act: Activation, d_ff: int, std: float) -> float:
    """E cos^2(h, 1) = 1/f + (f-1) G, as 1/y = int exp(-t y) dt for y = ||h||^2; the trapezoid rule on log t."""
    size = np.sqrt(FLOAT.expect(lambda x: act.value(x, FLOAT) ** 2, std))
    nodes, weights = normal_rule()
    value = act.value(std * nodes, FLOAT)
    pair = 0.0
    for root in _roots():
        # One t for each row, in units in which E h^2 = 1; sqrt(t) goes with h, so that neither overflows. In place: the passes over
        # memory are what this takes.
        h = root / np.sqrt(d_ff) * value
        h /= size
        damped = -h
        damped *= h
        np.exp(damped, out=damped)
        zeroth = damped @ weights
        damped *= h
        added = STEP * float((damped @ weights) ** 2 @ zeroth ** (d_ff - 2))
        pair += added
        if added < 1e-18 * pair:
            break
    # Where a unit may be silent, all of them may be: that vector's pair is dropped.
    dead = float(weights[value == 0].sum()) ** d_ff if act.plain else 0.0
    return 1 / d_ff + (d_ff - 1) * pair / (1 - dead)


@lru_cache(maxsize=1)
def _roots() -> list[Float[np.ndarray, "t 1"]]:
    """sqrt(t f E h^2) on the lattice, in blocks: the last are rarely needed."""
    lattice = np.arange(LOW, HIGH, STEP)
    return [shared(np.exp(block / 2)[:, None]) for block in np.array_split(lattice, len(lattice) // BLOCK + 1)]


def _moments(act: Activation, std: Any, ctx: Context) -> tuple[Any, Any, Any, Any]:
    std = ctx.number(std)

    def power(x: Any, p: int) -> Any:
        return act.value(x, ctx) ** p

    m1, m2, m3, m4 = (ctx.expect(partial(power, p=p), std, degree=p) for p in (1, 2, 3, 4))
    return m1, m2, m3, m4

"""N6: how much the Jacobians of untrained experts overlap at one input: 1/d^2 where the slope ignores the size of a reading, else more."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from simgap.theory.activations import Activation, activation_of
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, elementwise

ID = "N6"
HYPOTHESES = (
    "J_e = W_down,e diag(act'(W_up,e x)) W_up,e at one non-zero x, the same for both experts",
    "W_up Gaussian; W_down with i.i.d. entries symmetric about 0; experts independent",
    "both Jacobians non-zero",
)


@dataclass(frozen=True)
class SlopeMoments:
    """What the law needs of D = act'(sz): its ratio q = E D^2 z^2 / E D^2, and E D^4 z^p / (E D^2)^2 for p = 0, 2, 4."""

    ratio: Any
    fourth: Any
    fourth_z2: Any
    fourth_z4: Any


def slope_moment(activation: str | Activation, power: int, z_power: int, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E D^power z^z_power, D = act'(std z). std above 0: of a pre-activation."""
    act, std = activation_of(activation), ctx.number(std)
    # |act'(x)| <= 1 + |x|, and x^p in place of z^p keeps the bound at every std.
    value = ctx.expect(lambda x: act.slope(x, ctx) ** power * x**z_power, std, degree=power + z_power)
    return value / std**z_power


def slope_ratio(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """q = E D^2 z^2 / E D^2, D = act'(std z) (law N6): 1 for linear and ReLU at every std, 1.3636400515... for SiLU at std 1."""
    return slope_moment(activation, 2, 2, std, ctx=ctx) / slope_moment(activation, 2, 0, std, ctx=ctx)


def slope_moments(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> SlopeMoments:
    """All that the law needs of a slope at std; for linear and ReLU experts (1, c, c, 3c) with c = 1 and 2 (law N6)."""
    square = slope_moment(activation, 2, 0, std, ctx=ctx)
    fourth = (slope_moment(activation, 4, p, std, ctx=ctx) / square**2 for p in (0, 2, 4))
    return SlopeMoments(slope_ratio(activation, std, ctx=ctx), *fourth)


def overlap_of_shares(d_model: Any, share: Any, other_share: Any = None, *, ctx: Context = FLOAT) -> Any:
    """E cos^2(J_1, J_2) = (1/d) [a1 a2 + (1 - a1)(1 - a2)/(d - 1)], exactly (law N6), a_e = E ||J_e x||^2 / (||J_e||_F^2 ||x||^2).

    For a1 = a2 it is at least 1/d^2, and 1/d^2 only at a = 1/d. d_model >= 2; shares in [0, 1].
    """
    d, a = ctx.number(d_model), ctx.number(share)
    b = a if other_share is None else ctx.number(other_share)
    return (a * b + (1 - a) * (1 - b) / (d - 1)) / d


def share_terms(y: Any, d_model: Any, moments: SlopeMoments, excess_kurtosis: Any = 0) -> tuple[Any, Any]:
    """The two functions whose averages give a = a_inf + a_1 / f (law N6), in plain arithmetic. With T standard exponential,

        a_inf = (1/d) E h^(d/2) first(y),  a_1 = (1/d) E h^(d/2) second(y),  y = 1 - exp(-2 T / d^2),  h = 1 / (1 + (q - 1) y).

    `second` is the fourth moment's part of an Edgeworth expansion of sum_i A_i D_i w_i', A_i the columns of W_down: E |A_i|^4, which is
    d (d + 2 + excess_kurtosis) at unit variance, times the fourth derivative along D_i w_i of one row.
    """
    d, q = d_model, moments.ratio
    h = 1 / (1 + (q - 1) * y)
    one_way = h * moments.fourth_z4 + (d - 1) * moments.fourth_z2
    both_ways = h * one_way + (d - 1) * (h * moments.fourth_z2 + (d + 1) * moments.fourth)
    moved = d * q * h * y * both_ways / 8 - (1 - y) * h * h * one_way / 2
    return q * h, (d + 2 + excess_kurtosis) * y * moved


def wide_share(d_model: int, ratio: Any, *, ctx: Context = FLOAT) -> Any:
    """a_inf = (q/d) 2F1(1, d/2 + 1; d^2/2 + 1; 1 - q), the share along x at f to infinity, exactly; about q / (d - 1 + q) (law N6).

    Any sign-symmetric W_down. d_model >= 2; outside floats it must be even and q >= 1: a certified tail needs whole powers of h <= 1.
    """
    if ctx is not FLOAT and (d_model % 2 or not ratio >= 1):
        raise ValueError(f"d_model, ratio: outside floats expected an even d_model and a ratio of at least 1, got {d_model!r} and {ratio}")
    moments = SlopeMoments(ratio, 0, 0, 0)
    return _average(d_model, moments, lambda y: share_terms(y, d_model, moments)[0], ctx)


def share_slope(d_model: int, moments: SlopeMoments, excess_kurtosis: float = 0.0) -> float:
    """a_1, the coefficient of 1/f in the share along x, exactly; in floats (law N6). 0 for linear and ReLU experts. d_model >= 2."""
    return _average(d_model, moments, lambda y: share_terms(y, d_model, moments, excess_kurtosis)[1], FLOAT)


def _average(d: int, moments: SlopeMoments, term: Any, ctx: Context) -> Any:
    """(1/d) E h^(d/2) term(y); T = z^2/2, since an exponential average is that of sqrt(pi/2) |z| over a normal."""

    def integrand(z: Any) -> Any:
        y = 1 - ctx.exp(-z * z / (d * d))
        h = 1 / (1 + (moments.ratio - 1) * y)
        return ctx.magnitude(z) * (h ** (d // 2) if d % 2 == 0 else h ** (d / 2)) * term(y)

    # |z| q h^(d/2 + 1) <= (1 + |z|)^degree for 1 <= q <= 4, the only term that balls are asked for.
    return ctx.expect(integrand, 1, degree=4) * ctx.sqrt(ctx.number(ctx.pi) / 2) / d


def null_jacobian_alignment(
    d_model: Any, d_ff: Any, activation: str | Activation = "silu", std: Any = 1.0, excess_kurtosis: Any = 0.0
) -> Any:
    """E cos^2(J_1, J_2) at one input, of independent untrained experts, to first order in 1/f (law N6).

    (1/d) [a^2 + (1-a)^2/(d-1)] with a = a_inf + a_1/f: exactly 1/d^2 for linear and ReLU experts at every f, else a's error is O(1/f^2) at
    fixed d. At f = 1 it is 1/d^2 for every activation whose slope is almost nowhere 0, which this expansion does not reach, nor need it
    grow steadily from there: for SiLU, a falls below 1/d at f = 2 before it rises.
    std: of a pre-activation (sqrt 2 under Kaiming fan-in at ||x||^2 = d). excess_kurtosis: of W_down's entries, 0 Gaussian, -6/5 uniform,
    -2 signs. All but the activation: numbers or arrays that broadcast. Raises ValueError for d_model below 2, d_ff below 1, and where f is
    too small for the expansion to give a share in [0, 1].
    """
    return elementwise(partial(_alignment, activation), d_model, d_ff, std, excess_kurtosis)


def _alignment(activation: str | Activation, d_model: int, d_ff: int, std: float, excess_kurtosis: float) -> float:
    for name, value, least in (("d_model", d_model, 2), ("d_ff", d_ff, 1)):
        if not value >= least:
            raise ValueError(f"{name}: expected at least {least}, got {value!r}")
    moments = slope_moments(activation, std)
    share = wide_share(d_model, moments.ratio) + share_slope(d_model, moments, excess_kurtosis) / d_ff
    if not 0 <= share <= 1:
        raise ValueError(f"d_ff: too small for an expansion in 1/f at d_model = {d_model}, got {d_ff!r}")
    return float(overlap_of_shares(d_model, share))


def shared_overlap(d_model: Any, d_ff: Any, moments: SlopeMoments) -> Any:
    """E <J_1, J_2>^2 / E ||J_1||^2 ||J_2||^2 of experts that share W_up and have independent W_down, exactly (law N6).

    E cos^2 itself to leading order, within about 1/d of it; both are 1/d at f = 1. For d and f large with d/f fixed it is
    (1/d^2)(1 + (d/f) E D^4 / (E D^2)^2): 1 + d/f for linear experts, but 1 + 2 d/f for ReLU. Plain arithmetic.
    """
    d, f, m = d_model, d_ff, moments
    own = m.fourth_z4 + 2 * (d - 1) * m.fourth_z2 + (d * d - 1) * m.fourth
    return (own + (f - 1) * (m.ratio**2 + d - 1)) / (own + (f - 1) * (m.ratio + d - 1) ** 2) / d

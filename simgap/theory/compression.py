"""A3: an activation shrinks large angles, and may widen small ones; where the one turns into the other."""

from collections.abc import Callable
from typing import Any

import numpy as np

from simgap.theory.activations import Activation, Own, activation_of, check_slope, continuous
from simgap.theory.context import Context
from simgap.theory.dual_map import dual_parts
from simgap.theory.floats import FLOAT

ID = "A3"
HYPOTHESES = (
    "wide: d_ff to infinity; pre-activations jointly Gaussian, entry by entry independent, with one standard deviation",
    "act absolutely continuous, act and its slope of at most polynomial growth",
    "for kappa'(1) >= 1: act(0) = 0, its slope bounded near 0",
)

# By how much Even'(1) / Even(1) must exceed 1 to count: it is 1 for |x|, 4/3 for x^2, and 1 + 1.1e-3 for the flattest here, GELU at
# s = 1000.
MARGIN = 1e-7
STEPS = 60
EPSILON = 2.0**-53


def dual_slope(activation: str | Activation | Own, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """kappa'(1) = s^2 E[act'(sz)^2] / E[act(sz)^2] (law A3). std: s > 0.

    Above 1, small angles are widened; below 1, shrunk. At least 1 where act(0) = 0, and 1 only for act linear on either side of 0.
    """
    act = _with_slope(activation, ctx)
    std = ctx.number(std)
    square = ctx.expect(lambda x: act.value(x, ctx) ** 2, std, degree=2)
    return std * std * ctx.expect(lambda x: act.slope(x, ctx) ** 2, std, degree=2) / square


def slope_excess(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """kappa'(1) - 1 = s^2 E[(act'(x) - act(x)/x)^2] / E[act(x)^2], x = sz, for act(0) = 0 (law A3): a square, so never negative.

    In balls only for a smooth act given with act(x)/x analytic, which division by x is not at 0.
    """
    act = _with_slope(activation, ctx)
    std = ctx.number(std)
    square = ctx.expect(lambda x: (act.slope(x, ctx) - act.value(x, ctx) / x) ** 2, std, degree=2)
    return std * std * square / ctx.expect(lambda x: act.value(x, ctx) ** 2, std, degree=2)


def _with_slope(activation: str | Activation | Own, ctx: Context) -> Activation:
    """The activation, if its slope is its value's. Raises ValueError otherwise, and where a user's own has a jump at 0."""
    act = activation_of(activation)
    if ctx is not FLOAT:
        return act
    if act.plain and not continuous(act):
        raise ValueError(f"activation: {act.name!r} has a jump at 0; law A3 needs an activation that is absolutely continuous")
    return check_slope(act)


def odd_bound(rho: Any, *, ctx: Context = FLOAT) -> Any:
    """|kappa(rho)| <= |rho| for every odd activation (law A4): as kappa0 = 0, no angle below 90 degrees is shrunk. rho: in [-1, 1]."""
    return ctx.magnitude(ctx.number(rho))


def compression_threshold(activation: str | Activation | Own, std: Any = 1.0) -> Any:
    """rho* in (0, 1) with kappa(rho*) = rho*: below it the activation shrinks the angle, above it widens it (law A3).

    None, or nan within an array, where there is none: odd activations, which shrink no acute angle, and kappa'(1) <= 1 (ReLU), which
    widens none. std: a number or an array, in [1e-6, 1e3]. Absolute error below 1e-10 for std in [0.01, 100]. Where the odd part is linear
    (identity, ReLU, GELU, SiLU), it drops out of kappa(rho) = rho, which is Even(rho) = rho Even(1). Cost: about 12 evaluations of the
    dual map. activation may be a function as in `dual_map`; absolute error below 1e-8 then.

    Raises ValueError for std out of range, for an Activation whose slope or parts are not its value's, and for a function with a jump at 0
    or kinks elsewhere.
    """
    act = _with_slope(activation, FLOAT)
    std = np.asarray(std, np.float64)
    dual_parts(act, 0.0, std)  # for its ValueErrors
    root = np.full(std.shape, np.nan)
    if act.even is not None:
        stds, at = np.unique(std, return_inverse=True)
        root = _crossings(act, stds)[at].reshape(std.shape)
    if root.ndim:
        return root
    return None if np.isnan(root) else float(root)


def _crossings(act: Activation, stds: np.ndarray) -> np.ndarray:
    """Even(rho) - rho Even(1) is convex with a zero at 1: it has another in (0, 1) iff it is above 0 at 0 and rises at 1. So is the sum of
    both parts where the odd one is not linear."""

    def part(rho: Any) -> np.ndarray:
        even, odd, _ = dual_parts(act, rho, stds)
        return even if act.linear is not None else even + odd

    at_zero, at_one = part(0.0), part(1.0)
    linear = float(act.linear or 0)
    rise = stds**2 * FLOAT.expect(lambda x: (act.slope(x, FLOAT) - linear) ** 2, stds) / at_one
    crossed = (at_zero > MARGIN * at_one) & (rise > 1 + MARGIN)
    root = np.full(stds.shape, np.nan)
    if crossed.any():
        stds, at_one, rise = stds[crossed], at_one[crossed], rise[crossed]

        def without_one(rho: np.ndarray) -> np.ndarray:
            """The difference divided by 1 - rho, which leaves the other zero alone; at 1 its limit."""
            short = rho < 1
            quotient = (part(rho) - rho * at_one) / np.where(short, 1 - rho, 1)
            return np.where(short, quotient, (1 - rise) * at_one)

        root[crossed] = root_between(without_one, np.zeros_like(stds), np.ones_like(stds))
    return root


def root_between(function: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A zero of a continuous function between low and high, element by element, to round-off: inverse quadratic steps where the last three
    points are nearly on a monotone parabola, halving elsewhere (Chandrupatla 1997). An end of the same sign as the other is returned as it
    is where it is nearer to 0. About 10 evaluations."""
    first, last = np.array(low, np.float64), np.array(high, np.float64)
    at_first, at_last = function(first), function(last)
    share = np.full(first.shape, 0.5)
    outside = np.sign(at_first) * np.sign(at_last) >= 0
    end = np.where(np.abs(at_first) <= np.abs(at_last), first, last)
    for _ in range(STEPS):
        point = first + share * (last - first)
        value = function(point)
        same = np.sign(value) == np.sign(at_first)
        third, at_third = np.where(same, first, last), np.where(same, at_first, at_last)
        last, at_last = np.where(same, last, first), np.where(same, at_last, at_first)
        first, at_first = point, value
        room = 2 * EPSILON / np.maximum(np.abs(last - first), 1e-300)
        if (outside | (value == 0) | (room > 0.5)).all():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            xi, phi = (first - last) / (third - last), (at_first - at_last) / (at_third - at_last)
            inverse = at_first / (at_last - at_first) * at_third / (at_last - at_third)
            inverse += (third - first) / (last - first) * at_first / (at_third - at_first) * at_last / (at_third - at_last)
        share = np.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & np.isfinite(inverse), inverse, 0.5)
        share = np.clip(share, np.minimum(room, 0.5), np.maximum(1 - room, 0.5))
    return np.where(outside, end, np.where(np.abs(at_first) <= np.abs(at_last), first, last))

"""The activations of specs.py as functions of any arithmetic, with their slopes and their even and odd parts; and a user's own."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from simgap.checks import nearest
from simgap.own_activations import FULL, full_name, of_arrays
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, half_line

Function = Callable[[Any, Context], Any]
Own = Callable[[np.ndarray], np.ndarray]

GELU_CUBIC = "0.044715"  # Hendrycks and Gimpel 2016, the tanh approximation


@dataclass(frozen=True)
class Activation:
    """An activation: value(x, ctx), its slope(x, ctx), and value = even + odd, the parts that x -> -x keeps and turns.

    linear: the odd part is linear x where given. even is None where the activation is odd. kinked: not differentiable at 0.
    |value(x)| and |slope(x)| are at most 2 + 2|x|, the envelope that certified tails rest on. plain: a function of numpy arrays and of
    nothing else, of which no more is taken for known than that it is analytic on either side of 0; see `irregular`.
    """

    name: str
    value: Function
    slope: Function
    even: Function | None = None
    linear: Fraction | None = None
    kinked: bool = False
    plain: bool = False

    def __hash__(self) -> int:
        # The field-wise hash takes a microsecond for `linear` alone, and caches ask for it hundreds of times in one expectation.
        return hash(self.name)


def _gelu_tanh_inner(x: Any, ctx: Context) -> Any:
    return ctx.sqrt(2 / ctx.number(ctx.pi)) * (x + ctx.number(GELU_CUBIC) * x * x * x)


def _gelu_tanh_slope(x: Any, ctx: Context) -> Any:
    t = ctx.tanh(_gelu_tanh_inner(x, ctx))
    inner_slope = ctx.sqrt(2 / ctx.number(ctx.pi)) * (1 + 3 * ctx.number(GELU_CUBIC) * x * x)
    return (1 + t) / 2 + x * (1 - t * t) * inner_slope / 2


def _normal_cdf(x: Any, ctx: Context) -> Any:
    return (1 + ctx.erf(x / ctx.sqrt(ctx.number(2)))) / 2


def _silu_slope(x: Any, ctx: Context) -> Any:
    gate = ctx.logistic(x)
    return gate + x * gate * (1 - gate)


HALF = Fraction(1, 2)
KNOWN = (
    Activation("identity", lambda x, ctx: x, lambda x, ctx: x * 0 + 1, linear=Fraction(1)),
    Activation(
        "relu", lambda x, ctx: ctx.positive_part(x), lambda x, ctx: ctx.step(x), lambda x, ctx: ctx.magnitude(x) / 2, HALF, kinked=True
    ),
    Activation(
        "gelu",
        lambda x, ctx: x * _normal_cdf(x, ctx),
        lambda x, ctx: _normal_cdf(x, ctx) + x * ctx.exp(-x * x / 2) / ctx.sqrt(2 * ctx.number(ctx.pi)),
        lambda x, ctx: x * ctx.erf(x / ctx.sqrt(ctx.number(2))) / 2,
        HALF,
    ),
    Activation(
        "gelu_tanh",
        lambda x, ctx: x * (1 + ctx.tanh(_gelu_tanh_inner(x, ctx))) / 2,
        _gelu_tanh_slope,
        lambda x, ctx: x * ctx.tanh(_gelu_tanh_inner(x, ctx)) / 2,
        HALF,
    ),
    Activation("silu", lambda x, ctx: x * ctx.logistic(x), _silu_slope, lambda x, ctx: x * ctx.tanh(x / 2) / 2, HALF),
    Activation("tanh", lambda x, ctx: ctx.tanh(x), lambda x, ctx: 1 - ctx.tanh(x) ** 2),
    Activation("erf", lambda x, ctx: ctx.erf(x), lambda x, ctx: 2 * ctx.exp(-x * x) / ctx.sqrt(ctx.number(ctx.pi))),
)
BY_NAME = {activation.name: activation for activation in KNOWN}
RELU, GELU, ERF = BY_NAME["relu"], BY_NAME["gelu"], BY_NAME["erf"]


# Where a user's own activation is looked at, on both sides of 0 and at many sizes, so that one unlike an odd one is seen to be.
LOOKED_AT = np.geomspace(1e-3, 30, 200)
STEP = 2.0**-10
# A slope that is off by less is taken for round-off of the differences that it is held against.
SLOPE_ERROR = 1e-6
# Two quadratures that differ by more of E act^2 do not see the same function.
QUADRATURE_ERROR = 1e-9
OTHER_POINTS = 11
# The std at which every user's own activation is looked at: no kink at a round number falls between two panels of the quadrature.
SEEN_AT = 1.93


def activation_of(activation: "str | Activation | Own") -> Activation:
    """The activation of that name, or the one given. A function of numpy arrays, element by element, is one too, and so is the name of one
    of the user's own (`simgap.activation`).

    Raises ValueError for a name that is not known, and for a function whose values are not finite numbers, one to an element, or that is
    not smooth on either side of 0.
    """
    act = looked_up(activation)
    if why := irregular(act, SEEN_AT):
        raise ValueError(why)
    return act


def looked_up(activation: "str | Activation | Own") -> Activation:
    """`activation_of`, smooth or not."""
    if isinstance(activation, Activation):
        return activation
    if callable(activation):
        return _of_function(activation, getattr(activation, "__name__", type(activation).__name__))
    if activation in BY_NAME:
        return BY_NAME[activation]
    if FULL.fullmatch(name := full_name(str(activation))):
        return _of_function(of_arrays(name), name)
    near = nearest(str(activation), list(BY_NAME))
    raise ValueError(
        f"activation: expected one of {', '.join(BY_NAME)}, a function of arrays or an activation's name, got {activation!r}{near}"
    )


@lru_cache(maxsize=64)
def _of_function(function: Own, name: str) -> Activation:
    def value(x: Any, ctx: Context) -> Any:
        if ctx is not FLOAT:
            raise ValueError(f"activation: {name!r} is a function of floats; expected one of {', '.join(BY_NAME)}, or an Activation")
        x = np.asarray(x, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(function(x.copy()), np.float64)
        if values.shape != x.shape or not np.isfinite(values).all():
            got = (
                f"shape {values.shape}"
                if values.shape != x.shape
                else f"{values[~np.isfinite(values)][0]} at {x[~np.isfinite(values)][0]:g}"
            )
            raise ValueError(f"activation: expected {name!r} to give a finite number for each of an array of shape {x.shape}, got {got}")
        return values

    def even(x: Any, ctx: Context) -> Any:
        return (value(x, ctx) + value(-np.asarray(x), ctx)) / 2

    size = np.abs(value(LOOKED_AT, FLOAT))
    odd = bool((np.abs(even(LOOKED_AT, FLOAT)) <= 1e-14 * size).all())
    return Activation(name, value, lambda x, ctx: _difference(value, x), None if odd else even, kinked=True, plain=True)


def _difference(value: Function, x: Any) -> Any:
    """The slope by values of the same sign, error about 1e-12 x^4 times the fifth derivative; 0 at 0."""
    x = np.asarray(x, np.float64)
    step = np.where(x == 0, 1.0, np.abs(x) * STEP)
    near, far = (value(x + j * step, FLOAT) - value(x - j * step, FLOAT) for j in (1, 2))
    return np.where(x == 0, 0.0, (8 * near - far) / (12 * step))


def continuous(act: Activation) -> bool:
    """Whether a user's own activation has no jump at 0, as far as its values at +-1e-9 say."""
    at = np.array([-1e-9, 1e-9, 1.0])
    below, above, size = act.value(at, FLOAT)
    return bool(abs(above - below) <= 1e-6 * (abs(size) + abs(above - act.value(np.zeros(1), FLOAT)[0])) + 1e-8)


def check_slope(act: Activation) -> Activation:
    """The activation, if its slope is that of its value, and its parts are its own. Raises ValueError otherwise."""
    return act if act.plain or act in KNOWN else _checked(act)


@lru_cache(maxsize=64)
def _checked(act: Activation) -> Activation:
    x = np.concatenate([-LOOKED_AT[::-1], LOOKED_AT])
    value, slope = act.value(x, FLOAT) + 0 * x, act.slope(x, FLOAT) + 0 * x
    rises = _difference(act.value, x)
    wrong = np.abs(slope - rises) > SLOPE_ERROR * (1 + np.abs(rises))
    if wrong.any():
        at = x[wrong][0]
        raise ValueError(f"activation: {act.name!r} rises by {rises[wrong][0]:.6g} at {at:.3g}, where its slope says {slope[wrong][0]:.6g}")
    parts = (0 * x if act.even is None else act.even(x, FLOAT)), (value - value[::-1]) / 2
    if act.linear is not None:
        parts = parts[0], float(act.linear) * x
    wrong = np.abs(parts[0] + parts[1] - value) > SLOPE_ERROR * (1 + np.abs(value))
    if wrong.any():
        raise ValueError(f"activation: the parts of {act.name!r} do not add up to it at {x[wrong][0]:.3g}")
    return act


@lru_cache(maxsize=256)
def irregular(act: Activation, std: float) -> str:
    """Why no integral over a user's own activation of N(0, std^2) can be relied on, or nothing: two quadratures that are exact to round-off
    for what is analytic on either side of 0 are compared."""
    if not act.plain:
        return ""
    squares = []
    for rule in (half_line(), half_line(points=OTHER_POINTS)):
        z = np.concatenate([-rule[0], rule[0]])
        squares.append(float(act.value(std * z, FLOAT) ** 2 @ np.tile(rule[1] * np.exp(-(rule[0] ** 2) / 2), 2)))
    if not abs(squares[0] - squares[1]) <= QUADRATURE_ERROR * squares[0]:
        return (
            f"activation: {act.name!r} is not smooth on either side of 0 on the scale of std {std:.3g}: kinks elsewhere, or too many turns"
        )
    return "" if squares[0] else f"activation: {act.name!r} is 0 everywhere"

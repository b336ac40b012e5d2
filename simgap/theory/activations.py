"""The activations of specs.py as functions of any arithmetic, with their slopes and their even and odd parts."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from simgap.specs import nearest
from simgap.theory.context import Context

Function = Callable[[Any, Context], Any]

GELU_CUBIC = "0.044715"  # Hendrycks and Gimpel 2016, the tanh approximation


@dataclass(frozen=True)
class Activation:
    """An activation: value(x, ctx), its slope(x, ctx), and value = even + odd, the parts that x -> -x keeps and turns.

    linear: the odd part is linear x where given, else it is all of the activation, and `even` is None. kinked: not differentiable at 0.
    |value(x)| and |slope(x)| are at most 2 + 2|x|, the envelope that certified tails rest on.
    """

    name: str
    value: Function
    slope: Function
    even: Function | None = None
    linear: Fraction | None = None
    kinked: bool = False

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


def activation_of(activation: "str | Activation") -> Activation:
    """The activation of that name, or the one given. Raises ValueError for a name that is not known."""
    if isinstance(activation, Activation):
        return activation
    if activation not in BY_NAME:
        near = nearest(str(activation), list(BY_NAME))
        raise ValueError(f"activation: expected one of {', '.join(BY_NAME)}, got {activation!r}{near}")
    return BY_NAME[activation]

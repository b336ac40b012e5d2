"""A2: the dual maps that have a closed form. Each gives E e(su) e(sv) for the even part e of an activation, or for all of an odd one."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "A2"


def identity_dual(rho: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E (su)(sv) = s^2 rho."""
    rho, std = ctx.number(rho), ctx.number(std)
    return std * std * rho


def relu_even_dual(rho: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E |su||sv| / 4 = s^2 (sqrt(1 - rho^2) + rho asin rho) / (2 pi): the arc-cosine kernel of degree 1 less its odd part s^2 rho / 4
    (Cho and Saul 2009)."""
    rho, std = ctx.number(rho), ctx.number(std)
    return std * std * (ctx.sqrt((1 - rho) * (1 + rho)) + rho * ctx.asin(rho)) / (2 * ctx.number(ctx.pi))


def erf_dual(rho: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E erf(su) erf(sv) = (2 / pi) asin(2 s^2 rho / (1 + 2 s^2)) (Williams 1997)."""
    rho, std = ctx.number(rho), ctx.number(std)
    return 2 / ctx.number(ctx.pi) * ctx.asin(2 * std * std * rho / (1 + 2 * std * std))


def gelu_even_dual(rho: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E e(su) e(sv), e(x) = x (Phi(x) - 1/2), by Stein's lemma: with a = s^2, c = a rho,
    (c / 2 pi) asin(c / (1 + a)) + [a^2 + c^2 (1 - a) / (1 + a)] / (2 pi sqrt((1 + a)^2 - c^2)).

    Add c / 4 for GELU itself: its odd part is x / 2.
    """
    rho, std = ctx.number(rho), ctx.number(std)
    a = std * std
    c = a * rho
    # (1 + a)^2 - c^2 without the cancellation at rho = +-1 and large std.
    root = ctx.sqrt((1 + a * (1 - rho)) * (1 + a * (1 + rho)))
    bracket = a * a + c * c * (1 - a) / (1 + a)
    return (c * ctx.asin(c / (1 + a)) + bracket / root) / (2 * ctx.number(ctx.pi))

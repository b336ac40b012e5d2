"""A5 in general: the overlap of two vectors of many independent pairs of entries, to first order in 1 over their number."""

from collections.abc import Callable
from math import comb
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "A5"


def overlap_from_moments(moment: Callable[[int, int], Any], d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2(a, b) for f i.i.d. pairs of entries (a_i, b_i) with E a_i^p b_i^q = moment(p, q), p + q <= 4, up to O(1/f^2).

    The delta method on cos^2 = P^2 / (A B), P, A, B the means of a_i b_i, a_i^2, b_i^2: the value at their expectations, and their
    covariances over f times its second derivatives. moment(p, q) may be an array; E a^2, E b^2 > 0.
    """
    p, a, b = moment(1, 1), moment(2, 0), moment(0, 2)
    spread_p, spread_a, spread_b = moment(2, 2) - p * p, moment(4, 0) - a * a, moment(0, 4) - b * b
    with_a, with_b, between = moment(3, 1) - p * a, moment(1, 3) - p * b, moment(2, 2) - a * b
    limit = p * p / (a * b)
    first = spread_p / (a * b) - 2 * p * (with_a / a + with_b / b) / (a * b)
    first = first + limit * (spread_a / (a * a) + spread_b / (b * b) + between / (a * b))
    return limit + first / ctx.number(d_ff)


def affine_moments(
    entry: Callable[[int], Any],
    gain_std: Any,
    shared: bool,
    second: Callable[[int], Any] | None = None,
    *,
    ctx: Context = FLOAT,
) -> Callable[[int, int], Any]:
    """Joint moments of a = g x + t and b = g' y + t', x and y independent with E x^p = entry(p) and E y^p = second(p), p <= 4;
    second is entry where it is not given.

    g, g' ~ 1 + N(0, tau^2) and t, t' ~ N(0, tau^2), tau = gain_std; one gain and one bias for both experts where `shared`. tau = 0 gives
    the moments of independent x and y themselves.
    """
    other = second or entry
    tau = ctx.number(gain_std)
    normal = (1, 0, tau**2, 0, 3 * tau**4)
    gain = (1, 1, 1 + tau**2, 1 + 3 * tau**2, 1 + 6 * tau**2 + 3 * tau**4)

    def moment(p: int, q: int) -> Any:
        if not shared and p and q:
            return moment(p, 0) * moment(0, q)
        total: Any = 0
        for i in range(p + 1):
            for j in range(q + 1):
                ways = comb(p, i) * comb(q, j)
                total = total + ways * gain[i + j] * normal[p + q - i - j] * entry(i) * other(j)
        return total

    return moment

"""T0: the overlap that independent vectors have given the sizes of their entries, when only signs are left to chance."""

import math
from collections.abc import Sequence
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.pearson import Standard

ID = "T0"
HYPOTHESES = (
    "given the sizes of all entries, the routing and one expert's vectors, the signs of all other experts' coordinates are independent and "
    "fair",
    "a coordinate of an expert has one sign, the same on all of its tokens",
    "no expert meets itself",
)
# Skewness below which a law of Pearson's type III is the normal one, to about a thousandth of its tail at 5 standard deviations.
LEAST_SKEW = 1e-4


def pair_cumulants(p: Any, q: Any, r: Any, *, ctx: Context = FLOAT) -> tuple[Any, Any, Any]:
    """Mean, variance and third cumulant of cos^2 of one pair of unit vectors u, v under signs: p, 2 (p^2 - q), 8 (p^3 - 3 p q + 2 r).

    p, q, r: sums over coordinates of (u_i v_i)^2, ^4 and ^6, in [0, 1]. Equal scales p = 1/N, q = 1/N^3 give Beta's moments of N1 to
    leading order in 1/N.
    """
    p, q, r = ctx.number(p), ctx.number(q), ctx.number(r)
    return p, 2 * (p * p - q), 8 * (p**3 - 3 * p * q + 2 * r)


def triangle_cumulant(t: Any, s: Any, *, ctx: Context = FLOAT) -> Any:
    """What three vectors u, v, w add to the third cumulant of the sum over their pairs: 24 (t^2 - s).

    t, s: sums over coordinates of (u_i v_i w_i)^2 and ^4. Pairs that share a vector are independent two by two, three around a triangle
    are not.
    """
    t, s = ctx.number(t), ctx.number(s)
    return 24 * (t * t - s)


def form_cumulants(table: Sequence[Sequence[Any]]) -> tuple[Any, Any, Any]:
    """The same of e'Me for fair signs e: tr M, 2 sum_{i != j} M_ij^2 and 8 tr(M0^3), M0 = M with a diagonal of zeros.

    table: M, symmetric, of any numbers. With M = sum_t a(t) a(t)', a(t) = u(t) v(t) by coordinate, e'Me is the sum of cos^2 of a pair of
    experts over the tokens t on which they meet.
    """
    n = range(len(table))
    off = [[0 if i == j else table[i][j] for j in n] for i in n]
    variance = 2 * sum(off[i][j] ** 2 for i in n for j in n)
    third = 8 * sum(off[i][j] * off[j][k] * off[k][i] for i in n for j in n for k in n)
    return sum(table[i][i] for i in n), variance, third


def form_triangle(first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]], third: Sequence[Sequence[Any]]) -> Any:
    """What three experts add to the third cumulant, M of each of their pairs: 24 sum_{i != j} M12_ij M13_ij M23_ij."""
    n = range(len(first))
    return 24 * sum(first[i][j] * second[i][j] * third[i][j] for i in n for j in n if i != j)


def upper_p(value: Any, mean: float, variance: float, third: float) -> Any:
    """P(T >= value), of one value or an array, under the law of Pearson's type III with these three cumulants.

    A gamma law, shifted; the normal law without skewness.

    Exact for one pair of many equal coordinates (chi^2 of one degree of freedom), an approximation elsewhere. A negative skewness, which
    only an estimate of it has, counts as none. 1 where nothing varies.
    """
    if variance <= 0:
        return value * 0.0 + 1.0
    sd = math.sqrt(variance)
    skew = third / sd**3
    law = Standard("norm", (), mean, sd) if skew < LEAST_SKEW else Standard("gamma", (4 / skew**2,), mean - 2 * sd / skew, sd * skew / 2)
    return law.sf(value)

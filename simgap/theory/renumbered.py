"""T8: the overlap that experts have by chance when their hidden units, which have no order of their own, are renumbered."""

import math
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, plain

ID = "T8"
HYPOTHESES = (
    "given all weights, the order of each expert's hidden units is uniform among all f! of them, and independent of the other experts'",
    "a unit takes its weights along: one row, or one of each matrix",
)
# Excess kurtosis of T up to which p is right to a factor of about 2 at 0.001: its first correction is 2 phi(z) (z^3 - 3 z)/24 times that.
MOST_KURTOSIS = 0.25
# Numbers of pairs of units that are looked at, of all from 0 up.
GRID = 65


def sum_moments(trace: Any, rows: Any, columns: Any, total: Any, units: Any, *, ctx: Context = FLOAT) -> tuple[Any, Any]:
    """Mean and variance of T = sum_i <w_i, w'_pi(i)> over a uniform permutation pi of `units` >= 2 units: S/f and
    (tr(G G') - |r|^2/f - |c|^2/f + S^2/f^2) / (f - 1). Exact for any numbers (Hoeffding 1951).

    trace: tr(G G'), G = sum_i w_i w_i'. total: S = <s, s'>, s = sum_i w_i. rows: |r|^2 = s' G s' (of the other's sum); columns: |c|^2 =
    s G' s. Units less their mean have the same variance, with rows = columns = total = 0.
    """
    trace, rows, columns, total, f = (ctx.number(value) for value in (trace, rows, columns, total, units))
    return total / f, (trace - rows / f - columns / f + total * total / (f * f)) / (f - 1)


def mean_overlap(mean: Any, variance: Any, squares: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = (Var T + (E T)^2) / (|W|^2 |W'|^2). squares: |W|^2 |W'|^2, which no order changes. 1/(f - 1) for units of one
    number each and mean 0; 1/(f d) to leading order in a round space."""
    mean, variance, squares = ctx.number(mean), ctx.number(variance), ctx.number(squares)
    return (variance + mean * mean) / squares


def overlap_cumulants(mean: Any, variance: Any, *, ctx: Context = FLOAT) -> tuple[Any, Any, Any]:
    """Mean, variance and third cumulant of T^2 for a normal T: the first is exact for every law of T, the others leading for f large."""
    m2, v = ctx.number(mean) ** 2, ctx.number(variance)
    return v + m2, 2 * v * v + 4 * v * m2, 8 * v**3 + 24 * v * v * m2


def triangle_moment(trace: Any, units: Any, *, ctx: Context = FLOAT) -> Any:
    """E T12 T13 T23 of three experts, each in an order of its own, units less their mean: tr(G1 G2 G3) / (f - 1)^2.

    Pairs that share an expert are independent; three around a triangle are not. To leading order they add 24 times the square of this to
    the third cumulant of the sum of T^2, and since tr(ABC)^2 <= tr(AB) tr(BC) tr(CA), at most (E - 2)/(f - 1) of what pairs of equal
    variance add: little, and left out.
    """
    f = ctx.number(units)
    return ctx.number(trace) / ((f - 1) * (f - 1))


def excess_kurtosis(spread: Any, other: Any, units: Any, *, ctx: Context = FLOAT) -> Any:
    """Of T to leading order in the numbers of units and of columns, for units less their mean whose directions have nothing to do with
    their sizes: 3 (s - 1)(s' - 1)/f.

    spread: s = f sum_i |w_i|^4 / (sum_i |w_i|^2)^2, 1 for units of one size and f for one that has all. T is nearly normal where this is
    small; few large units on both sides make it jump with the few that meet.
    """
    return 3 * (ctx.number(spread) - 1) * (ctx.number(other) - 1) / ctx.number(units)


def pair_p(overlap: Any, mean: Any, sd: Any) -> Any:
    """P(T^2 >= overlap) for a normal T; 1 where sd is 0: no order changes anything. Numbers, or arrays of one shape."""
    import numpy as np
    from scipy.special import ndtr

    size, mean, sd = np.sqrt(np.asarray(overlap, np.float64)), np.asarray(mean, np.float64), np.asarray(sd, np.float64)
    varies = sd > 0
    scale = np.where(varies, sd, 1.0)
    return plain(np.where(varies, np.minimum(ndtr((mean - size) / scale) + ndtr((-mean - size) / scale), 1.0), 1.0))


def meeting_p(deviation: Any, jump: Any, units: int) -> Any:
    """A p that no normal law may go below, for T so many standard deviations above its mean: the largest over m of (f - m)!/f! P(Z >=
    deviation - m jump), the chance that m given pairs of units meet, times the tail of the rest.

    jump: by how many standard deviations the largest of the pairs of units that meet in the order that there is moves T; it stands for
    all. One unit that two experts share moves T by sqrt(d/f), and they meet in it by chance once in f. Numbers, or arrays of one shape.
    """
    import numpy as np
    from scipy.special import gammaln, log_ndtr

    deviation, jump = np.atleast_1d(np.asarray(deviation, np.float64)), np.atleast_1d(np.asarray(jump, np.float64))
    moves = jump > 0
    step = np.where(moves, jump, 1.0)
    most = np.where(moves, np.clip(np.ceil(deviation / step), 0, units), 0)
    # All m, where they are fewer than GRID.
    m = np.round(np.linspace(0, 1, GRID)[:, None] * most)
    logs = gammaln(units - m + 1) - gammaln(units + 1) + log_ndtr(m * step - deviation)
    return np.exp(logs.max(0))


def least_p(units: int, experts: int) -> float:
    """No p is smaller: 1/f!^(E - 1), one order of the units among all of them."""
    return math.exp(-(experts - 1) * math.lgamma(units + 1))

"""N1B: the law of an MSO of isotropic vectors, so that a p is taken from the null itself, skew and all, and not from a z."""

import math
from functools import lru_cache, partial
from typing import Any

import numpy as np

from simgap.stats import two_sided_p
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, elementwise
from simgap.theory.pearson import Distribution, Standard, law_from, pearson_law
from simgap.theory.weight_null import null_mso, null_variance

ID = "N1B"
HYPOTHESES = (
    "the vectors independent and non-zero",
    "all but one of each trial's vectors isotropic (Gaussian entries); for pairs without a common vector one side of each is enough",
    "trials independent",
)
SIDES = ("two", "upper", "lower")


def overlap_cumulants(width: Any, *, ctx: Context = FLOAT) -> tuple[Any, Any, Any, Any]:
    """The first four cumulants of cos^2 of two independent vectors of R^N, one of them isotropic: those of Beta(1/2, (N-1)/2) (law N1B).

    1/N, 2 (N-1) / (N^2 (N+2)), 8 (N-1)(N-2) / (N^3 (N+2)(N+4)) and 48 (N-1)(N-4)(N^2+N-3) / (N^4 (N+2)^2 (N+4)(N+6)).
    """
    n = ctx.number(width)
    third = 8 * (n - 1) * (n - 2) / (n**3 * (n + 2) * (n + 4))
    fourth = 48 * (n - 1) * (n - 4) * (n * n + n - 3) / (n**4 * (n + 2) ** 2 * (n + 4) * (n + 6))
    return null_mso(n, ctx=ctx), null_variance(n, ctx=ctx), third, fourth


def cycle_moment(width: Any, length: Any, *, ctx: Context = FLOAT) -> Any:
    """E x_12 x_23 ... x_l1 = (2 / (N (N+2)))^l (N-1)(N+2) / 2 for x_ij = cos^2(v_i, v_j) - 1/N around l independent isotropic vectors.

    length: l >= 2, where l = 2 is the variance. The triangle, l = 3, is 4 (N-1) / (N^3 (N+2)^2): pairs are uncorrelated but not
    independent (law N1B).
    """
    n = ctx.number(width)
    return (2 / (n * (n + 2))) ** length * (n - 1) * (n + 2) / 2


def mso_cumulants(width: Any, n_experts: Any, trials: Any = 1, *, ctx: Context = FLOAT) -> tuple[Any, Any, Any, Any]:
    """The first four cumulants of the mean of cos^2 over the P = E (E-1)/2 pairs of E vectors and T trials, exactly (law N1B).

    k1 = 1/N, k2 = v / (P T), k3 = (P mu3 + 6 C(E,3) t3) / (P^3 T^2),
    k4 = (P mu4 + 36 C(E,3) c mu3 + 72 C(E,4) t4) / (P^4 T^3),
    v, mu3, mu4 the cumulants of one cos^2, t3 and t4 its `cycle_moment` around three and four vectors, c = 2 / (N (N+2)).
    n_experts: E >= 2.
    """
    n, e, t = ctx.number(width), ctx.number(n_experts), ctx.number(trials)
    first, second, third, fourth = overlap_cumulants(n, ctx=ctx)
    pairs = e * (e - 1) / 2
    triangles = pairs * (e - 2) / 3
    squares = triangles * (e - 3) / 4
    third = pairs * third + 6 * triangles * cycle_moment(n, 3, ctx=ctx)
    # 36 c mu3 is a triangle with one side taken twice.
    fourth = (
        pairs * fourth
        + 36 * triangles * (2 / (n * (n + 2))) * overlap_cumulants(n, ctx=ctx)[2]
        + 72 * squares * cycle_moment(n, 4, ctx=ctx)
    )
    return first, second / (pairs * t), third / (pairs**3 * t**2), fourth / (pairs**4 * t**3)


def overlap_distribution(width: float) -> Any:
    """The law of one cos^2 against an isotropic vector, Beta(1/2, (N-1)/2), as a frozen scipy distribution (law N1).

    width: N >= 2; at N = 1 every cos^2 is 1 and there is no density. Raises ValueError below 2.
    """
    return _one_pair(_checked_width(width)).frozen


def _one_pair(n: float) -> Standard:
    return Standard("beta", (0.5, (n - 1) / 2))


def mso_distribution(width: float, pairs: int, trials: int = 1, n_experts: int | None = None) -> Distribution:
    """The law of an MSO, the mean of cos^2 over pairs x trials, of isotropic vectors of R^N: cdf, sf, ppf and isf.

    n_experts: how many vectors the pairs are all pairs of, which lets their triangles in; None takes the pairs for independent (two
    experts, or pairs without a common vector). One pair of one trial has its exact Beta law. Otherwise Pearson's law with the exact first
    four cumulants (law N1B); where that would leave out values that an MSO can take, the law with three cumulants that starts at the
    smallest MSO, max(0, (E - N) / (N (E - 1))) (Welch 1974).
    One-sided and two-sided p are below 0.01 and 0.001 as often as they should be, to a tenth and a quarter, at N = 4 with 64 experts, 16
    and 512 with 8, and 64 with 2 experts and 10 trials; upper p also for 2 or 3 experts and few trials at N >= 8. There a lower p is too
    large (the true law ends where the fitted one tails off), and below N = 4 no p of 2 or 3 experts is good beyond 0.05.
    Raises ValueError for a width below 2, pairs or trials below 1, and pairs that are not all pairs of n_experts.
    """
    n = _checked_width(width)
    pairs, trials = _whole("pairs", pairs), _whole("trials", trials)
    if n_experts is None:
        experts, copies = 2, pairs * trials
    else:
        experts, copies = _whole("n_experts", n_experts), trials
        if experts * (experts - 1) // 2 != pairs:
            raise ValueError(f"pairs: expected all {experts * (experts - 1) // 2} pairs of n_experts = {experts}, got {pairs}")
    return _law(n, experts, copies)


@lru_cache(maxsize=1024)
def _law(n: float, experts: int, copies: int) -> Distribution:
    """`mso_distribution` of arguments that were looked at: layers of one shape ask for the same few laws again and again."""
    if experts == 2 and copies == 1:
        return _one_pair(n)
    mean, variance, third, fourth = mso_cumulants(n, experts, copies)
    least = max(0.0, (experts - n) / (n * (experts - 1)))
    law, low = pearson_law(mean, variance, third, fourth)
    return law if low <= least else law_from(least, mean, variance, third)


def mso_interval(width: Any, pairs: Any, trials: Any, level: Any, n_experts: int | None = None) -> tuple[Any, Any]:
    """The central interval that holds an MSO of isotropic vectors with probability `level`, 0 < level < 1: (low, high) within [0, 1].

    The first four are numbers, or arrays that broadcast, and then low and high are arrays. The other arguments and errors are those of
    `mso_distribution`.
    """
    interval = elementwise(partial(_interval, n_experts), width, pairs, trials, level)
    return interval if isinstance(interval, tuple) else (interval[..., 0], interval[..., 1])


def _interval(n_experts: int | None, width: float, pairs: int, trials: int, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a probability between 0 and 1, got {level!r}")
    law = mso_distribution(width, pairs, trials, n_experts)
    tail = (1 - level) / 2
    return max(0.0, float(law.ppf(tail))), min(1.0, float(law.isf(tail)))


def mso_p(value: Any, width: float, pairs: int, trials: int, n_experts: int | None = None, side: str = "two") -> Any:
    """p of a measured MSO under the null law of `mso_distribution`: "upper" P(MSO >= value), "lower" P(MSO <= value), or "two".

    Two-sided is twice the smaller tail, at most 1. value: a number or an array, in [0, 1]. Raises ValueError for another side, for values
    that are not in [0, 1], and as `mso_distribution` does.
    """
    if side not in SIDES:
        raise ValueError(f"side: expected one of {', '.join(SIDES)}, got {side!r}")
    values = _checked_values(value)
    law = mso_distribution(width, pairs, trials, n_experts)
    if side == "upper":
        return law.sf(values)
    if side == "lower":
        return law.cdf(values)
    return two_sided_p(values, law.cdf, law.sf)


def _checked_values(value: Any) -> Any:
    """A number, or an array of them, all in [0, 1]."""
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    values = np.asarray(value, np.float64)
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        raise ValueError(f"value: expected an MSO in [0, 1], got {float(values[outside].flat[0])!r}")
    return values


def _checked_width(width: float) -> float:
    if not (isinstance(width, int | float | np.number) and math.isfinite(width) and width >= 2):
        raise ValueError(f"width: expected a finite number >= 2 (at width 1 every cos^2 is 1), got {width!r}")
    return float(width)


def _whole(name: str, value: Any) -> int:
    if type(value) is int and value >= 1:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or value != value or value < 1 or value != int(value):
        raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
    return int(value)

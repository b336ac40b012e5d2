"""Laws T2, T2B and T3: what meeting on a token adds to an overlap, and how far it strays for independent experts.

Experts that are independent given the tokens overlap on a token by as much as on different tokens, however unround the space that they
write in, if the second moment of an expert's vectors does not depend on the token (T2), or only on its stratum, to which the other tokens
are kept (T2B). The gain of a pair is then a degenerate kernel of
its two experts: gains of different pairs are uncorrelated, and three around a triangle are not (T3).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "T2"
SPREAD_ID = "T3"
HYPOTHESES = (
    "experts independent given the tokens and the routing",
    "the second moment of an expert's unit vectors, over experts, is the same on all tokens of a stratum",
    "tokens of different documents independent given the experts",
)
# Fewer experts say next to nothing of how far gains stray: of z no more than the root of the number of pairs.
FEWEST_EXPERTS = 5


def meeting_gain(moments: Sequence[Any]) -> Any:
    """E(L3 - L2) of experts that are drawn alike, given tokens that are equally likely: the mean of ||S(t) - Sbar||_F^2.

    moments: S(t) of each token, the second moment of a unit vector over experts, as arrays (d, d). At least 0, and 0 only where all are
    equal.
    """
    mean = sum(moments[1:], moments[0]) / len(moments)
    return sum(((moment - mean) ** 2).sum() for moment in moments) / len(moments)


def stratified_gain(moments: Sequence[Any], strata: Sequence[int]) -> Any:
    """E(L3 - L2) of the same on these very tokens, other tokens being others of the same stratum (law T2B): the sample variance of S(t) in
    each stratum, by its tokens.

    moments: S(t) of each token, arrays (d, d). strata: of each token; one that is alone in its stratum has no other and takes no part. What
    all tokens as one stratum add to this is what strata take out: the variance of their means.
    """
    members = [[moment for moment, own in zip(moments, strata, strict=True) if own == stratum] for stratum in sorted(set(strata))]
    some = [each for each in members if len(each) > 1]
    # meeting_gain is the variance over tokens that are drawn; of these ones it is n/(n - 1) times as large.
    return sum(len(each) ** 2 * meeting_gain(each) / (len(each) - 1) for each in some) / sum(map(len, some))


def bias_gain(shares: Sequence[Any], width: Any) -> Any:
    """The same without strata, of experts that share a bias and are alike in all directions about it: d/(d - 1) times the sample variance
    over tokens of the share of the squared length along the bias (law T2B).

    shares: of each token, larger for smaller tokens. S(t) has this eigenvalue once and (1 - share)/(d - 1) d - 1 times. width: d >= 2.
    """
    count = len(shares)
    mean = sum(shares) / count
    return width * sum((share - mean) ** 2 for share in shares) / ((width - 1) * (count - 1))


def bias_share(width: Any, ratio: Any, *, ctx: Context = FLOAT) -> Any:
    """E <u, b/|b|>^2 of y = b + s g, g standard normal in R^width: E (1 + 2 J)/(d + 2 J), J of Poisson's law with mean |b|^2/(2 s^2) (law
    T2B). 1/d without a bias, 1 with nothing else.

    ratio: |b|/s. The series is over all J within 15 standard deviations and 60, beyond which is less than 1e-40. O(ratio) time.

    >>> round(bias_share(4, 1), 4), bias_share(4, 0)
    (0.3608, 0.25)
    """
    width, mean = ctx.number(width), ctx.number(ratio) ** 2 / 2
    reach = 15 * math.sqrt(float(mean)) + 60
    weight, weights, total = ctx.number(1), 0, 0
    for j in range(max(0, math.floor(float(mean) - reach)), math.ceil(float(mean) + reach)):
        weights, total = weights + weight, total + weight * (1 + 2 * j) / (width + 2 * j)
        weight = weight * mean / (j + 1)
    return total / weights


def gain_cumulants(table: Any, squared: Any = None) -> tuple[Any, Any, Any]:
    """The mean gain over pairs, and estimates of the second and third cumulant that it has under the null, from the gains themselves.

    table (E, E): symmetric, 0 on the diagonal, each pair's gain times its weight, weights summing to 1 over pairs. The mean is half the sum
    of the table, the second cumulant half the sum of squares, the third half the sum of cubes and tr A^3, six times each triangle. Both
    are unbiased for gains that are <x_e, x_f> plus noise of their own, x independent of mean 0: other products of gains average 0. squared:
    A @ A, where the caller multiplies in an order of its own.
    """
    table = np.asarray(table)
    squares, product = table * table, table @ table if squared is None else np.asarray(squared)
    return table.sum() / 2, squares.sum() / 2, (squares * table).sum() / 2 + (product * table).sum()


def least_p(experts: int) -> float:
    """About the p that equal gains of so many experts have, the smallest there is: a chi-square with one degree of freedom, at E."""
    from scipy.special import erfc

    return float(erfc((experts / 2) ** 0.5))

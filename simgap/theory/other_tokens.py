"""Laws T2 and T3: what meeting on a token adds to an overlap, and how far it strays for independent experts.

Experts that are independent given the tokens overlap on a token by as much as on different tokens, however unround the space that they
write in, if the second moment of an expert's vectors does not depend on the token (T2). The gain of a pair is then a degenerate kernel of
its two experts: gains of different pairs are uncorrelated, and three around a triangle are not (T3).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

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

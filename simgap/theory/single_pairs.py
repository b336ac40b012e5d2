"""Law T10: how far a pair of experts stands out of all pairs.

Errors over tokens do not test independence: for two fixed independent experts the gain of meeting on a token is not 0, and more tokens
only say so more clearly. Over experts it averages 0 (law T2). So a pair is judged by its place among all pairs, whose largest scores say
what the tail is, and p is adjusted for their number.
"""

import math
from typing import Any

from simgap.stats import plain
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "T10"
HYPOTHESES = (
    "experts independent given the tokens and the routing",
    "scores of pairs have one law, whose excesses over its start are no heavier than exponential ones with WIDER times their median",
    "a pair rests on tokens enough that its score is not made by a few odd ones",
)
# What the median excess is taken times: scores of experts of different sizes mix, and squares of normal ones bend a little.
WIDER = 1.5


def harmonic(count: int, *, ctx: Context = FLOAT) -> Any:
    """1 + 1/2 + ... + 1/count, which Benjamini and Yekutieli (2001) divide a level by: some of `count` valid p's are adjusted to at most q
    with a chance of q at most, however they depend on each other, and of exactly q at worst (law T10)."""
    return sum((ctx.number(1) / i for i in range(1, count + 1)), ctx.number(0))


def place_p(ratio: Any, first: int, count: int, *, ctx: Context = FLOAT) -> Any:
    """P(X > ratio M) of an exponential X and the `first`-th smallest M of `count` others: prod_{i = count - first + 1}^count i/(i + ratio)
    (law T10).

    Whatever their mean. About 2^-ratio where `first` is half of many; larger for few, which do not know their tail well. ratio: at least 0,
    an array for floats.

    >>> round(place_p(10.0, 7, 14), 5), round(place_p(10.0, 7000, 14000), 5), round(2**-10, 5)
    (0.00992, 0.00098, 0.00098)
    """
    least = count - first + 1
    if ctx is FLOAT:
        from scipy.special import betaln

        # The same by two beta functions, which take no longer for many.
        return plain(ctx.exp(betaln(least + ratio, first) - betaln(least, first)))
    return math.prod((i / (i + ctx.number(ratio)) for i in range(least, count + 1)), start=ctx.number(1))

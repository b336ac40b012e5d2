"""Trials among the draws of a simulated null: under it they are exchangeable, and no law of a value is needed."""

import math
from functools import lru_cache
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from simgap.seeding import stream

# Numbers that are drawn or computed in all where there are fewer draws than the most; a pair of experts costs about as much as so many.
NUMBERS, OF_A_PAIR = 1 << 23, 1 << 10
# Divisions of trials and draws that are looked at: all, where there are no more.
DIVISIONS = 4000


def draws_of_size(numbers: float, n_experts: int, least: int, most: int) -> int:
    """How often a null is drawn of which one draw has so many numbers: as often as is cheap, from least to most."""
    return min(most, max(least, int(NUMBERS // (numbers + OF_A_PAIR * math.comb(n_experts, 2)))))


def exchange_p(trials: Float[np.ndarray, " s"], draws: Float[np.ndarray, " n"]) -> tuple[float, bool]:
    """Two-sided p of trials that are exchangeable with draws under the null, and whether no other division of them all is as extreme.

    Twice the share of the divisions of all values into so many and the rest of which the mean is at least as far to the observed side, the
    observed one among them: exact, whatever the law of a value. Of one trial it is min(1, 2 (1 + #) / (n + 1)), # the draws at least as
    extreme. All divisions are looked at, or DIVISIONS of them, the same at any values; no p is smaller than 2 over their number.
    """
    few, many = (trials, draws) if len(trials) <= len(draws) else (draws, trials)
    pooled = np.concatenate([few, many])
    sums, observed = pooled[divisions(len(few), len(pooled))].sum(1), few.sum()
    # What differs by round-off is equal.
    slack = 1e-12 * np.abs(pooled).max() * len(few)
    above, below = np.count_nonzero(sums >= observed - slack), np.count_nonzero(sums <= observed + slack)
    return min(1.0, 2 * min(above, below) / len(sums)), min(above, below) == 1


@lru_cache(maxsize=8)
def divisions(size: int, total: int) -> Int[np.ndarray, "divisions size"]:
    """Which of `total` values are the `size` of each division, the first one's the first."""
    if math.comb(total, size) <= DIVISIONS:
        return np.array(list(combinations(range(total), size)))
    generator = stream(0, "permutation", trial=size, expert=total, block=1)
    drawn = np.array([generator.choice(total, size, replace=False, shuffle=False) for _ in range(DIVISIONS - 1)], np.int32)
    # The first one again is no other.
    return np.concatenate([np.arange(size, dtype=np.int32)[None], drawn[drawn.max(1) >= size]])

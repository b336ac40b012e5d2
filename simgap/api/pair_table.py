"""Which experts? Every pair by itself: its overlap, its null, and how far it stands out from all other pairs (law T10).

Errors over tokens do not test independence: of two fixed independent experts the excess is not 0, and more tokens only say so more clearly.
So a pair is judged by its place among all pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from simgap.checks import whole_number
from simgap.stats import LEAST_P, benjamini_yekutieli
from simgap.theory.sign_flips import upper_p
from simgap.theory.single_pairs import WIDER, place_p

if TYPE_CHECKING:
    from pandas import DataFrame

# Pairs that a table is kept of: those of 1,024 experts.
MOST_PAIRS = 1 << 19
# Fewer pairs say nothing of their own spread. From MANY on the tail is that of the largest tenth, below it that of the upper half, which
# bends less than the tail of any overlap does.
FEWEST_PAIRS, FEWEST_TOKENS, MANY = 10, 16, 400
CHI_SQUARE_SKEW = math.sqrt(8.0)


@dataclass(frozen=True)
class PairTable:
    """All pairs of experts e < f, (P,).

    named (P, 2): their numbers. count: tokens that a pair rests on, 0 where one vector stands for an expert. overlap: mean of cos^2. null:
    on different tokens where tokens were compared, else what signs give. spread: how far the difference strays by chance that is known, up
    to one factor for all. error: of the difference over documents, for these very experts; NaN where it is not known. signs (3, P):
    mean, variance and skewness of the pair's overlap under signs; NaN where they are not known. others: more columns.
    """

    named: Int[np.ndarray, "P 2"]
    count: Int[np.ndarray, " P"]
    overlap: Float[np.ndarray, " P"]
    null: Float[np.ndarray, " P"]
    spread: Float[np.ndarray, " P"]
    error: Float[np.ndarray, " P"]
    signs: Float[np.ndarray, "3 P"]
    others: Mapping[str, Float[np.ndarray, " P"]] = field(default_factory=dict)

    @classmethod
    def of_vectors(cls, numbers: Int[np.ndarray, " E"], overlaps: Float[np.ndarray, "E E"], nulls: Float[np.ndarray, "E E"]) -> "PairTable":
        """Of experts that one vector stands for each: cos^2 of all pairs and what signs give of them, rows before columns."""
        left, right = np.triu_indices(len(numbers), 1)
        null = nulls[left, right]
        # As if no coordinate were large: where a few are, signs spread an overlap by less.
        signs = np.stack([null, 2 * null**2, np.full(len(null), CHI_SQUARE_SKEW)])
        none = np.full(len(null), math.nan)
        named = np.stack([numbers[left], numbers[right]], 1)
        return cls(named, np.zeros(len(null), np.int64), overlaps[left, right], null, np.sqrt(signs[1]), none, signs)

    @property
    def own_p(self) -> Float[np.ndarray, " P"]:
        """Upper tail of each overlap under signs, approximately (law T0); NaN where it is not known."""
        mean, variance, skew = self.signs
        p = np.full(len(mean), math.nan)
        p[variance == 0] = 1.0
        z = np.divide(self.overlap - mean, np.sqrt(variance), out=p.copy(), where=variance > 0)
        # One law to all pairs of one skewness, which vectors of experts share.
        for each in np.unique(skew[variance > 0]).tolist():
            alike = (skew == each) & (variance > 0)
            p[alike] = np.maximum(upper_p(z[alike], 0.0, 1.0, each), LEAST_P)
        return p

    @cached_property
    def score(self) -> Float[np.ndarray, " P"]:
        """How far each pair's difference stands from the median one, in robust standard deviations of all."""
        scores = np.divide(self.overlap - self.null, self.spread, out=np.zeros(len(self.null)), where=self.spread > 0)
        if not len(scores):
            return scores
        scores = scores - median(scores)
        robust = 1.4826 * median(np.abs(scores))
        return scores / robust if robust > 0 else np.zeros(len(scores))

    @property
    def judged(self) -> Bool[np.ndarray, " P"]:
        """Pairs that one vector stands for each, or that meet on FEWEST_TOKENS: of fewer, a few odd tokens make the difference."""
        return (self.count == 0) | (self.count >= FEWEST_TOKENS)

    @property
    def p(self) -> Float[np.ndarray, " P"]:
        """Upper tail of each score among those of judged pairs: exponential beyond the largest of them, by the scores themselves, few of
        which know it badly (law T10). NaN for what is not judged, and for too few pairs."""
        p, judged = np.full(len(self.score), math.nan), self.judged
        scores = self.score[judged]
        if len(scores) >= FEWEST_PAIRS:
            tail = _Tail.of(scores)
            ranks = np.empty(len(scores))
            ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1) / len(scores)
            p[judged] = np.where(scores > tail.start, tail.p(scores), ranks)
        return p

    def frame(self) -> "DataFrame":
        """A row to a pair, in their order."""
        import pandas as pd

        p, excess = self.p, np.divide(self.overlap, self.null, out=np.full(len(self.null), math.nan), where=self.null > 0)
        return pd.DataFrame(
            {
                "expert": self.named[:, 0],
                "other": self.named[:, 1],
                "tokens": self.count,
                "overlap": self.overlap,
                "null": self.null,
                "excess": excess,
                "difference": self.overlap - self.null,
                "score": self.score,
                "p": p,
                "p_adjusted": benjamini_yekutieli(p),
                "own_p": self.own_p,
                "conditional_error": self.error,
                **self.others,
            }
        )

    def top(self, n: int = 10) -> "DataFrame":
        """The n rows with the highest scores, the highest first."""
        count = whole_number("n", n, 1)
        frame = self.frame()
        return frame.loc[np.argsort(-frame["score"].to_numpy(), kind="stable")[:count]].reset_index(drop=True)

    def standing_out(self, level: float) -> list[tuple[int, int]]:
        """The pairs whose adjusted p is at most so large, the highest score first."""
        scores = self.score[self.judged]
        if len(scores) < FEWEST_PAIRS:
            return []
        # The smallest p is adjusted by at least this, so that most often there is nothing more to do.
        if float(_Tail.of(scores).p(scores.max())) * math.log(len(scores)) > level:
            return []
        adjusted = benjamini_yekutieli(self.p)
        named = self.named[np.flatnonzero(adjusted <= level)]
        order = np.argsort(-self.score[np.flatnonzero(adjusted <= level)], kind="stable")
        return [tuple(pair) for pair in named[order].tolist()]


@dataclass(frozen=True)
class _Tail:
    """Of some scores: what share of them it holds, where it starts, and the excess over that of the `first`-th of `count` scores in it."""

    share: float
    start: float
    excess: float
    first: int
    count: int

    @classmethod
    def of(cls, scores: Float[np.ndarray, " n"]) -> "_Tail":
        ordered, last = np.sort(scores), len(scores) - 1
        share = 0.1 if len(ordered) >= MANY else 0.5
        start, middle = (round((1 - each) * last) for each in (share, share / 2))
        return cls(share, float(ordered[start]), float(ordered[middle] - ordered[start]), middle - start, last - start)

    def p(self, scores: Any) -> Any:
        over = np.maximum(scores - self.start, 0.0) / max(WIDER * self.excess, 1e-300)
        # No p is 0, however far a score stands out.
        return np.maximum(self.share * place_p(np.minimum(over, 1e300), self.first, self.count), LEAST_P)


def median(values: Float[np.ndarray, " n"]) -> float:
    """`numpy.median`, which takes as long as all else that is done to a few numbers."""
    middle, odd = divmod(len(values), 2)
    parted = np.partition(values, middle if odd else [middle - 1, middle])
    return float(parted[middle]) if odd else float(parted[middle - 1] + parted[middle]) / 2

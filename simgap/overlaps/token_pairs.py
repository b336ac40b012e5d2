"""Which pairs of experts meet on which tokens, and how alike they are on other tokens: does an overlap come from meeting?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.overlaps.sketches import unit_rows
from simgap.seeding import stream

# Numbers in the rows of the pairs that are looked at.
SAMPLED = 1 << 23


@dataclass(frozen=True)
class TokenPairs:
    """Pairs of vectors that share a token, (m,) each, those of one pair of experts together: the token, the columns of both, and their
    experts, left <= right; without names all experts are 0."""

    tokens: Int[np.ndarray, " m"]
    slots: Int[np.ndarray, "m 2"]
    named: Int[np.ndarray, "m 2"]
    experts: int

    @classmethod
    def of(
        cls, named: Int[np.ndarray, "n k"] | None, there: Bool[np.ndarray, "n k"], experts: int = 1, most: int | None = None
    ) -> "TokenPairs":
        """Of all vectors that are there; named: their experts, from 0 to `experts` - 1. most: so many pairs, evenly drawn."""
        generator = stream(0, "signs", expert=3)
        k = there.shape[1]
        found = []
        for i, j in combinations(range(k), 2):
            tokens = np.flatnonzero(there[:, i] & there[:, j])
            found.append(np.stack([tokens, np.full_like(tokens, i), np.full_like(tokens, j)], 1))
        pairs = np.concatenate(found)
        pairs = pairs[generator.permutation(len(pairs))[:most]]
        both = np.zeros((len(pairs), 2), np.int64) if named is None else named[pairs[:, :1], pairs[:, 1:]]
        swapped = both[:, 0] > both[:, 1]
        pairs[swapped, 1:], both[swapped] = pairs[swapped, :0:-1], both[swapped, ::-1]
        order = np.argsort(both[:, 0] * experts + both[:, 1], kind="stable")
        return cls(pairs[order, 0], pairs[order, 1:], both[order], experts)

    def names(self, at: int) -> tuple[int, int]:
        left, right = self.named[at].tolist()
        return left, right

    def groups(self, most: int) -> Iterator[range]:
        """Stretches of one pair of experts, of at most so many."""
        ends = np.flatnonzero((self.named[1:] != self.named[:-1]).any(1)) + 1
        for start, stop in zip([0, *ends.tolist()], [*ends.tolist(), len(self.tokens)], strict=True):
            yield from (range(first, min(first + most, stop)) for first in range(start, stop, most))

    def units(self, vectors: Float[Tensor, "*tokens k width"], at: range | np.ndarray) -> tuple[Tensor, Tensor]:
        """Both unit vectors of some of the pairs, in float64."""
        some = slice(at.start, at.stop) if isinstance(at, range) else at
        along = [torch.from_numpy(axis).to(vectors.device) for axis in np.unravel_index(self.tokens[some], vectors.shape[:-2])]
        left, right = (torch.from_numpy(self.slots[some, side].copy()).to(vectors.device) for side in (0, 1))
        return unit_rows(vectors[(*along, left)]), unit_rows(vectors[(*along, right)])


@dataclass(frozen=True)
class Elsewhere:
    """Of each pair of experts that meets on two tokens or more, (P,): on how many; sums over these of cos^2 on a token and across two, and
    of what signs would make of both, sum_i (u_i v_i)^2."""

    count: Int[np.ndarray, " P"]
    same: Float[np.ndarray, " P"]
    other: Float[np.ndarray, " P"]
    same_null: Float[np.ndarray, " P"]
    other_null: Float[np.ndarray, " P"]

    @property
    def ratio(self) -> float:
        """Overlap on *different* tokens over its null with the same signs; NaN without any."""
        null = float(self.other_null.sum())
        return float(self.other.sum()) / null if null > 0 else math.nan

    @property
    def gains(self) -> Float[np.ndarray, " P"]:
        """What meeting on a token adds to each pair's sum of cos^2, beyond what it shares on other tokens."""
        scale = self.same_null / np.where(self.other_null > 0, self.other_null, 1.0)
        return self.same - self.other * scale


def elsewhere(vectors: Float[Tensor, "*tokens k width"], pairs: TokenPairs) -> Elsewhere:
    """The left vector of each pair against the right one of the next pair of the same experts, in the order, which `of` drew."""
    groups = [each for each in pairs.groups(len(pairs.tokens)) if len(each) > 1]
    if not groups:
        none = np.empty(0)
        return Elsewhere(np.empty(0, np.int64), none, none, none, none)
    at = np.concatenate([np.array(each) for each in groups])
    following = np.concatenate([np.roll(np.array(each), -1) for each in groups])
    left, right = pairs.units(vectors, at)
    products = left * right, left * pairs.units(vectors, following)[1]
    count = np.array([len(each) for each in groups])
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    sums = [values.cpu().numpy() for each in products for values in (each.sum(1).square(), each.square().sum(1))]
    same, same_null, other, other_null = (np.add.reduceat(values, begin) for values in sums)
    return Elsewhere(count, same, other, same_null, other_null)

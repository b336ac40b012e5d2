"""Which pairs of experts meet on which tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.overlaps.sketches import unit_rows
from simgap.seeding import stream


@dataclass(frozen=True)
class TokenPairs:
    """Pairs of vectors that share a token, (m,) each, those of one pair of experts together: the token, the columns of both, and their
    experts, left <= right; without names all experts are 0. met: on how many tokens each two experts meet, those not drawn among them, left
    <= right; None where that was not counted."""

    tokens: Int[np.ndarray, " m"]
    slots: Int[np.ndarray, "m 2"]
    named: Int[np.ndarray, "m 2"]
    experts: int
    met: Int[np.ndarray, "E E"] | None = None

    @classmethod
    def of(
        cls,
        named: Int[np.ndarray, "n k"] | None,
        there: Bool[np.ndarray, "n k"],
        experts: int = 1,
        most: int | None = None,
        counted: bool = False,
    ) -> "TokenPairs":
        """Of all vectors that are there; named: their experts, from 0 to `experts` - 1. most: so many pairs, evenly drawn. counted: with
        `met`, a table of all pairs of experts."""
        generator = stream(0, "signs", expert=3)
        k = there.shape[1]
        found, met = [], np.zeros(experts * experts, np.int64) if counted and named is not None else None
        for i, j in combinations(range(k), 2):
            tokens = np.flatnonzero(there[:, i] & there[:, j])
            found.append(np.stack([tokens, np.full_like(tokens, i), np.full_like(tokens, j)], 1))
            if met is not None and named is not None:
                low, high = np.minimum(named[tokens, i], named[tokens, j]), np.maximum(named[tokens, i], named[tokens, j])
                met += np.bincount(low * experts + high, minlength=experts * experts)
        pairs = np.concatenate(found)
        pairs = pairs[generator.permutation(len(pairs))[:most]]
        both = np.zeros((len(pairs), 2), np.int64) if named is None else named[pairs[:, :1], pairs[:, 1:]]
        swapped = both[:, 0] > both[:, 1]
        pairs[swapped, 1:], both[swapped] = pairs[swapped, :0:-1], both[swapped, ::-1]
        order = np.argsort(both[:, 0] * experts + both[:, 1], kind="stable")
        return cls(pairs[order, 0], pairs[order, 1:], both[order], experts, None if met is None else met.reshape(experts, experts))

    def at(self, order: Int[np.ndarray, " m"]) -> "TokenPairs":
        return TokenPairs(self.tokens[order], self.slots[order], self.named[order], self.experts, self.met)

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
        return self.unit(vectors, at, 0), self.unit(vectors, at, 1)

    def unit(self, vectors: Float[Tensor, "*tokens k width"], at: range | np.ndarray, side: int) -> Tensor:
        """One of them."""
        some = slice(at.start, at.stop) if isinstance(at, range) else at
        along = [torch.from_numpy(axis).to(vectors.device) for axis in np.unravel_index(self.tokens[some], vectors.shape[:-2])]
        return unit_rows(vectors[(*along, torch.from_numpy(self.slots[some, side].copy()).to(vectors.device))])

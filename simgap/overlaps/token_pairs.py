"""Which pairs of experts meet on which tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.kernels.grouping import by_group
from simgap.overlaps.sketches import unit_rows
from simgap.seeding import stream

# Tokens whose pairs are drawn at a time; groups that are counted off, to a number that is put in one.
STRETCH, COUNTED = 1 << 20, 16


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
        """Of all vectors that are there; named: their experts, from 0 to `experts` - 1. most: so many pairs, evenly drawn: each with the
        same chance, as many of each two columns in a stretch of tokens as their share asks. No more than these are held. counted: with
        `met`, a table of all pairs of experts."""
        generator = stream(0, "signs", expert=3)
        n, k = there.shape
        ways = list(combinations(range(k), 2))
        stretches = [(way, slice(start, start + STRETCH)) for way in range(len(ways)) for start in range(0, n, STRETCH)]

        def both(way: int, at: slice) -> Bool[np.ndarray, " _"]:
            return there[at, ways[way][0]] & there[at, ways[way][1]]

        def experts_of(way: int, tokens: Int[np.ndarray, " t"]) -> tuple[Int[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
            if named is None:
                return np.zeros(len(tokens), np.int64), np.zeros(len(tokens), bool)
            first, second = (named[tokens, slot].astype(np.int64, copy=False) for slot in ways[way])
            return np.minimum(first, second) * experts + np.maximum(first, second), first > second

        counts = [int(np.count_nonzero(both(*stretch))) for stretch in stretches]
        kept = counts if most is None or sum(counts) <= most else _shares(counts, most, generator)
        # A number of each pair of experts, its token, and of its columns, where the second's expert comes first as ways + number.
        found: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))]
        met = np.zeros(experts * experts, np.int64) if counted and named is not None else None
        for (way, at), total, some in zip(stretches, counts, kept, strict=True):
            tokens = np.flatnonzero(both(way, at)) + at.start
            if met is not None and kept is not counts:
                met += np.bincount(experts_of(way, tokens)[0], minlength=experts * experts)
            if some < total:
                tokens = tokens[generator.choice(total, some, replace=False, shuffle=False)]
            part, swapped = experts_of(way, tokens)
            found.append((part, tokens, way + len(ways) * swapped))
        part, tokens, code = (np.concatenate(values) for values in zip(*found, strict=True))
        if met is not None and kept is counts:
            met = np.bincount(part, minlength=experts * experts)
        order = generator.permutation(len(part))
        order = order[together(part[order], experts * experts)]
        columns = np.array([*ways, *(way[::-1] for way in ways)], np.int64).reshape(-1, 2)
        both_named = np.stack(np.divmod(part[order], experts), 1)
        return cls(tokens[order], columns[code[order]], both_named, experts, None if met is None else met.reshape(experts, experts))

    @property
    def part(self) -> Int[np.ndarray, " m"]:
        """A number of each pair of experts, ascending."""
        return self.named[:, 0].astype(np.int64) * self.experts + self.named[:, 1]

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


def together(groups: Int[np.ndarray, " m"], count: int) -> Int[np.ndarray, " m"]:
    """The places of each group together, in the order in which they come. groups: from 0 to count - 1."""
    if count > COUNTED * max(len(groups), STRETCH):
        return np.argsort(groups, kind="stable")
    order = np.empty(len(groups), np.int64)
    by_group(groups, count, order)
    return order


def _shares(counts: Sequence[int], most: int, generator: np.random.Generator) -> list[int]:
    """How many of each to keep, `most` in all, so that one of any has the same chance: whole shares, and what is over by one draw."""
    total, begin = sum(counts), 0
    offset = int(generator.integers(total))
    kept = []
    for end in accumulate(counts):
        kept.append((end * most + offset) // total - (begin * most + offset) // total)
        begin = end
    return kept

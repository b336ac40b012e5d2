"""Pairs of experts in a space that *other* experts make round: v -> (Sbar + r/d I)^(-1/2) v, Sbar their second moment (law T4).

Whitening by the vectors that are to be compared pulls what they have on a token up where tokens repeat, though experts are independent. So
experts are put into groups, and a pair is seen by those that hold neither: ten pairs of groups, ten factorisations, whatever the number of
experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.overlaps.memory import AT_ONCE
from simgap.overlaps.other_tokens import OtherTokens, other_tokens
from simgap.overlaps.token_pairs import TokenPairs
from simgap.seeding import stream
from simgap.threads import Map, in_order

GROUPS = 4
# Of the mean eigenvalue, added to all: directions that nobody writes to are not blown up.
RIDGE = 1e-3
# Vectors to a dimension that a second moment takes at least, and that are drawn for all groups together.
FEWEST, DRAWN = 2, 6
# Of more dimensions than this, nobody is whitened. One pair of groups holds PER_TASK bytes times width^2, all ten at once HELD at most.
WIDEST, PER_TASK, HELD = 8192, 20, 1 << 30


def why_not(entries: TokenPairs, width: int) -> str:
    """Why so many vectors of such experts are too few to whiten others by, or ""."""
    counts = np.bincount(_groups(entries.experts)[entries.named[:, 0]], minlength=GROUPS)
    fewest = min(int(counts[_others(*each)].sum()) for each in combinations_with_replacement(range(GROUPS), 2))
    if fewest >= FEWEST * width:
        return ""
    return f"{fewest:,} vectors of other experts are {fewest / width:.3g} to a dimension, and it takes {FEWEST}"


def _groups(experts: int) -> Int[np.ndarray, " E"]:
    """Of each expert."""
    return stream(0, "signs", expert=6).permutation(experts) % GROUPS


def _others(first: int, second: int) -> list[int]:
    """The groups that a pair of these is seen by."""
    return [number for number in range(GROUPS) if number not in (first, second)]


@dataclass(frozen=True)
class Whitening:
    """group (E,): of each expert. sums (GROUPS, width, width): of u u' of its unit vectors."""

    group: Int[np.ndarray, " E"]
    sums: Float[Tensor, "groups width width"]

    @classmethod
    def of(cls, vectors: Float[Tensor, "*tokens k width"], entries: TokenPairs, task_map: Map = in_order) -> "Whitening":
        """O(m width^2) for m entries."""
        width = vectors.shape[-1]
        group = _groups(entries.experts)
        of_entry = group[entries.named[:, 0]]
        step = max(1, AT_ONCE // width)

        def one(number: int) -> Tensor:
            mine = np.flatnonzero(of_entry == number)
            total = torch.zeros(width, width, dtype=torch.float64)
            for start in range(0, len(mine), step):
                rows = entries.unit(vectors, mine[start : start + step], 0).cpu()
                total.addmm_(rows.T, rows)
            return total

        return cls(group, torch.stack(list(_few(task_map, width)(one, range(GROUPS)))))

    def factor(self, first: int, second: int) -> Float[Tensor, "width width"]:
        """The lower Cholesky factor of Sbar + r/d I, for pairs of these groups: its inverse does what the inverse root does, up to a
        rotation that no angle sees."""
        others = _others(first, second)
        moment = self.sums[others[0]].clone()
        for other in others[1:]:
            moment += self.sums[other]
        moment /= moment.diagonal().sum()
        moment.diagonal().add_(RIDGE / len(moment))
        return torch.linalg.cholesky(moment)

    def other_tokens(
        self,
        vectors: Float[Tensor, "*tokens k width"],
        looks: Sequence[tuple[TokenPairs, Sequence[Float[np.ndarray, " m"] | None]]],
        documents: Int[np.ndarray, " n"] | None = None,
        strata: Int[np.ndarray, " n"] | None = None,
        task_map: Map = in_order,
    ) -> list[OtherTokens]:
        """`other_tokens` of the whitened vectors, for each of some pairs in each of some orders of theirs: one factorisation to two groups,
        and vectors are whitened once, by it in float32. O(m width^2 + 10 width^3); 2 m width numbers, of one pair of groups at a time."""

        def one(each: tuple[int, int]) -> list[OtherTokens | None]:
            factor = self.factor(*each).float()
            by_look: list[OtherTokens | None] = []
            for pairs, orders in looks:
                groups = self.group[pairs.named]
                mine = np.flatnonzero((groups.min(1) == each[0]) & (groups.max(1) == each[1]))
                if not len(mine):
                    by_look += [None] * len(orders)
                    continue
                whitened, tokens = _whitened(vectors, pairs, mine, factor), pairs.tokens[mine]
                some = TokenPairs(np.arange(len(mine)), np.tile(np.arange(2), (len(mine), 1)), pairs.named[mine], pairs.experts)
                of_tokens = tokens if documents is None else documents[tokens]
                of_strata = None if strata is None else strata[tokens]
                for order in orders:
                    by_look.append(other_tokens(whitened, some, of_tokens, None if order is None else order[mine], of_strata))
            return by_look

        parts = list(_few(task_map, vectors.shape[-1])(one, list(combinations_with_replacement(range(GROUPS), 2))))
        return [_joined([part for part in look if part is not None]) for look in zip(*parts, strict=True)]


def _joined(parts: list[OtherTokens]) -> OtherTokens:
    """Of different pairs of experts, in their order."""
    named = np.concatenate([part.named for part in parts])
    by = np.lexsort(named.T[::-1])
    count, same, other, error = (
        np.concatenate([getattr(part, name) for part in parts])[by] for name in ("count", "same", "other", "error")
    )
    return OtherTokens(named[by], count, same, other, error, parts[0].experts)


def _whitened(
    vectors: Tensor, pairs: TokenPairs, mine: Int[np.ndarray, " m"], factor: Float[Tensor, "width width"]
) -> Float[Tensor, "m 2 width"]:
    """Both vectors of some pairs, on the CPU; those of a vector beside itself are computed once."""
    width = vectors.shape[-1]
    whitened = torch.empty(len(mine), 2, width, dtype=torch.float32)
    step = max(1, AT_ONCE // width)
    for start in range(0, len(mine), step):
        some = mine[start : start + step]
        alone = bool((pairs.slots[some, 0] == pairs.slots[some, 1]).all())
        for side in (0,) if alone else (0, 1):
            rows = pairs.unit(vectors, some, side).cpu().float()
            whitened[start : start + step, side] = torch.linalg.solve_triangular(factor, rows.T, upper=False).T
        if alone:
            whitened[start : start + step, 1] = whitened[start : start + step, 0]
    return whitened


def _few(task_map: Map, width: int) -> Map:
    """The given map, or in order where tasks side by side would hold too much."""
    return task_map if 10 * PER_TASK * width * width <= HELD else in_order

"""The same pairs of experts on different tokens: does an overlap come from meeting on a token, or from the space that they share?

The overlap of a pair of experts on a token, less that of the left one here with the right one on other tokens, has mean zero for experts
that are independent given the tokens, however unround their common space (law T2); over pairs of experts it is a degenerate U-statistic
(law T3).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.kernels.grouping import within_groups
from simgap.kernels.partners import add_partners, partner_cos2
from simgap.overlaps.lengths import lengths_at
from simgap.overlaps.memory import AT_ONCE, LEAST, PARTS, is_readable, on_cpu, readable, row_offsets, run, shared, tokens_at
from simgap.overlaps.token_overlap import token_cos2_torch
from simgap.overlaps.token_pairs import TokenPairs
from simgap.threads import Map, if_large, in_order

# Other tokens that each vector is held against.
PARTNERS = 2
# Numbers in the left vectors of the pairs that are looked at: all pairs, up to so many.
SAMPLED = 1 << 25


@dataclass(frozen=True)
class OtherTokens:
    """Of each pair of experts e < f that has other tokens to be held against, (P,).

    named (P, 2): their numbers. count: the tokens on which they meet. same: the mean of cos^2 on them. other: the mean on different tokens.
    error: of the difference, over documents, for these very experts. experts: how many there are in all.
    """

    named: Int[np.ndarray, "P 2"]
    count: Int[np.ndarray, " P"]
    same: Float[np.ndarray, " P"]
    other: Float[np.ndarray, " P"]
    error: Float[np.ndarray, " P"]
    experts: int

    @property
    def gains(self) -> Float[np.ndarray, " P"]:
        """What meeting on a token adds, L3 - L2 of each pair."""
        return self.same - self.other

    def over_pairs(self, values: Float[np.ndarray, " P"]) -> float:
        """Mean of a value of each pair, by the tokens on which it meets."""
        # No product of the library, which cuts a long one by its threads.
        return float((values * self.count).sum() / self.count.sum())

    def table(self) -> Float[np.ndarray, "E E"]:
        """The gain of each pair times its share of the tokens, symmetric, 0 where there is none: half its sum is the mean gain."""
        table = np.zeros((self.experts, self.experts))
        left, right = self.named.T
        table[left, right] = table[right, left] = self.gains * self.count / self.count.sum()
        return table


def other_tokens(
    vectors: Float[Tensor, "*tokens k width"],
    pairs: TokenPairs,
    documents: Int[np.ndarray, " n"] | None = None,
    order: Float[np.ndarray, " m"] | None = None,
    strata: Int[np.ndarray, " n"] | None = None,
    task_map: Map = in_order,
    lengths: Float[np.ndarray, "n k"] | None = None,
) -> OtherTokens:
    """Each pair of experts on the tokens on which it meets, and on PARTNERS other ones to each.

    documents: which each token is of, by default each its own; other tokens are of other documents. order (m,): of each of `pairs`, by
    which its other tokens are the nearest ones; without it they are any. strata: other tokens are of the same one. lengths: of all vectors
    on these tokens, where they are known. A vector without other tokens takes no part, nor does a zero vector. O(m PARTNERS width) time.
    """
    k = vectors.shape[-2]
    if lengths is None:
        exists = np.zeros((int(np.prod(vectors.shape[:-2])), k), bool)
        exists[pairs.tokens[:, None], pairs.slots] = True
        lengths = lengths_at(vectors, np.flatnonzero(exists.any(1)), exists, task_map)
    part, by = pairs.part, np.arange(len(pairs.tokens))
    ends = _ends(part)
    if strata is not None:
        inside = strata[pairs.tokens]
        by = np.lexsort((by if order is None else order, inside, part))
        ends = np.union1d(ends, _ends(inside[by]))
    elif order is not None:
        within_groups(ends, order, by)
    tokens, slots = pairs.tokens[by], pairs.slots[by]
    # Its own right vector, then others.
    partners = np.empty((len(part), 1 + PARTNERS), np.int64)
    partners[:, 0] = np.arange(len(part))
    add_partners(ends, tokens if documents is None else documents[tokens], partners[:, 1:])
    rows = (slots + (tokens * k)[:, None]).T.copy()
    same, other = _overlaps(vectors, lengths.reshape(-1), rows, partners, task_map)
    defined = ~np.isnan(other)
    if not defined.all():
        part, tokens, same, other = part[defined], tokens[defined], same[defined], other[defined]
    if not len(part):
        none = np.empty(0)
        return OtherTokens(np.empty((0, 2), np.int64), np.empty(0, np.int64), none, none, none, pairs.experts)
    begin = np.append(0, _ends(part)[:-1])
    count = np.diff(np.append(begin, len(part)))
    means = np.add.reduceat(same, begin) / count, np.add.reduceat(other, begin) / count
    apart = same - other - np.repeat(means[0] - means[1], count)
    owner = np.repeat(np.arange(len(begin)), count)
    # Where each token is its own document there is nothing to add up first.
    error = np.sqrt(np.bincount(owner, apart**2)) if documents is None else _error(apart, owner, documents[tokens])
    error = error / count
    return OtherTokens(np.stack(np.divmod(part[begin], pairs.experts), 1), count, *means, error, pairs.experts)


def _error(apart: Float[np.ndarray, " m"], part: Int[np.ndarray, " m"], documents: Int[np.ndarray, " m"]) -> Float[np.ndarray, " P"]:
    """The root of the sum over documents of their squared sums of deviations, of each part."""
    order = np.lexsort((documents, part))
    apart, part, documents = apart[order], part[order], documents[order]
    begin = np.append(0, np.flatnonzero((part[1:] != part[:-1]) | (documents[1:] != documents[:-1])) + 1)
    return np.sqrt(np.bincount(part[begin], np.add.reduceat(apart, begin) ** 2))


def _ends(groups: Int[np.ndarray, " m"]) -> Int[np.ndarray, " G"]:
    """Where each stretch of equal numbers ends."""
    return np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, len(groups))


def _overlaps(
    vectors: Tensor, lengths: Float[np.ndarray, " R"], rows: Int[np.ndarray, "2 m"], partners: Int[np.ndarray, "m r"], task_map: Map
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """cos^2 of each left vector with its right one, the first of its partners, and the mean with the others; NaN where there are none, or
    where one is zero. rows: of left and right vectors, counted through tokens and slots."""
    k, width = vectors.shape[-2:]
    left, right = rows
    cpu, (m, r) = on_cpu(vectors), partners.shape
    whole = run(vectors) if is_readable(vectors) and cpu else None
    begin = None if whole is None else row_offsets(vectors, rows)
    held = None if cpu else vectors.reshape(-1, width)
    long = lengths[rows]
    # Right vectors are read once where they follow each other.
    per_pair = 2 * width if whole is not None else (1 + r) * width
    step = max(1, min(AT_ONCE, max(LEAST, m * per_pair // PARTS)) // per_pair)
    same, other = np.full(m, np.nan), np.full(m, np.nan)

    def task(start: int) -> None:
        at = slice(start, min(start + step, m))
        if whole is not None and begin is not None:
            partner_cos2(whole, (begin[0, at], long[0, at]), (begin[1], long[1]), partners[at], width, same[at], other[at])
            return
        some = partners[at]
        index = np.column_stack([left[at], np.where(some >= 0, right[some], -1)])
        if held is not None:
            places = torch.from_numpy(index).to(held.device)
            for columns, found in (([0, 1], same), ([0, *range(2, 1 + r)], other)):
                values, counts = token_cos2_torch(held, places[:, columns], 1)
                found[at] = np.where(counts > 0, values, np.nan)
            return
        # Only the tokens that are looked at are copied.
        tokens, place = np.unique(np.where(index < 0, left[at, None], index) // k, return_inverse=True)
        flat = run(readable(tokens_at(vectors, tokens)).reshape(-1, width))
        starts = (place.reshape(index.shape) * k + index % k) * width
        here = np.where(some >= 0, np.arange(some.size).reshape(some.shape), -1)
        of_right = starts[:, 1:].reshape(-1), np.where(some >= 0, long[1][some], 0.0).reshape(-1)
        partner_cos2(flat, (starts[:, 0].copy(), long[0, at]), of_right, here, width, same[at], other[at])

    list(shared(if_large(task_map, m * per_pair), vectors)(task, range(0, m, step)))
    return same, other


def size_order(lengths: Float[np.ndarray, "n k"], pairs: TokenPairs) -> Float[np.ndarray, " m"]:
    """Of each pair, how large its token is by all vectors on it but the right one: the mean log of their lengths, of those that are not 0.

    The right one's own length would not do: a left vector here and a right one there, alike in both, depend on each other whatever the
    experts. Independent experts' right vectors know nothing of the other lengths but through the token.
    """
    there = np.isfinite(lengths) & (lengths > 0)
    logs = np.log(lengths, out=np.zeros(lengths.shape), where=there)
    at, right = pairs.tokens, pairs.slots[:, 1]
    count = there.sum(1)[at] - there[at, right]
    return np.divide(logs.sum(1)[at] - logs[at, right], count, out=np.zeros(len(at)), where=count > 0)

"""The same pairs of experts on different tokens: does an overlap come from meeting on a token, or from the space that they share?

The overlap of a pair of experts on a token, less that of the left one here with the right one on other tokens, has mean zero for experts
that are independent given the tokens, however unround their common space (law T2); over pairs of experts it is a degenerate U-statistic
(law T3).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.kernels.partners import add_partners
from simgap.overlaps.memory import AT_ONCE, is_readable, on_cpu, readable, shared, tokens_at
from simgap.overlaps.token_overlap import token_cos2
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
) -> OtherTokens:
    """Each pair of experts on the tokens on which it meets, and on PARTNERS other ones to each.

    documents: which each token is of, by default each its own; other tokens are of other documents. order (m,): of each of `pairs`, by
    which its other tokens are the nearest ones; without it they are any. strata: other tokens are of the same one. A vector without other
    tokens takes no part, nor does a zero vector. O(m PARTNERS width) time.
    """
    part = pairs.named[:, 0] * pairs.experts + pairs.named[:, 1]
    inside = np.zeros(len(part), np.int64) if strata is None else strata[pairs.tokens]
    if order is not None or strata is not None:
        by = np.lexsort((np.zeros(len(part)) if order is None else order, inside, part))
        pairs, part, inside = pairs.at(by), part[by], inside[by]
    ends = np.append(np.flatnonzero((part[1:] != part[:-1]) | (inside[1:] != inside[:-1])) + 1, len(part))
    partners = np.empty((len(part), PARTNERS), np.int64)
    add_partners(ends, pairs.tokens if documents is None else documents[pairs.tokens], partners)
    has = np.flatnonzero(partners[:, 0] >= 0)
    same, other = _overlaps(vectors, pairs, partners, has, task_map)
    defined = ~np.isnan(same + other)
    has, same, other = has[defined], same[defined], other[defined]
    if not len(has):
        none = np.empty(0)
        return OtherTokens(np.empty((0, 2), np.int64), np.empty(0, np.int64), none, none, none, pairs.experts)
    part = part[has]
    begin = np.append(0, np.flatnonzero(part[1:] != part[:-1]) + 1)
    count = np.diff(np.append(begin, len(part)))
    means = np.add.reduceat(same, begin) / count, np.add.reduceat(other, begin) / count
    apart = same - other - np.repeat(means[0] - means[1], count)
    owner = np.repeat(np.arange(len(begin)), count)
    # Where each token is its own document there is nothing to add up first.
    error = np.sqrt(np.bincount(owner, apart**2)) if documents is None else _error(apart, owner, documents[pairs.tokens[has]])
    error = error / count
    return OtherTokens(np.stack(np.divmod(part[begin], pairs.experts), 1), count, *means, error, pairs.experts)


def _error(apart: Float[np.ndarray, " m"], part: Int[np.ndarray, " m"], documents: Int[np.ndarray, " m"]) -> Float[np.ndarray, " P"]:
    """The root of the sum over documents of their squared sums of deviations, of each part."""
    order = np.lexsort((documents, part))
    apart, part, documents = apart[order], part[order], documents[order]
    begin = np.append(0, np.flatnonzero((part[1:] != part[:-1]) | (documents[1:] != documents[:-1])) + 1)
    return np.sqrt(np.bincount(part[begin], np.add.reduceat(apart, begin) ** 2))


def _overlaps(
    vectors: Tensor, pairs: TokenPairs, partners: Int[np.ndarray, "m r"], some: Int[np.ndarray, " q"], task_map: Map
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """cos^2 of some pairs on their token, and the mean with the right vectors of their partners; NaN where a vector is zero."""
    k, width = vectors.shape[-2:]
    left, right = (pairs.tokens * k + pairs.slots.T).astype(np.int64)
    others = np.where(partners[some] >= 0, right[partners[some]], -1)
    index = np.column_stack([left[some], right[some], others])
    whole = is_readable(vectors) and on_cpu(vectors) and vectors.is_contiguous()
    rows = vectors.reshape(-1, width) if whole or not on_cpu(vectors) else None
    step = max(1, AT_ONCE // (width * index.shape[1]))

    def task(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = index[start : start + step]
        held = rows
        if held is None:
            # Only the tokens that are looked at are copied.
            tokens, at = np.unique(np.where(part < 0, part[:, :1], part) // k, return_inverse=True)
            held = readable(tokens_at(vectors, tokens).reshape(-1, width))
            part = np.where(part < 0, -1, at.reshape(part.shape) * k + part % k)
        index_of = torch.from_numpy(part).to(held.device)
        same, met = token_cos2(held, index_of[:, :2], 1)
        other, kept = token_cos2(held, index_of[:, [0, *range(2, part.shape[1])]], 1)
        return np.where(met > 0, same, np.nan), np.where(kept > 0, other, np.nan)

    found = list(shared(if_large(task_map, index.size * width), vectors)(task, range(0, len(index), step)))
    if not found:
        return np.empty(0), np.empty(0)
    same, other = (np.concatenate(values) for values in zip(*found, strict=True))
    return same, other


def size_order(
    vectors: Float[Tensor, "*tokens k width"], pairs: TokenPairs, exists: Bool[np.ndarray, "n k"], task_map: Map = in_order
) -> Float[np.ndarray, " m"]:
    """Of each pair, how large its token is by all vectors on it but the right one: the mean log of their norms.

    The right one's own norm would not do: a left vector here and a right one there, alike in both norms, depend on each other whatever the
    experts. Independent experts' right vectors know nothing of the other norms but through the token.
    """
    k = vectors.shape[-2]
    tokens, at = np.unique(pairs.tokens, return_inverse=True)
    step = max(1, AT_ONCE // (k * vectors.shape[-1]))

    def task(start: int) -> np.ndarray:
        part = tokens_at(vectors, tokens[start : start + step])
        if part.dtype != torch.float64:
            return torch.linalg.vector_norm(part, dim=-1, dtype=torch.float64).log().cpu().numpy()
        # The square of no other format leaves float64.
        largest = part.abs().amax(-1)
        return (torch.linalg.vector_norm(part / largest[..., None], dim=-1).log() + largest.log()).cpu().numpy()

    work = shared(if_large(task_map, len(tokens) * k * vectors.shape[-1]), vectors)
    logs = np.concatenate(list(work(task, range(0, len(tokens), step))))
    # What is not there, or zero, says nothing of a token's size.
    there = np.isfinite(logs) & exists[tokens]
    logs = np.where(there, logs, 0.0)
    right = at, pairs.slots[:, 1]
    count = there.sum(1)[at] - there[right]
    return np.divide(logs.sum(1)[at] - logs[right], count, out=np.zeros(len(at)), where=count > 0)

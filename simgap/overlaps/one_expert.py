"""Experts on different tokens: how much one says the same, and how long the mean is that all have in common."""

from itertools import permutations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.overlaps.memory import AT_ONCE
from simgap.overlaps.other_tokens import OtherTokens
from simgap.overlaps.token_pairs import TokenPairs
from simgap.seeding import stream

# Of documents, so that four means are independent.
GROUPS = 4


def entries_of(named: Int[np.ndarray, "n k"], there: Bool[np.ndarray, "n k"], experts: int, most: int | None = None) -> TokenPairs:
    """Each vector that is there as a pair with itself. most: so many, evenly drawn."""
    tokens, slots = np.nonzero(there)
    some = stream(0, "signs", expert=4).permutation(len(tokens))[:most]
    tokens, slots = tokens[some], slots[some]
    own = named[tokens, slots].astype(np.int64)
    order = np.argsort(own, kind="stable")
    return TokenPairs(tokens[order], np.stack([slots, slots], 1)[order], np.stack([own, own], 1)[order], experts)


def own_of(sums: OtherTokens) -> Float[np.ndarray, " E"]:
    """Of each expert tr(S_e^2), unbiased, from `other_tokens` of `entries_of`: its vector on a token against those on tokens of other
    documents; NaN where it has none."""
    own = np.full(sums.experts, np.nan)
    own[sums.named[:, 0]] = sums.other
    return own


def common_mean(
    vectors: Float[Tensor, "*tokens k width"], entries: TokenPairs, documents: Int[np.ndarray, " n"] | None = None
) -> tuple[float, Float[np.ndarray, " E"]]:
    """|m|^4 of the mean unit vector m over experts and tokens, unbiased, and the same without each expert; NaN where too little is there.

    (m_e . m_f)(m_g . m_h) over four different experts, each mean over documents of its own (GROUPS, which have none in common; all ways to
    choose them), weighted by the experts' vectors. Two experts alone would not do: own means of independent experts overlap by as much as
    the space makes them, though they have no mean in common. documents: by default each token its own. 4 E width numbers and their products
    with each other.
    """
    experts, width = entries.experts, vectors.shape[-1]
    kinds, of_document = np.unique(entries.tokens if documents is None else documents[entries.tokens], return_inverse=True)
    group = (stream(0, "signs", expert=5).permutation(len(kinds)) % GROUPS)[of_document.reshape(-1)]
    cell = entries.named[:, 0] * GROUPS + group
    sums = torch.zeros(experts * GROUPS, width, dtype=torch.float64)
    step = max(1, AT_ONCE // width)
    for start in range(0, len(cell), step):
        part = range(start, min(start + step, len(cell)))
        sums.index_add_(0, torch.from_numpy(cell[part.start : part.stop]), entries.unit(vectors, part, 0).cpu())
    products = (sums @ sums.T).numpy().reshape(experts, GROUPS, experts, GROUPS)
    count = np.bincount(cell, minlength=len(sums)).reshape(experts, GROUPS)
    share = np.bincount(entries.named[:, 0], minlength=experts) / len(cell)
    above, below = np.zeros(experts + 1), np.zeros(experts + 1)
    for a, b, c, d in permutations(range(GROUPS)):
        first, weight_of_first = _weighted(products[:, a, :, b], count[:, a], count[:, b], share)
        second, weight_of_second = _weighted(products[:, c, :, d], count[:, c], count[:, d], share)
        above += _apart(first, second)
        below += _apart(weight_of_first, weight_of_second)
    with np.errstate(invalid="ignore", divide="ignore"):
        fourth_powers = np.where(below > 1e-12 * below[0], above / below, np.nan)
    return float(fourth_powers[0]), fourth_powers[1:]


def _weighted(
    products: Float[np.ndarray, "E E"], left: Int[np.ndarray, " E"], right: Int[np.ndarray, " E"], share: Float[np.ndarray, " E"]
) -> tuple[Float[np.ndarray, "E E"], Float[np.ndarray, "E E"]]:
    """Mean products of different experts by their shares, symmetric, and those shares; 0 where one has no vectors."""
    weights = np.outer(share * (left > 0), share * (right > 0))
    np.fill_diagonal(weights, 0.0)
    values = weights * products / np.maximum(np.outer(left, right), 1)
    return (values + values.T) / 2, (weights + weights.T) / 2


def _apart(first: Float[np.ndarray, "E E"], second: Float[np.ndarray, "E E"]) -> Float[np.ndarray, " _"]:
    """The sum of first_ef second_gh over four different experts, then without each expert; both symmetric, 0 on the diagonal."""
    rows, columns, each = first.sum(1), second.sum(1), (first * second).sum(1)
    cross = first @ columns + second @ rows
    whole = np.array([rows.sum() * columns.sum() - 4 * rows @ columns + 2 * each.sum()])
    ends = (rows.sum() - 2 * rows) * (columns.sum() - 2 * columns)
    meet = rows @ columns - rows * columns - cross + each
    return np.append(whole, ends - 4 * meet + 2 * (each.sum() - 2 * each))

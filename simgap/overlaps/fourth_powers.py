"""Fourth powers of unit vectors' entries, and the products of two tokens that they become: what the spread of overlaps is made of."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simgap.overlaps.memory import AT_ONCE, shared
from simgap.overlaps.token_pairs import TokenPairs
from simgap.threads import Map, if_large, in_order

# Products of entries of two tokens that are made in all; tokens of a pair that this leaves, at least and at most.
PRODUCTS, FEWEST_TOKENS, MOST_TOKENS = 1 << 32, 32, 1 << 10


def fourth_powers(
    vectors: Float[Tensor, "E N"], task_map: Map = in_order
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """Of each vector its largest entry m, and the sums over entries x of (x/m)^2 and (x/m)^4; 0 of a vector of zeros. O(E N)."""

    def one(e: int) -> tuple[float, float, float]:
        largest = float(vectors[e].abs().max())
        squares = fourths = 0.0
        for piece in vectors[e].split(AT_ONCE) if largest else ():
            square = (piece.double() / largest).square_()
            squares, fourths = squares + float(square.sum()), fourths + float(torch.dot(square, square))
        return largest, squares, fourths

    of_each = np.array(list(shared(if_large(task_map, vectors.numel()), vectors)(one, range(len(vectors)))))
    return of_each[:, 0], of_each[:, 1], of_each[:, 2]


def nonzero(vectors: Float[Tensor, "n k width"]) -> Bool[np.ndarray, "n k"]:
    """Which vectors are not zero."""
    step = max(1, AT_ONCE // math.prod(vectors.shape[1:]))
    return np.concatenate([part.ne(0).any(-1).cpu().numpy() for part in vectors.split(step)])


def token_variance(
    vectors: Float[Tensor, "n k width"], pairs: TokenPairs, covariance: Callable[..., np.ndarray], task_map: Map = in_order
) -> float:
    """The sum of `covariance` over all pairs of tokens on which two experts meet, a token with itself too, and over all pairs of experts.

    covariance: of (m, m) tables a, b, g, h as `overlap_covariance` has them. Up to MOST_TOKENS of a pair's tokens, fewer where there are
    many pairs, stand for all; the sum then is at least that of a token with itself. O(pairs of experts m^2 width).
    """
    ends = np.concatenate([[0], np.flatnonzero((pairs.named[1:] != pairs.named[:-1]).any(1)) + 1, [len(pairs.tokens)]])
    most = min(MOST_TOKENS, max(FEWEST_TOKENS, math.isqrt(PRODUCTS // ((len(ends) - 1) * vectors.shape[-1]))))

    def of(number: int) -> tuple[float, float, bool]:
        start, stop = ends[number : number + 2].tolist()
        # `pairs` are in the order of a draw.
        kept = range(start, min(stop, start + most))
        tables = [(side.square() @ side.square().T, (side @ side.T).square()) for side in pairs.units(vectors, kept)]
        (a, g), (b, h) = ((one.cpu().numpy(), other.cpu().numpy()) for one, other in tables)
        table = covariance(a, b, g, h)
        own, met, some = float(np.trace(table)), stop - start, len(kept)
        across = (float(table.sum()) - own) * (met * (met - 1) / max(1, some * (some - 1)))
        return own * met / some, across, some < met

    sums = list(shared(if_large(task_map, len(pairs.tokens) * vectors.shape[-1]), vectors)(of, range(len(ends) - 1)))
    own, across = (sum(each[i] for each in sums) for i in (0, 1))
    return own + (max(across, 0.0) if any(each[2] for each in sums) else across)

"""Overlap on a token: how alike are the vectors that the router adds up?"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.kernels.token_overlap import token_cos2 as token_cos2_kernel
from simgap.kernels.token_overlap import token_flips
from simgap.overlaps.lengths import lengths_torch
from simgap.overlaps.memory import (
    AT_ONCE,
    IN_PLACE,
    LEAST,
    PARTS,
    is_readable,
    on_cpu,
    readable,
    run,
    runs,
    shared,
    token_offsets,
    tokens_at,
)
from simgap.overlaps.sketches import Signs, Sketches
from simgap.threads import Map, if_large, in_order

# On a CUDA device: vectors on a token whose products are worth one compiled pass, and numbers from which compiling, some ten seconds, is.
MOST_COMPILED = 8
COMPILED_FROM = 1 << 28


@dataclass(frozen=True)
class Moments:
    """Of cos^2 over the tokens that have a pair: how many, mean, sum of squared deviations; sum of cos^2 over all pairs, and pairs."""

    tokens: int
    mean: float
    squares: float
    total: float
    pairs: int

    def plus(self, other: "Moments") -> "Moments":
        """Of both together (Chan, Golub and LeVeque 1979)."""
        tokens = self.tokens + other.tokens
        if not self.tokens or not other.tokens:
            # A part without a pair has moments of zero, or NaN where a lone vector is not finite.
            mean, squares = self.mean + other.mean, self.squares + other.squares
            return Moments(tokens, mean, squares, self.total + other.total, self.pairs + other.pairs)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart * apart * (self.tokens * other.tokens / tokens)
        mean = self.mean + apart * (other.tokens / tokens)
        return Moments(tokens, mean, squares, self.total + other.total, self.pairs + other.pairs)

    @property
    def over_pairs(self) -> float:
        """Mean of cos^2 over all pairs; NaN without any."""
        return self.total / self.pairs if self.pairs else math.nan

    @property
    def sem(self) -> float | None:
        """Standard error of the mean over tokens, as if they were independent; None for fewer than two."""
        return math.sqrt(self.squares / (self.tokens - 1) / self.tokens) if self.tokens > 1 else None


@dataclass(frozen=True)
class TokenOverlap:
    """Per token, the mean cos^2 over pairs of its vectors (n,) and how many pairs that is (n,), both 0 where there is none, the moments
    over the tokens that have a pair; sketches of the pairs where signs were given; and where they were asked for, the lengths of all
    vectors (n, k), 0 of what is not there."""

    cos2: Float[np.ndarray, " n"]
    pairs: Int[np.ndarray, " n"]
    moments: Moments
    sketches: Sketches | None = None
    lengths: Float[np.ndarray, "n k"] | None = None


def token_overlap(
    vectors: Float[Tensor, "*tokens k width"],
    task_map: Map = in_order,
    kept: Bool[np.ndarray, "*tokens k"] | None = None,
    signs: Signs | None = None,
    lengths: bool = False,
) -> TokenOverlap:
    """`token_cos2` of the k vectors of each token as they lie in memory, whatever the strides of the other axes, with moments in the same
    pass. Tokens are counted through all leading axes.

    kept: which vectors are there, by default all. The others are never compared, whatever they hold, and a token without any takes no part:
    the moments have the bits of an array without those tokens. signs: of the experts; the pairs are then sketched in the same pass,
    and the vectors' lengths kept if they are wanted.
    """
    *sizes, k, width = vectors.shape
    tokens: range | np.ndarray = range(math.prod(sizes))
    cos2, pairs = np.zeros(len(tokens)), np.zeros(len(tokens), np.int64)
    if kept is not None:
        kept = kept.reshape(len(tokens), k)
        tokens = np.flatnonzero(kept.any(1))
    n = len(tokens)
    lengths_of = np.zeros((len(cos2) if lengths else 0, k))
    cpu = on_cpu(vectors)
    in_place = cpu and is_readable(vectors)
    # One view of it all, because operations on tensors in every task cost more than a kernel.
    whole = run(vectors) if in_place else None
    per_token = max(1, k * max(k, width))
    numbers = min(IN_PLACE, max(LEAST, n * k * width // PARTS))
    step = max(1, numbers // per_token if cpu else n)
    # What must be copied is copied a part of a task at a time; the layout then changes no bit.
    at_once = step if in_place or not cpu else max(1, AT_ONCE // per_token)

    def task(start: int) -> tuple[Moments, Sketches | None]:
        moments, sketches = np.zeros(5), None if signs is None else signs.sketches()
        state = None if sketches is None else sketches.state(k, width, vectors.dtype)
        for first in range(start, min(start + step, n), at_once):
            part = tokens[first : min(first + at_once, start + step)]
            at = slice(part.start, part.stop) if isinstance(part, range) else part
            there = None if kept is None else kept[at]
            if not cpu:
                rows = tokens_at(vectors, part).reshape(-1, width)
                index = torch.arange(len(rows), device=rows.device).view(-1, k)
                if there is not None:
                    index = index.masked_fill(torch.from_numpy(~there).to(rows.device), -1)
                cos2[at], pairs[at] = token_cos2_torch(rows, index)
                if lengths:
                    lengths_of[at] = np.where(index.cpu().numpy() >= 0, lengths_torch(rows).reshape(-1, k), 0.0)
                if sketches is not None and signs is not None:
                    sketches.add(rows, index, signs, signs.experts[at])
                return _moments(cos2[at], pairs[at]), sketches
            flat, starts = runs(readable(tokens_at(vectors, part))) if whole is None else (whole, token_offsets(vectors, part))
            # What an array of tokens picks is a copy, and is put back.
            overlaps = cos2[at], pairs[at], lengths_of[at if lengths else slice(0)]
            starts = starts if there is None else np.where(there, starts, -1)
            if state is None or signs is None:
                token_cos2_kernel(flat, starts, width, -1, *overlaps[:2], moments)
            else:
                token_flips(flat, starts, width, overlaps, moments, signs.of_kernel(at), state)
            if there is not None:
                cos2[at], pairs[at] = overlaps[:2]
                if lengths:
                    lengths_of[at] = overlaps[2]
        if sketches is not None and state is not None:
            sketches.take(state)
        return Moments(int(moments[0]), float(moments[1]), float(moments[2]), float(moments[3]), int(moments[4])), sketches

    parts = list(shared(if_large(task_map, n * k * width), vectors)(task, range(0, n, step)))
    moments = functools.reduce(Moments.plus, [each for each, _ in parts], Moments(0, 0.0, 0.0, 0.0, 0))
    sketches = [each for _, each in parts if each is not None]
    summed = functools.reduce(Sketches.plus, sketches) if sketches else None
    return TokenOverlap(cos2, pairs, moments, summed, lengths_of if lengths else None)


def token_cos2(
    rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"], n_first: int | None = None
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    r"""Per token, the mean of cos^2 over pairs of its vectors, and the number of pairs.

    .. math:: \frac{1}{|P_t|} \sum_{(i, j) \in P_t} \cos^2(v_{t,i}, v_{t,j})

    rows: vectors, numbered; index: the row of each of the m vectors of each token, -1 for none. Pairs are all i < j, or with `n_first`
    those of one of the first `n_first` vectors with one of the others. Dimensionless, in [0, 1]; 1/width for independent sign-symmetric
    vectors (law N1). A zero vector has no pairs; a token without pairs gets 0 and count 0; a vector that is not finite makes its token NaN.
    O(n m^2 width); on a CPU the numba kernel, which gathers no copy, elsewhere a float64 Gram product in chunks. Raises ValueError for an
    index out of range.
    """
    n, m = index.shape
    if n and m and not -1 <= int(index.min()) <= int(index.max()) < len(rows):
        raise ValueError(f"index: expected rows from 0 to {len(rows) - 1}, or -1, got {int(index.min())} to {int(index.max())}")
    if n_first is not None and not 0 <= n_first <= m:
        raise ValueError(f"n_first: expected 0 to {m}, the vectors on a token, got {n_first}")
    if not on_cpu(rows):
        return token_cos2_torch(rows, index, n_first)
    cos2, pairs = np.empty(n), np.empty(n, np.int64)
    rows = readable(rows)
    flat = run(rows)
    # In 64 bits: offsets are larger than row numbers.
    numbers = index.numpy().astype(np.int64, copy=False)
    starts = np.where(numbers < 0, -1, numbers * rows.stride(0)) if len(rows) else np.full((n, m), -1)
    token_cos2_kernel(flat, starts, rows.shape[1], -1 if n_first is None else n_first, cos2, pairs, np.zeros(5))
    return cos2, pairs


def _moments(cos2: Float[np.ndarray, " n"], pairs: Int[np.ndarray, " n"]) -> Moments:
    """What the kernel sums up on its way, from its values."""
    values, counts = cos2[pairs > 0], pairs[pairs > 0]
    broken = math.nan if np.isnan(cos2).any() else 0.0
    mean = float(values.mean()) + broken if values.size else broken
    return Moments(values.size, mean, float(((values - mean) ** 2).sum()), float((values * counts).sum()) + broken, int(counts.sum()))


def token_cos2_torch(
    rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"], n_first: int | None = None
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """`token_cos2` as tensor operations, on any device. Not tested on hardware: no CUDA device was at hand."""
    n, m = index.shape
    if len(rows) == 0:
        return np.zeros(n), np.zeros(n, np.int64)
    paired = torch.ones(m, m, dtype=torch.bool, device=rows.device).triu(1)
    if n_first is not None:
        paired[n_first:] = False
        paired[:, :n_first] = False
    # Compiled, the products leave nothing behind but the table, and every token fits.
    compiled = rows.device.type == "cuda" and rows.dtype != torch.float64 and m <= MOST_COMPILED and rows.numel() >= COMPILED_FROM
    cos2, pairs = [], []
    step = max(1, 8 * AT_ONCE // max(1, m * m)) if compiled else tokens_at_once(m, rows.shape[-1])
    for start in range(0, n, step):
        at = index[start : start + step]
        table = compiled_products()(rows, at.clamp(min=0)) if compiled else products(rows, at.clamp(min=0))
        norms = table.diagonal(dim1=1, dim2=2)
        exists = at >= 0
        broken = (exists & ~torch.isfinite(norms)).any(1)
        defined = exists & (norms != 0)
        norms = torch.where(defined, norms, 1.0)
        table = (table / norms[:, :, None] * (table / norms[:, None, :])).clamp_(max=1)
        counted = defined[:, :, None] & defined[:, None, :] & paired
        count = counted.sum((1, 2))
        mean = torch.where(counted, table, 0.0).sum((1, 2)) / count.clamp(min=1)
        cos2.append(torch.where(broken, torch.nan, mean).cpu().numpy())
        pairs.append(count.cpu().numpy())
    return (np.concatenate(cos2), np.concatenate(pairs)) if cos2 else (np.empty(0), np.empty(0, np.int64))


def products(rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"]) -> Float[Tensor, "n m m"]:
    """Inner products of the vectors of each token in float64. float64 vectors, whose squares could leave the format, are divided by their
    largest entries, which no cosine sees."""
    vectors = rows[index].double()
    if rows.dtype == torch.float64:
        largest = vectors.abs().amax(-1, keepdim=True)
        vectors = vectors / torch.where(largest > 0, largest, 1.0)
    return torch.bmm(vectors, vectors.mT)


def products_by_pairs(rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"]) -> Float[Tensor, "n m m"]:
    """`products` of other formats than float64, pair by pair: what a compiler makes one pass over the rows of, without a copy of them."""
    m = index.shape[1]
    vectors = [rows[index[:, i]].double() for i in range(m)]
    sums = {(i, j): (vectors[i] * vectors[j]).sum(-1) for i in range(m) for j in range(i, m)}
    return torch.stack([torch.stack([sums[min(i, j), max(i, j)] for j in range(m)], -1) for i in range(m)], -2)


@functools.cache
def compiled_products() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(products_by_pairs, dynamic=True)


def tokens_at_once(m: int, width: int) -> int:
    """Tokens that one task compares, or whose vectors and tables of products the torch path holds together."""
    return max(1, AT_ONCE // max(1, m * max(m, width)))


def undefined_vectors(
    rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"], first: int = 0, most: int = 3, sizes: Sequence[int] = ()
) -> tuple[str, bool]:
    """Where the first vectors that are zero or not finite sit, as "token 4 slot 1, ...", and whether any of them is not finite.

    first: the number of the first token. sizes: of the axes that number the tokens, if there are several.
    """
    at = index.clamp(min=0)
    largest = rows.abs().amax(-1)
    exists = index >= 0
    broken = exists & ~torch.isfinite(largest)[at]
    bad = broken if broken.any() else exists & (largest == 0)[at]
    undefined = bad.nonzero()[:most].tolist()
    named = [(token_name([int(axis) for axis in np.unravel_index(first + t, sizes or (first + t + 1,))]), j) for t, j in undefined]
    return ", ".join(f"token {token} slot {j}" for token, j in named), bool(broken.any())


def token_name(place: Sequence[int]) -> str:
    """A token's number for a message, or its numbers in brackets where several axes number the tokens."""
    return str(place[0]) if len(place) == 1 else str(tuple(place))

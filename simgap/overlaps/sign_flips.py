"""What overlaps would be with other signs: sums over the sizes of vectors' entries, and overlaps under signs drawn anew."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.kernels.gram import COLUMNS, SIDE, add_square_grams, triangle_sums
from simgap.kernels.products import TILE
from simgap.overlaps.memory import is_readable, on_cpu, readable, runs, shared
from simgap.overlaps.pair_overlap import CHUNK, columns_at_once, gram_of_pieces
from simgap.overlaps.pair_tables import cross_gram
from simgap.overlaps.sketches import fair
from simgap.overlaps.token_pairs import TokenPairs
from simgap.seeding import stream
from simgap.threads import Map, if_large, in_order

# Sums of higher order are taken over at most so many vectors, and over fewer, but these at least, to have EXACT entries with all their
# columns; where they have more, over SAMPLED of them, in runs of neighbours. Products for the triangles of some corners.
MOST_VECTORS, FEW_VECTORS, EXACT, SAMPLED, RUN, PRODUCTS = 64, 16, 1 << 16, 1 << 13, 16, 1 << 23
# Signs, and numbers of a pair's rows, that are held at a time, and draws.
SIGNS_AT_ONCE, MOST_DRAWS = 1 << 22, 256
# Tables of SIDE by SIDE pairs that are held at a time.
HELD = 4


@dataclass(frozen=True)
class SizeSums:
    """Sums over all pairs of E vectors, and over all triangles, of what stays when signs change; u, v, w unit vectors.

    p = sum_i (u_i v_i)^2; q and r the same of the 4th and 6th power; t and s sum_i (u_i v_i w_i)^2 and ^4. `triangles` is the sum of
    t^2 - s. Those that begin with p alone are exact; the others come from some of the vectors and entries where there are more
    than EXACT, and are scaled up. of_pairs (E, E): the p of each pair, rows before columns, where it was asked for.
    """

    pairs: int
    p: float
    p2: float
    p3: float
    q: float
    pq: float
    r: float
    triangles: float
    of_pairs: Float[np.ndarray, "E E"] | None = None

    @property
    def cumulants(self) -> tuple[float, float, float]:
        """Mean, variance and third cumulant of the sum of cos^2 over all pairs under signs: one pair's, and those of triangles."""
        return self.p, 2 * (self.p2 - self.q), 8 * (self.p3 - 3 * self.pq + 2 * self.r) + 24 * self.triangles


def size_sums(vectors: Float[Tensor, "E N"], task_map: Map = in_order, of_pairs: bool = False) -> SizeSums:
    """Of the vectors that are not zero; all finite. O(E^2 N), each entry read once on a CPU, float64 ones once more."""
    exponent = np.zeros(len(vectors), np.int64)
    if vectors.dtype == torch.float64:
        # The square of a square of no other format leaves float64. A power of two, at most the largest there is, rounds nothing.
        exponent = np.maximum(np.frexp(vectors.abs().amax(1).cpu().numpy())[1], -1023)
    scale = torch.from_numpy(np.ldexp(1.0, -exponent)).to(vectors.device)
    small = on_cpu(vectors) and len(vectors) <= SIDE
    tables, squares = _one_table(vectors, scale, task_map) if small else _many_tables(vectors, scale, task_map)
    p = p2 = p3 = 0.0
    whole = np.zeros((len(vectors), len(vectors))) if of_pairs else None
    for rows, columns, table in tables:
        norms = [squares[part.start : part.stop] for part in (rows, columns)]
        table = table / np.where(norms[0] > 0, norms[0], 1.0)[:, None] / np.where(norms[1] > 0, norms[1], 1.0)
        if whole is not None:
            whole[rows.start : rows.stop, columns.start : columns.stop] = table
        values = table[np.less.outer(rows, columns)] if rows == columns else table
        p, p2, p3 = p + float(values.sum()), p2 + float((values**2).sum()), p3 + float((values**3).sum())
    defined = np.flatnonzero(squares).tolist()
    lengths = torch.from_numpy(np.sqrt(np.where(squares > 0, squares, np.inf))).to(scale.device)
    return SizeSums(math.comb(len(defined), 2), p, p2, p3, *_higher(vectors, scale, lengths, defined), whole)


Tables = Iterable[tuple[range, range, Float[np.ndarray, "a b"]]]


def _one_table(vectors: Tensor, scale: Tensor, task_map: Map) -> tuple[Tables, Float[np.ndarray, " E"]]:
    """The inner products of all squares, and the sums of squares, of vectors that are times their scales."""
    experts, width = vectors.shape
    span = columns_at_once(experts, CHUNK)

    def task(start: int) -> np.ndarray:
        size = -(-experts // TILE) * TILE
        table, sums = np.zeros((size, size)), np.zeros(experts)
        part = vectors[:, start : start + span]
        for piece in (part,) if is_readable(vectors) else part.split(columns_at_once(experts, COLUMNS), 1):
            flat, starts = runs(readable(piece))
            add_square_grams(flat, starts, piece.shape[1], scale.numpy(), table, sums)
        return np.concatenate([table[:experts, :experts], sums[:, None]], 1)

    tables = sum(if_large(task_map, vectors.numel())(task, range(0, width, span)))
    return [(range(experts), range(experts), tables[:, :-1])], tables[:, -1]


def _many_tables(vectors: Tensor, scale: Tensor, task_map: Map) -> tuple[Tables, Float[np.ndarray, " E"]]:
    """The same of more vectors, or on another device, table by table, from squares that are made a few columns at a time."""

    def squares(numbers: range | list[int]) -> Iterator[Tensor]:
        part, own = vectors[numbers], scale[numbers, None]
        return ((piece.double() * own).square_()[None] for piece in part.split(CHUNK if on_cpu(part) else 4 * CHUNK, 1))

    def task(pair: tuple[range, range]) -> tuple[range, range, np.ndarray]:
        rows, columns = pair
        if rows == columns:
            return rows, columns, gram_of_pieces(squares(rows))[0].cpu().numpy()
        left, right = range(len(rows)), range(len(rows), len(rows) + len(columns))
        return rows, columns, cross_gram(squares([*rows, *columns]), left, right)[0].cpu().numpy()

    parts = [range(start, min(start + SIDE, len(vectors))) for start in range(0, len(vectors), SIDE)]
    sums = sum((piece.double() * scale[:, None]).square_().sum(1) for piece in vectors.split(COLUMNS, 1))
    pairs = list(combinations_with_replacement(parts, 2))
    waves = (shared(task_map, vectors)(task, pairs[start : start + HELD]) for start in range(0, len(pairs), HELD))
    return chain.from_iterable(waves), sums.cpu().numpy()


def _higher(vectors: Tensor, scale: Tensor, lengths: Tensor, defined: list[int]) -> tuple[float, float, float, float]:
    """Sums of q, p q and r over pairs, of t^2 - s over triangles."""
    generator = stream(0, "signs", expert=1)
    width = vectors.shape[1]
    m = min(len(defined), max(FEW_VECTORS, min(MOST_VECTORS, EXACT // width)))
    some = torch.tensor(defined if len(defined) == m else sorted(generator.permutation(defined)[:m].tolist()), device=vectors.device)
    if m * width <= EXACT:
        picked = vectors[some]
    else:
        # One run in each of as many equal stretches.
        count = SAMPLED // (m * RUN)
        first = ((np.arange(count) + generator.random(count)) / count * (width // RUN)).astype(np.int64)
        picked = vectors.unfold(1, RUN, RUN)[some[:, None], torch.from_numpy(first).to(some.device)].flatten(1)
    # One after the other: their ratio may leave float64.
    w = (picked.double() * scale[some, None] / lengths[some, None]).square_()
    w2, share = w.square(), width / w.shape[1]
    powers = torch.stack([w, w2, w2 * w])
    p, q, r = np.triu(share * torch.bmm(powers, powers.mT).cpu().numpy(), 1)
    grown = len(defined) * (len(defined) - 1) / max(1, m * (m - 1))
    corners = min(m, max(4, PRODUCTS // (m * m * w.shape[1])))
    squares, fourth, triangles = triangle_sums(w.cpu().numpy(), corners)
    every = math.comb(len(defined), 3) * (share * share * squares - share * fourth) / max(1, triangles)
    return grown * float(q.sum()), grown * float((p * q).sum()), grown * float(r.sum()), every


def flipped_overlaps(vectors: Float[Tensor, "E N"], draws: int, task_map: Map = in_order) -> Float[np.ndarray, " draws"]:
    """The mean of cos^2 over all pairs of unit vectors with signs of their own, drawn anew for every entry each time. O(draws E^2 N)."""
    experts, width = vectors.shape
    at_once = max(1, min(draws, SIGNS_AT_ONCE // (experts * min(width, COLUMNS))))

    def some(start: int) -> np.ndarray:
        count = min(at_once, draws - start)
        table = torch.zeros(count, experts, experts, dtype=torch.float64, device=vectors.device)
        for block, piece in enumerate(vectors.split(COLUMNS, 1)):
            drawn = fair(stream(0, "signs", trial=1, expert=start, block=block), count * piece.numel())
            flipped = torch.from_numpy(drawn).to(piece.device).view(count, *piece.shape) * piece.double()
            table.baddbmm_(flipped, flipped.mT)
        return (table.square().sum((1, 2)) - table.diagonal(dim1=1, dim2=2).square().sum(1)).cpu().numpy() / (experts * (experts - 1))

    return np.concatenate(list(shared(task_map, vectors)(some, range(0, draws, at_once))))


def flipped_token_overlaps(
    vectors: Float[Tensor, "*tokens k width"], pairs: TokenPairs, draws: int, task_map: Map = in_order
) -> Float[np.ndarray, " draws"]:
    """The sum of cos^2 over pairs on tokens, with a sign to each coordinate of each expert, the same on all its tokens, drawn anew each
    time; without experts' names with a sign to each coordinate, common to all pairs. O(draws pairs width)."""
    width = vectors.shape[-1]
    dtype = torch.float64 if vectors.dtype == torch.float64 else torch.float32
    at_once = max(1, min(draws, MOST_DRAWS, 4 * SIGNS_AT_ONCE // (pairs.experts * width)))

    def some(start: int) -> np.ndarray:
        count = min(at_once, draws - start)
        drawn = fair(stream(0, "signs", trial=2, block=start), pairs.experts * width * count)
        signs = torch.from_numpy(drawn).to(vectors.device, dtype).view(pairs.experts, width, count)
        sums = torch.zeros(count, dtype=torch.float64, device=vectors.device)
        for part in pairs.groups(max(1, SIGNS_AT_ONCE // width)):
            left, right = pairs.units(vectors, part)
            e, f = pairs.names(part.start)
            both = signs[e] * signs[f] if e != f else signs[e]
            sums += ((left * right).to(dtype) @ both).square().sum(0, dtype=torch.float64)
        return sums.cpu().numpy()

    return np.concatenate(list(shared(task_map, vectors)(some, range(0, draws, at_once))))

"""What overlaps would be with other signs: sums over the sizes of vectors' entries, and overlaps under signs drawn anew."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.kernels.gram import COLUMNS, SIDE
from simgap.overlaps.memory import on_cpu, shared
from simgap.overlaps.pair_overlap import CHUNK, columns_at_once, gram_of_pieces, total, waves
from simgap.overlaps.pair_tables import cross_gram
from simgap.overlaps.sketches import fair
from simgap.overlaps.token_pairs import TokenPairs
from simgap.seeding import stream
from simgap.threads import Map, in_order

# Vectors and columns that sums of third order are taken over where there are more, and neighbours among those columns.
MOST_VECTORS, MOST_COLUMNS, RUN = 32, 1 << 14, 16
# Signs, and numbers of a pair's rows, that are held at a time, and draws.
SIGNS_AT_ONCE, MOST_DRAWS = 1 << 22, 256
SMALLEST = 5e-324


@dataclass(frozen=True)
class SizeSums:
    """Sums over all pairs of E vectors, and over all triangles, of what stays when signs change; u, v, w unit vectors.

    p = sum_i (u_i v_i)^2; q and r the same of the 4th and 6th power; t and s sum_i (u_i v_i w_i)^2 and ^4. `triangles` is the sum of
    t^2 - s. Those that begin with p alone are exact; the others come from MOST_VECTORS vectors and MOST_COLUMNS columns where there are
    more, and are scaled up.
    """

    pairs: int
    p: float
    p2: float
    p3: float
    q: float
    pq: float
    r: float
    triangles: float


def size_sums(vectors: Float[Tensor, "E N"], task_map: Map = in_order) -> SizeSums:
    """Of the vectors that are not zero; all finite. O(E^2 N), each entry read twice on a CPU."""
    unit = 1 / _norms(vectors, task_map)
    defined = torch.isfinite(unit)
    unit = torch.where(defined, unit, 0.0)
    p = p2 = p3 = 0.0
    for rows, columns, table in _square_tables(vectors, unit, task_map):
        values = table[np.triu_indices(len(rows), 1)] if rows == columns else table
        p, p2, p3 = p + float(values.sum()), p2 + float((values**2).sum()), p3 + float((values**3).sum())
    count = int(defined.sum())
    return SizeSums(count * (count - 1) // 2, p, p2, p3, *_higher(vectors, unit, defined.nonzero()[:, 0].tolist()))


def _norms(vectors: Tensor, task_map: Map) -> Float[Tensor, " E"]:
    """Lengths in float64; 0 of a zero vector."""
    span = columns_at_once(len(vectors), CHUNK)
    # The square of no other format leaves float64.
    scale = vectors.abs().amax(1, keepdim=True).clamp(min=SMALLEST) if vectors.dtype == torch.float64 else 1.0

    def squares(start: int) -> Tensor:
        return sum((piece.double() / scale).square_().sum(1, keepdim=True) for piece in vectors[:, start : start + span].split(COLUMNS, 1))

    lengths = sum(shared(task_map, vectors)(squares, range(0, vectors.shape[1], span))).sqrt() * scale
    return lengths[:, 0]


def _square_tables(vectors: Tensor, unit: Tensor, task_map: Map) -> Iterator[tuple[range, range, np.ndarray]]:
    """Tables of p of all pairs, of at most SIDE vectors with SIDE others, from squares that are made COLUMNS columns at a time."""

    def squares(part: Tensor, scale: Tensor) -> Iterator[Tensor]:
        step = max(COLUMNS, (1 << 16) // len(part) // COLUMNS * COLUMNS) if on_cpu(part) else CHUNK
        return ((piece * scale[:, None]).square_()[None] for piece in part.split(step, 1))

    parts = [range(start, min(start + SIDE, len(vectors))) for start in range(0, len(vectors), SIDE)]
    for rows, columns in combinations_with_replacement(parts, 2):
        if rows == columns:
            part, scale = vectors[rows.start : rows.stop], unit[rows.start : rows.stop]
            span = columns_at_once(len(part), CHUNK)
            few = waves(shared(task_map, vectors), len(part) ** 2)
            tables = few(
                lambda start, part=part, scale=scale, span=span: gram_of_pieces(squares(part[:, start : start + span], scale)),
                range(0, vectors.shape[1], span),
            )
            yield rows, columns, total(tables)[0].cpu().numpy()
        else:
            numbers = [*rows, *columns]
            left, right = range(len(rows)), range(len(rows), len(numbers))
            pieces = (piece for part in vectors.split(CHUNK, 1) for piece in squares(part[numbers], unit[numbers]))
            yield rows, columns, cross_gram(pieces, left, right)[0].cpu().numpy()


def _higher(vectors: Tensor, unit: Tensor, defined: list[int]) -> tuple[float, float, float, float]:
    """Sums of q, p q and r over pairs, of t^2 - s over triangles."""
    generator = stream(0, "signs", expert=1)
    some = defined if len(defined) <= MOST_VECTORS else sorted(generator.permutation(defined)[:MOST_VECTORS].tolist())
    width = vectors.shape[1]
    at = np.arange(width)
    if width > MOST_COLUMNS:
        runs = np.sort(generator.permutation(width // RUN)[: MOST_COLUMNS // RUN])
        at = (runs[:, None] * RUN + np.arange(RUN)).ravel()
    picked = vectors[some] if width <= MOST_COLUMNS else vectors[torch.tensor(some)[:, None], torch.from_numpy(at)]
    w = (picked.double() * unit[some][:, None]).square().cpu().numpy()
    share, m = width / len(at), len(some)
    pairs = np.triu_indices(m, 1)
    p, q = share * (w @ w.T)[pairs], share * (w**2 @ (w**2).T)[pairs]
    r = share * (w**3 @ (w**3).T)[pairs]
    grown = len(defined) * (len(defined) - 1) / max(1, m * (m - 1))
    triangles, taken = 0.0, min(m, max(8, MOST_VECTORS // 4))
    if m > 2:
        for g in range(taken):
            t, s = share * ((w * w[g]) @ w.T), share * ((w * w[g]) ** 2 @ (w**2).T)
            values = t * t - s
            kept = np.arange(m) != g
            triangles += float(values[kept][:, kept][np.triu_indices(m - 1, 1)].sum())
        triangles /= taken * (m - 1) * (m - 2) / 2
    return grown * float(q.sum()), grown * float((p * q).sum()), grown * float(r.sum()), math.comb(len(defined), 3) * triangles


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
    vectors: Float[Tensor, "*tokens k width"], meetings: TokenPairs, draws: int, task_map: Map = in_order
) -> Float[np.ndarray, " draws"]:
    """The sum of cos^2 over pairs on tokens, with a sign to each coordinate of each expert, the same on all its tokens, drawn anew each
    time; without experts' names with a sign to each coordinate, common to all pairs. O(draws pairs width)."""
    width = vectors.shape[-1]
    dtype = torch.float64 if vectors.dtype == torch.float64 else torch.float32
    at_once = max(1, min(draws, MOST_DRAWS, 4 * SIGNS_AT_ONCE // (meetings.experts * width)))

    def some(start: int) -> np.ndarray:
        count = min(at_once, draws - start)
        drawn = fair(stream(0, "signs", trial=2, block=start), meetings.experts * width * count)
        signs = torch.from_numpy(drawn).to(vectors.device, dtype).view(meetings.experts, width, count)
        sums = torch.zeros(count, dtype=torch.float64, device=vectors.device)
        for part in meetings.groups(max(1, SIGNS_AT_ONCE // width)):
            left, right = meetings.units(vectors, part)
            e, f = meetings.names(part.start)
            both = signs[e] * signs[f] if e != f else signs[e]
            sums += ((left * right).to(dtype) @ both).square().sum(0, dtype=torch.float64)
        return sums.cpu().numpy()

    return np.concatenate(list(shared(task_map, vectors)(some, range(0, draws, at_once))))

"""Overlap of many vectors, pair by pair but never all at once: tables of at most SIDE by SIDE pairs, each reduced and forgotten."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, combinations, islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.kernels.gram import COLUMNS, SIDE, add_cross_grams
from simgap.kernels.products import TILE
from simgap.kernels.token_overlap import SAFE_HIGH, SAFE_LOW
from simgap.overlaps.memory import is_readable, on_cpu, readable, runs, shared
from simgap.overlaps.pair_overlap import CHUNK, columns_at_once, cos2_of_gram, gram_of_pieces, pair_cos2
from simgap.threads import Map, in_order

# Tables that are made side by side where there are as many threads.
AT_ONCE = 64

R = TypeVar("R")
# (name, cos2, rows, columns) -> what is kept of a table of the pairs of some vectors with others, by their numbers; the same ones twice, or
# the rows before the columns. NaN stands for every pair of an undefined vector, the one with itself too.
Reduce = Callable[[str, Float[np.ndarray, "s a b"], range, range], R]
# (rows, columns, task_map) -> the inner products of some vectors with others, of each name.
Products = Callable[[range, range, Map], Iterable[tuple[str, Float[Tensor, "s a b"]]]]


def over_tables(
    count: int, products: Products, reduce: Reduce[R], task_map: Map = in_order, at_once: int = AT_ONCE
) -> Iterator[tuple[str, R]]:
    """What `reduce` keeps of each table of the pairs of `count` vectors, in an order that `count` alone decides.

    Up to SIDE vectors are one table, whose products may use the map themselves; those of more are a task to each table, `at_once` of them
    side by side: first the tables of vectors among themselves, which also give the norms, and then those of some with others.
    """
    parts = [range(start, min(start + SIDE, count)) for start in range(0, max(count, 1), SIDE)]
    inside, outside = (task_map, in_order) if len(parts) == 1 else (in_order, task_map)
    norms: dict[tuple[str, int], np.ndarray] = {}

    def among(part: range) -> list[tuple[str, R]]:
        kept = []
        for name, table in products(part, part, inside):
            norms[name, part.start] = np.sqrt(table.diagonal(dim1=1, dim2=2).cpu().numpy())
            kept.append((name, reduce(name, cos2_of_gram(table), part, part)))
        return kept

    def across(pair: tuple[range, range]) -> list[tuple[str, R]]:
        rows, columns = pair
        return [
            (name, reduce(name, cos2_of_gram(table, (norms[name, rows.start], norms[name, columns.start])), rows, columns))
            for name, table in products(rows, columns, inside)
        ]

    for task, tasks in ((among, iter(parts)), (across, combinations(parts, 2))):
        while wave := list(islice(tasks, at_once)):
            yield from chain.from_iterable(outside(task, wave))


def over_pairs(vectors: Float[Tensor, "s E N"], reduce: Reduce[R], task_map: Map = in_order, at_once: int = AT_ONCE) -> Iterator[R]:
    """What `reduce` keeps of each table of `pair_cos2`, which is whole where there are no more than SIDE vectors.

    O(s E^2 N) of time, and of memory a few tables to each of the `at_once` that are made side by side.
    """
    experts = vectors.shape[1]
    if experts <= SIDE:
        yield reduce("", pair_cos2(vectors, task_map), range(experts), range(experts))
        return
    scale = _scale(vectors)

    def products(rows: range, columns: range, task_map: Map) -> Iterator[tuple[str, Tensor]]:
        if scale is None:
            yield "", cross_gram(iter(vectors.split(columns_at_once(2 * SIDE, CHUNK), -1)), rows, columns)
            return
        some, others = range(len(rows)), range(len(rows), len(rows) + len(columns))
        numbers = [*rows, *columns]
        pieces = (piece[:, numbers] / scale[:, numbers] for piece in vectors.split(COLUMNS, -1))
        yield "", cross_gram(pieces, some, some if rows == columns else others)

    for _, kept in over_tables(experts, products, reduce, shared(task_map, vectors), at_once):
        yield kept


def cross_gram(pieces: Iterable[Float[Tensor, "s E m"]], rows: range, columns: range) -> Float[Tensor, "s a b"]:
    """Inner products of the vectors of some numbers with those of others, or with themselves, from vectors that come piece by piece, at
    least one, all but the last multiples of CHUNK long. The bits of `gram_of_pieces`, within one table."""
    some, others = (slice(part.start, part.stop) for part in (rows, columns))
    if rows == columns:
        return gram_of_pieces(piece[:, some] for piece in pieces)
    table: Tensor | None = None
    for piece in pieces:
        if table is None:
            sizes = (-(-len(part) // TILE) * TILE if on_cpu(piece) else len(part) for part in (rows, columns))
            table = torch.zeros(len(piece), *sizes, dtype=torch.float64, device=piece.device)
        whole = on_cpu(piece) and is_readable(piece)
        for part in (piece,) if whole else piece.split(columns_at_once(len(piece) * 2 * SIDE, COLUMNS), -1):
            if not on_cpu(piece):
                table.baddbmm_(part[:, some].double(), part[:, others].double().mT)
                continue
            flat, starts = runs(part if whole else readable(torch.cat([part[:, some], part[:, others]], 1)))
            left, right = (starts[:, some], starts[:, others]) if whole else (starts[:, : len(rows)], starts[:, len(rows) :])
            add_cross_grams(flat, _whole_tiles(left), _whole_tiles(right), part.shape[-1], table.numpy())
    if table is None:
        raise ValueError("pieces: expected at least one")
    return table[:, : len(rows), : len(columns)]


def _whole_tiles(starts: np.ndarray) -> np.ndarray:
    """The offsets of rows, the last of them repeated to a multiple of TILE."""
    return np.pad(starts, ((0, 0), (0, -starts.shape[1] % TILE)), mode="edge")


def _scale(vectors: Float[Tensor, "s E N"]) -> Float[Tensor, "s E 1"] | None:
    """The largest entries of the vectors of those trials in which a squared norm comes near the ends of float64, and 1 in the others; None
    where there is no such trial: the square of no other format leaves float64."""
    if vectors.dtype != torch.float64:
        return None
    largest, squares = (
        torch.zeros(vectors.shape[:2], dtype=torch.float64, device=vectors.device),
        torch.zeros_like(vectors[..., :1])[..., 0],
    )
    for start in range(0, vectors.shape[1], SIDE):
        part = slice(start, start + SIDE)
        for piece in vectors[:, part].split(COLUMNS, -1):
            largest[:, part] = torch.maximum(largest[:, part], piece.abs().amax(-1))
            squares[:, part] += piece.square().sum(-1)
    safe = (squares > SAFE_LOW) & (squares < SAFE_HIGH)
    # A vector of zeros, or of what is not finite, has no other norm at any scale.
    safe |= (largest == 0) | ~torch.isfinite(largest)
    if safe.all():
        return None
    return torch.where((largest > 0) & ~safe.all(1, keepdim=True), largest, 1.0)[..., None]

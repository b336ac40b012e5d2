"""Overlap of E vectors, one to each expert: flattened weights, or mean activations."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.kernels.gram import COLUMNS, TABLES, add_grams
from simgap.kernels.products import TILE
from simgap.kernels.token_overlap import SAFE_HIGH, SAFE_LOW
from simgap.overlaps.memory import AT_ONCE, is_readable, on_cpu, readable, runs, shared
from simgap.threads import Map, if_large, in_order

# Columns multiplied at a time on other devices, where they are laid out in float64; a power of two, so that it divides every piece of a
# stream.
CHUNK = 1 << 14
# Experts whose pairs are picked by an index to each, which for more takes several times the memory of their table.
FEW = 64


def gram(vectors: Float[Tensor, "s E N"], task_map: Map = in_order) -> Float[Tensor, "s E E"]:
    """Inner products of the E vectors of each trial, in float64 whatever the dtype and whatever the global TF32 setting.

    Entry by entry in order within a span of entries that the shape alone decides, then over spans, so that the bits do not depend on
    task_map. O(s E^2 N), each entry read once on a CPU.
    """
    _, experts, width = vectors.shape
    # From the number of experts alone, so that a trial's bits do not depend on the trials beside.
    span = columns_at_once(experts, CHUNK)
    starts = range(0, max(width, 1), span)
    few = waves(shared(if_large(task_map, vectors.numel()), vectors), len(vectors) * experts * experts)
    return total(few(lambda start: gram_of_pieces([vectors[..., start : start + span]]), starts))


def waves(task_map: Map, numbers: int) -> Callable[[Callable, Sequence], Iterator]:
    """The given map over tasks that each leave a table of so many numbers: in waves of no more than hold TABLES numbers, or of one; one by
    one where nothing is shared."""
    size = 1 if task_map is in_order else max(1, TABLES // max(1, numbers))
    return lambda function, tasks: (
        table for start in range(0, len(tasks), size) for table in task_map(function, tasks[start : start + size])
    )


def columns_at_once(rows: int, step: int) -> int:
    """Columns of so many rows that one task multiplies, or copies: AT_ONCE numbers in all, in multiples of `step`."""
    return max(step, AT_ONCE // max(1, rows) // step * step)


def gram_of_pieces(pieces: Iterable[Float[Tensor, "s E m"]]) -> Float[Tensor, "s E E"]:
    """`gram` of vectors that come piece by piece, at least one, all but the last multiples of CHUNK long; cutting them changes no bit."""
    tables: Tensor | None = None
    for piece in pieces:
        s, experts, width = piece.shape
        if tables is None:
            size = -(-experts // TILE) * TILE if on_cpu(piece) else experts
            tables = torch.zeros(s, size, size, dtype=torch.float64, device=piece.device)
        if experts == 0:
            continue
        if on_cpu(piece):
            # What must be copied to be read is copied a few columns at a time.
            step = width if is_readable(piece) else columns_at_once(s * experts, COLUMNS)
            for part in piece.split(step, -1):
                flat, starts = runs(readable(part))
                add_grams(flat, starts, part.shape[-1], tables.numpy())
        else:
            chunk = max(256, CHUNK >> max(0, (experts - 1).bit_length() - 3))
            for part in piece.split(chunk, -1):
                wide = part.double()
                tables.baddbmm_(wide, wide.mT)
    if tables is None:
        raise ValueError("pieces: expected at least one")
    upper = tables[:, :experts, :experts].triu_()
    return upper.add_(upper.triu(1).mT)


def total(tables: Iterable[Float[Tensor, "s a b"]]) -> Float[Tensor, "s a b"]:
    """The sum of tables, in their order."""
    return functools.reduce(torch.add, tables)


def cos2_of_gram(
    products: Float[Tensor, "s a b"], norms: tuple[Float[np.ndarray, "s a"], Float[np.ndarray, "s b"]] | None = None
) -> Float[np.ndarray, "s a b"]:
    """cos^2 of every pair from inner products, in [0, 1]; NaN where either vector is zero or not finite. A small table, on the host.

    norms: of the rows and of the columns, where these are not the same vectors; otherwise the diagonal has them.
    """
    table = products.cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        rows, columns = (np.sqrt(np.diagonal(table, axis1=-2, axis2=-1)),) * 2 if norms is None else norms
        cos2 = table / rows[..., :, None]
        cos2 /= columns[..., None, :]
        cos2 *= cos2
    return np.minimum(cos2, 1.0, out=cos2)


def cos_of_gram(products: Float[np.ndarray, "E E"]) -> Float[np.ndarray, " P"]:
    """cos of every pair i < j from inner products, signed, in [-1, 1]; NaN where either vector is zero."""
    at: tuple[Int[np.ndarray, " P"], ...] = np.triu_indices(len(products), 1)
    size = np.sqrt(products.diagonal())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((both := size[at[0]] * size[at[1]]) > 0, np.clip(products[at] / both, -1.0, 1.0), np.nan)


def pair_cos2(vectors: Float[Tensor, "s E N"], task_map: Map = in_order) -> Float[np.ndarray, "s E E"]:
    r"""cos^2 of every pair of the E vectors of each trial.

    .. math:: \cos^2(u, v) = \frac{\langle u, v \rangle^2}{\|u\|^2 \|v\|^2}

    Dimensionless, in [0, 1]; 1/N on average for independent sign-symmetric vectors (law N1). Norms far from 1 are safe: where a squared
    norm comes near the ends of float64, each vector is scaled by its largest entry first. NaN where either vector is zero or holds a NaN or
    an infinity. O(s E^2 N).
    """
    products = gram(vectors, task_map)
    cos2 = cos2_of_gram(products)
    norms = products.diagonal(dim1=-2, dim2=-1).cpu().numpy()
    safe = (norms > SAFE_LOW) & (norms < SAFE_HIGH)
    # The square of no other format leaves float64.
    if vectors.dtype != torch.float64 or safe.all():
        return cos2
    pieces = vectors.split(columns_at_once(vectors.shape[0] * vectors.shape[1], COLUMNS), -1)
    largest = functools.reduce(torch.maximum, [piece.abs().amax(-1, keepdim=True) for piece in pieces])
    # A vector of zeros, or of what is not finite, has no other norm at any scale.
    known = largest[..., 0].cpu().numpy()
    safe |= (known == 0) | ~np.isfinite(known)
    if safe.all():
        return cos2
    scale = torch.where(largest > 0, largest, 1.0)
    scaled = cos2_of_gram(gram_of_pieces(piece / scale for piece in pieces))
    return np.where(np.all(safe, axis=-1)[:, None, None], cos2, scaled)


def between(
    cos2: Float[np.ndarray, "s a b"], routed: int, shared: bool = False, first: tuple[int, int] = (0, 0)
) -> Float[np.ndarray, "s P"]:
    """The pairs i < j of routed experts, or (shared) every pair of a routed with a shared expert, from a symmetric (E, E) table.

    first: the numbers of the first row and of the first column, where the table is one of several of a layer: then it holds the pairs of
    some experts with each other, or with later ones.
    """
    rows, columns = (min(max(routed - start, 0), size) for start, size in zip(first, cos2.shape[-2:], strict=True))
    if shared:
        return cos2[..., :rows, columns:].reshape(len(cos2), -1)
    if first[0] != first[1]:
        return cos2[..., :rows, :columns].reshape(len(cos2), -1)
    if rows > FEW:
        return np.concatenate([cos2[..., i, i + 1 : rows] for i in range(rows)], -1)
    i, j = np.triu_indices(rows, k=1)
    # Indexing may lay pairs before trials; numpy sums a row in another order then.
    return np.ascontiguousarray(cos2[..., i, j])

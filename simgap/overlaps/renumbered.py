"""What overlaps of experts' weights would be with their hidden units in other orders (law T8): sums of all pairs, and orders drawn anew."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.overlaps.memory import AT_ONCE, flattened, shared
from simgap.overlaps.pair_overlap import gram, total, waves
from simgap.seeding import stream
from simgap.threads import Map, if_large, in_order

# Columns to the side of a block of G, of which each thread holds all experts': no more numbers than HELD, and a multiple of STEP. Part of
# the order of summation.
MOST_COLUMNS, STEP, HELD = 256, 64, 1 << 23
# Numbers of one expert that are held in float64 at a time.
NUMBERS = 1 << 20
# Units, and columns, that are multiplied at a time where pairs of units are fewer than pairs of columns.
UNITS, COLUMNS = 1024, 4096
# float64 numbers beyond 2^FAR, or below 2^-FAR, are brought nearer to 1, since their fourth powers leave the format.
FAR = 200


@dataclass(frozen=True)
class OrderSums:
    """Of the P pairs i < j of the experts that are not zero, in their order, what law T8 is made of; every expert's weights of length 1.

    experts: the numbers of those that are not zero. units: f. cosines: (P,), of the flattened weights as they are numbered. totals:
    <sum_i w_i, sum_j w'_j>. The others are of units less their mean. traces: tr(G G'), G = sum_i w_i w_i'. spreads: (2, P), of the two
    experts, f sum_i |w_i|^4 / (sum_i |w_i|^2)^2. largest: of <w_i, w'_i> over units of one number, in the direction of the cosine. drawn:
    mean overlaps of all pairs in orders drawn anew; above: how many of these have at least a pair's overlap.
    """

    experts: Int[np.ndarray, " experts"]
    units: int
    cosines: Float[np.ndarray, " pairs"]
    totals: Float[np.ndarray, " pairs"]
    traces: Float[np.ndarray, " pairs"]
    spreads: Float[np.ndarray, "2 pairs"]
    largest: Float[np.ndarray, " pairs"]
    drawn: Float[np.ndarray, " draws"] | None = None
    above: Int[np.ndarray, " pairs"] | None = None


def units_first(weights: Float[Tensor, "E a b"], axis: int) -> Float[Tensor, "E f m"]:
    """The same memory with the axis of hidden units, 1 or 2, before the other."""
    return weights if axis == 1 else weights.mT


def order_sums(parts: Sequence[Float[Tensor, "E f _"]], draws: int = 0, task_map: Map = in_order) -> OrderSums:
    """Of E >= 2 experts' finite weights, f >= 2 units each: one matrix, or several whose rows of a unit belong together.

    With D columns in all O(E f D^2 + E^2 D^2), or O(E^2 f^2 D) where that is less, in float64: no table of f by f, no more than HELD
    numbers and some columns of one expert to a thread. Each column is read D / MOST_COLUMNS times. draws: orders to draw, O(E^2 f D) each.
    """
    parts = _near_one(parts)
    experts, units, _ = parts[0].shape
    task_map = shared(if_large(task_map, sum(part.numel() for part in parts)), parts[0])
    products = total(gram(flattened(part)[None], task_map)[0] for part in parts).cpu().numpy()
    defined = np.flatnonzero(np.diagonal(products) > 0)
    means, spreads = _sums_of_units(parts, task_map)
    few_units = experts * units < means.shape[1]
    traces = (_by_units if few_units else _by_columns)(parts, means, task_map)
    norms = np.sqrt(np.where(np.diagonal(products) > 0, np.diagonal(products), np.inf))
    totals = (means @ means.mT).cpu().numpy() * units**2
    left, right = (defined[side] for side in np.triu_indices(len(defined), 1))
    lengths = norms[left] * norms[right]
    cosines = products[left, right] / lengths
    drawn, above = _drawn(parts, norms, (left, right), cosines**2, draws, task_map) if draws else (None, None)
    low, high = (table[left, right] / lengths for table in _ends(parts, means, task_map))
    largest = np.where(cosines < 0, -low, high)
    of_pairs = (cosines, totals[left, right] / lengths, traces[left, right] / lengths / lengths, spreads[np.stack([left, right])], largest)
    return OrderSums(defined, units, *of_pairs, drawn, above)


def _near_one(parts: Sequence[Tensor]) -> list[Tensor]:
    """The parts, or copies that are times a power of two to each expert, which no cosine sees."""
    if all(part.dtype != torch.float64 for part in parts):
        return list(parts)
    largest = torch.stack([torch.stack(torch.aminmax(flattened(part), dim=1)).double() for part in parts]).abs().amax((0, 1)).cpu().numpy()
    exponents = np.where(largest > 0, np.frexp(largest)[1], 0)
    if np.abs(exponents).max() < FAR:
        return list(parts)
    scale = torch.from_numpy(np.ldexp(1.0, -np.maximum(exponents, -1023))).to(parts[0].device)
    return [part * scale[:, None, None] for part in parts]


def _sums_of_units(parts: Sequence[Tensor], task_map: Map) -> tuple[Float[Tensor, "E D"], Float[np.ndarray, " E"]]:
    """Each expert's mean unit, and of its units less that f sum |w|^4 / (sum |w|^2)^2; 1 where they are all alike."""
    units = parts[0].shape[1]

    def of(expert: int) -> tuple[Tensor, float]:
        means, squares = [], torch.zeros(units, dtype=torch.float64, device=parts[0].device)
        for part in parts:
            for piece in part[expert].split(max(1, NUMBERS // units), 1):
                wide = piece.double()
                means.append(wide.mean(0))
                squares += (wide - means[-1]).square_().sum(1)
        size = float(squares.sum())
        return torch.cat(means), units * float((squares / size).square().sum()) if size > 0 else 1.0

    means, spreads = zip(*task_map(of, range(len(parts[0]))), strict=True)
    return torch.stack(means), np.array(spreads)


def _by_columns(parts: Sequence[Tensor], means: Float[Tensor, "E D"], task_map: Map) -> Float[np.ndarray, "E E"]:
    """tr(G G') of all pairs, G = sum_i w_i w_i' over units less their mean, block by block of G."""
    experts, units, _ = parts[0].shape
    side = max(STEP, min(MOST_COLUMNS, math.isqrt(HELD // experts) // STEP * STEP))
    blocks = list(_stretches(parts, side))

    def of(pair: tuple[tuple[int, range, int], tuple[int, range, int]]) -> Tensor:
        (one, rows, first), (other, columns, second) = pair
        table = torch.empty(experts, len(rows), len(columns), dtype=torch.float64, device=means.device)
        for e in range(experts):
            table[e] = torch.outer(means[e, first : first + len(rows)], means[e, second : second + len(columns)]).mul_(-units)
            for start in range(0, units, NUMBERS // side):
                some = slice(start, start + NUMBERS // side)
                left = parts[one][e, some, rows.start : rows.stop].double()
                right = left if pair[0] == pair[1] else parts[other][e, some, columns.start : columns.stop].double()
                table[e].addmm_(left.mT, right)
        flat = table.flatten(1)
        return flat @ flat.mT if pair[0] == pair[1] else 2 * (flat @ flat.mT)

    pairs = list(combinations_with_replacement(blocks, 2))
    return total(waves(task_map, experts * experts)(of, pairs)).cpu().numpy()


def _stretches(parts: Sequence[Tensor], size: int) -> Iterator[tuple[int, range, int]]:
    """Which part, which of its columns, and where these begin among all."""
    first = 0
    for number, part in enumerate(parts):
        for start in range(0, part.shape[2], size):
            yield number, range(start, min(start + size, part.shape[2])), first + start
        first += part.shape[2]


def _by_units(parts: Sequence[Tensor], means: Float[Tensor, "E D"], task_map: Map) -> Float[np.ndarray, "E E"]:
    """The same as the sum over pairs of units of <w_i, w'_j>^2; 0 on the diagonal and below."""
    experts, units, _ = parts[0].shape
    stretches = list(_stretches(parts, COLUMNS))
    blocks = [slice(start, start + UNITS) for start in range(0, units, UNITS)]

    def centred(e: int, rows: slice, stretch: tuple[int, range, int]) -> Tensor:
        number, columns, first = stretch
        return parts[number][e, rows, columns.start : columns.stop].double() - means[e, first : first + len(columns)]

    def of(pair: tuple[int, int]) -> float:
        trace = 0.0
        for rows, others in product(blocks, blocks):
            table = total(centred(pair[0], rows, stretch) @ centred(pair[1], others, stretch).mT for stretch in stretches)
            trace += float(table.square_().sum())
        return trace

    pairs = list(combinations(range(experts), 2))
    traces = np.zeros((experts, experts))
    traces[np.triu_indices(experts, 1)] = list(task_map(of, pairs))
    return traces


def _ends(parts: Sequence[Tensor], means: Float[Tensor, "E D"], task_map: Map) -> tuple[Float[np.ndarray, "E E"], Float[np.ndarray, "E E"]]:
    """The smallest and the largest <w_i, w'_i> over units i, less their means, of all pairs."""
    experts, units, _ = parts[0].shape
    size = max(1, min(UNITS, AT_ONCE // (experts * experts)))
    span = max(1, AT_ONCE // (experts * size))

    def of(start: int) -> tuple[Tensor, Tensor]:
        rows = slice(start, min(start + size, units))
        table = torch.zeros(rows.stop - start, experts, experts, dtype=torch.float64, device=means.device)
        for number, columns, first in _stretches(parts, span):
            wide = parts[number][:, rows, columns.start : columns.stop].double() - means[:, None, first : first + len(columns)]
            table.baddbmm_(wide.permute(1, 0, 2), wide.permute(1, 2, 0))
        return table.amin(0), table.amax(0)

    low, high = zip(*waves(task_map, experts * experts)(of, range(0, units, size)), strict=True)
    return torch.stack(low).amin(0).cpu().numpy(), torch.stack(high).amax(0).cpu().numpy()


def _drawn(
    parts: Sequence[Tensor],
    norms: Float[np.ndarray, " E"],
    pairs: tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]],
    overlaps: Float[np.ndarray, " P"],
    draws: int,
    task_map: Map,
) -> tuple[Float[np.ndarray, " draws"], Int[np.ndarray, " P"]]:
    """The mean overlap of pairs in orders drawn anew, and how often that of a pair is at least what it is."""
    experts, units, _ = parts[0].shape
    span = max(1, AT_ONCE // (experts * units))
    lengths = norms[pairs[0]] * norms[pairs[1]]

    def one(draw: int) -> tuple[float, Int[np.ndarray, " P"]]:
        generator = stream(0, "permutation", trial=draw, expert=experts, block=2)
        orders = [torch.from_numpy(generator.permutation(units)).to(parts[0].device) for _ in range(experts)]
        table = torch.zeros(experts, experts, dtype=torch.float64, device=parts[0].device)
        for number, columns, _ in _stretches(parts, span):
            held = torch.stack([parts[number][e, :, columns.start : columns.stop][order].double() for e, order in enumerate(orders)])
            table.addmm_(held.flatten(1), held.flatten(1).mT)
        cos2 = (table.cpu().numpy()[pairs] / lengths) ** 2
        return float(cos2.mean()), np.flatnonzero(cos2 >= overlaps * (1 - 1e-9))

    means, above = np.empty(draws), np.zeros(len(overlaps), np.int64)
    at_once = 16
    for start in range(0, draws, at_once):
        numbers = range(start, min(start + at_once, draws))
        for number, (mean, least) in zip(numbers, task_map(one, numbers), strict=True):
            means[number] = mean
            above[least] += 1
    return means, above

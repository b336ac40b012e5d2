"""Second moments of the rows and columns of experts' matrices: how alike those of two are, and which eigenvalues all have together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.overlaps.memory import AT_ONCE, shared
from simgap.threads import Map, in_order


@dataclass(frozen=True)
class SecondMoments:
    """Of W_e W_e' / |W_e|^2, or with `columns` of W_e' W_e / |W_e|^2. alike (E, E): traces of the product of each two. powers: the trace of
    the square and of the cube of their mean over experts, whose trace is 1."""

    alike: Float[np.ndarray, "E E"]
    powers: tuple[float, float]


def lengths(matrices: Float[Tensor, "E r c"], task_map: Map = in_order) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """The largest entry of each matrix, and its squared length in units of that; 0 of a matrix of zeros."""

    def one(e: int) -> tuple[float, float]:
        largest = float(matrices[e].abs().max())
        return largest, sum(float((part.double() / largest).square().sum()) for part in _parts(matrices[e])) if largest else 0.0

    of_each = np.array(list(shared(task_map, matrices)(one, range(len(matrices)))))
    return of_each[:, 0], of_each[:, 1]


def second_moments(matrices: Float[Tensor, "E r c"], task_map: Map = in_order) -> SecondMoments:
    """Of matrices that are not zero. In float64, O(E r^2 c + E^2 r^2 + r^3) with E r^2 numbers made, a few million at a time, and r^2 held;
    for the columns pass the transposes."""
    experts, rows, _ = matrices.shape
    largest, squares = lengths(matrices, task_map)
    step = max(1, AT_ONCE // (experts * rows))

    def some(start: int) -> tuple[Tensor, Tensor]:
        moments = torch.empty(experts, min(step, rows - start), rows, dtype=torch.float64, device=matrices.device)
        for e in range(experts):
            whole = matrices[e].double() / largest[e]
            torch.matmul(whole[start : start + step], whole.T, out=moments[e])
            moments[e] /= squares[e]
        flat = moments.flatten(1)
        return flat @ flat.T, moments.mean(0)

    tables, means = zip(*shared(task_map, matrices)(some, range(0, rows, step)), strict=True)
    mean = torch.cat(means)

    def powers(start: int) -> tuple[float, float]:
        part = mean[start : start + step]
        return float(part.square().sum()), float((part * (part @ mean)).sum())

    sums = np.array(list(shared(task_map, matrices)(powers, range(0, rows, step)))).sum(0).tolist()
    return SecondMoments(sum(tables).cpu().numpy(), (sums[0], sums[1]))


def _parts(matrix: Float[Tensor, "r c"]) -> Iterator[Tensor]:
    yield from matrix.split(max(1, AT_ONCE // matrix.shape[1]))

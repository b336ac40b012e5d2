"""What overlaps on tokens would be with other signs, from sketches of every pair of experts that are made in one pass.

A pair of experts meets on tokens t with products a(t)_i = u_i v_i of unit vectors. With signs s of the experts' coordinates the overlaps
sum to e'Me, e = s s', M = sum_t a(t) a(t)'; its moments need the size of M off its diagonal. Z holds, for buckets b, c of coordinates, the
sum of M_ij e_i e_j over i in b, j in c, i != j, with fair signs that are drawn once: averages of its squares, of its triple products and of
those of three pairs around a triangle are the moments (Charikar, Chen and Farach-Colton 2002 for the squares).
"""

import functools
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from simgap.kernels.sign_flips import BUCKETS, DEPTH, add_waiting, in_order
from simgap.seeding import stream

# Numbers in the tables of all pairs of experts, and groups that experts are counted off by where there are more: pairs whose experts fall
# in the same groups share a table, which adds to its noise and to no moment.
TABLES, MOST_GROUPS = 1 << 14, 64
# Signs of one expert begin at one of so many offsets in a common list, BUCKETS apart.
LEAST_OFFSETS = 1 << 9


@dataclass(frozen=True)
class Signs:
    """Fair signs of the experts' coordinates. experts: (n, k), whose each vector is, anything where there is none. windows: (3, E), where
    in `pool`, whose bytes lie as the kernel wants them, the signs of each begin, as the left and as the right one of a pair, and the
    number of its group."""

    pool: UInt8[np.ndarray, " L"]
    windows: Int[np.ndarray, "3 E"]
    experts: Int[np.ndarray, "n k"]

    @classmethod
    def of(cls, experts: Int[np.ndarray, "n k"] | None, shape: tuple[int, int], width: int) -> "Signs":
        """Of named experts; without names, one sign to a coordinate for all pairs. shape: (n, k)."""
        generator, whole = stream(0, "signs"), -(-width // BUCKETS) * BUCKETS
        if experts is None:
            pool = np.concatenate([_bytes(generator, whole), np.zeros(whole, np.uint8)])
            return cls(pool, np.array([[0], [whole], [0]]), np.zeros(shape, np.int64))
        count = int(experts.max()) + 1
        n_offsets = max(LEAST_OFFSETS, 2 * count)
        begin = BUCKETS * generator.choice(n_offsets, count, replace=False)
        windows = np.stack([begin, begin, np.arange(count) % MOST_GROUPS])
        return cls(_bytes(generator, BUCKETS * n_offsets + whole), windows, np.maximum(experts, 0))

    @property
    def groups(self) -> int:
        return min(self.windows.shape[1], MOST_GROUPS)

    def sketches(self) -> "Sketches":
        buckets, tables = BUCKETS, self.groups * (self.groups + 1) // 2
        while buckets > 2 and tables * buckets**2 > TABLES:
            buckets //= 2
        return Sketches(np.zeros((tables, buckets + 1, buckets)), np.zeros(1), self.groups)

    def of_kernel(self, at: Any) -> tuple[np.ndarray, ...]:
        return self.pool, self.windows, self.experts[at]


@dataclass(frozen=True)
class Sketches:
    """tables: (pairs of groups g <= h, buckets + 1, buckets), outer products of buckets, of which what lies below the diagonal has no
    meaning, and, last, the sums of squares of each bucket.
    total: the sum over all pairs of vectors of sum_i (u_i v_i)^2, in an array of one."""

    tables: Float[np.ndarray, "P B1 B"]
    total: Float[np.ndarray, "1"]
    groups: int

    def plus(self, other: "Sketches") -> "Sketches":
        return Sketches(self.tables + other.tables, self.total + other.total, self.groups)

    def state(self, k: int, width: int, dtype: torch.dtype) -> tuple[Any, ...]:
        """What the kernel writes to."""
        kind, count = np.float64 if dtype == torch.float64 else np.float32, len(self.tables)
        rows, lanes = np.empty((k, width), kind), np.empty((k * (k - 1) // 2, 2 * BUCKETS), kind)
        waiting = np.empty((count, DEPTH, self.tables.shape[2]), kind), np.zeros(count, np.int64)
        return rows, lanes, self.tables.astype(kind), waiting, self.total, np.array([self.groups])

    def take(self, state: tuple[Any, ...]) -> None:
        """What it has written."""
        add_waiting(*state[2:4])
        self.tables[:] = state[2]

    def add(self, rows: Float[Tensor, "R width"], index: Int[Tensor, "n k"], signs: Signs, experts: Int[np.ndarray, "n k"]) -> None:
        """What the kernel does, as tensor operations on any device."""
        width, k, buckets = rows.shape[1], index.shape[1], self.tables.shape[2]
        pool = torch.from_numpy(in_order(signs.pool)).to(rows.device)
        step = max(1, (1 << 22) // width)
        pad = -width % buckets
        for i, j in combinations(range(k), 2):
            both = ((index[:, i] >= 0) & (index[:, j] >= 0)).nonzero()[:, 0]
            for some in both.split(step):
                left, right = (unit_rows(rows[index[some, slot]]) for slot in (i, j))
                named = experts[some.cpu().numpy()]
                product = left * right
                square = torch.nn.functional.pad(product.square(), (0, pad)).view(len(some), -1, buckets).sum(1)
                for side, slot in enumerate((i, j)):
                    begin = torch.from_numpy(signs.windows[side, named[:, slot]]).to(rows.device)
                    product = product * pool[begin[:, None] + torch.arange(width, device=rows.device)]
                sketch = torch.nn.functional.pad(product, (0, pad)).view(len(some), -1, buckets).sum(1)
                low, high = np.sort(signs.windows[2, named[:, [i, j]]], 1).T
                outer = torch.cat([sketch[:, :, None] * sketch[:, None, :], square[:, None, :]], 1).cpu().numpy()
                np.add.at(self.tables, low * self.groups - low * (low - 1) // 2 + high - low, outer)
                self.total[0] += float(square.sum())

    def cumulants(self, width: int) -> tuple[float, float, float]:
        """Mean, variance and third cumulant of the sum of cos^2 over all pairs of vectors under signs.

        The mean is exact. Where there are more coordinates than buckets the others are averages over the signs that were drawn, unbiased
        for the variance, and for the third cumulant up to terms of order 1/buckets^3; the variance, a sum of squares, is never negative.
        """
        z = np.triu(self.tables[:, :-1])
        buckets = z.shape[2]
        diagonal = np.einsum("pbb->pb", z)
        diagonal -= self.tables[:, -1]
        variance = 4 * float((z**2).sum()) - 3 * float((diagonal**2).sum())
        # Chances that two coordinates share a bucket; products around a triangle of coordinates come up once more, three times and so on.
        alike = max(0.0, (width / buckets - 1) / max(1, width - 1))
        whole = z + np.triu(z, 1).mT
        own = float(((whole @ whole) * whole).sum()) / (1 + 3 * alike + 4 * alike**2)
        if self.groups == 1:
            # Without names there is one form, and no triangle.
            return float(self.total[0]), variance, 8 * own
        b, c = _upper(buckets)
        between = np.empty((len(b), self.groups, self.groups))
        g, h = _upper(self.groups)
        between[:, g, h] = between[:, h, g] = z[:, b, c].T
        around = ((between @ between) * between).sum((1, 2)) @ np.where(b == c, 0.25, 2.0)
        # Each triangle six times.
        return float(self.total[0]), variance, 8 * own + 24 * float(around) / 6

    def of_pairs(self, named: Int[np.ndarray, "P 2"]) -> Float[np.ndarray, "3 P"]:
        """The cumulants of each pair of experts alone, e < f, where every pair has tables of its own."""
        low, high = named.T
        at = low * self.groups - low * (low - 1) // 2 + high - low
        z, squares = np.triu(self.tables[at, :-1]), self.tables[at, -1]
        diagonal = np.einsum("pbb->pb", z)
        diagonal -= squares
        variance = 4 * (z**2).sum((1, 2)) - 3 * (diagonal**2).sum(1)
        whole = z + np.triu(z, 1).mT
        # Of few coordinates to a bucket, as in `cumulants`; a pair's own triangles weigh little and err on the side of a larger p.
        return np.stack([squares.sum(1), np.maximum(variance, 0.0), 8 * np.maximum(((whole @ whole) * whole).sum((1, 2)), 0.0)])


@functools.cache
def _upper(size: int) -> tuple[np.ndarray, ...]:
    """`numpy.triu_indices`, which takes as long as all else that is done to a small table."""
    return np.triu_indices(size)


def _bytes(generator: np.random.Generator, count: int) -> UInt8[np.ndarray, " count"]:
    """Bytes whose highest bits are fair, and the others 0."""
    return np.frombuffer(generator.bytes(count), np.uint8) & 128


def fair(generator: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
    """Fair signs, +1 or -1."""
    bits = np.unpackbits(np.frombuffer(generator.bytes(-(-count // 8)), np.uint8), count=count)
    return 1.0 - 2.0 * bits


def unit_rows(rows: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """Rows over their lengths, in float64; zero rows stay."""
    largest = rows.abs().amax(-1, keepdim=True).double()
    scaled = rows.double() / torch.where(largest > 0, largest, 1.0)
    return scaled / scaled.norm(dim=-1, keepdim=True).clamp(min=1.0)

"""Subspaces: weighted principal components of rows that come piece by piece, and the angles between two of them."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

# Leading directions that are kept of many rows, and rows that are held before the others are left.
KEPT = 128
HELD = 2 * KEPT
# Of the largest eigenvalue: what round-off makes of none, in float64.
NOTHING = 1e-12


@dataclass(frozen=True)
class Components:
    """Principal components of weighted rows about their weighted mean. values (r,): eigenvalues of their covariance, descending, none of
    them 0; vectors (width, r): orthonormal; total: its trace; rows: how many weigh as much together, (sum w)^2 / sum w^2."""

    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "width r"]
    total: float
    rows: float

    @property
    def left(self) -> float:
        """Variance that the values do not hold."""
        return max(0.0, self.total - float(self.values.sum()))

    def effective_rank(self) -> float:
        """exp of the entropy of the shares of variance, 1 to width. What was left of many rows counts as spread evenly."""
        width, r = self.vectors.shape
        shares = self.values / self.total
        entropy = -float((shares * shares.log()).sum())
        if width > r and self.left > NOTHING * self.total:
            share = self.left / self.total
            entropy -= share * math.log(share / (width - r))
        return math.exp(entropy)

    def participation_ratio(self) -> float:
        """(sum of eigenvalues)^2 / sum of their squares, 1 to width."""
        width, r = self.vectors.shape
        spread = (self.left / self.total) ** 2 / (width - r) if width > r else 0.0
        return 1 / (float((self.values / self.total).square().sum()) + spread)

    def rank_of_variance(self, share: float) -> int:
        """Fewest components that hold this share of the variance; 0 where those that are kept do not."""
        held = self.values.cumsum(0) >= share * self.total * (1 - NOTHING)
        return int(held.to(torch.int64).argmax()) + 1 if bool(held.any()) else 0

    def rank_beyond_noise(self) -> int:
        """Components whose eigenvalue stands out of those that equal noise in all other directions has: s^2 (1 + sqrt(w/n))^2, the upper
        edge of Marchenko and Pastur, s^2 the mean variance of the w others, n the rows. 0 where none does."""
        width = len(self.vectors)
        held = 0.0
        for r, value in enumerate(self.values.tolist()):
            others = width - r
            noise = max(0.0, self.total - held) / others
            if value <= noise * (1 + math.sqrt(others / self.rows)) ** 2:
                return r
            held += value
        return len(self.values)


@dataclass
class Rows:
    """Weighted rows of one width that come piece by piece: KEPT directions of them at least, in memory of HELD rows; the same bits however
    they are cut. Exact up to HELD rows, and up to a width of HELD at any number of rows."""

    width: int
    held: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    origin: Tensor | None = None
    sketch: Tensor | None = None
    mean: Tensor | None = None
    waiting: int = 0
    weight: float = 0.0
    square: float = 0.0
    size: float = 0.0

    def add(self, rows: Float[Tensor, "m width"], weights: Float[Tensor, " m"]) -> None:
        """Rows of finite numbers, weights >= 0; one of a weight of which the square is 0 is let be."""
        there = weights.double().square() > 0
        rows, weights = rows[there], weights[there]
        while len(rows):
            take = min(len(rows), HELD - self.waiting)
            self.held.append(rows[:take].double())
            self.weights.append(weights[:take].double())
            self.waiting += take
            rows, weights = rows[take:], weights[take:]
            if self.waiting == HELD:
                self._take_in()

    def _take_in(self) -> None:
        rows, weights = torch.cat(self.held), torch.cat(self.weights)
        self.held, self.weights, self.waiting = [], [], 0
        if self.origin is None or self.mean is None:
            # So that little is lost where all rows lie far from 0.
            self.origin, self.mean = rows[0].clone(), torch.zeros_like(rows[0])
        apart = (rows - self.origin) * weights.sqrt()[:, None]
        self.mean += (apart * weights.sqrt()[:, None]).sum(0)
        self.weight += float(weights.sum())
        self.square += float(weights.square().sum())
        self.size += float(apart.square().sum())
        if self.width <= HELD:
            gram = apart.mT @ apart
            self.sketch = gram if self.sketch is None else self.sketch + gram
            return
        stacked = apart if self.sketch is None else torch.cat([self.sketch, apart])
        if len(stacked) > HELD:
            _, singular, directions = torch.linalg.svd(stacked, full_matrices=False)
            stacked = singular[:KEPT, None] * directions[:KEPT]
        self.sketch = stacked

    def components(self) -> Components | None:
        """Of all rows so far; None of fewer than 2, or of rows that do not vary. No more are to be added."""
        if self.waiting:
            self._take_in()
        if self.sketch is None or self.mean is None or not self.weight:
            return None
        mean, rows = self.mean / self.weight, self.weight**2 / self.square
        if self.width <= HELD:
            values, vectors = torch.linalg.eigh(self.sketch / self.weight - mean[:, None] * mean)
        else:
            basis, _ = torch.linalg.qr(torch.cat([self.sketch, mean[None]]).mT)
            inside, at = self.sketch @ basis, mean @ basis
            values, small = torch.linalg.eigh(inside.mT @ inside / self.weight - at[:, None] * at)
            vectors = basis @ small
        values, vectors = values.flip(0), vectors.flip(1)
        total = self.size / self.weight - float(mean.square().sum())
        real = values > NOTHING * (self.size / self.weight)
        if not bool(real.any()):
            return None
        return Components(values[real], vectors[:, real], total, rows)


def principal_angles(one: Float[Tensor, "d r"], other: Float[Tensor, "d q"]) -> Float[Tensor, " m"]:
    """The min(r, q) principal angles between the spans of two orthonormal bases, ascending, 0 to pi/2, in float64.

    Cosines of small angles lose half the digits and so do sines of large ones: each angle is taken from the one that does not (Bjorck and
    Golub 1973)."""
    one, other = one.double(), other.double()
    if one.shape[1] < other.shape[1]:
        one, other = other, one
    products = one.mT @ other
    cosines = torch.linalg.svdvals(products).clamp(max=1.0)
    sines = torch.linalg.svdvals(other - one @ products).clamp(max=1.0).flip(0)
    return torch.where(cosines**2 < 0.5, cosines.arccos(), sines.arcsin())


def distances(angles: Float[Tensor, " m"]) -> dict[str, float]:
    """Of two subspaces by their angles: overlap, the mean of cos^2, 0 to 1; geodesic, sqrt(sum angle^2); chordal, sqrt(sum sin^2);
    largest, the largest cos^2."""
    return {
        "overlap": float(angles.cos().square().mean()),
        "geodesic": float(angles.square().sum().sqrt()),
        "chordal": float(angles.sin().square().sum().sqrt()),
        "largest": float(angles[0].cos().square()),
    }

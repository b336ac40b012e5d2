"""T5: the overlap of independent vectors in a space with large and small directions, and how far it spreads.

y = Lambda^(1/2) g with g isotropic has the shares s_i = E y_i^2 / ||y||^2, and two such vectors overlap by sum s_i s_i' on average. With
1/Q = int_0^inf exp(-t Q) dt, Q = sum_j lambda_j g_j^2 and g normal, whose length does not enter,

    s_i = int_0^inf lambda_i / (1 + 2 lambda_i t) P(t) dt,    P(t) = prod_j (1 + 2 lambda_j t)^(-1/2),

and 1/Q^2 = int t exp(-t Q) dt gives E y_i^2 y_j^2 / ||y||^4 = K_ij for i != j and 3 K_ii for i = j, with one factor more and t dt.

In t = e^x the trapezoidal rule is exact to round-off. For |theta| < pi/2 and t > 0, |1 + 2 lambda t e^(i theta)| >= 1 + 2 lambda t
cos(theta), so that the integrand's modulus on the line Im x = theta integrates to at most 1/cos(theta) times the integral (1/cos^2 for K);
theta = pi/2 - h/(2 pi) then bounds the relative error by 2 (2 pi/h) e exp(-pi^2/h) of the step h, 6e-13 at h = 0.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "T5"
HYPOTHESES = (
    "the two vectors independent, each L^(1/2) g with g isotropic (Gaussian, or of any length)",
    "L of the same directions for both, its eigenvalues given",
    "both are non-zero",
)
STEP = 0.3
# What is left off at either end, relative to the integral.
REST = 1e-14
# Smaller eigenvalues, relative to the largest, have shares of 1e-70 at most, and integrals that leave float64.
LEAST = 1e-140
# Nodes, and eigenvalues, at a time.
NODES = 128


def spectrum_product(t: Any, eigenvalues: Any, counts: Any, *, ctx: Context = FLOAT) -> Any:
    """P(t) = prod_j (1 + 2 lambda_j t)^(-m_j / 2) = E exp(-t Q), for t >= 0; counts: how often each eigenvalue comes."""
    exponent = 0
    for eigenvalue, count in zip(eigenvalues, counts, strict=True):
        exponent = exponent + count * ctx.log1p(2 * eigenvalue * t)
    return ctx.exp(-exponent / 2)


def share_integrand(t: Any, eigenvalue: Any, product: Any, *, ctx: Context = FLOAT) -> Any:
    """The integrand of one coordinate's share, lambda / (1 + 2 lambda t) P(t), product = P(t) (law T5)."""
    eigenvalue = ctx.number(eigenvalue)
    return eigenvalue / (1 + 2 * eigenvalue * t) * product


def spectrum_bound(eigenvalues: Any, counts: Any = None, *, ctx: Context = FLOAT) -> Any:
    """tr L^2 / (tr L)^2, at least the overlap of two vectors of spectrum L, and equal to it iff all eigenvalues but zeros are equal.

    A share rises with its eigenvalue, and less than in proportion, so that the eigenvalues over their sum majorise the shares.
    """
    values = [ctx.number(value) for value in eigenvalues]
    many = [1] * len(values) if counts is None else list(counts)
    return sum(m * v * v for m, v in zip(many, values, strict=True)) / sum(m * v for m, v in zip(many, values, strict=True)) ** 2


@dataclass(frozen=True)
class Spread:
    """Of cos^2 of two independent vectors of one spectrum: its mean, its variance, and the covariance of two pairs that share a vector,
    which only a space that is not round has."""

    mean: float
    variance: float
    covariance: float

    def of_mean(self, first: int, second: int = 0) -> float:
        """Variance of the mean over all pairs of `first` vectors, or over those of `first` with `second` others."""
        pairs, neighbours = (first * second, first + second - 2) if second else (first * (first - 1) // 2, 2 * (first - 2))
        return (self.variance + neighbours * self.covariance) / pairs


def anisotropic_shares(eigenvalues: Any, counts: Any = None) -> Float[np.ndarray, " n"]:
    """s_i of one coordinate of each eigenvalue, relative error below 1e-12, sum_i counts_i s_i = 1 (law T5).

    eigenvalues (n,): finite, >= 0, one above 0; below LEAST of the largest they count as 0. counts (n,): how often each comes;
    once, where not given. Takes O(n log(largest / smallest)). Raises ValueError for other values.

    >>> anisotropic_shares([100, 1], [1, 7]).round(4).tolist()
    [0.739, 0.0373]
    """
    values, many = _checked(eigenvalues, counts)
    shares = np.zeros(len(values))
    t, weight = _rule(values, many)
    for start in range(0, len(values), NODES):
        part = slice(start, start + NODES)
        shares[part] = share_integrand(t, values[part, None], weight, ctx=FLOAT).sum(1)
    return shares


def null_anisotropic_mso(eigenvalues: Any, counts: Any = None, other: Any = None) -> float:
    """E cos^2 = sum_i counts_i s_i s_i' of independent vectors with these second moments before they are made unit vectors (law T5).

    other: the eigenvalues of the second vector where they differ, in the same directions. Errors as of `anisotropic_shares`.

    >>> round(null_anisotropic_mso([100, 1], [1, 7]), 4)
    0.5559
    """
    mine = anisotropic_shares(eigenvalues, counts)
    theirs = mine if other is None else anisotropic_shares(other, counts)
    if len(theirs) != len(mine):
        raise ValueError(f"other: expected {len(mine)} eigenvalues, got {len(theirs)}")
    return float((mine * theirs * _checked(eigenvalues, counts)[1]).sum())


def anisotropic_spread(eigenvalues: Any, counts: Any = None) -> Spread:
    """Mean, variance and covariance of cos^2 (law T5), exact for vectors of one spectrum; arguments as of `anisotropic_shares`.

    E cos^4 = 3 sum_ij K_ij^2 + 6 sum_i K_ii^2; given one vector v of a pair the mean is sum s_i v_i^2, and its variance is the covariance.
    K itself is never made.
    """
    values, many = _checked(eigenvalues, counts)
    values, many = values[values > 0], many[values > 0]
    t, weight = _rule(values, many)
    # (n, nodes): a_i(t) = lambda_i / (1 + 2 lambda_i t), K_ij = sum_t weight t a_i a_j.
    a = values[:, None] / (1 + 2 * values[:, None] * t)
    shares, weight = (a * weight).sum(1), weight * t
    between, own = a.T @ (many[:, None] * a), (a * a * weight).sum(1)
    mean = float((many * shares * shares).sum())
    fourth = 3 * ((between * between * weight).sum(1) * weight).sum() + 6 * (many * own**2).sum()
    along = ((many * shares)[:, None] * a).sum(0)
    covariance = (weight * along**2).sum() + 2 * (many * shares * shares * own).sum() - mean * mean
    return Spread(mean, max(0.0, float(fourth) - mean * mean), max(0.0, float(covariance)))


def _checked(eigenvalues: Any, counts: Any) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Eigenvalues, the largest 1 and what is below LEAST of it 0, and counts."""
    values = np.asarray(eigenvalues, np.float64)
    many = np.ones(values.shape) if counts is None else np.asarray(counts, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or not (values >= 0).all() or not values.any():
        raise ValueError(f"eigenvalues: expected finite numbers of at least 0, not all of them 0, got {_short(eigenvalues)}")
    if many.shape != values.shape or not np.isfinite(many).all() or not (many >= 1).all():
        raise ValueError(f"counts: expected {len(values)} numbers of at least 1, got {_short(counts)}")
    values = values / values.max()
    return np.where(values < LEAST, 0.0, values), many


def _short(values: Sequence[Any]) -> str:
    text = f"{values!r}"
    return text if len(text) < 80 else f"{text[:77]}..."


def _rule(values: Float[np.ndarray, " n"], counts: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Nodes t and weights, P(t) included, of an integral over t: equally spaced in log t.

    Of all integrands lambda / (1 + 2 lambda t) P(t) t, over lambda, that of the smallest eigenvalue falls last. Its integral is at least
    1 / (trace + 2), and over x < x0 it is at most e^x0; its logarithm is concave, so that beyond x1 it is at most its value over its slope.
    """
    kept = values > 0
    values, counts = values[kept], counts[kept]
    goal, smallest = REST / (float((values * counts).sum()) + 2), float(values.min())
    first, parts = math.log(goal), []
    while True:
        x = first + STEP * np.arange(NODES)
        t = np.exp(x)
        product = spectrum_product(t, values.tolist(), counts.tolist(), ctx=FLOAT)
        parts.append((t, STEP * t * product))
        last = 2 * values * t[-1]
        slope = float((counts * last / (1 + last)).sum()) / 2 - 1 / (1 + 2 * smallest * t[-1])
        if slope > 0 and t[-1] / (1 + 2 * smallest * t[-1]) * product[-1] < goal * slope:
            t, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
            return t, weight
        first += STEP * NODES

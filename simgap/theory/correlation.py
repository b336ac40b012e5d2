"""S1, S2: what a correlation over trials says of the points behind it, and what untrained experts give it."""

import math
from typing import Any

import numpy as np

from simgap.stats import implied_n, pearson_p
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

__all__ = [
    "correlation_t",
    "critical_correlation",
    "degrees_of_freedom",
    "false_positive_rate",
    "implied_n",
    "null_weight_output_covariance",
    "pearson_p",
]

ID = "S1"
HYPOTHESES = (
    "n points whose two sides are independent of each other, one side of i.i.d. normal entries, the other anything but constant",
    "for the clustered rate: both sides normal, points that share a seed equally correlated, points of different seeds independent",
)

# Gauss points for each of the three directions below.
NODES = 48


def correlation_t(r: Any, n: Any, *, ctx: Context = FLOAT) -> Any:
    """t = r sqrt((n - 2) / (1 - r^2)), Student's t on n - 2 degrees of freedom without a true correlation (law S1). |r| < 1, n >= 3.

    `pearson_p` is its two-sided p, `implied_n` the inverse: every n that a rounded r and its rounded p allow.
    """
    r, n = ctx.number(r), ctx.number(n)
    return r * ctx.sqrt((n - 2) / (1 - r * r))


def degrees_of_freedom(n: Any, *, ctx: Context = FLOAT) -> Any:
    """n - 2: of n points, the mean and the direction of the other side take one each (law S1)."""
    return ctx.number(n) - 2


def critical_correlation(n: int, level: float = 0.05) -> float:
    """The |r| whose two-sided p at n i.i.d. points is `level` (law S1)."""
    from scipy.special import stdtrit

    _check_level(level)
    if not n >= 3:
        raise ValueError(f"n: expected a whole number of at least 3, got {n!r}")
    t = -float(stdtrit(n - 2, level / 2))
    return t / math.sqrt(n - 2 + t * t)


def false_positive_rate(seeds: int, conditions: int, level: float = 0.05, within_correlation: float = 1.0) -> float:
    """The chance that seeds x conditions points, taken for i.i.d., call two unrelated sides correlated at `level` (law S1).

    Each side is normal, equally correlated by `within_correlation` between the conditions of a seed, independent between seeds. At 1 the
    conditions are copies, r has the law of n = seeds, and the rate is its p at the |r| that is critical for n = seeds conditions: 0.44 for
    10 seeds x 5 conditions at 0.05. At 0 it is `level`. Between, the centred points split into a part between seeds, of seeds - 1
    dimensions and variance 1 + (c - 1) w, and one within, of seeds (c - 1) dimensions and variance 1 - w:

        r = sqrt(B1 B2) C_between + sqrt((1 - B1)(1 - B2)) C_within,

    B1, B2 the shares of either side between seeds (functions of Beta variables), C the cosines of uniform directions, all independent.
    Absolute error below 1e-6 from 10 seeds on, below 5e-3 at 3. seeds >= 3, conditions >= 1. Raises ValueError out of range.
    """
    from scipy.special import betainc

    if not (seeds >= 3 and conditions >= 1) or seeds % 1 or conditions % 1:
        raise ValueError(f"seeds, conditions: expected whole numbers of at least 3 and 1, got {seeds!r} and {conditions!r}")
    _check_level(level)
    if not 0 <= within_correlation <= 1:
        raise ValueError(f"within_correlation: expected a number in [0, 1], got {within_correlation!r}")
    critical = critical_correlation(seeds * conditions, level)
    if conditions == 1 or within_correlation == 0:
        return level
    if within_correlation == 1:
        return pearson_p(critical, seeds)
    between, within = seeds - 1, seeds * (conditions - 1)
    share, share_weight = _beta_rule(between / 2, within / 2)
    ratio = (1 + (conditions - 1) * within_correlation) / (1 - within_correlation)
    share = ratio * share / (ratio * share + 1 - share)
    one, two = share[:, None, None], share[None, :, None]
    sizes = np.sqrt(one * two), np.sqrt((1 - one) * (1 - two))
    dimensions = between, within
    # The direction that carries more of r is integrated in closed form, so that what is left to the nodes is smooth.
    wide = int(share @ share_weight < 0.5)
    cosine, cosine_weight = _cosine_rule(dimensions[1 - wide])
    left = sizes[1 - wide] * cosine

    def above(x: np.ndarray) -> np.ndarray:
        """P(C > x) for the cosine C of a uniform direction: C^2 ~ Beta(1/2, (dimensions - 1)/2)."""
        inside = np.clip(x, -1, 1)
        return (1 - np.sign(inside) * betainc(0.5, (dimensions[wide] - 1) / 2, inside**2)) / 2

    # C is symmetric: P(r < -critical) is P(C > (critical + left) / size).
    chance = above((critical - left) / sizes[wide]) + above((critical + left) / sizes[wide])
    return float(np.einsum("ijk,i,j,k->", chance, share_weight, share_weight, cosine_weight))


def null_weight_output_covariance(*, ctx: Context = FLOAT) -> Any:
    """Cov(weight MSO of W_up, output MSO) at initialisation: 0, exactly (law S2), since E[output MSO | W_up] = 1/d whatever W_up is.

    They are independent for Gaussian W_down with one vector per expert; not in general: under Rademacher W_down the spread of the output
    overlap depends on the hidden vectors, and they on W_up.
    """
    return ctx.number(0)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")


def _beta_rule(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss nodes and weights for an expectation over Beta(a, b)."""
    x, w = _jacobi_rule(b - 1, a - 1)
    return (1 + x) / 2, w


def _cosine_rule(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for the cosine between a fixed and a uniform direction of R^dimensions; in one dimension a sign."""
    if dimensions == 1:
        return np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    return _jacobi_rule((dimensions - 3) / 2, (dimensions - 3) / 2)


def _jacobi_rule(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss nodes on (-1, 1) for the density proportional to (1 - x)^a (1 + x)^b, and weights that sum to 1, from the recurrence of the
    Jacobi polynomials (Golub and Welsch 1969): scipy's roots_jacobi overflows from a and b of a few hundred."""
    k, both = np.arange(1.0, NODES), a + b
    diagonal = np.concatenate([[(b - a) / (both + 2)], (b - a) * both / ((2 * k + both) * (2 * k + both + 2))])
    # At k = 1 the factor k + a + b = 2k + a + b - 1 cancels, which a + b = -1 needs.
    ratio = np.concatenate([[1.0], (k[1:] + both) / (2 * k[1:] + both - 1)])
    beside = np.sqrt(4 * k * (k + a) * (k + b) * ratio / ((2 * k + both) ** 2 * (2 * k + both + 1)))
    x, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return x, vectors[0] ** 2

"""T6: how far overlaps spread given the sizes of entries, where chance decides which entry has which size, and its sign."""

import math
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "T6"
HYPOTHESES = (
    "experts independent; given the sizes of a vector's entries, chance decides which coordinate has which, and each sign: rows of W_down "
    "or W_up i.i.d. and symmetric, of all experts but one; no coordinates are large in all",
    "a coordinate of an expert keeps its place and its sign on all of its tokens",
    "no expert meets itself",
)
CENTRED = (
    "experts independent; given the values of a vector's entries, chance decides which coordinate has which: rows of W_up i.i.d., of all "
    "experts but one",
    "each vector sums to 0 (LayerNorm without gain and bias)",
    "a coordinate of an expert keeps its place on all of its tokens",
)


def overlap_covariance(width: Any, a: Any, b: Any, own: Any = 1, other: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """Cov(cos^2(t), cos^2(t')) of a pair of experts on two tokens, given all sizes, under fair signs and orders of coordinates (law T6).

    a b / N + [(1 - a)(1 - b) + 2 (g - a)(h - b)] / (N (N-1)) - 1/N^2; a = sum_i u_i^2 u'_i^2 of the first expert's unit vectors u, u' on
    the two tokens and g = (u'u')^2 their cos^2 (`own`); b and h (`other`) the same of the second's. Of one token, g = h = 1 and it is N1's
    variance N A B + 3N (1/N - A)(1/N - B)/(N-1) - 1/N^2 at A = a/N, B = b/N: of the vectors themselves, no expectation is left.
    width: N >= 2. Numbers or arrays.
    """
    n, a, b, g, h = (ctx.number(each) for each in (width, a, b, own, other))
    return a * b / n + ((1 - a) * (1 - b) + 2 * (g - a) * (h - b)) / (n * (n - 1)) - 1 / (n * n)


def centred_overlap_covariance(width: Any, a: Any, b: Any, own: Any = 1, other: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """The same of unit vectors that sum to 0, under orders alone, whose mean is 1/(N-1) (laws N4 and T6); exact too.

    ab/N + [4ab + (1-a)(1-b) + 2 (g-a)(h-b)]/(N)_2 + [2 (2a-1)(2b-1) + 4 (2a-g)(2b-h)]/(N)_3 + (1+2g-6a)(1+2h-6b)/(N)_4 - 1/(N-1)^2, (N)_k
    = N (N-1) .. (N-k+1). width: N >= 4.
    """
    n, a, b, g, h = (ctx.number(each) for each in (width, a, b, own, other))
    two, three, four = 4 * a * b + (1 - a) * (1 - b) + 2 * (g - a) * (h - b), 2 * (2 * a - 1) * (2 * b - 1), (1 + 2 * g - 6 * a)
    three = three + 4 * (2 * a - g) * (2 * b - h)
    four = four * (1 + 2 * h - 6 * b)
    falling = n * (n - 1)
    return a * b / n + two / falling + three / (falling * (n - 2)) + four / (falling * (n - 2) * (n - 3)) - 1 / (n - 1) ** 2


def blocks_moments(widths: Any, shares: Any, fourths: Any, *, ctx: Context = FLOAT) -> tuple[Any, Any]:
    """Mean and variance of cos^2 of vectors made of blocks, whose entries change positions and signs within a block alone (law T6).

    E cos^2 = sum_r s_r s'_r / N_r; the second moment sum_r m_r + 6 sum_{r < q} (s_r s'_r / N_r)(s_q s'_q / N_q), m_r = f_r f'_r / N_r
    + 3 (s_r^2 - f_r)(s'_r^2 - f'_r) / (N_r (N_r - 1)). widths: N_r >= 2 of each block; shares: pairs (s_r, s'_r) of the squared length of
    either unit vector that is in it; fourths: pairs (f_r, f'_r) of the sums of their fourth powers.
    """
    n = [ctx.number(width) for width in widths]
    means = [s * t / size for size, (s, t) in zip(n, shares, strict=True)]
    fourth = sum(
        f * g / size + 3 * (s * s - f) * (t * t - g) / (size * (size - 1)) for size, (s, t), (f, g) in zip(n, shares, fourths, strict=True)
    )
    mean = sum(means)
    across = 3 * (mean * mean - sum(one * one for one in means))
    return mean, fourth + across - mean * mean


def sd_of_sum(variance: float, pairs: int) -> float:
    """Standard deviation of a mean over `pairs` from the variance of their sum; what is below 0 by round-off is 0."""
    return math.sqrt(max(variance, 0.0)) / pairs

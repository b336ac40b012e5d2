"""T9: the overlap of independent matrices whose rows and columns have scales, or correlations, of their own."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "T9"
HYPOTHESES = (
    "matrices of experts independent, of mean 0",
    "second moments separable: E W_ij W_kl = R_ik C_jl for some R of rows and C of columns (scales of either, also rotated; no blocks)",
    "norms concentrated: many rows and columns matter",
    "sd: entries Gaussian, one R and C for all experts",
)


def separable_mso(rows: Any, columns: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = tr(R R') tr(C C') / (tr R tr R' tr C tr C'), to leading order (law T9): 1/N for equal scales.

    rows: tr(R R') / (tr R tr R') of the two experts; columns: the same of C. The ratio of expectations E <W, W'>^2 / (E |W|^2 E |W'|^2)
    exactly.
    """
    return ctx.number(rows) * ctx.number(columns)


def separable_error(second: Any, third: Any, *, ctx: Context = FLOAT) -> Any:
    """By how much that exceeds the mean for Gaussian entries, to leading order: 4 (s3 - s2^2), s_k the sum of the k-th powers of
    the eigenvalues of R x C over their sum. At least 0; 0 for equal scales (law T5)."""
    s2 = ctx.number(second)
    return 4 * (ctx.number(third) - s2 * s2)


def direction_spread(second: Any, third: Any, fourth: Any, *, ctx: Context = FLOAT) -> Any:
    """Half the variance of u'Su/|u|^2, the mean overlap of all others with one Gaussian vector u, to leading order: s4 - 2 s2 s3 + s2^3.

    At least 0; 0 for equal scales. second, third, fourth: s_k as of `separable_error`.
    """
    s2, s3, s4 = (ctx.number(each) for each in (second, third, fourth))
    return s4 - 2 * s2 * s3 + s2**3


def separable_variance(second: Any, direction: Any, n_experts: Any, *, ctx: Context = FLOAT) -> Any:
    """Variance of the mean of cos^2 over all pairs of E experts, to leading order: [2 s2^2 + (4E - 2) D] / P, D of `direction_spread`
    (law T9), which all pairs of one expert share. n_experts: E >= 2, P = E (E - 1)/2."""
    s2, e = ctx.number(second), ctx.number(n_experts)
    return (2 * s2 * s2 + (4 * e - 2) * ctx.number(direction)) / (e * (e - 1) / 2)

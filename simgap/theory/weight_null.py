"""N1: the overlap of independent vectors in R^N is 1/N on average, and how far it spreads."""

from collections.abc import Sequence
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "N1"
HYPOTHESES = (
    "the two vectors are independent",
    "one of them has equally scaled entries that are i.i.d. and symmetric about 0 (the other may be anything)",
    "both are non-zero",
)
GAUSSIAN = "one of them is isotropic (Gaussian entries): cos^2 ~ Beta(1/2, (N-1)/2)"
HAAR = "both are Haar-distributed orthogonal matrices: second moments are isotropic and the norm is constant"


def null_mso(width: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = 1/N, exactly (law N1). width: N >= 1."""
    return 1 / ctx.number(width)


def null_weight_mso(d_model: Any, d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E weight MSO = 1/(d f) for one flattened matrix of each expert, exactly (law N1 with N = d f)."""
    return null_mso(ctx.number(d_model) * ctx.number(d_ff), ctx=ctx)


def null_variance(width: Any, *, ctx: Context = FLOAT) -> Any:
    """Var cos^2 = 2(N-1) / (N^2 (N+2)) where one vector is isotropic: the variance of Beta(1/2, (N-1)/2) (law N1).

    Pairs that share a vector are uncorrelated, so the mean over P pairs and T trials has this over P T as its exact variance.
    """
    n = ctx.number(width)
    return 2 * (n - 1) / (n * n * (n + 2))


def null_variance_general(width: Any, a: Any, b: Any, *, ctx: Context = FLOAT) -> Any:
    """Var cos^2 = N A B + 3 N (1/N - A)(1/N - B)/(N-1) - 1/N^2 (law N1), u sign-symmetric and exchangeable, v anything.

    a, b: E (1/N) sum_i (u_i / ||u||)^4 of either side, in [1/N^2, 1/N]; E[(u_1^2 / ||u||^2)^2] where entries are exchangeable, 3/(N(N+2))
    for a Gaussian side, and then `null_variance` returns. width: N >= 2.
    """
    n, a, b = ctx.number(width), ctx.number(a), ctx.number(b)
    return n * a * b + 3 * n * (1 / n - a) * (1 / n - b) / (n - 1) - 1 / (n * n)


def share_moment(width: Any, kurtosis: Any, *, ctx: Context = FLOAT) -> Any:
    """E[(u_1^2 / ||u||^2)^2] as a ratio of expectations, kappa / (N (kappa + N - 1)), for i.i.d. entries.

    kurtosis: kappa = E u^4 / (E u^2)^2 >= 1. Exact for Gaussian entries (kappa = 3) and for signs (kappa = 1);
    otherwise relative error O(1/N).
    """
    n, kurtosis = ctx.number(width), ctx.number(kurtosis)
    return kurtosis / (n * (kurtosis + n - 1))


def haar_variance(d_model: Any, d_ff: Any) -> Any:
    """Var cos^2 of two independent Haar (d_ff, d_model) matrices with orthonormal columns (or rows), n = max >= 2, m = min.

    E cos^4 = 3 ((n+1) m - 2) / (m^3 n (n-1)(n+2)): the fourth moment of tr(J' V) over O(n), J the projection on m axes, from the fourth
    Weingarten moments 3 ((n+1)(tr JJ')^2 - 2 tr (JJ')^2) / (n (n-1)(n+2)), divided by the constant norms m^2 squared. At n = m it is the
    Gaussian's 3/m^4: traces of Haar matrices have Gaussian moments (Diaconis and Shahshahani 1994). Extends law N1.
    """
    n, m = max(d_model, d_ff), min(d_model, d_ff)
    return 3 * ((n + 1) * m - 2) / (m * m * m * n * (n - 1) * (n + 2)) - 1 / (n * m) ** 2


def null_all_weights_mso(sizes: Sequence[Any], variances: Sequence[Any]) -> Any:
    """E cos^2 of matrices flattened together: sum_i n_i v_i^2 / (sum_i n_i v_i)^2, n_i entries of variance v_i each.

    Exact, and 1/sum n_i, where all variances agree and the entries are i.i.d.; otherwise leading order with relative error O(1/N). For
    Kaiming W_up and W_down it is (d^2 + f^2) / ((d + f)^2 d f), not 1/(2 d f) (law N1).
    """
    return sum(n * v * v for n, v in zip(sizes, variances, strict=True)) / sum(n * v for n, v in zip(sizes, variances, strict=True)) ** 2

"""N1: the overlap of independent vectors in R^N is 1/N on average, and how far it spreads."""

ID = "N1"
HYPOTHESES = (
    "the two vectors are independent",
    "one of them has equally scaled entries that are i.i.d. and symmetric about 0 (the other may be anything)",
    "both are non-zero",
)
GAUSSIAN = "one of them is isotropic (Gaussian entries): cos^2 ~ Beta(1/2, (N-1)/2)"
HAAR = "both are Haar-distributed orthogonal matrices: second moments are isotropic and the norm is constant"


def null_mso(width):
    """E cos^2 = 1/N, exactly, in any arithmetic that divides (law N1). width: N >= 1."""
    return 1 / width


def null_weight_mso(d_model, d_ff):
    """E weight MSO = 1/(d f) for one flattened matrix of each expert, exactly (law N1 with N = d f)."""
    return null_mso(d_model * d_ff)


def null_variance(width):
    """Var cos^2 = 2(N-1) / (N^2 (N+2)) where one vector is isotropic: the variance of Beta(1/2, (N-1)/2) (law N1).

    Pairs that share a vector are uncorrelated, so the mean over P pairs and T trials has this over P T as its exact variance.
    """
    return 2 * (width - 1) / (width * width * (width + 2))


def null_variance_general(width, a, b):
    """Var cos^2 = N A B + 3 N (1/N - A)(1/N - B)/(N-1) - 1/N^2 for any two independent sign-symmetric exchangeable vectors (law N1).

    a, b: E[(u_1^2 / ||u||^2)^2] of either side, in [1/N^2, 1/N]; 3/(N(N+2)) for a Gaussian side, and then `null_variance` returns.
    width: N >= 2.
    """
    return width * a * b + 3 * width * (1 / width - a) * (1 / width - b) / (width - 1) - 1 / (width * width)


def share_moment(width, kurtosis):
    """E[(u_1^2 / ||u||^2)^2] as a ratio of expectations, kappa / (N (kappa + N - 1)), for i.i.d. entries.

    kurtosis: kappa = E u^4 / (E u^2)^2 >= 1. Exact for Gaussian entries (kappa = 3) and for signs (kappa = 1);
    otherwise relative error O(1/N).
    """
    return kurtosis / (width * (kurtosis + width - 1))


def haar_variance(d_model, d_ff):
    """Var cos^2 of two independent Haar (d_ff, d_model) matrices with orthonormal columns (or rows), n = max >= 2, m = min.

    E cos^4 = 3 ((n+1) m - 2) / (m^3 n (n-1)(n+2)): the fourth moment of tr(J' V) over O(n), J the projection on m axes, from the fourth
    Weingarten moments 3 ((n+1)(tr JJ')^2 - 2 tr (JJ')^2) / (n (n-1)(n+2)), divided by the constant norms m^2 squared. At n = m it is the
    Gaussian's 3/m^4: traces of Haar matrices have Gaussian moments (Diaconis and Shahshahani 1994). Extends law N1.
    """
    n, m = max(d_model, d_ff), min(d_model, d_ff)
    return 3 * ((n + 1) * m - 2) / (m * m * m * n * (n - 1) * (n + 2)) - 1 / (n * m) ** 2


def null_all_weights_mso(sizes, variances):
    """E cos^2 of matrices flattened together: sum_i n_i v_i^2 / (sum_i n_i v_i)^2, n_i entries of variance v_i each.

    Exact, and 1/sum n_i, where all variances agree and the entries are i.i.d.; otherwise leading order with relative error O(1/N). For
    Kaiming W_up and W_down it is (d^2 + f^2) / ((d + f)^2 d f), not 1/(2 d f) (law N1).
    """
    return sum(n * v * v for n, v in zip(sizes, variances, strict=True)) / sum(n * v for n, v in zip(sizes, variances, strict=True)) ** 2

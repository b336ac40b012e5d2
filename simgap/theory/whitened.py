"""Law T4: independent vectors in a space that the second moment of other experts' unit vectors has made rounder.

v -> (S + r/d I)^(-1/2) v with S = E uu' of unit vectors of *other* experts. Whatever that map is, it is independent of the pair, so that T2
holds of the mapped vectors: meeting on a token adds nothing where directions have one law on all tokens. That their second moments are one
before the map does not suffice. A turn of the space and lengths of vectors are not seen. Scales of directions are, since S has the shares
s_i of law T5 where vectors have the eigenvalues lambda_i: in the plane, of two directions whose lengths are as p to 1, whitening leaves
the root of p.
"""

from collections.abc import Sequence
from typing import Any

from simgap.theory.anisotropic import anisotropic_shares, null_anisotropic_mso
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "T4"
HYPOTHESES = (
    "experts independent given the tokens and the routing",
    "the map is made from other experts' vectors alone",
    "the law of an expert's directions, over experts, is the same on all tokens",
)


def whitened_spectrum(eigenvalues: Sequence[Any], shares: Sequence[Any], ridge: Any, width: Any, *, ctx: Context = FLOAT) -> list[Any]:
    """lambda_i / (s_i + r/d) of each direction: what infinitely many other experts leave (law T4).

    eigenvalues, shares: of law T5. ridge: r >= 0, of the mean eigenvalue of S, which is 1/d. They differ where the lambda_i do, since a
    share rises less than in proportion.
    """
    ridge, width = ctx.number(ridge), ctx.number(width)
    return [ctx.number(value) / (share + ridge / width) for value, share in zip(eigenvalues, shares, strict=True)]


def null_whitened_mso(eigenvalues: Any, counts: Any = None, ridge: float = 1e-3) -> float:
    """E cos^2 of two such vectors of this spectrum, whitened by infinitely many others (law T4).

    1/d where eigenvalues are equal, more where they differ; of few others, whose moment is not that of all, it is larger yet. ridge > 0;
    the rest as of `null_anisotropic_mso`, whose errors it has.

    >>> round(null_whitened_mso([100, 1], [4, 60]), 4), round(null_whitened_mso([1], [64]), 4)
    (0.0159, 0.0156)
    """
    shares = anisotropic_shares(eigenvalues, counts)
    width = len(shares) if counts is None else sum(counts)
    return null_anisotropic_mso(whitened_spectrum(list(eigenvalues), shares.tolist(), ridge, width), counts)

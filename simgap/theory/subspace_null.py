"""N5: how much a random subspace of R^d overlaps with any other."""

from numbers import Real
from typing import Any

import numpy as np

from simgap.stats import plain
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, elementwise

ID = "N5"
HYPOTHESES = (
    "one of the two subspaces is uniform (Haar): the span of Gaussian vectors, or of any with an isotropic law",
    "the other is independent of it, and may be anything",
    "U1, U2 orthonormal bases, of the subspaces' own ranks",
)


def null_subspace_overlap(d_model: Any, rank: Any, other_rank: Any = None, *, ctx: Context = FLOAT) -> Any:
    """E ||U1' U2||_F^2 / min(r1, r2) = max(r1, r2) / d, exactly (law N5): r/d for equal ranks, 1 where one subspace is everything.

    rank, other_rank: r1 and r2, in 1..d_model; r2 = r1 where not given; in floats numbers or arrays that broadcast. Raises ValueError for a
    rank out of range or not whole.
    """
    if any(np.ndim(value) for value in (d_model, rank, other_rank)):
        return elementwise(null_subspace_overlap, d_model, rank, rank if other_rank is None else other_rank)
    d, first, second = _checked(d_model, rank, other_rank, ctx)
    return max(first, second) / d


def null_subspace_variance(d_model: Any, rank: Any, other_rank: Any = None, *, ctx: Context = FLOAT) -> Any:
    """Var ||U1' U2||_F^2 / min(r1, r2)^2 = 2 r1 r2 (d - r1)(d - r2) / (d^2 (d-1)(d+2) min(r1, r2)^2), exactly (law N5). d_model >= 2.

    Arguments as in `null_subspace_overlap`. At r1 = r2 = 1 it is the variance of cos^2 of law N1, 2(d-1) / (d^2 (d+2)). Raises ValueError
    for a rank out of range or not whole, and for d_model below 2.
    """
    if any(np.ndim(value) for value in (d_model, rank, other_rank)):
        return elementwise(null_subspace_variance, d_model, rank, rank if other_rank is None else other_rank)
    d, first, second = _checked(d_model, rank, other_rank, ctx)
    if _is_number(d_model) and d_model < 2:
        raise ValueError(f"d_model: expected at least 2, a line has one subspace, got {d_model!r}")
    return 2 * max(first, second) * (d - first) * (d - second) / (d * d * (d - 1) * (d + 2) * min(first, second))


def null_subspace_edge(d_model: Any, rank: Any, other_rank: Any = None, *, ctx: Context = FLOAT) -> Any:
    """(sqrt(p(1 - q)) + sqrt(q(1 - p)))^2, p = r1/d, q = r2/d; 1 where r1 + r2 >= d: what the largest squared cosine of a principal angle
    of a uniform subspace with any other tends to as d grows at fixed r/d (Wachter, Ann. Statist. 8 (1980)).

    An edge, not a mean: in finite d the largest stays below it, by about d^(-2/3) relative, and only now and then beyond. 4 r (d - r)/d^2
    for equal ranks. Two subspaces of r1 + r2 > d share a direction. Arguments as in `null_subspace_overlap`; ranks are numbers. Raises
    ValueError for a rank out of range or not whole.

    >>> round(null_subspace_edge(512, 8), 4)
    0.0615
    """
    if any(np.ndim(value) for value in (d_model, rank, other_rank)):
        return elementwise(null_subspace_edge, d_model, rank, rank if other_rank is None else other_rank)
    d, first, second = _checked(d_model, rank, other_rank, ctx)
    given = rank, rank if other_rank is None else other_rank, d_model
    # At r1 + r2 = d the edge is 1 itself. A symbol has no place in an order.
    if all(_is_number(value) for value in given) and given[0] + given[1] >= d_model:
        return ctx.number(1)
    p, q = first / d, second / d
    return plain((ctx.sqrt(p * (1 - q)) + ctx.sqrt(q * (1 - p))) ** 2)


def _checked(d_model: Any, rank: Any, other_rank: Any, ctx: Context) -> tuple[Any, Any, Any]:
    d, first = ctx.number(d_model), ctx.number(rank)
    second = first if other_rank is None else ctx.number(other_rank)
    for name, value in (("rank", rank), ("other_rank", other_rank)):
        # A symbol has no place in an order; every number has.
        if _is_number(value) and _is_number(d_model) and (not 1 <= value <= d_model or value % 1):
            raise ValueError(f"{name}: expected a whole number in 1..{d_model}, got {value!r}")
    return d, first, second


def _is_number(value: Any) -> bool:
    return isinstance(value, Real)

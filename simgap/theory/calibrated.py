"""N7: an overlap against its null: what can be compared across spaces of different dimension, and what cannot."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "N7"
HYPOTHESES = (
    "mso is a mean of squared cosines, so 0 <= mso <= 1",
    "null is its expectation for independent vectors, 0 < null < 1",
)


def excess(mso: Any, null: Any, *, ctx: Context = FLOAT) -> Any:
    """mso / null: 1 in expectation under the null, from 0 to its ceiling 1 / null (law N7).

    Not comparable across spaces: one and the same cosine has an excess proportional to 1 / null, and an excess of 2 means identical vectors
    in two dimensions and a cosine of 0.04 in a thousand. `scaled_excess` and `excess_ceiling` stand beside it.
    """
    return ctx.number(mso) / ctx.number(null)


def excess_ceiling(null: Any, *, ctx: Context = FLOAT) -> Any:
    """The largest excess, 1 / null: that of identical vectors, and the dimension of the space where null = 1/N (law N7)."""
    return 1 / ctx.number(null)


def scaled_excess(mso: Any, null: Any, *, ctx: Context = FLOAT) -> Any:
    """(mso - null) / (1 - null): 0 in expectation under the null, 1 for identical vectors, at least -null / (1 - null) (law N7).

    Where a share p of the pairs is identical and the others are independent its expectation is p, in every space.
    """
    mso, null = ctx.number(mso), ctx.number(null)
    return (mso - null) / (1 - null)


def scaled_floor(null: Any, *, ctx: Context = FLOAT) -> Any:
    """The smallest scaled excess, -null / (1 - null): that of orthogonal vectors (law N7)."""
    null = ctx.number(null)
    return -null / (1 - null)


def effective_dimension(mso: Any, *, ctx: Context = FLOAT) -> Any:
    """1 / mso: the dimension in which independent vectors overlap as much on average; 1 for identical vectors. mso above 0 (law N7)."""
    return 1 / ctx.number(mso)


def deviation(mso: Any, null: Any, sd: Any, *, ctx: Context = FLOAT) -> Any:
    """z = (mso - null) / sd, the same for the excess and for the scaled excess, whose standard deviations are sd/null and sd/(1-null).

    Its law is the null's, not a normal one: take p from `mso_p` (laws N1B, N7). sd above 0.
    """
    return (ctx.number(mso) - ctx.number(null)) / ctx.number(sd)

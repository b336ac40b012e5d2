"""T1: the overlap of independent vectors from their second moments alone, whatever their laws."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.weight_null import null_mso

ID = "T1"
HYPOTHESES = ("the two unit vectors are independent", "their second moments given")


def moment_overlap(first: Any, second: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = tr(S S') of independent unit vectors u, u' with S = E uu', S' = E u'u'', exactly (law T1).

    first, second: symmetric (d, d) tables, of trace 1. A common mean m adds m m' to S.
    """
    n = range(len(first))
    return sum(ctx.number(first[i][j]) * ctx.number(second[j][i]) for i in n for j in n)


def null_round_mso(width: Any, *, ctx: Context = FLOAT) -> Any:
    """The least that tr(S^2) is in R^width: 1/width, attained by S = I/width and nothing else (law T1)."""
    return null_mso(width, ctx=ctx)

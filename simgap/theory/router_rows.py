"""R6: what confident routing of slowly moving tokens says about the rows of the next layer's router.

Two routers R, Q with unit rows, one token x_i of unit length for each expert, x'_i the same token a layer later, ||x'_i - x_i|| <= delta.
Confidence as softmax mass 1 - iota fixes a margin of logits, and that leaves <q_i, q_j> free below a ceiling that grows as the margin
shrinks; confidence as alignment, <r_i, x_i> and <q_i, x'_i> >= 1 - iota, does carry near-orthogonality over, at the rate sqrt(iota).
"""

from typing import Any

import numpy as np

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "R6"
HYPOTHESES = (
    "router rows and tokens of unit length, an inverse temperature outside",
    "|<r_i, r_j>| <= eps for i != j",
    "||x'_i - x_i|| <= delta for a token x_i of each expert",
    "aligned: <r_i, x_i> >= 1 - iota and <q_i, x'_i> >= 1 - iota",
)


def confidence_margin(iota: Any, inverse_temperature: Any, *, ctx: Context = FLOAT) -> Any:
    """The margin of logits that a softmax mass 1 - iota asks for: log((1 - iota)/iota) / beta, exact for two experts (law R6).

    With more experts each single margin is at least this. iota: in (0, 1/2]; inverse_temperature: beta > 0.
    """
    iota = ctx.number(iota)
    return ctx.log((1 - iota) / iota) / ctx.number(inverse_temperature)


def margin_ceiling(margin: Any, distance: Any, *, ctx: Context = FLOAT) -> Any:
    """<q_i, q_j> <= 1 - 2 m^2/D^2: all that margins of m say (law R6).

    <q_i - q_j, x'_i> >= m and <q_j - q_i, x'_j> >= m; distance: D = ||x'_i - x'_j||, in (0, 2], and m <= D. Attained for tokens that are
    orthonormal (D^2 = 2) by `witness_rows`, down to <q_i, q_j> = -1 at m = sqrt 2. There is no lower bound but -1.
    """
    margin, distance = ctx.number(margin), ctx.number(distance)
    return 1 - 2 * margin * margin / (distance * distance)


def witness_rows(overlap: Any, *, ctx: Context = FLOAT) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
    """Unit rows q_1, q_2 in R^3 with <q_1, q_2> = c that route e_1 to the first and e_2 to the second with margin sqrt(1 - c) (law R6).

    q = +-sqrt((1 - c)/4) (e_1 - e_2) + sqrt((1 + c)/2) e_3. overlap: c in [-1, 1).
    """
    c = ctx.number(overlap)
    apart, common = ctx.sqrt((1 - c) / 4), ctx.sqrt((1 + c) / 2)
    return (apart, -apart, common), (-apart, apart, common)


def aligned_ceiling(eps: Any, delta: Any, iota: Any, *, ctx: Context = FLOAT) -> Any:
    """|<q_i, q_j>| <= sin(arcsin eps + 4 arccos(1 - iota) + 4 arcsin(delta/2)) for aligned tokens (law R6).

    Attained, by rows and tokens of one plane, wherever the angle is at most pi/2; beyond it nothing is left to say, and the bound is 1: in
    floats that is what comes back, while symbols and balls give the sine, which is no bound there (see `aligned_angle`). By algebra:
    half = arccos(1 - iota) + arcsin(delta/2), doubled twice.
    """
    eps, delta, iota = ctx.number(eps), ctx.number(delta), ctx.number(iota)
    near, far = 1 - iota, ctx.sqrt(iota * (2 - iota))
    still, moved = ctx.sqrt(1 - delta * delta / 4), delta / 2
    cos, sin = near * still - far * moved, far * still + near * moved
    for _ in range(2):
        cos, sin = cos * cos - sin * sin, 2 * sin * cos
    sine = eps * cos + ctx.sqrt(1 - eps * eps) * sin
    if ctx is not FLOAT:
        return sine
    bound = np.where(aligned_angle(eps, delta, iota) > ctx.pi / 2, 1.0, sine)
    return bound if bound.ndim else float(bound)


def aligned_angle(eps: Any, delta: Any, iota: Any, *, ctx: Context = FLOAT) -> Any:
    """The angle arcsin eps + 4 arccos(1 - iota) + 4 arcsin(delta/2) of `aligned_ceiling`, which says something up to pi/2 (law R6)."""
    half = ctx.number(ctx.pi) / 2 - ctx.asin(1 - ctx.number(iota))
    return ctx.asin(ctx.number(eps)) + 4 * half + 4 * ctx.asin(ctx.number(delta) / 2)


def plain_ceiling(eps: Any, delta: Any, iota: Any, *, ctx: Context = FLOAT) -> Any:
    """|<q_i, q_j>| <= eps + 1.03 (2 delta + 4 sqrt(2 iota)), for all eps, delta, iota >= 0: the same in plain terms (law R6)."""
    return ctx.number(eps) + ctx.number("1.03") * (2 * ctx.number(delta) + 4 * ctx.sqrt(2 * ctx.number(iota)))

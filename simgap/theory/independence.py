"""F3: two experts with any weight overlap and any output overlap: neither value bounds the other."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "F3"
HYPOTHESES = (
    "d_model >= 2, d_ff >= 1",
    "overlap of W_up: cos^2 of the flattened matrices; output overlap: cos^2 of W_down,e act(W_up,e x), token by token",
    "tokens whose hidden readings c'h_1 and c'h_2 are both non-zero: else an output is 0 and has no direction",
)
LINEAR = "linear experts y = W x, every token the same input e_1, weight overlap below 1"


class ExpertPair(NamedTuple):
    """Two experts: W_up (d_ff, d_model) and W_down (d_model, d_ff) of each."""

    W_up1: Shaped[np.ndarray, "d_ff d_model"]
    W_up2: Shaped[np.ndarray, "d_ff d_model"]
    W_down1: Shaped[np.ndarray, "d_model d_ff"]
    W_down2: Shaped[np.ndarray, "d_model d_ff"]


def pair_with_overlaps(weight_overlap: Any, output_overlap: Any, d_model: int, d_ff: int, *, ctx: Context = FLOAT) -> ExpertPair:
    """Two experts whose W_up overlap by `weight_overlap`, and whose outputs overlap by `output_overlap` on every input (law F3).

    W_up1 = r e_1' and W_up2 = r (sqrt(a) e_1 + sqrt(1-a) e_2)' with r = (1, -1, 1, ..)'; W_down1 = u c' and W_down2 = v c' with u = e_1,
    v = sqrt(b) e_1 + sqrt(1-b) e_2 and c = (2, 1, 2, ..)'. Outputs are (c'h_1) u and (c'h_2) v: their overlap is b wherever neither
    reading c'h_e is 0, whatever the activation, the gates, the routing and the inputs; gated sums of one expert's outputs over tokens too.
    Rows of both signs and unequal c keep a reading from vanishing for a rectifier (from d_ff = 2) and for an odd activation.

    weight_overlap, output_overlap: in [0, 1]; d_model >= 2; d_ff >= 1. The overlaps hold exactly, up to the rounding of square roots.
    Raises ValueError out of range.
    """
    _check_sizes(d_model, d_ff)
    W_up1, W_up2 = (
        _outer([1 - 2 * (i % 2) for i in range(d_ff)], row) for row in _two_rows(weight_overlap, "weight_overlap", d_model, ctx)
    )
    u, v = _two_rows(output_overlap, "output_overlap", d_model, ctx)
    c = [2 - i % 2 for i in range(d_ff)]
    return ExpertPair(W_up1, W_up2, _outer(u, c), _outer(v, c))


def linear_pair_with_overlaps(weight_overlap: Any, output_overlap: Any, d_model: int, *, ctx: Context = FLOAT) -> tuple[Any, Any]:
    """Two (d, d) linear experts whose weights overlap by a, and whose outputs at x = e_1 by b (law F3, a point-mass input).

    With p = sqrt(a), q = sqrt(b): W_1 = [e_1, t e_1, 0..], W_2 = [q e_1 + sqrt(1-q^2) e_2, t (k e_1 + sqrt(1-k^2) e_2), 0..], t^2 = 1/(1-p)
    and k = 1 - (1-p)(1-p+q), which lies in [-1, 1]; then <W_1, W_2> = q + t^2 k = p (1 + t^2).

    weight_overlap: in [0, 1); output_overlap: in [0, 1]; d_model >= 2. Raises ValueError out of range: proportional weights have
    proportional outputs, so that weight overlap 1 leaves linear experts only output overlap 1.
    """
    _check_sizes(d_model, 1)
    a, b = _overlap(weight_overlap, "weight_overlap", ctx), _overlap(output_overlap, "output_overlap", ctx)
    if a == 1:
        raise ValueError("weight_overlap: expected less than 1 for linear experts, got 1: theirs would be proportional, outputs too")
    p, q = ctx.sqrt(a), ctx.sqrt(b)
    # 1 - k = (1-p)(1-p+q), in [0, 2] after rounding too.
    gap, t = (1 - p) * (1 - p + q), 1 / ctx.sqrt(1 - p)
    first, second = _zeros(d_model, d_model, ctx), _zeros(d_model, d_model, ctx)
    first[0, 0], first[0, 1] = ctx.number(1), t
    second[0, 0], second[1, 0] = q, ctx.sqrt(1 - b)
    second[0, 1], second[1, 1] = t * (1 - gap), t * ctx.sqrt(gap * (2 - gap))
    return first, second


def _two_rows(overlap: Any, name: str, d_model: int, ctx: Context) -> tuple[list[Any], list[Any]]:
    overlap = _overlap(overlap, name, ctx)
    rest = [ctx.number(0)] * (d_model - 2)
    return [ctx.number(1), ctx.number(0), *rest], [ctx.sqrt(overlap), ctx.sqrt(1 - overlap), *rest]


def _outer(left: list[Any], right: list[Any]) -> Any:
    return np.array([[x * y for y in right] for x in left])


def _zeros(rows: int, columns: int, ctx: Context) -> Any:
    return np.array([[ctx.number(0)] * columns] * rows, dtype=np.float64 if ctx is FLOAT else object)


def _overlap(value: Any, name: str, ctx: Context) -> Any:
    if isinstance(value, Real) and not 0 <= float(value) <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {value}")
    return ctx.number(value)


def _check_sizes(d_model: int, d_ff: int) -> None:
    if d_model < 2:
        raise ValueError(f"d_model: expected at least 2, so that two directions can differ, got {d_model}")
    if d_ff < 1:
        raise ValueError(f"d_ff: expected at least 1, got {d_ff}")

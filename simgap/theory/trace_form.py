"""F1, F2: the inner product of two weight matrices is the mean of a quadratic form of the input, and leaves its spread free."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "F1"
HYPOTHESES = ("x uniform on the unit sphere of R^d", "W_1 and W_2 fixed, of one shape (f, d); M = W_1' W_2")


def symmetric_part(matrix: Shaped[Any, "d d"]) -> Shaped[np.ndarray, "d d"]:
    """S = (M + M')/2: x' M x = 0 for every x iff S = 0 (law F1). Any entries that add and divide by 2."""
    matrix = np.asarray(matrix)
    return (matrix + matrix.T) / 2


def symmetric_norm(matrix: Shaped[Any, "d d"]) -> Any:
    """||S||_F^2 = (||M||_F^2 + tr M^2) / 2 of M's symmetric part (law F1)."""
    return (symmetric_part(matrix) ** 2).sum()


def form_mean(trace: Any, d_model: Any, *, ctx: Context = FLOAT) -> Any:
    """E x' M x = tr M / d, and tr M = <W_1, W_2>_F: all that a Frobenius inner product decides (law F1). d_model: d >= 1."""
    return ctx.number(trace) / ctx.number(d_model)


def form_variance(symmetric_norm: Any, trace: Any, d_model: Any, *, ctx: Context = FLOAT) -> Any:
    """Var x' M x = 2/(d(d+2)) (||S||_F^2 - (tr S)^2/d) (law F1): 0 iff S is a multiple of I.

    symmetric_norm: ||S||_F^2; trace: tr M = tr S; d_model: d >= 1.
    """
    norm, trace, d = ctx.number(symmetric_norm), ctx.number(trace), ctx.number(d_model)
    return 2 * (norm - trace * trace / d) / (d * (d + 2))


def balanced_witness(d_model: int) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, "d d"]]:
    """W_1 = I and W_2 = diag(+1.., -1..), half of each sign: weight overlap 0 (law F2).

    Raises ValueError unless d_model is even and positive: an odd trace of signs is not 0.
    """
    if d_model < 2 or d_model % 2:
        raise ValueError(f"d_model: expected an even number of at least 2, got {d_model}")
    signs = np.repeat([1.0, -1.0], d_model // 2)
    return np.eye(d_model), np.diag(signs)


def balanced_overlap(x: Any) -> Any:
    """cos^2 of W_1 x and W_2 x for the balanced witness: (sum of the first d/2 x_i^2 - sum of the others)^2 / ||x||^4 (law F2).

    x: (..., d), d even, non-zero; numbers or symbols. 1 at any x within either half's coordinates, 0 where the halves weigh the same.
    Raises ValueError for an odd d.
    """
    x = np.asarray(x)
    # Squares of machine integers may overflow.
    squares = (x if x.dtype == object else x.astype(np.float64)) ** 2
    if squares.shape[-1] % 2:
        raise ValueError(f"x: expected an even number of coordinates, got {squares.shape[-1]}")
    half = squares.shape[-1] // 2
    first, second = squares[..., :half].sum(-1), squares[..., half:].sum(-1)
    return ((first - second) / (first + second)) ** 2


def balanced_mso(d_model: Any, *, ctx: Context = FLOAT) -> Any:
    """Activation MSO of the balanced witness as linear experts, x isotropic: 2/(d+2), d even (law F2).

    It is 2d/(d+2) times the null 1/d: as much at d = 2, about twice in many dimensions.
    """
    return 2 / (ctx.number(d_model) + 2)

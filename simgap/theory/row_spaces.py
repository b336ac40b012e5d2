"""F5: what orthogonal row spaces, and orthogonal column spaces, of two W_up do to the overlap of the hidden vectors."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from simgap.theory.activations import Activation, activation_of
from simgap.theory.context import Context
from simgap.theory.dual_map import kappa_zero
from simgap.theory.floats import FLOAT

ID = "F5"
HYPOTHESES = (
    "x ~ N(0, I): isotropy alone leaves pre-activations uncorrelated, not independent",
    "orthogonal rows: W_e W_e' = s^2 I for each expert and W_1 W_2' = 0, so d >= 2 f",
    "both hidden vectors non-zero",
)


def orthogonal_rows_overlap(alignment1: Any, alignment2: Any, d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2(h_1, h_2) = 1/f + (f q_1 - 1)(f q_2 - 1)/(f(f-1)), exactly, for independent vectors of f exchangeable entries (law F5).

    alignment1, alignment2: q_e = E cos^2(h_e, 1), the all-ones vector's overlap with each, in [0, 1]; kappa(0) in the wide limit.
    d_ff: f >= 2.
    """
    q1, q2, f = ctx.number(alignment1), ctx.number(alignment2), ctx.number(d_ff)
    return 1 / f + (f * q1 - 1) * (f * q2 - 1) / (f * (f - 1))


def alignment_from_moments(m1: Any, m2: Any, m3: Any, m4: Any, d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2(h, 1) for f i.i.d. entries with moments m_p = E h_i^p, up to O(1/f^2) (law F5):

    q = m1^2/m2 + [1 - m1^2/m2 - 2 m1 (m3 - m1 m2)/m2^2 + m1^2 (m4 - m2^2)/m2^3]/f.
    """
    m1, m2, m3, m4, f = (ctx.number(value) for value in (m1, m2, m3, m4, d_ff))
    size = m1 * m1 / m2
    return size + (1 - size - 2 * m1 * (m3 - m1 * m2) / (m2 * m2) + m1 * m1 * (m4 - m2 * m2) / (m2 * m2 * m2)) / f


def row_alignment(activation: str | Activation, d_ff: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """`alignment_from_moments` for act(s z), z standard normal: kappa(0) + O(1/f)."""
    act, std = activation_of(activation), ctx.number(std)

    def moment(p: int) -> Any:
        return ctx.expect(lambda x: act.value(x, ctx) ** p, std, degree=p)

    return alignment_from_moments(moment(1), moment(2), moment(3), moment(4), d_ff, ctx=ctx)


def orthogonal_rows_limit(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """kappa(0)^2: the overlap that orthogonal row spaces leave in wide layers, above 0 unless E act(sz) = 0 (law F5)."""
    return kappa_zero(activation, std, ctx=ctx) ** 2


def mirrored_limit(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """(E e^2 / E act^2)^2 = ((1 + kappa(-1))/2)^2, e(x) = (act(x) + act(-x))/2 at x = sz: the wide limit for mirrored rows (law F5).

    At least kappa(0)^2, and more unless e(sz) is constant. ReLU: 1/4. W_1'W_2 = 0 there: pre-activations are orthogonal at every input.
    """
    act, std = activation_of(activation), ctx.number(std)
    even = ctx.expect(lambda x: ((act.value(x, ctx) + act.value(-x, ctx)) / 2) ** 2, std, degree=2)
    return (even / ctx.expect(lambda x: act.value(x, ctx) ** 2, std, degree=2)) ** 2


def complement_change(d_model: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """E ||P W_2 x||^2 = s^2 d, P the projection on the columns of W_1: what moving W_2's columns off W_1's changes at x (law F5).

    W_2 with i.i.d. Gaussian entries, independent of W_1 of rank d; s^2: the variance of an entry of W_2 x.
    """
    return ctx.number(d_model) * ctx.number(std) ** 2


def disjoint_units(
    first: Shaped[np.ndarray, "f1 d"], second: Shaped[np.ndarray, "f2 d"]
) -> tuple[Shaped[np.ndarray, "f d"], Shaped[np.ndarray, "f d"]]:
    """W_1 = [A; 0] and W_2 = [0; B]: W_1'W_2 = 0, and where act(0) = 0 hidden vectors of disjoint support, overlap exactly 0 (law F5)."""
    first, second = np.asarray(first), np.asarray(second)
    return np.concatenate([first, 0 * second]), np.concatenate([0 * first, second])


def mirrored_rows(rows: Float[np.ndarray, "m d"]) -> tuple[Float[np.ndarray, "f d"], Float[np.ndarray, "f d"]]:
    """W_1 = [V; V] and W_2 = [V; -V]: W_1'W_2 = 0 for any V, f = 2m (law F5; `mirrored_limit` for i.i.d. Gaussian rows)."""
    rows = np.asarray(rows)
    return np.concatenate([rows, rows]), np.concatenate([rows, -rows])

"""R2: descent on the experts' overlaps with each other: where their weight MSO goes, without a task and against one."""

from collections.abc import Sequence
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "R2"
HYPOTHESES = (
    "E unit vectors (flattened up-projections) follow the gradient flow of R = sum_{i<j} <w_i, w_j>^2 on their spheres: "
    "dw_i/dt = -2 sum_{j != i} g_ij (w_j - g_ij w_i), g_ij = <w_i, w_j>",
    "no other loss moves them (under a task: see `penalty_slope`)",
)


def gram_velocity(gram: Any) -> Any:
    """dG/dt = 2 (D G + G D) - 4 G^2, D the diagonal of G^2: the flow of R in the E x E table of inner products alone (law R2).

    gram: a square matrix with unit diagonal, numpy's or sympy's.
    """
    square = gram @ gram
    sizes = [square[i, i] for i in range(square.shape[0])]
    velocity = -4 * square
    for i, a in enumerate(sizes):
        for j, b in enumerate(sizes):
            velocity[i, j] += 2 * (a + b) * gram[i, j]
    return velocity


def log_det_rate(loss: Any, *, ctx: Context = FLOAT) -> Any:
    """d log det G / dt = 8 R along the flow (law R2): the volume that the E vectors span never falls. loss: R >= 0."""
    return 8 * ctx.number(loss)


def pair_mso(mso0: Any, t: Any, *, ctx: Context = FLOAT) -> Any:
    """cos^2 of two vectors after time t: c0 / (c0 + (1 - c0) e^{8t}), a logistic curve down from c0 (law R2).

    Written in e^{-8t}, so that it does not overflow. mso0: c0 in [0, 1]; 0 and 1 stay. t >= 0, and in floats below 90 for c0 = 1.
    """
    c0, x = ctx.number(mso0), ctx.exp(-8 * ctx.number(t))
    return c0 * x / ((1 - c0) + c0 * x)


def loss_bound(log_det: Any, t: Any, *, ctx: Context = FLOAT) -> Any:
    """R(t) <= -log det G(0) / (8 t), for every number of experts (law R2). log_det: log det G(0) <= 0, finite; t > 0."""
    return -ctx.number(log_det) / (8 * ctx.number(t))


def rank_floor(experts: Any, rank: Any, *, ctx: Context = FLOAT) -> Any:
    """MSO >= (E - r) / (r (E - 1)) of E unit vectors in r dimensions (Welch 1974), which the flow never leaves (law R2).

    0 for linearly independent starts (r = E), 1 for identical ones (r = 1). experts >= 2, 1 <= rank <= experts.
    """
    e, r = ctx.number(experts), ctx.number(rank)
    return (e - r) / (r * (e - 1))


def penalty_slope(gradient: Sequence[Any], step: Sequence[Any]) -> Any:
    """dR/dlambda = -grad R' H^{-1} grad R <= 0 along a branch of non-degenerate minima of task + lambda R (law R2B).

    gradient: grad R at the minimum; step: H^{-1} grad R, H the Hessian of task + lambda R there.
    """
    return -sum(g * s for g, s in zip(gradient, step, strict=True))


def gibbs_slope(variance: Any, temperature: Any, *, ctx: Context = FLOAT) -> Any:
    """d E R/dlambda = -Var R / temperature <= 0 under the law of density exp(-(task + lambda R) / temperature) (law R2B)."""
    return -ctx.number(variance) / ctx.number(temperature)

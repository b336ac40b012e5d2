"""F4: how little of the pre-activation overlap a Frobenius orthogonalisation removes from independent weights."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "F4"
HYPOTHESES = (
    "W_1, W_2 independent, (f, d), entries i.i.d. Gaussian of mean 0 (each matrix with its own scale)",
    "x isotropic with E ||x||^4 finite, independent of them",
    "orthogonalised: W_2 replaced by W_2 - (<W_1,W_2>/||W_1||^2) W_1, not rescaled",
    "reduction: 1 - E (x'M'x)^2 / E (x'Mx)^2, a ratio of expectations of the squared inner product of W_1 x and W_2 x",
)


def trace_share(d_model: Any, *, ctx: Context = FLOAT) -> Any:
    """E (tr M)^2 / E (x'Mx)^2 = 1/(d+2) for x ~ N(0, I): the term that a Frobenius inner product enters by (law F4). d_model: d >= 1."""
    return 1 / (ctx.number(d_model) + 2)


def futility_share(d_model: Any, d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """The share of E (x'Mx)^2 that projecting W_2 off W_1 removes: (f+2)/(f d+2) = [1 + 2(f+d+1)/(f d+2)]/(d+2) (law F4).

    Above 1/d at every f if d >= 2, and at most 3/(d+2), its value at f = 1: it falls with f to 1/d, and vanishes with d. 1 at d = 1.
    d_model, d_ff: d, f >= 1.
    """
    d, f = ctx.number(d_model), ctx.number(d_ff)
    return (f + 2) / (f * d + 2)


def unit_norm_futility_share(d_model: Any, d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """The same share where both matrices have unit Frobenius norm before and after: 1 - (1 - share) f d/(f d-1) (law F4).

    1 - E[(x'M'x)^2/(||W_1||^2 ||W_2'||^2)] / E[(x'Mx)^2/(||W_1||^2 ||W_2||^2)]: smaller, for the projection shortens W_2. f d >= 2.
    """
    size = ctx.number(d_model) * ctx.number(d_ff)
    return 1 - (1 - futility_share(d_model, d_ff, ctx=ctx)) * size / (size - 1)

"""R5: how little a router's concentration leaves of its entropy."""

from fractions import Fraction
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "R5"
HYPOTHESES = (
    "p a distribution over E experts",
    "its k largest probabilities sum to at least 1 - eps",
)


def split_entropy(eps: Any, top_k: Any, n_experts: Any, *, ctx: Context = FLOAT) -> Any:
    """h(eps) + (1 - eps) log k + eps log(E - k), in nats: the entropy of mass 1 - eps even over k experts, eps over the others.

    h(eps) = -eps log eps - (1 - eps) log(1 - eps). eps in (0, 1), 1 <= k < E.
    """
    eps, k, n = ctx.number(eps), ctx.number(top_k), ctx.number(n_experts)
    return -eps * ctx.log(eps) - (1 - eps) * ctx.log(1 - eps) + (1 - eps) * ctx.log(k) + eps * ctx.log(n - k)


def entropy_bound(eps: int | str | float | Fraction, top_k: int, n_experts: int, *, ctx: Context = FLOAT) -> Any:
    """The largest entropy, in nats, of a distribution whose k largest probabilities sum to at least 1 - eps (law R5).

        H(p) <= h(e) + (1 - e) log k + e log(E - k),  e = min(eps, 1 - k/E),

    attained by mass (1 - e)/k on each of k experts and e/(E - k) on each other. log k at eps = 0, log E for eps >= 1 - k/E.
    eps: a number or decimal text in [0, 1]; top_k in 1..n_experts. Raises ValueError out of range.
    """
    if not 1 <= top_k <= n_experts:
        raise ValueError(f"top_k: expected a whole number in 1..{n_experts}, got {top_k!r}")
    exact = Fraction(eps)
    if not 0 <= exact <= 1:
        raise ValueError(f"eps: expected a number in [0, 1], got {eps!r}")
    if exact >= 1 - Fraction(top_k, n_experts):
        return ctx.log(ctx.number(n_experts))
    if exact == 0:
        return ctx.log(ctx.number(top_k))
    return split_entropy(eps, top_k, n_experts, ctx=ctx)

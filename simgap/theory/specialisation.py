"""R7: when experts that specialise route decisively, in one precise form, and when they do not.

p(x) are the router's probabilities over E experts, M(x) the mass of its k largest. The coupling paper's Theorem 3.1 ("weak specialisation
implies high-probability decisive routing") is known by its title alone, so nothing here decides it.
"""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "R7"
HYPOTHESES = (
    "p(x) a probability vector over E experts, M(x) the sum of its k largest entries",
    "tokens drawn from any law; entropies in nats",
)


def indecision_bound(shortfall: Any, level: Any, *, ctx: Context = FLOAT) -> Any:
    """P(M <= 1 - delta) <= eta/delta where E M >= 1 - eta (law R7). Attained for 0 < eta <= delta <= 1 - k/E.

    shortfall: eta; level: delta.
    """
    return ctx.number(shortfall) / ctx.number(level)


def shortfall_bound(failure: Any, level: Any, n_experts: Any, top_k: Any, *, ctx: Context = FLOAT) -> Any:
    """1 - E M <= delta + tau (1 - k/E - delta) where P(M < 1 - delta) <= tau: the converse (law R7). Attained.

    failure: tau in [0, 1]; level: delta in [0, 1 - k/E].
    """
    delta = ctx.number(level)
    return delta + ctx.number(failure) * (1 - ctx.number(top_k) / ctx.number(n_experts) - delta)


def information_shortfall(deficit: Any, *, ctx: Context = FLOAT) -> Any:
    """1 - E M <= 1 - exp(-eta) where an expert J drawn from p(x) has I(x; J) >= log E - eta (law R7).

    Attained at top_k = 1 by p uniform on m experts, eta = log m. deficit: eta in nats, >= 0.
    """
    return 1 - ctx.exp(-ctx.number(deficit))


def tied_mass(gap: Any, n_experts: Any, top_k: Any, *, ctx: Context = FLOAT) -> Any:
    """M = k e^g / (k e^g + E - k) of a softmax whose k chosen logits exceed the others by g: k/E as g -> 0 (law R7).

    The choice can be any function of the token, so I(x; chosen experts) = log E is compatible with every M > k/E at k = 1.
    """
    # By e^-g, which does not overflow for any g >= 0.
    top_k, weight = ctx.number(top_k), ctx.exp(-ctx.number(gap))
    return top_k / (top_k + (ctx.number(n_experts) - top_k) * weight)

"""Routing that is balanced and independent: each token takes top_k of the experts, all sets alike, whatever other tokens take.

No closed form has these statistics at finite numbers of tokens, so they are simulated, by draws that the layer alone decides.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from simgap.metrics.routing import DROPPED_TOKENS, QUANTITIES, largest_coactivation, load_statistics, tokens_shared
from simgap.nulls.prediction import Prediction
from simgap.quantities import ROUTED, Quantity
from simgap.seeding import stream
from simgap.specs import LayerSpec, RunSpec

# Keys that are drawn in all, draws at least and at most, and the keys from which nothing is simulated.
KEYS, LEAST_DRAWS, MOST_DRAWS, MOST_KEYS = 1 << 24, 64, 1024, 1 << 29
HYPOTHESES = ("each token takes top_k of the experts, all sets alike, independent of other tokens", "no token is dropped")


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity.on(ROUTED) not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    if quantity == DROPPED_TOKENS:
        return Prediction.missing("no law: what a router drops is its own rule")
    if LEAST_DRAWS * run.tokens * spec.n_experts > MOST_KEYS:
        return Prediction.missing(f"no law: balanced routing of {run.tokens} tokens over {spec.n_experts} experts is not simulated")
    values = balanced(spec.n_experts, spec.top_k, run.tokens)[QUANTITIES.index(quantity)]
    if np.isnan(values).any():
        return Prediction.missing("top_k = 1: no token meets two experts")
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if np.ptp(values) else 0.0
    skew = float(((values - mean) ** 3).mean()) / sd**3 if sd else 0.0
    # The mean over trials strays from the mean over draws, which is off itself.
    spread, shared = sd * math.sqrt(1 / run.trials + 1 / len(values)), f"{len(values)} draws"
    return Prediction(
        mean,
        spread,
        "simulated",
        "simulated",
        "balanced",
        (*HYPOTHESES, shared),
        skew=skew / math.sqrt(run.trials),
        supposes="balanced, independent choices of experts",
    )


@lru_cache(maxsize=64)
def balanced(n_experts: int, top_k: int, tokens: int) -> tuple[Float[np.ndarray, " draws"], ...]:
    """Each routing statistic but the last, in every draw of balanced independent routing."""
    generator = stream(0, "router_noise", trial=tokens, expert=n_experts, block=top_k)
    draws = min(MOST_DRAWS, max(LEAST_DRAWS, KEYS // (tokens * n_experts)))
    statistics = []
    for _ in range(draws):
        keys = generator.random((1, tokens, n_experts), np.float32)
        chosen = np.argpartition(keys, min(top_k, n_experts - 1), -1)[..., :top_k]
        taken = np.bincount(chosen.ravel(), minlength=n_experts)[None]
        together = largest_coactivation(tokens_shared(chosen, n_experts), taken)
        statistics.append([float(*value) for value in (*load_statistics(taken), together)])
    return tuple(np.array(statistics).T)

"""Routing that is balanced and independent: each token takes top_k of the experts, all sets alike, whatever other tokens take.

No closed form has these statistics at finite numbers of tokens, so they are simulated, by draws that the layer alone decides.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.metrics.routing import DROPPED_TOKENS, QUANTITIES, largest_coactivation, load_statistics, tokens_shared
from simgap.nulls.prediction import Prediction
from simgap.quantities import ROUTED, Quantity
from simgap.seeding import stream
from simgap.specs import LayerSpec, RunSpec

# Keys that are drawn in all, draws at least and at most, and the keys from which nothing is simulated.
KEYS, LEAST_DRAWS, MOST_DRAWS, MOST_KEYS = 1 << 24, 64, 1024, 1 << 29
# Experts that a token takes, and how many tokens take so many.
Choices = tuple[tuple[int, int], ...]
HYPOTHESES = ("each token takes top_k of the experts, all sets alike, independent of other tokens", "no token is dropped")


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    return _of_choices(spec.n_experts, ((spec.top_k, run.tokens),), run.trials, quantity)


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    """Of as many choices on each token as there are."""
    sizes, tokens = np.unique((source.indices[0].cpu().numpy() >= 0).sum(1), return_counts=True)
    taken = tuple((k, n) for k, n in zip(sizes.tolist(), tokens.tolist(), strict=True) if k)
    return _of_choices(source.spec.n_experts, taken, 1, quantity)


def _of_choices(n_experts: int, choices: Choices, trials: int, quantity: Quantity) -> Prediction:
    tokens = sum(n for _, n in choices)
    if quantity.on(ROUTED) not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    if quantity == DROPPED_TOKENS:
        return Prediction.missing("no law: what a router drops is its own rule")
    if LEAST_DRAWS * tokens * n_experts > MOST_KEYS:
        return Prediction.missing(f"no law: balanced routing of {tokens} tokens over {n_experts} experts is not simulated")
    if not tokens:
        return Prediction.missing("no token has an expert")
    values = balanced(n_experts, choices)[QUANTITIES.index(quantity)]
    if np.isnan(values).any():
        return Prediction.missing("top_k = 1: no token meets two experts")
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if np.ptp(values) else 0.0
    skew = float(((values - mean) ** 3).mean()) / sd**3 if sd else 0.0
    # The mean over trials strays from the mean over draws, which is off itself.
    spread, shared = sd * math.sqrt(1 / trials + 1 / len(values)), f"{len(values)} draws"
    return Prediction(
        mean,
        spread,
        "simulated",
        "simulated",
        "balanced",
        (*HYPOTHESES, shared),
        skew=skew / math.sqrt(trials),
        supposes="balanced, independent choices of experts",
        draws=values,
    )


@lru_cache(maxsize=64)
def balanced(n_experts: int, choices: Choices) -> tuple[Float[np.ndarray, " draws"], ...]:
    """Each routing statistic but the last, in every draw of balanced independent routing."""
    tokens = sum(n for _, n in choices)
    generators = [(k, n, stream(0, "router_noise", trial=n, expert=n_experts, block=k)) for k, n in choices]
    draws = min(MOST_DRAWS, max(LEAST_DRAWS, KEYS // (tokens * n_experts)))
    statistics = []
    for _ in range(draws):
        taken, met = np.zeros((1, n_experts), np.int64), np.zeros((1, n_experts, n_experts), np.int64)
        for k, n, generator in generators:
            keys = generator.random((1, n, n_experts), np.float32)
            chosen = np.argpartition(keys, min(k, n_experts - 1), -1)[..., :k]
            taken += np.bincount(chosen.ravel(), minlength=n_experts)
            met += tokens_shared(chosen, n_experts)
        statistics.append([float(*value) for value in (*load_statistics(taken), largest_coactivation(met, taken))])
    return tuple(np.array(statistics).T)

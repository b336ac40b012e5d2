"""What the router did: load, idle experts and dropped tokens. They stand beside every activation overlap, because they decide its pairs."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from simgap.sources import counts


def load(indices: Int[Any, "s n k"], n_experts: int) -> Float[np.ndarray, "s E"]:
    """Share of the token-expert assignments that each expert takes; 1 / n_experts when balanced. Each trial
    sums to 1, or to 0 where no expert takes any."""
    taken = counts(indices, n_experts)
    return taken / np.maximum(taken.sum(1, keepdims=True), 1)


def dropped_tokens(indices: Int[Any, "s n k"]) -> Int[np.ndarray, " s"]:
    """Tokens that no expert took."""
    return (indices.cpu().numpy() < 0).all(-1).sum(-1)

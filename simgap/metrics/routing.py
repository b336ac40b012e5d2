"""What the router did: load, idle experts and dropped tokens. They stand beside every activation overlap, because they decide its pairs."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


def counts(indices: Int[Tensor, "s n k"], n_experts: int) -> Int[np.ndarray, "s E"]:
    """How many tokens each expert of each trial takes."""
    table = indices.cpu().numpy()
    s = len(table)
    # One more bin to a trial, for the slots of tokens that have fewer experts.
    bins = np.where(table < 0, n_experts, table) + (n_experts + 1) * np.arange(s)[:, None, None]
    return np.bincount(bins.ravel(), minlength=s * (n_experts + 1)).reshape(s, n_experts + 1)[:, :n_experts]


def load(indices: Int[Tensor, "s n k"], n_experts: int) -> Float[np.ndarray, "s E"]:
    """Share of the token-expert assignments that each expert takes; 1 / n_experts when balanced. Each trial
    sums to 1, or to 0 where no expert takes any."""
    taken = counts(indices, n_experts)
    return taken / np.maximum(taken.sum(1, keepdims=True), 1)


def dropped_tokens(indices: Int[Tensor, "s n k"]) -> Int[np.ndarray, " s"]:
    """Tokens that no expert took."""
    return (indices.cpu().numpy() < 0).all(-1).sum(-1)

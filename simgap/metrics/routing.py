"""What the router did: load, idle experts and dropped tokens. They stand beside every activation overlap, because they decide its pairs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def load(indices: Int[Tensor, "s n k"], n_experts: int) -> Float[Tensor, "s E"]:
    """Share of the token-expert assignments that each expert takes; 1 / n_experts when balanced. Each trial
    sums to 1, or to 0 where no expert takes any."""
    s = indices.shape[0]
    flat = torch.where(indices < 0, n_experts, indices).reshape(s, -1)
    counts = torch.zeros(s, n_experts + 1, dtype=torch.float64, device=indices.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    counts = counts[:, :n_experts]
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def dropped_tokens(indices: Int[Tensor, "s n k"]) -> Int[Tensor, " s"]:
    """Tokens that no expert took."""
    return (indices < 0).all(-1).sum(-1)

"""Mean vectors of experts over the tokens routed to them: what the persistence paper's activation overlap compares."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def sums_by_expert(rows: Float[Tensor, "s E C width"], taken: Bool[Tensor, "s E C"]) -> Float[Tensor, "s E width"]:
    """Sum of the rows that stand for routed tokens, per expert, handed on in float64 for the sum over blocks of tokens.

    Within a block of C tokens the sum is in the vectors' dtype: its rounding error is at most C units of the mean size of an entry.
    """
    s, experts, count, width = rows.shape
    mask = taken.to(rows.dtype).reshape(s * experts, 1, count)
    return torch.bmm(mask, rows.reshape(s * experts, count, width)).view(s, experts, width).double()


def means_by_routing(vectors: Float[Tensor, "n k width"], routing: Int[Tensor, "n k"], n_experts: int) -> Float[Tensor, "E width"]:
    """Mean of the co-activated vectors of each expert, float64; NaN for an expert that no token reached."""
    flat = routing.reshape(-1)
    kept = flat >= 0
    total = torch.zeros(n_experts, vectors.shape[-1], dtype=torch.float64, device=vectors.device)
    total.index_add_(0, flat[kept], vectors.reshape(-1, vectors.shape[-1])[kept].double())
    count = torch.bincount(flat[kept], minlength=n_experts)
    return torch.where(count[:, None] > 0, total / count[:, None], torch.nan)

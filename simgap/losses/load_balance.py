"""The load-balance loss: it is least, to first order, where every expert takes as many tokens as every other."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def load_balance(
    probabilities: Float[Tensor, "*layers n E"], indices: Int[Tensor, "*layers n k"], divide_by_k: bool = True
) -> Float[Tensor, "*layers"]:
    """L = E sum_e f_e P_e of every layer: f_e the share of the n tokens that expert e takes, P_e its mean probability over them.

    probabilities: the router's softmax over all E experts, before any is chosen. indices: the experts that each token takes, -1 for none.
    A token takes k experts, so that the f_e add up to k; with divide_by_k they are shares of the assignments and add up to 1. Then L is 1
    where either f or P is uniform, and E where every token is sure of one expert (k = 1); without it, k and E. The gradient goes through P
    alone, as f is a count. L is no distance from balance: a batch whose choices and probabilities disagree can be below 1.

    One value a layer. To pool layers, as the public code of Mixtral does, without the 1/k, pass their tokens as those of one layer.

    Source: Switch Transformers (Fedus et al., arXiv 2101.03961), equations 4 to 6, for k = 1 and without their weight alpha [second hand];
    GShard (Lepikhin et al., arXiv 2006.16668) has it without the factor E^2 and with f of the first choice [second hand]. Whether f is
    divided by k is a reading: papers with k > 1 write E sum_e f_e P_e and do not say.

    Raises ValueError for other shapes, for indices that are no whole numbers or name no expert.

    >>> import torch
    >>> even = torch.full((4, 2), 0.5)
    >>> float(load_balance(even, torch.tensor([[0], [1], [0], [1]])))
    1.0
    >>> sure = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    >>> float(load_balance(sure, torch.zeros(4, 1, dtype=torch.int64)))
    2.0
    """
    if probabilities.ndim < 2 or not probabilities.is_floating_point() or probabilities.numel() == 0:
        raise ValueError(f"probabilities: expected floats (..., n, E), at least one, got {_came(probabilities)}")
    if indices.shape[:-1] != probabilities.shape[:-1] or not indices.shape[-1] or indices.dtype not in (torch.int64, torch.int32):
        tokens = tuple(probabilities.shape[:-1])
        raise ValueError(f"indices: expected whole numbers {(*tokens, 'k')}, as many tokens as probabilities have, got {_came(indices)}")
    experts = probabilities.shape[-1]
    least, most = (int(value) for value in torch.aminmax(indices))
    if least < -1 or most >= experts:
        raise ValueError(f"indices: expected -1 to {experts - 1}, the experts of probabilities, got {least if least < -1 else most}")
    # One more bin, for the slots of tokens that have fewer experts.
    taken = probabilities.new_zeros(*probabilities.shape[:-2], experts + 1)
    slots = indices.long().remainder(experts + 1).flatten(-2)
    taken = taken.scatter_add(-1, slots, torch.ones_like(slots, dtype=taken.dtype))
    share = taken[..., :experts] / (indices.shape[-2] * (indices.shape[-1] if divide_by_k else 1))
    return experts * (share * probabilities.mean(-2)).sum(-1)


def _came(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"

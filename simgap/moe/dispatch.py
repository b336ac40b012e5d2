"""From a routing table to one batched product: every expert gets a list of tokens, padded to the longest."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from simgap.batch_invariant import rounded_up
from simgap.kernels.dispatch import list_tokens
from simgap.sources import counts


@dataclass(frozen=True)
class Dispatch:
    """Where the vectors of a block of tokens lie. Rows are numbered expert by expert, C to each: row e C + c.

    tokens (s, E, C): which token each row computes. owner (s, E C): the expert whose token a row stands for, -1 for padding. index
    (s, n, k): the row of each active expert of each token, -1 for none.
    """

    tokens: Int[Tensor, "s E C"]
    owner: Int[Tensor, "s R"]
    index: Int[Tensor, "s n k"]


def everywhere(indices: Int[Tensor, "s n k"], n_experts: int) -> Dispatch:
    """Every expert computes every token, C = n rounded up: what the "all" reading needs. Row e C + t is token t's."""
    s, n, _ = indices.shape
    tokens = padded_positions(n, indices.device)
    taken = torch.zeros(s, len(tokens), n_experts + 1, dtype=torch.bool, device=indices.device)
    taken[:, :n].scatter_(2, torch.where(indices < 0, n_experts, indices), True)
    index = torch.where(indices < 0, -1, indices * len(tokens) + torch.arange(n, device=indices.device)[:, None])
    return Dispatch(tokens.expand(s, n_experts, -1), owners(taken[..., :n_experts].mT, 0), index)


def owners(taken: Bool[Tensor, "s E C"], first: int) -> Int[Tensor, "s R"]:
    """The expert of each row, from `first` on, -1 for a row that stands for no token."""
    numbers = torch.arange(first, first + taken.shape[1], device=taken.device)[:, None]
    return torch.where(taken, numbers, -1).flatten(1)


def padded_positions(n: int, device: torch.device) -> Int[Tensor, " C"]:
    """0, 1, ..., n - 1, then zeros up to a multiple of ALIGNED: rows that compute token 0 once more, for nobody."""
    positions = torch.zeros(rounded_up(n), dtype=torch.int64, device=device)
    positions[:n] = torch.arange(n, device=device)
    return positions


def routed_only(indices: Int[Tensor, "s n k"], n_experts: int) -> Dispatch:
    """Every expert computes its own tokens, C = the longest list in the batch, rounded up: what a real layer does."""
    if indices.device.type != "cpu":
        return routed_only_torch(indices, n_experts)
    table = np.ascontiguousarray(indices.numpy())
    shape = (len(table), n_experts, rounded_up(int(counts(indices, n_experts).max())))
    tokens, owner, index = np.zeros(shape, np.int64), np.full(shape, -1), np.empty_like(table)
    list_tokens(table, tokens, owner, index)
    return Dispatch(torch.from_numpy(tokens), torch.from_numpy(owner).flatten(1), torch.from_numpy(index))


def routed_only_torch(indices: Int[Tensor, "s n k"], n_experts: int) -> Dispatch:
    """`routed_only` as tensor operations, on any device."""
    s, n, k = indices.shape
    flat = torch.where(indices < 0, n_experts, indices).reshape(s, n * k)
    order = flat.argsort(dim=1, stable=True)
    load = torch.zeros(s, n_experts + 1, dtype=torch.int64, device=indices.device)
    load.scatter_add_(1, flat, torch.ones_like(flat))
    first = load.cumsum(1) - load
    expert = flat.gather(1, order)
    rank = torch.arange(n * k, device=indices.device) - first.gather(1, expert)
    longest = rounded_up(int(load[:, :n_experts].max()))
    row = torch.where(expert == n_experts, -1, expert * longest + rank)
    index = torch.empty_like(flat).scatter_(1, order, row).reshape(s, n, k)

    slots = n_experts * longest
    tokens = torch.zeros(s, slots + 1, dtype=torch.int64, device=indices.device)
    tokens.scatter_(1, torch.where(row < 0, slots, row), order // k)
    taken = torch.arange(longest, device=indices.device) < load[:, :n_experts, None]
    return Dispatch(tokens[:, :slots].reshape(s, n_experts, longest), owners(taken, 0), index)

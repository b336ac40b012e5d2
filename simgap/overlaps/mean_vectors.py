"""Mean vectors of experts over the tokens routed to them: what the persistence paper's activation overlap compares."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.kernels.expert_sums import add_by_expert
from simgap.overlaps.memory import AT_ONCE, is_readable, on_cpu, readable, run, runs, shared, token_offsets, tokens_at
from simgap.threads import Map, if_large, in_order

# A sum of experts' means that is so much shorter than the root of their squares is no accident, in so many dimensions and more.
CENTRED, LEAST_WIDTH = 1e-3, 8
# Parts that the tokens of a user's array are summed in, each by one task. Part of the order of summation.
PARTS = 8


def add_sums(vectors: Float[Tensor, "*R width"], experts: Int[Tensor, "*R"], sums: Float[Tensor, "E width"]) -> None:
    """sums[experts[i]] += vectors[i], in float64 and in the order of the vectors; those of expert -1 are passed over.

    Each vector is read once. However the vectors are cut into calls, the bits are the same on a CPU. sums: contiguous. Raises ValueError
    for shapes that do not fit and for an expert that has no sum.
    """
    if experts.shape != vectors.shape[:-1] or sums.shape[1:] != vectors.shape[-1:] or not sums.is_contiguous():
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (vectors, experts, sums))
        raise ValueError(f"vectors, experts, sums: expected (..., width), (...) and a contiguous (E, width), got {shapes}")
    if experts.numel() and not -1 <= int(experts.min()) <= int(experts.max()) < len(sums):
        raise ValueError(f"experts: expected -1 to {len(sums) - 1}, got {int(experts.min())} to {int(experts.max())}")
    if on_cpu(vectors):
        flat, starts = runs(readable(vectors))
        _add(flat, starts, experts, vectors.shape[-1], sums)
        return
    kept = experts >= 0
    sums.index_add_(0, experts[kept], vectors[kept].double())


def means_by_routing(
    vectors: Float[Tensor, "*tokens k width"], routing: Int[Tensor, "*tokens k"], n_experts: int, task_map: Map = in_order
) -> Float[Tensor, "E width"]:
    """Mean of the co-activated vectors of each expert, float64; NaN for an expert that no token reached.

    routing: -1 for none. Such a vector is never read, and on a CPU the bits are those of an array without the tokens that reach nobody.
    Raises ValueError for shapes that do not fit and for an expert out of range.
    """
    *sizes, k, width = vectors.shape
    if routing.shape != vectors.shape[:-1]:
        raise ValueError(f"vectors, routing: expected (..., k, width) and (..., k), got {tuple(vectors.shape)} and {tuple(routing.shape)}")
    experts = routing.reshape(math.prod(sizes), k)
    low, high = (int(each) for each in experts.aminmax()) if experts.numel() else (-1, -1)
    if not -1 <= low <= high < n_experts:
        raise ValueError(f"experts: expected -1 to {n_experts - 1}, got {low} to {high}")
    tokens = range(len(experts)) if low >= 0 else (experts >= 0).any(1).nonzero()[:, 0].cpu().numpy()
    n = len(tokens)
    step = max(1, -(-n // PARTS))
    at_once = max(1, AT_ONCE // max(1, k * width))
    in_place = on_cpu(vectors) and is_readable(vectors)
    whole = run(vectors) if in_place else None

    def task(start: int) -> Tensor:
        sums = torch.zeros(n_experts, width, dtype=torch.float64, device=vectors.device)
        for first in range(start, min(start + step, n), at_once):
            part = tokens[first : min(first + at_once, start + step)]
            named = experts[part.start : part.stop] if isinstance(part, range) else experts[torch.from_numpy(part).to(experts.device)]
            if whole is None:
                add_sums(tokens_at(vectors, part), named, sums)
            else:
                _add(whole, token_offsets(vectors, part), named, width, sums)
        return sums

    none = torch.zeros(n_experts, width, dtype=torch.float64, device=vectors.device)
    total = sum(shared(if_large(task_map, n * k * width), vectors)(task, range(0, n, step)), start=none)
    count = torch.bincount(experts.flatten() + 1, minlength=n_experts + 1)[1:]
    return torch.where(count[:, None] > 0, total / count[:, None], torch.nan)


def is_centred(means: Float[Tensor, "E width"], counts: Int[Tensor, " E"]) -> bool:
    """Whether a common mean was taken out of 3 experts' means or more, that of all experts or that of all vectors: their sum is 0, or that
    by `counts`, how many vectors each is the mean of. Such means are not independent (law T7)."""
    if len(means) < 3 or means.shape[1] < LEAST_WIDTH:
        return False
    scaled = means / means.abs().amax().clamp(min=1e-300)
    weighted = scaled * (counts / counts.sum())[:, None]
    return any(float(each.sum(0).norm()) < CENTRED * float(each.norm()) for each in (scaled, weighted))


def _add(flat: np.ndarray, starts: Int[np.ndarray, "..."], experts: Int[Tensor, "..."], width: int, sums: Tensor) -> None:
    add_by_expert(flat, starts.reshape(-1), np.ascontiguousarray(experts.numpy(), np.int64).reshape(-1), width, sums.numpy())

"""How long vectors are, whatever the scale of their entries."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.kernels.token_overlap import token_lengths
from simgap.overlaps.memory import AT_ONCE, is_readable, on_cpu, readable, run, runs, shared, token_offsets, tokens_at
from simgap.threads import Map, if_large, in_order


def lengths_at(
    vectors: Float[Tensor, "*tokens k width"],
    tokens: Int[np.ndarray, " m"],
    exists: Bool[np.ndarray, "n k"] | None = None,
    task_map: Map = in_order,
) -> Float[np.ndarray, "n k"]:
    """Of the vectors on some tokens, ascending; 0 of all others, and of what does not exist, which is not read; with the bits of
    `token_overlap`. O(m k^2 width)."""
    *sizes, k, width = vectors.shape
    lengths = np.zeros((int(np.prod(sizes)), k))
    step = max(1, AT_ONCE // (k * width))
    whole = run(vectors) if on_cpu(vectors) and is_readable(vectors) else None

    def task(start: int) -> None:
        part = tokens[start : start + step]
        there = True if exists is None else exists[part]
        if not on_cpu(vectors):
            lengths[part] = np.where(there, lengths_torch(tokens_at(vectors, part).reshape(-1, width)).reshape(-1, k), 0.0)
            return
        flat, starts = (whole, token_offsets(vectors, part)) if whole is not None else runs(readable(tokens_at(vectors, part)))
        found = np.empty(starts.shape)
        token_lengths(flat, np.where(there, starts, -1), width, found)
        lengths[part] = found

    list(shared(if_large(task_map, len(tokens) * k * width), vectors)(task, range(0, len(tokens), step)))
    return lengths


def lengths_torch(rows: Float[Tensor, "R width"]) -> Float[np.ndarray, " R"]:
    """As tensor operations, on any device. Not tested on hardware: no CUDA device was at hand."""
    if rows.dtype != torch.float64:
        return torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64).cpu().numpy()
    # The square of no other format leaves float64.
    largest = rows.abs().amax(-1)
    scaled = rows / torch.where(largest > 0, largest, 1.0)[:, None]
    return (torch.linalg.vector_norm(scaled, dim=-1) * largest).cpu().numpy()

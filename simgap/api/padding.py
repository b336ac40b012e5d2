"""Which vectors of a user's array are there: those that no routing, mask or masked array leaves out."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from simgap.api.as_tensor import as_booleans
from simgap.overlaps.token_overlap import token_name

# Indices below this are numbered anew by a table of them all.
FEW = 1 << 16


def masked_vectors(name: str, value: Any) -> tuple[Any, np.ndarray | None]:
    """A numpy masked array as its data and the vectors that are not masked, (..., k) for (..., k, width); anything else as it is, and None.

    Raises ValueError for a vector that is masked in part.
    """
    if not isinstance(value, np.ma.MaskedArray) or value.dtype.names or value.ndim < 3 or not np.ma.is_masked(value):
        return value, None
    mask = np.ma.getmaskarray(value)
    whole, some = np.asarray(mask.all(-1)), np.asarray(mask.any(-1))
    if (whole != some).any():
        *token, slot = (int(place) for place in np.argwhere(whole != some)[0])
        raise ValueError(f"{name}: expected vectors masked whole or not at all, got token {token_name(token)} slot {slot} masked in part")
    return value.data, ~whole


def kept_by_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A mask over tokens, or over tokens and slots, as booleans of shape (..., k); raises ValueError for another shape."""
    kept = as_booleans("mask", mask).numpy()
    if kept.shape == shape[:-1]:
        kept = np.broadcast_to(kept[..., None], shape)
    if kept.shape != shape:
        raise ValueError(f"mask: expected {shape[:-1]}, one to a token, or {shape}, one to a vector, got {kept.shape}")
    return kept


def indices_of_kept(indices: Tensor, kept: np.ndarray | None) -> Tensor:
    """Indices with -1 where a vector is not kept; raises ValueError where one that is kept is below -1."""
    if kept is not None:
        indices = indices.masked_fill(torch.from_numpy(~kept).to(indices.device), -1)
    if indices.numel() and int(indices.min()) < -1:
        raise ValueError(f"routing: expected indices from 0, or -1 for none, got {int(indices.min())} to {int(indices.max())}")
    return indices


def refuse_repeated(indices: Tensor) -> None:
    """ValueError that names the first token whose slots, (..., k), name one expert twice: an expert that meets itself is no pair."""
    k = indices.shape[-1]
    repeated = torch.zeros(indices.shape[:-1], dtype=torch.bool, device=indices.device)
    # Slot by slot is faster than sorting where there are few.
    for apart in range(1, k):
        later = indices[..., apart:]
        repeated |= ((later == indices[..., : k - apart]) & (later >= 0)).any(-1)
    if bool(repeated.any()):
        token = repeated.nonzero()[0].tolist()
        experts, counts = indices[tuple(token)].unique(return_counts=True)
        expert = int(experts[(counts > 1) & (experts >= 0)][0])
        raise ValueError(f"routing: expected different experts on a token, got expert {expert} twice at token {token_name(token)}")


def kept_by_all(*parts: np.ndarray | None) -> np.ndarray | None:
    """What all parts keep, or None where that is everything."""
    kept = None
    for part in parts:
        if part is not None:
            kept = part if kept is None else kept & part
    return None if kept is None or kept.all() else kept


def compacted(indices: Int[np.ndarray, "..."]) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, "..."]]:
    """The experts that are named, ascending, and the indices numbered anew by their positions among them; -1 stays."""
    top = int(indices.max(initial=-1))
    if top < FEW:
        reached = np.flatnonzero(np.bincount(indices.ravel() + 1, minlength=top + 2)[1:])
        positions = np.full(top + 2, -1)
        positions[reached] = np.arange(len(reached))
        # The last one is that of none.
        return reached, positions[indices]
    reached = np.unique(indices[indices >= 0])
    return reached, np.where(indices < 0, -1, np.searchsorted(reached, indices))

"""Vectors whose entries are all of one sign: they share a direction without being related, and no law of signs is theirs."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.overlaps.memory import tokens_at

# Entries that have to agree before they are called rectified, and the share that may not.
FEWEST, ODD = 64, 0.005
# Mean cosine with (1, ..., 1): 0.56 for ReLU of a standard normal, 0.43 for GELU, 0.35 for SiLU; and how many standard deviations of it
# under fair signs it has to be away from 0.
ALIGNED, SIGMA = 0.25, 5.0
# Columns that are looked at, and up to twice as many; and tokens.
SEEN_COLUMNS, SEEN_TOKENS = 1 << 9, 16
# Multiples of it, less their whole parts, are spread evenly, however many there are.
GOLDEN = (math.sqrt(5) - 1) / 2


def refuse_rectified(name: str, why: str, remedy: str) -> None:
    """ValueError where there is a reason to take vectors for rectified ones; remedy: what to do instead."""
    if why:
        raise ValueError(
            f"{name}: expected vectors whose signs could be either, got rectified ones (ReLU, SiLU, GELU): {why}, so that they overlap "
            f"without being related; {remedy}"
        )


def some_columns(vectors: Float[Tensor, "*n width"]) -> Float[Tensor, "*n _"]:
    """About SEEN_COLUMNS columns, one in each of as many equal stretches, or all where there are fewer than twice as many; a copy.

    Not at one place of each: in weights that are flattened this would be one and the same column of a matrix, row after row.
    """
    width = vectors.shape[-1]
    step = width // SEEN_COLUMNS
    if step < 2:
        return vectors
    number = np.arange(width // step)
    columns = number * step + (number * GOLDEN % 1 * step).astype(np.int64)
    return vectors[..., torch.from_numpy(columns).to(vectors.device)]


def one_signed_experts(vectors: Float[Tensor, "E width"]) -> str:
    """`one_signed` of one vector to an expert, in some of their columns."""
    return one_signed(some_columns(vectors), len(vectors))


def one_signed_tokens(
    vectors: Float[Tensor, "*tokens k width"], tokens: Int[np.ndarray, " n"], there: Bool[np.ndarray, "N k"] | None = None
) -> str:
    """`one_signed` of some of these tokens, evenly spaced and counted as in `tokens_at`, in some of their columns.

    there: which vectors of each token, of all N, there are.
    """
    picked = tokens[np.arange(SEEN_TOKENS) * max(0, len(tokens) - 1) // (SEEN_TOKENS - 1)] if len(tokens) > SEEN_TOKENS else tokens
    rows = some_columns(tokens_at(vectors, picked))
    rows = rows.flatten(0, 1) if there is None else rows[torch.from_numpy(there[picked]).to(rows.device)]
    return one_signed(rows, vectors.shape[-2])


def one_signed(rows: Float[Tensor, "n width"], free: int) -> str:
    """Why vectors are taken for rectified ones (ReLU), or for those of SiLU and GELU, which lean towards (1, ..., 1); nothing otherwise.

    rows: some of the vectors. free: how many of them may differ in sign: those of one expert need not.
    """
    # Few numbers, over which numpy is the quicker.
    values = rows.double().cpu().numpy()
    positive, negative = np.count_nonzero(values > 0), np.count_nonzero(values < 0)
    # Different coordinates of different experts have signs of their own, whatever repeats from token to token.
    entries = np.count_nonzero(values.any(0)) * min(free, len(values))
    if entries < FEWEST:
        return ""
    odd = min(positive, negative) / (positive + negative)
    scaled = values / np.maximum(np.abs(values).max(1, keepdims=True), 1e-300)
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    aligned = abs(float((scaled.sum(1) / np.maximum(lengths, 1e-300)).mean())) / math.sqrt(values.shape[1])
    if odd <= ODD:
        return f"{1 - odd:.1%} of their entries have one sign"
    return f"their mean cosine with (1, ..., 1) is {aligned:.2f}" if aligned >= max(ALIGNED, SIGMA / math.sqrt(entries)) else ""

"""Sums and squares of a user's float64 numbers that stay within float64: what is scaled for them, which no cosine sees."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# As many numbers as there can be, 2^63, sum to a finite one where none is larger; and what brings any to that.
LARGEST, DOWN = 2.0**960, 2.0**-64
# Squares of numbers of this size, or of one over it, are far from the ends of float64, and so are their sums.
SQUARED = 2.0**400


def summable(vectors: Float[Tensor, "*tokens k width"], indices: Int[Tensor, "*tokens k"]) -> Float[Tensor, "*tokens k width"]:
    """All vectors times 2^-64 where a sum of those with an index could leave float64; else they themselves."""
    if vectors.dtype != torch.float64 or not vectors.numel() or max(abs(float(end)) for end in vectors.aminmax()) <= LARGEST:
        return vectors
    # Not what is padding, which may hold anything; what is not finite stays so.
    largest = torch.where(indices.to(vectors.device) >= 0, torch.maximum(vectors.amax(-1), -vectors.amin(-1)), 0.0)
    return vectors * DOWN if bool((largest > LARGEST).any()) else vectors


def middling(vectors: Float[Tensor, "*tokens k width"], indices: Int[Tensor, "*tokens k"]) -> Float[Tensor, "*tokens k width"]:
    """All vectors times one power of two where a square of the largest with an index could leave float64; else they themselves. Beside
    vectors beyond 2^400, numbers below 2^-474 are lost."""
    if vectors.dtype != torch.float64 or not vectors.numel():
        return vectors
    end = max(abs(float(end)) for end in vectors.aminmax())
    if 1 / SQUARED < end < SQUARED:
        return vectors
    # Not what is padding, which may hold anything; what is not finite stays so.
    largest = torch.where(indices.to(vectors.device) >= 0, torch.maximum(vectors.amax(-1), -vectors.amin(-1)), 0.0).max()
    factor = SQUARED**-1.5 if float(largest) >= SQUARED else SQUARED**1.5 if 0 < float(largest) <= 1 / SQUARED else 1.0
    return vectors if factor == 1.0 else vectors * factor


def squarable(matrices: dict[str, Float[Tensor, "E rows columns"]]) -> dict[str, Float[Tensor, "E rows columns"]]:
    """All matrices of each expert over the size of its largest entry where a square could leave float64; else they themselves."""
    wide = [matrix for matrix in matrices.values() if matrix.dtype == torch.float64]
    if not wide:
        return matrices
    largest = torch.stack([torch.maximum(matrix.amax((1, 2)), -matrix.amin((1, 2))).cpu() for matrix in wide]).amax(0)
    if bool(((largest == 0) | ((largest > 1 / SQUARED) & (largest < SQUARED))).all()):
        return matrices
    scale = torch.where(largest > 0, largest, 1.0)[:, None, None]
    return {role: matrix / scale.to(matrix.device) for role, matrix in matrices.items()}

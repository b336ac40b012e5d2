"""Overlap of E vectors, one to each expert: flattened weights, or mean activations."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

# Entries of each vector whose products are summed at a time: the chunk of E rows, in float64, stays in cache.
CHUNK = 1 << 14


def gram(vectors: Float[Tensor, "s E N"]) -> Float[Tensor, "s E E"]:
    """Inner products of the E vectors of each trial, in float64 whatever the dtype and whatever the global TF32 setting."""
    s, experts, width = vectors.shape
    chunk = max(256, CHUNK * 8 // max(8, experts))
    total = torch.zeros(s, experts, experts, dtype=torch.float64, device=vectors.device)
    for start in range(0, width, chunk):
        part = vectors[..., start : start + chunk].double()
        total.baddbmm_(part, part.mT)
    return total


def cos2_of_gram(products: Float[Tensor, "s E E"]) -> Float[Tensor, "s E E"]:
    """cos^2 of every pair from inner products, in [0, 1]; NaN where either vector is zero or not finite."""
    norms = products.diagonal(dim1=-2, dim2=-1)
    norms = torch.where(norms > 0, norms, torch.nan)
    return (products / norms.sqrt()[..., :, None] / norms.sqrt()[..., None, :]).square().clamp(max=1)


def pair_cos2(vectors: Float[Tensor, "s E N"]) -> Float[Tensor, "s E E"]:
    r"""cos^2 of every pair of the E vectors of each trial.

    .. math:: \cos^2(u, v) = \frac{\langle u, v \rangle^2}{\|u\|^2 \|v\|^2}

    Dimensionless, in [0, 1]; 1/N on average for independent sign-symmetric vectors (law N1). Norms far from 1 are safe: each vector is
    scaled by its largest entry first. NaN where either vector is zero or holds a NaN or an infinity. O(s E^2 N).
    """
    largest = vectors.abs().amax(-1, keepdim=True).double()
    if bool(((largest > 1e-100) & (largest < 1e100) | (largest == 0)).all()):
        return cos2_of_gram(gram(vectors))
    return cos2_of_gram(gram(vectors.double() / torch.where(largest > 0, largest, 1.0)))


def between(cos2: Float[Tensor, "s E E"], routed: int, shared: bool = False) -> Float[Tensor, "s P"]:
    """The pairs i < j of routed experts, or (shared) every pair of a routed with a shared expert, from a symmetric (E, E) table."""
    if shared:
        return cos2[..., :routed, routed:].flatten(1)
    i, j = torch.triu_indices(routed, routed, offset=1, device=cos2.device)
    return cos2[..., i, j]


def weight_grams(matrices: dict[str, Float[Tensor, "s E a b"] | None]) -> dict[str, Float[Tensor, "s E E"]]:
    """Inner products of flattened weights for each named matrix, and under "all" for their concatenation."""
    grams = {name: gram(_flat(matrix)) for name, matrix in matrices.items() if matrix is not None}
    return grams | {"all": _total(grams.values())}


def _flat(matrix: Float[Tensor, "s E a b"]) -> Float[Tensor, "s E N"]:
    """Flatten in memory order: inner products do not care which order, and a transposed view need not be copied."""
    return (matrix if matrix.is_contiguous() else matrix.mT).flatten(2)


def _total(grams: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(grams)).sum(0)

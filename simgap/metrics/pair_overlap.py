"""Overlap of E vectors, one to each expert: flattened weights, or mean activations."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.kernels.token_overlap import SAFE_HIGH, SAFE_LOW

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


def cos2_of_gram(products: Float[Tensor, "s E E"]) -> Float[np.ndarray, "s E E"]:
    """cos^2 of every pair from inner products, in [0, 1]; NaN where either vector is zero or not finite. A small table, on the host."""
    table = products.cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.sqrt(np.diagonal(table, axis1=-2, axis2=-1))
        cos = table / norms[..., :, None] / norms[..., None, :]
    return np.minimum(cos * cos, 1.0)


def pair_cos2(vectors: Float[Tensor, "s E N"]) -> Float[np.ndarray, "s E E"]:
    r"""cos^2 of every pair of the E vectors of each trial.

    .. math:: \cos^2(u, v) = \frac{\langle u, v \rangle^2}{\|u\|^2 \|v\|^2}

    Dimensionless, in [0, 1]; 1/N on average for independent sign-symmetric vectors (law N1). Norms far from 1 are safe: where a squared
    norm comes near the ends of float64, each vector is scaled by its largest entry first. NaN where either vector is zero or holds a NaN or
    an infinity. O(s E^2 N).
    """
    products = gram(vectors)
    norms = products.diagonal(dim1=-2, dim2=-1).cpu().numpy()
    safe = np.all((norms > SAFE_LOW) & (norms < SAFE_HIGH), axis=-1, keepdims=True)[..., None]
    if safe.all():
        return cos2_of_gram(products)
    largest = vectors.abs().amax(-1, keepdim=True).double()
    scaled = cos2_of_gram(gram(vectors.double() / torch.where(largest > 0, largest, 1.0)))
    return np.where(safe, cos2_of_gram(products), scaled)


def between(cos2: Float[np.ndarray, "s E E"], routed: int, shared: bool = False) -> Float[np.ndarray, "s P"]:
    """The pairs i < j of routed experts, or (shared) every pair of a routed with a shared expert, from a symmetric (E, E) table."""
    if shared:
        return cos2[..., :routed, routed:].reshape(len(cos2), -1)
    i, j = np.triu_indices(routed, k=1)
    # Indexing may lay pairs before trials; numpy sums a row in another order then.
    return np.ascontiguousarray(cos2[..., i, j])


def weight_grams(matrices: dict[str, Float[Tensor, "s E a b"] | None]) -> dict[str, Float[Tensor, "s E E"]]:
    """Inner products of flattened weights for each named matrix, and under "all" for their concatenation."""
    grams = {name: gram(_flat(matrix)) for name, matrix in matrices.items() if matrix is not None}
    return grams | {"all": _total(grams.values())}


def _flat(matrix: Float[Tensor, "s E a b"]) -> Float[Tensor, "s E N"]:
    """Flatten in memory order: inner products do not care which order, and a transposed view need not be copied."""
    return (matrix if matrix.is_contiguous() else matrix.mT).flatten(2)


def _total(grams: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(grams)).sum(0)

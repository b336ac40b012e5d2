"""Gradient descent on the overlap of experts' weights with each other: what one would do to lower weight MSO itself."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from simgap.batch_invariant import matmul, one_by_one
from simgap.moe import Weights
from simgap.settings import own_settings
from simgap.training.checks import check_descent

# A direction this much shorter than the longest is round-off of the E x E table, whose squares it comes from.
RANK_TOLERANCE = 1e-7


@own_settings
def pairwise_descent(
    weight: Float[Tensor, "... E f d"], strength: float, steps: int = 50, rate: float = 1e-3, plain: bool = False
) -> Float[Tensor, "... E f d"]:
    """The E experts' weights after descent on strength sum_{i<j} <w_i, w_j>^2 over flattened unit vectors (the Frobenius overlap).

    Each step moves w_i by -rate strength ||w_i||^2 times its gradient, 2 sum_j c_ij (w_j/||w_j|| - c_ij w_i/||w_i||) / ||w_i|| with
    c = cos, so that the rate is dimensionless: the direction moves by the rate whatever the scale of the init. All steps stay in the span
    of the E initial vectors, so they run on E coordinates to a vector in float64 and touch the weights once at the end.
    `plain` runs the same descent on the weights themselves.

    strength >= 0, rate > 0, steps >= 0.
    """
    check_descent(strength, steps, rate)
    if strength == 0 or steps == 0:
        return weight
    flat = weight.flatten(-2)
    if plain:
        for _ in range(steps):
            flat = flat - rate * strength * matmul(_step(matmul(flat, flat.mT)), flat)
        return flat.view_as(weight)
    # Coordinates z of the E vectors in their own span: a direction that no vector has would only gather round-off.
    wide = flat.double()
    gram = matmul(wide, wide.mT)
    sizes, axes = one_by_one(torch.linalg.eigh, gram)
    roots = sizes.clamp(min=0).sqrt()
    kept = roots > RANK_TOLERANCE * roots.amax(-1, keepdim=True)
    z = axes * torch.where(kept, roots, 0.0)[..., None, :]
    z = torch.where(gram.diagonal(dim1=-2, dim2=-1)[..., None] > 0, z, 0.0)
    for _ in range(steps):
        z = z - rate * strength * matmul(_step(matmul(z, z.mT)), z)
    mix = matmul(z * torch.where(kept, 1 / torch.where(kept, roots, 1.0), 0.0)[..., None, :], axes.mT)
    return matmul(mix.to(weight.dtype), flat).reshape(weight.shape)


def _step(gram: Float[Tensor, "... E E"]) -> Float[Tensor, "... E E"]:
    """The coefficients of the gradient in the current vectors, times ||w_i||^2: row i gives w_i's step. A zero vector has none."""
    norms = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    safe = torch.where(norms > 0, norms, 1.0)
    cos = gram / safe[..., :, None] / safe[..., None, :]
    off = cos - torch.diag_embed(cos.diagonal(dim1=-2, dim2=-1))
    toward = 2 * off * (norms[..., :, None] / safe[..., None, :])
    return toward - torch.diag_embed(2 * off.square().sum(-1))


@dataclass(frozen=True)
class RegularisePairs:
    """A `prepare` for `measure`: the descent above on W_up; W_down stays as drawn."""

    strength: float
    steps: int = 50
    rate: float = 1e-3
    plain: bool = False

    def __call__(self, weights: Weights) -> Weights:
        return replace(weights, up=pairwise_descent(weights.up, self.strength, self.steps, self.rate, self.plain))

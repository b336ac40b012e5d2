"""Gradient descent on the overlap of experts' weights with each other: what one would do to lower weight MSO itself."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from simgap.moe import Weights


def pairwise_descent(
    weight: Float[Tensor, "... E f d"], strength: float, steps: int = 50, rate: float = 1e-3, plain: bool = False
) -> Float[Tensor, "... E f d"]:
    """The E experts' weights after descent on strength sum_{i<j} <w_i, w_j>^2 over flattened unit vectors (the Frobenius overlap).

    Each step moves w_i by -rate strength ||w_i||^2 times its gradient, 2 sum_j c_ij (w_j/||w_j|| - c_ij w_i/||w_i||) / ||w_i|| with
    c = cos, so that the rate is dimensionless: the direction moves by the rate whatever the scale of the init. All steps stay in the span
    of the E initial vectors, so they run on the E x E table of inner products in float64 and touch the weights once at the end.
    `plain` runs the same descent on the weights themselves.

    strength >= 0, rate > 0, steps >= 0.
    """
    if strength < 0 or rate <= 0 or steps < 0:
        raise ValueError(f"strength, rate, steps: expected >= 0, > 0 and >= 0, got {strength!r}, {rate!r}, {steps!r}")
    if strength == 0 or steps == 0:
        return weight
    flat = weight.flatten(-2)
    if plain:
        for _ in range(steps):
            flat = flat - rate * strength * _step(flat @ flat.mT) @ flat
        return flat.view_as(weight)
    start = flat.double() @ flat.double().mT
    mix = torch.eye(start.shape[-1], dtype=torch.float64, device=weight.device).expand_as(start)
    for _ in range(steps):
        mix = mix - rate * strength * _step(mix @ start @ mix.mT) @ mix
    return (mix.to(weight.dtype) @ flat).view_as(weight)


def _step(gram: Float[Tensor, "... E E"]) -> Float[Tensor, "... E E"]:
    """The coefficients of the gradient in the current vectors, times ||w_i||^2: row i gives w_i's step."""
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    cos = gram / norms[..., :, None] / norms[..., None, :]
    off = cos - torch.diag_embed(cos.diagonal(dim1=-2, dim2=-1))
    toward = 2 * off * (norms[..., :, None] / norms[..., None, :])
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

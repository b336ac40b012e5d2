"""Gradient descent on ||W'W - I||_F, expert by expert: the persistence paper's orthogonality regulariser."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.batch_invariant import matmul, one_by_one
from simgap.kernels.spectrum import descend_spectrum
from simgap.moe import Weights
from simgap.settings import own_settings
from simgap.training.checks import check_descent


@own_settings
def gram_descent(
    weight: Float[Tensor, "... f d"], strength: float, steps: int = 50, rate: float = 1e-3, plain: bool = False
) -> Float[Tensor, "... f d"]:
    """W after `steps` steps of gradient descent on strength ||W'W - I||_F, each of the given rate, for every matrix of a batch.

    The gradient, 2 W (W'W - I) / ||W'W - I||_F, has the singular vectors of W, so descent moves singular values only (law R1):
    s <- s - 2 rate strength s (s^2 - 1) / ||s^2 - 1||. With V and s^2 from one eigendecomposition of W'W (formed in W's dtype, decomposed
    in float64), the result is W + W V diag(s_T / s_0 - 1) V', whatever the number of steps. `plain` runs the same descent on W itself,
    step by step in W's dtype.

    strength >= 0, rate > 0, steps >= 0 (the paper gives the strengths and none of the rest). At a minimum, where the norm is not
    differentiable, the gradient is taken as 0.
    """
    check_descent(strength, steps, rate)
    if strength == 0 or steps == 0:
        return weight
    if plain:
        return _plain(weight, strength * rate, steps)
    squared, vectors = one_by_one(torch.linalg.eigh, matmul(weight.mT, weight).double())
    # Eigenvalues beyond the rank of W (d > f) are 0 up to round-off and stay there; they still count in the norm.
    spectrum = squared.clamp(min=0).reshape(-1, squared.shape[-1]).cpu().numpy()
    scale = np.empty_like(spectrum)
    descend_spectrum(spectrum, rate * strength, steps, scale)
    growth = torch.from_numpy(scale).to(squared.device).view_as(squared) - 1
    vectors = vectors.to(weight.dtype)
    return weight + matmul(matmul(weight, vectors * growth.to(weight.dtype)[..., None, :]), vectors.mT)


def _plain(weight: Tensor, step: float, steps: int) -> Tensor:
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    for _ in range(steps):
        excess = matmul(weight.mT, weight) - eye
        norm = torch.linalg.matrix_norm(excess, keepdim=True)
        weight = weight - 2 * step * matmul(weight, excess) / norm.clamp(min=torch.finfo(weight.dtype).tiny)
    return weight


@dataclass(frozen=True)
class RegulariseGram:
    """A `prepare` for `measure`: the descent above on W_up of every expert; W_down stays as drawn."""

    strength: float
    steps: int = 50
    rate: float = 1e-3
    plain: bool = False

    def __call__(self, weights: Weights) -> Weights:
        return replace(weights, up=gram_descent(weights.up, self.strength, self.steps, self.rate, self.plain))

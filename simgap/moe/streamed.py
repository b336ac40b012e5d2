"""Weights that are never held: each block of hidden units is drawn from its stream whenever it is wanted, and forgotten."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.kernels.normal import NORMALS_AT_ONCE
from simgap.moe.weights import HIDDEN_BLOCK, draw_affine, draw_router, filler
from simgap.seeding import Role
from simgap.specs import LayerSpec


@dataclass(frozen=True)
class StreamedWeights:
    """The weights of one trial, number for number those that `draw_weights` holds; gain, bias and router, which are small, are held."""

    spec: LayerSpec
    seed: int
    dtype: str
    device: str
    gain: Float[Tensor, "1 E f"] | None
    bias: Float[Tensor, "1 E f"] | None
    router: Float[Tensor, "1 R d"] | None
    trials: tuple[int]

    def blocks(self, role: Role, experts: slice) -> Iterator[Float[Tensor, "b h d"]]:
        """As of `Weights`, each block in memory that the next one overwrites."""
        numbers = range(experts.start or 0, experts.stop)
        memory = np.empty(len(numbers) * min(HIDDEN_BLOCK, self.spec.d_ff) * self.spec.d_model, self.dtype)
        for block, start in enumerate(range(0, self.spec.d_ff, HIDDEN_BLOCK)):
            units = min(HIDDEN_BLOCK, self.spec.d_ff - start)
            drawn = memory[: len(numbers) * units * self.spec.d_model].reshape(len(numbers), units, self.spec.d_model)
            for part, expert in zip(drawn, numbers, strict=True):
                filler(self.spec, self.seed, role, self.trials[0], expert, block)(part)
            yield torch.from_numpy(drawn).to(self.device)

    def pieces(self, role: Role, block: int) -> Iterator[Float[Tensor, "1 E m"]]:
        """As of `Weights`, NORMALS_AT_ONCE entries of each expert at a time, in memory that the next piece overwrites."""
        experts = self.spec.n_experts + self.spec.n_shared_experts
        units = min(HIDDEN_BLOCK, self.spec.d_ff - block * HIDDEN_BLOCK)
        fillers = [filler(self.spec, self.seed, role, self.trials[0], expert, block) for expert in range(experts)]
        piece = np.empty((experts, min(NORMALS_AT_ONCE, units * self.spec.d_model)), self.dtype)
        for start in range(0, units * self.spec.d_model, NORMALS_AT_ONCE):
            width = min(NORMALS_AT_ONCE, units * self.spec.d_model - start)
            for part, fill in zip(piece, fillers, strict=True):
                fill(part[:width])
            yield torch.from_numpy(piece[None, :, :width]).to(self.device)


def stream_weights(spec: LayerSpec, seed: int, trials: Sequence[int], dtype: str = "float32", device: str = "cpu") -> StreamedWeights:
    """Weights of one trial, drawn as they are used. Raises ValueError for orthogonal matrices, each of which is drawn whole."""
    if spec.init == "orthogonal":
        raise ValueError("init: an orthogonal matrix is drawn whole, so that a layer of them must fit the memory budget")
    if len(trials) != 1:
        raise ValueError(f"trials: a streamed layer is one trial, got {len(trials)}")
    gain, bias = draw_affine(spec, seed, trials, dtype, device)
    return StreamedWeights(spec, seed, dtype, device, gain, bias, draw_router(spec, seed, trials, dtype, device), (trials[0],))

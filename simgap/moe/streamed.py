"""Weights that are never held: each block of hidden units is drawn from its stream whenever it is wanted, and forgotten."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.kernels.normal import NORMALS_AT_ONCE
from simgap.moe.group import Draw
from simgap.moe.weights import HIDDEN_BLOCK, draw_affine, draw_output_bias, draw_router, filler, matrices, scales_of
from simgap.seeding import Role
from simgap.specs import LayerSpec


@dataclass(frozen=True)
class StreamedWeights:
    """The weights of one trial, number for number those that `draw_weights` holds; gain, bias and router, which are small, are held."""

    draw: Draw
    dtype: str
    device: str
    gain: Float[Tensor, "1 E f"] | None
    bias: Float[Tensor, "1 E f"] | None
    router: Float[Tensor, "1 R d"] | None
    output_bias: Float[Tensor, "1 d"] | None = None

    @property
    def trials(self) -> tuple[int]:
        return (self.draw.trial,)

    def blocks(self, role: Role, experts: slice) -> Iterator[Float[Tensor, "b h d"]]:
        """As of `Weights`, each block in memory that the next one overwrites."""
        spec, numbers = self.draw.spec, range(experts.start or 0, experts.stop)
        scales = scales_of(spec, role, self.dtype)
        memory = torch.empty(len(numbers) * min(HIDDEN_BLOCK, spec.d_ff) * spec.d_model, dtype=getattr(torch, self.dtype))
        for block, start in enumerate(range(0, spec.d_ff, HIDDEN_BLOCK)):
            units = min(HIDDEN_BLOCK, spec.d_ff - start)
            drawn = memory[: len(numbers) * units * spec.d_model].reshape(len(numbers), units, spec.d_model)
            for part, expert in zip(drawn.numpy(), numbers, strict=True):
                filler(self.draw, role, expert, block)(part)
                if scales is not None:
                    part *= scales
            yield drawn.to(self.device)

    @property
    def roles(self) -> tuple[Role, ...]:
        return matrices(self.draw.spec)

    @property
    def hidden_blocks(self) -> int:
        return -(-self.draw.spec.d_ff // HIDDEN_BLOCK)

    def pieces(self, role: Role, block: int, rows: range, columns: range) -> tuple[Iterator[Float[Tensor, "1 E m"]], range, range]:
        """As of `Weights`, NORMALS_AT_ONCE entries of each expert at a time, in memory that the next piece overwrites; only the experts of
        `rows` and `columns` are drawn."""
        if rows == columns:
            return self._drawn(role, block, rows), range(len(rows)), range(len(rows))
        return self._drawn(role, block, [*rows, *columns]), range(len(rows)), range(len(rows), len(rows) + len(columns))

    def units(self, t: int, e: int) -> list[Float[Tensor, "f d"]]:
        """As of `Weights`, drawn for this call."""
        return [torch.cat([block[0].clone() for block in self.blocks(role, slice(e, e + 1))]) for role in self.roles]

    def _drawn(self, role: Role, block: int, experts: Sequence[int]) -> Iterator[Float[Tensor, "1 E m"]]:
        spec = self.draw.spec
        units = min(HIDDEN_BLOCK, spec.d_ff - block * HIDDEN_BLOCK)
        fillers = [filler(self.draw, role, expert, block) for expert in experts]
        piece = np.empty((len(experts), min(NORMALS_AT_ONCE, units * spec.d_model)), self.dtype)
        scales = scales_of(spec, role, self.dtype)
        for start in range(0, units * spec.d_model, NORMALS_AT_ONCE):
            width = min(NORMALS_AT_ONCE, units * spec.d_model - start)
            for part, fill in zip(piece, fillers, strict=True):
                fill(part[:width])
            if scales is not None:
                # A piece begins in the middle of a unit's weights.
                piece[:, :width] *= scales[np.arange(start, start + width) % spec.d_model]
            yield torch.from_numpy(piece[None, :, :width]).to(self.device)


def stream_weights(draw: Draw, dtype: str = "float32", device: str = "cpu") -> StreamedWeights:
    """Weights of one trial, drawn as they are used. Raises ValueError for orthogonal matrices and those of a rotated space, each of which
    is drawn whole."""
    if why := drawn_whole(draw.spec):
        raise ValueError(f"{why}, so that a layer of them must fit the memory budget")
    gain, bias = draw_affine([draw], dtype, device)
    held = draw_router([draw], dtype, device), draw_output_bias([draw], dtype, device)
    return StreamedWeights(draw, dtype, device, gain, bias, *held)


def drawn_whole(spec: LayerSpec) -> str:
    """Why each matrix of a layer is drawn whole; nothing where blocks of it can be."""
    if spec.init == "orthogonal":
        return "init: an orthogonal matrix is drawn whole"
    return "space.rotated: a matrix is drawn whole before it is turned" if spec.space.rotated else ""

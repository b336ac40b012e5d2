"""The experts' weights, drawn block by block, each block of hidden units from its own stream."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.batch_invariant import matmul, one_by_one
from simgap.kernels.normal import NORMALS_AT_ONCE
from simgap.moe.draws import common_vectors, fill_normal, fill_rows, fill_uniform
from simgap.moe.group import Draw, runs
from simgap.seeding import Label, Role, stream
from simgap.spaces import direction_scales
from simgap.specs import GAUSSIAN_INITS, LayerSpec
from simgap.threads import PARALLEL_FROM, Map, if_large, in_order

# Hidden units per stream. Part of every weight's label: another value is another layer for the same seed.
HIDDEN_BLOCK = 2048


@dataclass(frozen=True)
class Weights:
    """Weights of `s` independent layers, routed experts first, shared ones after them (E counts both).

    up, gate: (s, E, d_ff, d_model), gate None unless gated. down: (s, E, d_model, d_ff), a transposed view of (s, E, d_ff, d_model)
    memory, so that a block of hidden units is contiguous in all three. gain, bias: (s, E, d_ff) of the norm, or None.
    router: (s, n_experts, d_model), None for a router without weights. trials: which trials these are. output_bias: (s, d_model), what is
    added to the output of every expert of a trial, or None.
    """

    up: Float[Tensor, "s E f d"]
    gate: Float[Tensor, "s E f d"] | None
    down: Float[Tensor, "s E d f"]
    gain: Float[Tensor, "s E f"] | None
    bias: Float[Tensor, "s E f"] | None
    router: Float[Tensor, "s R d"] | None
    trials: tuple[int, ...]
    output_bias: Float[Tensor, "s d"] | None = None

    def blocks(self, role: Role, experts: slice) -> Iterator[Float[Tensor, "b h d"]]:
        """The matrices of some experts of every trial (b of them), HIDDEN_BLOCK hidden units at a time; W_down transposed."""
        matrix = self._matrix(role)[:, experts]
        for start in range(0, matrix.shape[2], HIDDEN_BLOCK):
            yield matrix[:, :, start : start + HIDDEN_BLOCK].flatten(0, 1)

    @property
    def roles(self) -> tuple[Role, ...]:
        return ("up", "down") if self.gate is None else ("up", "gate", "down")

    @property
    def hidden_blocks(self) -> int:
        return -(-self.up.shape[2] // HIDDEN_BLOCK)

    def pieces(self, role: Role, block: int, rows: range, columns: range) -> tuple[Iterator[Float[Tensor, "s E m"]], range, range]:
        """Experts' weights of one block of hidden units, flattened, entry beside entry, here in one piece of all experts; and which of
        those in a piece are the experts of `rows` and of `columns`."""
        whole = self._matrix(role)[:, :, block * HIDDEN_BLOCK : (block + 1) * HIDDEN_BLOCK].flatten(2)
        return iter([whole]), rows, columns

    def units(self, t: int, e: int) -> list[Float[Tensor, "f d"]]:
        """Of each role, the matrix of an expert, a row to a hidden unit."""
        return [self._matrix(role)[t, e] for role in self.roles]

    def _matrix(self, role: Role) -> Float[Tensor, "s E f d"]:
        matrix = {"up": self.up, "gate": self.gate, "down": self.down.mT}.get(role)
        if matrix is None:
            raise ValueError(f"role: these weights have no {role}")
        return matrix


def entry_std(spec: LayerSpec, role: str) -> float:
    """Standard deviation of a weight's entries: sqrt(2 / fan_in) for Kaiming (He et al. 2015, gain sqrt 2), sqrt(2 / (fan_in + fan_out))
    for Xavier (Glorot and Bengio 2010, gain 1), 1 / sqrt(max(d_model, d_ff)) for orthogonal (Saxe et al. 2014, gain 1)."""
    if spec.init == "orthogonal":
        return 1 / math.sqrt(max(spec.d_model, spec.d_ff))
    fan_in, fan_out = (spec.d_ff, spec.d_model) if role == "down" else (spec.d_model, spec.d_ff)
    return math.sqrt(2 / (fan_in + fan_out)) if spec.init.startswith("xavier") else math.sqrt(2 / fan_in)


def matrices(spec: LayerSpec) -> tuple[Role, ...]:
    """The matrices that an expert has."""
    return ("up", "gate", "down") if spec.gated else ("up", "down")


def draw_weights(draws: Sequence[Draw], dtype: str = "float32", device: str = "cpu", task_map: Map = in_order) -> Weights:
    """Weights of a group. Drawn on the CPU whatever the device, so that a seed means the same experts everywhere.

    An orthogonal matrix is one block, however large. Neighbours of one init are drawn by one call. What is drawn is scaled to the space of
    its layer.
    """
    shape = draws[0].spec
    experts, size = shape.n_experts + shape.n_shared_experts, shape.d_ff * shape.d_model
    roles = matrices(shape)
    owners = [(draw.seed, draw.trial, expert) for draw in draws for expert in range(experts)]
    bases = [_Basis.of(draw, dtype) for draw in draws]
    # torch's memory begins where a product may read it as it lies.
    tensors = {role: torch.empty(len(draws), experts, shape.d_ff, shape.d_model, dtype=getattr(torch, dtype)) for role in roles}

    def draw(task: tuple[Role, range]) -> None:
        role, part = task
        rows = tensors[role].numpy().reshape(-1, size)[part.start : part.stop]
        spec = draws[part.start // experts].spec
        labels = [Label(seed, role, trial, expert) for seed, trial, expert in owners[part.start : part.stop]]
        if spec.init == "orthogonal":
            _draw_orthogonal(rows.reshape(-1, spec.d_ff, spec.d_model), labels)
        elif spec.init in GAUSSIAN_INITS and spec.d_ff <= HIDDEN_BLOCK:
            fill_rows(rows, labels, entry_std(spec, role))
        else:
            for row, at in zip(rows, part, strict=True):
                _draw_expert(row.reshape(spec.d_ff, spec.d_model), draws[at // experts], role, at % experts)
        for at in part:
            if (basis := bases[at // experts]) is not None:
                basis.apply(tensors[role].view(-1, shape.d_ff, shape.d_model)[at], role)

    tasks = [(role, part) for part in _neighbours(draws, experts, max(1, PARALLEL_FROM // size)) for role in roles]
    list(if_large(task_map, 2 * size * experts * len(draws))(draw, tasks))
    placed = {role: tensor.to(device) for role, tensor in tensors.items()}
    gain, bias = draw_affine(draws, dtype, device)
    return Weights(
        up=placed["up"],
        gate=placed.get("gate"),
        down=placed["down"].mT,
        gain=gain,
        bias=bias,
        router=draw_router(draws, dtype, device),
        trials=tuple(draw.trial for draw in draws),
        output_bias=draw_output_bias(draws, dtype, device),
    )


def _neighbours(draws: Sequence[Draw], experts: int, most: int) -> Iterator[range]:
    """Experts, numbered over all draws, in stretches of one init and at most so many."""
    for run in runs(draws, lambda spec: (spec.init, spec.init_correlation)):
        rows = range(experts * run.start, experts * run.stop)
        yield from (rows[start : start + most] for start in range(0, len(rows), most))


def _draw_expert(out: np.ndarray, draw: Draw, role: Role, expert: int) -> None:
    """Fill one expert's (d_ff, d_model) memory: W_up, W_gate, or W_down transposed."""
    for block, start in enumerate(range(0, len(out), HIDDEN_BLOCK)):
        filler(draw, role, expert, block)(out[start : start + HIDDEN_BLOCK])


def filler(draw: Draw, role: Role, expert: int, block: int) -> Callable[[np.ndarray], object]:
    """A function that fills contiguous arrays with the weights of one block of hidden units, each call with those that come next.

    Any multiple of NORMALS_AT_ONCE numbers may be asked for at a time, and the last call for fewer. Not for orthogonal matrices, which
    are drawn whole.
    """
    spec, seed, trial = draw
    std = entry_std(spec, role)
    generator = stream(seed, role, trial=trial, expert=expert, block=block)
    if spec.init.endswith("uniform"):
        return lambda part: fill_uniform(part, generator, bound=math.sqrt(3) * std)
    if spec.init != "upcycled":
        return lambda part: fill_normal(part, generator, std)
    shared: dict[str, Role] = {"up": "base_up", "gate": "base_gate", "down": "base_down"}
    common = stream(seed, shared[role], trial=trial, block=block)

    def upcycled(part: np.ndarray) -> None:
        flat = part.reshape(-1)
        base = np.empty(min(flat.size, NORMALS_AT_ONCE), flat.dtype)
        for start in range(0, flat.size, NORMALS_AT_ONCE):
            piece = flat[start : start + NORMALS_AT_ONCE]
            fill_normal(piece, generator, std)
            piece *= flat.dtype.type(math.sqrt(1 - spec.init_correlation))
            piece += flat.dtype.type(math.sqrt(spec.init_correlation)) * fill_normal(base[: piece.size], common, std)

    return upcycled


def _draw_orthogonal(out: Float[np.ndarray, "S f d"], labels: list[Label]) -> None:
    """Fill each matrix with a Haar-distributed one, orthonormal along its shorter side: Q of a Gaussian, with the signs of R moved in."""
    tall = out if out.shape[1] >= out.shape[2] else out.transpose(0, 2, 1)
    gaussian = np.empty(tall.shape, out.dtype)
    fill_rows(gaussian.reshape(len(labels), -1), labels)
    q, r = one_by_one(torch.linalg.qr, torch.from_numpy(gaussian))
    tall[...] = (q * torch.where(r.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)[:, None, :]).numpy()


def scales_of(spec: LayerSpec, role: Role, dtype: str) -> Float[np.ndarray, " d"] | None:
    """What the entries of a hidden unit's weights are multiplied by, one factor to a dimension of the model; None where it is 1."""
    if not spec.space.scales("outputs" if role == "down" else "inputs"):
        return None
    return direction_scales(spec.space, spec.d_model).astype(dtype)


@dataclass(frozen=True)
class _Basis:
    """The directions of one layer's space: factors by role, and the orthogonal matrix whose rows they are, None for coordinates."""

    scales: dict[Role, Float[np.ndarray, " d"] | None]
    rows: Float[Tensor, "d d"] | None

    @classmethod
    def of(cls, draw: Draw, dtype: str) -> "_Basis | None":
        spec = draw.spec
        if not spec.space.uneven:
            return None
        scales = {role: scales_of(spec, role, dtype) for role in matrices(spec)}
        if not spec.space.rotated:
            return cls(scales, None)
        rows = np.empty((1, spec.d_model, spec.d_model), dtype)
        _draw_orthogonal(rows, [Label(draw.seed, "rotation", draw.trial)])
        return cls(scales, torch.from_numpy(rows[0]))

    def apply(self, matrix: Float[Tensor, "f d"], role: Role) -> None:
        """Scale, and turn, one expert's matrix in its place."""
        scales = self.scales[role]
        if scales is not None:
            matrix *= torch.from_numpy(scales)
            if self.rows is not None:
                matrix.copy_(matmul(matrix[None], self.rows[None])[0])


def draw_output_bias(draws: Sequence[Draw], dtype: str, device: str) -> Float[Tensor, "s d"] | None:
    """What every expert of a trial adds to its output: uniform direction, root mean square entry space.bias; None where that is 0."""
    if not draws[0].spec.space.bias:
        return None
    return torch.from_numpy(common_vectors(draws, "output_bias", [draw.spec.space.bias for draw in draws], dtype)).to(device)


def draw_affine(draws: Sequence[Draw], dtype: str, device: str) -> tuple[Tensor | None, Tensor | None]:
    """Gain and bias of the norm, (s, E, d_ff) each, or None."""
    shape = draws[0].spec
    if shape.norm_affine == "none":
        return None, None
    experts = shape.n_experts + shape.n_shared_experts
    both = np.empty((len(draws), experts, 2, shape.d_ff), dtype)
    for out, (spec, seed, trial) in zip(both, draws, strict=True):
        own = 1 if spec.norm_affine == "shared" else experts
        fill_rows(out[:own].reshape(own, -1), [Label(seed, "affine", trial, expert) for expert in range(own)], spec.norm_affine_std)
        out[own:] = out[0]
    gain, bias = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (1 + both[:, :, 0], both[:, :, 1]))
    return gain, bias


def draw_router(draws: Sequence[Draw], dtype: str, device: str) -> Tensor | None:
    """Router rows with entries N(0, 1 / d_model): logits of unit variance at ||x||^2 = d_model. None where no draw's router has weights;
    beside one that has, a router without leaves its own unused."""
    if all(draw.spec.router.kind in ("uniform", "hash") for draw in draws):
        return None
    shape = draws[0].spec
    rows = np.empty((len(draws), shape.n_experts, shape.d_model), dtype)
    labels = [Label(draw.seed, "router", draw.trial) for draw in draws]
    fill_rows(rows.reshape(len(draws), -1), labels, 1 / math.sqrt(shape.d_model))
    return torch.from_numpy(rows).to(device)

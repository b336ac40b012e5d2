"""Token vectors: the laws of InputSpec, and the rows of a user's file."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.moe.draws import common_vectors, fill_normal, fill_rows
from simgap.moe.group import Draw, kinds
from simgap.moe.rowfile import Rows
from simgap.seeding import Label, stream
from simgap.sources import TOKEN_BLOCK
from simgap.specs import InputSpec

# (draws, tokens, dtype) -> (s, n, d_model) on the CPU
DrawTokens = Callable[[Sequence[Draw], int, str], Float[Tensor, "s n d"]]


def open_inputs(draws: Sequence[Draw]) -> DrawTokens:
    """A function of (draws, tokens, dtype) that gives the tokens of such draws, (s, n, d_model).

    Raises ValueError for a file that cannot be read, has another width than d_model, holds a value that is not finite, or too few rows, or
    that changes while it is read.
    """
    specs = {draw.spec.inputs: draw.spec for draw in draws}
    sources = {inputs: _opened(inputs, spec.d_model) for inputs, spec in specs.items()}

    def tokens_of(draws: Sequence[Draw], tokens: int, dtype: str) -> Tensor:
        parts = kinds(draws, lambda spec: spec.inputs)
        if len(parts) == 1:
            return sources[draws[0].spec.inputs](draws, tokens, dtype)
        x = torch.empty(len(draws), tokens, draws[0].spec.d_model, dtype=getattr(torch, dtype))
        for part in parts:
            x[part] = sources[draws[part[0]].spec.inputs]([draws[at] for at in part], tokens, dtype)
        return x

    return tokens_of


def _opened(spec: InputSpec, d_model: int) -> DrawTokens:
    """The source of one law of inputs."""
    if spec.kind == "file":
        rows = open_rows(spec, d_model)

        def from_file(draws: Sequence[Draw], tokens: int, dtype: str) -> Tensor:
            if tokens > len(rows):
                raise ValueError(f"tokens: {tokens} asked for, but {spec.path!r} has {len(rows)} rows")
            generators = [stream(draw.seed, "permutation", trial=draw.trial) for draw in draws]
            chosen = [np.sort(generator.choice(len(rows), tokens, replace=False)) for generator in generators]
            with np.errstate(over="ignore"):
                x = torch.from_numpy(np.stack([rows.take(c) for c in chosen]).astype(dtype))
            if not bool(torch.isfinite(x).all()):
                at, row, _ = (~torch.isfinite(x)).nonzero()[0].tolist()
                raise ValueError(f"inputs.path: row {chosen[at][row]} of {spec.path!r} is too large for {dtype}")
            return _with_mean(x, spec, draws)

        return from_file

    def drawn(draws: Sequence[Draw], tokens: int, dtype: str) -> Tensor:
        x = np.empty((len(draws), tokens, d_model), dtype)
        # What one call fills lies in one piece of memory.
        at_once = len(draws) if tokens <= TOKEN_BLOCK else 1
        for first in range(0, len(draws), at_once):
            for block, start in enumerate(range(0, tokens, TOKEN_BLOCK)):
                _fill(x[first : first + at_once, start : start + TOKEN_BLOCK], spec, draws[first : first + at_once], block)
        if spec.document_correlation:
            _correlate(x, spec)
        vectors = _with_mean(torch.from_numpy(x), spec, draws)
        if spec.massive:
            _lengthen(vectors, spec, draws)
        return vectors

    return drawn


def open_rows(spec: InputSpec, d_model: int) -> Rows:
    """The rows of a user's file, all of them finite. Raises ValueError that names the first that is not, and as `Rows` does."""
    rows = Rows(spec.path, spec.tensor, d_model)
    for start, block in rows.blocks():
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise ValueError(f"inputs.path: row {start + int(np.argmin(finite))} of {spec.path!r} is not finite")
    return rows


def _fill(x: Float[np.ndarray, "s n d"], spec: InputSpec, draws: Sequence[Draw], block: int) -> None:
    """Fill one block of the tokens of some draws with E ||x||^2 = d_model."""
    d = x.shape[-1]
    if spec.kind in ("student", "clusters"):
        for out, draw in zip(x, draws, strict=True):
            (_fill_student if spec.kind == "student" else _fill_clusters)(out, spec, draw, block)
        return
    fill_rows(x.reshape(len(draws), -1), [Label(draw.seed, "inputs", draw.trial, block=block) for draw in draws])
    if spec.kind == "sphere":
        x *= math.sqrt(d) / np.linalg.norm(x, axis=-1, keepdims=True)
    elif spec.kind == "powerlaw":
        spectrum = np.arange(1, d + 1, dtype=np.float64) ** -spec.alpha
        x *= np.sqrt(spectrum / spectrum.mean()).astype(x.dtype)


def _fill_student(x: Float[np.ndarray, "n d"], spec: InputSpec, draw: Draw, block: int) -> None:
    generator = stream(draw.seed, "inputs", trial=draw.trial, block=block)
    x[...] = generator.standard_t(spec.dof, size=x.shape) / math.sqrt(spec.dof / (spec.dof - 2))


def _fill_clusters(x: Float[np.ndarray, "n d"], spec: InputSpec, draw: Draw, block: int) -> None:
    chosen = _fill_and_choose(x, spec, draw, block)
    centres = fill_normal(np.empty((spec.n_clusters, x.shape[1]), x.dtype), stream(draw.seed, "inputs_clusters", trial=draw.trial))
    x *= x.dtype.type(math.sqrt(1 - spec.separation))
    x += x.dtype.type(math.sqrt(spec.separation)) * centres[chosen]


def _fill_and_choose(x: Float[np.ndarray, "n d"], spec: InputSpec, draw: Draw, block: int) -> Int[np.ndarray, " n"]:
    """Fill a block with normal numbers, and say which cluster each token is of, which comes after them in the stream."""
    generator = stream(draw.seed, "inputs", trial=draw.trial, block=block)
    fill_normal(x, generator)
    return generator.integers(spec.n_clusters, size=len(x))


def clusters_of(draws: Sequence[Draw], tokens: int, dtype: str) -> Int[np.ndarray, "s n"]:
    """Which cluster each token is of, of draws whose inputs are clusters: drawn once more, since nobody keeps it."""
    numbers = np.empty((len(draws), tokens), np.int64)
    for of_draw, draw in zip(numbers, draws, strict=True):
        for block, start in enumerate(range(0, tokens, TOKEN_BLOCK)):
            part = of_draw[start : start + TOKEN_BLOCK]
            part[:] = _fill_and_choose(np.empty((len(part), draw.spec.d_model), dtype), draw.spec.inputs, draw, block)
    return numbers


def _correlate(x: Float[np.ndarray, "s n d"], spec: InputSpec) -> None:
    """Make each token of a document, but the first, rho times the one before it plus sqrt(1 - rho^2) times itself; one of a sphere is then
    brought back to its length."""
    rho, size = spec.document_correlation, spec.document_tokens
    for at in range(1, min(size, x.shape[1])):
        tokens = x[:, at::size]
        tokens *= math.sqrt(1 - rho * rho)
        tokens += rho * x[:, at - 1 :: size][:, : tokens.shape[1]]
        if spec.kind == "sphere":
            tokens *= math.sqrt(x.shape[-1]) / np.linalg.norm(tokens, axis=-1, keepdims=True)


def _lengthen(x: Float[Tensor, "s n d"], spec: InputSpec, draws: Sequence[Draw]) -> None:
    """Make the massive tokens of each draw so many times as long."""
    for tokens, draw in zip(x, draws, strict=True):
        massive = stream(draw.seed, "inputs_massive", trial=draw.trial).random(len(tokens)) < spec.massive
        tokens[torch.from_numpy(massive)] *= spec.massive_scale


def _with_mean(x: Tensor, spec: InputSpec, draws: Sequence[Draw]) -> Tensor:
    """Add a vector common to all tokens of a trial: uniform direction, root mean square entry spec.mean."""
    if spec.mean == 0:
        return x
    return (
        x
        + torch.from_numpy(common_vectors(draws, "inputs_mean", [spec.mean] * len(draws), str(x.dtype).removeprefix("torch.")))[:, None, :]
    )

"""Token vectors: the laws of InputSpec, and the rows of a user's file."""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.moe.draws import fill_normal
from simgap.seeding import stream
from simgap.specs import InputSpec

# Tokens per stream and per pass through the experts. Part of every token's label, and of the order in which means are summed.
TOKEN_BLOCK = 1024

# (seed, trials, tokens, dtype) -> (s, n, d_model) on the CPU
Source = Callable[[int, Sequence[int], int, str], Float[Tensor, "s n d"]]


def open_inputs(spec: InputSpec, d_model: int) -> Source:
    """A function of (seed, trials, tokens, dtype) that gives the tokens of those trials, (s, n, d_model).

    Raises ValueError for a file that cannot be read, has another width than d_model, holds a value that is not finite, or too few rows.
    """
    if spec.kind == "file":
        rows = read_rows(spec, d_model)

        def from_file(seed: int, trials: Sequence[int], tokens: int, dtype: str) -> Tensor:
            if tokens > len(rows):
                raise ValueError(f"tokens: {tokens} asked for, but {spec.path!r} has {len(rows)} rows")
            chosen = [stream(seed, "permutation", trial=trial).choice(len(rows), tokens, replace=False) for trial in trials]
            with np.errstate(over="ignore"):
                x = torch.from_numpy(np.stack([rows[np.sort(c)] for c in chosen]).astype(dtype))
            if not bool(torch.isfinite(x).all()):
                at, row, _ = (~torch.isfinite(x)).nonzero()[0].tolist()
                raise ValueError(f"inputs.path: row {np.sort(chosen[at])[row]} of {spec.path!r} is too large for {dtype}")
            return _with_mean(x, spec, seed, trials)

        return from_file

    def drawn(seed: int, trials: Sequence[int], tokens: int, dtype: str) -> Tensor:
        x = np.empty((len(trials), tokens, d_model), dtype)
        for at, trial in enumerate(trials):
            for block, start in enumerate(range(0, tokens, TOKEN_BLOCK)):
                _fill(x[at, start : start + TOKEN_BLOCK], spec, seed, trial, block)
        return _with_mean(torch.from_numpy(x), spec, seed, trials)

    return drawn


def read_rows(spec: InputSpec, d_model: int) -> Float[np.ndarray, "rows d"]:
    """The matrix in a .npy file (memory-mapped, never unpickled) or in a .safetensors file, checked for width and finite values."""
    if os.path.exists(spec.path) and not os.path.isfile(spec.path):
        raise ValueError(f"inputs.path: cannot read {spec.path!r}: not a regular file")
    try:
        # Unlike np.load, open_memmap reads nothing but the .npy format: no archive, and no pickle.
        rows = np.lib.format.open_memmap(spec.path, mode="r") if spec.path.endswith(".npy") else _safetensors_matrix(spec)
    except Exception as error:  # the parser of a foreign file's header may raise anything
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ValueError(f"inputs.path: cannot read {spec.path!r}: {reason}") from None
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise ValueError(f"inputs.path: expected a matrix of floats in {spec.path!r}, got shape {rows.shape}, dtype {rows.dtype}")
    if rows.shape[1] != d_model:
        raise ValueError(f"inputs.path: {spec.path!r} has rows of width {rows.shape[1]}, but d_model is {d_model}")
    for start in range(0, len(rows), TOKEN_BLOCK):
        finite = np.isfinite(rows[start : start + TOKEN_BLOCK]).all(axis=1)
        if not finite.all():
            raise ValueError(f"inputs.path: row {start + int(np.argmin(finite))} of {spec.path!r} is not finite")
    return rows


def _safetensors_matrix(spec: InputSpec) -> np.ndarray:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(spec.path, framework="pt") as file:
            names = list(file.keys())
            if not spec.tensor and len(names) != 1:
                raise ValueError(f"it holds {len(names)} tensors; name one in inputs.tensor")
            if spec.tensor and spec.tensor not in names:
                raise ValueError(f"it has no tensor {spec.tensor!r}")
            matrix = file.get_tensor(spec.tensor or names[0])
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return (matrix.float() if matrix.dtype in (torch.bfloat16, torch.float16) else matrix).numpy()


def _fill(x: np.ndarray, spec: InputSpec, seed: int, trial: int, block: int) -> None:
    """Fill one block of tokens (n, d_model) with E ||x||^2 = d_model."""
    generator = stream(seed, "inputs", trial=trial, block=block)
    d = x.shape[1]
    if spec.kind == "student":
        x[...] = generator.standard_t(spec.dof, size=x.shape) / math.sqrt(spec.dof / (spec.dof - 2))
        return
    fill_normal(x, generator)
    if spec.kind == "sphere":
        x *= math.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
    elif spec.kind == "powerlaw":
        spectrum = np.arange(1, d + 1, dtype=np.float64) ** -spec.alpha
        x *= np.sqrt(spectrum / spectrum.mean()).astype(x.dtype)
    elif spec.kind == "clusters":
        centres = fill_normal(np.empty((spec.n_clusters, d), x.dtype), stream(seed, "inputs_clusters", trial=trial))
        x *= x.dtype.type(math.sqrt(1 - spec.separation))
        x += x.dtype.type(math.sqrt(spec.separation)) * centres[generator.integers(spec.n_clusters, size=len(x))]


def _with_mean(x: Tensor, spec: InputSpec, seed: int, trials: Sequence[int]) -> Tensor:
    """Add a vector common to all tokens of a trial: uniform direction, root mean square entry spec.mean."""
    if spec.mean == 0:
        return x
    d = x.shape[-1]
    direction = np.stack([stream(seed, "inputs_mean", trial=trial).standard_normal(d) for trial in trials])
    direction *= spec.mean * math.sqrt(d) / np.linalg.norm(direction, axis=1, keepdims=True)
    return x + torch.from_numpy(direction).to(x.dtype)[:, None, :]

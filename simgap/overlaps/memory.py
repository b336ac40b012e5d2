"""A tensor as the kernels see it: one run of memory, and where in it each vector begins."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.threads import Map, in_order

# What the kernels read as it lies in memory; bfloat16 as the bits of a uint16.
KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Numbers that one task reads at a time: where they must be copied, this much is held.
AT_ONCE = 1 << 22
# The most where they are read as they lie, since fewer tasks lose less time between them; smaller arrays are cut into PARTS.
IN_PLACE = 1 << 24
PARTS = 16
# The fewest numbers that a task is given: in a quarter of a millisecond the rest of a task is some tenths of its time.
LEAST = 1 << 19


def on_cpu(vectors: Tensor) -> bool:
    return vectors.device.type == "cpu"


def shared(task_map: Map, vectors: Tensor) -> Map:
    """The given map where the vectors are on a CPU; elsewhere one thread, which fills the device as well as several."""
    return task_map if on_cpu(vectors) else in_order


def is_readable(vectors: Tensor) -> bool:
    """Whether a kernel can read the tensor as it lies: one of KERNEL_DTYPES, contiguous along its last axis."""
    return vectors.dtype in KERNEL_DTYPES and (vectors.shape[-1] <= 1 or vectors.stride(-1) == 1)


def readable(vectors: Tensor) -> Tensor:
    """The tensor itself where a kernel can read it, else a copy: half precision as float32, whole numbers as float64. A large tensor is
    better handed over in pieces of AT_ONCE numbers."""
    if vectors.dtype not in KERNEL_DTYPES:
        vectors = vectors.float() if vectors.is_floating_point() else vectors.double()
    return vectors if is_readable(vectors) else vectors.contiguous()


def flattened(arrays: Float[Tensor, "E *shape"]) -> Float[Tensor, "E N"]:
    """Each of E arrays as one vector, in the order of memory, which inner products do not see: a transposed view is not copied."""
    order = sorted(range(1, arrays.ndim), key=lambda axis: -arrays.stride()[axis])
    return arrays.permute(0, *order).reshape(len(arrays), -1)


def runs(vectors: Tensor) -> tuple[np.ndarray, Int[np.ndarray, "..."]]:
    """(flat, starts) of a readable CPU tensor of shape (..., width): memory without a copy, and where each vector begins in it."""
    return run(vectors), offsets(vectors.shape[:-1], vectors.stride()[:-1])


def run(vectors: Tensor) -> np.ndarray:
    """The memory of a readable CPU tensor from its first number to its last, without a copy."""
    vectors = vectors.detach()
    last = sum((size - 1) * stride for size, stride in zip(vectors.shape[:-1], vectors.stride()[:-1], strict=True))
    flat = vectors.as_strided((last + vectors.shape[-1],), (1,)) if vectors.numel() else vectors.reshape(-1)
    return flat.view(torch.int16).numpy().view(np.uint16) if flat.dtype == torch.bfloat16 else flat.numpy()


def tokens_at(vectors: Tensor, tokens: range | np.ndarray) -> Tensor:
    """Those tokens of an array (..., k, width), counted through its leading axes, as (tokens, k, width): a view where one axis numbers them
    and they follow each other, else a copy."""
    sizes = vectors.shape[:-2]
    if isinstance(tokens, range) and len(sizes) == 1:
        return vectors[tokens.start : tokens.stop]
    along = np.unravel_index(np.asarray(tokens, np.int64), sizes)
    return vectors[tuple(torch.from_numpy(axis).to(vectors.device) for axis in along)]


def token_offsets(vectors: Tensor, tokens: range | np.ndarray) -> Int[np.ndarray, "tokens k"]:
    """Where in memory the vectors of those tokens begin, counted as in `tokens_at`; no number is touched."""
    *sizes, k, _ = vectors.shape
    *strides, across, _ = vectors.stride()
    numbers = np.arange(tokens.start, tokens.stop) if isinstance(tokens, range) else tokens
    along = np.unravel_index(numbers, sizes) if len(sizes) > 1 else (numbers,)
    begins = functools.reduce(np.add, [axis * stride for axis, stride in zip(along, strides, strict=True)])
    return np.add.outer(begins, np.arange(k) * across)


def row_offsets(vectors: Tensor, rows: Int[np.ndarray, "*some"]) -> Int[np.ndarray, "*some"]:
    """Where in memory vectors begin that are counted through all axes but the last; of -1, none, it is no place."""
    sizes, strides = vectors.shape[:-1], vectors.stride()[:-1]
    if all(stride == size * after for stride, size, after in zip(strides, sizes[1:], strides[1:], strict=False)):
        return rows * strides[-1]
    along = np.unravel_index(np.maximum(rows, 0), sizes)
    return functools.reduce(np.add, [axis * stride for axis, stride in zip(along, strides, strict=True)])


def offsets(sizes: Sequence[int], strides: Sequence[int]) -> Int[np.ndarray, "..."]:
    """Where in memory the elements of an array lie, in its shape; strides are not negative."""
    along = [np.arange(size) * stride for size, stride in zip(sizes, strides, strict=True)]
    return functools.reduce(np.add.outer, along, np.zeros((), np.int64))

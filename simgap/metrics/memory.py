"""A tensor as the kernels see it: one run of memory, and where in it each vector begins."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from simgap.threads import Map, in_order

# What the kernels read as it lies in memory; bfloat16 as the bits of a uint16.
KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Numbers that one task reads at a time: where they must be copied, this much is held.
AT_ONCE = 1 << 22


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


def runs(vectors: Tensor) -> tuple[np.ndarray, Int[np.ndarray, "..."]]:
    """(flat, starts) of a readable CPU tensor of shape (..., width): memory without a copy, and where each vector begins in it."""
    vectors = vectors.detach()
    starts = np.zeros(vectors.shape[:-1], np.int64)
    extent = 1
    for axis, (size, stride) in enumerate(zip(vectors.shape[:-1], vectors.stride()[:-1], strict=True)):
        starts += (np.arange(size) * stride).reshape(-1, *[1] * (vectors.ndim - 2 - axis))
        extent += max(size - 1, 0) * stride
    flat = vectors.as_strided((extent - 1 + vectors.shape[-1],), (1,)) if vectors.numel() else vectors.reshape(-1)
    return flat.view(torch.int16).numpy().view(np.uint16) if flat.dtype == torch.bfloat16 else flat.numpy(), starts

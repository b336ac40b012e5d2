"""A canary of this machine's arithmetic: the bits of a few odd sums that every measurement is made of.

Two CPUs of one name may round differently, and so may one CPU under another setting of a library (ATEN_CPU_CAPABILITY, NUMBA_CPU_NAME,
MKL_CBWR, NPY_DISABLE_CPU_FEATURES): each picks another code path for the same product. Where the canary is equal, results were seen to
be; where it is not, the last bits of a measurement may differ.
"""

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simgap.kernels.gram import add_grams
from simgap.kernels.products import TILE
from simgap.moe.draws import fill_rows
from simgap.seeding import Label, stream
from simgap.threads import pool

# Odd, so that no vector register is filled evenly; the contractions lie within one block of a library's product and beyond several.
BATCH, ROWS, COLUMNS, CONTRACTIONS = 3, 13, 29, (37, 1031)


@cache
def canary() -> str:
    """16 hex digits of the bits that this process's libraries and kernels give: the same for any number of threads.

    Found once per process, in some milliseconds.
    """
    digest = hashlib.blake2b(digest_size=8)
    # One thread, and float32 in float32, as in every measurement.
    with pool(1):
        for numbers in _probes():
            digest.update(np.ascontiguousarray(numbers).tobytes())
    return digest.hexdigest()


def _probes() -> Iterator[np.ndarray]:
    for dtype in (torch.float32, torch.float64):
        for inner in CONTRACTIONS:
            yield torch.bmm(_uniform(dtype, BATCH, ROWS, inner), _uniform(dtype, BATCH, inner, COLUMNS)).numpy()
        for factor in torch.linalg.qr(_uniform(dtype, BATCH, COLUMNS, ROWS)):
            yield factor.numpy()
        x = 8 * _uniform(dtype, COLUMNS, CONTRACTIONS[0])
        for function in (F.silu, F.gelu, F.logsigmoid, torch.tanh, torch.erf, torch.exp):
            yield function(x).numpy()
        yield torch.softmax(x, -1).numpy()
        yield x.square().sum(-1).rsqrt().numpy()
    plain = _uniform(torch.float64, CONTRACTIONS[1]).abs().numpy()
    yield from (np.exp(plain), np.log(plain), plain.sum(keepdims=True))
    yield from _kernels()


def _kernels() -> Iterator[np.ndarray]:
    """Normal numbers, and their inner products."""
    rows, width = 5, CONTRACTIONS[1]
    normals = np.empty((rows, width), np.float32)
    fill_rows(normals, [Label(0, "test", trial) for trial in range(rows)], 1.0)
    yield normals
    table = np.zeros((1, 2 * TILE, 2 * TILE))
    add_grams(normals.reshape(-1), np.arange(rows, dtype=np.int64)[None] * width, width, table)
    # Elsewhere the table holds no meaning.
    yield table[0, :rows, :rows][np.triu_indices(rows)]


def _uniform(dtype: torch.dtype, *shape: int) -> Tensor:
    """Numbers in [-1/2, 1/2) whose bits are the same on every machine, at an address of torch's own choice: numpy's may lie askew, and
    a product's bits may depend on that."""
    numbers = stream(0, "test").random(shape) - 0.5
    return torch.from_numpy(numbers).to(dtype, copy=True)

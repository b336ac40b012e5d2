"""Arrays of any shape in .npy and .safetensors files, mapped and not read.

Nothing is unpickled, and no size is believed that the file does not have.
"""

import math
import os
import stat
from typing import Any

import numpy as np
import torch

from simgap.moe.rowfile import Layout, npy_layout, safetensors_layout

ENDINGS = (".npy", ".safetensors")


def array_in(name: str, path: str) -> Any:
    """The array in a file, as a memory map; bfloat16 as a tensor over one. Of several tensors in a .safetensors file the one of that name.

    name: what the array is, for messages. Raises ValueError in one line where the file cannot be read, is neither .npy nor .safetensors,
    holds Python objects, or says of itself what is not so.
    """
    if not path.endswith(ENDINGS):
        raise ValueError(f"{name}: expected a file that ends in {' or '.join(ENDINGS)}, got {path!r}")
    try:
        # Not waited for, should it be a pipe.
        with open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("not a regular file")
            layout = npy_layout(file.fileno()) if path.endswith(".npy") else _tensor(file.fileno(), name)
            if not layout.dtype.itemsize or layout.dtype.kind not in "fiub":
                raise ValueError(f"expected real numbers, got dtype {layout.name}")
            if not math.prod(layout.shape):
                return np.empty(layout.shape, layout.dtype)
            # A tensor over memory that cannot be written to would be warned of; what is written goes to no file.
            mode: Any = "c" if layout.name == "bfloat16" else "r"
            array = np.memmap(file, layout.dtype, mode, layout.offset, layout.shape, "F" if layout.by_columns else "C")
    except Exception as error:  # the parser of a foreign file's header may raise anything
        why = str(getattr(error, "strerror", None) or error) or type(error).__name__
        raise ValueError(f"{name}: cannot read {path!r}: {' '.join(why.split())}") from None
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if layout.name == "bfloat16" else array


def _tensor(file: int, name: str) -> Layout:
    try:
        return safetensors_layout(file, name)
    except ValueError as error:
        if "it has no tensor" not in str(error):
            raise
    try:
        return safetensors_layout(file, "")
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0] + (f", none of them named {name}" if "tensors;" in str(error) else "")) from None

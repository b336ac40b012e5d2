"""Rows of a matrix in a .npy or .safetensors file, each read where it lies.

Nothing is mapped: whoever looks at a mapped file that was cut short is killed by a signal (SIGBUS), without a word. Nothing is unpickled,
and no size is believed that the file does not have.
"""

import itertools
import json
import math
import os
import stat
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from simgap.checks import printable

# Rows that lie as close as this are read at once, in bytes: for so few, a call costs more than what lies between.
CLOSE = 1 << 17
# What one look at whole rows takes at most, in bytes.
AT_ONCE = 1 << 20
# As the format has it: a longer header of .safetensors is none.
LONGEST_HEADER = 100_000_000
# That of a matrix in a .npy file takes some hundred bytes, and numpy parses no more than this.
LONGEST_NPY_HEADER = 10_000
# Bytes that say how long it is, by the version of the format. 3.0 differs from 2.0 in the encoding of names, which a matrix has not.
NPY_LENGTHS = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
# What numpy calls them; whatever else a tensor may be of is no array of numbers.
SAFE_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?"}
SAFE_DTYPES |= {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}


class Layout(NamedTuple):
    """A matrix in a file: its numbers' type, their name, its shape, the byte where it begins, and whether each column is contiguous."""

    dtype: np.dtype
    name: str
    shape: tuple[int, ...]
    offset: int
    by_columns: bool = False


class Rows:
    """The rows of a matrix of floats in an open file, which is closed when this is let go of.

    Raises ValueError that begins with "inputs.path": where the file cannot be read, is not a matrix of floats of that width, or changes in
    size or time of change while this is held, so that all rows are of one content.
    """

    def __init__(self, path: str, tensor: str, width: int) -> None:
        self.path = path
        try:
            # Not waited for, should it be a pipe.
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise ValueError(f"inputs.path: cannot read {path!r}: {getattr(error, 'strerror', None) or error}") from None
        weakref.finalize(self, os.close, self._file)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise ValueError(f"inputs.path: cannot read {path!r}: not a regular file")
        self._seen = self._look()
        try:
            self._layout = npy_layout(self._file) if path.endswith(".npy") else safetensors_layout(self._file, tensor)
        except Exception as error:  # the parser of a foreign file's header may raise anything
            why = str(getattr(error, "strerror", None) or error) or type(error).__name__
            raise ValueError(f"inputs.path: cannot read {path!r}: {' '.join(why.split())}") from None
        name, shape = self._layout.name, self._layout.shape
        if len(shape) != 2 or not (self._layout.dtype.kind == "f" or name == "bfloat16"):
            raise ValueError(f"inputs.path: expected a matrix of floats in {path!r}, got shape {shape}, dtype {name}")
        if shape[1] != width:
            raise ValueError(f"inputs.path: {path!r} has rows of width {shape[1]}, but d_model is {width}")

    def __len__(self) -> int:
        return self._layout.shape[0]

    def take(self, numbers: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
        """The rows of these numbers, at least one, which must ascend."""
        layout = self._layout
        (n_rows, width), dtype = layout.shape, layout.dtype
        rows = np.empty((len(numbers), width), dtype)
        # A matrix stored by columns is as many vectors, each with one entry of every row.
        for first in range(width) if layout.by_columns else (0,):
            part = rows[:, first : first + 1] if layout.by_columns else rows
            self._fill(part, numbers, layout.offset + first * n_rows * dtype.itemsize)
        if self._look() != self._seen:
            raise self._changed()
        # The bits of a bfloat16 are the upper half of a float32's.
        return (rows.astype(np.uint32) << 16).view(np.float32) if layout.name == "bfloat16" else rows

    def blocks(self) -> Iterator[tuple[int, Float[np.ndarray, "m d"]]]:
        """Every row once, some at a time, each time with the number of the first."""
        rows, width = self._layout.shape
        step = max(1, AT_ONCE // (width * self._layout.dtype.itemsize))
        for start in range(0, rows, step):
            yield start, self.take(np.arange(start, min(start + step, rows)))

    def _fill(self, part: np.ndarray, numbers: np.ndarray, offset: int) -> None:
        """Fill with the rows of these numbers of what begins at the offset, in pieces of one window of the file each."""
        size = part.shape[1] * part.dtype.itemsize
        cuts = np.flatnonzero(np.diff(numbers // max(1, CLOSE // size))) + 1
        for start, stop in itertools.pairwise([0, *cuts.tolist(), len(numbers)]):
            first, last = int(numbers[start]), int(numbers[stop - 1])
            try:
                data = read_at(self._file, offset + first * size, (last + 1 - first) * size)
            except EOFError:
                raise self._changed() from None
            except OSError as error:
                raise ValueError(f"inputs.path: cannot read {self.path!r}: {error.strerror}") from None
            part[start:stop] = np.frombuffer(data, part.dtype).reshape(-1, part.shape[1])[numbers[start:stop] - first]

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._file)
        return status.st_size, status.st_mtime_ns

    def _changed(self) -> ValueError:
        return ValueError(f"inputs.path: {self.path!r} changed while it was read")


def npy_layout(file: int) -> Layout:
    """What the header of a .npy file says. Raises ValueError where the file is shorter than that, or holds Python objects."""
    with open(file, "rb", closefd=False) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in NPY_LENGTHS:
            raise ValueError(f"version {version} of the format, expected 1.0, 2.0 or 3.0")
        # Looked at before numpy takes it into memory, whatever its length.
        length = int.from_bytes(read_at(file, np.lib.format.MAGIC_LEN, NPY_LENGTHS[version]), "little")
        if length > LONGEST_NPY_HEADER:
            raise ValueError(f"a header of {length:,} bytes is that of no matrix")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError("Python objects in dtype: they would have to be unpickled")
    return _held(Layout(dtype, str(dtype), shape, offset, by_columns), os.fstat(file).st_size)


def safetensors_layout(file: int, tensor: str) -> Layout:
    """What the header of a .safetensors file says of a tensor, "" for its only one. Raises what a malformed header makes Python raise."""
    size = os.fstat(file).st_size
    length = int.from_bytes(read_at(file, 0, 8), "little")
    begin = 8 + length
    if begin > size or length > LONGEST_HEADER:
        raise ValueError(f"a header of {length:,} bytes does not fit the file")
    tensors = json.loads(read_at(file, 8, length))
    tensors.pop("__metadata__", None)
    if not tensor and len(tensors) != 1:
        raise ValueError(f"it holds {len(tensors)} tensors; name one in inputs.tensor")
    if tensor and tensor not in tensors:
        raise ValueError(f"it has no tensor {tensor!r}")
    if (last := max(entry["data_offsets"][1] for entry in tensors.values())) != size - begin:
        raise ValueError(f"its header tells of {last:,} bytes, after it come {size - begin:,}")
    entry = tensors[tensor or next(iter(tensors))]
    start, stop = entry["data_offsets"]
    name, shape = entry["dtype"], tuple(entry["shape"])
    if not (type(start) is int and type(stop) is int and 0 <= start <= stop):
        raise ValueError(f"expected where the tensor begins and ends, got {start} and {stop}")
    if name == "BF16":
        layout = Layout(np.dtype("<u2"), "bfloat16", shape, begin + start)
    else:
        layout = Layout(np.dtype(SAFE_DTYPES.get(name, "V")), printable(name), shape, begin + start)
    _held(layout, begin + stop)
    # Of other dtypes the size is not known here.
    if layout.dtype.itemsize and (taken := math.prod(shape) * layout.dtype.itemsize) != stop - start:
        raise ValueError(f"shape {shape} of {name} takes {taken:,} bytes, its header gives it {stop - start:,}")
    return layout


def read_at(file: int, offset: int, size: int) -> bytes:
    """So many bytes from the offset on. Raises EOFError where the file ends before."""
    parts = []
    while size:
        # The system may give less than was asked for.
        part = os.pread(file, min(size, 1 << 30), offset)
        if not part:
            raise EOFError("the file ends too soon")
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _held(layout: Layout, end: int) -> Layout:
    """The layout, if it has a shape, and lies before this end of the file."""
    if not all(type(length) is int and length >= 0 for length in layout.shape):
        raise ValueError(f"expected lengths of axes, got shape {layout.shape}")
    if (needed := math.prod(layout.shape) * layout.dtype.itemsize) > end - layout.offset:
        raise ValueError(f"shape {layout.shape} of {layout.name} takes {needed:,} bytes, it has {end - layout.offset:,}")
    return layout

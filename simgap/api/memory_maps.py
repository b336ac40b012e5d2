"""Memory maps whose file was cut short: to read past its end kills the process (SIGBUS), or reads zeros within the last page."""

import mmap
from typing import Any

import numpy as np


def refuse_truncated(name: str, value: Any) -> None:
    """ValueError where a numpy array, or one in a list, lies in a mapped file that is now shorter than the array needs.

    The file's size is asked of the mapping's own descriptor, so that a name that means another file by now does no harm. A file that is cut
    short while it is read cannot be caught beforehand. Maps that torch or another library made have no descriptor to ask.
    """
    if isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            if isinstance(part, (list, tuple, np.ndarray)):
                refuse_truncated(f"{name}[{place}]", part)
    if not isinstance(value, np.ndarray) or not value.size:
        return
    mapping, first, path = _mapping(value)
    if mapping is None:
        return
    try:
        size = mapping.size()
    except (OSError, ValueError):  # anonymous memory, or a mapping that keeps no descriptor
        return
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    needed = first + np.lib.array_utils.byte_bounds(value)[1] - start
    if size < needed:
        raise ValueError(f"{name}: the mapped file{path} was cut short: it has {size} bytes, and the array needs {needed}")


def _mapping(array: np.ndarray) -> tuple[mmap.mmap | None, int, str]:
    """The mapping that an array lies in, where in its file the mapping begins, and the file's name for a message."""
    base: Any = array
    first, path = 0, ""
    while base is not None and not isinstance(base, mmap.mmap):
        if isinstance(base, np.memmap) and base.filename is not None:
            first = base.offset - base.offset % mmap.ALLOCATIONGRANULARITY
            path = f" {str(base.filename)!r}"
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base, first, path

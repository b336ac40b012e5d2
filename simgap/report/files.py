"""Writing files whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Call write(temporary path beside `path`), then rename it into place: readers see the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes files that only their owner reads; results are for everyone whom the folder admits.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def with_ending(stem: Path, ending: str) -> Path:
    """STEM plus an ending; a dot in the stem is part of its name."""
    return stem.with_name(stem.name + ending)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Writing files whole or not at all."""

from collections.abc import Callable
from pathlib import Path

from simgap.records import replacing


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Call write(temporary path beside `path`), then put it in place: readers see the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        write(beside)
    return path


def with_ending(stem: Path, ending: str) -> Path:
    """STEM plus an ending; a dot in the stem is part of its name."""
    return stem.with_name(stem.name + ending)

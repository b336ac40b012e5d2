"""Writing files whole or not at all."""

import secrets
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Call write(temporary path beside `path`), then rename it into place: readers see the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def with_ending(stem: Path, ending: str) -> Path:
    """STEM plus an ending; a dot in the stem is part of its name."""
    return stem.with_name(stem.name + ending)

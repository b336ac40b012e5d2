"""What this process may use of the machine: its cores and its memory, as a container or a batch job limits them.

Linux limits a process through its control group and each parent of it: by `cpu.max` and `memory.max` in version 2, by `cpu.cfs_quota_us`
and `memory.limit_in_bytes` in version 1 (https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/). The counts of the operating
system are those of the whole machine. No file is trusted: one that is missing, unreadable or not of this form limits nothing.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# More than any of these files holds; what is longer is cut, and then not of the form that is read here.
MOST_READ = 1 << 16
# Groups within groups that are looked at, from the top.
MOST_DEEP = 64
# mallopt's names for the size from which an array is memory of its own, and for what may stay free at the end of the rest; the largest
# array that glibc can keep; and the size from which they are given back instead.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
MOST_KEPT, RETURNED = 32 << 20, 1 << 20


def cores(root: str = "/") -> int:
    """Cores that this process may use, at least 1: those it is bound to, or its quota of time, rounded up, where that is less.

    root: the folder that holds `proc` and `sys`.
    """
    if hasattr(os, "process_cpu_count"):
        bound = os.process_cpu_count()
    else:
        bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([bound or 1, *_quotas(root)]))


def memory(root: str = "/") -> int:
    """Bytes that this process may use: those of the machine, or the limit of its control groups where that is less."""
    limits = _memory_limits(root)
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return min(limits)
    return min(pages * size, *limits) if pages > 0 and size > 0 else min(limits)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Inside, arrays of a MiB and more go back to the system when they are freed, where the C library can be told so (glibc).

    On its own it learns to keep memory for arrays to come, in pieces that may fit none of them: several times what is in use. Afterwards
    memory is `kept_for_reuse`. A user who has set this in the environment is let be.
    """
    library = None if _is_set_by_user() else _c_library()
    if library is None:
        yield
        return
    library.malloc_trim(0)
    library.mallopt(MMAP_THRESHOLD, RETURNED)
    try:
        yield
    finally:
        _keep(library)
        library.malloc_trim(0)


@functools.cache
def kept_for_reuse() -> None:
    """From now on arrays of up to 32 MiB come out of memory that the C library keeps, 64 MiB of it to a thread (glibc).

    It would learn so from the arrays that it has seen, and keep twice the largest: of three as large as that one every third goes back to
    the system and is cleared anew for the next trial, which takes a third of the time. A user who has set this is let be.
    """
    library = None if _is_set_by_user() else _c_library()
    if library is not None:
        _keep(library)


def _keep(library: Any) -> None:
    library.mallopt(MMAP_THRESHOLD, MOST_KEPT)
    library.mallopt(TRIM_THRESHOLD, 2 * MOST_KEPT)


def _is_set_by_user() -> bool:
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ)


@functools.cache
def _c_library() -> Any:
    """The C library, where it is glibc; None otherwise."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version, library.mallopt, library.malloc_trim  # noqa: B018 looked up, not called
    except (OSError, AttributeError, TypeError):
        return None
    return library


# Limits are read once: a pool asks at every call, a plan at every cell.
@functools.cache
def _quotas(root: str) -> tuple[int, ...]:
    """Cores' worth of time that each group may take, rounded up."""
    pairs = [[*_numbers(folder / "cpu.max"), None, None][:2] for folder in _folders(root, "")]
    for folder in _folders(root, "cpu"):
        pairs.append([next(iter(_numbers(folder / f"cpu.cfs_{name}_us")), None) for name in ("quota", "period")])
    return tuple(-(-quota // period) for quota, period in pairs if quota and period)


@functools.cache
def _memory_limits(root: str) -> tuple[int, ...]:
    files = [folder / "memory.max" for folder in _folders(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _folders(root, "memory")]
    return (sys.maxsize, *(limit for file in files for limit in _numbers(file)[:1] if limit))


def _folders(root: str, controller: str) -> Iterator[Path]:
    """The folders of this process's group and its parents under one controller of version 1, or under version 2 for the empty name."""
    mounts = Path(root, "sys/fs/cgroup")
    for line in _text(Path(root, "proc/self/cgroup")).splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller not in names.split(",") or (not controller and number != "0"):
            continue
        # Version 2 is mounted alone or beside version 1; controllers of version 1 that share a mount are linked to by their own names.
        tops = [mounts / name for name in dict.fromkeys((controller, names))] if controller else [mounts, mounts / "unified"]
        # In a container the path may be that of the host, of which only the top is seen, or lead out of what is seen.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")][:MOST_DEEP]
        yield from (top.joinpath(*parts[:depth]) for top in tops for depth in range(len(parts), -1, -1))


def _numbers(file: Path) -> list[int | None]:
    """The whole numbers in a file, None for what is none, such as "max", or is not positive."""
    return [int(word) if word.isascii() and word.isdigit() and len(word) < 20 and int(word) else None for word in _text(file).split()]


def _text(file: Path) -> str:
    try:
        # Not blocking, should it be a pipe.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            return os.read(descriptor, MOST_READ).decode("ascii", "replace")
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return ""

"""The folder of a run: one writer at a time, and a manifest that is whole or absent."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simgap.records.jsonl import record_of, write_all


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for one process; the system lets go of it when the process ends, however that happens.

    Raises ValueError that names the holder where another process has it, and OSError where the folder cannot be written.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise type(error)(error.errno, f"out: cannot write {str(folder)!r}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            raise ValueError(f"out: {str(folder)!r} is in use by {holder or 'another process'}") from None
        # Only a courtesy to whoever comes second: a full disk is no reason not to start.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {now()}\n".encode())
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in place whole, or leave what was there. Raises OSError that names the file."""
    with replacing(path) as beside:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write_all(handle, data)
        finally:
            os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside a file, for its next content: on the disk and in the file's place when this is left, gone if that fails.

    What a killed process of this machine left half-written there is removed. Raises OSError that names the file.
    """
    host = socket.gethostname()
    beside = path.with_name(f".{path.name}.{host}.{os.getpid()}.part")
    for left in path.parent.glob(f".{path.name}.{host}.*.part"):
        if not _alive(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(manifest, allow_nan=False).encode() + b"\n")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none. Raises ValueError for a file that is not one JSON object."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    found = record_of(text + b"\n")
    if found is None:
        raise ValueError(f"{str(path)!r} is not a manifest: expected one JSON object")
    return found


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

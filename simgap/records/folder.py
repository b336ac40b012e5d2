"""The folder of a run: one writer at a time, and a manifest that is whole or absent."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simgap.records.jsonl import CHECKSUM_SIZE, fault_of, has_checksum, record_of, sync_folder, with_checksum
from simgap.records.provenance import now


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Callable[[], bool]]:
    """Hold a folder, made if need be, for one process; the system lets go of it when the process ends, however that happens.

    Gives a function that says whether the folder still is the one that is held: it may be removed, moved, or made anew. Where nothing was
    put into it, it is gone again when this is left, and so are the folders above that were made for it.

    Raises ValueError that names the holder where another process has it, and OSError where the folder cannot be written.
    """
    path = folder / "lock"
    made = list(itertools.takewhile(lambda each: not os.path.lexists(each), [folder, *folder.parents]))
    handle = -1
    try:
        # What was opened may have been removed by its last holder before it was ours.
        while handle < 0 or not _leads_to(path, handle):
            if handle >= 0:
                os.close(handle)
            handle = _opened(path)
        # Only a courtesy to whoever comes second: a full disk is no reason not to start.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {now()}\n".encode())
        yield lambda: _leads_to(path, handle)
    finally:
        with contextlib.suppress(OSError):
            if handle >= 0 and _leads_to(path, handle) and os.listdir(folder) == [path.name]:
                path.unlink()
        for each in made:
            # Of a folder that is not empty the system lets nobody remove anything.
            with contextlib.suppress(OSError):
                each.rmdir()
        if handle >= 0:
            os.close(handle)


def _opened(path: Path) -> int:
    """The lock, opened and taken."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A link may lead to any file of the user's, and this one is emptied.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise type(error)(error.errno, f"out: cannot write {str(folder)!r}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except OSError as error:
        holder = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise ValueError(f"out: {str(folder)!r} is in use by {holder or 'another process'}") from None
        raise ValueError(f"out: {str(folder)!r} cannot be locked: {error.strerror}") from None


def _leads_to(path: Path, handle: int) -> bool:
    """Whether the file of this name is the one that was opened."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside a file, of the same ending, for its next content: on the disk and in the file's place when this is left, gone if
    that fails.

    What a killed process of this machine left half-written there is removed. Raises OSError that names the file.
    """
    host = socket.gethostname()
    start = f".{path.name}.{host}."
    beside = path.with_name(f"{start}{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    for left in [entry for entry in path.parent.iterdir() if entry.name.startswith(start)]:
        if not _alive(left.name.removeprefix(start).partition("-")[0]):
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
        pass  # there is one, and it is another user's
    return True


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> str:
    """Put a manifest in place whole, with its checksum, or leave what was there; its digest. Raises OSError that names the file."""
    text = with_checksum(json.dumps(manifest, allow_nan=False).encode())
    with replacing(path) as beside:
        beside.write_bytes(text)
    return _digest(text)


def read_manifest(path: Path) -> tuple[dict[str, Any], str] | None:
    """The manifest and its digest, or None where there is none. Raises ValueError for a file that is damaged or none of ours."""
    if not path.exists():
        return None
    if not path.is_file():
        raise ValueError(f"{str(path)!r} cannot be read: not a regular file")
    with open(path, "rb") as file:
        # A file of any length, a sparse one for instance, is not taken into memory before its end is that of a manifest.
        file.seek(max(0, os.fstat(file.fileno()).st_size - CHECKSUM_SIZE))
        text = file.read(CHECKSUM_SIZE)
        if has_checksum(text):
            file.seek(0)
            text = file.read()
    manifest = record_of(text)
    if manifest is None:
        raise ValueError(f"{str(path)!r} is no whole manifest: {fault_of(text)}")
    return manifest, _digest(text)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]

"""Append-only JSON lines, each complete or absent, and each with a checksum of what it says.

The checksum is a line's last field, a CRC-32 of all that stands before it. It finds every single flipped bit and all damage that lies
within 32 consecutive bits, and of all other accidents it misses one in four thousand million. It is no signature: who edits a line on
purpose can compute it anew. Lines without one, as an earlier simgap wrote them, are passed over like damaged ones.
"""

import contextlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_ENCODE = json.JSONEncoder(allow_nan=False, separators=(", ", ": ")).encode
# No record of ours is as long: a longer line is some other file's, and is not taken into memory.
LONGEST_LINE = 1 << 26
# The end of every line.
_END = re.compile(rb'"checksum": "[0-9a-f]{8}"}\n')
CHECKSUM_SIZE = len(b'"checksum": "00000000"}\n')
# Lines that are named in a message.
MOST_NAMED = 8


class Entry(NamedTuple):
    """A line of a file of records: where it begins, its bytes, and the record, or None and what is wrong with the line."""

    offset: int
    size: int
    record: dict[str, Any] | None
    fault: str = ""


class Records:
    """One JSONL file with one writer. Lines are whole and on disk before `append` returns; a torn or damaged one is never read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._told = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. Raises ValueError for a NaN or an infinity, which JSON has no word for, and OSError as `extend`."""
        self.extend([line_of(record)])

    def extend(self, lines: Sequence[bytes], create: bool = True) -> int:
        """Write lines made by `line_of`: one write, one flush to the disk. Returns the byte at which the first of them begins.

        create: whether a file that is not there is made, and its folder. Raises OSError that names the file where they cannot be written;
        the file is then as it was before.
        """
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        text, new = b"".join(lines), not self.path.exists()
        try:
            with open(self.path, "ab+", buffering=0, opener=None if create else _open_there) as file:
                size = begin = file.seek(0, os.SEEK_END)
                try:
                    if size:
                        file.seek(-1, os.SEEK_END)
                        # A line torn by a crash gets its newline now, so that it spoils itself and not the next one.
                        if file.read(1) != b"\n":
                            text, begin = b"\n" + text, size + 1
                    write_all(file.fileno(), text)
                    os.fsync(file.fileno())
                except OSError:
                    # A disk that filled up midway: half a line is no record.
                    with contextlib.suppress(OSError):
                        file.truncate(size)
                    raise
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise type(error)(error.errno, f"cannot write {str(self.path)!r}: {error.strerror}") from None
        return begin

    def mend(self) -> int:
        """End a torn last line, which spoils it unless nothing but its end was missing. Returns its bytes, 0 where no line is torn."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) in (b"", b"\n"):
                return 0
            file.seek(max(0, size - LONGEST_LINE))
            torn = file.read().rpartition(b"\n")[2]
            write_all(file.fileno(), b"\n")
            os.fsync(file.fileno())
        return len(torn)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every complete record, oldest first. Lines that are torn or damaged are left out, with a warning in the log "simgap.records"."""
        faults: dict[str, list[int]] = {}
        for number, entry in enumerate(self.entries(), 1):
            if entry.record is not None:
                yield entry.record
            elif entry.size > 1:
                faults.setdefault(entry.fault, []).append(number)
        if not self._told:
            self._told = True
            for fault, numbers in faults.items():
                logging.getLogger("simgap.records").warning("%r: %s: %s; passed over", str(self.path), numbered(numbers), fault)

    def entries(self) -> Iterator[Entry]:
        """Every line, oldest first, whole or not. Raises ValueError for what is no file."""
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise ValueError(f"{str(self.path)!r} cannot be read: not a regular file")
        with open(self.path, "rb") as file:
            offset = 0
            while line := file.readline(LONGEST_LINE):
                record = record_of(line)
                yield Entry(offset, len(line), record, "" if record is not None else fault_of(line))
                offset += len(line)

    def at(self, offset: int) -> dict[str, Any] | None:
        """The record whose line begins at this byte."""
        with open(self.path, "rb") as file:
            file.seek(offset)
            return record_of(file.readline(LONGEST_LINE))

    def find(self, key: str, origin: Mapping[str, Any]) -> dict[str, Any] | None:
        """The newest record under this key that the same code on the same machine wrote: what a stopped run need not do again."""
        wanted = _reproducible(origin)
        matching = [r for r in self if r.get("key") == key and wanted and _reproducible(r.get("provenance")) == wanted]
        return matching[-1] if matching else None


def _open_there(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as one line of JSON. Raises ValueError for a NaN or an infinity, and for a record that is too long to be read again."""
    line = with_checksum(_ENCODE(record).encode())
    if len(line) > LONGEST_LINE:
        raise ValueError(f"record: {len(line):,} bytes, and none of more than {LONGEST_LINE:,} is read again")
    return line


def with_checksum(text: bytes) -> bytes:
    """The text of a JSON object as a line that ends with its checksum."""
    # Spliced in: to encode a record twice would cost more than all else that is done to it. A manifest is large, so one copy at a time.
    head = b"".join((memoryview(text)[:-1], b", " if len(text) > 2 else b""))
    del text
    return head + _end(head)


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record in a line, without its checksum, or None where the line is not a whole JSON object with the checksum of what it says."""
    head = line[:-CHECKSUM_SIZE]
    if line[-CHECKSUM_SIZE:] != _end(head):
        return None
    # Whatever a foreign line does to the parser (numbers of 5,000 digits, 100,000 brackets, NaN), it is no record of ours.
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(head.removesuffix(b", ") + b"}", parse_constant=_refuse)
        if isinstance(record, dict):
            return record
    return None


def fault_of(line: bytes) -> str:
    """What is wrong with a line that is no record, as the end of a sentence about it or several."""
    if not has_checksum(line):
        return "without a whole checksum at the end (torn, damaged, or of an earlier simgap)"
    return "damaged, the checksum is of other content" if line[-CHECKSUM_SIZE:] != _end(line[:-CHECKSUM_SIZE]) else "not a JSON object"


def has_checksum(line: bytes) -> bool:
    """Whether a line ends as a whole one does, whatever it says."""
    return _END.fullmatch(line[-CHECKSUM_SIZE:]) is not None


def numbered(numbers: Sequence[int]) -> str:
    """'line 3', 'lines 3 and 5', 'lines 1, 2, 3, 4, 5, 6, 7, 8 and 92 more'."""
    named = [str(number) for number in numbers[:MOST_NAMED]]
    more = len(numbers) - len(named)
    last = f"{more} more" if more else named.pop()
    return f"line {last}" if not named else f"lines {', '.join(named)} and {last}"


def write_all(handle: int, data: bytes) -> None:
    """Write all of the bytes; the system may take them in parts."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _end(head: bytes) -> bytes:
    return b'"checksum": "%08x"}\n' % zlib.crc32(head)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _reproducible(origin: object) -> tuple[Any, ...] | None:
    """What bits depend on, or None where the code or the machine's arithmetic is not known."""
    if not isinstance(origin, Mapping) or not origin.get("commit") or origin.get("dirty"):
        return None
    return (origin["commit"], json.dumps(origin.get("versions"), sort_keys=True), origin["canary"]) if origin.get("canary") else None

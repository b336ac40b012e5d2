"""Records of runs: append-only JSON lines, each complete or absent, each with where it came from."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("simgap", "numpy", "torch", "scipy", "numba")


class Records:
    """One JSONL file with one writer. A line is whole and on disk before `append` returns; a torn last line is never read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. Raises ValueError for a NaN or an infinity, which JSON has no word for."""
        line = json.dumps(record, allow_nan=False, separators=(", ", ": ")) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                # A line torn by a crash gets its newline now, so that it spoils itself and not the next one.
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every complete record, oldest first; lines that are not whole JSON objects are left out."""
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for line in file:
                # Whatever a foreign line does to the parser (numbers of 5,000 digits, 100,000 brackets, NaN), it is no record of ours.
                with contextlib.suppress(ValueError, RecursionError):
                    record = json.loads(line, parse_constant=_refuse)
                    if line.endswith("\n") and isinstance(record, dict):
                        yield record

    def find(self, key: str, origin: Mapping[str, Any]) -> dict[str, Any] | None:
        """The newest record under this key that the same code on the same machine wrote: what a stopped run need not do again."""
        wanted = _reproducible(origin)
        found = [r for r in self if r.get("key") == key and wanted and _reproducible(r.get("provenance")) == wanted]
        return found[-1] if found else None


def provenance(command: str = "") -> dict[str, Any]:
    """Commit (with "dirty" if the tree has changes), versions, machine, threads, time and command: where a record came from."""
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _reproducible(origin: object) -> tuple[Any, ...] | None:
    """What bits depend on, or None where the code itself is not known."""
    if not isinstance(origin, Mapping) or not origin.get("commit") or origin.get("dirty"):
        return None
    return origin["commit"], json.dumps(origin.get("versions"), sort_keys=True), origin.get("cpu")


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that holds this file, if it is one; an installed copy has none."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()

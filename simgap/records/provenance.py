"""Where a record came from: commit, versions, machine, time and command."""

import hashlib
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from simgap.machine import cores

PACKAGES = ("simgap", "numpy", "torch", "scipy", "numba")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """What this process was started with, quoted as a shell wants it."""
    return shlex.join(sys.argv)


def provenance(command: str = "", canary: str | None = None) -> dict[str, Any]:
    """Commit (with "dirty" if the tree has changes), versions, machine, threads, time and command: where a record came from.

    canary: `simgap.moe.canary.canary()`, which tells machines of different arithmetic apart; the CPU's name is for people, and does not.
    Given by who may load torch. A record without it is never taken for one that need not be done again.
    """
    return {**_of_process(), "canary": canary, "time": now(), "command": command}


@cache
def _of_process() -> dict[str, Any]:
    """What does not change while a process runs: it goes on with the code that it has loaded."""
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "cpu": _cpu(),
        "cores": cores(),
        "platform": platform.platform(),
    }


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that holds this file, if it is one; an installed copy has none."""
    root = Path(__file__).resolve().parent.parent.parent
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


@cache
def source_digest() -> str:
    """16 hex digits of the SHA-256 of simgap's own source files: what code this is, in a checkout with changes or an installed copy."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]

"""How kernels are compiled, and where their machine code is kept.

numba's own cache knows a function by its file alone, so that an edit of a file that it calls into goes unseen; it refuses to work where no
folder can be written; and two processes that compile at the same time can leave one function's code under another's name. Here every piece
of code has a file of its own, named by the digest of all that it was made from: what is there is right, and what is not is compiled.
"""

import contextlib
import hashlib
import inspect
import multiprocessing
import os
import pickle
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba import njit
from numba.core import compiler, config
from numba.core.caching import NullCache
from numba.core.serialize import dumps

# Arrays that a caller holds are borrowed, not counted: a reference count is one word of memory that all threads would fight over, at a
# cost above that of a token's arithmetic. Such a function may index arrays and take views of them, but make none.
BORROWED: dict[str, Any] = {"_nrt": False}
# Settings of numba that change the code it makes.
CODE_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")
CHECKSUM_BYTES = 32


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` without the interpreter's lock, its code kept from one process to the next. options: those of njit.

    Code that cannot be kept is compiled by each process, and a RuntimeWarning says so once.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, **options)(function)
        # Without a source there is no telling whether kept code is its own; with numba switched off there is no dispatcher.
        if hasattr(dispatcher, "_cache") and (source := _source(inspect.getfile(function))):
            dispatcher._cache = _KeptCode(function, source)
        return dispatcher

    return compiled


class _KeptCode(NullCache):
    """What numba asks for a function's code, and hands it to, in the shape of its own caches."""

    def __init__(self, function: Callable[..., Any], source: str) -> None:
        self._folders = list(_folders(Path(inspect.getfile(function)).resolve().parent))
        self._name, self._source = f"{function.__module__}.{function.__qualname__}", source

    @property
    def cache_path(self) -> str:
        return str(self._folders[0].path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        name = self._file_name(sig, target_context.codegen())
        for folder in self._folders:
            with contextlib.suppress(OSError):
                # Asked before it is read: who owned the folder afterwards would say nothing of what was read.
                if not folder.ours():
                    continue
                kept = (folder.path / name).read_bytes()
                checksum, code = kept[:CHECKSUM_BYTES], kept[CHECKSUM_BYTES:]
                if hashlib.sha256(code).digest() == checksum:
                    return compiler.CompileResult._rebuild(target_context, *pickle.loads(code))  # noqa: S301
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        # Addresses of this process are no use to another.
        if data.library.has_dynamic_globals:
            return
        code = dumps(data._reduce())
        name, kept = self._file_name(sig, data.codegen), hashlib.sha256(code).digest() + code
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder.ours():
                    _put(folder.path / name, kept)
                    self._forget(folder.path)
                    if folder.temporary:
                        _say(f"no lasting folder for compiled kernels can be written: they are kept in {str(folder.path)!r}")
                    return
        _say("no folder for compiled kernels can be written: each process compiles them anew; NUMBA_CACHE_DIR may name one that can")

    def _file_name(self, sig: Any, codegen: Any) -> str:
        made_of = (str(sig), codegen.magic_tuple(), _machine(), [getattr(config, name, None) for name in CODE_SETTINGS])
        return f"{self._name}-{self._source}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.kernel"

    def _forget(self, folder: Path) -> None:
        """Remove this function's code of other sources; machines of other kinds that share the folder keep theirs."""
        for path in folder.glob(f"{self._name}-*.kernel"):
            if not path.name.startswith(f"{self._name}-{self._source}-"):
                path.unlink(missing_ok=True)


class _Folder(NamedTuple):
    """A folder that may hold code; a temporary one lies where anybody may write."""

    path: Path
    temporary: bool = False

    def ours(self) -> bool:
        """Whether nobody but this user or root can have put code here, where anybody could make the folder: what is found is run."""
        if not self.temporary:
            return True
        status = self.path.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _folders(home: Path) -> Iterator[_Folder]:
    """Where code may be kept, best first: where numba is told to, beside the source, with the user's caches, with temporary files. A place
    that several installations share has a folder for each."""
    own = f"{home.name}-{hashlib.sha256(str(home).encode()).hexdigest()[:16]}"
    if config.CACHE_DIR:
        yield _Folder(Path(config.CACHE_DIR).absolute() / own)
    yield _Folder(home / "__pycache__")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    # Without a home, "~" stands for itself.
    if caches.is_absolute():
        yield _Folder(caches / "simgap" / own)
    # tempfile would rather take the working directory than none.
    for temporary in dict.fromkeys([os.environ.get("TMPDIR") or "/tmp", "/tmp"]):  # noqa: S108
        yield _Folder(Path(temporary).absolute() / f"simgap-{os.geteuid()}-{own}", temporary=True)


def _put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{os.getpid()}-{os.urandom(8).hex()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _source(file: str) -> str:
    """Digest of all kernels and of the file of one; empty where a source cannot be read."""
    try:
        return hashlib.sha256(_kernels() + Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


@cache
def _kernels() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.digest()


@cache
def _machine() -> str:
    """What compiles them and for what: the kernels' vectors are as long as this CPU's registers, whatever numba is told of it."""
    return repr((numba.__version__, llvmlite.__version__, np.__version__, sys.version, sorted(llvm.get_host_cpu_features().items())))


@cache
def _say(message: str) -> None:
    # A worker has it from the process that started it.
    if multiprocessing.parent_process() is None:
        warnings.warn(message, RuntimeWarning, stacklevel=2)

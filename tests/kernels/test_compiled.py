"""Compiled kernels: kept where a folder can be written, never taken for those of another source, and a run without any folder is a run."""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

import simgap
from simgap.kernels import compiled
from simgap.kernels.compiled import _Folder

ROOT = Path(simgap.__file__).parent


@pytest.fixture
def double(tmp_path, monkeypatch):
    """A function that loads a new copy of a kernel, as a new process would, its code kept in the folders given."""
    source = tmp_path / "doubling.py"
    source.write_text("from simgap.kernels.compiled import kernel\n\n\n@kernel()\ndef double(x):\n    return 2 * x\n")
    compiled._say.cache_clear()

    def load(*folders):
        monkeypatch.setattr(compiled, "_folders", lambda home: iter(folders))
        spec = importlib.util.spec_from_file_location("doubling", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.double

    yield load
    compiled._say.cache_clear()


@pytest.fixture
def rebuilt(monkeypatch):
    """How many times kept code was taken."""
    taken, rebuild = [], compiled.compiler.CompileResult._rebuild
    monkeypatch.setattr(compiled.compiler.CompileResult, "_rebuild", lambda *parts: taken.append(1) or rebuild(*parts))
    return taken


def test_code_is_kept_and_taken_again(double, rebuilt, tmp_path):
    folder = _Folder(tmp_path / "kept" / "here")
    assert double(folder)(3) == 6
    (kept,) = folder.path.iterdir()
    assert kept.name.startswith("doubling.double-")
    assert not rebuilt
    assert double(folder)(4) == 8
    assert rebuilt == [1]
    # Another signature is another file.
    assert double(folder)(1.5) == 3.0
    assert len(list(folder.path.iterdir())) == 2


def test_code_kept_where_nothing_can_be_written_is_still_taken(double, rebuilt, tmp_path, monkeypatch):
    """An image built by root with its kernels compiled, run by somebody else."""
    folder, other = _Folder(tmp_path / "kept"), _Folder(tmp_path / "first")
    double(folder)(3)
    monkeypatch.setattr(compiled, "_put", lambda path, content: pytest.fail("written again"))
    assert double(other, folder)(4) == 8
    assert rebuilt == [1]


def test_code_with_a_flipped_bit_is_compiled_anew(double, rebuilt, tmp_path):
    folder = _Folder(tmp_path / "kept")
    double(folder)(3)
    (kept,) = folder.path.iterdir()
    whole = kept.read_bytes()
    for broken in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], b""):
        kept.write_bytes(broken)
        assert double(folder)(4) == 8
        assert kept.read_bytes()[:32] == hashlib.sha256(kept.read_bytes()[32:]).digest()
    assert not rebuilt


def test_code_of_older_sources_goes(double, tmp_path):
    folder = _Folder(tmp_path / "kept")
    folder.path.mkdir()
    old, others = folder.path / "doubling.double-0123456789abcdef-00.kernel", folder.path / "doubling.other-0123456789abcdef-00.kernel"
    old.touch()
    others.touch()
    double(folder)(3)
    assert not old.exists()
    assert others.exists()


def test_machines_that_share_a_folder_keep_each_their_own_code(double, rebuilt, tmp_path, monkeypatch):
    """A cluster of two kinds of CPU, with one installation."""
    folder = _Folder(tmp_path / "kept")
    own = compiled._machine()
    for machine in (own, "another CPU"):
        monkeypatch.setattr(compiled, "_machine", lambda machine=machine: machine)
        assert double(folder)(3) == 6
    assert not rebuilt
    monkeypatch.setattr(compiled, "_machine", lambda: own)
    assert double(folder)(3) == 6
    assert rebuilt == [1]
    assert len(list(folder.path.iterdir())) == 2


def test_whose_folder_it_is_is_asked_before_it_is_read(double, rebuilt, tmp_path, monkeypatch):
    """Somebody's folder that gives way, once it was read, to one that this user's next process makes."""
    folder = _Folder(tmp_path / "temporary", temporary=True)
    with pytest.warns(RuntimeWarning, match="they are kept in"):
        double(folder)(3)
    folder.path.chmod(0o777)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read(path), path.parent.chmod(0o700))[0])
    with pytest.warns(RuntimeWarning, match="compiles them anew"):
        assert double(folder)(4) == 8
    assert not rebuilt


def test_without_a_folder_it_runs_and_says_so_once(double, tmp_path):
    (tmp_path / "file").touch()
    nowhere = _Folder(tmp_path / "file" / "folder"), _Folder(Path("/proc/simgap"))
    found = double(*nowhere)
    with pytest.warns(RuntimeWarning, match=r"^no folder for compiled kernels can be written: each process compiles them anew; ") as said:
        assert [found(3), found(1.5)] == [6, 3.0]
    assert len(said) == 1


def test_a_full_disk_leaves_nothing_behind(double, tmp_path, monkeypatch):
    def full(path, content):
        with open(path, "wb") as file:
            file.write(content[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    folder = _Folder(tmp_path / "kept")
    with pytest.warns(RuntimeWarning, match="each process compiles them anew"):
        assert double(folder)(3) == 6
    assert not list(folder.path.iterdir())


def test_a_temporary_folder_is_the_last_resort_and_this_users_alone(double, rebuilt, tmp_path):
    temporary = _Folder(tmp_path / "temporary", temporary=True)
    with pytest.warns(RuntimeWarning, match=f"they are kept in '{re.escape(str(temporary.path))}'$"):
        assert double(_Folder(Path("/proc/simgap")), temporary)(3) == 6
    assert temporary.path.stat().st_mode & 0o777 == 0o700
    # Code that anybody may have put there is not run.
    temporary.path.chmod(0o777)
    compiled._say.cache_clear()
    with pytest.warns(RuntimeWarning, match="compiles them anew"):
        assert double(temporary)(4) == 8
    assert not rebuilt


def test_the_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.config, "CACHE_DIR", str(tmp_path / "told"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = list(compiled._folders(ROOT / "kernels"))
    own = found[0].path.name
    paths = [tmp_path / "told" / own, ROOT / "kernels/__pycache__", tmp_path / "home/.cache/simgap" / own]
    paths += [tmp_path / f"temporary/simgap-{os.geteuid()}-{own}", Path(f"/tmp/simgap-{os.geteuid()}-{own}")]  # noqa: S108
    assert [folder.path for folder in found] == paths
    assert [folder.temporary for folder in found] == [False, False, False, True, True]
    # Nobody's home: what expanduser leaves as "~" would be a folder of the working directory.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert not any("~" in str(folder.path) for folder in compiled._folders(ROOT / "kernels"))


def test_an_edit_reaches_every_kernel_that_calls_into_it(tmp_path, monkeypatch):
    """A copy of how kernels are compiled, and two: one in a file that is edited, one that calls it from another file."""
    kernels = tmp_path / "copied"
    kernels.mkdir()
    (kernels / "__init__.py").touch()
    shutil.copy(ROOT / "kernels/compiled.py", kernels)
    head = "from copied.compiled import kernel\n"
    (kernels / "inner.py").write_text(f"{head}\n@kernel()\ndef inner(x):\n    return x + 1\n")
    (kernels / "outer.py").write_text(f"{head}from copied.inner import inner\n\n@kernel()\ndef outer(x):\n    return 10 * inner(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run():
        for name in ("inner", "outer", "compiled"):
            sys.modules.pop(f"copied.{name}", None)
        importlib.invalidate_caches()
        return importlib.import_module("copied.outer").outer(3)

    assert run() == 40
    (kernels / "inner.py").write_text((kernels / "inner.py").read_text().replace("x + 1", "x + 2"))
    assert run() == 50
    assert len(list((kernels / "__pycache__").glob("*.kernel"))) == 2


def test_every_kernel_is_compiled_by_this_rule():
    """numba's own cache is nowhere asked for: it refuses to work on a read-only disk."""
    sources = [path for room in (ROOT, ROOT.parent / "experiments") for path in room.rglob("*.py") if path.name != "compiled.py"]
    assert [path.name for path in sources if re.search(r"\bn?jit\b|\bcache=True", path.read_text())] == []

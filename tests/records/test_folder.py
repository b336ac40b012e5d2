"""The folder of a run: one writer, and files that are whole or absent, on a disk that fills up too."""

import contextlib
import fcntl
import os
import resource
import shutil
import socket
import subprocess
import sys

import pytest

from simgap.records import Records, jsonl, line_of, locked, read_manifest, replacing, write_manifest
from simgap.records.jsonl import with_checksum


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    with locked(tmp_path / "run"):
        with pytest.raises(ValueError, match=rf"out: '.*run' is in use by process {os.getpid()} on "), locked(tmp_path / "run"):
            pass
        script = f"from simgap.records import locked\nfrom pathlib import Path\nwith locked(Path({str(tmp_path / 'run')!r})): pass"
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert other.returncode == 1
        assert f"is in use by process {os.getpid()} on " in other.stderr
    with locked(tmp_path / "run"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from simgap.records import locked
with locked(Path({str(tmp_path)!r})):
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (killed.stdout, killed.returncode) == ("held\n", -9)
    with locked(tmp_path):
        pass


def test_a_folder_into_which_nothing_is_put_is_gone_again(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"):
        pass
    assert list((tmp_path / "mine").iterdir()) == []
    with pytest.raises(OSError, match=r"cannot write '.*': File name too long"), locked(tmp_path / "a" / ("b" * 300)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with locked(tmp_path / "a"):
        (tmp_path / "a" / "records.jsonl").touch()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["lock", "records.jsonl"]


def test_the_lock_of_whoever_made_the_folder_anew_is_not_taken_away(tmp_path):
    """As where a folder is moved while a sweep runs, and another sweep begins in its place."""
    with contextlib.ExitStack() as other:
        with locked(tmp_path / "run"):
            os.rename(tmp_path / "run", tmp_path / "away")
            held = other.enter_context(locked(tmp_path / "run"))
        assert held()


def test_a_lock_that_its_last_holder_removed_is_made_anew(tmp_path, monkeypatch):
    """Between being opened and being taken: two would hold one folder by two files."""
    flock, removed = fcntl.flock, []

    def late(handle, how):
        if not removed:
            removed.append(os.stat(tmp_path / "lock").st_ino)
            os.rename(tmp_path / "lock", tmp_path / "old")
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path) as held:
        assert os.stat(tmp_path / "lock").st_ino != removed[0]
        assert held()


@pytest.mark.parametrize("change", ["removed", "moved", "made anew"])
def test_a_holder_knows_whether_the_folder_is_the_one_it_holds(tmp_path, change):
    with locked(tmp_path / "run") as held:
        assert held()
        os.rename(tmp_path / "run", tmp_path / "away")
        if change == "removed":
            shutil.rmtree(tmp_path / "away")
        elif change == "made anew":
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "lock").touch()
        assert not held()


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "manifest.json"
    assert read_manifest(path) is None
    digest = write_manifest(path, {"a": [1, 0.1, None, "é"]})
    assert read_manifest(path) == ({"a": [1, 0.1, None, "é"]}, digest)
    other = write_manifest(path, {"b": 2})
    assert read_manifest(path) == ({"b": 2}, other)
    assert other != digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"a": 1} {"b": 2}', '{"a": NaN}', "[" * 100_000, "\x00" * 10])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json' is no whole manifest: without a whole checksum"):
        read_manifest(path)
    path.write_bytes(with_checksum(text.encode()))
    with pytest.raises(ValueError, match=r"manifest.json' is no whole manifest: not a JSON object"):
        read_manifest(path)


def test_a_manifest_of_any_length_is_not_taken_into_memory(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, {"a": 1})
    # More than any machine has: zeros that take no place on the disk.
    os.truncate(path, 1 << 43)
    with pytest.raises(ValueError, match=r"manifest.json' is no whole manifest: without a whole checksum"):
        read_manifest(path)


def test_a_flipped_bit_of_a_manifest_is_seen_wherever_it_is(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, {"run": {"seed": 3, "tokens": 48}, "cells": [0.25, "é"]})
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 9):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"is no whole manifest: (damaged, the checksum is of other|without a whole checksum)"):
            read_manifest(path)


@contextlib.contextmanager
def small_disk():
    """Files of at most 8 KiB, as a disk that fills up would have it. No fixture: pytest's own output may go to a file, which is longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, {"old": 1})
    with small_disk(), pytest.raises(OSError, match=r"cannot write '.*manifest.json': File too large"):
        write_manifest(path, {"new": "x" * 10_000})
    assert read_manifest(path)[0] == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_full_disk_leaves_the_records_as_they_were(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    records.append({"n": 1, "pad": "x" * 5000})
    whole = records.path.read_bytes()
    with small_disk(), pytest.raises(OSError, match=r"cannot write '.*records.jsonl': File too large"):
        records.append({"n": 2, "pad": "x" * 5000})
    assert records.path.read_bytes() == whole
    records.append({"n": 3})
    assert [record["n"] for record in records] == [1, 3]


def test_what_a_killed_process_left_beside_a_file_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    left, alive = tmp_path / f".file.csv.{host}.{dead.pid}-1.csv", tmp_path / f".file.csv.{host}.{os.getppid()}-1.csv"
    elsewhere, other = tmp_path / f".file.csv.elsewhere.{dead.pid}-1.csv", tmp_path / f".other.csv.{host}.{dead.pid}-1.csv"
    for path in (left, alive, elsewhere, other):
        path.write_text("half")
    with replacing(tmp_path / "file.csv") as beside:
        beside.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file.csv", alive, elsewhere, other])


def test_what_fails_leaves_nothing_beside_the_file(tmp_path):
    def half() -> None:
        with replacing(tmp_path / "file") as beside:
            beside.write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        half()
    assert list(tmp_path.iterdir()) == []


WHOLE = line_of({"n": 2})


@pytest.mark.parametrize(
    "last, torn, found", [(b"", 0, [1]), (WHOLE[:-1], len(WHOLE) - 1, [1, 2]), (WHOLE[:-2], len(WHOLE) - 2, [1]), (b"\xff", 1, [1])]
)
def test_a_torn_line_is_ended(tmp_path, last, torn, found):
    records = Records(tmp_path / "records.jsonl")
    assert records.mend() == 0
    records.append({"n": 1})
    with open(records.path, "ab") as file:
        file.write(last)
    assert records.mend() == torn
    assert records.mend() == 0
    assert [record["n"] for record in records] == found
    assert records.path.read_bytes().startswith(line_of({"n": 1}) + last)


def test_a_device_that_is_always_full_is_named(tmp_path):
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write '.*records.jsonl': No space left on device"):
        Records(tmp_path / "records.jsonl").append({"n": 1})


def test_what_is_written_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    """A crash of the machine, which no test can make: the order of the calls is what there is to see."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(("fsync", os.fstat(handle).st_size)), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(("replace", 0)), replace(*paths)))
    records = Records(tmp_path / "records.jsonl")
    records.append({"n": 1})
    size = len(WHOLE)
    assert calls[0] == ("fsync", size)
    assert len(calls) == 2, "the folder too, that has a new name in it"
    records.append({"n": 2})
    assert calls[2:] == [("fsync", 2 * size)]
    calls.clear()
    write_manifest(tmp_path / "manifest.json", {})
    assert [call for call, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0] == ("fsync", len(with_checksum(b"{}")))


def test_a_record_that_would_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 1000)
    with pytest.raises(ValueError, match=r"record: 1,0\d\d bytes, and none of more than 1,000 is read again"):
        Records(tmp_path / "records.jsonl").append({"pad": "x" * 1000})
    assert not list(tmp_path.iterdir())


def test_lines_begin_where_they_are_said_to(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    starts = [records.extend([line_of({"n": n, "pad": "é" * n}), line_of({"n": -n})]) for n in range(3)]
    assert [records.at(start) for start in starts] == [{"n": n, "pad": "é" * n} for n in range(3)]
    assert [entry.offset for entry in records.entries()][::2] == starts
    with open(records.path, "ab") as file:
        file.write(b'{"torn": ')
    start = records.extend([line_of({"n": 4})])
    assert records.at(start) == {"n": 4}
    assert [entry.record for entry in records.entries()][-2:] == [None, {"n": 4}]

"""`simgap sweep` where it is not left in peace: signals, streams closed or full, names that no terminal should see, folders that go."""

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from simgap.cli import main
from simgap.sweeps import runner
from simgap.sweeps.worker import compute
from tests.sweep_command import refusal, stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_whatever_ends_a_job_leaves_the_line_that_resumes_it(capsys, monkeypatch, file, out, number):
    tasks = []

    def struck(task):
        tasks.append(task)
        if len(tasks) == 3:
            signal.raise_signal(number)
        return compute(task)

    monkeypatch.setattr(runner, "compute", struck)
    line = refusal(capsys, file, "--out", out, status=130)
    resume = shlex.join(["simgap", "sweep", file, "--out", out, "--resume"])
    assert line == f"simgap sweep: stopped with {int(line.split()[4])} of 6 cells done; go on with: {resume}"


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_is_the_coordinators_alone(file, out):
    """As srun sends it: workers and their helpers take no notice, and end with the coordinator."""
    argv = [sys.executable, "-m", "simgap.cli", "sweep", file, "--out", out, "--trials", "20000", "--engine", "local", "--workers", "2"]
    run = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with run:
        log = os.path.join(out, "sweep.log")
        deadline = time.monotonic() + 60
        while not os.path.exists(log) and time.monotonic() < deadline:
            time.sleep(0.05)
        for number in (signal.SIGUSR1, signal.SIGHUP):
            os.killpg(run.pid, number)
        shown, err = run.communicate(timeout=60)
    assert (run.returncode, shown) == (130, "")
    lines = [line for line in err.splitlines() if not line.startswith("  ") and not line.endswith("left out:")]
    assert len(lines) == 1
    assert lines[0].startswith("simgap sweep: stopped with ")
    with open(log) as lines:
        assert "a worker died" not in lines.read()


def test_nothing_of_a_name_reaches_the_terminal_as_it_is(capsys, monkeypatch, file, tmp_path):
    """Escape codes, a new line, and bytes that are no text; what resumes is the same name again, for a shell."""
    name = "run\x1b[31m\n\udcff'"
    out = str(tmp_path / name)
    assert main(["sweep", file, "--out", out]) == 0
    shown, err = capsys.readouterr()
    stopping(monkeypatch, 0, KeyboardInterrupt())
    line = refusal(capsys, file, "--out", out, "--trials", "3", "--resume", status=130)
    for text in (shown, err, line, (tmp_path / name / "sweep.log").read_text(), refusal(capsys, "\x1b[31m", "--out", out, "--resume")):
        assert text.encode().replace(b"\n", b"").decode().isprintable()
    words = line.partition("go on with: ")[2]
    again = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True).stdout.split(b"\0")[:-1]
    assert [os.fsdecode(word) for word in again] == ["simgap", "sweep", file, "--out", out, "--trials", "3", "--resume"]


@pytest.mark.parametrize("flag", [["--engine", "\x1b[31m"], ["--\x1b[31m"], ["--trials", "\x1b[31m"], ["a", "b\x1b[31m\udcff"]])
def test_what_was_typed_is_shown_and_not_obeyed(capsys, out, flag):
    assert refusal(capsys, "x.toml", "--out", out, *flag).isprintable()


@pytest.fixture
def leaving():
    """A stream whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as stream:
        yield stream


def test_nobody_need_read_what_is_said_beside_the_output(capsys, monkeypatch, file, out, leaving):
    monkeypatch.setattr(sys, "stderr", leaving)
    assert main(["sweep", file, "--out", out]) == 0
    assert capsys.readouterr().out.startswith("6 of 6 cells done, 6 of them now")
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["sweep", file, "--out", out, "--resume"]) == 0
    assert capsys.readouterr().out.startswith("6 of 6 cells done, 0 of them now")


def test_a_reader_that_leaves_before_the_end_loses_nothing(monkeypatch, file, out, leaving):
    monkeypatch.setattr(sys, "stdout", leaving)
    assert main(["sweep", file, "--out", out]) == 0
    assert os.path.exists(f"{out}/frame.parquet")


def test_an_output_on_a_full_disk_is_named_and_what_was_recorded_is_safe(capsys, monkeypatch, file, out):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(["sweep", file, "--out", out])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    resume = shlex.join(["simgap", "sweep", file, "--out", out, "--resume"])
    end = f"cannot write to stdout: No space left on device; 6 of 6 cells done and safe; go on with: {resume}"
    assert line == f"simgap sweep: error: {end}"


def test_an_error_of_another_pipe_is_no_reader_that_left(capsys, monkeypatch, file, out):
    stopping(monkeypatch, 0, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert "error: Broken pipe; 0 of 6 cells done and safe; " in refusal(capsys, file, "--out", out)


def test_a_closed_stdout_is_refused_before_work_begins(capsys, monkeypatch, file, out):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", file, "--out", out])
    assert capsys.readouterr().err == "simgap sweep: error: cannot write to stdout: it is closed\n"
    assert not os.path.exists(out)


@pytest.mark.parametrize("way", ["link", "long", "below a file"])
def test_folders_that_cannot_be(capsys, file, tmp_path, way):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    out = {"link": str(tmp_path / "link"), "long": str(tmp_path / ("x" * 300)), "below a file": f"{file}/run"}[way]
    before = sorted(tmp_path.iterdir())
    assert refusal(capsys, file, "--out", out).startswith("simgap sweep: error: ")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_removed_midway_is_said_in_one_line(capsys, monkeypatch, file, out):
    def removed(task):
        shutil.rmtree(out)
        return compute(task)

    monkeypatch.setattr(runner, "compute", removed)
    says = f"out: {out!r} is gone: it was removed, moved or replaced while the sweep ran"
    assert refusal(capsys, file, "--out", out) == f"simgap sweep: error: {says}"
    assert not os.path.exists(out)

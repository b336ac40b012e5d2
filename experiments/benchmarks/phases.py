"""What the coordinator of a sweep is at, seen from outside and still there when it is dead."""

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from unittest.mock import patch

import numpy as np

from simgap.records import jsonl

# What a coordinator is at: loading, planning and starting workers; work; a line half written; written, and the flush not back; the frame.
PHASES = ("start", "compute", "mid-line", "flush", "collect")
DONE = "done"
# Where on the board the workers' number is, and the first of them.
HIRED, FIRST = 16, 17
# A frame is made in some 50 ms, and its file written in few: held up about as long as it is made.
FRAME_DWELLS = 10
# Seconds between two looks at the board, and that a phase may last.
POLL, PATIENCE = 2e-4, 180.0


class Board:
    """A few numbers that a coordinator writes and that outlive it: its phase, how often each began, and the workers it started."""

    def __init__(self) -> None:
        self._held = mmap.mmap(-1, mmap.PAGESIZE)
        self._cells = np.frombuffer(self._held, np.int64)

    def enter(self, phase: str) -> None:
        at = (*PHASES, DONE).index(phase)
        self._cells[1 + at] += 1
        self._cells[0] = at

    def hire(self, pid: int) -> None:
        count = int(self._cells[HIRED])
        self._cells[FIRST + count] = pid
        self._cells[HIRED] = count + 1

    @property
    def phase(self) -> str:
        return (*PHASES, DONE)[int(self._cells[0])]

    def begun(self, phase: str) -> int:
        return int(self._cells[1 + PHASES.index(phase)])

    def workers(self) -> list[int]:
        """Those that are alive."""
        return [pid for pid in self._cells[FIRST : FIRST + int(self._cells[HIRED])].tolist() if alive(pid)]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass
class Session:
    """A coordinator at work in a process of its own; status: how it ended."""

    pid: int
    board: Board
    engine: str
    status: int | None = None

    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        return self.status

    def until(self, reached: Callable[[], bool]) -> bool:
        """Whether it came to this, rather than to its end."""
        deadline = time.monotonic() + PATIENCE
        while self.running():
            if reached():
                return True
            if time.monotonic() > deadline:
                # Where it hangs, into the lane's log.
                os.kill(self.pid, signal.SIGUSR1)
                time.sleep(1)
                os.kill(self.pid, signal.SIGKILL)
                raise ValueError(f"session: its coordinator was {PATIENCE:g} s in {self.board.phase!r}")
            time.sleep(POLL)
        return False


@contextlib.contextmanager
def marked(board: Board, generator: np.random.Generator, dwell: float) -> Iterator[None]:
    """simgap's own writing, flushing and starting of workers, with the phase told on the board. Lines are written piece by piece; every
    piece, and the time before and after every flush, lasts `dwell` seconds, so that there is something to hit."""
    write_all, fsync, start = jsonl.write_all, os.fsync, SpawnProcess.start

    def write_in_pieces(handle: int, data: bytes) -> None:
        if len(data) < 3:
            # The end of a line that a kill tore: it has no middle.
            write_all(handle, data)
            return
        first, second = cuts(data, generator)
        write_all(handle, data[:first])
        board.enter("mid-line")
        time.sleep(dwell)
        write_all(handle, data[first:second])
        time.sleep(dwell)
        write_all(handle, data[second:])
        board.enter("flush")

    def slow_fsync(handle: int) -> None:
        pause = dwell * (FRAME_DWELLS if board.phase == "collect" else 1)
        time.sleep(pause)
        fsync(handle)
        time.sleep(pause)
        # Of the records: a manifest is flushed too, and a frame.
        if board.phase == "flush":
            board.enter("compute")

    def start_and_tell(process: SpawnProcess) -> None:
        start(process)
        board.hire(process.pid or 0)

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(jsonl, "write_all", write_in_pieces))
        stack.enter_context(patch.object(os, "fsync", slow_fsync))
        stack.enter_context(patch.object(SpawnProcess, "start", start_and_tell))
        yield


def cuts(data: bytes, generator: np.random.Generator) -> tuple[int, int]:
    """Two places that are inside of lines; one second place in four is before the last newline, where nothing else is missing."""
    first, second = (at - (data[at - 1] == ord("\n")) for at in sorted(generator.integers(2, len(data), 2).tolist()))
    return first, len(data) - 1 if generator.random() < 0.25 else second

"""Ctrl-C and the signals by which batch systems and terminals end a job, kept until nothing is half done."""

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

# What a sweep is stopped by: Ctrl-C, a batch system that ends a job or says that its time is nearly over, a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# They may be sent to a whole group of processes; workers are ended by SIGTERM alone.
LEFT_TO_COORDINATOR = tuple(number for number in SIGNALS if number != signal.SIGTERM)
# How long the runner waits before it looks whether it was asked to stop, in seconds.
LOOK_EVERY = 0.2


class Stopping:
    """While this is entered, what a signal would do is done at the next `look`, at once inside of `anytime`, or when it comes twice.

    An exception that a handler raises may come between any two steps: in the middle of a write, or while a lock is being taken that
    another thread then waits for without end. Signals without a handler in Python, and threads other than the main one, are left alone.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._asked: int | None = None
        self._anytime = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Stopping":
        numbers = [number for number in SIGNALS if callable(signal.getsignal(number))]
        self._handlers = self._stack.enter_context(_handled(self._note, numbers))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.look()

    def look(self) -> None:
        """Do what a signal that came meanwhile would have done."""
        if self._asked is not None:
            asked, self._asked = self._asked, None
            self._handlers[asked](asked, None)

    @contextlib.contextmanager
    def anytime(self) -> Iterator[None]:
        """Signals are answered at once in here: for work that may be dropped wherever it is."""
        self.look()
        self._anytime = True
        try:
            yield
        finally:
            self._anytime = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._anytime or self._asked is not None:
            self._asked = None
            self._handlers[number](number, frame)
        else:
            self._asked = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let all SIGNALS stop this process as Ctrl-C does, but for those that it ignores (nohup) or has a handler for."""
    with _handled(signal.default_int_handler, [number for number in SIGNALS[1:] if signal.getsignal(number) is signal.SIG_DFL]):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore SIGNALS: what is done in here is short, and the process ends after it."""
    with _handled(signal.SIG_IGN, SIGNALS):
        yield


@contextlib.contextmanager
def _handled(handler: Any, numbers: Iterable[int]) -> Iterator[dict[int, Any]]:
    """Have a handler for these signals, which only a main thread can; those that were there before."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in (numbers if main else ())}
    try:
        yield before
    finally:
        for number, was in before.items():
            # One that was not set by Python cannot be put back.
            signal.signal(number, signal.SIG_DFL if was is None else was)

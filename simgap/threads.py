"""All of simgap's parallelism: independent tasks on a pool whose threads each compute alone.

A library that splits one product or one sum over threads rounds differently at another thread count. Here a task is always computed by one
thread, and the threads only decide how many tasks run at once: the same bits for any number of them.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Condition, RLock, Thread

from simgap.machine import cores
from simgap.settings import torch_settings

Map = Callable[..., Iterable]

# Numbers that a task should touch before another thread is worth waking: handing over the interpreter's lock costs some 50 microseconds.
PARALLEL_FROM = 1 << 18


def in_order(function: Callable, *items: Iterable) -> list:
    """`map`, done at once: the one-thread stand-in for a pool's map."""
    return list(map(function, *items))


def if_large(task_map: Map, numbers: int) -> Map:
    """The given map, or in order on this thread where the tasks together touch too few numbers to share; the results are the same."""
    return task_map if numbers >= PARALLEL_FROM else in_order


@contextmanager
def pool(workers: int | None = None) -> Iterator[tuple[Map, int]]:
    """A map over tasks and the number of threads behind it; by default torch's own thread count, so torch.set_num_threads steers it.

    Inside, here and in every task, `torch_settings` hold. The caller's are put back when the last pool is left, whatever happens.
    """
    with torch_settings() as threads:
        workers = min(workers or threads, cores())
        yield shared_by(workers), workers


def shared_by(workers: int) -> Map:
    """A map over tasks by so many threads, for use inside a `pool`: in order by one, else side by side."""
    return in_order if workers == 1 else functools.partial(_side_by_side, workers)


def _side_by_side(workers: int, function: Callable, *items: Iterable) -> list:
    """`map` by this thread and others. What fails first stops the rest; a thread that comes too late is not waited for."""
    tasks = list(zip(*items, strict=False))
    results, numbers = [None] * len(tasks), iter(range(len(tasks)))
    failed: list[BaseException] = []

    def work() -> None:
        for number in numbers:
            results[number] = function(*tasks[number])

    def help_out() -> None:
        try:
            # Entered anew: what a user's function set in this thread, in an earlier call, may still hold.
            with torch_settings():
                work()
        except BaseException as error:
            failed.append(error)
            deque(numbers, maxlen=0)

    try:
        _helpers.ask(help_out, min(workers, len(tasks)) - 1)
        work()
        _helpers.leave(help_out)
    except BaseException:
        # No task is left to begin, and settings are put back when nobody computes under them any more.
        deque(numbers, maxlen=0)
        _helpers.leave(help_out)
        raise
    if failed:
        raise failed.pop(0)
    return results


class _Helpers:
    """Threads that are kept from call to call, as many as one call has asked for: waking one takes a tenth of the time of a new one."""

    def __init__(self) -> None:
        self.forks_are_seen = False
        self.forget()

    def forget(self) -> None:
        """A forked child begins with none."""
        lock, self.count = RLock(), 0
        self.asked, self.done = Condition(lock), Condition(lock)
        self.waiting, self.begun = list[Callable](), list[Callable]()

    def ask(self, work: Callable, count: int) -> None:
        """Have so many threads do the work as they come free, or as many as the system gives."""
        with self.asked, suppress(RuntimeError):
            self.waiting += [work] * count
            self.asked.notify(count)
            if not self.forks_are_seen:
                os.register_at_fork(after_in_child=self.forget)
                self.forks_are_seen = True
            while self.count < count:
                Thread(target=self._serve, name="simgap", daemon=True).start()
                self.count += 1

    def leave(self, work: Callable) -> None:
        """Return when no thread does the work, and none will."""
        with self.done:
            self.waiting = [other for other in self.waiting if other is not work]
            self.done.wait_for(lambda: work not in self.begun)

    def _serve(self) -> None:
        while True:
            with self.asked:
                self.asked.wait_for(lambda: bool(self.waiting))
                self.begun.append(work := self.waiting.pop())
            work()
            with self.done:
                self.begun.remove(work)
                self.done.notify_all()
            # What its tasks hold is not kept until the next.
            del work


_helpers = _Helpers()

"""All of simgap's parallelism: independent tasks on a pool whose threads each compute alone.

A library that splits one product or one sum over threads rounds differently at another thread count. Here a task is always computed by one
thread, and the threads only decide how many tasks run at once: the same bits for any number of them.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Barrier

from simgap.machine import cores
from simgap.settings import adopt_thread, torch_settings

Map = Callable[..., Iterable]

# Numbers that a task should touch before another thread is worth waking: handing over the interpreter's lock costs some 50 microseconds.
WORTH_A_THREAD = 1 << 18


def in_order(function: Callable, *items: Iterable) -> list:
    """`map`, done at once: the one-thread stand-in for a pool's map."""
    return list(map(function, *items))


def worth(task_map: Map, numbers: int) -> Map:
    """The given map, or in order on this thread where the tasks together touch too few numbers to share; the results are the same."""
    return task_map if numbers >= WORTH_A_THREAD else in_order


@contextmanager
def pool(workers: int | None = None) -> Iterator[tuple[Map, int]]:
    """A map over tasks and the number of threads behind it; by default torch's own thread count, so torch.set_num_threads steers it.

    Inside, here and in every task, `torch_settings` hold. The caller's are put back when the last pool is left, whatever happens.
    """
    with torch_settings() as threads:
        workers = min(workers or threads, cores())
        if workers == 1:
            yield in_order, 1
            return
        yield functools.partial(_side_by_side, workers), workers


def _side_by_side(workers: int, function: Callable, *items: Iterable) -> list:
    """`map` by this thread and others. What fails first stops the rest; a thread that comes too late is not waited for."""
    tasks = list(zip(*items, strict=False))
    results, numbers = [None] * len(tasks), iter(range(len(tasks)))

    def work() -> None:
        try:
            for number in numbers:
                results[number] = function(*tasks[number])
        except BaseException:
            # No task is left to begin.
            for _ in numbers:
                pass
            raise

    others = [_helpers(workers - 1).submit(work) for _ in range(min(workers, len(tasks)) - 1)]
    try:
        work()
    finally:
        wait(begun := [other for other in others if not other.cancel()])
    for other in begun:
        other.result()
    return results


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Threads that are kept from call to call: waking one takes a tenth of the time of a new one. A forked child begins with none."""
    os.register_at_fork(after_in_child=_helpers.cache_clear)
    executor, met = ThreadPoolExecutor(count, "simgap", initializer=adopt_thread), Barrier(count)
    # All of them here and now: one that adopted the settings later might do so when they are no longer those of the process.
    list(executor.map(lambda _: met.wait(), range(count)))
    return executor

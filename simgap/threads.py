"""All of simgap's parallelism: independent tasks on a pool whose threads each compute alone.

A library that splits one product or one sum over threads rounds differently at another thread count. Here a task is always computed by one
thread, and the threads only decide how many tasks run at once: the same bits for any number of them.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

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
        with ThreadPoolExecutor(workers - 1, initializer=adopt_thread) as executor:
            yield functools.partial(_side_by_side, executor, workers), workers


def _side_by_side(executor: ThreadPoolExecutor, workers: int, function: Callable, *items: Iterable) -> list:
    """`map` by the executor's threads and this one: a thread less to wake and to wait for. What fails first stops the rest."""
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

    others = [executor.submit(work) for _ in range(min(workers, len(tasks)) - 1)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()
    return results

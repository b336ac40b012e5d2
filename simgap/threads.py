"""All of simgap's parallelism: independent tasks on a pool whose threads each compute alone.

A library that splits one product or one sum over threads rounds differently at another thread count. Here a task is always computed by one
thread, and the threads only decide how many tasks run at once: the same bits for any number of them.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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

    Inside, torch computes each operation on the calling thread alone, and float32 products in float32 whatever the global setting (TF32,
    bfloat16). The caller's settings are put back when the last pool is left, whatever happens.
    """
    import torch

    with _settings() as threads:
        workers = min(workers or threads, os.cpu_count() or 1)
        if workers == 1:
            yield in_order, 1
            return
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            try:
                yield (lambda function, *items: list(executor.map(function, *items))), workers
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise


@contextmanager
def _settings() -> Iterator[int]:
    """torch's thread count and matmul precision as simgap needs them; yields the thread count that the user had set.

    Both belong to the whole process, so pools that overlap share one change: the first makes it, the last takes it back.
    """
    import torch

    with _lock:
        if not _open:
            _before[:] = [torch.get_num_threads(), torch.get_float32_matmul_precision()]
            torch.set_float32_matmul_precision("highest")
        _open.append(None)
        threads = int(_before[0])
    # torch keeps the count per thread, and as the default of threads not yet born: both have to be one.
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        with _lock:
            _open.pop()
            torch.set_num_threads(threads)
            if not _open:
                torch.set_float32_matmul_precision(str(_before[1]))


_lock = threading.Lock()
_open: list[None] = []
_before: list[int | str] = []

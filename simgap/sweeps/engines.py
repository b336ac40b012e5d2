"""Where tasks run: in this process, on local processes, on a Dask cluster, or on any Executor that a user brings. One seam for all."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

from simgap.checks import nearest
from simgap.machine import cores
from simgap.sweeps.stopping import LEFT_TO_COORDINATOR, LOOK_EVERY
from simgap.sweeps.worker import ready, start_local

ENGINES = ("inprocess", "local", "dask")
# How long a scheduler may take to answer.
PATIENCE = "20s"
# Seconds to wait for its workers, and for how long none may have come before those that are there are taken for all.
PATIENCE_FOR_WORKERS, SETTLED = 120.0, 3.0


@dataclass(frozen=True)
class Engine:
    """An executor and what the runner must know of it.

    workers: tasks that run at the same time. taken: tasks that it may hold, so that no worker waits for its next one. threads: what one
    task may use, None for what its process has. sharing: tasks that share a machine's memory evenly; None where all run on this machine,
    each with what it needs while the sum fits. died: whether an exception says that a worker died over a task, deaths: how many it stands
    for, and mixed: whether it may have been another task's doing.
    """

    executor: Executor
    workers: int
    taken: int
    threads: int | None = None
    sharing: int | None = None
    died: Callable[[BaseException], bool] = lambda error: isinstance(error, BrokenExecutor)
    deaths: int = 1
    mixed: bool = False


class Inline(Executor):
    """Runs a task where it is submitted, at once. Ctrl-C passes through."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Processes(Executor):
    """Local worker processes, each a pool of its own: one that dies takes only its own task with it, and is replaced.

    Spawned, never forked: torch's threads do not survive a fork. At most `workers` tasks may be submitted and unfinished.
    """

    def __init__(self, workers: int, threads: int, devices: int = 0) -> None:
        self.threads, self.devices = threads, devices
        # Pools start it too.
        _start_tracker()
        self._pools = [self._pool(slot) for slot in range(workers)]
        self._last: list[Future | None] = [None] * workers
        try:
            for future in [self._submit(slot, ready) for slot in range(workers)]:
                future.result()
        except BaseException as error:
            self.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Exception):
                raise ValueError(f"engine: a worker process cannot start: {error}") from None
            raise

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        # By the futures and not by their callbacks, which come after whoever waits for a future is told of it.
        slot = next(slot for slot, last in enumerate(self._last) if last is None or last.done())
        try:
            future = self._submit(slot, function, *args, **kwargs)
        except BrokenExecutor:
            self._pools[slot].shutdown(wait=False)
            self._pools[slot] = self._pool(slot)
            future = self._submit(slot, function, *args, **kwargs)
        self._last[slot] = future
        return future

    def _submit(self, slot: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future:
        pool = self._pools[slot]
        future = pool.submit(function, *args, **kwargs)
        # The worker has the writing end of its results. Were ours open, a worker that is killed in the middle of a result would leave us
        # waiting for its other half.
        writer = pool._result_queue._writer  # type: ignore[attr-defined]
        if not writer.closed:
            writer.close()
        return future

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def __len__(self) -> int:
        return len(self._pools)

    def pids(self) -> list[int]:
        """The worker processes that are alive."""
        return [pid for pool in self._pools for pid, process in list((pool._processes or {}).items()) if process.is_alive()]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for pool in self._pools:
            if cancel_futures:
                # What they are at is not wanted any more, and may take minutes.
                for process in list((pool._processes or {}).values()):
                    process.terminate()
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        device = slot % self.devices if self.devices else None
        return ProcessPoolExecutor(1, mp_context=_Context(), initializer=start_local, initargs=(self.threads, device))


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Processes that are started in here do not hear of what is for the coordinator, unless they unblock it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_COORDINATOR)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start the process that cleans up after multiprocessing, deaf to all but SIGTERM and Ctrl-C, which it ignores."""
    with _held_back():
        resource_tracker.ensure_running()


class _Process(SpawnProcess):
    """A spawned process that does not run the user's script again: a worker needs nothing of it, and a script without the guard
    `if __name__ == "__main__"` would begin its sweep once more in every worker."""

    def start(self) -> None:
        # It lets Ctrl-C through again when it starts, so that it has to be there before.
        _start_tracker()
        # Ctrl-C on a terminal reaches every process: it is held back until the worker ignores it.
        with _held_back(), _without_main(sys.modules["__main__"]):
            super().start()


class _Context(SpawnContext):
    Process = _Process


@contextlib.contextmanager
def _without_main(main: ModuleType) -> Iterator[None]:
    """Hide from multiprocessing where the main module came from."""
    kept: dict[str, Any] = {name: main.__dict__[name] for name in ("__spec__", "__file__") if name in main.__dict__}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        del main.__spec__
        main.__dict__.update(kept)


@contextlib.contextmanager
def open_engine(engine: str | Executor, workers: int | None, device: str, scheduler: str | None = None) -> Iterator[Engine]:
    """The engine of that name, closed when left; an Executor that the user brought stays open.

    workers: by default the cores of this machine, its cards for device "cuda", or what a Dask cluster has.
    Raises ValueError as `check_engine` does, and for a scheduler that does not answer or a worker that cannot start.
    """
    check_engine(engine, workers, scheduler)
    if isinstance(engine, Executor):
        yield _brought(engine, workers)
    elif engine == "inprocess":
        ready()
        yield Engine(Inline(), 1, 1)
    elif engine == "local":
        import torch

        cards = torch.cuda.device_count() if device == "cuda" else 0
        count = workers or cards or cores()
        with Processes(count, max(1, cores() // count), cards) as processes:
            yield Engine(processes, count, count)
    elif engine == "dask":
        with _dask(workers, scheduler or "") as opened:
            yield opened


def check_engine(engine: str | Executor | None, workers: int | None, scheduler: str | None) -> None:
    """ValueError for an engine that there is not, a pool that forks, workers that are no number of them, a scheduler that is missing, not
    asked for, or no address."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers: expected a whole number, at least 1, got {workers!r}")
    if engine == "inprocess" and workers not in (None, 1):
        raise ValueError(f"workers: engine = 'inprocess' is this process alone, got {workers}; use engine = 'local'")
    if scheduler is not None and engine != "dask":
        raise ValueError(f"scheduler: given, but engine = {engine!r} has none; use engine = 'dask'")
    if engine == "dask":
        if not scheduler:
            raise ValueError("scheduler: engine = 'dask' needs the address of one, such as tcp://10.0.0.1:8786")
        _check_address(scheduler)
    if isinstance(engine, Executor):
        context = getattr(engine, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            raise ValueError("engine: this pool forks, and torch's threads do not survive that; give it mp_context=get_context('spawn')")
    elif engine is not None and engine not in ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(ENGINES)} or an Executor, got {engine!r}{nearest(str(engine), ENGINES)}")


def check_here(engine: str | Executor | None, device: str) -> None:
    """ValueError where there is no such device; that of a cluster is its workers' matter."""
    if engine != "dask" and _client_of(engine) is None:
        from simgap.api.plan import check_device

        check_device(device)


def _check_address(scheduler: str) -> None:
    """ValueError for what is no address, or has no port: a Client of one would try for another 40 seconds to close what it never opened."""
    try:
        from distributed.comm.addressing import parse_address, parse_host_port
        from distributed.comm.registry import get_backend
    except ImportError:
        raise ValueError("engine: 'dask' needs the extra: pip install 'simgap[cluster]'") from None
    try:
        protocol, place = parse_address(scheduler)
        get_backend(protocol)
        if protocol in ("tcp", "tls"):
            parse_host_port(place)
    except (ValueError, TypeError) as error:
        why = " ".join(str(error).split())[:120]
        raise ValueError(f"scheduler: expected an address such as tcp://10.0.0.1:8786, got {scheduler!r}: {why}") from None


def _client_of(engine: object) -> Any:
    """The Dask client whose Executor this is; None for anything else."""
    distributed = sys.modules.get("distributed")
    return engine._client if distributed and isinstance(engine, distributed.cfexecutor.ClientExecutor) else None


def _workers_of(client: Any, least: int | None, scheduler: str) -> list[dict[str, Any]]:
    """What the scheduler knows of its workers, once there are at least so many, or, where no number was asked for, once no more come.

    Their number decides how many tasks there are at a time and how the memory of a machine is shared, so that those of a batch job, which
    start one after the other, should all be there.
    """
    start = changed = time.monotonic()
    count = 0
    while True:
        info = list(client.scheduler_info(n_workers=-1)["workers"].values())
        now = time.monotonic()
        if len(info) != count:
            count, changed = len(info), now
        if (least is not None and count >= least) or (least is None and count and now - changed >= SETTLED):
            return info
        if now - start > PATIENCE_FOR_WORKERS and (least is not None or not count):
            raise ValueError(f"workers: {scheduler!r} has {count} after {PATIENCE_FOR_WORKERS:.0f} s, expected at least {least or 1}")
        time.sleep(LOOK_EVERY)


def _brought(executor: Executor, workers: int | None) -> Engine:
    if isinstance(executor, Processes):
        return Engine(executor, len(executor), len(executor))
    if (client := _client_of(executor)) is not None:
        brought: Any = executor
        if brought._shutdown:
            raise ValueError("engine: the executor takes no more tasks: cannot schedule new futures after shutdown")
        # As it was made, but that a task whose worker died is tried again: one of the same content has failed for good.
        options = {**brought._kwargs, "pure": False}
        return _on_cluster(client, client.get_executor(**options), workers, client.scheduler.address)
    count = workers or getattr(executor, "_max_workers", None) or cores()
    return Engine(executor, count, 2 * count, 1 if count > 1 else None)


@contextlib.contextmanager
def _dask(workers: int | None, scheduler: str) -> Iterator[Engine]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    # A server that is no scheduler can be taken for one that sends a message of some exabytes.
    except (OSError, ValueError, TimeoutError, MemoryError) as error:
        raise ValueError(f"scheduler: no answer from {scheduler!r}: {' '.join(str(error).split())[:120]}") from None
    with client:
        yield _on_cluster(client, client.get_executor(pure=False), workers, scheduler)


def _on_cluster(client: Any, executor: Executor, workers: int | None, scheduler: str) -> Engine:
    import dask
    from distributed import KilledWorker

    info = _workers_of(client, workers, scheduler)
    threads = sum(worker["nthreads"] for worker in info)
    on_host: dict[str, int] = {}
    for worker in info:
        on_host[worker["host"]] = on_host.get(worker["host"], 0) + worker["nthreads"]
    # Each task keeps to one thread: Dask runs as many of them in a process as it was told to. It tries a task again by itself.
    deaths = dask.config.get("distributed.scheduler.allowed-failures") + 1
    return Engine(executor, threads, 2 * threads, 1, max(on_host.values()), lambda error: isinstance(error, KilledWorker), deaths, True)

"""A Dask cluster on this machine, scheduler and workers each a process of its own; `python -m experiments.sweeps.cluster` sweeps on it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from simgap import LayerSpec
from simgap.sweeps import COSTS, Cells, grid, sweep

PATIENCE = 60.0  # seconds that a scheduler may take to come up


@contextlib.contextmanager
def local_cluster(workers: int) -> Iterator[str]:
    """The address of a Dask scheduler with so many worker processes of one thread each; both end when this is left."""
    dask = [sys.executable, "-m", "dask"]
    with tempfile.TemporaryDirectory(prefix="simgap-cluster-") as folder, contextlib.ExitStack() as started:
        told, log = Path(folder, "scheduler.json"), started.enter_context(open(Path(folder, "log"), "wb"))

        def start(*arguments: str) -> subprocess.Popen:
            process = subprocess.Popen([*dask, *arguments, "--scheduler-file", str(told)], cwd=folder, stdout=log, stderr=log)
            started.callback(process.wait)
            started.callback(process.terminate)
            return process

        scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        deadline = time.monotonic() + PATIENCE
        while not told.exists():
            if scheduler.poll() is not None or time.monotonic() > deadline:
                raise ValueError(f"cluster: no scheduler came up: {Path(folder, 'log').read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        start("worker", "--nworkers", str(workers), "--nthreads", "1", "--memory-limit", "0", "--no-dashboard")
        yield json.loads(told.read_text())["address"]


def worker_pids(scheduler: str, workers: int) -> list[int]:
    """The workers' process numbers, once so many are there."""
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=PATIENCE)
        return sorted(client.run(os.getpid).values())


def kill_one_after(scheduler: str, workers: int, records: Path) -> threading.Thread:
    """Kill a worker when the first cells of a sweep are recorded, from a thread beside it."""
    victim = worker_pids(scheduler, workers)[0]

    def strike() -> None:
        while not records.exists() or records.read_bytes().count(b"\n") < 2:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    return thread


def demo_cells() -> Cells:
    """Eighteen layers of six shapes."""
    spec = LayerSpec(d_model=64, d_ff=256)
    return grid(spec, d_model=[32, 64, 128], d_ff=[128, 256], activation=["relu", "silu", "tanh"])


def main() -> int:
    """Sweep on the cluster while one of its workers is killed, and hold the numbers against those of this process alone."""
    cells = demo_cells()
    with tempfile.TemporaryDirectory(prefix="simgap-demo-") as folder:
        alone = sweep(cells, trials=20, out=Path(folder, "alone"))
        print(f"in this process: {alone.done} cells in {alone.seconds:.1f} s")
        with local_cluster(2) as scheduler:
            print(f"Dask scheduler at {scheduler}, 2 workers")
            out = Path(folder, "cluster")
            killer = kill_one_after(scheduler, 2, out / "records.jsonl")
            run = sweep(cells, trials=20, out=out, engine="dask", scheduler=scheduler, workers=2)
            killer.join()
            print(f"on the cluster: {run.done} cells in {run.seconds:.1f} s, one worker killed midway")
        same = run.frame().drop(columns=list(COSTS)).equals(alone.frame().drop(columns=list(COSTS)))
    print("the frames are equal to the bit" if same else "the frames differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

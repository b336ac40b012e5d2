"""Engines: real worker processes, a pool that a user brings, and what is said where an engine cannot be had."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import connection, get_context

import pytest
import torch

import simgap as sg
from simgap.records import source_digest
from simgap.sweeps import COSTS, grid, sweep
from simgap.sweeps.engines import Inline, Processes, cores, open_engine
from simgap.sweeps.worker import ready

SPEC = sg.LayerSpec(d_model=8, d_ff=16, n_experts=4, top_k=2)
CELLS = grid(SPEC, {"router.temperature": [0.5, 2.0]}, d_model=[8, 12, 16])
SETTINGS = {"trials": 2, "tokens": 16, "seed": 1, "progress": False}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_over_the_result() -> str:
    """Send half of the result, and no more."""

    def half(self, data, write=os.write):
        write(self._handle, bytes(data)[: len(data) // 2])
        die()

    connection.Connection._send = half
    return "x" * 100_000


@pytest.fixture(scope="module")
def processes():
    with Processes(2, 1) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return numbers(sweep(CELLS, out=tmp_path_factory.mktemp("undisturbed"), **SETTINGS))


def numbers(run):
    """All that must be the same to the bit."""
    assert run.done == run.cells
    return run.frame().drop(columns=list(COSTS))


def test_local_processes_may_be_brought(tmp_path, processes, undisturbed):
    assert numbers(sweep(CELLS, out=tmp_path, engine=processes, **SETTINGS)).equals(undisturbed)


def test_workers_keep_to_their_threads_and_leave_ctrl_c_to_the_coordinator(processes):
    assert processes.submit(torch.get_num_threads).result() == 1
    assert processes.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_workers_leave_what_ends_a_job_to_the_coordinator(processes, number):
    assert processes.submit(signal.getsignal, number).result() == signal.SIG_IGN
    assert number not in processes.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()


def test_a_dead_worker_is_replaced_and_takes_only_its_own_task(processes):
    first = processes.pids()
    doomed, other = processes.submit(die), processes.submit(time.sleep, 0.2)
    with pytest.raises(BrokenExecutor, match="terminated abruptly"):
        doomed.result()
    assert other.result() is None
    assert {future.result() for future in [processes.submit(ready), processes.submit(ready)]} == {source_digest()}
    assert len(processes.pids()) == 2
    assert len(set(processes.pids()) & set(first)) == 1


def test_a_worker_that_dies_in_the_middle_of_its_result_is_replaced(processes):
    with pytest.raises(BrokenExecutor, match="terminated abruptly"):
        processes.submit(die_over_the_result).result(timeout=30)
    assert processes.submit(ready).result(timeout=30) == source_digest()


@pytest.mark.slow
def test_an_idle_worker_that_dies_is_replaced_unnoticed(processes):
    processes.submit(ready).result()
    for pid in processes.pids():
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    assert processes.submit(ready).result() == source_digest()


@pytest.mark.parametrize(
    "workers, strike", [(2, True), pytest.param(1, False, marks=pytest.mark.slow), pytest.param(4, False, marks=pytest.mark.slow)]
)
def test_processes_give_the_bits_of_one_process(tmp_path, undisturbed, workers, strike, monkeypatch):
    """Two workers of which one is killed midway, one of two threads, and four; the cells in reversed order."""
    struck: list[int] = []
    submit = Processes.submit

    def submit_and_strike(self, function, /, *args):
        future = submit(self, function, *args)
        if strike and not struck and len(self.pids()) == workers:
            struck.append(self.pids()[-1])
            os.kill(struck[0], signal.SIGKILL)
        return future

    monkeypatch.setattr(Processes, "submit", submit_and_strike)
    run = sweep(CELLS[::-1], out=tmp_path, engine="local", workers=workers, **SETTINGS)
    found = numbers(run).sort_values(["cell", "quantity"], ignore_index=True)
    assert found.equals(undisturbed.sort_values(["cell", "quantity"], ignore_index=True)[found.columns])
    assert bool(struck) == strike
    assert ("a worker died over" in (tmp_path / "sweep.log").read_text()) == strike


@pytest.mark.parametrize("pool", [lambda: ThreadPoolExecutor(2), lambda: ThreadPoolExecutor(4), Inline], ids=["two", "four", "inline"])
def test_any_executor_gives_the_same_bits(tmp_path, undisturbed, pool):
    before = torch.get_num_threads()
    with pool() as executor:
        assert numbers(sweep(CELLS, out=tmp_path, engine=executor, **SETTINGS)).equals(undisturbed)
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == before, "threads to come have what the user set"


def test_a_pool_that_was_shut_down_is_named(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        pass
    with pytest.raises(ValueError, match="engine: the executor takes no more tasks: cannot schedule new futures after shutdown"):
        sweep(CELLS, out=tmp_path, engine=pool, **SETTINGS)


def test_trials_added_are_the_trials_of_one_run(tmp_path, undisturbed):
    sweep(CELLS, out=tmp_path, **(SETTINGS | {"trials": 1}))
    assert numbers(sweep(CELLS, out=tmp_path, **SETTINGS)).equals(undisturbed)


def test_a_cell_is_what_measure_gives_for_its_seed(undisturbed):
    row = undisturbed[(undisturbed["d_model"] == 12) & (undisturbed["quantity"] == "activation_mso mean output")].iloc[0]
    spec = next(spec for spec in CELLS if spec.key() == row["cell"])
    found = sg.measure(spec, tokens=16, trials=2, seed=int(row["seed"]))
    assert (found.activation_mso["mean"]["output"].mean, found.activation_mso["mean"]["output"].sem) == (row["mean"], row["sem"])
    predicted = sg.predict(spec, tokens=16, trials=2)
    assert row["predicted_mean"] == predicted.activation_mso["mean"]["output"].mean
    assert row["p"] == sg.calibrate(found, predicted).activation_mso["mean"]["output"].p


def test_another_seed_gives_other_numbers(tmp_path, undisturbed):
    other = numbers(sweep(CELLS, out=tmp_path, **(SETTINGS | {"seed": 2})))
    assert not (other["mean"] == undisturbed["mean"]).any()
    assert (other["predicted_mean"].dropna() == undisturbed["predicted_mean"].dropna()).all()


SCRIPT = """
import sys
import simgap as sg
from simgap.sweeps import grid, sweep
from simgap.sweeps import engines
print("script begins", flush=True)
cells = grid(sg.LayerSpec(d_model=256, d_ff=1024), d_model=[256, 257, 258, 259], n_experts=[16, 17])
submit = engines.Processes.submit
def told(self, *args):
    found = submit(self, *args)
    print("workers", *self.pids(), flush=True)
    return found
engines.Processes.submit = told
sweep(cells, trials=100, out=sys.argv[1], engine="local", workers=2, memory="1GiB")
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("blow", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT])
def test_workers_end_with_their_coordinator_however_it_ends(tmp_path, blow):
    """A script without a guard for its main module, stopped in the middle of its cells."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    coordinator = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with coordinator:
        assert coordinator.stdout.readline() == "script begins\n"
        workers = [int(pid) for pid in coordinator.stdout.readline().split()[1:]]
        coordinator.stdout.readline()
        assert len(workers) == 2
        coordinator.send_signal(blow)
        out, err = coordinator.communicate(timeout=30)
    assert "script begins" not in out, "no worker runs the script"
    assert coordinator.returncode in (-blow, 130)
    assert ("KeyboardInterrupt" in err) == (blow == signal.SIGINT)
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in workers)


@pytest.mark.parametrize(
    "more, says",
    [
        ({"engine": "locl"}, "engine: expected one of inprocess, local, dask or an Executor, got 'locl'; did you mean 'local'"),
        ({"engine": 3}, "engine: expected one of inprocess, local, dask or an Executor, got 3"),
        ({"workers": 0}, "workers: expected a whole number, at least 1, got 0"),
        ({"engine": "inprocess", "workers": 4}, "workers: engine = 'inprocess' is this process alone, got 4; use engine = 'local'"),
        ({"workers": True}, "workers: expected a whole number, at least 1, got True"),
        ({"scheduler": "tcp://x:1"}, "scheduler: given, but engine = None has none"),
        ({"engine": "dask"}, "scheduler: engine = 'dask' needs the address of one, such as tcp://10.0.0.1:8786"),
        ({"engine": ProcessPoolExecutor(1, mp_context=get_context("fork"))}, "engine: this pool forks"),
    ],
)
def test_an_engine_that_cannot_be_had_is_named(tmp_path, more, says):
    with pytest.raises(ValueError, match=says):
        sweep(CELLS, out=tmp_path, **(SETTINGS | more))


def test_a_brought_pool_stays_open(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with open_engine(pool, None, "cpu") as engine:
            assert (engine.executor, engine.workers, engine.threads) == (pool, 1, None)
        assert pool.submit(int, "3").result() == 3


def test_an_executor_that_says_nothing_has_a_task_to_a_core():
    with open_engine(Inline(), None, "cpu") as engine:
        assert engine.workers == cores()
    with open_engine(ThreadPoolExecutor(3), None, "cpu") as engine:
        assert (engine.workers, engine.threads) == (3, 1)

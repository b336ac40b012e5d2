"""A sweep on a real Dask cluster: scheduler and workers in processes of their own, one of them killed midway."""

import re
import time

import distributed
import pytest

import simgap as sg
from experiments.sweeps.cluster import kill_one_after, local_cluster
from simgap.sweeps import COSTS, engines, grid, runner, sweep

CELLS = grid(sg.LayerSpec(d_model=16, d_ff=32, n_experts=4, top_k=2), d_model=[16, 24], d_ff=[32, 48, 64], activation=["relu", "silu"])
SETTINGS = {"trials": 3, "tokens": 64, "progress": False}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return numbers(sweep(CELLS, out=tmp_path_factory.mktemp("alone"), engine="inprocess", **SETTINGS))


def numbers(run):
    assert (run.done, run.set_aside) == (12, ())
    return run.frame().drop(columns=list(COSTS))


def test_a_cluster_gives_the_same_bits(tmp_path, alone):
    """Scheduler and worker in threads of this process, which start at once."""
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        assert numbers(sweep(CELLS, out=tmp_path, engine="dask", scheduler=address, workers=1, **SETTINGS)).equals(alone)


def test_the_executor_of_a_client_is_its_cluster(tmp_path, alone):
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        with cluster.get_client() as client, client.get_executor(pure=True) as executor:
            with engines.open_engine(executor, 1, "cpu") as engine:
                assert (engine.workers, engine.threads, engine.sharing, engine.mixed) == (2, 1, 2, True)
                assert engine.died(distributed.KilledWorker("task", None, 4))
                futures = [engine.executor.submit(time.monotonic) for _ in range(2)]
                assert futures[0].result() != futures[1].result(), "a task is done as often as it is asked for"
            assert numbers(sweep(CELLS, out=tmp_path, engine=executor, workers=1, **SETTINGS)).equals(alone)
        with pytest.raises(ValueError, match="engine: the executor takes no more tasks: cannot schedule new futures after shutdown"):
            sweep(CELLS, out=tmp_path / "other", engine=executor, workers=1, **SETTINGS)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_cell_that_kills_the_workers_of_a_client_is_set_aside(tmp_path, monkeypatch):
    def deadly(task):
        import os

        if any(cell.spec.d_ff == 48 for cell in task.cells):
            os._exit(1)
        from simgap.sweeps.worker import compute

        return compute(task)

    monkeypatch.setattr(runner, "compute", deadly)
    with local_cluster(2) as scheduler, distributed.Client(scheduler) as client:
        run = sweep(CELLS[:3], out=tmp_path, engine=client.get_executor(), workers=2, **SETTINGS)
    assert [(cell.name, cell.why) for cell in run.set_aside] == [(CELLS.name(2), "killed 3 workers")]
    assert run.done == 2


@pytest.mark.slow
def test_processes_of_a_cluster_give_the_same_bits_though_a_worker_is_killed(tmp_path, alone):
    with local_cluster(2) as scheduler:
        killer = kill_one_after(scheduler, 2, tmp_path / "cluster" / "records.jsonl")
        run = sweep(CELLS, out=tmp_path / "cluster", engine="dask", scheduler=scheduler, workers=2, **SETTINGS)
        killer.join(30)
        assert not killer.is_alive(), "a worker was killed"
        assert numbers(run).equals(alone)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "PATIENCE", "200ms")
    with pytest.raises(ValueError, match=r"scheduler: no answer from 'tcp://127.0.0.1:9'"):
        sweep(CELLS, out=tmp_path, engine="dask", scheduler="tcp://127.0.0.1:9", **SETTINGS)


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "tcp://[::1]", "no://such:1"])
def test_an_address_that_is_none_is_refused_at_once(tmp_path, address):
    start = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(f"scheduler: expected an address such as tcp://10.0.0.1:8786, got {address!r}: ")):
        sweep(CELLS, out=tmp_path, engine="dask", scheduler=address, **SETTINGS)
    assert time.monotonic() - start < 15


class Arriving:
    """A client to whose scheduler workers come one after the other: so many at each look."""

    def __init__(self, *counts):
        self.counts = list(counts)

    def scheduler_info(self, n_workers):
        assert n_workers == -1
        count = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        return {"workers": {f"tcp://w{at}": {"nthreads": 1, "host": "h"} for at in range(count)}}


@pytest.mark.parametrize(
    ("counts", "least", "found"),
    [((0, 1, 1, 2, 4, 4, 4), None, 4), ((0, 1, 2, 5, 9), 2, 2), ((3,), 1, 3), ((0, 0, 0, 0, 1), None, 1)],
)
def test_workers_that_come_one_after_the_other_are_waited_for(monkeypatch, counts, least, found):
    monkeypatch.setattr(engines, "SETTLED", 0.05)
    monkeypatch.setattr(engines, "LOOK_EVERY", 0.01)
    assert len(engines._workers_of(Arriving(*counts), least, "tcp://s:1")) == found


def test_workers_that_do_not_come_are_said(monkeypatch):
    monkeypatch.setattr(engines, "PATIENCE_FOR_WORKERS", 0.1)
    monkeypatch.setattr(engines, "LOOK_EVERY", 0.01)
    for counts, least, says in (((0,), None, "has 0 after 0 s, expected at least 1"), ((2,), 7, "has 2 after 0 s, expected at least 7")):
        with pytest.raises(ValueError, match=f"workers: 'tcp://s:1' {says}"):
            engines._workers_of(Arriving(*counts), least, "tcp://s:1")

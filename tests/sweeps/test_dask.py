"""A sweep on a real Dask cluster: scheduler and workers in processes of their own, one of them killed midway."""

import distributed
import pytest

import simgap as sg
from experiments.sweeps.cluster import kill_one_after, local_cluster
from simgap.sweeps import COSTS, grid, sweep

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
        assert numbers(sweep(CELLS, out=tmp_path, engine="dask", scheduler=address, **SETTINGS)).equals(alone)


@pytest.mark.slow
def test_processes_of_a_cluster_give_the_same_bits_though_a_worker_is_killed(tmp_path, alone):
    with local_cluster(2) as scheduler:
        killer = kill_one_after(scheduler, 2, tmp_path / "cluster" / "records.jsonl")
        run = sweep(CELLS, out=tmp_path / "cluster", engine="dask", scheduler=scheduler, workers=2, **SETTINGS)
        killer.join(30)
        assert not killer.is_alive(), "a worker was killed"
        assert numbers(run).equals(alone)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    from simgap.sweeps import engines

    monkeypatch.setattr(engines, "PATIENCE", "1s")
    with pytest.raises(ValueError, match=r"scheduler: no answer from 'tcp://127.0.0.1:9'"):
        sweep(CELLS, out=tmp_path, engine="dask", scheduler="tcp://127.0.0.1:9", **SETTINGS)

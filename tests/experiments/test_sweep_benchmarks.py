"""The benchmark of sweeps at a tiny size: every question answered, and bars that can be missed. Speed is no test."""

import csv
import json

import pytest

from experiments.__main__ import artefacts
from experiments.benchmarks import sweeps
from experiments.cells import Bench
from simgap import RunSpec, calibrate, collect
from simgap.records import Records, record_of
from simgap.sweeps import engines, plan
from simgap.sweeps.runner import Runner
from simgap.sweeps.worker import Cell

ORIGIN = {"commit": "abc", "dirty": False, "versions": {}, "canary": "x"}
LIKE = {"cell": "", "trials": 1, "seed": 0, "quantities": {}, "sums": {}, "batch": 7, "canary": "c" * 16}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All of it once, with memory looked at in this process and without the workers of an engine, which take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "LOCAL", "inprocess")
        patch.setattr(sweeps, "in_a_child", sweeps.held_by_coordinator)
        for name, value in {"SHAPES": 3, "MEMORY_CELLS": (4, 8, 12), "CORES": (2, 8, 1), "ROUNDS": 2}.items():
            patch.setattr(sweeps, name, {"smoke": value})
        out = tmp_path_factory.mktemp("sweeps")
        records = sweeps.compute("smoke", Bench(out, "sweeps", quiet=True, origin=ORIGIN))
        return out, records, sweeps.render(records, out)


def test_files(made):
    out, records, paths = made
    assert [path.name for path in paths] == ["sweeps.md", "sweeps.csv", "sweeps_1.csv"]
    assert {path.name for path in out.iterdir()} == {"sweeps.jsonl", *(path.name for path in paths)}, "no folder is left"
    assert list(Records(out / "sweeps.jsonl")) == json.loads(json.dumps(records))
    assert all(record["provenance"] == ORIGIN for record in records)


def test_every_question_has_its_answer(made):
    costs, held, cores, batches = made[1]
    assert list(costs["cases"]) == ["cells of one program", "each of its own"]
    assert costs["cells"] == 9
    assert all(0 < cost["work"] < cost["seconds"] for cost in costs["cases"].values())
    assert costs["bytes"] > 4096
    assert list(held["held"]) == ["4", "8", "12"]
    assert list(cores["seconds"]) == [sweeps.ONE, sweeps.TWO, sweeps.BOTH, sweeps.HERE]
    assert list(batches["seconds"]) == list(sweeps.QUANTITIES)
    for ways in batches["seconds"].values():
        assert list(ways) == [sweeps.BATCHED, sweeps.SINGLY, sweeps.LOOP]
    assert all(len(times) == 2 and min(times) > 0 for ways in (cores["seconds"], *batches["seconds"].values()) for times in ways.values())


def test_it_is_found_by_its_place_and_kills_are_not():
    found = artefacts()["benchmarks"]
    assert found["sweeps"] is sweeps
    assert "kills" not in found


def fabricated(over: float, growth: int | None, cores: float, together: float) -> list[dict]:
    """Records whose measured values are these: ms a cell, MiB, and how many times as fast."""
    size = None if growth is None else growth << 20
    held = {"100": {"end": 1 << 20, "peak": 2 << 20}, "200": {"end": 0, "peak": 0}}
    held["900"] = {"end": None if size is None else size + (1 << 20), "peak": None if size is None else size + (2 << 20)}
    costs = {"one": {"seconds": 0.004 + over / 1e3, "work": 0.004}}
    slow = {sweeps.ONE: [cores] * 3, sweeps.BOTH: [2.0, 3.0, 4.0], sweeps.HERE: [1.0] * 3, sweeps.TWO: [1.0] * 3}
    small = {sweeps.BATCHED: [0.5] * 3, sweeps.SINGLY: [together / 2] * 3, sweeps.LOOP: [together] * 3}
    found = {"overhead": {"cells": 10, "bytes": 6000, "cases": costs}, "memory": {"held": held}}
    found["cores"] = {"cells": 4, "d_model": 8, "trials": 1, "cores": 2, "seconds": slow}
    found["batches"] = {"cells": 16, "seconds": {"the gap": small}}
    return [{"labels": {"what": what}} | record for what, record in found.items()]


@pytest.mark.parametrize(
    "values, met",
    [
        ((1.9, 49, 1.71, 10.1), ["met"] * 6),
        ((2.1, 51, 1.69, 9.9), ["missed"] * 5 + ["met"]),
        ((2.1, None, 1.69, 4.9), ["missed", "", "", "missed", "missed", "missed"]),
    ],
)
def test_bars(tmp_path, values, met):
    """The loop's times are twice those of single cells, so that its bar may be met alone."""
    sweeps.render(fabricated(*values), tmp_path)
    with open(tmp_path / "sweeps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    judged = [row for row in rows if row["bar"]]
    assert [row["met"] for row in judged] == met
    assert float(judged[0]["measured"]) == pytest.approx(values[0])
    growth = "" if values[1] is None else str(float(values[1]))
    assert [row["measured"] for row in judged[1:3]] == [growth] * 2
    assert float(judged[3]["measured"]) == pytest.approx(values[2])
    assert [float(row["measured"]) for row in judged[4:]] == pytest.approx([values[3], 2 * values[3]])
    all_threads = next(row for row in rows if row["case"].endswith(sweeps.BOTH))
    assert (all_threads["measured"], all_threads["unit"]) == ("3.0", "times as fast (2.50 to 3.50)")


def test_the_record_that_is_kept(tmp_path):
    """What is short of its bar there is said to be so where the figures are told: all quantities of small cells."""
    sweeps.render(list(Records(sweeps.KEPT)), tmp_path)
    with open(tmp_path / "sweeps.csv", newline="") as file:
        judged = [row for row in csv.DictReader(file) if row["bar"]]
    assert [(row["what"], row["met"]) for row in judged if row["met"] != "met"] == [("512 small cells, all quantities", "missed")] * 2
    assert len(judged) == 9


def test_designs():
    assert len(sweeps.sharing(7)) == 7
    assert len({cell.d_model for cell in sweeps.sharing(7)}) == 1
    assert len({(cell.d_model, cell.d_ff) for cell in sweeps.apart(3)}) == 9
    many = sweeps.mixed(32)
    assert len(many) == 32
    assert {(cell.d_model, cell.d_ff, cell.n_experts, cell.top_k) for cell in many} == {(8, 16, 4, 2)}
    assert {cell.inputs.kind for cell in many} == set(sweeps.INPUTS)
    assert {cell.activation for cell in many} == set(sweeps.ACTIVATIONS)
    assert len({cell.router.temperature for cell in many}) == 2


def test_an_instant_answer_is_a_record_of_its_cell_and_its_time_is_kept(tmp_path):
    executor = sweeps.Instant(LIKE)
    cell = Cell(3, "0" * 15 + "a", sweeps.SMALL, RunSpec(trials=5, seed=9))
    own = {"cell": cell.key, "trials": 5, "seed": 9, "tokens": 1024, "dtype": "float32"}
    assert record_of(executor.line(cell)) == LIKE | own
    found = sweeps.overhead(sweeps.apart(2), LIKE, tmp_path)
    assert 0 < found["work"] < found["seconds"]
    keys = [record["cell"] for record in Records(tmp_path / "records.jsonl") if "session" not in record]
    assert sorted(keys) == sorted(cell.key() for cell in sweeps.apart(2))
    with pytest.raises(ValueError, match="0 of 4 cells were done"):
        sweeps.overhead(sweeps.apart(2), LIKE, tmp_path)


@pytest.mark.slow
def test_memory_in_a_process_of_its_own(tmp_path):
    found = sweeps.in_a_child(20, LIKE, tmp_path)
    assert set(found) == {"end", "peak"}
    assert all(size is None or 0 <= size < 1 << 30 for size in found.values())
    assert list(tmp_path.iterdir()) == []


def test_ways_are_what_they_are_called(tmp_path, monkeypatch):
    """Threads of the one worker, and cells of a unit, as the ways give them."""
    seen = []
    monkeypatch.setattr(engines, "cores", lambda: 4)
    monkeypatch.setattr(sweeps, "sweep", lambda cells, **how: seen.append((how["engine"], how["workers"], engines.cores())))
    for way in sweeps.ways_to_use_cores(sweeps.apart(2), 1, 0).values():
        way(tmp_path)
    assert seen == [("local", 1, 1), ("local", 2, 4), ("local", 1, 4), ("inprocess", None, 4)]
    monkeypatch.undo()
    sizes, task = [], Runner._task
    monkeypatch.setattr(Runner, "_task", lambda self, unit: sizes.append(len(unit.cells)) or task(self, unit))
    most, counts = plan.MOST_TOGETHER, []
    monkeypatch.setattr(sweeps, "calibrate", lambda measured, predicted: counts.append(len(list(calibrate(measured, predicted).items()))))
    for asked, quantities in sweeps.QUANTITIES.items():
        ways = sweeps.ways_to_batch(sweeps.mixed(16), 0, quantities)
        for name in (sweeps.BATCHED, sweeps.SINGLY, sweeps.LOOP):
            ways[name](tmp_path / asked / name)
        assert sizes == [16] + [1] * 16
        assert len(collect(tmp_path / asked / sweeps.SINGLY)) == sum(counts)
        sizes.clear()
        counts.clear()
    assert most == plan.MOST_TOGETHER


def test_every_way_has_its_turn_at_the_start(tmp_path):
    order = []
    ways = {name: lambda folder, name=name: order.append((name, folder.parent)) for name in "abc"}
    times = sweeps.in_turn(ways, 3, tmp_path, lambda: order.append("-"))
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("abc", 3)
    assert "".join(turn[0] for turn in order) == "a-b-c-b-c-a-c-a-b-"
    assert len({turn[1] for turn in order[::2]}) == 9
    assert list(tmp_path.iterdir()) == []

"""The theory figures: every artefact writes whole files, its simulated points lie on the laws, and a law that is moved loses them."""

import csv
import math
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")


from experiments.__main__ import artefacts
from experiments.benchmarks import dual_map as benchmark
from experiments.cells import Bench, Cell
from experiments.theory import gram_flow, threshold
from experiments.theory.points import ROUND_OFF, Point, own_seed
from simgap import LayerSpec, RunSpec
from simgap.records import Records
from simgap.stats import Estimate

NAMES = ("dual_maps", "norm_maps", "threshold", "null_laws", "spaces", "independence", "futility", "gram_flow", "finite_width")
# A clean commit, so that what is recorded is found again.
ORIGIN = {"commit": "abc", "dirty": False, "versions": {}, "canary": "x"}


def bench(out, name) -> Bench:
    return Bench(out, name, quiet=True, origin=ORIGIN)


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick_figures):
    """Every artefact's smoke preset, once: folder, records and what render returned."""
    out = tmp_path_factory.mktemp("theory")
    modules = artefacts()["theory"]
    done = {}
    for name in NAMES:
        records = modules[name].compute("smoke", bench(out, name))
        done[name] = records, modules[name].points(records), modules[name].render(records, out)
    return out, modules, done


def test_every_artefact_is_listed():
    assert set(artefacts()["theory"]) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_files(made, name):
    out, _, done = made
    records, points, paths = done[name]
    assert {path.name for path in paths} == {f"{name}.{ending}" for ending in ("md", "csv", "png", "pdf")}
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
    computed, swept = [r for r in records if "key" in r], [r for r in records if "key" not in r]
    assert list(Records(out / f"{name}.jsonl")) == computed
    assert all(record["provenance"] == ORIGIN for record in computed)
    assert (out / name).exists() == bool(swept)
    with open(out / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["simulated"]) for row in rows] == [point.mean for point in points]


@pytest.mark.parametrize("name", NAMES)
def test_the_law_meets_the_simulation(made, name):
    """Five standard errors at every point; the twins, every law 30% off, are refused."""
    points = made[2][name][1]
    assert max(abs(point.z) for point in points) < 5
    random = [point for point in points if point.sem > ROUND_OFF]
    assert sum(point.z**2 for point in random) < len(random) + 5 * math.sqrt(3 * len(random))
    for factor in (0.7, 1.3):
        moved = [replace(point, law=factor * point.law) for point in random]
        assert max(abs(point.z) for point in moved) > 5


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_not_done_again(made, name):
    out, modules, done = made
    before = recorded(out)
    assert modules[name].compute("smoke", bench(out, name)) == done[name][0]
    assert recorded(out) == before


def recorded(out) -> dict:
    return {path: path.read_bytes() for path in out.rglob("*.jsonl")}


def test_rendering_reads_nothing_but_records(made, tmp_path):
    """The records read back from disk give the same bytes in another folder."""
    out, modules, _ = made
    for path in modules["futility"].render(list(Records(out / "futility.jsonl")), tmp_path):
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_a_points_distance_from_its_law():
    random, exact = Estimate.of(np.array([0.9, 1.1])), Estimate.of(np.array([0.5, 0.5]))
    assert Point("a", 1, 0.8, random).z == pytest.approx(2)
    assert [Point("a", 1, law, exact).z for law in (0.5, 0.5 + 1e-13, 0.5001)] == [0, 0, math.inf]
    with pytest.raises(ValueError, match="a at 1: no trial"):
        _ = Point("a", 1, 0.5, Estimate.of(np.array([math.nan]))).mean


def test_mirror_images_leave_only_what_the_crossing_is_about():
    """Their second moments are isotropic, exactly, whatever the eight points came from."""
    u, w = threshold._mirrored(np.array([0.3]), np.array([1.7]))
    assert len(set(zip(u, w, strict=True))) == 8
    assert (u * w).sum() == pytest.approx(0, abs=1e-15)
    assert (u * u).sum() == pytest.approx((w * w).sum())
    assert u.sum() == w.sum() == 0


def test_descent_ends_where_the_flow_does(made):
    """Within 1/STEPS, the order of a descent's error; and it went somewhere."""
    record = made[2]["gram_flow"][0][0]
    start, end = (np.array(record["values"][f"t {t:g}"]) for t in (gram_flow.TIMES[0], gram_flow.TIMES[-1]))
    assert gram_flow.singular_error(record) < 1 / gram_flow.STEPS
    assert np.abs(end - 1).max() < 0.1 * np.abs(start - 1).max()


def test_cells_of_one_layer_draw_apart():
    spec = LayerSpec(d_model=2, d_ff=3)
    seeds = {own_seed(Cell({"std": std}, spec, 1, threshold.crossings), RunSpec(seed=seed)) for std in (1.0, 2.0) for seed in (0, 1)}
    assert len(seeds) == 4


def test_the_benchmark_of_the_dual_map(monkeypatch, tmp_path):
    """A small one: the routes agree, each within its own error, and the table says what was measured and what was computed."""
    small = {"GRID": 20, "STDS": (0.5, 2.0), "SCATTERED": 20, "PAIRS": {"smoke": 2}, "PAIR_STDS": (0.3, 0.8), "DRAWS": 1 << 14}
    for name, value in small.items():
        monkeypatch.setattr(benchmark, name, value)
    records = benchmark.compute("smoke", bench(tmp_path, "dual_map"))
    for row in records[0]["pairs"]:
        assert row["ours"] == pytest.approx(row["plain"]["value"], abs=benchmark.PROMISED)
        assert row["ours"] == pytest.approx(row["dblquad"]["value"], abs=1e-6)
        assert abs(row["ours"] - row["monte_carlo"]["value"]) < 5 * row["monte_carlo"]["reported"]
        assert abs(row["ours"] - row["certified"][0]) < row["certified"][1] + benchmark.PROMISED
    paths = benchmark.render(records, tmp_path)
    assert [path.name for path in paths] == [f"dual_map.{ending}" for ending in ("md", "csv", "png", "pdf")]
    with open(tmp_path / "dual_map.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["how known"].partition(":")[0] for row in rows] == ["measured"] * 7 + ["computed"] * 2
    draws = float(rows[-1]["how known"].split()[1])
    sem = math.sqrt(np.mean([row["monte_carlo"]["reported"] ** 2 for row in records[0]["pairs"]]))
    assert draws == pytest.approx(benchmark.DRAWS * (sem / benchmark.PROMISED) ** 2, rel=0.1)

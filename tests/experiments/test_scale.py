"""Table 2 carried on to a billion parameters: the smoke preset lies on the laws, moved laws lose it, and the fit of a power finds one."""

import csv
import math
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from experiments.__main__ import artefacts, main
from experiments.cells import Bench
from experiments.persistence import scale, table2
from simgap import RunSpec, calibrate, measure
from simgap.api.calibration import compare
from simgap.api.reported import FIVE_SIGMA
from simgap.nulls import Prediction
from simgap.stats import Estimate

# A clean commit, so that what is recorded is found again.
ORIGIN = {"commit": "abc", "dirty": False, "versions": {}, "canary": "x"}


def bench(out, name="scale") -> Bench:
    return Bench(out, name, quiet=True, origin=ORIGIN)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("scale")
    return out, scale.compute("smoke", bench(out))


def test_sizes_and_trials_are_fixed_beforehand():
    layers = [scale.layer(d) for d in scale.WIDTHS["full"]]
    assert [(spec.d_model, spec.parameters) for spec in (layers[0], layers[-1])] == [(32, 65_536), (4096, 1_073_741_824)]
    assert {(spec.d_ff / spec.d_model, spec.n_experts, spec.top_k, spec.activation) for spec in layers} == {(4.0, 8, 2, "relu")}
    assert [b.parameters / a.parameters for a, b in pairwise(layers)] == [4.0] * 7
    assert [scale.trials_for(spec.parameters) for spec in layers] == [10, 10, 10, 10, 5, 5, 3, 3]
    # The widest cannot be held in the budget that cells are measured under.
    assert 4 * layers[-1].parameters > RunSpec().memory_bytes


def test_from_end_to_end(capsys, tmp_path):
    assert "scale" in artefacts()["persistence"]
    assert main(["persistence", "scale", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    printed = {path.rpartition("/")[2] for path in capsys.readouterr().out.split()}
    assert printed == {f"scale{ending}" for ending in (".md", ".csv", "_1.csv", "_2.csv", ".png", ".pdf")}
    assert printed | {"scale"} == {path.name for path in tmp_path.iterdir()}
    with open(tmp_path / "scale.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["parameters"]) for row in rows[::4]] == [65_536, 262_144, 1_048_576]
    assert [row["published"] for row in rows[:5]] == ["0.00024", "0.0224", "", "0.0222", "6.27e-05"]
    assert all(abs(float(row["z"])) < 5 for row in rows)
    text = (tmp_path / "scale.md").read_text()
    assert "The widest, 1.049e+06 parameters: weight MSO" in text
    assert "holds for 0 of the 3 widths" in text


def test_the_laws_meet_the_simulation_and_moved_ones_do_not(made):
    """Every overlap halved, or 60% larger, is excluded at 5 sigma by the three widths together: of 280 pairs each has an error of 8%."""
    _, records = made
    assert all(corrected > FIVE_SIGMA for _, corrected in scale.joint(scale.points(records)).values())
    for factor in (0.5, 1.6):
        moved = [moved_by(factor, point) for point in scale.points(records)]
        assert all(p < FIVE_SIGMA for p, _ in scale.joint(moved).values())


def moved_by(factor: float, point: scale.Beside) -> scale.Beside:
    """The same with another overlap, calibrated as ever."""
    law = Prediction(point.law, point.sd, "exact", "exact", "")
    found = Estimate(factor * point.measured, point.sem, point.trials, 28 * point.trials)
    both = compare(found, law, overlap=point.quantity != scale.GAP)
    return replace(point, measured=found.mean, z=both.z, p=both.p)


def test_points_are_calibrated_as_a_gap_is(made):
    """Read back from a record, z and p are those of `calibrate` on the gap itself."""
    _, records = made
    spec, run = scale.layer(64), records[1]["run"]
    measured = measure(spec, **run, quantities=list(scale.QUANTITIES))
    judged = calibrate(measured)
    for point in scale.points(records)[4:8]:
        assert (point.measured, point.sem) == (measured[point.quantity].mean, measured[point.quantity].sem)
        assert (point.z, point.p) == (judged[point.quantity].z, judged[point.quantity].p)


def test_the_layers_are_table2s(made, tmp_path):
    _, records = made
    theirs = table2.compute("smoke", bench(tmp_path, "table2"))
    for ours, other in zip(records, theirs, strict=False):
        assert ours["spec"] == other["spec"]
        assert ours["values"]["weight_mso up"] == other["values"]["weight_mso up"]


def test_a_power_is_found_with_its_error(made):
    """Exactly on a law the power is the law's; a drift of P^0.001 is seen; the error is what noise of the law's spread makes it."""
    line = [point for point in scale.points(made[1]) if point.quantity == scale.WEIGHT]
    line = [replace(point, spec=scale.layer(d), measured=point.law) for point, d in zip(line, (32, 256, 2048), strict=True)]
    power, sem = scale.exponent(line)
    assert power == pytest.approx(-1, abs=1e-12)
    drifted = [replace(point, measured=point.law * point.parameters**0.001) for point in line]
    assert scale.exponent(drifted)[0] == pytest.approx(-0.999, abs=5e-5)
    noise = np.random.default_rng(0).standard_normal((2000, 3))
    found = [scale.exponent([replace(p, measured=p.law + n * p.sd) for p, n in zip(line, row, strict=True)])[0] for row in noise]
    assert abs(np.std(found) / sem - 1) < 5 / math.sqrt(2 * 2000)
    assert abs(np.mean(found) + 1) < 5 * sem / math.sqrt(2000)


def test_what_is_recorded_is_not_done_again_and_rendering_reads_nothing_else(made, tmp_path):
    out, records = made
    before = {path: path.read_bytes() for path in out.rglob("records.jsonl")}
    assert len(before) == 3
    again = scale.compute("smoke", bench(out))
    assert again == records
    assert {path: path.read_bytes() for path in out.rglob("records.jsonl")} == before
    first, again = scale.render(records, tmp_path / "a"), scale.render(again, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_a_quantity_that_no_trial_has_is_named(made):
    _, records = made
    row = {"mean": None, "why": "no trial has a pair of defined vectors"}
    empty = {name: {**found, **row} for name, found in records[0]["quantities"].items()}
    with pytest.raises(ValueError, match="weight_mso up at d_model = 32: no trial has a pair of defined vectors"):
        scale.points([records[0] | {"quantities": empty}])

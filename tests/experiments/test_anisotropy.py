"""The atlas of spaces that are not round: T5 holds and moved ones do not, 1/d fails where it should, and arrays are the sweep's own."""

import csv
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from experiments.__main__ import main
from experiments.cells import Bench
from experiments.sweeps import anisotropy, atlas
from experiments.sweeps.atlas_verdicts import FAILS, HOLDS, beside, verdicts
from simgap import LayerSpec, RunSpec
from simgap.api.calibration import compare
from simgap.nulls import Prediction
from simgap.specs import SpaceSpec
from simgap.stats import Estimate
from simgap.sweeps import Cells, sweep
from simgap.sweeps.file import read_file
from simgap.sweeps.plan import run_of

# Overlaps of so many pairs are known to a few percent.
SPACE = SpaceSpec(kind="powerlaw", alpha=1.0, outliers=2, scale=5.0, rotated=True)
SHARP = LayerSpec(d_model=16, d_ff=16, n_experts=48, top_k=4, space=SPACE)
RUN = {"tokens": 64, "trials": 20}


@pytest.fixture(scope="module")
def file():
    return read_file(anisotropy.FILE)


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick_figures):
    """The smoke preset from the command line, once."""
    out = tmp_path_factory.mktemp("anisotropy")
    assert main(["sweeps", "anisotropy", "--preset", "smoke", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def sharp(tmp_path_factory, file):
    """The sweep of one layer whose overlaps are known well, and its record."""
    cells = Cells.of([SHARP])
    run = sweep(cells, quantities=file.selection.texts, **RUN, out=tmp_path_factory.mktemp("sharp"), engine="inprocess")
    return run, atlas.swept(run.path, cells)[0]


def test_the_file_has_every_combination(file):
    spaces = {spec.space for spec in file.cells}
    assert len(file.cells) == len(spaces) * 6 == 240
    assert {(s.scale, s.alpha) for s in spaces} == {(x, y) for x in (1.0, 3.0, 10.0, 30.0, 100.0) for y in (0.0, 0.5, 1.0, 1.5)}
    assert {(spec.n_experts, spec.top_k) for spec in file.cells} == {(e, k) for e in (8, 16, 64) for k in (2, 4)}
    assert file.cells.left_out == ()


def test_from_end_to_end(made):
    names = {path.name for path in made.iterdir()}
    tables = {"anisotropy.md", *(f"anisotropy{n}.csv" for n in ("", "_1", "_2"))}
    assert names == tables | {"anisotropy", "anisotropy.jsonl", "anisotropy_map.png", "anisotropy_map.pdf"}
    with open(made / "anisotropy.csv", newline="") as read:
        rows = list(csv.DictReader(read))
    exact, twin = ([row for row in rows if row["held against"] == name] for name in ("T5", "a round space"))
    assert len(exact) == len(twin) == 3
    assert {row[FAILS] for row in exact} == {"0"}
    assert all(int(row[FAILS]) >= 8 for row in twin)


def test_what_is_recorded_is_not_done_again_and_rendering_reads_nothing_else(made, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in made.rglob("records.jsonl")}
    records = anisotropy.compute("smoke", Bench(made, "anisotropy", quiet=True))
    assert {path: path.read_bytes() for path in made.rglob("records.jsonl")} == before
    monkeypatch.setattr(anisotropy, "draw_maps", lambda *arguments: [])
    for path in anisotropy.render(records, tmp_path):
        assert path.read_bytes() == (made / path.name).read_bytes()


def test_t5_holds_and_other_laws_fail(sharp):
    """T5 moved by a tenth either way is refused for every quantity, and so is 1/d."""
    record = sharp[1]
    exact = verdicts(list(beside(record)))
    assert [point.law_id for point in exact] == ["T5"] * 3
    assert {point.verdict for point in exact} == {HOLDS}
    assert {point.verdict for point in verdicts(list(anisotropy.round_twin(record)))} == {FAILS}
    for factor in (0.8, 1.25):
        assert {point.verdict for point in verdicts([moved(point, factor, record) for point in exact])} == {FAILS}


def moved(point, factor, record):
    row = record["quantities"][point.quantity]
    law = Prediction(factor * point.law, point.sd, point.kind, point.sd_kind, "T5")
    both = compare(Estimate(row["mean"], row["sem"], row["n"], row["pairs"]), law, overlap=True, experts=SHARP.n_experts)
    return replace(point, law=law.mean, z=both.z, z_unit=both.z_unit, p=both.p)


def test_a_round_space_is_its_own_twin(tmp_path, file):
    cells = Cells.of([replace(SHARP, space=SpaceSpec(kind="powerlaw", alpha=0.0))])
    run = sweep(cells, quantities=file.selection.texts, **RUN, out=tmp_path, engine="inprocess")
    (record,) = atlas.swept(run.path, cells)
    for point, twin in zip(beside(record), anisotropy.round_twin(record), strict=True):
        assert twin.law == pytest.approx(point.law, rel=1e-9)
        assert twin.verdict == point.verdict


def test_arrays_are_those_of_the_sweeps_first_trial(sharp):
    run, record = sharp
    held = anisotropy.held(SHARP, run_of(RunSpec(tokens=RUN["tokens"], trials=1), record["cell"]))
    (gap,) = run.measured()
    mean = gap["activation_mso token output"].values[0]
    excess, _, p = held[anisotropy.SIGNS]
    # Turned directions are seen by signs of coordinates, and other tokens have them as well.
    assert p < 1e-10
    assert held[anisotropy.OTHER][0][2] > 1e-4
    assert excess > 1.5
    assert np.isclose(held["mean"], mean, rtol=1e-5)

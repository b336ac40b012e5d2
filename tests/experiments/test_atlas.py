"""The atlas: its cells are those promised, its smoke preset runs from end to end, and its verdicts refuse laws that are moved."""

import csv
import math
from dataclasses import replace
from typing import get_args

import matplotlib as mpl
import numpy as np
import pytest
from scipy.special import ndtri

mpl.use("Agg")

from experiments.__main__ import artefacts, main
from experiments.cells import Bench
from experiments.sweeps import anisotropy, atlas
from experiments.sweeps.atlas_figures import KINDS, WIDTHS, normal_panels, off_axes, order_panels, spread_out
from experiments.sweeps.atlas_verdicts import (
    FAILS,
    HOLDS,
    IN_DOUBT,
    LEADING,
    NO_LAW,
    NOT_RESOLVED,
    SPREAD_OFF,
    Judged,
    judge,
    order_size,
    stated_orders,
    verdicts,
)
from simgap import LayerSpec, RunSpec
from simgap.api.calibration import compare
from simgap.api.reported import FIVE_SIGMA
from simgap.nulls import Prediction
from simgap.specs import ACTIVATIONS, INITS, NORMS, InputKind, RouterKind
from simgap.stats import Estimate, normal_p
from simgap.sweeps import Cells, sweep
from simgap.sweeps.fields import NAMES
from simgap.sweeps.file import read_file

# Many pairs in few numbers: every overlap to about a percent. The second has a law to leading order for its mean hidden vectors.
SHARP = LayerSpec(d_model=16, d_ff=32, n_experts=48, top_k=8, activation="tanh", router="uniform")
RUN = {"tokens": 128, "trials": 20}


@pytest.fixture(scope="module")
def file():
    return read_file(atlas.FILE)


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick_figures):
    """The smoke preset from the command line, once."""
    out = tmp_path_factory.mktemp("atlas")
    assert main(["sweeps", "atlas", "--preset", "smoke", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def sharp(tmp_path_factory, file):
    """The record of one layer whose overlaps are known well."""
    out = tmp_path_factory.mktemp("sharp")
    cells = Cells.of([SHARP])
    sweep(cells, quantities=file.selection.texts, **RUN, out=out)
    return atlas.swept(out, cells)


def test_the_file_has_every_axis_and_300_layers_off_them(file):
    cells = list(file.cells)
    assert file.cells.left_out == ()
    off = [spec for spec in cells if off_axes(spec)]
    assert len(off) == 300
    assert (sum(s.router.kind == "soft" for s in off), sum(s.norm_affine != "none" for s in off)) == (40, 70)
    on = [spec for spec in cells if spec not in off]
    around = (128, 512, 8, 2)
    assert all(
        sum(a != b for a, b in zip((s.d_model, s.d_ff, s.n_experts, s.top_k), around, strict=True)) <= 1 + (s.n_experts == 64) for s in on
    )
    assert {s.top_k for s in on} >= {1, 2, 4, 8, 16, 32}
    for name, options in (("activation", ACTIVATIONS), ("norm", NORMS), ("init", INITS), ("gated", (False, True))):
        for part in (on, off):
            assert {getattr(s, name) for s in part} == set(options), name
    for part in (on, off):
        assert {s.router.kind for s in part} == set(get_args(RouterKind))
        assert {s.inputs.kind for s in part} == set(get_args(InputKind)) - {"file"}


@pytest.mark.parametrize(("name", "low", "high"), [("d_model", 16, 8192), ("d_ff", 16, 32768), ("n_experts", 2, 256), ("top_k", 1, 32)])
def test_the_ranges_are_covered(file, name, low, high):
    """To the ends by the axis, evenly over ratios by the others: a quarter of them in each quarter, to five standard deviations."""
    values = [getattr(s, name) for s in file.cells]
    assert (min(values), max(values)) == (low, high)
    shares = np.array([math.log(getattr(s, name) / low) / math.log(high / low) for s in file.cells if off_axes(s)])
    assert shares.min() < 0.02
    assert shares.max() > 0.95
    if name in ("d_model", "d_ff"):
        assert np.abs(np.histogram(shares, 4, (0, 1))[0] - 75).max() < 5 * math.sqrt(75)


def test_what_two_cores_are_asked_for(file):
    """Every layer of up to a billion parameters fits the file's memory; the others are left out by name. With all of them, only what
    cannot be streamed is."""
    cells, left_out = atlas.chosen(file, "cpu")
    assert len(cells) + len(left_out) == len(file.cells)
    assert all("more than 1e+09" in cell.why for cell in left_out)
    assert {spec.key() for spec in cells} == {s.key() for s in file.cells if s.parameters <= 1e9}
    every, unheld = atlas.chosen(file, "full")
    assert len(every) + len(unheld) == len(file.cells)
    assert all("init = orthogonal" in cell.name and "not streamed" in cell.why for cell in unheld)
    assert max(spec.parameters for spec in every) > 1e10


def test_not_every_pair_is_compared_on_every_token(file):
    """With 256 experts that reading alone would take most of the time."""
    assert {q.reading for q in file.selection.asked} == {"", "mean", "token"}


def test_trials_are_fixed_by_size(file):
    parts = atlas.by_size(file.cells)
    assert [(most, trials) for most, trials, _ in parts] == [(1e7, 30), (1e8, 10), (1e9, 3), (math.inf, 3)]
    assert sum(len(part) for *_, part in parts) == len(file.cells)
    for (most, _, part), least in zip(parts, (0, 1e7, 1e8, 1e9), strict=True):
        assert all(least < spec.parameters <= most for spec in part)


def test_every_order_that_a_law_states_has_a_size(file):
    """Of every seventh layer; those of one kind state the same."""
    seen, run = set(), RunSpec(tokens=512, trials=3)
    for spec in list(file.cells)[::7]:
        for order in stated_orders(spec, run, file.selection.texts).values():
            if order:
                seen.add(order.partition(",")[0])
                assert 0 < order_size(order, spec, run) < math.inf
    assert len(seen) > 5


def test_sizes_of_orders():
    spec, run = LayerSpec(d_model=10, d_ff=20, n_experts=4), RunSpec(trials=5)
    assert order_size("O(1/d_model + 1/d_ff)", spec, run) == pytest.approx(0.15)
    assert order_size("O(1/(d_model*d_ff)^2)", spec, run) == pytest.approx(1 / 40_000)
    assert order_size("O(d_ff/(pairs*trials))", spec, run) == pytest.approx(20 / 30)
    text = "O(1/D^2 + 1/d_ff^2), D = 4 the effective dimension of the tokens' norms"
    assert order_size(text, spec, run) == pytest.approx(1 / 16 + 1 / 400)
    with pytest.raises(ValueError, match="order: '1/n_experts' of 'O\\(1/n_experts\\)' is none of"):
        order_size("O(1/n_experts)", spec, run)


def test_from_end_to_end(made):
    names = {path.name for path in made.iterdir()}
    tables = {"atlas.md", "atlas.csv", "atlas_cells.csv", *(f"atlas_{n}.csv" for n in range(1, 6))}
    figures = {f"atlas_{name}.{ending}" for name in ("axes", "kinds", "normal", "orders") for ending in ("png", "pdf")}
    assert names == tables | figures | {"atlas"}
    with open(made / "atlas_cells.csv", newline="") as read:
        rows = list(csv.DictReader(read))
    assert len({tuple(row[name] for name in NAMES) for row in rows}) == atlas.SMOKE_CELLS
    assert not [row for row in rows if row["verdict"] in (FAILS, IN_DOUBT)]
    with open(made / "atlas.csv", newline="") as read:
        counted = list(csv.DictReader(read))
    assert sum(int(row[HOLDS]) for row in counted) == sum(row["verdict"] == HOLDS for row in rows) > len(rows) / 2
    text = (made / "atlas.md").read_text()
    assert f"{atlas.SMOKE_CELLS} layers of " in text
    assert "Nothing: no law fails, none is in doubt, no spread is off." in text


def test_what_is_recorded_is_not_done_again_and_rendering_reads_nothing_else(made, tmp_path, monkeypatch):
    before = (made / "atlas" / "smoke" / "records.jsonl").read_bytes()
    records = atlas.compute("smoke", Bench(made, "atlas", quiet=True))
    assert (made / "atlas" / "smoke" / "records.jsonl").read_bytes() == before
    # The same figures of the same points would only be drawn again.
    monkeypatch.setattr(atlas, "draw_all", lambda found, out: [])
    for path in atlas.render(records, tmp_path):
        assert path.read_bytes() == (made / path.name).read_bytes()


def test_presets_are_an_artefacts_own(capsys, tmp_path):
    assert artefacts()["sweeps"] == {"atlas": atlas, "anisotropy": anisotropy}
    with pytest.raises(SystemExit, match="2"):
        main(["theory", "futility", "--preset", "cpu", "--out", str(tmp_path)])
    assert "futility has no preset 'cpu'; it has smoke, full" in capsys.readouterr().err


POINT = Judged("cell", LayerSpec(), "gap", 30, 1.0, 0.01, "N3", 1.0, 0.01, "exact", "exact", 0.0, "null sd", 1.0)


def moved(z: float, **changes) -> Judged:
    """A point z errors of 1% above its law of 1."""
    return replace(POINT, measured=1 + 0.01 * z, z=z, p=normal_p(z), **changes)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (moved(2.4), HOLDS),
        (moved(-2.4), HOLDS),
        (moved(2.7), IN_DOUBT),
        (moved(-4.9), IN_DOUBT),
        (moved(5.1), FAILS),
        (moved(-5.1), FAILS),
        (replace(POINT, law=None, p=None, z=None), NO_LAW),
        # Five errors are more than the law itself: it agrees, and so would many others.
        (replace(POINT, measured=1.4, sd=0.21, z=0.4 / 0.21, p=normal_p(0.4 / 0.21)), NOT_RESOLVED),
        (replace(POINT, p=None, z=None, sd=None), NOT_RESOLVED),
        # The trials scatter five times as much as the law says.
        (moved(5.1, sd_kind="leading", sem=0.05), SPREAD_OFF),
        (moved(5.1, sd_kind="leading", sem=0.01), FAILS),
        # A spread that is exact cannot be off.
        (moved(5.1, sem=0.05), FAILS),
        (moved(4.9, kind="leading", order=1e-9), HOLDS),
        (moved(20, kind="leading", order=0.016), LEADING),
        (moved(-20, kind="leading", order=0.016), LEADING),
        (moved(20, kind="leading", order=0.014), FAILS),
        # An order of more than the law excuses no more than half of it.
        (moved(54, kind="leading", order=5.0), LEADING),
        (moved(56, kind="leading", order=5.0), FAILS),
    ],
)
def test_rules(point, expected):
    assert verdicts([point])[0].verdict == expected


def test_correction_is_over_all_points():
    """Five sigma alone is refused, among a thousand it is in doubt."""
    assert verdicts([moved(5.1)])[0].corrected == pytest.approx(normal_p(5.1))
    among = verdicts([moved(5.1), *[POINT] * 999])[0]
    assert among.corrected == pytest.approx(1000 * normal_p(5.1))
    assert among.corrected > FIVE_SIGMA
    assert among.verdict == IN_DOUBT


def test_laws_hold_and_moved_ones_fail(sharp):
    """Every law of a sharply measured layer holds; with its constant a third off, every exact one fails."""
    found = judge(sharp)
    exact = [point for point in found if point.kind == "exact"]
    assert {point.quantity for point in exact} >= {"weight_mso up", "activation_mso mean output", "activation_mso token output", "gap"}
    assert {point.verdict for point in found if point.law is not None} == {HOLDS}
    for factor in (0.7, 1.3):
        off = judge([_with_moved_laws(record, factor) for record in sharp])
        assert {point.verdict for point in off if point.kind == "exact"} == {FAILS}
        assert len([point for point in off if point.kind == "exact"]) == len(exact)


def _with_moved_laws(record: dict, factor: float) -> dict:
    """The record of the same measurements beside laws with another constant, calibrated as ever."""
    rows = {}
    for quantity, row in record["quantities"].items():
        if row["mean"] is not None and row["predicted_mean"] is not None:
            law = Prediction(
                factor * row["predicted_mean"], row["predicted_sd"], row["predicted_kind"], row["predicted_sd_kind"], row["law"]
            )
            both = compare(Estimate(row["mean"], row["sem"], row["n"], row["pairs"]), law, overlap=quantity not in ("gap", "ratio"))
            row = row | {"predicted_mean": law.mean, "z": both.z, "z_unit": both.z_unit, "p": both.p}
        rows[quantity] = row
    return record | {"quantities": rows}


def test_z_of_the_same_p():
    assert moved(3.0).normal == pytest.approx(3)
    assert moved(-0.5).normal == pytest.approx(-0.5)
    assert replace(POINT, z=2.0, p=0.0).normal > 30


def test_z_statistics_count_what_is_beyond():
    points = [moved(z) for z in (0.1, -2.5, 3.5, 6.0)]
    row = atlas.z_table(verdicts(points)).rows[0]
    assert row[:3] == ["gap", "law, exact", 4]
    assert row[5:11:2] == [3, 2, 1]
    assert row[6] == pytest.approx(4 * 0.0455, rel=1e-3)
    assert row[11] == pytest.approx(6)


def test_figures_take_the_layers_they_name(file):
    """Each axis of the figures has all its layers in the file, and the layers off the axes are the 300."""
    specs = list(file.cells)
    sizes = {name: sum(s == replace(base, **{name.partition(",")[0]: at(s)}) for s in specs) for name, (base, at) in WIDTHS.items()}
    assert sizes == {"d_model": 10, "d_ff": 12, "n_experts": 8, "top_k, 64 experts": 6}
    kinds = {name: sum(s == on(s) for s in specs) for name, (_, on, _) in KINDS.items()}
    assert kinds == {"activation": 7, "gated activation": 7, "router": 7, "norm": 7, "init": 6, "inputs": 5}
    assert len(spread_out([replace(POINT, spec=spec) for spec in specs])) == 300


def test_panels_of_constructed_points():
    off = LayerSpec(d_model=64, d_ff=64)
    points = [moved(1.0, spec=off), moved(-1.0, spec=off, sd_kind="leading"), moved(0.2, spec=off), moved(3.0)]
    panels = normal_panels([replace(point, quantity="weight_mso up") for point in points])
    assert [panel.title for panel in panels] == ["weight MSO (W_up): 3 layers"]
    assert [series.y for series in panels[0].ours] == [pytest.approx([0.2, 1]), pytest.approx([-1]), []]
    assert panels[0].ours[0].x == pytest.approx([0, -ndtri(1 / 6)])
    leading = order_panels(verdicts([moved(20, kind="leading", order=0.016), moved(0.5, kind="leading", order=0.016)]))
    assert {series.label: series.y for series in leading[0].ours if series.y} == {
        HOLDS: [pytest.approx(0.005)],
        LEADING: [pytest.approx(0.2)],
    }


def test_a_sharp_layer_is_measured_as_the_atlas_measures(sharp):
    assert [record["name"] for record in sharp] == ["the base layer"]
    assert RunSpec(**RUN).tokens == sharp[0]["tokens"]
    assert "sums" not in sharp[0]

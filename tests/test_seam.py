"""A metric is a file, and a null another: whoever adds them edits nothing else."""

import importlib
import json
import sys
import textwrap

import numpy as np
import pytest

import simgap as sg
import simgap.metrics
import simgap.nulls
from simgap import selection
from simgap.api.plan import plan_of
from simgap.cli import main

TOY = '''
"""The largest first entry of an output: a toy."""

import numpy as np

from simgap.quantities import ROUTED, Quantity
from simgap.sources import Needs
from simgap.sums import Values

ORDER, DEFAULT, SIDES, RANGE = 99, False, (ROUTED,), (0.0, 1e30)
QUANTITIES = (Quantity("toy", "largest", "output"), Quantity("toy", "tokens"))


def missing(spec, quantity):
    return ""


def needs(spec, asked):
    return Needs(sites=("output",), bytes=8)


class State:
    def __init__(self, source, asked):
        self.asked, self.largest, self.tokens = asked, np.zeros(len(source.trials)), 0

    def add(self, block):
        rows = block.rows["output"][:, :, 0].double().numpy()
        self.largest = np.maximum(self.largest, np.where(block.owner.numpy() >= 0, rows, 0).max(1))
        self.tokens += block.x.shape[1]

    def finish(self):
        values = {QUANTITIES[0]: self.largest, QUANTITIES[1]: np.full(len(self.largest), float(self.tokens))}
        return {quantity: Values.of(values[quantity]) for quantity in self.asked}


def start(source, asked, work):
    return State(source, asked)
'''
NULL = """
from simgap.nulls.prediction import Prediction


def null(spec, run, quantity):
    if quantity.reading != "tokens":
        return Prediction.missing("no law: a toy")
    return Prediction(float(run.tokens), None, "exact", None, "toy")


def of_arrays(source, quantity, work):
    return Prediction(float(source.tokens), None, "exact", None, "toy")
"""
SPEC = sg.LayerSpec(d_model=4, d_ff=6, n_experts=3, top_k=2)


def forget():
    for cached in (selection.metrics, selection.metric_of, selection.ranges, selection._selection, selection._begun_by):
        cached.cache_clear()
    for cached in (selection.by_metric, selection.needs_of, plan_of, simgap.nulls._null_file):
        cached.cache_clear()
    for name in ("simgap.metrics.toy", "simgap.nulls.toy"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder of metrics and one of nulls beside the package's own, each with one file more; what writes the null's."""
    for package, name in ((simgap.metrics, "metrics"), (simgap.nulls, "nulls")):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    (tmp_path / "metrics" / "toy.py").write_text(TOY)
    forget()
    yield lambda: ((tmp_path / "nulls" / "toy.py").write_text(NULL), forget())
    monkeypatch.undo()
    forget()


def test_a_metric_without_a_null_has_no_law(toy):
    m, p = (f(SPEC, tokens=50, trials=2, metrics="toy") for f in (sg.measure, sg.predict))
    assert m["toy tokens"].mean == 50
    assert m["toy largest output"].mean > 0
    assert {value.why for value in p.values.values()} == {"no law"}
    assert all((one.null, one.z, one.p) == (None, None, None) for one in sg.calibrate(m, p).values.values())


def test_it_is_found_everywhere(toy, tmp_path, capsys):
    toy()
    m, p = (f(SPEC, tokens=50, trials=2, metrics=["gap", "toy"]) for f in (sg.measure, sg.predict))
    assert [str(quantity) for quantity in m.values] == ["gap", "ratio", "toy largest output", "toy tokens"]
    assert sg.calibrate(m, p)["toy tokens"].excess == 1
    assert sg.measure(SPEC, tokens=50, trials=2, quantities="toy largest")["toy largest output"] == m["toy largest output"]
    # Held and streamed.
    wide = sg.LayerSpec(d_model=40, d_ff=2100, n_experts=3, top_k=2)
    streamed = sg.measure(wide, tokens=1100, trials=1, metrics="toy", memory="6MiB")
    assert streamed["toy largest output"] == sg.measure(wide, tokens=1100, trials=1, metrics="toy")["toy largest output"]
    # The command, in a table and in JSON.
    flags = ["--d-model", "4", "--d-ff", "6", "--n-experts", "3", "--tokens", "50", "--trials", "2", "--metrics", "toy"]
    assert main(["measure", *flags]) == 0
    assert "toy largest output" in capsys.readouterr().out
    assert main(["measure", *flags, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["quantities"]["toy tokens"]
    assert (row["mean"], row["predicted_mean"], row["law"]) == (50, 50, "toy")
    # A sweep in this process, by Python and by a file, grown by a trial, and its frame.
    first = sg.sweep([SPEC], metrics="toy", tokens=50, trials=2, out=tmp_path / "a", engine="inprocess", progress=False)
    assert first.frame()["quantity"].tolist() == ["toy largest output", "toy tokens"]
    sg.sweep([SPEC], metrics="toy", tokens=50, trials=3, out=tmp_path / "a", engine="inprocess", progress=False)
    (tmp_path / "s.toml").write_text(
        textwrap.dedent("""
        tokens = 50
        trials = 3
        quantities = ["toy tokens", "toy largest"]
        [layer]
        d_model = 4
        d_ff = 6
        n_experts = 3
        [[design]]
        [design.axes]
        top_k = [2]
        """)
    )
    assert main(["sweep", str(tmp_path / "s.toml"), "--out", str(tmp_path / "b"), "--engine", "inprocess", "--json"]) == 0
    grown, by_file = (sg.collect(tmp_path / name) for name in "ab")
    assert grown["mean"].tolist() == by_file["mean"].tolist()
    assert grown["n"].tolist() == [3, 3]


def test_it_reaches_a_users_own_arrays(toy):
    h, routing = np.ones((50, 2, 4)), np.tile([0, 1], (50, 1))
    before = sg.measure_arrays(h, routing, metrics="toy")
    assert [(str(q), one.mean, one.null, one.why) for q, one in before.values.items()] == [
        ("toy largest output", 1, None, "no law"),
        ("toy tokens", 50, None, "no law"),
    ]
    toy()
    assert sg.measure_arrays(h, routing, metrics="toy")["toy tokens"].excess == 1


def test_a_metric_that_does_not_exist_is_not_found():
    with pytest.raises(ValueError, match=r"metrics: expected some of .*, got 'toy'"):
        sg.measure(SPEC, metrics="toy")

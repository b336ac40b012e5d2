"""What a worker records of cells that it does together is what measure, predict and calibrate say of each alone."""

import json

import numpy as np
import pytest
from scipy.stats import norm

import simgap as sg
from simgap.selection import select
from simgap.sweeps import worker
from simgap.sweeps.plan import run_of
from simgap.sweeps.worker import Cell, Task, compute

# As many pairs with the shared expert as without it: only what they are pairs of tells them apart.
BASE = {"d_model": 6, "d_ff": 9, "n_experts": 3, "top_k": 2, "n_shared_experts": 1, "norm": "layernorm", "norm_affine": "shared"}
# Of one program: read alike by the laws but for the temperature of a noisy router; experts without tokens; and where no law is.
SPECS = [
    sg.LayerSpec(**BASE),
    sg.LayerSpec(**BASE, router=sg.RouterSpec(temperature=0.5)),
    sg.LayerSpec(**BASE, router=sg.RouterSpec("noisy", temperature=0.5)),
    sg.LayerSpec(**BASE, router=sg.RouterSpec("noisy", temperature=2.0)),
    sg.LayerSpec(**BASE, router=sg.RouterSpec("expert_choice", capacity=0.3), activation="relu"),
    sg.LayerSpec(**BASE, init="upcycled"),
    sg.LayerSpec(**BASE, init="xavier_uniform", inputs=sg.InputSpec(mean=30.0)),
]
OURS = {"n": "trials"} | {name: name for name in ("mean", "sem", "pairs", "dropped")}
LAWS = {f"predicted_{name}": name for name in ("mean", "sd", "error", "kind", "sd_kind")} | {"law": "law"}
BOTH = {name: name for name in ("excess", "scaled_excess", "z", "z_unit", "p", "effective_dimension")}


def cells(trials=2, specs=SPECS):
    run = sg.RunSpec(tokens=5, trials=trials, seed=3)
    return tuple(Cell(at, spec.key(), spec, run_of(run, spec.key())) for at, spec in enumerate(specs))


def expected(cell, wanted):
    """The rows of a cell, and the largest |z| against an exact law."""
    measured = sg.measure(cell.spec, **cell.run.to_dict(), quantities=wanted.texts)
    predicted = sg.predict(cell.spec, tokens=cell.run.tokens, trials=cell.run.trials, quantities=wanted.texts)
    both = sg.calibrate(measured, predicted)
    rows, worst = {}, [0.0]
    for quantity in wanted.sides(cell.spec):
        ours, law, judged = measured[quantity], predicted[quantity], both[quantity]
        row = {name: getattr(ours, field) for name, field in OURS.items()}
        row |= {name: getattr(law, field) for name, field in LAWS.items()}
        row |= {name: getattr(judged, field) for name, field in BOTH.items()}
        rows[str(quantity)] = row | {"why": ours.why or law.why or judged.why}
        if law.kind == "exact" and judged.z_unit == "null sd":
            worst.append(float(norm.isf(judged.p / 2)))
    return rows, max(worst), measured.routing


@pytest.mark.parametrize("texts", [None, ["gap"], ["activation_mso token", "weight_mso up"], ["ratio", "activation_mso mean normed"]])
@pytest.mark.parametrize("trials", [1, 3])
def test_a_record_says_what_measure_predict_and_calibrate_say(texts, trials):
    wanted, asked = select(texts), cells(trials)
    found = compute(Task(asked, wanted)).outcomes
    assert [outcome.number for outcome in found] == list(range(len(asked)))
    for cell, outcome in zip(asked, found, strict=True):
        record = json.loads(outcome.line)
        rows, worst, routing = expected(cell, wanted)
        assert record["quantities"] == rows
        assert list(record["quantities"]) == list(rows)
        assert outcome.worst_z == pytest.approx(worst, rel=1e-12)
        assert (record["cell"], record["trials"], record["seed"]) == (cell.key, trials, cell.run.seed)
        assert {name: record[name] for name in ("idle_experts", "dropped_tokens")} == {
            name: routing[name] for name in ("idle_experts", "dropped_tokens")
        }


def test_the_layers_above_are_worth_looking_at():
    """Some have idle experts, dropped tokens, undefined pairs, no law, a z against an exact law; and no two have equal rows."""
    wanted = select()
    found = [expected(cell, wanted) for cell in cells()]
    rows = [row for rows, *_ in found for row in rows.values()]
    assert sum(routing["idle_experts"] > 0 for *_, routing in found) >= 1
    assert sum(routing["dropped_tokens"] > 0 for *_, routing in found) >= 1
    assert any(row["dropped"] for row in rows)
    assert any(row["mean"] is not None and row["predicted_mean"] is None for row in rows)
    assert {row["z_unit"] for row in rows} == {None, "null sd", "sem"}
    assert all(worst > 0 for at, (_, worst, _) in enumerate(found) if SPECS[at].init != "upcycled")
    assert len({str(rows) for rows, *_ in found}) == len(SPECS)
    predicted = [[row["predicted_mean"] for row in rows.values()] for rows, *_ in found]
    assert predicted[0] == predicted[1]
    assert predicted[2] != predicted[3]


def test_trials_that_are_added_give_the_record_of_all():
    wanted = select()
    before = [json.loads(outcome.line) for outcome in compute(Task(cells(1), wanted)).outcomes]
    asked = [Cell(cell.number, cell.key, cell.spec, cell.run, record["sums"], 1) for cell, record in zip(cells(3), before, strict=True)]
    for cell, outcome in zip(cells(3), compute(Task(tuple(asked), wanted)).outcomes, strict=True):
        assert json.loads(outcome.line)["quantities"] == expected(cell, wanted)[0]


def test_trials_of_another_layer_spoil_their_own_cell_alone():
    wanted = select(["gap"])
    other = sg.LayerSpec(**BASE | {"n_experts": 5})
    (foreign,) = compute(Task(cells(1, [other]), wanted)).outcomes
    asked = cells(3)
    first = Cell(0, asked[0].key, asked[0].spec, asked[0].run, json.loads(foreign.line)["sums"], 1)
    found = compute(Task((first, *asked[1:]), wanted)).outcomes
    assert found[0].why == "other: expected the same quantities of as many experts"
    assert [outcome.why for outcome in found[1:]] == [""] * (len(SPECS) - 1)
    assert json.loads(found[1].line)["quantities"] == expected(asked[1], wanted)[0]


def test_a_file_that_is_not_on_a_machine_is_missed_by_the_machines_name(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.ones((8, 4)))
    spec = sg.LayerSpec(d_model=4, d_ff=4, inputs=sg.InputSpec(kind="file", path=tmp_path / "x.npy"))
    cell = Cell(0, spec.key(), spec, sg.RunSpec(tokens=4, trials=1))
    monkeypatch.setattr(worker.socket, "gethostname", lambda: "node-7")
    (tmp_path / "x.npy").unlink()
    (outcome,) = compute(Task((cell,), select(None))).outcomes
    assert outcome.why == f"inputs.path: cannot read {str(tmp_path / 'x.npy')!r}: No such file or directory (on node-7)"
    np.save(tmp_path / "x.npy", np.zeros((8, 4)))
    (outcome,) = compute(Task((cell,), select(None))).outcomes
    assert outcome.why.endswith("is not the file that the sweep was designed with (on node-7)")

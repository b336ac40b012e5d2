"""Prepared weights on a sweep: each cell is what `measure` gives with the same function, and a folder knows whose it is."""

import functools
import json
from dataclasses import dataclass, replace

import pytest

import simgap as sg
from simgap.moe import Weights
from simgap.sweeps import COSTS, grid, sweep
from simgap.sweeps.plan import plan_cells
from simgap.sweeps.prepared import name_of
from simgap.sweeps.store import MANIFEST
from simgap.training import RegulariseGram

SPEC = sg.LayerSpec(d_model=4, d_ff=8, n_experts=3, top_k=2)
# Two cells of one shape, which would be measured together if nothing changed their weights.
CELLS = grid(SPEC, {"router.temperature": [0.5, 1.0]}, d_model=[4, 6])
ASKED = {"quantities": ["weight_mso up", "activation_mso mean output", "gap"], "tokens": 16, "trials": 3, "seed": 2}


def alike(weights: Weights) -> Weights:
    """Every expert has the first one's W_up, times the number of its trial, which tells trials apart and leaves overlaps at 1."""
    trials = weights.up.new_tensor(weights.trials).view(-1, 1, 1, 1) + 1
    return replace(weights, up=weights.up[:, :1].expand_as(weights.up) * trials)


@dataclass
class Changeable:
    strength: float = 1.0

    def __call__(self, weights: Weights) -> Weights:
        return weights


@dataclass(frozen=True)
class OfArrays:
    weights: tuple[float, ...] = (1.0,)

    def __call__(self, weights: Weights) -> Weights:
        return weights


def run(out, **more):
    return sweep(CELLS, **{**ASKED, "out": out, "engine": "inprocess"} | more)


@pytest.mark.parametrize("prepare", [None, alike, RegulariseGram(1.0, 5, 0.1)], ids=name_of)
def test_each_cell_is_what_measure_gives(tmp_path, prepare):
    found = run(tmp_path, prepare=prepare)
    gaps = found.measured()
    assert [gap.spec for gap in gaps] == list(CELLS)
    seeds = found.frame().drop_duplicates("cell")["seed"].tolist()
    assert [gap.run.seed for gap in gaps] == seeds
    for gap in gaps:
        again = sg.measure(gap.spec, **ASKED | {"seed": gap.run.seed}, prepare=prepare)
        assert gap.as_dict() == again.as_dict()
        assert [(value.values == again[quantity].values).all() for quantity, value in gap.values.items()] == [True] * 3
    overlaps = [gap["weight_mso up"].mean for gap in gaps]
    if prepare is alike:
        assert overlaps == pytest.approx([1.0] * 4)
    else:
        assert max(overlaps) < 0.5


def test_seeds_are_those_of_the_layers_as_drawn(tmp_path):
    """So that a layer and what was made of it can be compared trial by trial."""
    frames = [run(tmp_path / name, prepare=prepare).frame() for name, prepare in (("plain", None), ("alike", alike))]
    assert frames[0]["seed"].equals(frames[1]["seed"])
    assert frames[0]["predicted_mean"].equals(frames[1]["predicted_mean"])
    assert not frames[0]["mean"].equals(frames[1]["mean"])


def test_other_processes_and_more_trials_give_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", prepare=alike)
    run(tmp_path / "local", prepare=alike, trials=1)
    found = run(tmp_path / "local", prepare=alike, engine="local", workers=2)
    assert found.computed == 4
    first, second = (one.frame().drop(columns=list(COSTS)) for one in (whole, found))
    assert first.equals(second)
    assert [gap.as_dict() for gap in whole.measured()] == [gap.as_dict() for gap in found.measured()]


def test_a_folder_of_other_weights_is_refused(tmp_path):
    run(tmp_path, prepare=RegulariseGram(1.0, 5))
    assert run(tmp_path, prepare=RegulariseGram(1.0, 5)).computed == 0
    with pytest.raises(ValueError, match=r"^prepare: '.*' was begun with '.*strength=1.0.*, got '.*strength=2.0.*; choose another folder"):
        run(tmp_path, prepare=RegulariseGram(2.0, 5))
    with pytest.raises(ValueError, match=r"^prepare: .*, got ''; choose another folder"):
        run(tmp_path)


def test_an_older_folder_is_one_of_weights_as_drawn(tmp_path):
    run(tmp_path)
    path = tmp_path / MANIFEST
    assert json.loads(path.read_text())["run"]["prepare"] == ""
    with pytest.raises(ValueError, match=r"^prepare: .* was begun with '', got 'alike of tests.sweeps.test_prepared'"):
        run(tmp_path, prepare=alike)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda weights: weights,
        functools.partial(alike),
        functools.wraps(alike)(lambda weights: weights),
        Changeable(),
        OfArrays(),
        alike.__get__(SPEC),
        3,
        RegulariseGram,
    ],
)
def test_what_a_folder_could_not_tell_from_another_is_refused(tmp_path, prepare):
    with pytest.raises(ValueError, match=r"^prepare: expected a function of a module, or a frozen dataclass of plain values"):
        run(tmp_path / "run", prepare=prepare)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_whose_weights_go_wrong_is_set_aside_with_the_reason(tmp_path):
    found = run(tmp_path, prepare=narrow)
    assert [cell.why for cell in found.set_aside] == [
        "prepare: up must stay (3, 3, 8, 6) torch.float32 on cpu, got (3, 3, 8, 5) torch.float32 on cpu"
    ] * 2
    assert found.done == 2


def narrow(weights: Weights) -> Weights:
    return replace(weights, up=weights.up[..., :-1]) if weights.up.shape[-1] == 6 else weights


def test_prepared_cells_go_one_by_one_and_are_held_whole():
    large = [sg.LayerSpec(d_model=512, d_ff=2048, n_experts=64), sg.LayerSpec(d_model=512, d_ff=2048, n_experts=64, activation="tanh")]
    run, selection = sg.RunSpec(tokens=64, trials=1, memory="300MiB"), sg.selection.select("weight_mso up")
    cells = sg.sweeps.Cells.of(large)
    drawn, prepared = (plan_cells(cells, run, selection, prepared=prepared) for prepared in (False, True))
    assert drawn.too_large == ()
    assert drawn.batch[0] == drawn.batch[1]
    assert prepared.batch[0] != prepared.batch[1]
    assert "prepared weights are held and not streamed" in prepared.too_large[0].why

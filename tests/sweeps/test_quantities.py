"""Names of quantities: what each asks for, and no more."""

import pytest

import simgap as sg
from simgap.gap.shape import READINGS, SITES, WEIGHT_KINDS
from simgap.sweeps.quantities import PATHS, quantities


def test_the_paths_are_those_of_a_gap():
    found = sg.predict(sg.LayerSpec(d_model=4, d_ff=8), trials=1)
    assert tuple(path for path, _ in found.items()) == PATHS


@pytest.mark.parametrize(
    "names, sites, readings, weights",
    [
        (None, SITES, READINGS, WEIGHT_KINDS),
        ("weight_mso", (), (), WEIGHT_KINDS),
        (["weight_mso all"], (), (), ("all",)),
        ("activation_mso all", SITES, ("all",), ()),
        (["activation_mso mean output", "weight_mso down"], ("output",), ("mean",), ("down",)),
        ("gap", ("output",), ("mean",), ("up",)),
        (["ratio", "activation_mso token hidden"], ("hidden", "output"), ("mean", "token"), ("up",)),
    ],
)
def test_a_name_asks_for_what_it_needs(names, sites, readings, weights):
    assert quantities(names).looked_at == {"sites": sites, "readings": readings, "weights": weights}


def test_names_come_in_the_order_of_a_gap_and_once():
    assert quantities(["gap", "weight_mso up", "gap", "weight_mso"]).names == [f"weight_mso {kind}" for kind in WEIGHT_KINDS] + ["gap"]


@pytest.mark.parametrize(
    "names, says",
    [
        ("wieght_mso", "no quantity is called 'wieght_mso'; did you mean 'weight_mso'"),
        (["activation_mso mean outputs"], "did you mean 'activation_mso mean output'"),
        (["mean"], "no quantity is called 'mean'"),
        ([""], "no quantity is called ''"),
        ([3], "no quantity is called 3"),
        ([], r"metrics: expected names such as 'weight_mso up', got \[\]"),
        (3, "metrics: expected names such as 'weight_mso up', got 3"),
    ],
)
def test_what_names_nothing_is_refused(names, says):
    with pytest.raises(ValueError, match=says):
        quantities(names)


def test_a_quantity_does_not_depend_on_what_else_is_asked_for(tmp_path):
    """weight_mso alone gives the numbers that it has among all."""
    cells = sg.grid(sg.LayerSpec(d_model=8, d_ff=16, n_experts=4), gated=[False, True])
    every = sg.sweep(cells, trials=2, tokens=16, out=tmp_path / "all").frame()
    alone = sg.sweep(cells, trials=2, tokens=16, metrics="weight_mso", out=tmp_path / "weights").frame()
    kept = every[every["quantity"].str.startswith("weight_mso")].reset_index(drop=True)
    assert len(alone) == len(kept) == 8
    assert alone[["mean", "sem", "predicted_mean", "z"]].equals(kept[["mean", "sem", "predicted_mean", "z"]])

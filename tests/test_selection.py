"""Names of quantities: what each asks for, and no more."""

import pytest

import simgap as sg
from simgap.quantities import READINGS, SITES, WEIGHT_KINDS
from simgap.selection import metric_of, metrics, select


def test_the_paths_are_those_of_a_gap():
    found = sg.predict(sg.LayerSpec(d_model=4, d_ff=8), trials=1)
    assert [path for path, _ in found.items()] == [q.path for q, name in metric_of().items() if metrics()[name].DEFAULT]


@pytest.mark.parametrize(
    "names, observed",
    [
        ("weight_mso", [f"weight_mso {kind}" for kind in WEIGHT_KINDS]),
        (["weight_mso all"], ["weight_mso all"]),
        ("activation_mso all", [f"activation_mso all {site}" for site in SITES]),
        (["activation_mso mean output", "weight_mso down"], ["weight_mso down", "activation_mso mean output"]),
        ("gap", ["weight_mso up", "activation_mso mean output"]),
        (["ratio", "activation_mso token hidden"], ["weight_mso up", "activation_mso mean output", "activation_mso token hidden"]),
    ],
)
def test_a_name_asks_for_what_it_needs(names, observed):
    assert [str(quantity) for quantity in select(names).observed] == observed


def test_names_come_in_the_order_of_a_gap_and_once():
    asked = select(["gap", "weight_mso up", "gap", "weight_mso"])
    assert asked.texts == [f"weight_mso {kind}" for kind in WEIGHT_KINDS] + ["gap"]


def test_sites_readings_and_weights_narrow_what_is_asked():
    assert select(sites="output", readings="mean", weights=()).texts == ["activation_mso mean output", "gap", "ratio"]
    assert [str(quantity) for quantity in select(sites="output", readings="mean", weights=()).observed] == ["activation_mso mean output"]
    assert len(select().texts) == len(WEIGHT_KINDS) + len(READINGS) * len(SITES) + 2


def test_metrics_are_files():
    assert {"weight_overlap", "mean_overlap", "vector_overlap", "gap"} <= set(metrics())
    assert select(metrics=["mean_overlap"], sites=("pre", "output")).texts == ["activation_mso mean pre", "activation_mso mean output"]
    # The gap is made of two others, whoever asks for it.
    assert [str(quantity) for quantity in select(metrics="gap").observed] == ["weight_mso up", "activation_mso mean output"]


@pytest.mark.parametrize(
    "chosen, says",
    [
        (
            {"metrics": ["weight_mso up", "gap"]},
            r"metrics: 'weight_mso up' names quantities, not a metric; write quantities = \['weight_mso up', 'gap'\]",
        ),
        ({"metrics": "weight_mso"}, r"write quantities = \['weight_mso'\]"),
        ({"metrics": "mean_overlab"}, "metrics: expected some of .*, got 'mean_overlab'; did you mean 'mean_overlap'"),
        ({"metrics": [3]}, "metrics: expected some of .*, got 3"),
        ({"metrics": []}, r"metrics: expected some of .*, got \[\]"),
        ({"metrics": "gap", "quantities": "gap"}, "metrics, quantities: expected one of the two, got both"),
        ({"sites": "in"}, "sites: expected some of"),
    ],
)
def test_what_selects_nothing_is_refused(chosen, says):
    with pytest.raises(ValueError, match=says):
        select(**chosen)


@pytest.mark.parametrize(
    "names, says",
    [
        ("wieght_mso", "quantities: none is called 'wieght_mso'; did you mean 'weight_mso'"),
        (["activation_mso mean outputs"], "did you mean 'activation_mso mean output'"),
        (["mean"], "quantities: none is called 'mean'"),
        ([""], "quantities: none is called ''"),
        ([3], "quantities: none is called 3"),
        ([], r"quantities: expected names such as 'weight_mso up', got \[\]"),
        (3, "quantities: expected names such as 'weight_mso up', got 3"),
    ],
)
def test_what_names_nothing_is_refused(names, says):
    with pytest.raises(ValueError, match=says):
        select(names)


def test_a_quantity_does_not_depend_on_what_else_is_asked_for(tmp_path):
    """weight_mso alone gives the numbers that it has among all."""
    cells = sg.grid(sg.LayerSpec(d_model=8, d_ff=16, n_experts=4), gated=[False, True])
    every = sg.sweep(cells, trials=2, tokens=16, out=tmp_path / "all").frame()
    alone = sg.sweep(cells, trials=2, tokens=16, quantities="weight_mso", out=tmp_path / "weights").frame()
    kept = every[every["quantity"].str.startswith("weight_mso")].reset_index(drop=True)
    assert len(alone) == len(kept) == 8
    assert alone[["mean", "sem", "predicted_mean", "z"]].equals(kept[["mean", "sem", "predicted_mean", "z"]])

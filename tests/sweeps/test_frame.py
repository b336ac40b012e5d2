"""The frame: rows and columns by hand, and records that are not of their form."""

import pytest

import simgap as sg
from simgap.records import line_of, record_of
from simgap.sweeps import grid, sweep
from simgap.sweeps.fields import NAMES
from simgap.sweeps.frame import collect, frame
from simgap.sweeps.store import read_store
from tests.sweeps.scripted import Scripted

CELLS = grid(sg.LayerSpec(d_model=4, d_ff=8, n_experts=4, top_k=2), d_model=[4, 5, 6])


@pytest.fixture
def folder(tmp_path):
    sweep(CELLS, trials=2, tokens=8, out=tmp_path, engine=Scripted(), workers=1)
    return tmp_path


def edit(folder, change):
    """Change the record of the first cell, with a checksum that says it is right."""
    path = folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if record_of(line).get("cell") == CELLS.key(0))
    record = record_of(lines[at])
    change(record)
    lines[at] = line_of(record)
    path.write_bytes(b"".join(lines))


def test_a_cell_has_a_row_to_each_quantity(folder):
    def change(record):
        (row,) = record["quantities"].values()
        record["quantities"] = {"gap": row | {"mean": 0.25}, "ratio": row | {"mean": None}}

    edit(folder, change)
    found = frame(read_store(folder))
    assert found["quantity"].tolist() == ["gap", "ratio", "gap", "gap"]
    assert found["mean"].isna().tolist() == [False, True, False, False]
    assert found["mean"].tolist()[0] == 0.25
    assert found["d_model"].tolist() == [4, 4, 5, 6]
    assert found["cell"].tolist() == [CELLS.key(0), CELLS.key(0), CELLS.key(1), CELLS.key(2)]


TABLES = [
    lambda record: record["quantities"].update(ratio=0.5),
    lambda record: record["quantities"].update(gap=None),
    lambda record: record["quantities"].update(gap=["mean", 0.5]),
    lambda record: record.update(quantities=[]),
    lambda record: record.update(quantities="gap"),
    lambda record: record.pop("quantities"),
]


@pytest.mark.parametrize("change", TABLES)
def test_a_record_without_its_table_is_none(folder, change, caplog):
    before = collect(folder)
    edit(folder, change)
    found = collect(folder)
    assert set(before["cell"]) - set(found["cell"]) == {CELLS.key(0)}
    assert "records.jsonl: line 4: not of the form of a record; left as found, the cells done again" in caplog.text


@pytest.mark.parametrize(
    "name, value",
    [
        ("mean", "0.5"),
        ("mean", [0.5]),
        ("mean", True),
        ("mean", 10**400),
        ("sem", {}),
        ("n", 2.0),
        ("n", False),
        ("pairs", 1 << 63),
        ("law", 3),
        ("why", ["x"]),
        ("z", "x" * 500),
    ],
)
def test_a_value_that_is_none_of_its_column_is_named(folder, name, value):
    edit(folder, lambda record: record["quantities"]["gap"].update({name: value}))
    with pytest.raises(ValueError, match=rf"out: the records in '.*' have a {name} of .{{1,60}}$"):
        collect(folder)


@pytest.mark.parametrize("name, value", [("seconds", "1"), ("host", 3), ("idle_experts", -(1 << 70)), ("peak_memory", [])])
def test_what_it_cost_is_checked_too(folder, name, value):
    edit(folder, lambda record: record.update({name: value}))
    with pytest.raises(ValueError, match=rf"out: the records in '.*' have a {name} of "):
        collect(folder)


def test_fields_that_all_cells_have_in_common_can_be_left_out(folder):
    whole, varying = frame(read_store(folder)), frame(read_store(folder), "varying")
    assert {"d_ff", "router", "inputs.alpha", "d_model"} <= set(whole)
    assert set(whole) - set(varying) == {name.removesuffix(".kind") for name in NAMES} - {"d_model"}
    assert varying.equals(whole[varying.columns])
    with pytest.raises(ValueError, match=r"^spec: expected one of all, varying, got 'varyng'; did you mean 'varying'\?$"):
        frame(read_store(folder), "varyng")

"""Cells: what they hold, how little room they take, and that they come back from a file as they went in."""

import itertools
import json
import os
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simgap.specs
from simgap.specs import InputSpec, LayerSpec, RouterSpec, SpaceSpec
from simgap.sweeps import Cells, LeftOut, grid
from simgap.sweeps import cells as module
from simgap.sweeps.fields import flat

BASE = LayerSpec(d_model=8, d_ff=16, n_experts=4)
specs = st.builds(
    LayerSpec,
    d_model=st.sampled_from([4, 8]),
    d_ff=st.sampled_from([8, 16]),
    n_experts=st.sampled_from([4, 6]),
    top_k=st.integers(1, 4),
    activation=st.sampled_from(["silu", "erf"]),
    gated=st.booleans(),
    norm_affine_std=st.sampled_from([0, 0.0, 0.1, 1, 1e-300]),
    router=st.builds(RouterSpec, kind=st.sampled_from(["linear", "hash"]), temperature=st.sampled_from([1, 1.0, 0.5])),
    inputs=st.builds(InputSpec, mean=st.sampled_from([-0.0, 0.0, 1.5]), massive=st.sampled_from([0, 0.5])),
    space=st.builds(SpaceSpec, kind=st.sampled_from(["round", "powerlaw"]), outliers=st.sampled_from([0, 2])),
)


@settings(max_examples=60)
@given(st.lists(specs, min_size=1, max_size=12))
def test_cells_are_the_layers_given_each_once(layers):
    cells = Cells.of(iter(layers))
    assert list(cells) == list(dict.fromkeys(layers))
    assert [cells.key(at) for at in range(len(cells))] == [spec.key() for spec in cells]
    assert cells[-1] == list(cells)[-1]
    assert len({cells.name(at) for at in range(len(cells))}) == len(cells)


@settings(max_examples=60)
@given(st.lists(specs, min_size=1, max_size=12), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_through_json_and_back(layers, out):
    cells = replace(Cells.of(layers), left_out=tuple(LeftOut(*pair) for pair in out))
    back = Cells.from_plain(json.loads(json.dumps(cells.to_plain(), allow_nan=False)))
    assert list(back) == list(cells)
    assert [spec.key() for spec in back] == [spec.key() for spec in cells]
    assert back.keys.tolist() == cells.keys.tolist()
    assert (back.base, back.names, back.left_out) == (cells.base, cells.names, cells.left_out)
    assert [list(map(type, flat(spec).values())) for spec in back] == [list(map(type, flat(spec).values())) for spec in cells]
    back.check_keys()


def test_cells_of_a_simgap_whose_layers_had_no_space_are_theirs():
    """A manifest that was written before there were spaces, massive tokens and documents names the same layers by the same keys."""
    cells = grid(BASE, d_model=[4, 8], router=["linear", "hash"])
    plain = cells.to_plain()
    later = [name for name in plain["base"] if name.startswith(("space.", "inputs.massive", "inputs.document"))]
    assert len(later) == 12
    plain["base"] = {name: value for name, value in plain["base"].items() if name not in later}
    back = Cells.from_plain(plain)
    assert list(back) == list(cells)
    back.check_keys()


scalars = st.sampled_from([None, False, True, -3, 0, 4, 8, 2**63, 1e300, 0.5, "", "d_model", "0" * 16, "soft", "router.kind"])
plain_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["d_model", "router.kind", "x"]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.sampled_from(["base", "columns", "codes", "keys", "left_out"]), plain_values)
def test_a_table_with_a_part_that_is_rubbish(part, value):
    """It is refused, or it is a table of cells all the same."""
    plain = grid(BASE, d_model=[4, 8], router=["linear", "hash"]).to_plain() | {part: value}
    try:
        cells = Cells.from_plain(plain)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        assert len(list(cells)) == len(cells)
    assert not message or message.startswith("cells: not a table of cells: ")


@given(plain_values)
def test_rubbish_is_no_table_of_cells(value):
    with pytest.raises(ValueError, match=r"^cells: not a table of cells: "):
        Cells.from_plain(value)


def edited(**changes):
    return grid(BASE, d_model=[4, 8]).to_plain() | changes


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (edited(codes=[[0, 2]]), "expected the number of a value of d_model"),
        (edited(codes=[[0, -1]]), "expected the number of a value of d_model"),
        (edited(codes=[[0, True]]), "expected the number of a value of d_model"),
        (edited(codes=[[0]]), "for each of 2 cells"),
        (edited(codes=[]), "for every column"),
        (edited(columns={"d_modle": [4, 8]}), "a layer has no field 'd_modle'"),
        (edited(columns={"d_model": [4, 0]}), "d_model: expected a whole number, at least 1, got 0"),
        (edited(columns={"d_model": [4, [8]]}), "d_model: expected a whole number"),
        (edited(keys="00" * 16), "keys: one comes twice"),
        (edited(keys="00" * 15), "16 hex digits"),
        (edited(keys="xy" * 16), "non-hexadecimal"),
        (edited(base={"d_model": 0}), "d_model"),
    ],
)
def test_what_is_wrong_with_a_table(plain, message):
    with pytest.raises(ValueError, match=message):
        Cells.from_plain(plain)


def test_a_table_of_an_older_simgap():
    """Fields that came later have their defaults; the keys are those that the records have."""
    plain = grid(BASE, d_model=[4, 8]).to_plain()
    del plain["base"]["n_shared_experts"]
    plain["keys"] = "0" * 15 + "1" + "0" * 15 + "2"
    cells = Cells.from_plain(plain)
    assert [cells.key(0), cells.key(1)] == ["0000000000000001", "0000000000000002"]
    assert cells[1] == LayerSpec(d_model=8, d_ff=16, n_experts=4)
    with pytest.raises(ValueError, match=r"^cells: d_model = 4 is not what its key 0000000000000001 says: another simgap"):
        cells.check_keys()


def test_a_table_that_was_written_when_cells_were_columns():
    """Values of which no cell is left, and values in the order in which they came."""
    columns = {"router.kind": ["linear", "soft"], "inputs.mean": [0.5], "top_k": [4, 2, 3], "norm_affine_std": [0.0, 0.1]}
    codes = [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 1, 0, 1]]
    keys = "2caa2b8a0557e101c1c7cd2a638135d12e3ecbc6efef75fded37f2874ef755db2c3fc75ac1c10d18"
    cells = Cells.from_plain({"base": flat(BASE), "columns": columns, "codes": codes, "keys": keys, "left_out": [["top_k = 3", "why"]]})
    layers = [("linear", 4, 0.1), ("linear", 2, 0.0), ("linear", 2, 0.1), ("soft", 4, 0.0), ("soft", 4, 0.1)]
    inputs = InputSpec(mean=0.5)
    assert list(cells) == [replace(BASE, router=RouterSpec(kind), inputs=inputs, top_k=k, norm_affine_std=std) for kind, k, std in layers]
    assert cells.left_out == (LeftOut("top_k = 3", "why"),)
    cells.check_keys()


def test_slices_and_chosen_cells():
    cells = grid(BASE, d_model=[4, 8, 12], top_k=[1, 2, 5])
    assert isinstance(cells[1:3], Cells)
    assert list(cells[1:3]) == list(cells)[1:3]
    assert list(cells[::-2]) == list(cells)[::-2]
    assert list(cells.take([4, 0])) == [cells[4], cells[0]]
    assert len(cells[:0]) == 0
    assert repr(cells) == "Cells(6 of d_model, top_k, 3 left out)"
    assert (cells[3] in cells, LayerSpec() in cells, cells.index(cells[3])) == (True, False, 3)
    with pytest.raises(IndexError, match="out of range"):
        cells[6]


def test_union():
    a, b = (
        grid(BASE, d_model=[4, 8], top_k=[1, 9]),
        grid(LayerSpec(d_model=8, d_ff=16, n_experts=4, top_k=1, gated=True), gated=[False, True]),
    )
    both = a + b
    assert list(both) == list(dict.fromkeys([*a, *b]))
    assert len(both) == 3
    assert both.left_out == a.left_out
    assert (a[:1] + a[1:]).left_out == a.left_out
    assert both.names == ("d_model", "top_k", "gated")
    with pytest.raises(TypeError, match="unsupported operand"):
        a + BASE


def test_left_out_says_which_and_why():
    cells = grid(BASE, {"router.kind": ["linear", "soft"], "top_k": [2, 4, 7], "router.temperature": [0.123456789]})
    assert len(cells) == 3
    assert [cell.name for cell in cells.left_out] == [
        "router.kind = linear, top_k = 7, router.temperature = 0.123457",
        "router.kind = soft, top_k = 2, router.temperature = 0.123457",
        "router.kind = soft, top_k = 7, router.temperature = 0.123457",
    ]
    assert cells.left_out[0].why == "top_k: expected at most n_experts = 4, got 7"
    assert str(cells.left_out[1]).endswith("0.123457: top_k: the soft router uses every expert, expected top_k = n_experts = 4, got 2")


def test_at_most():
    cells = grid(BASE, d_ff=[16, 32, 64]).at_most(2048)
    assert [spec.d_ff for spec in cells] == [16, 32]
    assert [str(cell) for cell in cells.left_out] == ["d_ff = 64: 4096 parameters, more than 2048"]
    for bad in (0, -1, float("nan"), True, "1e9"):
        with pytest.raises(ValueError, match=r"^max_parameters: expected a number above 0"):
            cells.at_most(bad)


@pytest.mark.parametrize(("layers", "message"), [([], "at least one layer"), ([BASE, "x"], "expected LayerSpecs, got str")])
def test_what_are_no_cells(layers, message):
    with pytest.raises(ValueError, match=rf"^cells: .*{message}"):
        Cells.of(layers)


def test_a_bool_is_no_number_even_after_an_equal_one():
    """Routers are shared among cells, and True == 1.0."""
    cells = grid(BASE, {"router.temperature": [1.0, True, 1]})
    assert len(cells) == 1
    assert [cell.why for cell in cells.left_out] == ["router.temperature: expected a finite number at least 1e-06, got True"]


def test_more_cells_than_a_sweep_can_have(monkeypatch):
    monkeypatch.setattr(module, "MOST_CELLS", 3)
    with pytest.raises(ValueError, match=r"^cells: a sweep has at most 3 cells, this design has more$"):
        module.cells_of(BASE, ("d_model",), ((n,) for n in range(1, 5)))


def test_cells_can_be_sent_to_another_process():
    cells = grid(BASE, d_model=[4, 8])
    assert cells[1].d_model == 8
    assert list(pickle.loads(pickle.dumps(cells))) == list(cells)  # noqa: S301


def test_cells_take_little_room():
    """Eight bytes to each of a layer's fields, to its place and to its key, and a dictionary of what came before; layers that each have a
    dictionary or a router of their own would be over the bound."""
    # What is remembered once, whatever the cells, is not theirs.
    grid(BASE, d_model=range(1, 51), d_ff=range(2, 4), top_k=[1, 2])
    tracemalloc.start()
    try:
        cells = grid(BASE, d_model=range(1, 51), d_ff=range(2, 52), top_k=[1, 2])
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cells) == 5000
    assert kept < 180 * len(cells)
    assert peak < 270 * len(cells)


def test_a_file_of_inputs_is_read_once_for_all_cells(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.eye(8))
    os.utime(tmp_path / "x.npy", (1, 1))
    read, hashed = [], simgap.specs._content_hash
    monkeypatch.setattr(simgap.specs, "_content_hash", lambda path, *looked: read.append(path) or hashed(path, *looked))
    base = LayerSpec(d_model=8, d_ff=16, inputs=InputSpec(kind="file", path=str(tmp_path / "x.npy")))
    assert len(grid(base, d_ff=range(2, 42))) == 40
    assert len(read) == 1


def test_a_file_that_was_changed_a_moment_ago_is_read_again(tmp_path):
    """Within the resolution of its time of change, which here does not change at all."""
    path = tmp_path / "x.npy"
    np.save(path, np.eye(8))
    when = path.stat().st_mtime_ns
    spec = LayerSpec(d_model=8, inputs=InputSpec(kind="file", path=str(path)))
    before = spec.key()
    np.save(path, 2 * np.eye(8))
    os.utime(path, ns=(when, when))
    assert spec.key() != before


@pytest.mark.parametrize("axis", [False, True])
def test_a_relative_file_of_inputs_is_the_same_wherever_the_process_goes(tmp_path, monkeypatch, axis):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("x.npy", "y.npy"):
        np.save(name, np.full((8, 8), len(name)))
    start = LayerSpec(d_model=8, inputs=InputSpec(kind="file", path="x.npy"))
    key = start.key()
    cells = grid(start, {"inputs.path": ["x.npy", "~/x.npy"]}) if axis else grid(start, d_ff=[512])
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [spec.inputs.path for spec in cells] == [str(tmp_path / "x.npy")]
    assert cells.key(0) == cells[0].key() == key
    cells.check_keys()


def test_too_many_cells_are_refused_before_they_are_built(monkeypatch):
    a, b = grid(LayerSpec(), d_ff=[8, 16, 32]), grid(LayerSpec(), d_ff=[32, 64, 128])
    monkeypatch.setattr(module, "MOST_CELLS", 5)
    assert len(a + b) == 5
    monkeypatch.setattr(module, "MOST_CELLS", 4)
    monkeypatch.setattr(module, "cells_of", lambda *_: pytest.fail("cells were built"))
    with pytest.raises(ValueError, match="cells: a sweep has at most 4 cells, these are 5"):
        a + b
    with pytest.raises(ValueError, match="cells: a sweep has at most 4 cells, got more"):
        Cells.of(LayerSpec() for _ in itertools.count())


def test_cells_outlive_their_file_of_inputs(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.eye(8))
    cells = grid(LayerSpec(d_model=8, inputs=InputSpec(kind="file", path=str(path))), d_ff=[16, 32])
    plain = cells.to_plain()
    Cells.from_plain(plain).check_keys()
    np.save(path, 2 * np.eye(8))
    with pytest.raises(ValueError, match=r"^cells: d_ff = 16 is not what its key [0-9a-f]{16} says: the file '.*x\.npy' changed$"):
        Cells.from_plain(plain).check_keys()
    path.unlink()
    assert Cells.from_plain(plain).keys.tolist() == cells.keys.tolist()


def test_cells_in_a_notebook():
    cells = grid(LayerSpec(), d_model=[8, 16], router=["linear", "hash"])
    shown = cells._repr_html_()
    assert shown.startswith("<table><tr><th>d_model</th><th>router.kind</th></tr><tr><td>8</td><td>linear</td></tr>")
    assert shown.endswith("<div>Cells(4 of d_model, router.kind)</div>")
    many = grid(LayerSpec(), d_model=list(range(8, 108)))._repr_html_()
    assert many.count("<tr>") == 21
    assert many.endswith("<div>Cells(100 of d_model), of which the first are shown</div>")

"""The folder of a sweep: what a crash, a changed grid, another version or another process leave is seen, said, and nothing is lost."""

import os
import subprocess
import sys

import numpy as np
import pytest

import simgap as sg
from simgap.records import Records, line_of, locked, provenance, read_manifest, record_of, write_manifest
from simgap.sweeps import Range, grid, random_design, sweep
from simgap.sweeps.frame import collect, frame
from simgap.sweeps.store import read_store
from tests.sweeps.scripted import Scripted

SPEC = sg.LayerSpec(d_model=4, d_ff=8, n_experts=4, top_k=2)
CELLS = grid(SPEC, d_model=[4, 5, 6], top_k=[1, 2])


def run(out, cells=CELLS, executor=None, **more):
    return sweep(cells, **{"trials": 2, "tokens": 8, "out": out, "engine": executor or Scripted(), "workers": 2} | more)


def lines(folder):
    return (folder / "records.jsonl").read_bytes().splitlines(keepends=True)


def test_the_folder_says_what_was_run_and_where(tmp_path):
    run(tmp_path, seed=3, quantities=["gap"])
    store = read_store(tmp_path)
    assert (store.run.tokens, store.run.trials, store.run.seed, store.selection.texts) == (8, 2, 3, ["gap"])
    assert list(store.cells) == list(CELLS)
    assert store.trials.tolist() == [2] * 6
    manifest, digest = read_manifest(tmp_path / "manifest.json")
    assert {"canary", "cpu", "versions", "commit", "command", "platform"} <= set(manifest["provenance"])
    session = record_of(lines(tmp_path)[0])["session"]
    assert (session["trials"], session["engine"], session["workers"], session["manifest"]) == (2, "Scripted", 2, digest)
    assert session["provenance"]["time"] >= manifest["begun"]


@pytest.mark.parametrize("name", ["records.jsonl", "manifest.json", "sweep.log", "lock"])
def test_a_link_in_the_folder_is_not_followed(tmp_path, name):
    """A folder that somebody else made must not lead to a file of the user's."""
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    (folder / name).symlink_to(victim)
    with pytest.raises((ValueError, OSError), match=r"is a link|has records.jsonl but no manifest|Too many levels"):
        run(folder)
    assert victim.read_text() == "precious"


def test_what_is_no_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest.json' cannot be read: not a regular file"):
        collect(tmp_path)
    with pytest.raises(ValueError, match=r"manifest.json' cannot be written: not a regular file"):
        run(tmp_path)
    os.remove(tmp_path / "manifest.json")
    for name in ("records.jsonl", "sweep.log"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}' cannot be (read|written): not a regular file"):
            run(tmp_path)
        os.remove(tmp_path / name)


def test_a_changed_grid_is_refused_by_name(tmp_path):
    run(tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    changed = grid(SPEC, d_model=[4, 5, 7], top_k=[1, 2])
    expected = r"2 of its 6 are gone and 2 are new; gone is d_model = 6, top_k = 1; new is d_model = 7, top_k = 1; choose another"
    with pytest.raises(ValueError, match=expected):
        run(tmp_path, changed)
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_cells_around_another_layer_say_what_is_other(tmp_path):
    run(tmp_path, grid(SPEC, d_model=[4, 5]))
    other = grid(sg.LayerSpec(d_model=4, d_ff=8, n_experts=4, top_k=2, activation="relu", router="hash"), d_model=[4, 5])
    with pytest.raises(ValueError, match=r"are new, around layers that differ in activation, router.kind; gone is d_model = 4; new is d_m"):
        run(tmp_path, other)


@pytest.mark.parametrize("axis", [False, True])
def test_a_file_of_inputs_that_was_moved_is_read_where_it_is_now(tmp_path, axis):
    def cells(path):
        inputs = {} if axis else {"path": path, "kind": "file"}
        start = sg.LayerSpec(d_model=4, d_ff=4, inputs=sg.InputSpec(**inputs))
        return grid(start, {"inputs": ["file"], "inputs.path": [path]} if axis else {}, d_ff=[4, 5])

    np.save(tmp_path / "x.npy", np.eye(8, 4))
    settings = {"tokens": 4, "out": tmp_path / "run", "engine": "inprocess"}
    assert sweep(cells(str(tmp_path / "x.npy")), trials=1, **settings).done == 2
    os.rename(tmp_path / "x.npy", tmp_path / "y.npy")
    found = sweep(cells(str(tmp_path / "y.npy"))[::-1], trials=2, **settings)
    assert (found.done, found.computed, found.set_aside) == (2, 2, ())
    assert found.frame()["d_ff"].unique().tolist() == [4, 5]


def test_no_folder_is_not_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="out: expected a folder, got ''"):
        run("")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, value, before, after",
    [
        ("seed", 1, "0", "1"),
        ("tokens", 9, "8", "9"),
        ("dtype", "float64", "'float32'", "'float64'"),
        ("quantities", "gap", r"\[.*", r"\['gap'\]"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, name, value, before, after):
    run(tmp_path)
    with pytest.raises(ValueError, match=rf"^{name}: '.*' was begun with {before}, got {after}; choose another folder"):
        run(tmp_path, **{name: value})


def _edit(folder, change):
    """As if the sweep had been begun with another manifest."""
    manifest, _ = read_manifest(folder / "manifest.json")
    change(manifest)
    digest = write_manifest(folder / "manifest.json", manifest)
    found = list(Records(folder / "records.jsonl"))
    for record in found:
        if "session" in record:
            record["session"]["manifest"] = digest
    (folder / "records.jsonl").write_bytes(b"".join(line_of(record) for record in found))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda m: m["provenance"]["versions"].update(simgap="0.0.9"), "begun with simgap 0.0.9, this is"),
        (lambda m: m["provenance"]["versions"].update(torch="2.6.0"), "begun with torch 2.6.0, this is"),
        (lambda m: m.update(source="0" * 16), r"begun by another simgap .*source 0000000000000000"),
        (lambda m: m.update(provenance=None), "begun with python None, this is"),
    ],
)
def test_another_version_is_refused_unless_it_is_allowed(tmp_path, change, says):
    run(tmp_path, grid(SPEC, d_model=[4, 5]))
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines(tmp_path)[:2]))
    _edit(tmp_path, change)
    with pytest.raises(ValueError, match=says + r".*add --any-version"):
        run(tmp_path, grid(SPEC, d_model=[4, 5]))
    assert run(tmp_path, grid(SPEC, d_model=[4, 5]), any_version=True).done == 2


def test_a_processor_of_another_name_and_the_same_arithmetic_goes_on(tmp_path):
    run(tmp_path)
    _edit(tmp_path, lambda m: m["provenance"].update(cpu="Another CPU"))
    assert provenance()["cpu"] != "Another CPU"
    assert run(tmp_path, trials=3).computed == 6


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda m: m.update(format=1), "holds a sweep of format 1, this simgap reads format 3"),
        (lambda m: m.pop("cells"), "cells: not a table of cells"),
        (lambda m: m["cells"].update(codes=[[99, 0]]), "cells: not a table of cells"),
        (lambda m: m["cells"]["columns"].update(d_modle=[1]), "cells: not a table of cells"),
        (lambda m: m.update(run=[]), "does not say what was run"),
        (lambda m: m["run"].update(colour="red"), "does not say what was run"),
        (lambda m: m["run"].update(tokens=-1), "tokens: expected a whole number"),
        (lambda m: m["run"].update(quantities=["everything"]), "quantities: none is called 'everything'"),
    ],
)
def test_a_manifest_is_checked_before_it_is_believed(tmp_path, change, says):
    run(tmp_path)
    _edit(tmp_path, change)
    with pytest.raises(ValueError, match=says):
        read_store(tmp_path)


@pytest.mark.parametrize(
    "more, says",
    [
        ({"memory": "1KiB"}, "memory: one trial of this layer"),
        ({"engine": "dask"}, "scheduler: engine = 'dask' needs the address"),
        ({"workers": 0}, "workers: expected a whole number"),
        ({"device": "cuda:99"}, "device: 'cuda:99' asked for, but"),
    ],
)
def test_what_is_refused_leaves_no_folder(tmp_path, more, says):
    with pytest.raises(ValueError, match=says):
        run(tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_cell_is_begun_anew(tmp_path):
    run(tmp_path, executor=Scripted(lambda cell, task: "no"))
    assert run(tmp_path, grid(SPEC, d_model=[9])).done == 1
    assert [spec.d_model for spec in read_store(tmp_path).cells] == [9]


def test_what_was_found_in_the_folder_is_said(tmp_path):
    assert run(tmp_path).notes == ()
    with open(tmp_path / "records.jsonl", "ab") as file:
        file.write(b'{"cell": ')
    found = run(tmp_path)
    assert [note.split(": ")[1].split(" after")[0] for note in found.notes][:1] == ["its last line was torn"]
    assert len(repr(found)) - len(str(tmp_path)) < 340


def test_a_folder_without_a_sweep_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no sweep"):
        collect(tmp_path)
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"has records.jsonl but no manifest.json; choose another folder"):
        run(tmp_path)


def test_a_second_process_on_the_folder_is_refused(tmp_path):
    run(tmp_path)
    with locked(tmp_path), pytest.raises(ValueError, match=rf"is in use by process {os.getpid()}"):
        run(tmp_path)


def test_a_read_only_folder_is_named(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    script = f"""
import os
from pathlib import Path
from simgap.records import locked
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    with locked(Path({str(folder)!r})): pass
except OSError as error:
    print(error.strerror)
"""
    parents = {parent: parent.stat().st_mode for parent in list(folder.parents)[:3]}
    try:
        for parent, mode in parents.items():
            # Anyone may look in, so that it is the folder itself that refuses.
            parent.chmod(mode | 0o055)
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    finally:
        for parent, mode in parents.items():
            parent.chmod(mode)
    assert said.stdout.startswith(f"out: cannot write {str(folder)!r}: Permission denied"), said.stderr


def test_the_frame_is_of_the_newest_record_of_each_cell(tmp_path):
    run(tmp_path)
    run(tmp_path, trials=4)
    found = collect(tmp_path)
    assert found["n"].tolist() == [4] * 6
    assert found["cell"].tolist() == [CELLS.key(at) for at in range(6)]
    assert found["d_model"].tolist() == [4, 4, 5, 5, 6, 6]
    assert found["mean"].tolist() == [seed / 3 for seed in found["seed"].tolist()]
    assert found["inputs"].tolist() == ["gaussian"] * 6


def test_a_record_that_changes_while_a_frame_is_made_is_noticed(tmp_path):
    run(tmp_path)
    store, records = read_store(tmp_path), tmp_path / "records.jsonl"
    whole = records.read_bytes()
    for spoilt in (whole.replace(b'"sums"', b'"sumz"'), whole.replace(b'{"cell"', b'["cell"')):
        assert len(spoilt) == len(whole)
        assert spoilt != whole
        records.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"out: the record of d_model = 4, top_k = 1 in '.*' changed while it was read"):
            frame(store)
    records.write_bytes(whole)
    assert len(frame(store)) == 6


def test_the_parquet_file_is_the_frame(tmp_path):
    import pandas as pd

    run(tmp_path)
    written = collect(tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "frame.parquet"), written, check_exact=True)
    assert not list(tmp_path.glob(".*.part"))


def test_a_frame_that_is_only_looked_at(tmp_path):
    run(tmp_path)
    assert collect(tmp_path, write=False).equals(run(tmp_path).frame())
    assert not (tmp_path / "frame.parquet").exists()


def test_an_empty_run_has_an_empty_frame(tmp_path):
    run(tmp_path, executor=Scripted(lambda cell, task: "no"))
    found = collect(tmp_path)
    assert len(found) == 0
    assert {name: str(found[name].dtype) for name in ("d_model", "gated", "activation", "mean", "router", "router.temperature")} == {
        "d_model": "int64",
        "gated": "bool",
        "activation": "category",
        "mean": "float64",
        "router": "category",
        "router.temperature": "float64",
    }
    assert {"mean", "sem", "n", "predicted_mean", "z", "seconds", "d_model", "router.temperature"} <= set(found.columns)


def test_a_hundred_random_layers_come_back_as_they_were(tmp_path):
    axes = {"router.temperature": Range(0.1, 10.0, log=True), "inputs": ["gaussian", "student", "clusters"], "gated": [False, True]}
    cells = random_design(SPEC, axes, n=100, d_model=Range(2, 64), d_ff=Range(2, 64, log=True))
    run(tmp_path, cells)
    assert list(read_store(tmp_path).cells) == list(cells)
    found = collect(tmp_path)
    assert found["router.temperature"].tolist() == [spec.router.temperature for spec in cells]
    assert found["gated"].tolist() == [spec.gated for spec in cells]
    assert found["inputs"].tolist() == [spec.inputs.kind for spec in cells]

"""The folder of a sweep, as a call names it and as it fares while the sweep runs."""

import os
import shutil

import pandas as pd
import pytest

import simgap as sg
from simgap.specs import INITS
from simgap.sweeps import COSTS, engines, grid
from tests.sweeps.scripted import Scripted
from tests.sweeps.test_runner import SPEC, run


@pytest.mark.parametrize("change", ["removed", "moved", "replaced"])
def test_a_folder_that_is_gone_is_not_made_anew(tmp_path, change):
    cells = grid(SPEC, d_model=[4, 5, 6, 7, 8, 9])

    def act(cell, task):
        if cell.spec.d_model == 4:
            os.rename(tmp_path / "run", tmp_path / "away")
            if change == "removed":
                shutil.rmtree(tmp_path / "away")
            elif change == "replaced":
                shutil.copytree(tmp_path / "away", tmp_path / "run")
        return ""

    with pytest.raises(FileNotFoundError, match=r"out: '.*run' is gone: it was removed, moved or replaced while the sweep ran"):
        run(tmp_path / "run", Scripted(act), cells=cells, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == {"removed": [], "moved": ["away"], "replaced": ["away", "run"]}[change]
    if change != "removed":
        assert 0 < run(tmp_path / "away", Scripted(), cells=cells).computed < 6, "what was recorded before is safe"


def test_a_relative_folder_is_that_of_the_beginning(tmp_path, monkeypatch):
    def act(cell, task):
        os.chdir(tmp_path / "elsewhere")
        return ""

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    found = run("run", Scripted(act))
    assert found.path == tmp_path / "run"
    assert len(found.frame()) == len(sg.collect(found.path)) == 6
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("~/run", Scripted()).path == tmp_path / "run"
    assert len(sg.collect("~/run")) == 6


def test_a_current_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(ValueError, match="out: 'run' is relative to the current folder, and that is gone"):
        run("run", Scripted())


@pytest.mark.parametrize("out", ["", None, 3, b"run", "a\0b"])
def test_what_names_no_folder_is_refused(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="out: expected a folder, got "):
        run(out, Scripted())
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_does_not_come_up_leaves_no_trace(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("engine: a worker process cannot start: no")

    monkeypatch.setattr(engines, "Processes", broken)
    cells = grid(SPEC, d_model=[4, 6], top_k=[2, 9])
    with pytest.raises(ValueError, match="cannot start"):
        run(tmp_path / "a" / "run", "local", cells=cells)
    assert list(tmp_path.iterdir()) == []


def test_escape_codes_are_shown_and_not_obeyed(tmp_path, caplog):
    def act(cell, task):
        return "\x1b[31mred" if cell.number == 0 else ""

    found = run(tmp_path / "run\x1b[2J\n", Scripted(act))
    assert "\\x1b[2J\\n" in str(found)
    log = (found.path / "sweep.log").read_text()
    assert "\\x1b[31mred" in log
    for text in (str(found), log, *(record.name for record in caplog.records)):
        assert "\x1b" not in text


@pytest.mark.bits
def test_odd_layers_of_every_init_that_grew_are_those_that_began_so(tmp_path):
    cells = grid(sg.LayerSpec(n_experts=3, top_k=2), d_model=[9, 33], d_ff=[17, 50], init=list(INITS))
    options = {"tokens": 20, "seed": 3, "engine": "inprocess"}
    at_once = sg.sweep(cells, trials=4, out=tmp_path / "at once", **options).frame()
    for trials in (1, 2, 4):
        grown = sg.sweep(cells, trials=trials, out=tmp_path / "grown", **options)
    assert grown.computed == len(cells) == 24
    pd.testing.assert_frame_equal(grown.frame().drop(columns=list(COSTS)), at_once.drop(columns=list(COSTS)), check_exact=True)

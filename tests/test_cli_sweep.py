"""`simgap sweep`: begun, stopped, gone on with, and every mistake in one line."""

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from simgap.cli import main
from simgap.report.sweep import cell_lines, law_lines
from simgap.specs import LayerSpec
from simgap.stats import normal_p
from simgap.sweeps import LeftOut, grid, runner, store, sweep
from simgap.sweeps.command import judged, resuming
from simgap.sweeps.worker import Outcome, Report, compute
from tests.sweep_command import refusal, stopping


def test_a_sweep_from_a_file(capsys, file, out):
    assert main(["sweep", file, "--out", out]) == 0
    shown, err = capsys.readouterr()
    lines = shown.splitlines()
    assert lines[0] == f"6 of 6 cells done, 6 of them now, in {out}; 6 left out"
    assert lines[1].split() == ["quantity", "cells", "mean", "excess", "pooled", "z", "|z|", ">", "2", "largest", "|z|", "at"]
    assert [line.split("  ")[0] for line in lines[2:]] == ["weight_mso up", "activation_mso mean output"]
    assert err.splitlines()[0] == "6 cells left out:"
    assert "  d_ff = 8, top_k = 5: top_k: expected at most n_experts = 4, got 5" in err.splitlines()
    assert any(line.startswith("  d_ff = 99, top_k = 1: 4752 parameters, more than 1000") for line in err.splitlines())
    assert os.path.exists(f"{out}/frame.parquet")


def test_the_same_as_by_the_functions(capsys, file, out, tmp_path):
    """Flags stand in for what the file says, and cells keep the order of the file."""
    assert main(["sweep", file, "--out", out, "--trials", "3", "--seed", "5", "--json"]) == 0
    shown, err = capsys.readouterr()
    found = json.loads(shown)
    assert err == ""
    assert {name: found[name] for name in ("path", "cells", "done", "computed", "set_aside")} == {
        "path": out, "cells": 6, "done": 6, "computed": 6, "set_aside": [],
    }  # fmt: skip
    assert found["frame"] == f"{out}/frame.parquet"
    assert found["left_out"][0] == {"cell": "d_ff = 8, top_k = 5", "why": "top_k: expected at most n_experts = 4, got 5"}
    assert found["seconds"] > 0
    cells = grid(LayerSpec(d_model=6, n_experts=4), d_ff=[8, 10, 12], top_k=[1, 2])
    quantities = ["weight_mso up", "activation_mso mean output"]
    run = sweep(cells, trials=3, seed=5, tokens=8, quantities=quantities, out=tmp_path / "other", progress=False)
    import pandas as pd

    ours, theirs = pd.read_parquet(found["frame"]), run.frame()
    for column in ("d_ff", "top_k", "quantity", "mean", "sem", "z", "predicted_mean", "seed"):
        assert ours[column].tolist() == theirs[column].tolist(), column


def test_stopped_and_gone_on_with(capsys, monkeypatch, file, out):
    stopping(monkeypatch, 2, KeyboardInterrupt())
    argv = [file, "--out", out, "--trials", "4"]
    line = refusal(capsys, *argv, status=130)
    done = int(line.split()[4])
    assert 0 < done < 6
    resume = shlex.join(["simgap", "sweep", file, "--out", out, "--trials", "4", "--resume"])
    assert line == f"simgap sweep: stopped with {done} of 6 cells done; go on with: {resume}"
    assert refusal(capsys, *argv) == f"simgap sweep: error: out: {out!r} holds a sweep; --resume goes on with it"
    monkeypatch.undo()
    assert main([*shlex.split(resume)[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 6 - done
    # What the folder says is enough; once more finds nothing to do, and more trials are added to those there are.
    for trials, computed in (([], 0), (["--trials", "5"], 6), ([], 0)):
        assert main(["sweep", "--out", out, "--resume", "--json", *trials]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["done"], found["computed"]) == (6, computed)
    assert found["left_out"][0]["cell"] == "d_ff = 8, top_k = 5"


def test_what_was_found_in_the_folder_is_said_once(capsys, caplog, file, out):
    assert main(["sweep", file, "--out", out]) == 0
    records = Path(out, "records.jsonl")
    damaged = records.read_bytes().replace(b'"trials": 2', b'"trials": 3', 1)
    records.write_bytes(damaged)
    capsys.readouterr()
    assert main(["sweep", file, "--out", out, "--resume"]) == 0
    said = capsys.readouterr().err + "".join(record.getMessage() for record in caplog.records if record.name == "simgap.sweeps")
    assert said.count("damaged, the checksum is of other content") == 1


def test_a_full_disk_says_what_is_safe(capsys, monkeypatch, file, out):
    stopping(monkeypatch, 2, OSError(errno.ENOSPC, "cannot write 'x': No space left on device"))
    line = refusal(capsys, file, "--out", out)
    assert line.startswith("simgap sweep: error: cannot write 'x': No space left on device; ")
    assert f" of 6 cells done and safe; go on with: simgap sweep {shlex.quote(file)} --out {out} --resume" in line
    stopping(monkeypatch, 0, OSError(errno.ENOSPC, "cannot write 'x': No space left on device"))
    assert "cells done and safe; go on with: " in refusal(capsys, file, "--out", out, "--resume")
    # A refusal that changed nothing says no more than that.
    line = refusal(capsys, file, "--out", out, "--resume", "--tokens", "9")
    assert line == f"simgap sweep: error: tokens: {out!r} was begun with 8, got 9; choose another folder"


def test_cells_set_aside_are_named(capsys, monkeypatch, file, out):
    def failing(task):
        report = compute(task)
        bad = [Outcome(each.number, why="trial 1: no\ngood") if each.number == 3 else each for each in report.outcomes]
        return Report(tuple(bad), report.source, report.canary, report.seconds)

    monkeypatch.setattr(runner, "compute", failing)
    assert main(["sweep", file, "--out", out]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 of 6 cells done, 5 of them now")
    assert lines[1:3] == ["1 cell set aside:", "  d_ff = 10, top_k = 2: trial 1: no good"]
    assert main(["sweep", file, "--out", out, "--json", "--resume"]) == 1
    assert json.loads(capsys.readouterr().out)["set_aside"] == [{"cell": "d_ff = 10, top_k = 2", "why": "trial 1: no\ngood"}]


def test_a_dry_run_writes_nothing(capsys, monkeypatch, file, out):
    assert main(["sweep", file, "--out", out, "--dry-run"]) == 0
    shown, err = capsys.readouterr()
    assert shown.startswith("6 cells, 384 to 576 parameters (2.88e+03 in all); about ")
    assert shown.count("\n") == 1
    assert err.startswith("6 cells left out:\n")
    assert not os.path.exists(out)
    stopping(monkeypatch, 2, KeyboardInterrupt())
    refusal(capsys, file, "--out", out, status=130)
    before = {name: os.stat(f"{out}/{name}").st_mtime_ns for name in os.listdir(out)}
    assert main(["sweep", file, "--out", out, "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    done = int(shown[0].split()[0])
    assert shown[0] == f"{done} of 6 cells done"
    assert shown[1].startswith(f"{6 - done} cells, ")
    assert main(["sweep", "--out", out, "--resume", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["done"], len(found["left_out"])) == (6, done, 6)
    assert found["seconds"] > 0
    assert found["memory"] > 0
    assert {name: os.stat(f"{out}/{name}").st_mtime_ns for name in os.listdir(out)} == before


def test_a_dry_run_says_what_would_be_refused(capsys, file, out, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", file, "--out", out, "--dry-run", "--memory", "1KiB"])
    lines = capsys.readouterr().err.splitlines()
    assert "6 cells too large:" in lines
    assert lines[-1] == "simgap sweep: error: memory: 1KiB cannot hold 6 of 6 cells; give more, or leave them out by max_parameters"
    assert main(["sweep", file, "--out", out]) == 0
    capsys.readouterr()
    assert main(["sweep", file, "--out", out, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == ["6 of 6 cells done", "nothing left to do"]
    other = tmp_path / "other.toml"
    other.write_text("[[design]]")
    assert "holds a sweep of other cells: 6 of its 6 are gone and 1 are new" in refusal(capsys, str(other), "--out", out, "--dry-run")
    assert f"tokens: '{out}' was begun with" in refusal(capsys, file, "--out", out, "--dry-run", "--tokens", "9")
    assert "of a cell already, got 1" in refusal(capsys, file, "--out", out, "--dry-run", "--trials", "1")


def test_a_dry_run_looks_at_the_folder_as_the_run_does(capsys, monkeypatch, file, out, tmp_path):
    assert main(["sweep", file, "--out", out]) == 0
    records = tmp_path / "run" / "records.jsonl"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(store, "source_digest", lambda: "0" * 16)
        assert "was begun by another simgap" in refusal(capsys, file, "--out", out, "--dry-run")
        assert main(["sweep", file, "--out", out, "--dry-run", "--any-version"]) == 0
    with open(records, "a") as file_of_records:
        file_of_records.write('{"torn')
    capsys.readouterr()
    assert main(["sweep", file, "--out", out, "--dry-run"]) == 0
    assert "records.jsonl: line 8: without a whole checksum at the end" in capsys.readouterr().err
    assert main(["sweep", file, "--out", out, "--dry-run", "--json"]) == 0
    assert "line 8: without a whole checksum at the end" in json.loads(capsys.readouterr().out)["notes"][0]
    records.rename(tmp_path / "elsewhere")
    records.symlink_to(tmp_path / "elsewhere")
    assert "records.jsonl' is a link" in refusal(capsys, file, "--out", out, "--dry-run")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device: 'cuda' asked for" in refusal(capsys, file, "--out", str(tmp_path / "new"), "--dry-run", "--device", "cuda")


def test_cells_with_fewer_trials_are_counted_too(capsys, monkeypatch, file, out):
    assert main(["sweep", file, "--out", out]) == 0
    capsys.readouterr()
    stopping(monkeypatch, 1, KeyboardInterrupt())
    last = refusal(capsys, file, "--out", out, "--resume", "--trials", "9", status=130)
    done = int(last.partition("stopped with ")[2].split()[0])
    assert done < 6
    assert f"{done} of 6 cells done and {6 - done} with fewer trials; go on with: " in last


def test_no_folder_is_refused(capsys, monkeypatch, file, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert refusal(capsys, file, "--out", "").endswith("out: expected a folder, got ''")
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_run_knows_the_trials_that_are_done(capsys, file, out):
    def seconds(trials):
        assert main(["sweep", file, "--out", out, "--dry-run", "--json", "--trials", trials]) == 0
        return json.loads(capsys.readouterr().out)["seconds"]

    fresh = seconds("20")
    assert main(["sweep", file, "--out", out, "--trials", "15"]) == 0
    capsys.readouterr()
    assert seconds("20") == pytest.approx(fresh / 4)
    assert seconds("15") == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["FILE"], "the following arguments are required: --out"),
        (["--out", "OUT"], "FILE.toml: expected a sweep file; with --resume it may be left out"),
        (["--out", "OUT", "--resume"], "holds no sweep to go on with"),
        (["none.toml", "--out", "OUT"], "none.toml: cannot be read: No such file or directory"),
        (["FILE", "--out", "OUT", "--engine", "locl"], "did you mean 'local'?"),
        (["FILE", "--out", "OUT", "--resum"], "unknown flag --resum; did you mean '--resume'?"),
        (["FILE", "--out", "OUT", "--trials", "0"], "trials: expected a whole number, at least 1, got 0"),
        (["FILE", "--out", "OUT", "--device", "tpu"], "device: expected 'cpu'"),
        (["FILE", "--out", "OUT", "--workers", "0"], "workers: expected a whole number, at least 1, got 0"),
        (["FILE", "--out", "OUT", "--scheduler", "tcp://x"], "scheduler: given, but engine = None has none"),
        (["FILE", "--out", "OUT", "--memory", "1KiB"], "memory: "),
        (["FILE", "--out", "FILE"], "cannot write"),
    ],
)
def test_mistakes_end_in_one_line(capsys, file, out, argv, message):
    line = refusal(capsys, *[{"FILE": file, "OUT": out}.get(word, word) for word in argv])
    assert line.startswith("simgap sweep: error: ")
    assert message in line


def test_a_manifest_that_is_none(capsys, file, out):
    os.mkdir(out)
    with open(f"{out}/manifest.json", "w") as manifest:
        manifest.write("[]")
    assert refusal(capsys, "--out", out, "--resume").endswith(
        "is no whole manifest: without a whole checksum at the end (torn, damaged, or of an earlier simgap)"
    )


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_scheduler_that_is_none_leaves_no_trace(capsys, file, tmp_path, more):
    line = refusal(capsys, file, "--out", str(tmp_path / "a" / "run"), "--engine", "dask", "--scheduler", "garb\x1bage", *more)
    assert "scheduler: expected an address such as tcp://10.0.0.1:8786, got 'garb\\x1bage': " in line
    assert [path.name for path in tmp_path.iterdir()] == ["my sweep.toml"]


def test_the_command_that_goes_on():
    assert resuming(["sweep", "a b.toml", "--out", "x"]) == "simgap sweep 'a b.toml' --out x --resume"
    assert resuming(["sweep", "--resume", "--out", "x"]) == "simgap sweep --resume --out x"
    assert resuming(["sweep", "--out", "x", "--", "-a"]) == "simgap sweep --out x --resume -- -a"


def test_what_all_cells_say_together():
    import pandas as pd

    cells = grid(LayerSpec(), d_ff=[8, 16, 32])
    keys = [cells.key(at) for at in range(3)]
    rows = [("up", "exact", "null sd", z, 1.0 + z / 10, key) for z, key in zip((1.0, -3.0, 0.5), keys, strict=True)]
    rows += [
        ("up", "leading", "null sd", 9.0, 1.0, keys[0]),
        ("up", "exact", "sem", 9.0, 1.0, keys[0]),
        ("gap", "exact", "null sd", None, 1.0, keys[0]),
    ]
    table = pd.DataFrame(rows, columns=["quantity", "predicted_kind", "z_unit", "z", "excess", "cell"])
    table["p"] = [None if z is None else normal_p(z) for _, _, _, z, _, _ in rows]
    (found,) = judged(table, cells)
    assert (found.quantity, found.cells, found.where) == ("up", 3, "d_ff = 16")
    assert found.worst == pytest.approx(3.0, rel=1e-12)
    assert found.excess == pytest.approx(0.95)
    assert found.pooled == pytest.approx(-1.5 / 3**0.5)
    assert found.beyond == pytest.approx(1 / 3)
    lines = law_lines([found])
    assert lines[1].split() == ["up", "3", "0.95", "-0.9", "33.3", "%", "3.0", "d_ff", "=", "16"]
    assert law_lines([]) == ["no quantity has an exact law here"]


def test_long_lists_are_cut():
    cells = [LeftOut(f"d_ff = {n}", "why\nnot") for n in range(1234)]
    lines = cell_lines("left out", cells)
    assert (lines[0], lines[1], lines[-1], len(lines)) == ("1,234 cells left out:", "  d_ff = 0: why not", "  and 1,214 more", 22)
    assert cell_lines("left out", ()) == []


def test_help_loads_nothing_heavy():
    code = "import sys; from simgap.cli import main\ntry: main(['sweep', '--help'])\nexcept SystemExit: print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "--resume" in run.stdout
    loaded = {name.partition(".")[0] for name in run.stdout.splitlines()[-1].split()}
    assert "simgap" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "scipy", "pyarrow", "tqdm"}

"""The command line: what is typed, what is seen, and how mistakes are met."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import simgap as sg
from simgap import cli
from simgap.cli import main
from simgap.sweeps import engines

SMALL = ["--d-model", "12", "--d-ff", "20", "--n-experts", "4", "--tokens", "30", "--trials", "5"]
FULL = (
    "measure --d-model 48 --d-ff 96 --n-experts 6 --top-k 2 --activation silu --gated --norm layernorm --router linear "
    "--router.temperature 2 --inputs gaussian --init kaiming_normal --tokens 256 --trials 20 --seed 3 --device cpu --dtype float32"
)


def answer(capsys, *argv: str) -> dict:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def refusal(capsys, *argv: str) -> str:
    """The one line on stderr of a command that ends with status 2 and prints nothing else."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_every_documented_flag(capsys):
    found = answer(capsys, *FULL.split())
    assert found["spec"]["gated"] is True
    assert found["spec"]["router"] == {"kind": "linear", "temperature": 2.0, "noise": 1.0, "bias": 0.1, "capacity": 1.0}
    assert found["run"] == {"tokens": 256, "trials": 20, "seed": 3, "device": "cpu", "dtype": "float32", "memory": "2GiB"}


def test_flags_of_spaces_and_documents(capsys):
    flags = "--space powerlaw --space.scaled both --space.alpha 0.5 --space.outliers 2 --space.rotated --space.bias 0.25"
    more = "--inputs.massive 0.1 --inputs.massive-scale 7 --inputs.document_tokens 5 --inputs.document-correlation 0.5"
    spec = answer(capsys, "predict", *SMALL, *flags.split(), *more.split())["spec"]
    expected = {
        "kind": "powerlaw",
        "scaled": "both",
        "alpha": 0.5,
        "spread": 1.0,
        "outliers": 2,
        "scale": 10.0,
        "rotated": True,
        "bias": 0.25,
    }
    assert spec["space"] == expected
    assert [spec["inputs"][name] for name in ("massive", "massive_scale", "document_tokens", "document_correlation")] == [0.1, 7.0, 5, 0.5]
    assert "space.rotated: a round space has no directions to rotate" in refusal(capsys, "predict", *SMALL, "--space.rotated")
    assert "did you mean '--space.outliers'" in refusal(capsys, "measure", *SMALL, "--space.outlier", "2")


def test_shape_of_the_json(capsys):
    found = answer(capsys, *FULL.split())
    assert {"spec", "weight_mso", "activation_mso", "gap", "ratio", "predicted", "calibration"} <= set(found)
    for part in (found, found["predicted"], found["calibration"]):
        assert set(part["weight_mso"]) == {"up", "gate", "down", "all"}
        assert set(part["activation_mso"]) == {"mean", "token", "all"}
        for sites in part["activation_mso"].values():
            assert set(sites) == {"pre", "hidden", "normed", "output"}
    assert set(found["weight_mso"]["up"]) == {"mean", "sem", "trials", "pairs"}
    assert set(found["predicted"]["gap"]) >= {"mean", "sd", "kind", "law", "hypotheses"}
    assert set(found["calibration"]["weight_mso"]["up"]) >= {"excess", "z", "p", "effective_dimension"}
    gap = found["activation_mso"]["mean"]["output"]["mean"] - found["weight_mso"]["up"]["mean"]
    assert found["gap"]["mean"] == pytest.approx(gap)
    ratio = found["activation_mso"]["mean"]["output"]["mean"] / found["weight_mso"]["up"]["mean"]
    assert found["ratio"]["mean"] == pytest.approx(ratio)


def test_what_does_not_exist_is_null_with_a_reason(capsys):
    found = answer(capsys, "measure", *SMALL, "--top-k", "1", "--trials", "1")
    token = found["activation_mso"]["token"]["output"]
    assert token["mean"] is None
    assert "no token meets two experts" in token["why"]
    assert found["weight_mso"]["up"]["sem"] is None
    assert found["predicted"]["weight_mso"]["gate"]["mean"] is None
    assert "there is no W_gate" in found["predicted"]["weight_mso"]["gate"]["why"]
    assert found["predicted"]["activation_mso"]["mean"]["hidden"]["order"].startswith("O(")


def test_readable_output_ends_in_a_sentence(capsys):
    assert main(["measure", *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["quantity", "measured", "null", "kind", "excess", "z", "p"]
    assert lines[-1].startswith("output overlap is ")
    assert " times its null, z " in lines[-1]


def test_the_same_command_prints_the_same(capsys):
    found = []
    for _ in range(2):
        assert main(["measure", *SMALL, "--json"]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]


def test_predict(capsys):
    found = answer(capsys, "predict", *SMALL, "--activation", "tanh")
    assert found["weight_mso"]["up"]["mean"] == pytest.approx(1 / 240)
    assert found["activation_mso"]["mean"]["output"]["mean"] == pytest.approx(1 / 12)
    for flags, times in (([], 0), (["--hypotheses"], 1)):
        assert main(["predict", *SMALL, *flags]) == 0
        assert capsys.readouterr().out.count("N2 holds where: ") == times


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"simgap {sg.__version__}\n"
    told = subprocess.run([sys.executable, "-m", "simgap", "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == f"simgap {sg.__version__}\n"


def test_sites_and_readings_can_be_chosen(capsys):
    found = answer(capsys, "measure", *SMALL, "--sites", "output", "--readings", "mean")
    assert set(found["activation_mso"]) == {"mean"}
    assert set(found["activation_mso"]["mean"]) == {"output"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--d-modle", "3"], "unknown flag --d-modle; did you mean '--d-model'?"),
        (["--hidden-size", "3"], "unknown flag --hidden-size; did you mean '--d-model'?"),
        (["--num-experts-per-tok=3"], "unknown flag --num-experts-per-tok; did you mean '--top-k'?"),
        (["--d-modle=3"], "unknown flag --d-modle; did you mean '--d-model'?"),
        (["--router.temprature", "3"], "did you mean '--router.temperature'?"),
        (["--activation", "slu"], "did you mean 'silu'?"),
        (["--router", "lineer"], "did you mean 'linear'?"),
        (["--d-model", "x"], "--d-model"),
        (["--d-model", "-4"], "d_model: expected a whole number, at least 1"),
        (["--d-ff", "0"], "d_ff: expected a whole number, at least 1"),
        (["--n-experts", "1", "--top-k", "1"], "n_experts: expected a whole number, at least 2"),
        (["--top-k", "9"], "top_k: expected at most n_experts = 8, got 9"),
        (["--tokens", "0"], "tokens: expected a whole number, at least 1"),
        (["--trials", "0"], "trials: expected a whole number, at least 1"),
        (["--device", "tpu"], "device: expected 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
        (["--device", "cuda:99"], "device: 'cuda:99' asked for"),
        (["--memory", "lots"], "memory: expected bytes"),
        (["--trials", "100000000000"], "trials: what is kept of 100000000000 trials needs"),
        (["--memory", "1KiB"], "memory: one trial of this layer"),
        (["--d-model", "300000", "--d-ff", "300000"], "memory: one trial of this layer"),
        (["--router", "soft"], "top_k: the soft router uses every expert"),
        (["--inputs", "file"], "inputs.path: expected a .npy or .safetensors file"),
        (["--inputs", "file", "--inputs.path", "nowhere.npy"], "inputs.path: cannot read 'nowhere.npy': No such file or directory"),
        (["--router.temperature", "nan"], "router.temperature: expected a finite number"),
        (["surplus"], "surplus"),
    ],
)
def test_mistakes_end_in_one_line(capsys, argv, message):
    line = refusal(capsys, "measure", *argv)
    assert line.startswith("simgap measure: error: ")
    assert message in line


@pytest.mark.parametrize(("argv", "message"), [([], "command"), (["measur"], "did you mean 'measure'?"), (["--version-please"], "")])
def test_no_command(capsys, argv, message):
    line = refusal(capsys, *argv)
    assert line.startswith("simgap: error: ")
    assert message in line


def test_files_of_inputs(capsys, tmp_path):
    rows = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    file = ["--inputs", "file", "--inputs.path", str(tmp_path / "x.npy")]
    assert answer(capsys, "measure", *SMALL, *file)["weight_mso"]["up"]["trials"] == 5
    assert "rows of width 12, but d_model is 16" in refusal(capsys, "measure", *SMALL, *file, "--d-model", "16")
    assert "tokens: 50 asked for" in refusal(capsys, "measure", *SMALL, *file, "--tokens", "50")
    rows[17, 3] = np.nan
    np.save(tmp_path / "x.npy", rows)
    assert "row 17 of" in refusal(capsys, "measure", *SMALL, *file)


def test_a_file_of_inputs_that_is_replaced_meanwhile(capsys, monkeypatch, tmp_path):
    """What was measured would go by the key of what was not."""
    path, measure = tmp_path / "x.npy", sg.measure

    def replaced(*args, **more):
        found = measure(*args, **more)
        np.save(path, np.ones((40, 12)))
        return found

    np.save(path, np.eye(40, 12))
    monkeypatch.setattr(sg, "measure", replaced)
    line = refusal(capsys, "measure", *SMALL, "--inputs", "file", "--inputs.path", str(path), "--json")
    assert line == f"simgap measure: error: inputs.path: {str(path)!r} changed while it was read\n"


def test_a_reader_that_leaves():
    """A closed pipe ends the command quietly; without PYTHONUNBUFFERED the stream breaks only when it is flushed."""
    command = f"{sys.executable} -m simgap.cli predict | true; exit ${{PIPESTATUS[0]}}"
    gone = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin"})
    assert (gone.returncode, gone.stderr) == (0, "")


def test_a_terminal_without_the_sign(monkeypatch):
    """One that cannot show plus-minus still gets its table."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["measure", *SMALL]) == 0
    assert b"output overlap is " in shown.buffer.getvalue()


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        run = subprocess.run([sys.executable, "-m", "simgap.cli", "predict"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (2, "simgap predict: error: cannot write to stdout: No space left on device\n")


def test_closed_streams():
    """No file that is opened later is taken for a stream that was closed; nobody to read is said before work begins, where it can be."""
    code = (
        "import os, sys; from simgap import cli; cli.run_predict = lambda options: cli.say(os.open('/', 0) > 2) or 0; sys.exit(cli.main())"
    )
    ways = {">&-": (2, "", True), "<&- 2>&-": (0, "True\n", False), ">&- 2>&-": (2, "", False), "<&-": (0, "True\n", False)}
    for way, (status, shown, said) in ways.items():
        run = subprocess.run(
            ["bash", "-c", f'"$0" -c "$1" predict {way}', sys.executable, code], capture_output=True, text=True, timeout=60
        )
        assert (run.returncode, run.stdout) == (status, shown)
        assert run.stderr == "simgap predict: error: cannot write to stdout: it is closed\n" * said


def test_engines_that_can_be_typed_are_those_that_there_are():
    assert cli.ENGINES == engines.ENGINES


def test_help_is_quick_and_loads_nothing_heavy():
    """The bound is 0.3 s of the processor's time, since that of the clock is others' too; the best of five."""
    times = []
    for _ in range(5):
        start = os.times()
        shown = subprocess.run([sys.executable, "-m", "simgap.cli", "--help"], capture_output=True, text=True, check=True, timeout=60)
        end = os.times()
        times.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert "measure" in shown.stdout
    assert min(times) < 0.3

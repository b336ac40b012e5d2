"""A null that is chosen by name: untrained layers simulated in place of the laws, in Python, flags, files and records."""

import json
import math

import numpy as np
import pytest

import simgap as sg
from simgap.cli import main
from simgap.nulls import simulated

SPEC = sg.LayerSpec(d_model=16, d_ff=32, n_experts=6, top_k=2)
FLAGS = ["--d-model", "16", "--d-ff", "32", "--n-experts", "6", "--tokens", "200", "--trials", "4"]


def test_simulated_layers_agree_with_the_laws_and_have_other_seeds():
    law = sg.predict(SPEC, tokens=200, trials=4)
    by_layers = sg.predict(SPEC, tokens=200, trials=4, null="simulated")
    assert list(law.values) == list(by_layers.values)
    for quantity, one in by_layers.values.items():
        exact = law[quantity]
        if exact.mean is None or exact.kind != "exact":
            continue
        assert one.law == "untrained"
        # The mean over layers strays by its own error, a part of sd: Student's with 15 degrees of freedom at least, 5 sigma is 6.5 of it.
        layers = len(one.draws)
        assert abs(one.mean - exact.mean) < 6.5 * one.sd / math.sqrt(layers / 4 + 1), quantity
    # Of one trial the sd is larger, by the law's own sd and beside it.
    of_one = sg.predict(SPEC, tokens=200, trials=1, null="simulated")
    for name in ("weight_mso up", "activation_mso mean pre"):
        for trials, found in ((4, by_layers[name]), (1, of_one[name])):
            layers = len(found.draws)
            expected = sg.predict(SPEC, tokens=200, trials=trials)[name].sd * math.sqrt(1 + trials / layers)
            # The relative error of an sd of so many values, of a kurtosis of at most 4.
            assert found.sd == pytest.approx(expected, rel=5 * math.sqrt(0.75 / (layers - 1))), (name, trials)
        assert of_one[name].sd / by_layers[name].sd == pytest.approx(math.sqrt((layers + 1) / (layers / 4 + 1)))
    assert by_layers["weight_mso up"].mean != sg.measure(SPEC, tokens=200, trials=16)["weight_mso up"].mean


def test_trained_like_weights_stand_out_from_them():
    def alike(weights):
        weights.up[:] = weights.up[:, :1] + 0.1 * weights.up
        return weights

    m = sg.measure(SPEC, tokens=200, trials=4, prepare=alike, quantities=["weight_mso up", "gap"])
    found = sg.calibrate(m, sg.predict(SPEC, tokens=200, trials=4, quantities=["weight_mso up", "gap"], null="simulated"))
    # Four trials among the layers: no division of them all is as extreme.
    assert found["weight_mso up"].p == 2 / 4000
    assert found["weight_mso up"].z > 50
    assert "p <= 0.0005 by 199 draws: more than independent untrained experts give" in str(found["weight_mso up"])
    assert found["weight_mso up"].null_kind == "simulated"


def test_upcycled_layers_are_held_against_independent_ones():
    upcycled = sg.LayerSpec(d_model=16, d_ff=32, n_experts=6, init="upcycled")
    assert sg.predict(upcycled, tokens=50, quantities="weight_mso up")["weight_mso up"].mean is None
    one = sg.predict(upcycled, tokens=50, quantities="weight_mso up", null="simulated")["weight_mso up"]
    assert one.mean == pytest.approx(1 / 512, rel=0.3)


def test_what_is_missing_and_too_large_is_said(monkeypatch):
    p = sg.predict(SPEC, tokens=20, quantities=["weight_mso gate", "activation_mso mean normed"], null="simulated")
    assert {one.why for one in p.values.values()} == {"gated = false: there is no W_gate", "norm = none: there is no normed site"}
    many = sg.predict(SPEC, tokens=20_000_000, quantities="weight_mso up", null="simulated")["weight_mso up"]
    assert many.why == "no law: layers of 6.14e+03 parameters on 20000000 tokens are not simulated for a null"
    monkeypatch.setattr(simulated, "MOST_NUMBERS", SPEC.parameters + 20 * (16 + 32) * 2)
    of = {"null": "simulated", "tokens": 20}
    assert sg.predict(SPEC, quantities="activation_mso token output", **of)["activation_mso token output"].mean is not None
    # All six experts on every token.
    assert "not simulated" in sg.predict(SPEC, quantities="activation_mso all output", **of)["activation_mso all output"].why


def test_a_file_that_was_written_again_has_a_null_of_its_own(tmp_path):
    spec = sg.LayerSpec(d_model=16, d_ff=32, n_experts=6, inputs=sg.InputSpec(kind="file", path=str(tmp_path / "x.npy")))
    rows, found = np.random.default_rng(0).standard_normal((64, 16)), []
    for shift in (0.0, 5.0):
        np.save(tmp_path / "x.npy", rows + shift)
        found.append(
            sg.predict(spec, tokens=50, quantities="activation_mso mean hidden", null="simulated")["activation_mso mean hidden"].mean
        )
    assert abs(found[1] - found[0]) > 0.1


def test_flags(capsys):
    assert main(["measure", *FLAGS, "--null", "simulated", "--quantities", "gap", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["quantities"]["gap"]
    assert (row["law"], row["predicted_kind"]) == ("untrained", "simulated")
    assert main(["predict", *FLAGS, "--null", "simulated", "--quantities", "gap"]) == 0
    assert "untrained" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["measure", *FLAGS, "--null", "simulation"])
    assert "did you mean 'simulated'?" in capsys.readouterr().err


def test_a_sweep_keeps_the_null_that_it_was_begun_with(tmp_path, capsys):
    way = {"quantities": ["gap", "weight_mso up"], "tokens": 50, "trials": 2, "engine": "inprocess", "progress": False}
    sg.sweep([SPEC], null="simulated", out=tmp_path / "a", **way)
    frame = sg.collect(tmp_path / "a")
    assert set(frame["law"]) == {"untrained"}
    with pytest.raises(ValueError, match=r"null: .* was begun with 'simulated', got 'law'"):
        sg.sweep([SPEC], out=tmp_path / "a", **way)
    text = 'null = "simulated"\nquantities = ["gap", "weight_mso up"]\ntokens = 50\ntrials = 2\n'
    text += "[layer]\nd_model = 16\nd_ff = 32\nn_experts = 6\n"
    (tmp_path / "s.toml").write_text(f"{text}[[design]]\naxes = {{top_k = [2]}}\n")
    assert main(["sweep", str(tmp_path / "s.toml"), "--out", str(tmp_path / "b"), "--engine", "inprocess", "--json"]) == 0
    # Gone on with from the folder alone.
    assert main(["sweep", "--out", str(tmp_path / "b"), "--resume", "--trials", "3", "--engine", "inprocess", "--json"]) == 0
    assert set(sg.collect(tmp_path / "b")["law"]) == {"untrained"}
    (tmp_path / "s.toml").write_text(f"{text.replace('simulated', 'law of mine')}[[design]]\naxes = {{top_k = [2]}}\n")
    with pytest.raises(SystemExit):
        main(["sweep", str(tmp_path / "s.toml"), "--out", str(tmp_path / "c")])
    assert "null: expected one of law, isotropic, simulated, got 'law of mine'" in capsys.readouterr().err


def test_a_null_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="null: expected one of law, isotropic, simulated, got 'sim'"):
        sg.predict(SPEC, null="sim")

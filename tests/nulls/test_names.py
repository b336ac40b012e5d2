"""One table of names: of layers in Python, flags and files, and of arrays."""

import json

import pytest

import simgap as sg
from simgap.cli import main
from simgap.null_names import OF_ARRAYS, OF_LAYERS, TABLE, check_null_of_arrays, check_null_of_layer

SPEC = sg.LayerSpec(d_model=16, d_ff=32, n_experts=6, space=sg.SpaceSpec(outliers=2), activation="silu", gated=True)
FLAGS = ["--d-model", "16", "--d-ff", "32", "--n-experts", "6", "--tokens", "100", "--space.outliers", "2", "--gated"]
ROUND = sg.LayerSpec(d_model=16, d_ff=32, n_experts=6, activation="silu", gated=True)
WAY = {"quantities": ["gap", "weight_mso down"], "tokens": 50, "trials": 2, "engine": "inprocess", "progress": False}


def test_a_layer_in_a_round_space():
    found, twin = sg.predict(SPEC, null="isotropic"), sg.predict(ROUND)
    assert found.null == "isotropic"
    for name in ("weight_mso up", "weight_mso down", "activation_mso mean output", "activation_mso token hidden", "gap", "ratio"):
        assert (found[name].mean, found[name].sd) == (twin[name].mean, twin[name].sd)
    assert found["weight_mso down"].mean == 1 / (16 * 32) < sg.predict(SPEC)["weight_mso down"].mean
    copies = sg.LayerSpec(d_model=16, d_ff=32, n_experts=6, init="upcycled")
    assert sg.predict(copies)["weight_mso up"].mean is None
    assert sg.predict(copies, null="isotropic")["weight_mso up"].mean == 1 / 512


def test_what_no_round_space_has():
    relu = sg.LayerSpec(d_model=16, d_ff=32, n_experts=6, activation="relu")
    p = sg.predict(relu, metrics=["mean_overlap", "vector_overlap", "routing", "centred_overlap"], null="isotropic")
    for name in ("activation_mso mean hidden", "activation_mso token hidden"):
        assert p[name].why == "null = isotropic: these vectors share a mean, and no round space has such; null='law' has theirs"
    assert p["activation_mso token output"].mean == 1 / 16
    assert p["centred_mso output"].mean == sg.predict(relu, metrics="centred_overlap")["centred_mso output"].mean
    assert p["routing load_entropy"].why == "null = isotropic: of overlaps alone"


def test_a_measured_layer_keeps_its_null():
    asked = {"quantities": ["activation_mso mean output", "gap"], "tokens": 100, "trials": 4}
    law, named = sg.measure(SPEC, **asked), sg.measure(SPEC, **asked, null="isotropic")
    assert [value.mean for value in law.values.values()] == [value.mean for value in named.values.values()]
    one = sg.calibrate(named)["activation_mso mean output"]
    assert one == sg.calibrate(law, null="isotropic")["activation_mso mean output"]
    assert one == sg.calibrate(law, sg.predict(SPEC, **asked, null="isotropic"))["activation_mso mean output"]
    assert (one.null, sg.calibrate(law)["activation_mso mean output"].p > 1e-3, one.p < 1e-3) == (1 / 16, True, True)
    assert "more than independent experts in a round space give" in str(one)
    assert "\nnull isotropic: independent experts in a round space\n" in str(named)
    assert "null isotropic" not in str(law)
    assert set(named.to_frame()["predicted_mean"]) == {1 / 16, 1 / 16 - 1 / 512}
    with pytest.raises(ValueError, match=r"^null: expected 'law', the null of these predictions, or none, got 'isotropic'$"):
        sg.calibrate(law, sg.predict(SPEC, **asked), null="isotropic")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("isotropc", r"^null: expected one of law, isotropic, simulated, got 'isotropc'; did you mean 'isotropic'\?$"),
        ("signs", r"^null: 'signs' is for given arrays \(measure_arrays\), since it keeps the sizes of entries"),
        ("separable", "since it reads matrices; the law of a layer knows its scales; a layer has law, isotropic, simulated$"),
        ("centred", "^null: 'centred' is a value of its own and no null, .*; ask for metrics='centred_overlap'$"),
        (["signs"], "^null: expected one of law"),
        (None, "^null: expected one of law"),
    ],
)
def test_names_that_no_layer_has(name, said, tmp_path):
    for call in (sg.predict, sg.measure):
        with pytest.raises(ValueError, match=said):
            call(SPEC, null=name)
    with pytest.raises(ValueError, match=said):
        sg.sweep([SPEC], null=name, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_names_that_no_arrays_have():
    assert {name for name in TABLE if name not in OF_LAYERS} <= set(OF_ARRAYS)
    for name in OF_ARRAYS:
        check_null_of_arrays(name)
    for name in OF_LAYERS:
        check_null_of_layer(name)
    with pytest.raises(ValueError, match=r"^null: 'simulated' is for layers of a spec \(measure, predict, sweep\), and arrays have none$"):
        check_null_of_arrays("simulated")
    with pytest.raises(ValueError, match=r"ask for metrics='centred_overlap' and null='isotropic' of measure_arrays$"):
        check_null_of_arrays("centred")
    with pytest.raises(ValueError, match=r"^null: 'other_token' is not of weights; law, signs, isotropic, renumbered, separable are$"):
        check_null_of_arrays("other_token", "weights")


def test_flags(capsys):
    assert main(["measure", *FLAGS, "--null", "isotropic", "--quantities", "gap", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["null"], found["quantities"]["gap"]["law"], found["quantities"]["gap"]["predicted_mean"]) == ("isotropic", "N3", 31 / 512)
    assert main(["predict", *FLAGS, "--null", "isotropic", "--quantities", "gap"]) == 0
    assert "null isotropic: independent experts in a round space" in capsys.readouterr().out
    for command in ("measure", "predict"):
        with pytest.raises(SystemExit) as error:
            main([command, *FLAGS, "--null", "renumbered"])
        assert error.value.code == 2
        assert capsys.readouterr().err.startswith(f"simgap {command}: error: null: 'renumbered' is for given arrays")


def test_sweeps_under_two_nulls_are_not_mixed(tmp_path, capsys):
    (gap,) = sg.sweep([SPEC], null="isotropic", out=tmp_path / "a", **WAY).measured()
    assert sg.calibrate(gap)["gap"].null == 31 / 512
    frame = sg.collect(tmp_path / "a")
    assert (set(frame["law"]), set(frame["null"])) == ({"N1", "N3"}, {"isotropic"})
    for null in ("law", "simulated"):
        with pytest.raises(ValueError, match=rf"^null: .* was begun with 'isotropic', got '{null}'"):
            sg.sweep([SPEC], null=null, out=tmp_path / "a", **WAY)
    table = '[layer]\nd_model = 16\nd_ff = 32\nn_experts = 6\nspace = "powerlaw"\n[[design]]\naxes = {top_k = [2]}\n'
    (tmp_path / "s.toml").write_text('null = "isotropic"\nquantities = ["gap"]\ntokens = 50\ntrials = 2\n' + table)
    asked = ["sweep", str(tmp_path / "s.toml"), "--engine", "inprocess", "--json"]
    assert main([*asked, "--out", str(tmp_path / "b")]) == 0
    assert main([*asked, "--out", str(tmp_path / "c"), "--null", "law"]) == 0
    assert set(sg.collect(tmp_path / "b")["law"]) == {"N3"}
    assert set(sg.collect(tmp_path / "c")["law"]) == {"T5"}
    with pytest.raises(SystemExit):
        main([*asked, "--out", str(tmp_path / "c"), "--resume", "--trials", "3"])
    assert "was begun with 'law', got 'isotropic'" in capsys.readouterr().err

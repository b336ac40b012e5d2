"""judge: reported values by hand, texts and floats, what simulation acquits, what nothing does, and the command."""

import json
import math

import numpy as np
import pytest
from scipy import stats as oracle

import simgap as sg
from simgap.api.reported import FITS
from simgap.cli import main
from simgap.theory.mso_law import mso_p


def test_one_pair_by_hand():
    """One pair of one layer has the exact Beta law; the interval's end nearest to the null counts."""
    found = sg.judge(activation_mso="0.50", d_model=8, d_ff=4, n_experts=2)
    one = found.values["activation_mso"]
    assert (one.null, one.excess) == (1 / 8, 4)
    assert one.null_sd == pytest.approx(math.sqrt(14 / (64 * 10)))
    assert one.z == pytest.approx((0.5 - 1 / 8) / one.null_sd)
    assert one.p == pytest.approx(2 * oracle.beta(0.5, 3.5).sf(0.495), rel=1e-12)
    assert found.p == pytest.approx(one.p, rel=1e-12)
    assert str(one) == f"0.5 (0.495 to 0.505) is 4 times its null 0.125, z {one.z:.1f} null sd, p {one.p:.2g}"


def test_both_values_are_joined_by_fisher():
    found = sg.judge(weight_mso="1.33e-4", activation_mso="0.0169", d_model=128, d_ff=128, n_experts=8, trials=10)
    p = [mso_p(1.325e-4, 128 * 128, 28, 10, 8), mso_p(0.01685, 128, 28, 10, 8)]
    assert [one.p for one in found.values.values()] == pytest.approx(p, rel=1e-12)
    assert found.p == pytest.approx(oracle.combine_pvalues(p).pvalue, rel=1e-9)
    assert found.verdict.startswith(
        "at d = 128, joint p 1.2e-48: more than independent, sign-symmetric, equally scaled weights give, at the "
    )
    assert "; d from 51 to 67 fits, 64 of the powers of two (joint p 0.05 or more, d_ff kept)" in found.verdict
    for width, p in found.widths.items():
        again = sg.judge(weight_mso="1.33e-4", activation_mso="0.0169", d_model=width, d_ff=128, n_experts=8, trials=10)
        assert again.p == p >= FITS
    for width in (50, 68):
        assert sg.judge(weight_mso="1.33e-4", activation_mso="0.0169", d_model=width, d_ff=128, n_experts=8, trials=10).p < FITS


def test_a_float_stands_for_its_shortest_digits_and_a_text_for_all_of_its_own():
    layer = {"d_model": 256, "d_ff": 1024, "n_experts": 16, "top_k": 2, "trials": 5}
    digits = {value: sg.judge(activation_mso=value, **layer).values["activation_mso"] for value in (0.004, "0.004", "0.0040")}
    assert digits[0.004] == digits["0.004"]
    assert digits["0.004"].reported.half_unit == pytest.approx(5e-4)
    assert digits["0.0040"].reported.half_unit == pytest.approx(5e-5)
    for value in (np.float32(0.004), np.float64(0.004)):
        assert sg.judge(activation_mso=value, **layer).values["activation_mso"] == digits[0.004]
    assert digits["0.004"].p == 1 > digits["0.0040"].p


# Fixed beforehand: 400 layers of 4 experts in R^8, printed with three digits.
LAYERS = 400


@pytest.mark.parametrize(("width", "acquitted"), [(8, True), (16, False)])
def test_p_at_the_width_that_gave_the_values_and_at_its_double(width, acquitted):
    """At most a share of 0.05 below 0.05, binomially at 5 sigma: rounding only adds to p. At twice the width that line fails."""
    spec = sg.LayerSpec(d_model=8, d_ff=16, n_experts=4, top_k=4, router="soft")
    measured = sg.measure(spec, tokens=2, trials=LAYERS, seed=5, sites=("output",), readings=("mean",), weights=("up",))
    values = zip(measured.weight_mso["up"].values, measured.activation_mso["mean"]["output"].values, strict=True)
    p = [sg.judge(weight_mso=f"{w:.2e}", activation_mso=f"{a:.2e}", d_model=width, d_ff=16, n_experts=4, top_k=4).p for w, a in values]
    assert bool(np.mean(np.array(p) < 0.05) < 0.05 + 5 * math.sqrt(0.05 * 0.95 / LAYERS)) is acquitted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_mso": None}, "weight_mso, activation_mso: expected at least one, got neither"),
        ({"weight_mso": "about 1e-6"}, "weight_mso: expected a decimal number such as 1.33e-4, got 'about 1e-6'"),
        ({"weight_mso": float("nan")}, "weight_mso: expected a decimal number such as 1.33e-4, got 'nan'"),
        ({"weight_mso": True}, "weight_mso: expected a decimal number such as 1.33e-4, got 'True'"),
        ({"activation_mso": "-0.1"}, "activation_mso: expected a mean of squared cosines, from 0 to 1, got '-0.1'"),
        ({"activation_mso": 1.5}, "activation_mso: expected a mean of squared cosines, from 0 to 1, got 1.5"),
        ({"n_experts": 1, "top_k": 1}, "n_experts: expected a whole number, at least 2"),
        ({"top_k": 5}, "top_k"),
        ({"trials": 0}, "trials"),
        ({"d_model": 0}, "d_model"),
    ],
)
def test_what_is_no_report_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        sg.judge(**{"weight_mso": "1e-3", "d_model": 8, "d_ff": 4, "n_experts": 4} | change)


def test_what_no_width_gives_and_what_the_widest_one_tried_does():
    assert "; no width fits (" in sg.judge(weight_mso="0.9000", activation_mso="0.0001", d_model=8, d_ff=8, n_experts=8).verdict
    assert " to 32 or more fits" in sg.judge(activation_mso="0.01", d_model=8, d_ff=8, n_experts=4).verdict
    one = sg.judge(activation_mso="1.0", d_model=1, d_ff=1, n_experts=4)
    assert (one.p, one.values["activation_mso"].z) == (1, 0)


def test_it_prints_and_is_json_and_html():
    found = sg.judge(weight_mso="3.9e-6", activation_mso="0.004", d_model=256, d_ff=1024, n_experts=16, trials=5)
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["weight_mso", "activation_mso", "at"]
    plain = found.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["values"]["weight_mso"]["p"] == found.values["weight_mso"].p
    assert plain["widths"]["256"] == found.p
    assert found._repr_html_() == f"<pre>{found}</pre>"


def test_the_command(capsys):
    argv = ["judge", "--weight-mso", "3.9e-6", "--activation-mso", "0.0040", "--d-model", "256", "--d-ff", "1024", "--n-experts", "16"]
    found = sg.judge(weight_mso="3.9e-6", activation_mso="0.0040", d_model=256, d_ff=1024, n_experts=16, trials=5)
    assert main([*argv, "--trials", "5"]) == 0
    assert capsys.readouterr().out.strip() == str(found)
    assert main([*argv, "--trials", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.as_dict()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weight-mso", "x"], "weight_mso: expected a decimal number such as 1.33e-4, got 'x'"),
        ([], "weight_mso, activation_mso: expected at least one, got neither"),
        (["--weight-mso", "1e-3", "--trails", "2"], "unknown flag --trails; did you mean '--trials'?"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, flags, message):
    with pytest.raises(SystemExit) as ended:
        main(["judge", "--d-model", "8", "--d-ff", "8", "--n-experts", "4", *flags])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"simgap judge: error: {message}\n"

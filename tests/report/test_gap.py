"""Gaps as text: a line for whatever was measured, notes for what was left out, reasons for what has no null."""

import dataclasses
import html
import re

import pytest

import simgap as sg
import simgap.sweeps.frame
from simgap.report.gap import HEADER, gap_table, prediction_table

SPECS = {
    "plain": sg.LayerSpec(d_model=6, d_ff=10, n_experts=4, activation="relu"),
    "everything": sg.LayerSpec(d_model=6, d_ff=10, n_experts=4, gated=True, norm="layernorm", n_shared_experts=2),
    "no null": sg.LayerSpec(d_model=6, d_ff=10, n_experts=4, init="upcycled"),
}


def name(path: tuple[str, ...]) -> str:
    return " ".join(path).replace("_mso", "")


def lines_of(spec: sg.LayerSpec, trials: int = 3, **request) -> tuple[sg.Gap, sg.Gap, list[str]]:
    measured = sg.measure(spec, tokens=9, trials=trials, **request)
    predicted = sg.predict(spec, tokens=9, trials=trials)
    return measured, predicted, str(gap_table(measured, predicted, sg.calibrate(measured, predicted))).splitlines()


def prediction_lines(predicted: sg.Gap, hypotheses: bool = False) -> list[str]:
    return str(prediction_table(predicted, hypotheses)).splitlines()


@pytest.mark.parametrize("which", SPECS)
def test_every_measured_quantity_has_one_line(which):
    measured, _, lines = lines_of(SPECS[which])
    sides = [("", measured)] + ([("shared ", measured.shared)] if measured.shared else [])
    expected = [prefix + name(path) for prefix, side in sides for path, value in side.items() if value.mean is not None]
    assert lines[0].split() == list(HEADER)
    assert [line.split("  ")[0] for line in lines[1 : len(expected) + 1]] == expected
    assert len(set(expected)) == len(expected) > 8
    assert lines[len(expected) + 1].startswith("load per expert ")


def test_numbers_of_a_line():
    measured, predicted, lines = lines_of(SPECS["plain"])
    calibrated = sg.calibrate(measured, predicted)
    line = next(line for line in lines if line.startswith("activation mean output"))
    output, judged = measured.activation_mso["mean"]["output"], calibrated.activation_mso["mean"]["output"]
    shown = [f"{output.mean:.4g} ± {output.sem:.1g}", "0.1667", "exact", f"{judged.excess:.4g}", f"{judged.z:+.1f}", f"{judged.p:.2g}"]
    assert [cell.strip() for cell in line.split("  ") if cell.strip()][1:] == shown


def test_z_says_when_it_is_of_the_measured_error():
    measured, predicted, lines = lines_of(SPECS["plain"])
    hidden = sg.calibrate(measured, predicted).activation_mso["token"]["hidden"]
    assert hidden.z_unit == "sem"
    assert f"{hidden.z:+.1f} sem  " in next(line for line in lines if line.startswith("activation token hidden"))
    assert " sem" not in next(line for line in lines if line.startswith("activation mean output"))


def test_a_missing_null_is_a_dash():
    _, _, lines = lines_of(SPECS["no null"])
    line = next(line for line in lines if line.startswith("activation mean output"))
    assert re.split(" {2,}", line)[-5:] == ["-"] * 5


def test_one_trial_has_no_error():
    _, _, lines = lines_of(SPECS["plain"], trials=1)
    assert not any("±" in line for line in lines)


def test_columns_are_aligned():
    _, _, lines = lines_of(SPECS["everything"])
    at = lines[0].index("measured")
    rows = lines[: next(i for i, line in enumerate(lines) if line.startswith("load"))]
    assert all(row[at - 1] == " " and row[at] != " " for row in rows)


def test_pairs_left_out_are_noted():
    def zero(weights):
        up = weights.up.clone()
        up[:, 2] = 0
        return dataclasses.replace(weights, up=up)

    measured, _, lines = lines_of(SPECS["plain"], prepare=zero)
    assert measured.weight_mso["up"].dropped == 9
    assert "weight up: 9 pairs left out (trial 0 expert 2, trial 1 expert 2, trial 2 expert 2)" in lines
    noted = [line for line in lines if "pairs left out" in line]
    assert len(noted) == sum(value.dropped > 0 for _, value in measured.items() if value.mean is not None)


def test_routing_has_a_line_and_every_missing_null_a_reason():
    measured, _, lines = lines_of(dataclasses.replace(SPECS["plain"], inputs="powerlaw"))
    load = measured.routing["load"]
    after = [line for line in lines if not line.startswith("no null for ")]
    assert any("law A6 needs isotropic tokens" in line for line in lines if line not in after)
    assert after[-1].startswith("output overlap is ")
    assert after[-2] == f"load per expert {min(load):.3f} to {max(load):.3f} (balanced 0.250), idle experts 0, dropped tokens 0 of 27"


@pytest.mark.parametrize("which", SPECS)
def test_every_prediction_has_a_line_or_a_reason(which):
    predicted = sg.predict(SPECS[which], tokens=9, trials=3)
    lines = prediction_lines(predicted)
    sides = [("", predicted)] + ([("shared ", predicted.shared)] if predicted.shared else [])
    checked = 0
    for prefix, side in sides:
        for path, value in side.items():
            shown = prefix + name(path)
            if value.mean is None:
                reason = [line for line in lines if line.startswith("no null for ") and line.endswith(f": {value.why}")]
                assert len(reason) == 1
                assert shown in reason[0].removeprefix("no null for ").removesuffix(f": {value.why}").split(", ")
            else:
                line = next(line for line in lines if line.startswith(shown + "  "))
                assert re.split(" {2,}", line)[-5:] == [
                    f"{value.mean:.4g}",
                    "-" if value.sd is None else f"{value.sd:.4g}",
                    value.kind,
                    value.order or "-",
                    value.law,
                ]
            checked += 1
    assert checked == (18 if which != "everything" else 36)


def test_every_law_states_its_hypotheses_once():
    predicted = sg.predict(SPECS["everything"], tokens=9, trials=3)
    lines = prediction_lines(predicted, hypotheses=True)
    assert prediction_lines(predicted) == [line for line in lines if " holds where: " not in line]
    laws = [line.partition(" holds where: ")[0] for line in lines if " holds where: " in line]
    assert sorted(laws) == ["A7", "N1", "N2", "N3", "N4"]
    for law in laws:
        text = next(line for line in lines if line.startswith(f"{law} holds where: "))
        values = [value for side in (predicted, predicted.shared) for _, value in side.items() if value.law == law]
        assert values
        assert all(text.count(hypothesis) >= 1 for value in values for hypothesis in value.hypotheses)


def test_upcycled_experts_get_nothing_but_reasons():
    lines = prediction_lines(sg.predict(SPECS["no null"], tokens=9, trials=3))
    assert lines[0].split() == ["quantity", "null", "sd", "kind", "error", "law"]
    assert len(lines) > 1
    assert all(line.startswith("no null for ") for line in lines[1:])
    assert any("init = upcycled" in line for line in lines)


@pytest.mark.parametrize("which", SPECS)
def test_print_shows_what_the_command_prints(which, capsys):
    measured, predicted, lines = lines_of(SPECS[which])
    assert str(measured).splitlines() == lines
    assert str(predicted).splitlines() == prediction_lines(predicted)
    judged = str(sg.calibrate(measured, predicted)).splitlines()
    assert judged[0].split() == ["quantity", "value", "null", "excess", "z", "p"]
    assert {line for line in lines if line.startswith("load per expert")} <= set(judged)
    notes = [line for line in judged[1 + len(measured.values) :] if line.startswith(("null of ", "no null for "))]
    # Every quantity that has a value is in one of them.
    named = [name for line in notes for name in line.partition(":")[0].removeprefix("no null for ").removeprefix("null of ").split(", ")]
    assert sorted(named) == sorted(str(q).replace("_mso ", " ") for q, value in measured.values.items() if value.mean is not None)


def test_pairs_with_shared_experts_are_held_against_their_own_nulls():
    measured, predicted, lines = lines_of(SPECS["everything"])
    own = [line for line in lines if line.startswith("shared ")]
    assert len(own) > 8
    assert [re.split(" {2,}", line) for line in str(measured.shared).splitlines()[1 : len(own) + 1]] == [
        re.split(" {2,}", line) for line in own
    ]
    assert [line.split("  ")[0] for line in str(predicted.shared).splitlines() if line.startswith("shared gap")] == ["shared gap"]


def test_only_what_was_measured_is_printed():
    routing = str(sg.measure(SPECS["plain"], tokens=9, trials=3, metrics="routing"))
    assert "load_entropy" in routing
    assert "output" not in routing
    measured = sg.measure(SPECS["plain"], tokens=9, trials=3, sites="output", readings="mean", weights="up")
    names = [line.split("  ")[0] for line in str(measured).splitlines()]
    assert names[1:5] == ["weight up", "activation mean output", "gap", "ratio"]
    assert measured.to_frame().quantity.tolist() == ["weight_mso up", "activation_mso mean output", "gap", "ratio"]


def test_frames():
    """The rows of a sweep of one cell, and all that predictions and calibrations say."""
    measured, predicted, _ = lines_of(SPECS["everything"])
    judged, frame = sg.calibrate(measured, predicted), measured.to_frame()
    assert frame.quantity.tolist() == [str(quantity) for quantity in measured.values]
    assert set(simgap.sweeps.frame.VALUES) == set(frame.columns) - {"quantity"}
    at = frame.set_index("quantity").loc["shared activation_mso mean output"]
    value = measured["shared activation_mso mean output"]
    assert (at["mean"], at["sem"], at["n"], at["pairs"]) == (value.mean, value.sem, 3, value.pairs)
    assert at["predicted_mean"] == predicted["shared activation_mso mean output"].mean
    assert at["z"] == judged["shared activation_mso mean output"].z
    assert {"quantity", "mean", "sd", "law", "hypotheses"} <= set(predicted.to_frame().columns)
    assert judged.to_frame().set_index("quantity").loc["gap", "excess"] == judged.gap.excess


@pytest.mark.parametrize("which", SPECS)
def test_a_notebook_shows_the_same_table(which):
    for gap in lines_of(SPECS[which])[:2]:
        shown = gap._repr_html_()
        rows = re.findall("<tr>(.*?)</tr>", shown)
        cells = [[html.unescape(cell) for cell in re.findall("<t[hd]>(.*?)</t[hd]>", row)] for row in rows]
        assert cells == [re.split(" {2,}", line) for line in str(gap).splitlines()[: len(cells)]]
        assert [html.unescape(note) for note in re.findall("<div>(.*?)</div>", shown)] == str(gap).splitlines()[len(cells) :]

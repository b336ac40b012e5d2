"""Rates of small p at true nulls: those of the laws hold, and the normal p, the biased twin, fails the same line. Repetitions fixed
beforehand."""

import csv
import json

import pytest

from experiments.__main__ import artefacts
from experiments.cells import Bench
from experiments.null_rates import gap_and_ratio
from experiments.null_rates.gap_and_ratio import KEPT, LEVELS, NORMAL, QUANTITIES, REPETITIONS, verdict

ORIGIN = {"commit": "abc", "dirty": False, "versions": {}, "canary": "x"}


def test_small_runs_have_the_p_that_is_stated_and_a_normal_p_has_not(tmp_path, monkeypatch):
    monkeypatch.setattr(gap_and_ratio, "EXPERTS", (2, 4))
    monkeypatch.setattr(gap_and_ratio, "TRIALS", (1, 3))
    assert artefacts()["null_rates"]["gap_and_ratio"] == gap_and_ratio
    records = gap_and_ratio.compute("smoke", Bench(tmp_path, "gap_and_ratio", quiet=True, origin=ORIGIN))
    repetitions = REPETITIONS["smoke"]
    for record in records:
        for quantity in QUANTITIES:
            said = [verdict(count, repetitions, level) for count, level in zip(record["values"][quantity], LEVELS, strict=True)]
            assert said == ["as stated"] * 2, (record["labels"], quantity)
        normal = [verdict(n, repetitions, level) for n, level in zip(record["values"][NORMAL + "ratio"], LEVELS, strict=True)]
        assert "too often" in normal, record["labels"]
    paths = gap_and_ratio.render(records, tmp_path)
    assert [path.name for path in paths] == ["gap_and_ratio.md", "gap_and_ratio.csv"]
    with open(tmp_path / "gap_and_ratio.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["quantity"], int(row["experts"]), int(row["trials"])) for row in rows] == [
        (quantity, experts, trials) for quantity in QUANTITIES for experts in (2, 4) for trials in (1, 3)
    ]


def test_the_kept_record_holds_every_cell_and_nothing_too_often():
    records = [json.loads(line) for line in KEPT.read_text().splitlines()]
    found = {(record["labels"]["experts"], record["labels"]["trials"]): record["values"] for record in records}
    assert set(found) == {(e, t) for e in (2, 4, 8) for t in (1, 2, 3, 10)}
    assert {record["labels"]["repetitions"] for record in records} == {1000}
    for cell, values in found.items():
        for quantity in QUANTITIES:
            for count, level in zip(values[quantity], LEVELS, strict=True):
                assert verdict(count, 1000, level) == "as stated", (cell, quantity, level)
    assert sum(verdict(values[NORMAL + "ratio"][0], 1000, 0.05) == "too often" for values in found.values()) >= 6


@pytest.mark.parametrize(
    ("count", "said"),
    [(50, "as stated"), (84, "as stated"), (85, "too often"), (16, "as stated"), (15, "conservative"), (0, "conservative")],
)
def test_the_line_is_binomial_at_five_sigma(count, said):
    """sqrt(1000 x 0.05 x 0.95) = 6.89."""
    assert verdict(count, 1000, 0.05) == said

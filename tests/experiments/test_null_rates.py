"""Rates of small p at true nulls: those of the laws hold, and the normal p, the biased twin, fails the same line. Repetitions fixed
beforehand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import artefacts
from experiments.cells import Bench
from experiments.null_rates import (
    by_name,
    drawn_orders,
    duplicates,
    gap_and_ratio,
    other_tokens,
    other_tokens_seen,
    rare,
    renumbered,
    signs,
    upcycled,
    whitened,
)
from experiments.null_rates.gap_and_ratio import KEPT, LEVELS, NORMAL, QUANTITIES, REPETITIONS, verdict
from simgap import explain
from simgap.api.pair_table import FEWEST_TOKENS
from simgap.nulls.other_token import NO_LABELS, judged, of_gains

PAGE = Path(__file__).parents[2] / "docs" / "nulls.md"
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


def test_independent_experts_have_the_p_that_is_stated_in_any_space(tmp_path, monkeypatch):
    """A subset of what is kept, at 100 repetitions; signs drawn for each pair and not for each expert fail at the kept thousand."""
    monkeypatch.setattr(signs, "EXPERTS", (3, 8))
    monkeypatch.setattr(signs, "DESIGNS", {name: signs.DESIGNS[name] for name in ("4 coordinates x 10", "shared experts")})
    assert artefacts()["null_rates"]["signs"] == signs
    records = signs.compute("smoke", Bench(tmp_path, "signs", quiet=True, origin=ORIGIN))
    assert [(record["labels"]["design"], record["labels"]["experts"]) for record in records] == [
        (design, experts) for design in signs.DESIGNS for experts in (3, 8)
    ]
    for record in records:
        for name in signs.FUNCTIONS:
            for count, level in zip(record["values"][name], LEVELS, strict=True):
                assert verdict(count, 100, level) == "as stated", (record["labels"], name)
    assert signs.compute("smoke", Bench(tmp_path, "signs", quiet=True, origin=ORIGIN)) == records
    assert [path.name for path in signs.render(records, tmp_path)] == ["signs.md", "signs.csv"]
    with open(tmp_path / "signs.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4 * 5


def test_the_kept_rates_of_signs():
    """Nothing too often but signs by pair, where few coordinates are large."""
    records = [json.loads(line) for line in signs.KEPT.read_text().splitlines()]
    found = {(record["labels"]["design"], record["labels"]["experts"]): record["values"] for record in records}
    assert set(found) == {(design, experts) for design in signs.DESIGNS for experts in (3, 8, 32)}
    assert {record["labels"]["repetitions"] for record in records} == {1000}
    said = {
        (cell, name): [verdict(count, 1000, level) for count, level in zip(values[name], LEVELS, strict=True)]
        for cell, values in found.items()
        for name in (*signs.FUNCTIONS, signs.BY_PAIR)
    }
    assert [place for place, words in said.items() if "too often" in words and place[1] != signs.BY_PAIR] == []
    assert sum("too often" in words for (_, name), words in said.items() if name == signs.BY_PAIR) >= 3


def test_units_numbered_independently_have_the_p_that_is_stated(tmp_path, monkeypatch):
    """A subset of what is kept, at 100 repetitions: in a space that signs and a round space do not know."""
    monkeypatch.setattr(renumbered, "EXPERTS", (8,))
    monkeypatch.setattr(renumbered, "DESIGNS", {"rotated, a common mean": renumbered.DESIGNS["rotated, a common mean"]})
    assert artefacts()["null_rates"]["renumbered"] == renumbered
    records = renumbered.compute("smoke", Bench(tmp_path, "renumbered", quiet=True, origin=ORIGIN))
    (values,) = [record["values"] for record in records]
    for level, place in zip(LEVELS, (1, 2), strict=True):
        for name in (renumbered.ALL, renumbered.TRUSTED, renumbered.PAIR):
            assert verdict(values[name][place], values[name][0], level) == "as stated", name
        for name in (renumbered.SIGNS, renumbered.ROUND):
            assert verdict(values[name][place], values[name][0], level) == "too often", name
    assert [path.name for path in renumbered.render(records, tmp_path)] == ["renumbered.md", "renumbered.csv"]


def test_the_kept_rates_of_renumbered_units():
    """What is relied on is nowhere too small at 5 sigma; few large units, which are named, make p far too small."""
    records = [json.loads(line) for line in renumbered.KEPT.read_text().splitlines()]
    found = {(record["labels"]["design"], record["labels"]["experts"]): record["values"] for record in records}
    assert set(found) == {(design, experts) for design in renumbered.DESIGNS for experts in renumbered.EXPERTS}
    assert {record["labels"]["repetitions"] for record in records} == {1000}
    for cell, values in found.items():
        n, *counts = values[renumbered.TRUSTED]
        for count, level in zip(counts, LEVELS, strict=True):
            assert n == 0 or verdict(count, n, level) == "as stated", cell
    extreme = found["rows lognormal, sd 1.5", 8]
    assert extreme[renumbered.TRUSTED][0] == 0
    assert verdict(extreme[renumbered.ALL][2], 1000, 0.001) == "too often"


def kept(module) -> dict[tuple, dict]:
    records = [json.loads(line) for line in module.KEPT.read_text().splitlines()]
    return {tuple(record["labels"]["cell"]): record["values"] for record in records}


ORDERS = ("round", "rows lognormal, sd 0.5", "a column x 10")


def strays(values) -> list[float]:
    return [abs(sampled - stated) / error for stated, sampled, error in (values[name] for name in drawn_orders.CUMULANTS)]


def test_orders_drawn_one_by_one_have_the_cumulants_and_the_p_of_the_law(tmp_path, monkeypatch):
    """2,000 of two experts. Few large units fail the same line by their p, and the mean of a round space by that of a large column."""
    monkeypatch.setattr(drawn_orders, "EXPERTS", (2,))
    assert artefacts()["null_rates"]["drawn_orders"] == drawn_orders
    records = drawn_orders.compute("smoke", Bench(tmp_path, "drawn_orders", quiet=True, origin=ORIGIN))
    found = {record["labels"]["cell"][0]: record["values"] for record in records}
    said = {
        design: [verdict(count, 2000, level) for count, level in zip(values["p"], drawn_orders.LEVELS, strict=True)]
        for design, values in found.items()
    }
    for design in ORDERS:
        assert max(strays(found[design])) < 5, design
        assert said[design] == ["as stated"] * 3, design
        assert found[design]["relied on"]
    assert said["rows lognormal, sd 1.5"][2] == "too often"
    assert not found["rows lognormal, sd 1.5"]["relied on"]
    _, mean, error = found["a column x 10"]["mean"]
    assert mean - 1 / (drawn_orders.UNITS * drawn_orders.WIDTH) > 5 * error
    assert [path.name for path in drawn_orders.render(records, tmp_path)] == ["drawn_orders.md", "drawn_orders.csv"]


def test_the_kept_orders_have_the_cumulants_and_the_p_of_the_law():
    """100,000 to a setting, in the words of the page."""
    found = kept(drawn_orders)
    assert set(found) == {(design, experts) for design in drawn_orders.DESIGNS for experts in drawn_orders.EXPERTS}
    right = [values for values in found.values() if values[drawn_orders.RELIED_ON]]
    assert {design for (design, _), values in found.items() if values[drawn_orders.RELIED_ON]} == set(ORDERS)
    assert f"within {max(max(strays(values)) for values in right):.1f} standard errors" in PAGE.read_text()
    for at, level in enumerate(drawn_orders.LEVELS):
        assert {verdict(values["p"][at], 100_000, level) for values in right} == {"as stated"}
        least, most = (choose(values["p"][at] for values in right) / 1000 for choose in (min, max))
        assert f"{least:.2f} to {most:.2f}%" in PAGE.read_text()
    for experts in drawn_orders.EXPERTS:
        extreme = found["rows lognormal, sd 1.5", experts]
        assert verdict(extreme["p"][2], 100_000, 0.001) == "too often"
        assert min(strays(extreme)[1:]) > 5


def test_nulls_by_name_have_the_p_that_is_stated_and_break_where_it_is_said(tmp_path, monkeypatch):
    """A subset of what is kept, at 60 repetitions."""
    monkeypatch.setattr(by_name, "EXPERTS", (8,))
    kept = {"DESIGNS": ("isotropic", "weights, 95% zeros"), "BROKEN": ("separable", "weights in two blocks")}
    for table, name in kept.items():
        monkeypatch.setattr(by_name, table, {name: getattr(by_name, table)[name]})
    assert artefacts()["null_rates"]["by_name"] == by_name
    records = by_name.compute("smoke", Bench(tmp_path, "by_name", quiet=True, origin=ORIGIN))
    right, broken = (record["values"]["weight_mso up"] for record in records)
    assert [verdict(count, 60, level) for count, level in zip(right[0], LEVELS, strict=True)] == ["as stated"] * 2
    assert verdict(broken[0][0], 60, 0.05) == "too often"
    assert by_name.compute("smoke", Bench(tmp_path, "by_name", quiet=True, origin=ORIGIN)) == records
    assert [path.name for path in by_name.render(records, tmp_path)] == ["by_name.md", "by_name.csv"]


def test_the_kept_rates_of_nulls_by_name():
    """Nothing too often but where hypotheses break, and there always."""
    records = [json.loads(line) for line in by_name.KEPT.read_text().splitlines()]
    cells = {(each["labels"]["null"], each["labels"]["design"], each["labels"]["experts"]): each["values"] for each in records}
    assert set(cells) == {(*name, experts) for name in (*by_name.DESIGNS, *by_name.BROKEN) for experts in (3, 8)}
    assert {each["labels"]["repetitions"] for each in records} == {250}
    for (null, design, experts), values in cells.items():
        for name, (counts, excess, rms) in values.items():
            said = {verdict(count, 250, level) for count, level in zip(counts, LEVELS, strict=True)}
            place = (null, design, experts, name, excess, rms)
            assert ("too often" in said) == ((null, design) in by_name.BROKEN), place
            assert (excess > 1.9) == ((null, design) in by_name.BROKEN), place


THREE = (("ReLU outputs", 8, 2), ("4 coordinates x 10", 8, 2), ("i^-1, turned", 8, 2))


def test_independent_experts_do_not_exceed_other_tokens_in_any_space(tmp_path, monkeypatch):
    """A subset of what is kept, at 100 repetitions: signs, which do not know turned directions, fail the same line."""
    monkeypatch.setattr(other_tokens, "CASES", THREE)
    assert artefacts()["null_rates"]["other_tokens"] == other_tokens
    records = other_tokens.compute("smoke", Bench(tmp_path, "other_tokens", quiet=True, origin=ORIGIN))
    for record in records:
        for level, count in zip(other_tokens.LEVELS, record["values"][other_tokens.OTHER], strict=False):
            assert verdict(count, 100, level) == "as stated", (record["labels"], level)
    assert verdict(records[2]["values"][other_tokens.SIGNS][0], 100, 0.05) == "too often"
    assert other_tokens.compute("smoke", Bench(tmp_path, "other_tokens", quiet=True, origin=ORIGIN)) == records
    assert [path.name for path in other_tokens.render(records, tmp_path)] == ["other_tokens.md", "other_tokens.csv"]
    with open(tmp_path / "other_tokens.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * 5


def between(values) -> str:
    """As percentages of a thousand, the least and the largest."""
    least, most = f"{min(values) / 10:g}", f"{max(values) / 10:g}"
    return f"{least}%" if least == most else f"{least} to {most}%"


def lines_of_rates(found) -> list[str]:
    """The table of docs/nulls.md, from the record."""
    spaces = tuple(found)
    lines = [
        f"| {said} | {' | '.join(between([found[cell][name][at] for cell in spaces]) for at in range(3))} |"
        for said, name in (("other tokens", other_tokens.OTHER), ("signs", other_tokens.SIGNS), ("a round space", other_tokens.ROUND))
    ]
    lines.append(f'| verdict "more than" | {between([values[other_tokens.MORE] for values in found.values()])} | | |')
    judged = [cell for cell in spaces if 300 * cell[2] * (cell[2] - 1) / (cell[1] * (cell[1] - 1)) >= FEWEST_TOKENS]
    return [*lines, f"| a pair at 0.05, in {len(judged)} settings | {between([found[cell][other_tokens.PAIRS] for cell in judged])} | | |"]


def lines_of_what_is_seen(found) -> list[str]:
    lines = []
    for design in other_tokens_seen.BROKEN:
        cells = [found["broken", design, 16, k] for k in (2, 4)]
        names = ("any", "like size", "remedy", "doubt", "more than", "more than, remedy")
        lines.append(f"| {design} | {' | '.join(', '.join(f'{cell[name]}%' for cell in cells) for name in names)} |")
    for space in other_tokens_seen.SPACES:
        for experts in (8, 16, 64):
            values = found["shared", space, experts, 2]
            pairs = [
                f"{values[f'{share}, p < {level}'] / 2:g}, {values[f'{share}, p < {level}, simulated'] / 2:g}"
                for level in other_tokens_seen.LEVELS
                for share in other_tokens_seen.SHARES[1:]
            ]
            lines.append(f"| {space}, {experts} experts | {' | '.join(pairs)} |")
    return lines


def test_the_kept_rates_of_other_tokens_are_those_of_the_page():
    """Nowhere too often at 5 sigma, at 0.05 conservative by a factor of 3 at most; single pairs at their level or below it."""
    found = kept(other_tokens)
    assert set(found) == set(other_tokens.CASES)
    for cell, values in found.items():
        for level, count in zip(other_tokens.LEVELS, values[other_tokens.OTHER], strict=False):
            assert verdict(count, 1000, level) != "too often", cell
        assert values[other_tokens.OTHER][0] >= 50 / 3, cell
        # All pairs at 0.01 and single ones at 0.01.
        assert verdict(values[other_tokens.MORE], 1000, 0.02) != "too often", cell
        assert verdict(values[other_tokens.PAIRS], 1000, 0.05) != "too often", cell
    page = PAGE.read_text()
    assert [line for line in lines_of_rates(found) if line not in page] == []


def test_the_kept_record_of_what_is_seen_is_that_of_the_page():
    found = kept(other_tokens_seen)
    assert set(found) == set(other_tokens_seen.CELLS)
    page = PAGE.read_text()
    assert [line for line in lines_of_what_is_seen(found) if line not in page] == []


def test_a_small_run_of_what_is_seen_knows_a_bias_by_the_sizes_of_tokens(tmp_path, monkeypatch):
    cell = ("broken", "bias, sizes 1", 16, 2)
    monkeypatch.setattr(other_tokens_seen, "CELLS", (cell,))
    assert artefacts()["null_rates"]["other_tokens_seen"] == other_tokens_seen
    records = other_tokens_seen.compute("smoke", Bench(tmp_path, "other_tokens_seen", quiet=True, origin=ORIGIN))
    (values,) = [record["values"] for record in records]
    assert values["any"] == values["doubt"] == values["layers"] == 10
    assert values["remedy"] <= 5
    assert values["more than"] <= 2
    assert [path.suffix for path in other_tokens_seen.render(records, tmp_path)] == [".md", ".csv"]


def test_a_whitened_reading_has_the_p_that_is_stated_and_sees_what_experts_have_in_common(tmp_path, monkeypatch):
    """A subset of what is kept, at 60 repetitions; experts that have a share in common fail the same line."""
    cells = (("4 coordinates x 100", 8, 2), ("0.3 in common, 4 coordinates x 10", 16, 2))
    monkeypatch.setattr(whitened, "CELLS", cells)
    assert artefacts()["null_rates"]["whitened"] == whitened
    records = whitened.compute("smoke", Bench(tmp_path, "whitened", quiet=True, origin=ORIGIN))
    said = [
        [verdict(count, 60, level) for level, count in zip(whitened.LEVELS, record["values"][whitened.WHITENED], strict=False)]
        for record in records
    ]
    assert said[0] == ["as stated"] * 3
    assert said[1][0] == "too often"
    assert [path.name for path in whitened.render(records, tmp_path)] == ["whitened.md", "whitened.csv"]


def test_whitened_rates_are_of_what_an_explanation_says():
    layer = whitened.INDEPENDENT["AR(0.9) in documents"](np.random.default_rng(0), 8, 2)
    found = explain(layer.vectors, layer.routing, documents=layer.documents)
    for looked, said in zip(whitened.readings(layer, 8), ((found.z, found.p), (found.whitened_z, found.whitened_p)), strict=True):
        assert judged(looked, of_gains(looked, NO_LABELS))[1:] == said


def test_copies_of_one_layer_are_called_that_by_weights_and_tokens(tmp_path, monkeypatch):
    """Three layers of each: independent experts are called nothing."""
    monkeypatch.setattr(upcycled, "CELLS", ((upcycled.INDEPENDENT, 0.0), (upcycled.COPIES, 0.01), (upcycled.REORDERED, 0.01)))
    assert artefacts()["null_rates"]["upcycled"] == upcycled
    records = upcycled.compute("smoke", Bench(tmp_path, "upcycled", quiet=True, origin=ORIGIN))
    independent, copies, reordered = (record["values"] for record in records)
    for name in ("tokens: more than", "weights: more than both", "explain: nothing tells them apart"):
        assert (independent[name], copies[name]) == (0, 3), name
    # All pairs are alike, and none stands out. Other orders of units hide an ancestor from weights, and not from tokens.
    assert copies["tokens: a pair at 0.05"] == copies["weights: a pair at 0.05"] == 0
    assert (reordered["weights: more than both"], reordered["tokens: more than"]) == (0, 3)
    assert [path.name for path in upcycled.render(records, tmp_path)] == ["upcycled.md", "upcycled.csv"]


def lines_of_upcycled(found) -> list[str]:
    names = ("round space", "signs", "other tokens", "more than"), ("round space", "signs", "renumbered", "more than both")
    lines = []
    for (design, noise), values in found.items():
        said = {upcycled.INDEPENDENT: "no ancestor", upcycled.COPIES: f"{noise:g}", upcycled.REORDERED: f"{noise:g}, units in other orders"}
        tokens, weights = ([values[f"{of}: {name}"] for name in some] for of, some in zip(("tokens", "weights"), names, strict=True))
        tokens.insert(3, values["explain: whitened"])
        cells = [f"{values['tokens: overlap']:.3g}", *tokens, f"{values['weights: overlap']:.2g}", *weights]
        lines.append(f"| {said[design]} | {' | '.join(map(str, cells))} |")
    return lines


def test_the_kept_record_of_upcycled_experts_is_that_of_the_page():
    """Copies are called that; no more of the independent layers than 5 sigma of their levels."""
    found = kept(upcycled)
    assert set(found) == set(upcycled.CELLS)
    assert {values["layers"] for values in found.values()} == {100}
    for noise in (0.01, 0.5):
        copies, reordered = found[upcycled.COPIES, noise], found[upcycled.REORDERED, noise]
        assert copies["tokens: more than"] == copies["weights: more than both"] == reordered["tokens: more than"] == 100
        assert reordered["weights: more than both"] == 0
        assert copies["tokens: a pair at 0.05"] == copies["weights: a pair at 0.05"] == 0
    independent = found[upcycled.INDEPENDENT, 0.0]
    for name in ("tokens: signs", "weights: signs", "weights: renumbered"):
        assert verdict(independent[name], 100, upcycled.LEVEL) == "as stated"
    assert verdict(independent["tokens: other tokens"], 100, upcycled.SECOND_LEVEL) == "as stated"
    assert [line for line in lines_of_upcycled(found) if line not in PAGE.read_text()] == []


def test_two_near_copies_behind_one_coordinate_are_found_whitened(tmp_path, monkeypatch):
    """One layer; without copies no pair is taken for one."""
    monkeypatch.setattr(duplicates, "CELLS", ((1, 100, 0, 0.3), (1, 100, 2, 0.3)))
    assert artefacts()["null_rates"]["duplicates"] == duplicates
    records = duplicates.compute("smoke", Bench(tmp_path, "duplicates", quiet=True, origin=ORIGIN))
    independent, copies = (record["values"] for record in records)
    assert independent["raw: others"] == independent["whitened: others"] == copies["whitened: others"] == 0
    assert copies["whitened: first rows"] == copies["whitened: copies"] == copies["hidden"] == 1
    assert [path.name for path in duplicates.render(records, tmp_path)] == ["duplicates.md", "duplicates.csv"]


def test_ten_thousand_repetitions_are_of_settings_that_a_thousand_know():
    assert artefacts()["null_rates"]["rare"] == rare
    assert set(rare.CASES) < set(other_tokens.CASES)


def lines_of_whitened(found) -> list[str]:
    independent = [values for (design, _, _), values in found.items() if design in whitened.INDEPENDENT]
    lines = [
        f"| {name}, {len(independent)} settings | {' | '.join(between([values[name][at] for values in independent]) for at in range(3))} |"
        for name in (whitened.RAW, whitened.WHITENED)
    ]
    for design, _, _ in (cell for cell in found if cell[0] in whitened.ALIKE):
        raw, white = (found[design, 16, 2][name] for name in (whitened.RAW, whitened.WHITENED))
        lines.append(f"| {design}: raw, whitened | {' | '.join(f'{raw[at] / 10:g}%, {white[at] / 10:g}%' for at in range(3))} |")
    return lines


def test_the_kept_rates_of_whitened_readings_are_those_of_the_page():
    """Nowhere too often at 5 sigma, at 0.05 conservative by a factor of 2 at most; what experts have in common fails the same line."""
    found = kept(whitened)
    assert set(found) == set(whitened.CELLS)
    for (design, _, _), values in found.items():
        *counts, mean, spread = values[whitened.WHITENED]
        said = {verdict(count, 1000, level) for count, level in zip(counts, whitened.LEVELS, strict=True)}
        assert ("too often" in said) == (design in whitened.ALIKE), design
        if design in whitened.INDEPENDENT:
            assert counts[0] >= 25, design
            # A mean of 1,000 z, and a spread whose error is that of normal ones and a half more.
            assert abs(mean) < 5 * spread / 1000**0.5, design
            assert abs(spread - 1) < 5 * 1.5 / 2000**0.5, design
    assert [line for line in lines_of_whitened(found) if line not in PAGE.read_text()] == []


def lines_of_duplicates(found) -> list[str]:
    lines = []
    for (large, size, copies, own_part), values in found.items():
        what = "no copies" if not copies else "near copies" if own_part else "copies"
        coordinates = f"{large} coordinate{'s' if large > 1 else ''} x {size}"
        for reading in (whitened.RAW, whitened.WHITENED):
            if f"{reading}: others" in values:
                counts = [values.get(f"{reading}: {name}", "") for name in ("first rows", "copies", "others")]
                lines.append(f"| {coordinates}, {what}, {reading} | {' | '.join(map(str, counts))} |")
    return lines


def test_the_kept_record_of_copies_is_that_of_the_page():
    """Both pairs in at least 99 of 100 layers, and behind a coordinate that hides them whitened alone, which the verdict says; other pairs
    at 0.05 in at most 5."""
    found = kept(duplicates)
    assert set(found) == set(duplicates.CELLS)
    assert {values["layers"] for values in found.values()} == {100}
    for (_, size, copies, _), values in found.items():
        readings = [name for name in (whitened.RAW, whitened.WHITENED) if f"{name}: others" in values]
        assert all(values[f"{name}: others"] <= 5 for name in readings)
        if copies:
            assert values[f"{readings[-1]}: first rows"] >= 99
            assert values[f"{readings[-1]}: copies"] >= 99
        assert values["hidden"] >= 95 * (size == duplicates.HIDING)
    assert [line for line in lines_of_duplicates(found) if line not in PAGE.read_text()] == []


def test_in_ten_thousand_layers_no_p_is_too_small():
    """The kept record: within 5 sigma of the level or below it, and signs within 5 sigma on both sides; the round space by far not."""
    records = [json.loads(line) for line in rare.KEPT.read_text().splitlines()]
    assert len(records) == len(rare.CASES)
    for record in records:
        n, values = record["labels"]["repetitions"], record["values"]
        assert n == 10_000
        for level, of_tokens, of_signs in zip((0.05, 0.01, 0.001), values["other tokens"], values["signs"], strict=False):
            sigma = (n * level * (1 - level)) ** 0.5
            assert of_tokens <= n * level + 5 * sigma, record["labels"]
            assert abs(of_signs - n * level) <= 5 * sigma, record["labels"]
        # 5 errors of a standard deviation, of a law of kurtosis up to 5.5.
        assert abs(values["other tokens"][3] - 1) < 5 * 1.5 / (2 * n) ** 0.5
        assert values["more than"] + values["a pair at 0.05"] <= 5
    assert max(record["values"]["round space"][0] for record in records) == 10_000

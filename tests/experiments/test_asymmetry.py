"""The asymmetry of function and representation: pairs' similarities are those of the metrics, untrained experts lie on the laws, related
ones do not."""

import csv
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

mpl.use("Agg")

import simgap as sg
from experiments.__main__ import artefacts
from experiments.asymmetry import geometry, similarities
from experiments.asymmetry.pairs import LIKENESS, Related, of_pairs
from experiments.cells import Bench
from simgap.metrics.ablation import replaced
from simgap.moe import draws_of, open_inputs, simulate
from simgap.records import Records

ORIGIN = {"commit": "abc", "dirty": False, "versions": {}, "canary": "x"}
SPEC = sg.LayerSpec(d_model=10, d_ff=14, n_experts=5, top_k=2, activation="silu", gated=True)
RUN = sg.RunSpec(tokens=60, trials=1, seed=3)


def bench(out, name) -> Bench:
    return Bench(out, name, quiet=True, origin=ORIGIN)


def layer_of(prepare=None, spec=SPEC):
    draws = draws_of(spec, RUN.seed, range(1))
    return simulate(draws, RUN, open_inputs(draws), prepare)


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick_figures):
    """Both smoke presets, once: folder, records and what render returned."""
    out, modules = tmp_path_factory.mktemp("asymmetry"), artefacts()["asymmetry"]
    done = {}
    for name, module in modules.items():
        records = module.compute("smoke", bench(out, name))
        done[name] = records, module.render(records, out)
    return out, done


def test_every_artefact_is_listed_and_writes_its_files(made):
    out, done = made
    assert set(done) == {"similarities", "geometry"}
    for name, (_, paths) in done.items():
        assert {f"{name}.{ending}" for ending in ("md", "csv", "png", "pdf")} <= {path.name for path in paths}
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(Records(out / "similarities.jsonl")) == done["similarities"][0]


def test_pairs_are_those_of_the_metrics():
    found, layer = of_pairs(layer_of()), layer_of()
    run = {"tokens": RUN.tokens, "trials": 1, "seed": RUN.seed}
    metrics = ["similarity", "weight_overlap", "jacobian", "cka", "subspace"]
    gap = sg.measure(SPEC, **run, metrics=metrics)
    named = {
        "weights, flattened": "expert_cos flattened",
        "weights, mean unit": "expert_cos neuron_averaged",
        "weights, units matched": "expert_cos neuron_matched",
        "W_up, squared (MSO)": "weight_mso up",
        "router rows": "expert_cos router_rows",
        "mean outputs": "expert_cos mean_output",
        "CKA of outputs": "cka_debiased all output",
        "output subspaces": "subspace_overlap rank_8 output",
        "Jacobians": "jacobian_cos all",
    }
    for name, quantity in named.items():
        assert np.mean(found[name]) == pytest.approx(gap[quantity].mean, rel=1e-5, abs=1e-7), name
    (block,) = layer.blocks(("output",), every=True, tokens=60)
    outputs, indices = block.rows["output"][0][block.every[0]].double(), layer.indices[0]
    unit = (outputs / outputs.norm(dim=-1, keepdim=True)).numpy()
    cosines = {(i, j): (unit[:, i] * unit[:, j]).sum(-1) for i, j in combinations(range(5), 2)}
    active = np.stack([(indices == e).any(1).numpy() for e in range(5)], 1)
    met = [(cos[active[:, i] & active[:, j]] ** 2).mean() for (i, j), cos in cosines.items()]
    np.testing.assert_allclose(found["outputs, squared (MSO)"], met, rtol=1e-9)
    np.testing.assert_allclose(found["outputs"], [cos.mean() for cos in cosines.values()], rtol=1e-9, atol=1e-12)
    errors = replaced(outputs, layer.gates[0], indices)
    np.testing.assert_allclose(found[LIKENESS], [-(errors[i, j] + errors[j, i]) / 2 for i, j in cosines], rtol=1e-12)


def test_related_experts_correlate_by_their_shares_and_an_order_of_units_changes_no_output():
    spec = sg.LayerSpec(d_model=64, d_ff=256, n_experts=4, top_k=2)
    flat = layer_of(Related(0.8), spec).weights.up[0].flatten(1).double()
    cosines = torch.corrcoef(flat).numpy()
    shares = np.array([0, 0.4, 0.8, 1.0])
    # 5 sigma of a correlation of so many entries.
    np.testing.assert_allclose(cosines, np.sqrt(np.outer(shares, shares)) + np.diag(1 - shares), atol=5 / np.sqrt(64 * 256))
    plain, reordered, apart = (layer_of(Related(**{name: True} if name else {})) for name in ("", "reordered", "apart"))
    outputs = [next(iter(layer.blocks(("output",), tokens=60))).rows["output"] for layer in (plain, reordered, apart)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(plain.weights.up, reordered.weights.up)
    assert torch.equal(plain.weights.up, apart.weights.up)
    assert not torch.allclose(plain.weights.down, apart.weights.down)


def test_rank_correlation_and_its_jackknife():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 15))
    other[4] = np.nan
    at, there = list(combinations(range(6), 2)), ~np.isnan(other)
    rank, error = similarities.spearman(one, other, 6)
    assert rank == pytest.approx(spearmanr(one[there], other[there])[0])
    without = []
    for e in range(6):
        kept = there & np.array([e not in pair for pair in at])
        without.append(spearmanr(one[kept], other[kept])[0])
    assert error == pytest.approx(np.sqrt(5 / 6 * ((without - np.mean(without)) ** 2).sum()))
    with pytest.raises(ValueError, match="at least 4 pairs"):
        similarities.spearman(one[:3], other[:3], 3)


def test_what_predicts_and_what_is_blind(made):
    """Where experts are related every similarity of functions says so; in another order of units flattened weights do not."""
    by_design = {record["labels"]["design"]: record for record in made[1]["similarities"][0]}
    for name in ("weights, flattened", "weights, units matched", "outputs", "Jacobians"):
        assert similarities.predicts(by_design[similarities.RELATED], name).mean > 0.6
    reordered = by_design[similarities.REORDERED]
    assert similarities.predicts(reordered, "weights, units matched").mean > 0.6
    assert abs(similarities.predicts(reordered, "weights, flattened").mean) < 0.5
    assert abs(similarities.predicts(by_design[similarities.UNTRAINED], "weights, flattened").mean) < 0.5


def test_untrained_experts_lie_on_the_laws_and_upcycled_ones_do_not(made):
    """Within 5 errors over the rows; experts of one ancestor fail the same line."""
    records = made[1]["geometry"][0]
    for quantity in (geometry.JACOBIANS, geometry.TOKEN_MSO, geometry.OUTPUTS):
        law = geometry.law_of(quantity, geometry.LAYER).value

        def over(kinds, quantity=quantity, law=law):
            values = [v for r in records if r["labels"]["kind"] in kinds for v in r["values"].get(quantity, ())]
            return np.mean(values) / law - 1, np.std(values, ddof=1) / law / np.sqrt(len(values))

        away, error = over((geometry.ROUTED, geometry.RANDOM))
        assert abs(away) < 5 * error, quantity
        away, error = over((geometry.UPCYCLED,))
        assert away > 5 * error, quantity
    assert geometry.law_of(geometry.INPUTS, geometry.LAYER) is None


# Tables that the full presets wrote.
DATA, PAGE = Path(similarities.__file__).parent / "data", Path(__file__).parents[2] / "docs" / "asymmetry.md"


def lines_of_correlations(name) -> list[str]:
    with open(DATA / f"{name}.csv", newline="") as file:
        _, *rows = csv.reader(file)
    return [
        f"| {row[0]} | {' | '.join(f'{float(m):.2f} ± {float(s):.2f}' for m, s in zip(row[1::2], row[2::2], strict=True))} |"
        for row in rows
    ]


def lines_of_inputs() -> list[str]:
    """Of each top-k: routed at temperature 1 and random groups, in round tokens and the others."""
    with open(DATA / "geometry.csv", newline="") as file:
        header, *rows = csv.reader(file)
    at = header.index(geometry.INPUTS)
    cells = {tuple(row[:4]): f"{float(row[at]):.3f} ± {float(row[at + 1]):.3f}".replace("1.000 ± 0.000", "1") for row in rows}
    lines = []
    for k in ("1", "2", "4", "8"):
        values = [
            cells[inputs, kind, k, t] for inputs in geometry.INPUT_KINDS for kind, t in ((geometry.ROUTED, "1.0"), (geometry.RANDOM, ""))
        ]
        lines.append(f"| {k}{' (soft)' if k == '8' else ''} | {' | '.join(values)} |")
    return lines


@pytest.mark.parametrize("lines", [lines_of_correlations("similarities"), lines_of_correlations("similarities_1"), lines_of_inputs()])
def test_the_kept_tables_are_those_of_the_page(lines):
    page = PAGE.read_text()
    assert [line for line in lines if line not in page] == []

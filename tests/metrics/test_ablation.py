"""Ablation against loops over tokens, laws of it, and what costs nothing."""

import dataclasses

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.metrics import ablation as subject
from simgap.moe import draws_of, open_inputs, simulate
from simgap.observe import observe
from simgap.sources import Work

SPEC = sg.LayerSpec(d_model=9, d_ff=12, n_experts=5, top_k=2, activation="silu", gated=True)
RUN = sg.RunSpec(tokens=60, trials=1, seed=2, dtype="float64")
METRIC = {"metrics": "ablation"}
ROUTERS = (sg.RouterSpec(), sg.RouterSpec(kind="noisy"), sg.RouterSpec(kind="sigmoid", bias=0.5, temperature=0.5))


def layer_of(spec=SPEC, prepare=None):
    draws = draws_of(spec, RUN.seed, range(1))
    return simulate(draws, RUN, open_inputs(draws), prepare)


def tables(layer):
    """Outputs of every expert on every token (n, E, d), experts, gates, scores and logits, in numpy."""
    (block,) = layer.blocks(("output",), every=True, tokens=60)
    outputs = block.rows["output"][0][block.every[0]].numpy()
    return outputs, *(None if part is None else part[0].numpy() for part in (block.indices, block.gates, block.scores, block.logits))


def by_loops(spec, layer):
    """Each reading's mean error of each expert, on its own tokens."""
    outputs, indices, gates, scores, logits = tables(layer)
    others, found = subject.swapped_with((indices[..., None] == np.arange(5)).sum((0, 1))), {}
    for t, experts in enumerate(indices):
        y = sum(gates[t, a] * outputs[t, e] for a, e in enumerate(experts) if e >= 0)
        for slot, e in enumerate(experts):
            if e < 0:
                continue
            rest = [(gates[t, a], outputs[t, o]) for a, o in enumerate(experts) if a != slot and o >= 0]
            after = {"zeroed": rest, "swapped": [*rest, (gates[t, slot], outputs[t, others[e]])]}
            if scores is not None:
                best = next(o for o in np.argsort(-scores[t]) if o not in experts)
                now = [o for o in experts if o != e] + [best]
                after["routed_around"] = list(zip(np.exp(logits[t, now]) / np.exp(logits[t, now]).sum(), outputs[t, now], strict=True))
            for reading, terms in after.items():
                there = sum(g * v for g, v in terms) if terms else 0 * y
                found.setdefault(reading, {}).setdefault(e, []).append(((there - y) ** 2).sum() / (y**2).sum())
    return found


@pytest.mark.parametrize("router", [*ROUTERS, sg.RouterSpec(kind="uniform"), sg.RouterSpec(kind="expert_choice")], ids=lambda r: r.kind)
def test_against_loops_over_tokens(router):
    spec = dataclasses.replace(SPEC, router=router)
    gap, layer = sg.measure(spec, tokens=60, trials=1, seed=2, dtype="float64", **METRIC), layer_of(spec)
    loops, with_output = by_loops(spec, layer), int((layer.indices[0] >= 0).any(1).sum())
    assert set(loops) == {quantity.reading for quantity, one in gap.values.items() if one.mean is not None}
    for reading, of in loops.items():
        assert gap[f"ablation_error {reading}"].mean == pytest.approx(np.mean([np.mean(each) for each in of.values()]), rel=1e-9)
        overall = np.mean([sum(of.get(e, [])) / with_output for e in range(5)])
        assert gap[f"ablation_error_all_tokens {reading}"].mean == pytest.approx(overall, rel=1e-9)


@pytest.mark.parametrize("router", ROUTERS, ids=lambda r: r.kind)
def test_values_to_an_expert(router):
    spec = dataclasses.replace(SPEC, router=router)
    layer = layer_of(spec)
    loops, (outputs, indices, gates, scores, logits) = by_loops(spec, layer), map(torch.from_numpy, tables(layer))
    mean = {reading: [np.mean(of.get(e, [np.nan])) for e in range(5)] for reading, of in loops.items()}
    own = outputs.gather(1, indices[..., None].expand(-1, -1, 9))
    np.testing.assert_allclose(subject.zeroed(own, gates, indices, 5), mean["zeroed"], rtol=1e-9)
    np.testing.assert_allclose(subject.routed_around(outputs, gates, indices, scores, logits), mean["routed_around"], rtol=1e-9)
    pairs = subject.replaced(outputs, gates, indices)
    swapped = [pairs[e, other] for e, other in enumerate(subject.swapped_with(layer.taken[0]))]
    np.testing.assert_allclose(swapped, mean["swapped"], rtol=1e-9)
    assert (pairs.diagonal()[layer.taken[0] > 0] == 0).all()


def copied(weights):
    """Expert 1 becomes expert 0, its router row too."""
    parts = {name: getattr(weights, name).clone() for name in ("up", "gate", "down", "router")}
    for part in parts.values():
        part[:, 1] = part[:, 0]
    return dataclasses.replace(weights, **parts)


def test_of_two_copies_one_stands_in_for_the_other():
    """Routed around, an expert costs nothing where its copy takes its slot; zeroed, and alone on its token, everything."""
    spec = dataclasses.replace(SPEC, top_k=1)
    layer = layer_of(spec, copied)
    outputs, indices, gates, scores, logits = map(torch.from_numpy, tables(layer))
    around = subject.routed_around(outputs, gates, indices, scores, logits)
    taken = layer.taken[0] > 0
    copies = taken & (np.arange(5) < 2)
    assert copies.any()
    assert (around[copies] == 0).all()
    assert (around[taken & ~copies] > 0.1).all()
    zeroed = subject.zeroed(outputs.gather(1, indices[..., None].expand(-1, -1, 9)), gates, indices, 5)
    np.testing.assert_allclose(zeroed[taken], 1, rtol=1e-12)
    assert np.isnan(zeroed[~taken]).all()
    # The control: without its router row the copy is not the next best.
    apart = layer_of(spec, lambda weights: dataclasses.replace(copied(weights), router=weights.router))
    outputs, indices, gates, scores, logits = map(torch.from_numpy, tables(apart))
    assert (subject.routed_around(outputs, gates, indices, scores, logits)[apart.taken[0] > 0] > 0).all()


def test_zeroing_one_of_independent_round_terms():
    """w^2 + w (1 - w) d/(d - 2) of a share w of the squares, within 5 errors; by the first order, w, it is refused."""
    d, n, gates = 8, 20_000, torch.tensor([0.8, 0.2], dtype=torch.float64)
    outputs = torch.from_numpy(np.random.default_rng(0).standard_normal((n, 2, d)))
    indices = torch.tensor([[0, 1]]).expand(n, -1)
    for e, w in enumerate((gates**2 / (gates**2).sum()).tolist()):
        law, each = w**2 + w * (1 - w) * d / (d - 2), []
        for part in range(100):
            rows = slice(part * 200, (part + 1) * 200)
            each.append(subject.zeroed(outputs[rows], gates.expand(200, 2), indices[rows], 2)[e])
        error = np.std(each, ddof=1) / 10
        assert abs(np.mean(each) - law) < 5 * error
        assert abs(np.mean(each) - w) > 5 * error


def test_agreeing_terms_and_terms_that_cancel():
    one = torch.ones(1, 1, 3)
    gates, indices = torch.full((1, 2), 0.5), torch.tensor([[0, 1]])
    np.testing.assert_allclose(subject.zeroed(torch.cat([one, one], 1), gates, indices, 2), [1 / 4, 1 / 4])
    np.testing.assert_allclose(subject.zeroed(torch.cat([one, -3 * one], 1), gates, indices, 2), [1 / 4, 9 / 4])
    assert np.isnan(subject.zeroed(torch.cat([one, -one], 1), gates, indices, 2)).all()


def test_the_expert_that_is_swapped_in_has_the_nearest_load():
    assert subject.swapped_with([1, 9, 10, 2]) == [3, 2, 1, 0]
    drawn = {tuple(subject.swapped_with([5, 5, 5], trial)) for trial in range(40)}
    assert len(drawn) == 8
    assert all(other != e for one in drawn for e, other in enumerate(one))


def test_what_has_none():
    for kind, why in (("uniform", "no scores"), ("hash", "no scores"), ("expert_choice", "experts choose tokens")):
        gap = sg.measure(dataclasses.replace(SPEC, router=sg.RouterSpec(kind=kind)), tokens=20, trials=1, **METRIC)
        assert why in gap["ablation_error routed_around"].why
        assert gap["ablation_error swapped"].mean > 0
    every = sg.measure(dataclasses.replace(SPEC, top_k=5), tokens=20, trials=1, **METRIC)
    assert "no expert is left" in every["ablation_error_all_tokens routed_around"].why
    few = sg.measure(dataclasses.replace(SPEC, top_k=1), tokens=2, trials=1, **METRIC)
    assert few["ablation_error zeroed"].pairs <= 2
    assert few["ablation_error_all_tokens zeroed"].pairs == 5


def test_routers_of_two_kinds_in_one_sweep(tmp_path):
    cells = [dataclasses.replace(SPEC, router=sg.RouterSpec(kind=kind)) for kind in ("linear", "uniform")]
    run = sg.sweep(cells, **METRIC, tokens=30, trials=2, out=tmp_path / "s", engine="inprocess", progress=False)
    for cell, beside in zip(cells, run.measured(), strict=True):
        alone = sg.measure(cell, tokens=30, trials=2, seed=beside.run.seed, **METRIC)
        for quantity, one in alone.values.items():
            assert beside[str(quantity)].values.tolist() == one.values.tolist(), quantity


def test_the_same_bits_in_any_company():
    few, more = (sg.measure(SPEC, tokens=90, trials=trials, **METRIC) for trials in (1, 3))
    for quantity, estimate in few.values.items():
        assert estimate.values[0] == more[str(quantity)].values[0], quantity
    layer = layer_of()
    whole, cut = (observe(layer, subject.QUANTITIES, Work(), tokens).quantities for tokens in (60, 7))
    for quantity, values in whole.items():
        assert values.total.tolist() == cut[quantity].total.tolist(), quantity


def test_of_a_users_own_arrays():
    rng = np.random.default_rng(4)
    h, routing, gates = rng.standard_normal((200, 2, 6)), np.argsort(rng.random((200, 4)), 1)[:, :2], rng.random((200, 2))
    gap = sg.measure_arrays(h, routing, gates=gates, **METRIC)
    each = subject.zeroed(torch.from_numpy(h), torch.from_numpy(gates), torch.from_numpy(routing), 4)
    assert gap["ablation_error zeroed"].mean == pytest.approx(each.mean(), rel=1e-12)
    assert gap["ablation_error zeroed"].p > 0.001
    # Experts that agree on a token cost less than the same vectors on other tokens.
    alike = h.copy()
    alike[:, 1] = 0.5 * h[:, 0] + 0.1 * h[:, 1]
    found = sg.measure_arrays(alike, routing, gates=gates, draws=99, null="permuted", **METRIC)["ablation_error zeroed"]
    assert found.mean < 0.8 * found.null
    assert found.p == pytest.approx(0.02)
    with pytest.raises(ValueError, match="it needs every expert on every token"):
        sg.measure_arrays(h, routing, quantities="ablation_error swapped")
    with pytest.raises(ValueError, match="vectors at output are not given"):
        sg.measure_arrays(h, routing, site="hidden", quantities="ablation_error zeroed")


def test_what_stands_where_no_expert_does_is_not_read():
    outputs, indices = torch.ones(4, 2, 3), torch.tensor([[-1, -1], [0, 1], [1, -1], [0, 1]])
    gates, garbage = torch.full((4, 2), 0.5), torch.where(indices[..., None] < 0, torch.nan, outputs)
    assert (subject.zeroed(garbage, gates, indices, 2) == subject.zeroed(outputs, gates, indices, 2)).all()

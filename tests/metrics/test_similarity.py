"""Similarities of experts against their definitions, and what each is blind to."""

import dataclasses
import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.metrics import similarity as subject
from simgap.moe import draws_of, open_inputs, simulate

SPEC = sg.LayerSpec(d_model=9, d_ff=12, n_experts=5, top_k=2, activation="silu", gated=True)
RUN = sg.RunSpec(tokens=60, trials=1, seed=2, dtype="float64")
METRIC = {"metrics": "similarity"}


def layer_of(spec=SPEC):
    draws = draws_of(spec, RUN.seed, range(1))
    return simulate(draws, RUN, open_inputs(draws))


def mean_cos(rows):
    rows = [np.ravel(row) for row in rows]
    return np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(rows, 2)])


def test_against_the_definitions():
    gap, layer = sg.measure(SPEC, tokens=60, trials=1, seed=2, dtype="float64", **METRIC), layer_of()
    up, gate, down = (matrix[0].numpy() for matrix in (layer.weights.up, layer.weights.gate, layer.weights.down))
    units = [np.concatenate([up[e], gate[e], down[e].T], 1) for e in range(5)]
    assert gap["expert_cos flattened"].mean == pytest.approx(mean_cos(units), rel=1e-9)
    assert gap["expert_cos neuron_averaged"].mean == pytest.approx(mean_cos([unit.mean(0) for unit in units]), rel=1e-9)
    assert gap["expert_cos router_rows"].mean == pytest.approx(mean_cos(layer.weights.router[0].numpy()), rel=1e-9)
    (block,) = layer.blocks(("output",), tokens=60)
    indices, gates, outputs = layer.indices[0].numpy(), layer.gates[0].numpy(), block.rows["output"][0].numpy()[block.index[0].numpy()]
    means = [outputs[indices == e].mean(0) for e in range(5)]
    assert gap["expert_cos mean_output"].mean == pytest.approx(mean_cos(means), rel=1e-9)
    shares = []
    for e in range(5):
        row, right = layer.weights.router[0, e].numpy(), np.linalg.svd(gate[e])[2][:8]
        shares.append(((right @ row) ** 2).sum() / (row @ row))
    assert gap["router_share"].mean == pytest.approx(np.mean(shares), rel=1e-9)
    half = subject.order(np.arange(60)) >> 16 & 1
    size = np.linalg.norm(outputs, axis=-1)
    reap = [[(size * gates)[(indices == e) & (half == side)[:, None]].mean() for e in range(5)] for side in (0, 1)]
    ean = [[size[(indices == e) & (half == side)[:, None]].sum() for e in range(5)] for side in (0, 1)]
    assert gap["saliency_reliability reap"].mean == pytest.approx(np.corrcoef(*reap)[0, 1], rel=1e-9)
    assert gap["saliency_reliability ean"].mean == pytest.approx(np.corrcoef(*ean)[0, 1], rel=1e-9)


def test_matching_finds_the_best_pairs_of_units():
    """Against all orders of 5 units."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((5, 7)), rng.standard_normal((5, 7))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other)]
    best = max(np.mean([unit[0][i] @ unit[1][j] for i, j in enumerate(order)]) for order in permutations(range(5)))
    assert subject.matched(torch.from_numpy(one), torch.from_numpy(other)) == pytest.approx(best, rel=1e-12)


def test_a_copy_with_its_units_in_another_order():
    """Matching sees it whole, even by a sample of one side; flattened weights do not see it at all; a sample of both sides would not."""
    rng = np.random.default_rng(1)
    one = torch.from_numpy(rng.standard_normal((300, 40)))
    copy = one[torch.from_numpy(rng.permutation(300))]
    assert subject.matched(one, copy) == pytest.approx(1, abs=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "MATCHED", 60)
        assert subject.matched(one, copy) == pytest.approx(1, abs=1e-12)
        # The control: partners are lost where both sides are sampled.
        assert subject.matched(one, copy[:60]) < 0.7
    flat = [rows.flatten() for rows in (one, copy)]
    assert abs(float(flat[0] @ flat[1] / flat[0].norm() / flat[1].norm())) < 0.1


def permuted_units(weights):
    """Expert 1 becomes expert 0 with its hidden units in another order."""
    order = torch.from_numpy(np.random.default_rng(3).permutation(weights.up.shape[2]))
    up, gate, down = weights.up.clone(), weights.gate.clone(), weights.down.clone()
    up[:, 1], gate[:, 1], down[:, 1] = up[:, 0][:, order], gate[:, 0][:, order], down[:, 0][:, :, order]
    return dataclasses.replace(weights, up=up, gate=gate, down=down)


def test_what_each_is_invariant_to():
    """An order of units: averaged and matched, not flattened. A scale of an expert's weights: all of weights."""

    def scaled(weights):
        return dataclasses.replace(weights, up=3 * weights.up, gate=3 * weights.gate, down=3 * weights.down)

    spec = dataclasses.replace(SPEC, n_experts=2)
    plain, orders, sizes = (
        sg.measure(spec, tokens=20, trials=1, dtype="float64", prepare=prepare, quantities="expert_cos")
        for prepare in (None, permuted_units, scaled)
    )
    assert orders["expert_cos neuron_averaged"].mean == pytest.approx(1, abs=1e-12)
    assert orders["expert_cos neuron_matched"].mean == pytest.approx(1, abs=1e-12)
    assert orders["expert_cos flattened"].mean < 0.5
    for name in subject.OF_WEIGHTS:
        assert sizes[f"expert_cos {name}"].mean == pytest.approx(plain[f"expert_cos {name}"].mean, rel=1e-9)


@pytest.mark.parametrize("d", [16, 64])
def test_law_of_router_rows(d):
    """8/d within 5 errors, and Beta's second moment; the law of another rank by far not (law N5)."""
    spec = sg.LayerSpec(d_model=d, d_ff=32, n_experts=8, top_k=2)
    run = {"tokens": 4, "trials": 150, "quantities": "router_share"}
    estimate, null = sg.measure(spec, **run)["router_share"], sg.predict(spec, **run)["router_share"]
    assert null.mean == 8 / d
    beta = 4 * (d - 8) / 2 / ((d / 2) ** 2 * (d / 2 + 1))
    assert null.sd == pytest.approx(math.sqrt(beta / (8 * 150)))
    assert abs(estimate.mean - 8 / d) < 5 * estimate.sem
    assert abs(estimate.mean - 7 / d) > 5 * estimate.sem


def test_what_has_none():
    uniform = sg.measure(dataclasses.replace(SPEC, router=sg.RouterSpec(kind="uniform")), tokens=20, trials=1, **METRIC)
    assert "it has no rows" in uniform["router_share"].why
    assert "at least 4" in sg.measure(dataclasses.replace(SPEC, n_experts=2), tokens=20, trials=1, **METRIC)["saliency_reliability ean"].why
    assert math.isnan(subject.matched(torch.zeros(3, 2), torch.ones(3, 2)))
    assert math.isnan(subject.share(torch.zeros(9), torch.ones(12, 9)))
    gap = sg.measure(SPEC, tokens=1, trials=1, quantities=["saliency_reliability", "expert_cos mean_output"])
    assert gap["saliency_reliability reap"].mean is None
    assert gap["expert_cos mean_output"].pairs == 1


def test_the_same_bits_in_any_company():
    few, more = (sg.measure(SPEC, tokens=90, trials=trials, **METRIC) for trials in (1, 3))
    for quantity, estimate in few.values.items():
        assert estimate.values[0] == more[str(quantity)].values[0], quantity


def test_of_a_users_own_weights():
    rng = np.random.default_rng(4)
    weights = {"up": rng.standard_normal((3, 12, 9)), "down": rng.standard_normal((3, 9, 12))}
    gap = sg.measure_arrays(weights=weights, metrics="similarity")
    units = [np.concatenate([weights["up"][e], weights["down"][e].T], 1) for e in range(3)]
    assert gap["expert_cos flattened"].mean == pytest.approx(mean_cos(units), rel=1e-9)
    with pytest.raises(ValueError, match="router is not given"):
        sg.measure_arrays(weights=weights, quantities="router_share")

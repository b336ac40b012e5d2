"""Information of labels, margins and saturation against their definitions, and what each is blind to."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.metrics import information as subject
from simgap.moe import draws_of, open_inputs, simulate

CLUSTERS = sg.InputSpec(kind="clusters", n_clusters=3, separation=0.9)
SPEC = sg.LayerSpec(d_model=8, d_ff=4, n_experts=5, top_k=2, inputs=CLUSTERS)
RUN = sg.RunSpec(tokens=1500, trials=2, seed=3)


def by_loops(experts, labels):
    """Plug-in information, the two entropies, and the bias, of lists of a token's experts and labels."""
    met = Counter((e, d) for es, ds in zip(experts, labels, strict=True) for e in es for d in ds if e >= 0 and d >= 0)
    total, of_expert, of_label = sum(met.values()), Counter(), Counter()
    for (e, d), count in met.items():
        of_expert[e] += count
        of_label[d] += count
    plug_in = sum(c / total * math.log(c * total / of_expert[e] / of_label[d]) for (e, d), c in met.items())
    entropies = [-sum(c / total * math.log(c / total) for c in each.values()) for each in (of_expert, of_label)]
    counted = [(sum(e >= 0 for e in es), sum(d >= 0 for d in ds)) for es, ds in zip(experts, labels, strict=True)]
    counted = np.array([pair for pair in counted if min(pair) > 0])
    k, m = (counted**2).sum(0) / counted.sum(0)
    return plug_in, entropies, (len(of_expert) - k) * (len(of_label) - m) / (2 * total)


@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("few", [1 << 16, 1])
def test_against_the_definition(monkeypatch, holes, few):
    """Of a table that is held and of one that is not, with tokens that have fewer experts or none."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(subject, "FEW_CELLS", few)
    monkeypatch.setattr(subject, "AT_ONCE", 7)
    experts = np.array([rng.permutation(6)[:3] for _ in range(40)])
    labels = np.array([rng.permutation(2000)[:2] for _ in range(40)])
    labels[:20] = experts[:20, :2]
    experts[rng.random((40, 3)) < holes], labels[rng.random((40, 2)) < holes] = -1, -1
    plug_in, entropies, bias = by_loops(experts.tolist(), labels.tolist())
    found = subject.mutual_information(experts, labels)
    assert found == pytest.approx((plug_in - bias, min(entropies)), rel=1e-12)


def test_what_is_known_of_the_label_is_known():
    """One expert to a label: all of its entropy. Equal tokens: nothing, and no share of nothing."""
    labels = np.arange(4000)[:, None] % 4
    information, entropy = subject.mutual_information(labels, labels)
    assert (information, entropy) == pytest.approx((math.log(4) - 9 / 8000, math.log(4)))
    alike = np.zeros((50, 1), np.int64)
    assert subject.mutual_information(alike, labels[:50])[0] == pytest.approx(0, abs=1e-15)
    assert math.isnan(subject.of_routing(sg_quantity("normalised_mutual_information domain"), alike, labels[:50]))
    assert math.isnan(subject.mutual_information(alike - 1, labels[:50])[0])


def sg_quantity(text):
    return next(quantity for quantity in subject.QUANTITIES if str(quantity) == text)


def test_domains_of_a_layer_are_its_clusters():
    """The cluster of a token is the nearest of the centres, which are far apart; information is that of the routing and of those."""
    draws = draws_of(SPEC, RUN.seed, range(2))
    layer = simulate(draws, RUN, open_inputs(draws))
    domain = layer.token_labels["domain"]
    for t in range(2):
        own = domain[t, :, 0]
        centres = np.stack([layer.x[t].numpy()[own == d].mean(0) for d in range(3)])
        distance = np.linalg.norm(layer.x[t].numpy()[:, None] - centres, axis=-1)
        assert np.mean(distance.argmin(1) == own) > 0.99
    gap = sg.measure(SPEC, tokens=1500, trials=2, seed=3, quantities="mutual_information domain")
    for t in range(2):
        plug_in, _, bias = by_loops(layer.indices[t].tolist(), domain[t].tolist())
        assert gap["mutual_information domain"].values[t] == pytest.approx(plug_in - bias, rel=1e-12)


@pytest.mark.parametrize("router", ["linear", "noisy", sg.RouterSpec("sigmoid", bias=0.5)])
def test_the_margin_of_a_layer(router):
    """That of its sorted scores, since each token has the experts of its highest; not so with other scores."""
    spec = dataclasses.replace(SPEC, router=router if isinstance(router, sg.RouterSpec) else sg.RouterSpec(router))
    draws = draws_of(spec, RUN.seed, range(2))
    layer = simulate(draws, RUN, open_inputs(draws))
    ranked = layer.scores.double().sort(-1, descending=True).values
    gap = sg.measure(spec, tokens=1500, trials=2, seed=3, quantities="gate_margin")["gate_margin"]
    np.testing.assert_allclose(gap.values, (ranked[..., 1] - ranked[..., 2]).mean(-1).numpy(), rtol=1e-9)
    other = layer.scores[0].flip(-1).double().numpy()
    assert subject.gate_margins(layer.indices[0].numpy(), other).mean() < 0


def test_margins_of_tokens_with_all_or_no_experts_are_not_counted():
    scores, indices = np.array([[3.0, 1.0, 2.5]] * 3), np.array([[0, 2, -1], [0, 1, 2], [-1, -1, -1]])
    np.testing.assert_array_equal(subject.gate_margins(indices, scores), [1.5, np.nan, np.nan])
    none = sg.measure_arrays(routing=indices[1:], scores=scores[1:], quantities="gate_margin")["gate_margin"]
    assert (none.mean, none.null) == (None, None)


def test_saturation_by_hand():
    assert sg.metrics.information.saturation([[0, 1], [2, 3], [4, -1], [-1, -1]], [[1, 0], [2, 5], [-1, -1], [0, 1]]) == 0.75
    assert subject.saturation(torch.tensor([[[0], [2]]]), np.array([[[2], [2]]], np.uint8)) == 0.5
    assert math.isnan(subject.saturation([[-1]], [[0]]))
    with pytest.raises(ValueError, match=r"routing, other: expected whole numbers, \(..., k\) and \(..., m\), got int64 \(1, 1\)"):
        subject.saturation([[1]], [[1], [2]])


def test_what_a_layer_has_not():
    gap = sg.measure(dataclasses.replace(SPEC, inputs=sg.InputSpec(), router=sg.RouterSpec("uniform")), tokens=9, metrics="information")
    assert gap["mutual_information domain"].why == "simulated tokens have domains where inputs = clusters, which are at least 2"
    assert gap["mutual_information previous"].why == "simulated tokens have no layer before"
    assert gap["gate_margin"].why == "router = uniform: it does not rank the experts of a token"
    assert gap["router_saturation"].why == "a simulated layer has one routing"
    dense = sg.measure(dataclasses.replace(SPEC, top_k=5), tokens=9, metrics="information")
    assert dense["gate_margin"].why == "top_k = n_experts: there is no next expert"
    assert "says nothing of it" in dense["mutual_information domain"].why


def test_the_same_bits_in_any_company():
    few, more = (sg.measure(SPEC, tokens=90, trials=trials, metrics="information") for trials in (1, 3))
    for quantity, estimate in few.values.items():
        assert estimate.mean is None or estimate.values[0] == more[str(quantity)].values[0], quantity

"""Every metric on a user's own arrays: the values of the three functions and of a simulated layer, nulls by name, refusals."""

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.metrics.cka import QUANTITIES as CKA
from simgap.moe import draws_of, open_inputs, simulate
from simgap.observe import observe
from simgap.quantities import Quantity
from simgap.selection import select
from simgap.sources import Work
from tests.reference import token_overlap

E, N, K, WIDTH = 6, 400, 2, 24


def drawn(seed=0, width=WIDTH):
    """Outputs of independent linear experts on common tokens, (n, k, width), and their routing."""
    g = np.random.default_rng(seed)
    routing = np.stack([g.permutation(E)[:K] for _ in range(N)])
    x = g.standard_normal((N, WIDTH))
    matrices = g.standard_normal((E, width, WIDTH))
    return np.einsum("nkdf,nf->nkd", matrices[routing], x), routing


def test_overlaps_are_those_of_the_three_functions():
    h, routing = drawn()
    weights = np.random.default_rng(1).standard_normal((E, 32, WIDTH))
    m = sg.measure_arrays(h, routing, weights={"up": weights})
    assert list(map(str, m.values)) == [
        *("weight_mso up", "weight_mso all", "activation_mso mean output", "activation_mso token output", "gap", "ratio")
    ]
    for text, alone in (
        ("weight_mso up", sg.weight_mso(weights)),
        ("activation_mso mean output", sg.mean_mso(h, routing)),
        ("activation_mso token output", sg.token_mso(h, routing=routing)),
    ):
        one = m[text]
        assert (one.mean, one.null, one.z) == pytest.approx((alone.mean, alone.null, alone.z), rel=1e-9)
    assert m["activation_mso token output"].mean == pytest.approx(np.mean(token_overlap(h)[0]), rel=1e-12)
    assert m["gap"].mean == pytest.approx(m["activation_mso mean output"].mean - m["weight_mso up"].mean, rel=1e-12)
    assert m["gap"].why == "no law"


def test_a_layers_own_arrays_have_the_values_of_the_layer():
    spec = sg.LayerSpec(d_model=16, d_ff=24, n_experts=5, top_k=2)
    draws = draws_of(spec, 3, [0])
    layer = simulate(draws, sg.RunSpec(tokens=300, trials=1, dtype="float64"), open_inputs(draws))
    asked = select(metrics=["vector_overlap", "routing", "cka"], sites="output", readings=["token"])
    known = observe(layer, asked.observed, Work()).quantities
    (block,) = layer.blocks(("output",), False, map, 300)
    h = block.rows["output"][0][block.index[0]]
    m = sg.measure_arrays(h, layer.indices[0], n_experts=5, metrics=["vector_overlap", "routing", "cka"])
    for quantity, values in known.items():
        if quantity.reading != "all":
            assert m[quantity].mean == pytest.approx(float(values.total[0] / values.pairs[0]), rel=1e-12, abs=1e-12), quantity
    assert {q for q in m.values if q.metric.startswith("cka")} == {q for q in CKA if q.reading == "token" and q.site == "output"}


def test_routing_needs_no_vectors_and_its_null_has_the_choices_that_there_are():
    g = np.random.default_rng(4)
    routing = np.stack([g.permutation(8)[:4] for _ in range(3000)])
    routing[:1000, 2:] = -1
    m = sg.measure_arrays(routing=routing.reshape(30, 100, 4), metrics="routing")
    assert abs(m["routing load_entropy"].z) < 5
    assert abs(m["routing max_coactivation"].z) < 5
    # The same number of choices, in another way: a null of 4 to a token would be far off.
    assert (
        m["routing max_coactivation"].null
        < 0.98 * sg.predict(sg.LayerSpec(n_experts=8, top_k=4), tokens=3000, trials=1, metrics="routing")["routing max_coactivation"].mean
    )
    biased = np.where(g.random(routing.shape) < 0.2, 0, routing)
    biased[(np.sort(biased, 1)[:, 1:] == np.sort(biased, 1)[:, :-1]).any(1)] = [0, 1, 2, 3]
    assert sg.measure_arrays(routing=biased, metrics="routing")["routing max_violation"].z > 5


def test_cka_has_no_law_and_permuted_tokens_as_a_control():
    h, routing = drawn()
    by_law = sg.measure_arrays(h, routing, metrics="cka")["cka_debiased token output"]
    assert by_law.null is None
    assert 'null="permuted"' in by_law.why
    # Experts on common tokens share their geometry; on other tokens they do not.
    held = sg.measure_arrays(h, routing, metrics="cka", null="permuted")["cka_debiased token output"]
    assert held.mean == by_law.mean
    assert held.z > 5
    h = np.random.default_rng(5).standard_normal(h.shape)
    assert abs(sg.measure_arrays(h, routing, metrics="cka", null="permuted")["cka_debiased token output"].z) < 5
    kept = sg.measure_arrays(h, routing, metrics="mean_overlap", null="permuted")["activation_mso mean output"]
    assert kept.why == "null = permuted: it moves nothing here"


def test_padding_layout_and_dtype_change_nothing():
    h, routing = drawn()
    plain = sg.measure_arrays(h, routing, metrics=["vector_overlap", "mean_overlap", "cka", "routing"])
    padded, named = np.full((N + 7, K + 1, WIDTH), np.nan), np.full((N + 7, K + 1), -1)
    padded[:N, :K], named[:N, :K] = h, routing
    # A token that nobody took is dropped, and counted.
    other = sg.measure_arrays(padded, named, metrics=["vector_overlap", "mean_overlap", "cka", "routing"])
    assert other["routing dropped_tokens"].mean == pytest.approx(7 / (N + 7))
    for quantity, one in plain.values.items():
        if quantity != Quantity("routing", "dropped_tokens"):
            assert other[quantity].mean == pytest.approx(one.mean, rel=1e-12), quantity
    half = sg.measure_arrays(torch.tensor(h).bfloat16(), torch.tensor(routing), metrics="cka")
    assert half["cka token output"].mean == pytest.approx(sg.measure_arrays(h, routing, metrics="cka")["cka token output"].mean, rel=0.02)


def test_rectified_vectors_have_no_null_of_signs():
    h, routing = drawn(width=64)
    m = sg.measure_arrays(np.maximum(h, 0), routing, site="hidden")
    assert {str(q) for q in m.values} == {"activation_mso mean hidden", "activation_mso token hidden"}
    assert all(one.null is None and "rectified" in one.why for one in m.values.values())


def test_it_prints_what_its_nulls_are():
    h, routing = drawn()
    text = str(sg.measure_arrays(h, routing, metrics=["vector_overlap", "cka"]))
    assert "null of activation token output: independent experts, sign-symmetric in this basis" in text
    assert "no null for cka token output, cka_debiased token output: no law" in text


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda h, r: sg.measure_arrays(h), "routing: expected"),
        (lambda h, r: sg.measure_arrays(h, r[:, :1]), "routing: expected"),
        (lambda h, r: sg.measure_arrays(h, r, n_experts=3), "n_experts: expected at least 6, got 3"),
        (lambda h, r: sg.measure_arrays(h, r, n_experts=True), "n_experts: expected at least 6"),
        (lambda h, r: sg.measure_arrays(h, r, site="outputs"), "site: expected"),
        (lambda h, r: sg.measure_arrays(h, r, null="round"), "null: expected one of law, permuted"),
        (lambda h, r: sg.measure_arrays(h, r, quantities="activation_mso all output"), "it needs every expert on every token"),
        (lambda h, r: sg.measure_arrays(h, r, quantities="activation_mso token pre"), "vectors at pre are not given"),
        (lambda h, r: sg.measure_arrays(h, r, quantities="gap"), "weights of that matrix are not given"),
        (lambda h, r: sg.measure_arrays(routing=r), "metrics: these arrays have none of what is asked for"),
        (lambda h, r: sg.measure_arrays(h * np.inf, r), "not finite"),
        (lambda h, r: sg.measure_arrays(h, np.zeros_like(r)), "expert 0 twice"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.ones((2, 3))}), "weights up: expected"),
        (lambda h, r: sg.measure_arrays(weights={"out": np.ones((2, 3, 4))}), "weights: expected some of up, gate, down"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.ones((2, 3, 4)), "down": np.ones((3, 4, 3))}), "as many experts"),
        (lambda h, r: sg.measure_arrays(h, r, weights={"up": np.ones((2, 3, 4))}), "n_experts: expected 2, as weights have"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, said):
    h, routing = drawn()
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=said) as error:
        call(h, routing)
    assert "\n" not in str(error.value)

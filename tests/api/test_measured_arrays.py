"""Every metric on a user's own arrays: the values of the three functions and of a simulated layer, nulls by name, refusals."""

import json
import re

import numpy as np
import pytest
import torch

import simgap as sg
from simgap import Prediction
from simgap.api.calibration import compare
from simgap.metrics.cka import QUANTITIES as CKA
from simgap.moe import draws_of, open_inputs, simulate
from simgap.observe import observe
from simgap.quantities import Quantity
from simgap.selection import select
from simgap.sources import Work
from simgap.stats import Estimate
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
    assert list(map(str, m.values)) == [*("weight_mso up", "activation_mso mean output", "activation_mso token output", "gap", "ratio")]
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


def test_as_many_permutations_as_are_asked_for():
    """Experts that are alike on each token, far from all permutations: p is as small as it can be."""
    h, routing = np.random.default_rng(0).standard_normal((N, 1, 16)).repeat(2, 1), drawn()[1]
    text = "activation_mso token output"
    few, more, many = (
        sg.measure_arrays(h, routing, metrics="vector_overlap", null="permuted", draws=draws)[text] for draws in (5, 20, np.int64(400))
    )
    assert [one.p for one in (few, more, many)] == [2 / 6, 2 / 21, 2 / 401]
    default = sg.measure_arrays(h, routing, metrics="vector_overlap", null="permuted")
    assert default[text] == sg.measure_arrays(h, routing, metrics="vector_overlap", null="permuted", draws=99)[text]


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e200, 1e308])
def test_no_size_of_all_entries_changes_what_is_said(size):
    """Sums and squares of float64 leave its range; no overlap is without a value, nor is an expert left out for it."""
    h, routing = drawn()
    h /= np.abs(h).max()
    weights = np.random.default_rng(1).uniform(-1, 1, (E, 32, WIDTH))
    metrics = ["weight_overlap", "mean_overlap", "vector_overlap", "cka", "gap", "subspace", "similarity", "ablation"]
    plain, scaled = (
        sg.measure_arrays(c * h, routing, weights={"up": c * weights, "down": c * weights.mT}, metrics=metrics) for c in (1.0, size)
    )
    assert list(plain.values) == list(scaled.values)
    # Numbers of 1e-310 have 14 digits less than others, and a few of them one.
    close = 1e-9 if size > 1e-300 else 1e-4
    for quantity, one in plain.values.items():
        assert scaled[quantity].mean == pytest.approx(one.mean, rel=close, abs=close), quantity
        assert scaled[quantity].dropped == one.dropped == 0
        assert scaled[quantity].z == (None if one.z is None else pytest.approx(one.z, rel=close, abs=close))


def test_an_experts_own_size_is_no_fault():
    """One matrix far smaller than the others, another far larger."""
    weights = np.random.default_rng(1).standard_normal((E, 32, WIDTH))
    factors = np.array([1.0, 1e-250, 1e250, 1.0, 1.0, 1.0])[:, None, None]
    plain, scaled = (sg.measure_arrays(weights={"up": each})["weight_mso up"] for each in (weights, factors * weights))
    assert (scaled.mean, scaled.null, scaled.dropped) == (pytest.approx(plain.mean, rel=1e-12), pytest.approx(plain.null, rel=1e-12), 0)


def test_what_padding_holds_scales_nothing():
    h, routing = drawn()
    routing[::3, 1] = -1
    plain = sg.measure_arrays(h, routing)
    for value in (1e308, np.inf, np.nan):
        h[::3, 1] = value
        assert {q: one.mean for q, one in sg.measure_arrays(h, routing).values.items()} == {q: one.mean for q, one in plain.values.items()}


def test_p_and_spread_are_those_of_the_cumulants():
    """Two-sided p of the law that the three functions take the upper tail of; at the normed site too, and over two matrices."""
    h, routing = drawn()
    for site, kind in (("output", "output"), ("normed", "normed")):
        one = sg.measure_arrays(h, routing, site=site)[f"activation_mso token {site}"]
        alone = sg.token_mso(h, kind, routing=routing)
        assert (one.null, one.z) == pytest.approx((alone.null, alone.z), rel=1e-9)
        assert one.p == pytest.approx(2 * min(alone.p, 1 - alone.p), rel=1e-6)
    g = np.random.default_rng(2)
    up, down = g.standard_normal((E, 32, WIDTH)), 3 * g.standard_normal((E, WIDTH, 32))
    one = sg.measure_arrays(weights={"up": up, "down": down})["weight_mso all"]
    alone = sg.weight_mso(np.concatenate([up.reshape(E, -1), down.reshape(E, -1)], 1))
    assert (one.mean, one.null, one.z) == pytest.approx((alone.mean, alone.null, alone.z), rel=1e-9)
    assert one.null < 0.9 * sg.weight_mso(up).null


def test_where_no_sign_moves_an_overlap_there_is_no_p():
    g = np.random.default_rng(3)
    routing = drawn()[1]
    for h in (g.standard_normal((N, K, 1)), np.eye(WIDTH)[g.integers(0, WIDTH, (N, K))] * g.standard_normal((N, K, 1))):
        one = sg.measure_arrays(h, routing)["activation_mso token output"]
        assert (one.mean, one.z, one.p) == (pytest.approx(one.null), None, None)
        assert one.why == "the null has no spread: every such overlap is equal"


def test_what_is_left_out_is_counted_and_named():
    h, routing = drawn()
    h[:50, 0] = 0
    weights = np.random.default_rng(1).standard_normal((9, 32, WIDTH))
    weights[2] = 0
    m = sg.measure_arrays(h, routing, weights={"up": weights})
    assert (m["activation_mso token output"].dropped, m["weight_mso up"].dropped) == (50, 8)
    text = str(m)
    assert "weight up: 8 pairs left out (trial 0 expert 2)" in text
    assert "activation token output: 50 pairs left out (trial 0: token 0 slot 0, token 1 slot 0, token 2 slot 0)" in text
    assert "idle experts 3" in text
    plain = m.as_dict()["quantities"]["activation_mso token output"]
    assert (plain["mean"], plain["null"]) == (m["activation_mso token output"].mean, m["activation_mso token output"].null)


def test_what_is_not_known_of_a_layer_is_not_said():
    """The spec holds defaults where arrays say nothing; no table, frame or plain value shows one."""
    h, routing = drawn()
    m = sg.measure_arrays(
        h, routing, weights={"up": np.random.default_rng(1).standard_normal((E, 32, WIDTH))}, metrics=["mean_overlap", "gap"]
    )
    unknown = {"silu", "init", "kaiming_normal", "norm_affine", "linear", "gaussian", "inputs"}
    shown = json.dumps(m.as_dict()) + str(m) + m._repr_html_() + m.to_frame().to_csv()
    assert not unknown & set(re.findall(r"[a-z_]+", shown))
    assert unknown <= set(re.findall(r"[a-z_]+", repr(m.spec)))


def test_rectified_means_and_matrices_have_no_null_either():
    g = np.random.default_rng(0)
    routing = np.argsort(g.random((800, 6)), 1)[:, :2]
    leaning = sg.measure_arrays(g.standard_normal((800, 2, 64)) + 0.2, routing, metrics="mean_overlap")
    assert "rectified" in leaning["activation_mso mean output"].why
    assert "rectified" in sg.measure_arrays(weights={"up": np.abs(g.standard_normal((6, 8, 24)))})["weight_mso up"].why


def test_a_shared_bias_is_not_called_experts_that_are_alike():
    h, routing = drawn()
    one = sg.measure_arrays(h + 3 * np.random.default_rng(1).standard_normal(WIDTH), routing)["activation_mso token output"]
    assert str(one).endswith("more than fair signs of independent experts (no shared space, bias or W_down) give, at the level 0.001")


def test_a_negative_null_has_no_ratio_and_is_printed():
    one = compare(Estimate.of(np.array([0.01])), Prediction(-0.005, 0.01, "simulated"), False)
    assert (one.excess, round(one.z, 6)) == (None, 1.5)
    assert str(one).startswith("0.01, its null -0.005, z 1.5 null sd")


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
    # A mask takes padding out; nothing of it is left to be dropped.
    whole = sg.measure_arrays(padded, np.maximum(named, 0), mask=named >= 0, metrics=["vector_overlap", "mean_overlap", "cka", "routing"])
    assert {q: one.mean for q, one in whole.values.items()} == {q: one.mean for q, one in plain.values.items()}
    turned = sg.measure_arrays(np.asfortranarray(h), np.asfortranarray(routing), metrics=["vector_overlap", "mean_overlap", "cka"])
    assert {q: one.mean for q, one in turned.values.items()}.items() <= {q: one.mean for q, one in plain.values.items()}.items()
    half = sg.measure_arrays(torch.tensor(h).bfloat16(), torch.tensor(routing), metrics="cka")
    assert half["cka token output"].mean == pytest.approx(sg.measure_arrays(h, routing, metrics="cka")["cka token output"].mean, rel=0.02)


def test_texts_that_begin_several_quantities_mean_those_that_are_there():
    h, routing = drawn()
    assert list(map(str, sg.measure_arrays(h, routing, quantities="activation_mso token").values)) == ["activation_mso token output"]
    assert sg.measure_arrays(h, routing, n_experts=np.int64(7))["activation_mso token output"].mean > 0


def test_rectified_vectors_have_no_null_of_signs():
    h, routing = drawn(width=64)
    m = sg.measure_arrays(np.maximum(h, 0), routing, site="hidden")
    assert {str(q) for q in m.values} == {"activation_mso mean hidden", "activation_mso token hidden"}
    assert all(one.null is None and "rectified" in one.why for one in m.values.values())


def test_it_prints_what_its_nulls_are():
    h, routing = drawn()
    text = str(sg.measure_arrays(h, routing, metrics=["vector_overlap", "cka"]))
    assert "null of activation token output: fair signs of independent experts (no shared space, bias or W_down)" in text
    assert "no null for cka token output, cka_debiased token output: no law" in text


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda h, r: sg.measure_arrays(h), "routing: expected"),
        (lambda h, r: sg.measure_arrays(h, r[:, :1]), "routing: expected"),
        (lambda h, r: sg.measure_arrays(h, r, n_experts=3), "n_experts: expected a whole number, at least 6, got 3"),
        (lambda h, r: sg.measure_arrays(h, r, n_experts=True), "n_experts: expected a whole number, at least 6, got True"),
        (lambda h, r: sg.measure_arrays(h, r, site="outputs"), "site: expected"),
        (lambda h, r: sg.measure_arrays(h, r, null="round"), "null: expected one of law, signs, isotropic, other_token, renumbered"),
        (lambda h, r: sg.measure_arrays(h, r, null="permuted", draws=1), "draws: expected at least 2 permutations"),
        (lambda h, r: sg.measure_arrays(h, r, null="permuted", draws=-1), "draws: expected a whole number, at least 0"),
        (lambda h, r: sg.measure_arrays(h, r, null="permuted", draws=True), "draws: expected a whole number, at least 0"),
        (
            lambda h, r: sg.measure_arrays(h, r, draws=20),
            "draws: expected null= one of permuted, random_groups, renumbered, of which they are",
        ),
        (lambda h, r: sg.measure_arrays(h, r, quantities="activation_mso all output"), "it needs every expert on every token"),
        (lambda h, r: sg.measure_arrays(h, r, quantities="activation_mso token pre"), "vectors at pre are not given"),
        (lambda h, r: sg.measure_arrays(h, r, quantities="gap"), "weights up are not given"),
        (lambda h, r: sg.measure_arrays(routing=r), "metrics: these arrays have none of what is asked for"),
        (lambda h, r: sg.measure_arrays(h * np.inf, r), "not finite"),
        (lambda h, r: sg.measure_arrays(h, np.zeros_like(r)), "expert 0 twice"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.ones((2, 3))}), "weights up: expected"),
        (lambda h, r: sg.measure_arrays(weights={"out": np.ones((2, 3, 4))}), "weights: expected some of up, gate, down"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.ones((2, 3, 4)), "down": np.ones((3, 4, 3))}), "as many experts"),
        (lambda h, r: sg.measure_arrays(h, r, weights={"up": np.ones((2, 3, 24))}), "n_experts: expected 2, as weights have"),
        (lambda h, r: sg.measure_arrays(h, r, weights={"up": np.ones((6, 3, 25))}), "expected a width of d_model = 25"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.ones((2, 3, 4)), "gate": np.ones((2, 4, 4))}), "weights gate: expected d_ff = 3"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.ones((1, 3, 4))}), "of at least 2 experts"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.full((2, 3, 4), np.nan)}), "weights up: expert 0 holds a value that is not"),
        (lambda h, r: sg.measure_arrays(weights={"up": np.ones((2, 3, 4))}, mask=[1]), "routing: expected"),
        (lambda h, r: sg.measure_arrays(h, r, mask=np.zeros(N, bool)), "got none that the mask keeps"),
        (lambda h, r: sg.measure_arrays(h, r, site=["output"]), "site: expected one of"),
        (lambda h, r: sg.measure_arrays(h, r * 10**8), "routing: expected indices below 4096, or n_experts"),
        (lambda h, r: sg.measure_arrays(h, r, n_experts=10**30), "n_experts: expected a whole number"),
        (lambda h, r: sg.measure_arrays(h, r, n_experts=10**9), "n_experts: tables of 1000000000 experts need"),
        (lambda h, r: sg.measure_arrays(np.where(np.arange(N)[:, None, None] == 7, np.nan, h), r, metrics="cka"), "token 7 expert"),
        (lambda h, r: sg.calibrate(sg.measure_arrays(h, r)), "measured: expected what `measure` gives"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, said):
    h, routing = drawn()
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=said) as error:
        call(h, routing)
    assert "\n" not in str(error.value)


def shared_space(seed=0, n=400, k=3, experts=8, width=16):
    """Vectors of independent experts, each with a mean of its own, in a space with one large coordinate."""
    rng = np.random.default_rng(seed)
    routing = np.argsort(rng.random((n, experts)), 1)[:, :k]
    vectors = rng.standard_normal((n, k, width)) + rng.standard_normal((experts, width))[routing]
    return vectors * np.r_[5.0, np.ones(width - 1)], routing


def test_other_tokens_by_name_are_those_of_token_mso():
    vectors, routing = shared_space()
    documents, strata = np.arange(400) // 20, np.arange(400) % 2
    for labels in ({}, {"documents": documents}, {"strata": strata, "documents": documents}):
        found = sg.measure_arrays(vectors, routing, null="other_token", **labels)
        (second,) = sg.token_mso(vectors, routing=routing, **labels).beside
        token = found["activation_mso token output"]
        assert token.null == pytest.approx(second.null, rel=1e-12)
        assert token.z == pytest.approx(second.z, rel=1e-6, abs=1e-6)
        assert token.null_kind == "measured"
        assert "null = other_token: not of" in found["activation_mso mean output"].why
    # What a mask leaves out whole has no label either.
    mask = np.arange(400) < 200
    kept = sg.measure_arrays(vectors, routing, mask=mask, documents=documents, null="other_token")
    alone = sg.measure_arrays(vectors[:200], routing[:200], documents=documents[:200], null="other_token")
    assert kept["activation_mso token output"] == alone["activation_mso token output"]


def test_other_tokens_that_there_are_not():
    vectors, routing = shared_space()
    found = sg.measure_arrays(vectors, routing, documents=np.zeros(400, int), null="other_token")
    assert found["activation_mso token output"].why == "null = other_token: all tokens are of one document"
    few = sg.measure_arrays(*shared_space(experts=4), null="other_token")
    assert "4 experts meet" in few["activation_mso token output"].why
    with pytest.raises(ValueError, match=r"^documents, strata: expected null='other_token'"):
        sg.measure_arrays(vectors, routing, documents=np.arange(400))


def test_random_groups_see_experts_apart():
    vectors, routing = shared_space()
    found = sg.measure_arrays(vectors, routing, null="random_groups", draws=40)
    # Means of random groups are all that of the pool; those of experts are not.
    mean = found["activation_mso mean output"]
    assert mean.null > 2 * mean.mean
    assert mean.p == pytest.approx(2 / 41)
    rng = np.random.default_rng(1)
    alike = sg.measure_arrays(rng.standard_normal((400, 3, 16)), routing, null="random_groups", draws=40)
    assert alike["activation_mso token output"].p > 0.01
    with pytest.raises(ValueError, match=r"^draws: expected null= one of permuted, random_groups, renumbered"):
        sg.measure_arrays(vectors, routing, draws=40)


ASKED = ["activation_mso token output", "routing load_entropy"]


def test_signs_by_name_are_the_law_of_overlaps():
    vectors, routing = shared_space()
    named, law = (sg.measure_arrays(vectors, routing, quantities=ASKED, null=null) for null in ("signs", "law"))
    assert named["activation_mso token output"] == law["activation_mso token output"]
    assert law["routing load_entropy"].null is not None
    assert named["routing load_entropy"].why == "null = signs: of overlaps alone"

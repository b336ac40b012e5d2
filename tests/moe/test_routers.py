"""Routers: distinct experts, gates that are what they are called, and balance where it is promised."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from simgap.moe.group import draws_of
from simgap.moe.inputs import open_inputs
from simgap.moe.routers import route
from simgap.moe.weights import draw_weights
from simgap.seeding import stream
from simgap.specs import LayerSpec, RouterSpec

SIGMA = 5.0
KINDS = ["linear", "noisy", "sigmoid", "uniform", "hash", "expert_choice", "soft"]
DTYPES = ["float32", "float64"]


def build(kind, tokens=50, trials=(0, 1, 2), dtype="float64", d=8, experts=6, k=3, seed=0, **fields):
    """A spec, its tokens, its router's rows and the routing."""
    spec = LayerSpec(d_model=d, d_ff=2, n_experts=experts, top_k=experts if kind == "soft" else k, router=RouterSpec(kind, **fields))
    draws = draws_of(spec, seed, trials)
    x = open_inputs(draws)(draws, tokens, dtype)
    rows = draw_weights(draws_of(spec, seed, trials), dtype).router
    return spec, x, rows, route(draws_of(spec, seed, trials), x, rows)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logits_of(x, rows, temperature=1.0):
    return np.einsum("snd,sed->sne", x.double().numpy(), rows.double().numpy()) / temperature


def top(z, k):
    """Indices of the k largest along the last axis, best first."""
    return np.argsort(-z, axis=-1, kind="stable")[..., :k]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_a_token_are_distinct_and_gates_sum_to_one(kind, dtype):
    spec, x, _, routing = build(kind, dtype=dtype)
    indices, weights = routing.indices.numpy(), routing.weights.double().numpy()
    assert indices.shape == weights.shape
    assert routing.weights.dtype == x.dtype
    real = [[e for e in token if e >= 0] for token in indices.reshape(-1, indices.shape[-1]).tolist()]
    assert all(len(set(token)) == len(token) for token in real)
    assert indices.max() < spec.n_experts
    assert indices.min() >= -1
    assert (weights >= 0).all()
    if kind != "expert_choice":
        assert indices.shape == (3, 50, spec.top_k)
        assert indices.min() >= 0
        # k divisions and k - 1 additions.
        assert np.abs(weights.sum(-1) - 1).max() <= 2 * spec.top_k * np.finfo(dtype).eps


@pytest.mark.parametrize("temperature", [1.0, 0.25, 4.0])
@pytest.mark.parametrize("kind", ["linear", "soft"])
def test_softmax_gates(kind, temperature):
    spec, x, rows, routing = build(kind, temperature=temperature)
    logits = logits_of(x, rows, temperature)
    chosen = top(logits, spec.top_k)
    assert np.array_equal(routing.indices.numpy(), chosen)
    full = np.take_along_axis(softmax(logits), chosen, -1)
    gates = routing.weights.numpy()
    # The softmax over the chosen is the full softmax renormalised; logits carry d roundings and are below 2^5 / temperature.
    assert np.abs(gates - full / full.sum(-1, keepdims=True)).max() < 1e-13
    assert (np.diff(gates, axis=-1) <= 0).all()


def test_softmax_gates_in_float32():
    spec, x, rows, routing = build("linear", dtype="float32")
    logits = logits_of(x, rows)
    full = np.take_along_axis(softmax(logits), routing.indices.numpy(), -1)
    # d = 8 roundings of logits below 8: 8 x 8 x 2^-24 of relative error in each gate, twice.
    assert np.abs(routing.weights.double().numpy() - full / full.sum(-1, keepdims=True)).max() < 1e-5
    picked = np.take_along_axis(logits, routing.indices.numpy(), -1)
    assert np.abs(picked - np.take_along_axis(logits, top(logits, spec.top_k), -1)).max() < 1e-5


def test_temperature_moves_gates_and_not_experts():
    cold, warm = (build("linear", temperature=t)[3] for t in (0.5, 2.0))
    assert torch.equal(cold.indices, warm.indices)
    assert (cold.weights[..., 0] > warm.weights[..., 0]).all()


def test_soft_uses_every_expert():
    _, _, _, routing = build("soft", experts=5)
    assert np.array_equal(np.sort(routing.indices.numpy(), -1), np.broadcast_to(np.arange(5), (3, 50, 5)))


def test_noisy_without_noise_is_linear():
    linear, noisy = build("linear")[3], build("noisy", noise=0.0)[3]
    assert torch.equal(linear.indices, noisy.indices)
    assert torch.equal(linear.weights, noisy.weights)


def test_noise_is_added_to_the_logits():
    spec, x, rows, routing = build("noisy", noise=0.7, temperature=2.0)
    noise = np.stack([stream(0, "router_noise", trial=t).standard_normal((50, 6)) for t in range(3)])
    logits = logits_of(x, rows, 2.0) + 0.7 * noise
    assert np.array_equal(routing.indices.numpy(), top(logits, spec.top_k))
    assert np.abs(routing.weights.numpy() - softmax(-np.sort(-logits, -1)[..., :3])).max() < 1e-13
    assert not torch.equal(routing.indices, build("linear", temperature=2.0)[3].indices)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sigmoid_bias_acts_on_the_selection_only(temperature):
    spec, x, rows, plain = build("sigmoid", bias=0.0, temperature=temperature)
    biased = build("sigmoid", bias=0.5, temperature=temperature)[3]
    scores = 1 / (1 + np.exp(-logits_of(x, rows, temperature)))
    assert np.array_equal(plain.indices.numpy(), top(scores, spec.top_k))
    assert not torch.equal(plain.indices, biased.indices)
    for routing in (plain, biased):
        chosen = np.take_along_axis(scores, routing.indices.numpy(), -1)
        assert np.abs(routing.weights.numpy() - chosen / chosen.sum(-1, keepdims=True)).max() < 1e-14
    # One bias to an expert and trial: some vector b makes every selection the top of score + b, so its order never reverses.
    bias = np.stack([0.5 * stream(0, "router_bias", trial=t).standard_normal(6) for t in range(3)])
    assert np.array_equal(biased.indices.numpy(), top(scores + bias[:, None], spec.top_k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_gates_of_very_negative_logits(dtype):
    _, _, _, routing = build("sigmoid", experts=2, k=2, temperature=1e-4, dtype=dtype)
    assert bool(torch.isfinite(routing.weights).all())


def pair_counts(indices, experts):
    """How many tokens got each unordered pair of experts."""
    pairs = np.sort(indices.reshape(-1, 2), axis=-1)
    counts = np.zeros((experts, experts))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    return counts[np.triu_indices(experts, 1)]


def balance_z(counts, n):
    p = 1 / len(counts)
    return np.abs(counts - n * p).max() / math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("kind, trials", [("uniform", (0, 1, 2, 3)), ("hash", (0,))])
def test_every_pair_of_experts_is_as_likely(kind, trials):
    n, experts = 32_768, 8
    _, _, _, routing = build(kind, tokens=n // len(trials), trials=trials, experts=experts, k=2, d=1)
    indices = routing.indices.numpy().reshape(n, 2)
    assert balance_z(pair_counts(indices, experts), n) < SIGMA
    assert balance_z(np.bincount(indices[:, 0], minlength=experts), n) < SIGMA
    # The twin sends 5% of the tokens to one pair: 1,580 more than due, 47 sigma.
    twin = indices.copy()
    twin[::20] = (0, 1)
    assert balance_z(pair_counts(twin, experts), n) > SIGMA
    # Neighbouring tokens choose independently of each other.
    first = indices[:, 0]
    joint = np.bincount(first[:-1] * experts + first[1:], minlength=experts**2)
    assert balance_z(joint, n - 1) < SIGMA
    assert np.array_equal(routing.weights.numpy(), np.full((len(trials), n // len(trials), 2), 0.5))


def test_hash_is_the_same_in_every_trial_and_reads_no_token():
    _, _, _, routing = build("hash")
    assert torch.equal(routing.indices, routing.indices[:1].expand_as(routing.indices))
    assert torch.equal(routing.indices, build("hash", seed=9)[3].indices)
    longer = build("hash", tokens=80)[3]
    assert torch.equal(longer.indices[:, :50], routing.indices)


def test_uniform_differs_between_trials_and_seeds():
    _, _, _, routing = build("uniform")
    assert not torch.equal(routing.indices[0], routing.indices[1])
    assert not torch.equal(routing.indices, build("uniform", seed=1)[3].indices)


@pytest.mark.parametrize("capacity", [0.01, 0.5, 1.0, 1.7, 100.0])
@pytest.mark.parametrize("tokens, experts, k", [(50, 6, 3), (7, 5, 1), (1, 2, 2)])
def test_expert_choice_is_each_experts_own_list(tokens, experts, k, capacity):
    _, x, rows, routing = build("expert_choice", tokens=tokens, experts=experts, k=k, capacity=capacity)
    scores = softmax(logits_of(x, rows))
    taken = min(tokens, max(1, round(capacity * tokens * k / experts)))
    indices, weights = routing.indices.numpy(), routing.weights.numpy()
    widest = 0
    for trial in range(3):
        takers = [[] for _ in range(tokens)]
        for expert in range(experts):
            for token in sorted(range(tokens), key=lambda t: -scores[trial, t, expert])[:taken]:
                takers[token].append(expert)
        for token in range(tokens):
            expected = sorted(takers[token], key=lambda e: -scores[trial, token, e])
            got = indices[trial, token].tolist()
            assert got == expected + [-1] * (len(got) - len(expected))
            assert np.abs(weights[trial, token, : len(expected)] - scores[trial, token, expected]).max(initial=0) < 1e-14
            assert not weights[trial, token, len(expected) :].any()
            widest = max(widest, len(expected))
        assert np.array_equal(np.bincount(indices[trial][indices[trial] >= 0], minlength=experts), np.full(experts, taken))
    assert indices.shape[-1] == widest


@pytest.mark.parametrize("kind", KINDS)
def test_trials_routed_alone_are_those_routed_together(kind):
    _, _, _, together = build(kind, trials=(0, 4))
    _, _, _, alone = build(kind, trials=(4,))
    width = alone.indices.shape[-1]
    assert torch.equal(together.indices[1, :, :width], alone.indices[0])
    assert torch.allclose(together.weights[1, :, :width], alone.weights[0], rtol=1e-13, atol=0)
    assert bool((together.indices[1, :, width:] == -1).all())


@pytest.mark.parametrize("kind", ["linear", "noisy", "sigmoid", "expert_choice", "soft"])
def test_a_router_that_reads_tokens_needs_its_rows(kind):
    spec, x, _, _ = build(kind)
    with pytest.raises(ValueError, match=rf"^router: a {kind} router needs its weights, got None$"):
        route(draws_of(spec, 0, (0, 1, 2)), x, None)


def test_linear_routing_is_what_its_rows_say():
    """Rows of a signed axis each: the token's largest signed coordinate wins."""
    spec = LayerSpec(d_model=2, d_ff=1, n_experts=4, top_k=1)
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]])
    x = torch.tensor([[[3.0, 1.0], [1.0, 2.0], [-2.0, 1.0], [0.5, -0.6]]])
    routing = route(draws_of(spec, 0, [0]), x, rows)
    assert routing.indices.flatten().tolist() == [0, 1, 2, 3]
    assert routing.weights.flatten().tolist() == [1.0] * 4


def test_all_sets_of_experts_occur_under_uniform():
    _, _, _, routing = build("uniform", tokens=2000, experts=5, k=3)
    sets = {tuple(sorted(token)) for token in routing.indices.reshape(-1, 3).tolist()}
    assert sets == set(itertools.combinations(range(5), 3))


@pytest.mark.parametrize("fields", [{"kind": "sigmoid", "bias": 1.0}, {"kind": "noisy"}, {"kind": "linear"}, {"kind": "soft"}], ids=str)
def test_scores_choose_the_experts_and_logits_make_the_gates(fields):
    spec, _, _, routing = build(**fields)
    assert np.array_equal(top(routing.scores.numpy(), spec.top_k), routing.indices.numpy())
    gates = softmax(np.take_along_axis(routing.logits.numpy(), routing.indices.numpy(), -1))
    np.testing.assert_allclose(gates, routing.weights.numpy(), rtol=1e-12)


def test_routers_that_have_no_scores_say_so_alone_and_beside_others():
    assert all(build(kind)[-1].scores is None is build(kind)[-1].logits for kind in ("uniform", "hash", "expert_choice"))
    spec, x, rows, alone = build("linear", trials=(0, 1))
    draws = draws_of(spec, 0, (0, 1))
    for kind in ("uniform", "expert_choice"):
        mixed = route([draws[0], draws[1]._replace(spec=dataclasses.replace(spec, router=RouterSpec(kind)))], x, rows)
        assert torch.equal(mixed.scores[0], alone.scores[0])
        assert torch.equal(mixed.logits[0], alone.logits[0])
        assert mixed.scores[1].isnan().all()

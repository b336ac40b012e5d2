"""What an expert computes, against one expert and one token at a time in plain float64."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from simgap.moe import experts as subject
from simgap.moe import weights as layout
from simgap.moe.dispatch import everywhere, routed_only
from simgap.moe.experts import run_experts
from simgap.moe.group import draws_of
from simgap.moe.weights import draw_weights
from simgap.specs import ACTIVATIONS, LayerSpec
from simgap.threads import pool
from tests import reference

S, E, N, D, F = 2, 3, 4, 5, 6
SITES = ("pre", "hidden", "normed", "output")
PLANS = {"routed": routed_only, "dense": everywhere}
# Tokens of differing loads: the first expert idle in trial 0, a token without experts in trial 1.
ROUTING = torch.tensor([[[1, 2], [2, 1], [1, -1], [2, 1]], [[0, 1], [-1, -1], [0, 2], [2, 0]]])
NORMS = [("none", "none"), ("layernorm", "none"), ("rmsnorm", "none"), ("layernorm", "per_expert"), ("rmsnorm", "shared")]


def tolerance(dtype, d=D, f=F):
    """Two sums of d and of f products lose at most (d + f) units of their largest partial sum. 8 times that, of the largest entry, leaves
    room for the activation, the norm and for entries that cancel."""
    return 8 * (d + f) * torch.finfo(getattr(torch, dtype)).eps


def tokens_of(n, d, dtype, s=S):
    return torch.from_numpy(np.random.default_rng(7).standard_normal((s, n, d)).astype(dtype))


def oracle(spec, weights, x, trial, expert, token):
    def plain(value):
        return None if value is None else value[trial, expert].double().numpy()

    return reference.expert_forward(
        x[trial, token].double().numpy(),
        plain(weights.up),
        plain(weights.down),
        spec.activation,
        W_gate=plain(weights.gate),
        norm=spec.norm,
        gain=plain(weights.gain),
        bias=plain(weights.bias),
    )


def largest_error(spec, weights, x, plan_tokens, found, first=0):
    """Largest difference from the oracle over all rows, in units of the largest entry of its site."""
    per_row = {
        (trial, expert, token): oracle(spec, weights, x, trial, first + expert, token)
        for trial, expert, token in {(t, e, int(plan_tokens[t, e, c])) for t, e, c in np.ndindex(*plan_tokens.shape)}
    }
    worst = 0.0
    for site, rows in found.items():
        expected = [per_row[t, e, int(plan_tokens[t, e, c])][site] for t, e, c in np.ndindex(*plan_tokens.shape)]
        error = np.abs(rows.double().numpy().reshape(len(expected), -1) - np.array(expected)).max()
        worst = max(worst, float(error / max(np.abs(vectors[site]).max() for vectors in per_row.values())))
    return worst


@functools.cache
def case(activation, gated, norm, affine, dtype):
    spec = LayerSpec(d_model=D, d_ff=F, n_experts=E, activation=activation, gated=gated, norm=norm, norm_affine=affine, norm_affine_std=0.5)
    return spec, draw_weights(draws_of(spec, 1, range(S)), dtype), tokens_of(N, D, dtype)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm, affine", NORMS)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_expert_computes_its_formula(activation, gated, norm, affine, dtype, plan):
    spec, weights, x = case(activation, gated, norm, affine, dtype)
    tokens = PLANS[plan](ROUTING, E).tokens
    found = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, E), x, tokens, SITES)
    assert tuple(found) == tuple(site for site in SITES if site != "normed" or norm != "none")
    assert {site: rows.shape for site, rows in found.items()} == {site: (*tokens.shape, D if site == "output" else F) for site in found}
    assert all(rows.dtype == x.dtype for rows in found.values())
    assert largest_error(spec, weights, x, tokens, found) < tolerance(dtype)


def test_the_comparison_sees_a_wrong_weight():
    spec, weights, x = case("silu", True, "layernorm", "per_expert", "float32")
    tokens = everywhere(ROUTING, E).tokens
    found = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, E), x, tokens, SITES)
    for name in ("up", "gate", "down", "gain", "bias"):
        value = getattr(weights, name).clone()
        value[1, 2, 0] += 1e-3
        assert largest_error(spec, dataclasses.replace(weights, **{name: value}), x, tokens, found) > tolerance("float32")


@pytest.mark.parametrize("sites", [("pre",), ("hidden",), ("normed",), ("output",), ("pre", "output"), ("hidden", "normed"), ()])
@pytest.mark.parametrize("activation", ["identity", "relu", "silu"])
@pytest.mark.parametrize("gated", [False, True])
def test_what_is_asked_for_does_not_change_what_comes(sites, activation, gated):
    spec, weights, x = case(activation, gated, "rmsnorm", "none", "float32")
    tokens = routed_only(ROUTING, E).tokens
    before = x.clone(), weights.up.clone()
    everything = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, E), x, tokens, SITES)
    found = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, E), x, tokens, sites)
    assert set(found) == set(sites)
    assert all(torch.equal(found[site], everything[site]) for site in sites)
    # In-place activations touch neither the tokens nor the weights.
    assert torch.equal(x, before[0])
    assert torch.equal(weights.up, before[1])


@pytest.mark.parametrize("block", [1, 4, 6, 7])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_over_blocks_of_hidden_units(monkeypatch, block, gated, dtype):
    spec = LayerSpec(d_model=D, d_ff=13, n_experts=E, gated=gated, norm="layernorm")
    weights, x = draw_weights(draws_of(spec, 1, range(S)), dtype), tokens_of(N, D, dtype)
    tokens = routed_only(ROUTING, E).tokens
    monkeypatch.setattr(layout, "HIDDEN_BLOCK", block)
    found = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, E), x, tokens, SITES)
    assert largest_error(spec, weights, x, tokens, found) < tolerance(dtype, f=13)


@pytest.mark.bits
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d_model", "d_ff"), [(256, 2100), (2100, 256), (1024, 64)])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype, d_model, d_ff):
    """How many rows a product has depends on the longest list of the trials and tokens beside. One product over all 2,048 hidden units
    would sum up to 160 rows in another order than more."""
    spec = LayerSpec(d_model=d_model, d_ff=d_ff, n_experts=2)
    weights, x = draw_weights(draws_of(spec, 1, [0]), dtype), tokens_of(512, d_model, dtype, s=1)
    many = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, 2), x, torch.arange(512).expand(1, 2, -1), SITES)
    for rows in (16, 48, 160, 176, 256):
        few = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, 2), x, torch.arange(rows).expand(1, 2, -1), SITES)
        assert all(torch.equal(few[site], many[site][:, :, :rows]) for site in few)


@pytest.mark.parametrize("first, count", [(0, 3), (1, 2), (3, 2), (4, 1)])
@pytest.mark.parametrize("gated", [False, True])
def test_a_slice_of_experts(first, count, gated):
    spec = LayerSpec(
        d_model=D, d_ff=F, n_experts=3, n_shared_experts=2, gated=gated, norm="layernorm", norm_affine="per_expert", norm_affine_std=0.5
    )
    weights, x = draw_weights(draws_of(spec, 1, range(S)), "float64"), tokens_of(N, D, "float64")
    tokens = torch.arange(N).expand(S, count, -1)
    found = run_experts(draws_of(spec, 0, weights.trials), weights, slice(first, first + count), x, tokens, SITES)
    assert largest_error(spec, weights, x, tokens, found, first) < tolerance("float64")


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_large_layer_is_split_over_its_experts(monkeypatch, at_once, threads):
    spec = LayerSpec(d_model=D, d_ff=F, n_experts=E, n_shared_experts=2, gated=True, norm="rmsnorm", norm_affine="per_expert")
    weights, x = draw_weights(draws_of(spec, 1, [0]), "float64"), tokens_of(N, D, "float64", s=1)
    tokens = torch.arange(N).expand(1, 5, -1)
    monkeypatch.setattr(subject, "TASK_WEIGHTS", at_once * D * F)
    started, up = [], subject._up
    monkeypatch.setattr(subject, "_up", lambda *arguments: started.append(1) or up(*arguments))
    with pool(threads) as (task_map, _):
        found = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, 5), x, tokens, SITES, task_map)
    # W_gate and W_up of each.
    assert len(started) == 2 * -(-5 // at_once)
    assert largest_error(spec, weights, x, tokens, found) < tolerance("float64")


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norms_of_a_vanishing_vector_are_finite(norm):
    spec = LayerSpec(d_model=D, d_ff=F, n_experts=2, activation="relu", norm=norm)
    weights = draw_weights(draws_of(spec, 0, [0]))
    found = run_experts(
        draws_of(spec, 0, weights.trials), weights, slice(0, 2), torch.zeros(1, N, D), torch.arange(N).expand(1, 2, -1), SITES
    )
    assert not found["normed"].any()
    assert not found["output"].any()


@pytest.mark.parametrize("norm, centred, eps", [("layernorm", True, 1e-5), ("rmsnorm", False, 1e-6)])
def test_layernorm_centres_and_rmsnorm_does_not(norm, centred, eps):
    spec, weights, x = case("relu", False, norm, "none", "float64")
    found = run_experts(draws_of(spec, 0, weights.trials), weights, slice(0, E), x, everywhere(ROUTING, E).tokens, SITES)
    hidden, normed = found["hidden"], found["normed"]
    if centred:
        hidden = hidden - hidden.mean(-1, keepdim=True)
    assert bool((normed.mean(-1).abs() < 1e-13).all()) == centred
    variance = hidden.square().mean(-1)
    # The length that eps leaves: var / (var + eps) of a unit mean square.
    assert torch.allclose(normed.square().mean(-1), variance / (variance + eps), rtol=1e-13, atol=0)

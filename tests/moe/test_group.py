"""Draws of several specs in one group: every stage gives each of them what it would have alone."""

import dataclasses

import pytest
import torch

from simgap.moe import Draw, draw_weights, draws_of, open_inputs, simulate
from simgap.moe.experts import ACTIVATION_FUNCTIONS, run_experts
from simgap.moe.group import kinds, runs, shape
from simgap.moe.routers import route
from simgap.quantities import SITES
from simgap.specs import ACTIVATIONS, InputSpec, LayerSpec, RouterSpec, RunSpec, SpaceSpec

SPEC = LayerSpec(d_model=5, d_ff=7, n_experts=3, top_k=2, norm="layernorm", norm_affine="per_expert")


def group(name, values, **change):
    """Draws that differ in one field, in the order of the values, each with a seed and a trial of its own."""
    spec = dataclasses.replace(SPEC, **change)
    return [Draw(dataclasses.replace(spec, **{name: value}), 10 + at, 3 * at) for at, value in enumerate(values)]


def test_draws_of_one_spec():
    assert draws_of(SPEC, 4, range(2)) == [Draw(SPEC, 4, 0), Draw(SPEC, 4, 1)]


def test_kinds_and_runs():
    draws = group("activation", ["relu", "silu", "silu", "relu", "tanh"])
    assert kinds(draws, lambda spec: spec.activation) == [[0, 3], [1, 2], [4]]
    assert runs(draws, lambda spec: spec.activation) == [range(1), range(1, 3), range(3, 4), range(4, 5)]
    assert kinds(draws, lambda spec: spec.init) == [[0, 1, 2, 3, 4]]
    assert runs(draws, lambda spec: spec.init) == [range(5)]


def test_what_a_group_shares():
    differing = {"activation": "relu", "init": "upcycled", "router": RouterSpec("hash"), "inputs": InputSpec("sphere")}
    differing |= {"norm_affine": "shared", "norm_affine_std": 0.5, "init_correlation": 0.1, "space": "powerlaw"}
    assert {shape(dataclasses.replace(SPEC, **{name: value})) for name, value in differing.items()} == {shape(SPEC)}
    shared = {
        "d_model": 6,
        "d_ff": 8,
        "n_experts": 4,
        "top_k": 1,
        "n_shared_experts": 1,
        "gated": True,
        "norm": "rmsnorm",
        "norm_affine": "none",
        "space": SpaceSpec(bias=1.0),
    }
    shapes = {shape(dataclasses.replace(SPEC, **{name: value})) for name, value in shared.items()}
    assert len(shapes | {shape(SPEC)}) == len(shared) + 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d_ff", [7, 2051])
def test_weights_of_several_inits(d_ff, dtype):
    inits = ["kaiming_normal", "xavier_normal", "orthogonal", "kaiming_normal", "kaiming_normal", "upcycled", "xavier_uniform", "upcycled"]
    draws = group("init", inits, d_ff=d_ff, gated=True)
    draws[-1] = Draw(dataclasses.replace(draws[-1].spec, init_correlation=0.3, norm_affine="shared", norm_affine_std=1.0), 1, 1)
    together = draw_weights(draws, dtype)
    assert together.trials == tuple(draw.trial for draw in draws)
    for at, draw in enumerate(draws):
        alone = draw_weights([draw], dtype)
        for name in ("up", "gate", "down", "gain", "bias", "router"):
            assert torch.equal(getattr(together, name)[at], getattr(alone, name)[0]), (name, draw)
    assert not torch.equal(together.up[3], together.up[4])


def test_a_router_without_weights_beside_one_with():
    draws = group("router", [RouterSpec("hash"), RouterSpec("linear"), RouterSpec("uniform")])
    assert torch.equal(draw_weights(draws).router[1], draw_weights(draws[1:2]).router[0])
    assert draw_weights(draws[:1] + draws[2:]).router is None


@pytest.mark.parametrize("tokens", [40, 1100])
def test_tokens_of_several_laws(tokens):
    laws = [InputSpec(), InputSpec("sphere"), InputSpec("clusters"), InputSpec(), InputSpec("student"), InputSpec("powerlaw", mean=2.0)]
    draws = group("inputs", [*laws, InputSpec("sphere")])
    together = open_inputs(draws)(draws, tokens, "float32")
    for at, draw in enumerate(draws):
        assert torch.equal(together[at], open_inputs([draw])([draw], tokens, "float32")[0])
    assert not torch.equal(together[1], together[6])


def routed_as_alone(draws, x, rows):
    """The routing of a group, in which each draw has what it has alone, padded."""
    together = route(draws, x, rows)
    for at, draw in enumerate(draws):
        alone = route([draw], x[at : at + 1], rows[at : at + 1])
        width = alone.indices.shape[-1]
        assert torch.equal(together.indices[at, :, :width], alone.indices[0])
        assert torch.equal(together.weights[at, :, :width], alone.weights[0])
        assert (together.indices[at, :, width:] == -1).all()
        assert (together.weights[at, :, width:] == 0).all()
    return together


@pytest.mark.parametrize("kind", ["linear", "noisy", "sigmoid", "expert_choice"])
def test_routing_by_routers_of_one_kind(kind):
    routers = [RouterSpec(kind, temperature=10.0 ** (at - 3), noise=0.3 * at, bias=at / 7, capacity=1 + at % 2) for at in range(7)]
    draws = group("router", routers)
    x, rows = open_inputs(draws)(draws, 33, "float32"), draw_weights(draws).router
    assert routed_as_alone(draws, x, rows).indices.shape[:2] == (7, 33)


def test_routing_by_several_routers():
    routers = ["linear", "expert_choice", "hash", "sigmoid", "uniform", "noisy", "linear"]
    draws = group("router", [RouterSpec(kind, temperature=1 + at, capacity=1.5) for at, kind in enumerate(routers)])
    x, rows = open_inputs(draws)(draws, 33, "float32"), draw_weights(draws).router
    together = routed_as_alone(draws, x, rows)
    assert together.indices.shape == together.weights.shape == (7, 33, 3)
    with pytest.raises(ValueError, match="router: a linear router needs its weights, got None"):
        route(draws, x, None)


@pytest.mark.parametrize("sites", [SITES, ("output",), ("hidden",)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gated", [False, True])
def test_experts_of_several_activations(sites, dtype, gated):
    """d_ff and experts are odd, so that no run of neighbours ends where a vector register does."""
    draws = group("activation", ["silu", "gelu", "gelu", *ACTIVATIONS, "silu"], gated=gated)
    weights, x = draw_weights(draws, dtype), open_inputs(draws)(draws, 16, dtype)
    tokens = torch.arange(16).expand(len(draws), 3, -1)
    together = run_experts(draws, weights, slice(0, 3), x, tokens, sites)
    for at, draw in enumerate(draws):
        alone = run_experts([draw], draw_weights([draw], dtype), slice(0, 3), x[at : at + 1], tokens[:1], sites)
        assert set(alone) == set(together) == set(sites)
        for site in sites:
            assert torch.equal(together[site][at], alone[site][0]), (site, draw.spec.activation)
    assert set(ACTIVATION_FUNCTIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d_model, d_ff", [(1, 40), (40, 1), (1, 600)])
def test_a_lone_product_of_one_column_rounds_as_one_of_several(d_model, d_ff, dtype):
    spec = LayerSpec(d_model=d_model, d_ff=d_ff, n_experts=2, top_k=1, n_shared_experts=1, activation="tanh")
    draws = draws_of(spec, 0, range(4))
    weights, x = draw_weights(draws, dtype), open_inputs(draws)(draws, 64, dtype)
    tokens = torch.arange(64).expand(4, 1, -1)
    together = run_experts(draws, weights, slice(2, 3), x, tokens, SITES[:2] + SITES[3:])
    for at, draw in enumerate(draws):
        alone = run_experts([draw], draw_weights([draw], dtype), slice(2, 3), x[at : at + 1], tokens[:1], SITES[:2] + SITES[3:])
        assert all(torch.equal(alone[site][0], together[site][at]) for site in alone)


def test_a_layer_of_several_specs_has_the_shape_of_each():
    draws = group("activation", ["relu", "silu"])
    layer = simulate(draws, RunSpec(tokens=20), open_inputs(draws))
    assert shape(layer.spec) == shape(SPEC)
    assert layer.weights.trials == (0, 3)

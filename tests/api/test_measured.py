"""measure against the oracle on its own weights, the same bits under every budget and thread count, and what it refuses."""

import dataclasses
import math
import os

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.api import batch as module
from simgap.api.plan import memory_needed
from simgap.moe import draw_weights, draws_of, group_bytes, open_inputs, plan_stream, simulate
from simgap.moe.experts import run_experts
from simgap.selection import select
from tests import reference

SMALL = {"d_model": 6, "d_ff": 10, "n_experts": 4, "top_k": 2}
LAYERS = {
    "plain": sg.LayerSpec(**SMALL, activation="relu"),
    "gated with layernorm": sg.LayerSpec(**SMALL, gated=True, norm="layernorm", norm_affine="per_expert"),
    "expert choice": sg.LayerSpec(**SMALL, activation="gelu", router=sg.RouterSpec("expert_choice"), norm="rmsnorm"),
    "shared experts": sg.LayerSpec(**SMALL, n_shared_experts=2, activation="tanh"),
    "soft": sg.LayerSpec(**SMALL | {"top_k": 4}, router=sg.RouterSpec("soft")),
}
# A product of 10 terms in float64, normalised, squared, averaged.
ROUND_OFF = 1e-12


def every_vector(spec: sg.LayerSpec, weights: sg.Weights, x: np.ndarray) -> dict[str, np.ndarray]:
    """The vectors of every expert (shared ones last) on every token by the oracle's loops: (n, E, width) per site."""
    found: dict[str, list] = {}
    gated, affine = weights.gate is not None, weights.gain is not None
    for token in x:
        for e in range(weights.up.shape[1]):
            sites = reference.expert_forward(
                token,
                weights.up[0, e].numpy(),
                weights.down[0, e].numpy(),
                spec.activation,
                weights.gate[0, e].numpy() if gated else None,
                spec.norm,
                weights.gain[0, e].numpy() if affine else None,
                weights.bias[0, e].numpy() if affine else None,
            )
            for site, vector in sites.items():
                found.setdefault(site, []).append(vector)
    return {site: np.array(vectors).reshape(len(x), -1, len(vectors[0])) for site, vectors in found.items()}


@pytest.mark.parametrize("name", LAYERS)
def test_every_quantity_against_the_oracle(name):
    spec = LAYERS[name]
    run = sg.RunSpec(tokens=9, trials=1, seed=11, dtype="float64")
    gap = sg.measure(spec, **run.to_dict())
    draws = draws_of(spec, run.seed, [0])
    layer = simulate(draws, run, open_inputs(draws))
    vectors = every_vector(spec, layer.weights, layer.x[0].numpy())
    indices, experts = layer.indices[0].numpy(), spec.n_experts
    checked = 0
    for site, every in vectors.items():
        routed = every[:, :experts]
        mean, pairs = reference.mean_overlap(reference.mean_vectors(routed, indices))
        assert gap.activation_mso["mean"][site].mean == pytest.approx(mean, abs=ROUND_OFF)
        assert gap.activation_mso["mean"][site].pairs == pairs
        chosen = np.take_along_axis(routed, np.maximum(indices, 0)[:, :, None], 1)
        for reading, got, present in (("token", chosen, indices >= 0), ("all", routed, None)):
            means, counts = reference.token_overlap(got, present)
            expected = sum(m * c for m, c in zip(means, counts, strict=True) if c) / sum(counts)
            assert gap.activation_mso[reading][site].mean == pytest.approx(expected, abs=ROUND_OFF)
            assert gap.activation_mso[reading][site].pairs == sum(counts)
        if spec.n_shared_experts:
            shared = every[:, experts:]
            cross = [
                reference.cos2(chosen[t, i], shared[t, j])
                for t in range(len(every))
                for i in range(chosen.shape[1])
                for j in range(shared.shape[1])
            ]
            assert gap.shared.activation_mso["token"][site].mean == pytest.approx(np.mean(cross), abs=ROUND_OFF)
            assert gap.shared.activation_mso["token"][site].pairs == len(cross)
            means = [*reference.mean_vectors(routed, indices)], [*shared.mean(0)]
            cross = [reference.cos2(u, v) for u in means[0] for v in means[1]]
            assert gap.shared.activation_mso["mean"][site].mean == pytest.approx(np.nanmean(cross), abs=ROUND_OFF)
        checked += 1
    assert checked == (3 if spec.norm == "none" else 4)
    flat = {"up": layer.weights.up[0].flatten(1), "down": layer.weights.down[0].flatten(1)}
    if spec.gated:
        flat["gate"] = layer.weights.gate[0].flatten(1)
    flat["all"] = torch.cat(list(flat.values()), 1)
    for kind, weights in flat.items():
        assert gap.weight_mso[kind].mean == pytest.approx(reference.mean_overlap(weights[:experts].numpy())[0], abs=ROUND_OFF)


def bits(gap: sg.Gap) -> list[tuple]:
    quantities = [*gap.items(), *(gap.shared.items() if gap.shared else ())]
    return [(path, value.values.tobytes(), value.pairs) for path, value in quantities]


REQUESTS = {
    "many small trials": (sg.LayerSpec(d_model=24, d_ff=40, n_experts=5, top_k=2, n_shared_experts=1), {"tokens": 70, "trials": 24}),
    "odd sizes": (sg.LayerSpec(d_model=33, d_ff=65, n_experts=3, top_k=2, gated=True, norm="layernorm"), {"tokens": 101, "trials": 9}),
    "large trials": (sg.LayerSpec(d_model=96, d_ff=300, n_experts=8, top_k=2, activation="gelu"), {"tokens": 1500, "trials": 5}),
    "one trial": (sg.LayerSpec(d_model=128, d_ff=2500, n_experts=8, top_k=2, activation="relu"), {"tokens": 64, "trials": 1}),
}


def tight(spec: sg.LayerSpec, request: dict) -> int:
    """A budget for one trial and a half."""
    return 3 * group_bytes(spec, sg.RunSpec(**request), 1, ("pre", "hidden", "normed", "output"), True) // 2


@pytest.mark.bits
@pytest.mark.parametrize("name", REQUESTS)
def test_same_bits_for_any_threads_and_budget(name):
    spec, request = REQUESTS[name]
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (2, 1):
            torch.set_num_threads(count)
            found += [bits(sg.measure(spec, seed=5, memory=memory, **request)) for memory in ("2GiB", "205MiB", tight(spec, request))]
    finally:
        torch.set_num_threads(threads)
    assert all(other == found[0] for other in found[1:])
    assert bits(sg.measure(spec, seed=6, **request)) != found[0]


STREAMS = {
    "gated, normed, shared": {"gated": True, "norm": "layernorm", "norm_affine": "per_expert", "n_shared_experts": 1},
    "upcycled": {"init": "upcycled", "norm": "rmsnorm"},
    "uniform": {"init": "xavier_uniform", "router": "expert_choice", "activation": "gelu"},
    "uneven": {"inputs": sg.InputSpec(mean=20.0), "activation": "relu"},
}


@pytest.mark.bits
@pytest.mark.parametrize("name", STREAMS)
def test_streamed_layers_have_the_bits_of_held_ones(monkeypatch, torch_threads, name):
    """Budgets from just below one trial to the least that is accepted: other blocks of tokens, one thread or two, the same numbers."""
    spec = sg.LayerSpec(d_model=40, d_ff=2100, n_experts=4, top_k=2, **STREAMS[name])
    request: dict = {"tokens": 300, "trials": 2, "seed": 3}
    torch_threads(2)
    plans = []
    monkeypatch.setattr(module, "plan_stream", lambda *arguments: plans.append(plan_stream(*arguments)) or plans[-1])
    held = sg.measure(spec, **request)
    assert not plans
    whole, least = memory_needed(spec, sg.RunSpec(tokens=300, trials=2))
    for memory in (whole - 1, (whole + least) // 2, least):
        assert bits(sg.measure(spec, memory=memory, **request)) == bits(held)
    assert len({plan.tokens for plan in plans}) >= 2
    assert {plan.workers for plan in plans} == {1, min(2, os.cpu_count())}
    assert min(plan.tokens for plan in plans) == 16
    with pytest.raises(ValueError, match="memory: one trial of this layer"):
        sg.measure(spec, memory=least - 1, **request)


@pytest.mark.parametrize("readings", [("mean",), ("token", "mean"), ("all",)])
@pytest.mark.parametrize("sites", [("output",), ("pre", "hidden"), ("hidden", "output")])
def test_streamed_requests_for_less(monkeypatch, readings, sites):
    spec = sg.LayerSpec(d_model=120, d_ff=2100, n_experts=3, top_k=2)
    request: dict = {"tokens": 300, "trials": 1, "sites": sites, "readings": readings, "weights": ("up",)}
    streams = []
    monkeypatch.setattr(module, "plan_stream", lambda *arguments: streams.append(plan_stream(*arguments)) or streams[-1])
    wanted = {name: request[name] for name in ("sites", "readings", "weights")}
    held, _ = memory_needed(spec, sg.RunSpec(tokens=300, trials=1), select(**wanted))
    assert bits(sg.measure(spec, memory=held - 1, **request)) == bits(sg.measure(spec, **request))
    assert len(streams) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d_model", "d_ff"), [(520, 2049), (17, 513), (3, 5), (1, 1), (24, 2)])
def test_products_too_small_for_the_library_round_alike_in_any_number_of_rows(d_model, d_ff, dtype):
    """A product of fewer than 400 in rows, terms and columns together is summed by torch itself, in another order."""
    spec = sg.LayerSpec(d_model=d_model, d_ff=d_ff, n_experts=3, top_k=2, activation="identity")
    request: dict = {"tokens": 200, "trials": 2, "dtype": dtype, "readings": ("token", "mean"), "sites": ("pre", "output")}
    draws = draws_of(spec, 0, [0])
    weights, x = draw_weights(draws, dtype), open_inputs(draws)(draws, 200, dtype)
    everyone = run_experts(draws, weights, slice(0, 3), x, torch.arange(192).expand(1, 3, -1), ("pre", "output"))
    for rows in (16, 32, 48, 64, 80):
        few = run_experts(draws, weights, slice(0, 3), x, torch.arange(rows).expand(1, 3, -1), ("pre", "output"))
        assert all(torch.equal(few[site], everyone[site][:, :, :rows]) for site in few)
    assert bits(sg.measure(spec, **request))[0][1][:8] == bits(sg.measure(spec, **request | {"trials": 1}))[0][1]


def test_an_uneven_router_is_served_in_smaller_blocks():
    """What a budget can stream it can hold too: where one expert gets all tokens, blocks of tokens shrink."""
    spec = sg.LayerSpec(d_model=16, d_ff=256, n_experts=64, top_k=1, inputs=sg.InputSpec(mean=20.0))
    request: dict = {"tokens": 1024, "trials": 1, "readings": ("mean",)}
    held = bits(sg.measure(spec, **request))
    estimate = group_bytes(spec, sg.RunSpec(tokens=1024), 1, ("pre", "hidden", "output"), False)
    for memory in (estimate - 1, estimate, 2 * estimate, 8 * estimate):
        assert bits(sg.measure(spec, memory=memory, **request)) == held


@pytest.mark.parametrize("progress", [True, False, None])
def test_a_bar_of_progress(capsys, progress):
    sg.measure(sg.LayerSpec(d_model=4, d_ff=4, n_experts=3), tokens=5, trials=2, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("/2 trials" in err) if progress else err == ""


def test_progress_of_a_streamed_trial_comes_in_fractions():
    steps: list[float] = []
    spec = sg.LayerSpec(d_model=120, d_ff=2100, n_experts=3)
    _, least = memory_needed(spec, sg.RunSpec(tokens=300, trials=2))
    sg.measure(spec, tokens=300, trials=2, memory=least, progress=steps.append)
    assert len(steps) > 4
    assert sum(steps) == pytest.approx(2)
    whole: list[float] = []
    sg.measure(sg.LayerSpec(d_model=8, d_ff=8, n_experts=3), tokens=30, trials=3, progress=whole.append)
    assert sum(whole) == 3
    assert all(isinstance(step, int) for step in whole)


def test_what_cannot_be_streamed_says_what_it_needs():
    spec = sg.LayerSpec(d_model=64, d_ff=2100, init="orthogonal")
    with pytest.raises(ValueError, match=r"memory: one trial .* needs .*, the budget is 4 MiB; orthogonal weights are drawn whole"):
        sg.measure(spec, tokens=20, trials=1, memory="4MiB")
    with pytest.raises(ValueError, match=r"memory: one trial .* needs .*, the budget is 4 MiB; prepared weights are held"):
        sg.measure(sg.LayerSpec(d_model=64, d_ff=2100), tokens=20, trials=1, memory="4MiB", prepare=lambda w: w)


def test_the_default_dtype_of_torch_changes_nothing():
    spec = sg.LayerSpec(d_model=24, d_ff=40, n_experts=4, top_k=2, norm="layernorm", norm_affine="shared", router="sigmoid")
    before = bits(sg.measure(spec, tokens=50, trials=3))
    try:
        torch.set_default_dtype(torch.float64)
        assert bits(sg.measure(spec, tokens=50, trials=3)) == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_trial_does_not_depend_on_how_many_there_are():
    spec, request = REQUESTS["odd sizes"]
    few, many = (sg.measure(spec, tokens=request["tokens"], trials=trials) for trials in (4, 11))
    for (path, a), (_, b) in zip(few.items(), many.items(), strict=True):
        assert a.values.tobytes() == b.values[: len(a.values)].tobytes(), path


def test_dtypes_agree_on_the_same_weights():
    """The same weights in float32 and float64 give overlaps that agree within float32 round-off."""
    spec = sg.LayerSpec(d_model=32, d_ff=64, n_experts=4, top_k=2, norm="layernorm")
    drawn = {}

    def keep(weights):
        drawn[weights.trials] = weights
        return weights

    def reuse(weights):
        single = drawn[weights.trials]
        return dataclasses.replace(single, **{name: getattr(single, name).double() for name in ("up", "down", "router")})

    single = sg.measure(spec, tokens=50, trials=2, prepare=keep)
    double = sg.measure(spec, tokens=50, trials=2, dtype="float64", prepare=reuse)
    for kind in ("up", "down", "all"):
        assert single.weight_mso[kind].mean == pytest.approx(double.weight_mso[kind].mean, abs=1e-6)


def test_prepare_changes_what_is_measured():
    spec = LAYERS["plain"]
    same = sg.measure(spec, tokens=8, trials=3, prepare=lambda w: dataclasses.replace(w, up=w.up[:, :1].expand_as(w.up).clone()))
    assert same.weight_mso["up"].mean == pytest.approx(1)
    assert same.weight_mso["down"].mean == sg.measure(spec, tokens=8, trials=3).weight_mso["down"].mean


def test_a_zeroed_expert_is_named_and_its_pairs_left_out():
    def zero(weights):
        up, down = weights.up.clone(), weights.down.clone()
        up[:, 2], down[:, 1] = 0, 0
        return dataclasses.replace(weights, up=up, down=down)

    gap = sg.measure(LAYERS["plain"], tokens=20, trials=2, prepare=zero)
    up = gap.weight_mso["up"]
    assert (up.pairs, up.dropped, up.dropped_at) == (6, 6, "trial 0 expert 2, trial 1 expert 2")
    token = gap.activation_mso["token"]["output"]
    assert token.dropped > 0
    assert token.dropped_at.startswith("trial 0: token ")
    mean = gap.activation_mso["mean"]["output"]
    assert mean.dropped_at.startswith("trial 0 expert 1, trial 0 expert 2, trial 1 expert 1")
    assert (mean.pairs, mean.dropped) == (2, 10)


def test_an_idle_expert_is_counted_and_named():
    spec = sg.LayerSpec(**SMALL | {"n_experts": 12}, inputs=sg.InputSpec(mean=5.0))
    gap = sg.measure(spec, tokens=3, trials=2)
    assert gap.routing["idle_experts"] > 0
    assert gap.routing["idle_at"][0].startswith("trial ")
    assert gap.activation_mso["mean"]["output"].dropped > 0
    assert sum(gap.routing["load"]) == pytest.approx(1)
    assert gap.activation_mso["all"]["output"].dropped == 0


def test_dropped_tokens_of_expert_choice_are_counted():
    spec = sg.LayerSpec(**SMALL | {"top_k": 1}, router=sg.RouterSpec("expert_choice"))
    gap = sg.measure(spec, tokens=40, trials=3)
    assert 0 < gap.routing["dropped_tokens"] < gap.routing["tokens"] == 120
    assert gap.activation_mso["token"]["output"].pairs > 0


def test_vectors_that_are_not_finite_are_refused_by_place():
    def huge(weights):
        return dataclasses.replace(weights, up=weights.up * 1e30, down=weights.down * 1e30)

    for readings in (("mean",), ("token",), ("all",)):
        with pytest.raises(ValueError, match=r"output vector.* trial 0.*(expert|token) \d+.*"):
            sg.measure(LAYERS["plain"], tokens=5, trials=1, readings=readings, prepare=huge)


def test_what_does_not_exist_says_why():
    gap = sg.measure(sg.LayerSpec(**SMALL | {"top_k": 1}), tokens=5, trials=1)
    assert gap.activation_mso["token"]["output"].mean is None
    assert gap.activation_mso["token"]["output"].why == "no token meets two experts"
    assert gap.activation_mso["mean"]["normed"].why == "norm = none: there is no normed site"
    assert gap.weight_mso["gate"].why == "gated = false: there is no W_gate"
    assert gap.weight_mso["up"].sem is None
    partial = sg.measure(LAYERS["plain"], tokens=5, trials=2, sites=("pre",), readings=("token",), weights=("down",))
    assert list(partial.weight_mso) == ["down"]
    assert list(partial.activation_mso) == ["token"]
    assert partial.gap.why == "mean output not measured"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens: expected a whole number, at least 1"),
        ({"trials": 0}, "trials: expected a whole number, at least 1"),
        ({"device": "cuda:99"}, "device: "),
        ({"memory": "10KiB"}, r"memory: one trial of this layer .* needs .*, the budget is 10 KiB"),
        ({"sites": ("outputs",)}, "sites: expected some of .*; did you mean 'output'"),
        ({"readings": ("tokens",)}, "readings: expected some of .*; did you mean 'token'"),
        ({"weights": ("upp",)}, "weights: expected some of .*; did you mean 'up'"),
        ({"prepare": lambda weights: None}, "prepare: expected it to return Weights"),
        (
            {"prepare": lambda weights: dataclasses.replace(weights, up=weights.up * math.nan)},
            "prepare: up of trial 0, expert 0 is not finite",
        ),
    ],
)
def test_bad_requests_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sg.measure(LAYERS["plain"], **{"tokens": 5, "trials": 2} | change)


def test_a_layer_beyond_the_machine_is_refused():
    with pytest.raises(ValueError, match=r"memory: one trial of this layer .* needs .* GiB, the machine has"):
        sg.measure(sg.LayerSpec(d_model=10_000_000, d_ff=4096), memory="100TiB")


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    spec = sg.LayerSpec(d_model=64, d_ff=128, norm="layernorm", activation="gelu")
    cpu, cuda = (sg.measure(spec, tokens=100, trials=4, device=device) for device in ("cpu", "cuda"))
    for (path, a), (_, b) in zip(cpu.items(), cuda.items(), strict=True):
        if a.mean is not None and path != ("ratio",):
            assert b.mean == pytest.approx(a.mean, abs=2e-6), path

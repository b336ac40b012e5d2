"""The simulated layer: blocks of tokens, prepared weights, groups of trials, and bits that no thread count moves."""

import dataclasses

import numpy as np
import pytest
import torch

from simgap.moe import draw_weights, draws_of, group_bytes, group_trials, open_inputs, simulate
from simgap.quantities import SITES
from simgap.sources import TOKEN_BLOCK
from simgap.specs import InputSpec, LayerSpec, RouterSpec, RunSpec, SpaceSpec
from simgap.threads import pool
from tests import reference

SPEC = LayerSpec(d_model=4, d_ff=6, n_experts=3, top_k=2, norm="layernorm")


def simulated(spec, tokens, trials=(0, 1), dtype="float64", prepare=None, **options):
    run = RunSpec(tokens=tokens, trials=max(trials) + 1, dtype=dtype)
    draws = draws_of(spec, run.seed, trials)
    return simulate(draws, run, open_inputs(draws), prepare, **options)


def oracle(layer, trial, expert, token):
    def plain(value):
        return None if value is None else value[trial, expert].double().numpy()

    weights = layer.weights
    return reference.expert_forward(
        layer.x[trial, token].double().numpy(),
        plain(weights.up),
        plain(weights.down),
        layer.spec.activation,
        W_gate=plain(weights.gate),
        norm=layer.spec.norm,
        gain=plain(weights.gain),
        bias=plain(weights.bias),
    )


def check_slots(layer, block, start, tokens, site):
    """Largest difference from the oracle at some slots of a block: routed and shared ones."""
    spec, rows = layer.spec, block.rows[site]
    k = block.indices.shape[-1]
    worst = 0.0
    for trial in range(rows.shape[0]):
        for token in tokens:
            experts = [*block.indices[trial, token].tolist(), *range(spec.n_experts, spec.n_experts + spec.n_shared_experts)]
            for slot, expert in enumerate(experts):
                row = int(block.index[trial, token, slot])
                assert (row < 0) == (expert < 0)
                assert row < rows.shape[1]
                if expert >= 0:
                    exact = oracle(layer, trial, expert, start + token)[site]
                    worst = max(worst, float(np.abs(rows[trial, row].double().numpy() - exact).max()))
            assert len(experts) == block.index.shape[-1] == k + spec.n_shared_experts
    return worst


@pytest.mark.parametrize("all_pairs", [False, True])
@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("router", ["linear", "expert_choice", "uniform"])
def test_blocks_cover_every_token_once(all_pairs, shared, router):
    spec = dataclasses.replace(SPEC, n_shared_experts=shared, router=RouterSpec(router))
    tokens = TOKEN_BLOCK + 6
    layer = simulated(spec, tokens)
    blocks = list(layer.blocks(SITES, all_pairs))
    assert [block.indices.shape[1] for block in blocks] == [TOKEN_BLOCK, 6]
    assert torch.equal(torch.cat([block.indices for block in blocks], 1), layer.indices)
    for block, start, some in ((blocks[0], 0, (0, 1, 500, TOKEN_BLOCK - 1)), (blocks[1], TOKEN_BLOCK, range(6))):
        assert set(block.rows) == set(SITES)
        for site in SITES:
            # 10 roundings of numbers of order one in each of two sums, 8-fold for the norm.
            assert check_slots(layer, block, start, some, site) < 8 * 20 * 2**-52 * 4
        assert (block.every is not None) == all_pairs


def test_every_pair_of_expert_and_token():
    layer = simulated(dataclasses.replace(SPEC, n_shared_experts=1), 9)
    (block,) = layer.blocks(("output",), every=True)
    assert block.every.shape == (2, 9, 3)
    for trial, token, expert in np.ndindex(2, 9, 3):
        row = block.rows["output"][trial, int(block.every[trial, token, expert])].numpy()
        assert np.abs(row - oracle(layer, trial, expert, token)["output"]).max() < 1e-13
    everyone = torch.cat([block.every, block.index[..., -1:]], -1)
    assert all(len(set(rows)) == 4 for rows in everyone.reshape(-1, 4).tolist())
    assert int(everyone.max()) < block.rows["output"].shape[1]


def test_a_layer_without_a_norm_has_no_normed_site():
    (block,) = simulated(dataclasses.replace(SPEC, norm="none"), 5).blocks(SITES)
    assert set(block.rows) == {"pre", "hidden", "output"}


@pytest.mark.parametrize("shared", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_output_of_means_is_the_mean_of_outputs(shared, dtype):
    spec = dataclasses.replace(SPEC, n_shared_experts=shared)
    layer = simulated(spec, 40, dtype=dtype)
    (block,) = layer.blocks(("normed", "output"), every=True)
    chosen = layer.indices.numpy()
    for trial in range(2):
        vectors = {}
        for site in ("normed", "output"):
            rows = block.rows[site][trial][block.every[trial]].double().numpy()
            vectors[site] = reference.mean_vectors(rows, chosen[trial])
        means = torch.zeros(2, 3, spec.d_ff, dtype=torch.float64)
        means[trial] = torch.from_numpy(vectors["normed"])
        got = layer.output_of_means(means)[trial].double().numpy()
        # Six products and one conversion of the means on one side, six products a token on the other.
        assert np.abs(got - vectors["output"]).max() < 16 * 6 * torch.finfo(getattr(torch, dtype)).eps
        assert np.abs(got - vectors["output"][::-1]).max() > 1e-2


def test_output_of_means_takes_shared_experts_too():
    layer = simulated(dataclasses.replace(SPEC, n_shared_experts=2), 5)
    means = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 6)))
    exact = torch.einsum("sef,sedf->sed", means, layer.weights.down)
    assert torch.allclose(layer.output_of_means(means), exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shared", [0, 1])
def test_a_common_bias_is_added_to_every_output(shared):
    """On tokens and in the outputs of means; sites before it do not see it, and an idle expert has no output."""
    spec = dataclasses.replace(SPEC, n_shared_experts=shared)
    plain, biased = (simulated(dataclasses.replace(spec, space=SpaceSpec(bias=bias)), 20) for bias in (0.0, 0.5))
    (one,), (other,) = (layer.blocks(SITES, every=True) for layer in (plain, biased))
    bias = biased.weights.output_bias
    for site in ("pre", "hidden", "normed"):
        assert torch.equal(one.rows[site], other.rows[site])
    stands = one.owner >= 0
    assert torch.equal((one.rows["output"] + bias[:, None])[stands], other.rows["output"][stands])
    means = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3 + shared, 6)))
    assert torch.equal(plain.output_of_means(means) + bias[:, None], biased.output_of_means(means))


def test_simulate_draws_what_its_parts_draw():
    layer = simulated(SPEC, 20, trials=(2, 5))
    weights = draw_weights(draws_of(SPEC, 0, (2, 5)), "float64")
    assert torch.equal(layer.weights.up, weights.up)
    draws = draws_of(SPEC, 0, (2, 5))
    assert torch.equal(layer.x, open_inputs(draws)(draws, 20, "float64"))
    assert layer.weights.trials == (2, 5)


def test_prepared_weights_are_used():
    layer = simulated(SPEC, 20, prepare=lambda w: dataclasses.replace(w, down=2 * w.down, router=-w.router))
    plain = simulated(SPEC, 20)
    assert torch.equal(layer.weights.down, 2 * plain.weights.down)
    assert not torch.equal(layer.indices, plain.indices)
    (block,) = layer.blocks(("output",))
    assert check_slots(layer, block, 0, range(20), "output") < 1e-13


def replacing(**change):
    return lambda weights: dataclasses.replace(weights, **{name: make(getattr(weights, name)) for name, make in change.items()})


def poisoned(value, at):
    def poison(tensor):
        tensor = tensor.clone()
        tensor[at] = value
        return tensor

    return poison


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda w: None, r"expected it to return Weights \(.*\), got NoneType"),
        (lambda w: w.up, r"expected it to return Weights \(.*\), got Tensor"),
        (replacing(up=lambda t: t[:, :2]), r"up must stay \(2, 3, 6, 4\) torch.float64 on cpu, got \(2, 2, 6, 4\) torch.float64 on cpu"),
        (replacing(down=lambda t: t.mT), r"down must stay \(2, 3, 4, 6\) torch.float64 on cpu, got \(2, 3, 6, 4\) torch.float64 on cpu"),
        (replacing(down=lambda t: t.float()), r"down must stay .* torch.float64 on cpu, got .* torch.float32 on cpu"),
        (replacing(up=lambda t: t.numpy()), r"up must stay .*, got ndarray"),
        (replacing(router=lambda t: None), r"router must stay a tensor"),
        (replacing(gate=lambda t: torch.zeros(2, 3, 6, 4)), r"gate must stay None"),
        (replacing(gain=lambda t: torch.ones(2, 3, 6)), r"gain must stay None"),
        (replacing(up=poisoned(torch.nan, (1, 2, 0, 0))), r"up of trial 7, expert 2 is not finite"),
        (replacing(down=poisoned(torch.inf, (0, 1, 0, 0))), r"down of trial 4, expert 1 is not finite"),
        (replacing(router=poisoned(-torch.inf, (1, 0, 0))), r"router of trial 7, expert 0 is not finite"),
        (replacing(output_bias=lambda t: torch.ones(2, 4)), r"output_bias must stay None"),
    ],
)
def test_prepare_is_checked(prepare, message):
    with pytest.raises(ValueError, match=rf"^prepare: {message}$"):
        simulated(SPEC, 5, trials=(4, 7), prepare=prepare)


def test_a_prepared_bias_is_checked():
    spec = dataclasses.replace(SPEC, space=SpaceSpec(bias=0.5))
    with pytest.raises(ValueError, match=r"^prepare: output_bias of trial 7 is not finite$"):
        simulated(spec, 5, trials=(4, 7), prepare=replacing(output_bias=poisoned(torch.nan, (1, 2))))
    layer = simulated(spec, 5, prepare=lambda w: dataclasses.replace(w, output_bias=0 * w.output_bias))
    (block,) = layer.blocks(("output",))
    assert check_slots(layer, block, 0, range(5), "output") < 1e-13


def test_prepare_may_return_what_it_got():
    layer = simulated(SPEC, 5, prepare=lambda w: w)
    assert torch.equal(layer.weights.up, simulated(SPEC, 5).weights.up)


@pytest.mark.parametrize("trials", [1, 2, 7, 100])
@pytest.mark.parametrize("d_model, d_ff, n_experts", [(2, 4, 2), (64, 128, 8), (256, 1024, 16)])
@pytest.mark.parametrize("all_pairs", [False, True])
def test_groups_cover_every_trial_once_and_in_order(trials, d_model, d_ff, n_experts, all_pairs):
    spec = LayerSpec(d_model=d_model, d_ff=d_ff, n_experts=n_experts)
    groups = group_trials(spec, RunSpec(tokens=300, trials=trials), all_pairs)
    assert [trial for group in groups for trial in group] == list(range(trials))
    sizes = [len(group) for group in groups]
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1


def test_a_run_too_small_to_share_is_one_group():
    spec = LayerSpec(d_model=16, d_ff=64)
    assert len(group_trials(spec, RunSpec(tokens=128, trials=2), True)) == 1
    assert len(group_trials(spec, RunSpec(tokens=128, trials=4), True)) == 2


def test_groups_depend_on_neither_seed_nor_memory_nor_dtype():
    spec = LayerSpec(d_model=64, d_ff=128)
    base = group_trials(spec, RunSpec(tokens=300, trials=90), False)
    for change in ({"seed": 5}, {"memory": "1MiB"}, {"dtype": "float64"}):
        assert group_trials(spec, RunSpec(tokens=300, trials=90, **change), False) == base
    assert len(group_trials(spec, RunSpec(tokens=300, trials=90, device="cuda:1"), False)) < len(base)


def held_bytes(layer, all_pairs):
    """Bytes of the weights, the tokens and the largest block's vectors: what a group surely holds."""
    weights = [layer.weights.up, layer.weights.gate, layer.weights.down, layer.x]
    fixed = sum(w.numel() * w.element_size() for w in weights if w is not None)
    return fixed + max(sum(rows.numel() * rows.element_size() for rows in block.rows.values()) for block in layer.blocks(SITES, all_pairs))


@pytest.mark.parametrize("all_pairs", [False, True])
@pytest.mark.parametrize("router", ["linear", "uniform", "expert_choice", "hash"])
def test_the_estimate_of_memory_is_above_what_is_held(router, all_pairs):
    spec = LayerSpec(d_model=16, d_ff=64, n_experts=8, n_shared_experts=1, gated=True, norm="rmsnorm", router=router)
    layer = simulated(spec, 1100, dtype="float32")
    assert held_bytes(layer, all_pairs) < group_bytes(spec, RunSpec(tokens=1100), 2, SITES, all_pairs)


def test_the_estimate_of_memory_holds_for_few_tokens():
    spec = LayerSpec(d_model=16, d_ff=64, n_experts=64, top_k=1)
    layer = simulated(spec, 1, dtype="float32")
    assert held_bytes(layer, False) < group_bytes(spec, RunSpec(tokens=1), 2, SITES, False)


def test_the_estimate_of_memory_holds_for_uneven_loads():
    """Before routing, no estimate can know that every token chooses one expert; after it, the longest list is known and counted."""
    spec = LayerSpec(d_model=16, d_ff=64, n_experts=32, top_k=1, inputs=InputSpec(mean=20.0))
    layer = simulated(spec, 1000, dtype="float32")
    assert layer.longest_list() > 500
    assert held_bytes(layer, False) > group_bytes(spec, RunSpec(tokens=1000), 2, SITES, False)
    assert held_bytes(layer, False) < group_bytes(spec, RunSpec(tokens=1000), 2, SITES, False, layer.longest_list())


@pytest.mark.parametrize("trials", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("all_pairs", [False, True])
def test_the_same_bits_on_one_thread_and_on_two(torch_threads, trials, all_pairs):
    # The wide layer has more weights than one task computes, so that a lone trial is split over its experts.
    spec = LayerSpec(d_model=128, d_ff=4096, n_experts=6, n_shared_experts=1, norm="layernorm") if len(trials) == 1 else LayerSpec()
    bits = []
    for threads in (1, 2):
        torch_threads(threads)
        with pool() as (task_map, workers):
            layer = simulated(spec, 130, trials, "float32", task_map=task_map)
            (block,) = layer.blocks(SITES, all_pairs, task_map)
        assert workers <= threads
        bits.append([layer.weights.up, layer.x, layer.gates, block.index, *(block.rows[site] for site in sorted(block.rows))])
    assert all(torch.equal(one, two) for one, two in zip(*bits, strict=True))
    assert len(bits[0]) >= 7

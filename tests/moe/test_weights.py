"""Initialisations: their entries' scale, their shapes, and labels that make each expert its own draw."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from simgap.moe.group import draws_of
from simgap.moe.weights import HIDDEN_BLOCK, draw_weights, entry_std
from simgap.spaces import direction_scales
from simgap.specs import LayerSpec, RouterSpec, SpaceSpec
from simgap.threads import pool

SIGMA = 5.0
D, F, E, S = 48, 96, 4, 10  # N = 184,320 entries of each matrix
SCALES = {
    "kaiming": {"up": math.sqrt(2 / D), "gate": math.sqrt(2 / D), "down": math.sqrt(2 / F)},
    "xavier": dict.fromkeys(("up", "gate", "down"), math.sqrt(2 / (D + F))),
    "upcycled": {"up": math.sqrt(2 / D), "gate": math.sqrt(2 / D), "down": math.sqrt(2 / F)},
}
SMALL = LayerSpec(d_model=6, d_ff=10, n_experts=3, n_shared_experts=1, gated=True, norm="layernorm", norm_affine="per_expert")


def array(tensor):
    return tensor.double().numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", ["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "upcycled"])
def test_entries_have_the_scale_of_their_init(init, dtype):
    # upcycled at correlation 0: entries of one expert are always i.i.d., those of two would not be.
    spec = LayerSpec(d_model=D, d_ff=F, n_experts=E, init=init, gated=True, init_correlation=0.0)
    weights = draw_weights(draws_of(spec, 0, range(S)), dtype)
    kurtosis = 1.8 if init.endswith("uniform") else 3.0
    for role in ("up", "gate", "down"):
        std = SCALES[init.partition("_")[0]][role]
        values = array(getattr(weights, role)).ravel()
        n = values.size
        assert n == 184_320
        assert entry_std(spec, role) == pytest.approx(std, rel=1e-15)
        error = math.sqrt((kurtosis - 1) / n)
        assert abs(np.mean((values / std) ** 2) - 1) < SIGMA * error
        assert abs(values.mean()) / std * math.sqrt(n) < SIGMA
        # Twins: a scale 2.5% off (15 sigma and more), and the fan of the other side.
        assert abs(np.mean((values / std / 1.025) ** 2) - 1) > SIGMA * error
        if not init.startswith("xavier"):
            other = SCALES["kaiming"]["down" if role != "down" else "up"]
            assert abs(np.mean((values / other) ** 2) - 1) > SIGMA * error
        if init.endswith("uniform"):
            assert np.abs(values).max() <= math.sqrt(3) * std * (1 + 1e-6)
            assert np.abs(values).max() > 0.999 * math.sqrt(3) * std
        else:
            assert np.abs(values).max() > 3.5 * std


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d, f", [(6, 10), (10, 6), (7, 7), (1, 4)])
def test_orthogonal_matrices_are(d, f, dtype):
    spec = LayerSpec(d_model=d, d_ff=f, n_experts=3, init="orthogonal", gated=True)
    weights = draw_weights(draws_of(spec, 0, range(2)), dtype)
    for role in ("up", "gate", "down"):
        W = array(getattr(weights, role)).reshape(6, *((d, f) if role == "down" else (f, d)))
        tall = W if W.shape[1] >= W.shape[2] else W.transpose(0, 2, 1)
        gram = np.einsum("bij,bik->bjk", tall, tall)
        # Householder QR is orthogonal to a small multiple of (rows x columns) units of round-off.
        assert np.abs(gram - np.eye(min(d, f))).max() < 4 * d * f * np.finfo(dtype).eps
        assert np.mean(W**2) == pytest.approx(entry_std(spec, role) ** 2, rel=1e-5)
        assert entry_std(spec, role) == 1 / math.sqrt(max(d, f))


def test_orthogonal_matrices_are_haar():
    # Without the signs of R, LAPACK's Q has diagonal entries of one sign; under Haar each entry has mean 0 and variance 1/n.
    spec = LayerSpec(d_model=2, d_ff=3, n_experts=2, init="orthogonal")
    with pool(1):
        W = array(draw_weights(draws_of(spec, 0, range(400))).up).reshape(800, 3, 2)
    z = W.mean(0) * math.sqrt(3 * len(W))
    assert np.abs(z).max() < SIGMA
    assert abs(np.abs(W[:, 0, 0]).mean()) * math.sqrt(3 * len(W)) > SIGMA
    assert np.abs((W**2).mean(0) - 1 / 3).max() < SIGMA * math.sqrt((1 / 5 - 1 / 9) / len(W))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_upcycled_experts_correlate_as_asked(correlation):
    spec = LayerSpec(d_model=64, d_ff=128, n_experts=2, init="upcycled", init_correlation=correlation)
    weights = draw_weights(draws_of(spec, 0, range(40)))
    for role in ("up", "down"):
        W = array(getattr(weights, role)) / entry_std(spec, role)
        product = (W[:, 0] * W[:, 1]).ravel()
        # Var of the product of two standard normals of correlation c is 1 + c^2; N = 327,680.
        error = math.sqrt((1 + correlation**2) / product.size)
        assert abs(product.mean() - correlation) < SIGMA * error
        assert abs(product.mean() - correlation - 0.03) > SIGMA * error
        assert abs(np.mean(W[:, 0] ** 2) - 1) < SIGMA * math.sqrt(2 / product.size)
        # Neither trials nor the two matrices of an expert share a base.
        other = array(weights.up if role == "down" else weights.down).swapaxes(-1, -2) / entry_std(spec, "up" if role == "down" else "down")
        assert abs((W * other).mean()) * math.sqrt(W.size / 2) < SIGMA
        across = (W[:-1, 0] * W[1:, 0]).ravel()
        assert abs(across.mean()) * math.sqrt(across.size) < SIGMA


def test_upcycled_at_the_ends():
    same = draw_weights(draws_of(LayerSpec(d_model=4, d_ff=6, n_experts=3, init="upcycled", init_correlation=1.0), 0, [0]))
    assert torch.equal(same.up[:, 0], same.up[:, 2])
    assert torch.equal(same.down[:, 1], same.down[:, 2])
    fresh = draw_weights(draws_of(LayerSpec(d_model=4, d_ff=6, n_experts=3, init="upcycled", init_correlation=0.0), 0, [0]))
    plain = draw_weights(draws_of(LayerSpec(d_model=4, d_ff=6, n_experts=3), 0, [0]))
    assert torch.equal(fresh.up, plain.up)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("affine", ["none", "shared", "per_expert"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shapes(gated, affine, dtype):
    spec = LayerSpec(d_model=6, d_ff=10, n_experts=3, n_shared_experts=2, gated=gated, norm="rmsnorm", norm_affine=affine)
    weights = draw_weights(draws_of(spec, 0, [4, 9]), dtype)
    assert weights.up.shape == (2, 5, 10, 6)
    assert weights.down.shape == (2, 5, 6, 10)
    assert weights.router.shape == (2, 3, 6)
    assert weights.trials == (4, 9)
    assert weights.up.dtype == weights.down.dtype == weights.router.dtype == getattr(torch, dtype)
    assert (None if weights.gate is None else tuple(weights.gate.shape)) == ((2, 5, 10, 6) if gated else None)
    for value in (weights.gain, weights.bias):
        assert (None if value is None else tuple(value.shape)) == (None if affine == "none" else (2, 5, 10))
    # A block of hidden units is contiguous in W_down too.
    assert weights.down.mT.is_contiguous()


@pytest.mark.parametrize("kind, held", [("linear", True), ("sigmoid", True), ("uniform", False), ("hash", False)])
def test_routers_with_and_without_weights(kind, held):
    weights = draw_weights(draws_of(LayerSpec(d_model=4, d_ff=4, router=kind), 0, [0]))
    assert (weights.router is not None) == held


def test_router_rows_give_unit_logits():
    spec = LayerSpec(d_model=64, d_ff=1, n_experts=16)
    rows = array(draw_weights(draws_of(spec, 0, range(100))).router).ravel() * 8
    assert abs(np.mean(rows**2) - 1) < SIGMA * math.sqrt(2 / rows.size)
    assert abs(np.mean((1.05 * rows) ** 2) - 1) > SIGMA * math.sqrt(2 / rows.size)


def test_gain_and_bias():
    spec = LayerSpec(d_model=1, d_ff=500, n_experts=20, norm="layernorm", norm_affine="per_expert", norm_affine_std=0.2)
    weights = draw_weights(draws_of(spec, 0, range(10)))
    for value, centre in ((weights.gain, 1.0), (weights.bias, 0.0)):
        z = (array(value).ravel() - centre) / 0.2
        assert abs(z.mean()) * math.sqrt(z.size) < SIGMA
        assert abs(np.mean(z**2) - 1) < SIGMA * math.sqrt(2 / z.size)
        assert abs(np.mean(z**2) / 1.05 - 1) > SIGMA * math.sqrt(2 / z.size)
    assert not torch.equal(weights.gain[:, 0], weights.gain[:, 1])
    assert not torch.equal(weights.gain - 1, weights.bias)


def test_a_shared_gain_is_one_for_all_experts_of_a_trial():
    spec = LayerSpec(d_model=1, d_ff=8, n_experts=3, n_shared_experts=1, norm="layernorm", norm_affine="shared")
    weights = draw_weights(draws_of(spec, 0, [0, 1]))
    for value in (weights.gain, weights.bias):
        assert torch.equal(value, value[:, :1].expand_as(value))
        assert not torch.equal(value[0], value[1])


@pytest.mark.parametrize("init", ["kaiming_normal", "kaiming_uniform", "orthogonal", "upcycled"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trials_drawn_alone_are_those_drawn_together(init, dtype):
    spec = replace(SMALL, init=init)
    together = draw_weights(draws_of(spec, 5, [1, 3, 8]), dtype)
    alone = draw_weights(draws_of(spec, 5, [3]), dtype)
    for name in ("up", "gate", "down", "gain", "bias", "router"):
        assert torch.equal(getattr(together, name)[1:2], getattr(alone, name))
        assert not torch.equal(getattr(together, name)[:1], getattr(alone, name))
    other = draw_weights(draws_of(spec, 6, [3]), dtype)
    assert not torch.equal(other.up, alone.up)


@pytest.mark.parametrize("init", ["kaiming_normal", "xavier_uniform", "orthogonal", "upcycled"])
def test_experts_do_not_depend_on_how_many_there_are(init):
    few, many = (draw_weights(draws_of(LayerSpec(d_model=6, d_ff=10, n_experts=n, init=init), 0, [0, 1])) for n in (2, 7))
    assert torch.equal(few.up, many.up[:, :2])
    assert torch.equal(few.down, many.down[:, :2])
    assert not torch.equal(many.up[:, 0], many.up[:, 1])


def test_a_shared_expert_is_the_next_expert():
    shared = draw_weights(draws_of(LayerSpec(d_model=6, d_ff=10, n_experts=2, n_shared_experts=1), 0, [0]))
    routed = draw_weights(draws_of(LayerSpec(d_model=6, d_ff=10, n_experts=3), 0, [0]))
    assert torch.equal(shared.up, routed.up)


def test_matrices_of_one_expert_differ():
    weights = draw_weights(draws_of(LayerSpec(d_model=6, d_ff=6, n_experts=2, gated=True), 0, [0]))
    assert not torch.equal(weights.up, weights.gate)
    assert not torch.equal(weights.up, weights.down.mT)


@pytest.mark.parametrize("init", ["kaiming_normal", "kaiming_uniform", "upcycled"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_block_does_not_depend_on_the_blocks_after_it(init, dtype):
    specs = [LayerSpec(d_model=3, d_ff=HIDDEN_BLOCK + more, n_experts=2, init=init) for more in (2, 9, HIDDEN_BLOCK + 1)]
    drawn = [draw_weights(draws_of(spec, 0, [0]), dtype) for spec in specs]
    first = drawn[0].up[:, :, :HIDDEN_BLOCK]
    for weights, spec in zip(drawn[1:], specs[1:], strict=True):
        assert torch.equal(weights.up[:, :, :HIDDEN_BLOCK], first)
        # W_down's scale follows d_ff, so it agrees up to that: a few roundings, in units of one standard deviation.
        a, b = (w.down[..., :HIDDEN_BLOCK] / entry_std(s, "down") for w, s in ((drawn[0], specs[0]), (weights, spec)))
        assert torch.allclose(a, b, rtol=16 * torch.finfo(a.dtype).eps, atol=16 * torch.finfo(a.dtype).eps)
    longest = drawn[2].up
    assert not torch.equal(longest[:, :, HIDDEN_BLOCK : 2 * HIDDEN_BLOCK], first)


def test_blocks_are_uncorrelated():
    spec = LayerSpec(d_model=8, d_ff=2 * HIDDEN_BLOCK, n_experts=4)
    W = array(draw_weights(draws_of(spec, 0, [0])).up) / entry_std(spec, "up")
    a, b = W[:, :, :HIDDEN_BLOCK].ravel(), W[:, :, HIDDEN_BLOCK:].ravel()
    assert abs(float(a @ b)) / math.sqrt(a.size) < SIGMA
    assert abs(float(a @ (b + 0.03 * a))) / math.sqrt(a.size) > SIGMA


def test_the_same_bits_on_any_number_of_threads():
    # 65,536 numbers a matrix, 4.9 million in all: enough to be shared out.
    spec = LayerSpec(d_model=128, d_ff=512, n_experts=4, n_shared_experts=1, gated=True, router=RouterSpec("noisy"))
    alone = draw_weights(draws_of(spec, 2, range(5)))
    with pool(2) as (task_map, _):
        spread = draw_weights(draws_of(spec, 2, range(5)), task_map=task_map)
    assert all(torch.equal(getattr(alone, name), getattr(spread, name)) for name in ("up", "gate", "down", "router"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", ["kaiming_normal", "kaiming_uniform", "orthogonal", "upcycled"])
@pytest.mark.parametrize("scaled", ["outputs", "inputs", "both"])
def test_a_space_scales_rows_of_w_down_and_columns_of_the_others(scaled, init, dtype):
    space = SpaceSpec("powerlaw", scaled, alpha=2.0, outliers=1)
    plain, uneven = (draw_weights(draws_of(replace(SMALL, init=init, space=s), 5, [1, 3]), dtype) for s in (SpaceSpec(), space))
    scales = torch.from_numpy(direction_scales(space, SMALL.d_model).astype(dtype))
    for role in ("up", "gate", "down"):
        before, after = getattr(plain, role), getattr(uneven, role)
        if role == "down":
            before, after = before.mT, after.mT
        assert torch.equal(after, before * scales if scaled in ("both", "outputs" if role == "down" else "inputs") else before)
    assert torch.equal(plain.router, uneven.router)


def test_a_rotated_space_has_one_basis_for_all_experts():
    """The turned matrices are orthogonal times those in coordinates, one orthogonal matrix to a trial."""
    space = SpaceSpec("powerlaw", "both", alpha=2.0)
    here, turned = (draw_weights(draws_of(replace(SMALL, space=s), 5, [1, 3]), "float64") for s in (space, replace(space, rotated=True)))
    basis = None
    for trial in range(2):
        stacks = [
            torch.cat([getattr(w, role)[trial].mT if role == "down" else getattr(w, role)[trial] for role in ("up", "gate", "down")])
            for w in (here, turned)
        ]
        before, after = (stack.reshape(-1, SMALL.d_model) for stack in stacks)
        found = torch.linalg.lstsq(before, after).solution
        assert torch.allclose(before @ found, after, rtol=0, atol=1e-12)
        assert torch.allclose(found @ found.T, torch.eye(SMALL.d_model, dtype=torch.float64), rtol=0, atol=1e-11)
        assert basis is None or not torch.allclose(found, basis, atol=0.1)
        basis = found


def test_a_common_bias():
    weights = draw_weights(draws_of(replace(SMALL, space=SpaceSpec(bias=0.5)), 5, [1, 3]), "float64")
    assert weights.output_bias.shape == (2, SMALL.d_model)
    assert torch.allclose(weights.output_bias.square().mean(1), torch.full((2,), 0.25, dtype=torch.float64), rtol=1e-14)
    assert not torch.equal(weights.output_bias[0], weights.output_bias[1])
    assert draw_weights(draws_of(SMALL, 5, [1])).output_bias is None


def test_layers_of_several_spaces_have_the_bits_of_each():
    spaces = [SpaceSpec(), SpaceSpec("powerlaw", "both", rotated=True), SpaceSpec(outliers=2), SpaceSpec("lognormal", "inputs")]
    draws = [draws_of(replace(SMALL, space=space), 3, [at])[0] for at, space in enumerate(spaces)]
    together = draw_weights(draws)
    for at, draw in enumerate(draws):
        alone = draw_weights([draw])
        assert all(torch.equal(getattr(together, name)[at], getattr(alone, name)[0]) for name in ("up", "gate", "down"))

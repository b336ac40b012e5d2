import numpy as np
import pytest
import torch

from simgap.moe import open_inputs, simulate
from simgap.moe import streamed as subject
from simgap.moe import weights as layout
from simgap.moe.group import Draw, draws_of
from simgap.moe.streamed import stream_weights
from simgap.moe.weights import Weights, draw_weights
from simgap.overlaps import gram_of_pieces, total
from simgap.specs import LayerSpec, RunSpec, SpaceSpec

SPACES = (SpaceSpec("powerlaw", "both", alpha=1.5, outliers=2, bias=0.5), SpaceSpec("lognormal", "inputs"))
INITS = ("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "upcycled")


def both(monkeypatch, trial=3, dtype="float32", **fields):
    """Held and streamed weights of one layer that has several blocks of hidden units, the last one short."""
    for module in (layout, subject):
        monkeypatch.setattr(module, "HIDDEN_BLOCK", 40)
    spec = LayerSpec(d_model=33, d_ff=100, n_experts=3, n_shared_experts=1, gated=True, norm="rmsnorm", norm_affine="per_expert", **fields)
    return draw_weights(draws_of(spec, 5, [trial]), dtype), stream_weights(Draw(spec, 5, trial), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", INITS)
def test_blocks_are_number_for_number_those_that_are_held(monkeypatch, init, dtype):
    held, streamed = both(monkeypatch, init=init, dtype=dtype)
    for role in ("up", "gate", "down"):
        for experts in (slice(0, 1), slice(1, 3), slice(3, 4)):
            pairs = [(one, two.clone()) for one, two in zip(held.blocks(role, experts), streamed.blocks(role, experts), strict=True)]
            assert [block.shape[1] for _, block in pairs] == [40, 40, 20]
            assert all(torch.equal(one, two) for one, two in pairs)
    assert torch.equal(held.gain, streamed.gain)
    assert torch.equal(held.bias, streamed.bias)
    assert torch.equal(held.router, streamed.router)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
@pytest.mark.parametrize("init", ["kaiming_normal", "xavier_uniform", "upcycled"])
def test_spaces_are_streamed_too(monkeypatch, init, space, dtype):
    held, streamed = both(monkeypatch, init=init, dtype=dtype, space=space)
    for role in ("up", "gate", "down"):
        pairs = zip(held.blocks(role, slice(0, 4)), streamed.blocks(role, slice(0, 4)), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)
    assert (held.output_bias is None) == (not space.bias)
    assert held.output_bias is None or torch.equal(held.output_bias, streamed.output_bias)


def all_of(weights, role, block):
    """The pieces of all experts, which stand in them in their order."""
    experts = range(
        weights.up.shape[1] if isinstance(weights, Weights) else weights.draw.spec.n_experts + weights.draw.spec.n_shared_experts
    )
    pieces, rows, columns = weights.pieces(role, block, experts, experts)
    assert rows == columns == experts
    return pieces


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", INITS)
def test_pieces_are_consecutive_stretches_of_all_experts(monkeypatch, init, dtype):
    held, streamed = both(monkeypatch, init=init, dtype=dtype)
    # A stream may be read in multiples of as many numbers as are drawn at a time, here the real constant: one piece to a block.
    for role in ("up", "down"):
        for block in range(3):
            (whole,) = all_of(held, role, block)
            pieces = torch.cat([piece.clone() for piece in all_of(streamed, role, block)], -1)
            assert torch.equal(pieces, whole)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("init", INITS)
def test_a_block_of_many_pieces(init, scaled):
    """2,048 units of width 100 are three pieces and a bit, which begin in the middle of a unit's weights."""
    spec = LayerSpec(d_model=100, d_ff=2048, n_experts=2, init=init, space=SpaceSpec("powerlaw", "inputs") if scaled else "round")
    held, streamed = draw_weights(draws_of(spec, 1, [0])), stream_weights(Draw(spec, 1, 0))
    (whole,) = all_of(held, "up", 0)
    pieces = [piece.clone() for piece in all_of(streamed, "up", 0)]
    assert [piece.shape[-1] for piece in pieces] == [65536, 65536, 65536, 204800 - 3 * 65536]
    assert torch.equal(torch.cat(pieces, -1), whole)
    assert torch.equal(gram_of_pieces(all_of(streamed, "up", 0)), gram_of_pieces([whole]))


def test_the_gram_over_blocks_is_that_of_the_flattened_weights(monkeypatch):
    held, streamed = both(monkeypatch)
    for role, matrix in (("up", held.up), ("gate", held.gate), ("down", held.down)):
        exact = matrix[0].double().flatten(1).numpy()
        products = exact @ exact.T
        for weights in (held, streamed):
            found = total(gram_of_pieces(all_of(weights, role, block)) for block in range(3))[0].numpy()
            np.testing.assert_allclose(found, products, rtol=0, atol=3400 * np.finfo(float).eps * products.max())


def test_a_trial_is_streamed_by_its_own_label(monkeypatch):
    held, streamed = both(monkeypatch, trial=4)
    _, other = both(monkeypatch, trial=5)
    first, second = (next(weights.blocks("up", slice(0, 1))) for weights in (streamed, other))
    assert torch.equal(first, next(held.blocks("up", slice(0, 1))))
    assert not torch.equal(first, second)


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(ValueError, match="init: an orthogonal matrix is drawn whole"):
        stream_weights(Draw(LayerSpec(init="orthogonal"), 0, 0))
    with pytest.raises(ValueError, match=r"space\.rotated: a matrix is drawn whole before it is turned"):
        stream_weights(Draw(LayerSpec(space=SpaceSpec("powerlaw", rotated=True)), 0, 0))
    two = draws_of(LayerSpec(), 0, [0, 1])
    with pytest.raises(ValueError, match="draws: a streamed layer is one trial, got 2"):
        simulate(two, RunSpec(), open_inputs(two), streamed=True)


def test_held_weights_have_no_matrix_that_was_not_drawn():
    weights = draw_weights(draws_of(LayerSpec(d_model=4, d_ff=4, n_experts=2), 0, [0]))
    with pytest.raises(ValueError, match="role: these weights have no gate"):
        all_of(weights, "gate", 0)

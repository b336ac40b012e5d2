"""Descent on the experts' pairwise overlap: the span form against plain steps, autograd, and law R2."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.training import RegularisePairs, pairwise_descent
from tests import reference

# Round-off: 30 steps on tables of at most 6 x 6, then one product with the weights.
ROUND_OFF = 1e-12
SHAPES = [(4, 5, 3), (2, 6, 3, 4), (2, 3, 3, 2, 5), (4, 2, 2)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def mso(weight: torch.Tensor) -> float:
    return reference.mean_overlap(weight.flatten(1).numpy())[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_span_form_against_plain_steps(shape):
    """The last shape has as many vectors as dimensions."""
    weight = drawn(*shape)
    fast, plain = (pairwise_descent(weight, 2.0, steps=30, rate=0.02, plain=plain) for plain in (False, True))
    assert fast.shape == plain.shape == weight.shape
    torch.testing.assert_close(fast, plain, rtol=0, atol=ROUND_OFF)
    assert (fast - weight).abs().max() > 1e-3


def test_float32_agrees_with_float64_within_its_round_off():
    weight = drawn(6, 8, 5, seed=1)
    single = pairwise_descent(weight.float(), 1.0, steps=30, rate=0.05)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), pairwise_descent(weight, 1.0, steps=30, rate=0.05), rtol=0, atol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
def test_one_step_is_autograds_gradient_times_the_squared_norm(plain):
    """w_i moves by -rate strength ||w_i||^2 d/dw_i sum_{i<j} cos^2(w_i, w_j): the rate has no dimension."""
    weight = (drawn(5, 4, 3, seed=2) * torch.tensor([0.1, 1.0, 3.0, 0.5, 2.0])[:, None, None]).requires_grad_()
    unit = torch.nn.functional.normalize(weight.flatten(1), dim=1)
    (torch.triu(unit @ unit.T, diagonal=1) ** 2).sum().backward()
    squared = weight.detach().flatten(1).square().sum(1)[:, None, None]
    expected = weight.detach() - 0.03 * 2.0 * squared * weight.grad
    torch.testing.assert_close(pairwise_descent(weight.detach(), 2.0, steps=1, rate=0.03, plain=plain), expected, rtol=0, atol=1e-13)


def test_directions_do_not_depend_on_the_scale_of_the_init():
    weight = drawn(4, 3, 5, seed=3)
    small, large = (pairwise_descent(scale * weight, 1.0, steps=20, rate=0.02) / scale for scale in (1e-3, 1e3))
    torch.testing.assert_close(small, large, rtol=1e-11, atol=ROUND_OFF)


def test_overlap_falls_monotonically_to_zero():
    """Law R2: linearly independent vectors, no task, small steps."""
    weight = drawn(6, 5, 4, seed=4)
    path = [mso(pairwise_descent(weight, 1.0, steps=steps, rate=0.02)) for steps in range(0, 600, 25)]
    assert path[0] > 0.02
    assert all(later < earlier or earlier < 1e-20 for earlier, later in itertools.pairwise(path))
    assert path[-1] < 1e-12


def test_more_vectors_than_dimensions_end_at_the_welch_bound():
    """E unit vectors in R^N, E > N: the mean of cos^2 over pairs cannot fall below (E/N - 1)/(E - 1); plain descent reaches it."""
    weight = drawn(5, 1, 3, seed=5)
    end = mso(pairwise_descent(weight, 1.0, steps=1000, rate=0.02, plain=True))
    bound = (5 / 3 - 1) / 4
    assert end == pytest.approx(bound, abs=1e-9)


@pytest.mark.parametrize("plain", [False, True])
def test_identical_starts_stay_identical(plain):
    """Law R2: at cos = 1 the gradient vanishes; only round-off is left of it."""
    weight = drawn(1, 4, 3, seed=6).expand(5, 4, 3)
    end = pairwise_descent(weight, 1.0, steps=50, rate=0.01, plain=plain)
    assert mso(end) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(end, weight, rtol=0, atol=1e-12)


def test_orthogonal_starts_stay():
    weight = torch.eye(6, dtype=torch.float64).view(6, 2, 3)[:4]
    assert torch.equal(pairwise_descent(weight, 1.0, steps=5, rate=0.1), weight)


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_to_do_returns_the_weights(plain):
    weight = drawn(3, 4, 2, seed=7)
    assert torch.equal(pairwise_descent(weight, 0.0, plain=plain), weight)
    assert torch.equal(pairwise_descent(weight, 1.0, steps=0, plain=plain), weight)


@pytest.mark.parametrize("change", [{"strength": -1.0}, {"rate": -1e-3}, {"steps": -2}], ids=str)
def test_what_cannot_be_run_is_refused(change):
    with pytest.raises(ValueError, match=r"strength, rate, steps: expected >= 0, > 0 and >= 0, got "):
        pairwise_descent(drawn(2, 2, 2), **{"strength": 1.0} | change)


# Sample size fixed beforehand: 16 experts (120 pairs) and 100 trials: the exact null sd is 1.2% of 1/d.
SPEC = sg.LayerSpec(d_model=12, d_ff=20, n_experts=16, top_k=16, router="soft", activation="silu")
REQUEST = {"tokens": 8, "trials": 100, "seed": 3, "weights": ("up", "down"), "sites": ("output",), "readings": ("mean",)}


def output_z(gap: sg.Gap) -> float:
    sd = sg.predict(SPEC, tokens=8, trials=100).activation_mso["mean"]["output"].sd
    assert sd < 0.02 / 12
    return (gap.activation_mso["mean"]["output"].mean - 1 / 12) / sd


def test_outputs_overlap_as_before():
    """Law R2: W_up's overlap goes to zero and the outputs' stays 1/d within 5 sigma; W_down is untouched."""
    before, after = (sg.measure(SPEC, prepare=prepare, **REQUEST) for prepare in (None, RegularisePairs(1.0, steps=200, rate=0.05)))
    assert before.weight_mso["up"].mean == pytest.approx(1 / 240, rel=0.1)
    assert after.weight_mso["up"].mean < 1e-8
    assert after.weight_mso["down"] == before.weight_mso["down"]
    assert abs(output_z(before)) < 5
    assert abs(output_z(after)) < 5


def test_outputs_of_a_shared_w_down_fail_the_same_line():
    """The biased twin: a share of one W_down common to all experts is more than 5 sigma away, regularised or not."""

    def prepare(weights):
        weights = RegularisePairs(1.0, steps=20, rate=0.05)(weights)
        return dataclasses.replace(weights, down=weights.down + 0.5 * weights.down[:, :1])

    z = output_z(sg.measure(SPEC, prepare=prepare, **REQUEST))
    assert z > 5
    assert math.isfinite(z)


def test_as_a_prepare_it_changes_w_up_only():
    kept = {}

    def prepare(weights):
        kept["before"], kept["after"] = weights, RegularisePairs(1.0, steps=3, rate=0.1)(weights)
        return kept["after"]

    sg.measure(SPEC, tokens=2, trials=2, prepare=prepare)
    before, after = kept["before"], kept["after"]
    assert torch.equal(after.up, pairwise_descent(before.up, 1.0, steps=3, rate=0.1))
    assert after.down is before.down
    assert after.router is before.router


def test_more_vectors_than_dimensions_end_where_plain_descent_does():
    """Dependent starts: nothing may grow in the directions that no vector has."""
    w = torch.from_numpy(np.random.default_rng(5).normal(size=(5, 1, 3)))
    after = pairwise_descent(w, 1.0, steps=500, rate=0.02)
    assert mso(after) == pytest.approx(mso(pairwise_descent(w, 1.0, steps=500, rate=0.02, plain=True)), abs=1e-9)
    assert mso(after) == pytest.approx(1 / 6, abs=1e-3)


def test_identical_starts_stay_at_one_for_any_number_of_steps():
    w = torch.from_numpy(np.random.default_rng(6).normal(size=(1, 4, 3))).expand(5, 4, 3)
    assert mso(pairwise_descent(w, 1.0, steps=2000, rate=0.01)) == pytest.approx(1, abs=1e-9)


def test_a_zero_expert_stays_and_leaves_the_others_alone():
    w = torch.from_numpy(np.random.default_rng(7).normal(size=(4, 6, 3)))
    others = pairwise_descent(w[[0, 2, 3]], 1.0, steps=20, rate=0.1)
    w[1] = 0
    for plain in (False, True):
        after = pairwise_descent(w, 1.0, steps=20, rate=0.1, plain=plain)
        assert not after[1].any()
        assert torch.allclose(after[[0, 2, 3]], others, atol=1e-12)

"""Descent on ||W'W - I||_F: the spectral form against the step-by-step one, autograd, and law R1."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.stats import student_p
from simgap.training import RegulariseGram, gram_descent

FIVE_SIGMA = math.erfc(5 / math.sqrt(2))
# Round-off: 40 steps of products of at most 12 terms, each within 12 units of the last place of numbers up to about 4.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
# (batch..., f, d): f > d, f < d, f = d, and batches of no, one and two axes.
SHAPES = [(12, 5), (5, 12), (8, 8), (3, 9, 4), (2, 3, 4, 9), (1, 6, 6), (1, 7)]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def norm(weight: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(weight.mT @ weight - torch.eye(weight.shape[-1], dtype=weight.dtype))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spectral_form_against_plain_steps(shape, dtype):
    weight = drawn(*shape, dtype=dtype)
    fast, plain = (gram_descent(weight, 0.5, steps=40, rate=0.05, plain=plain) for plain in (False, True))
    assert fast.shape == plain.shape == weight.shape
    assert fast.dtype == plain.dtype == dtype
    torch.testing.assert_close(fast, plain, rtol=0, atol=TOLERANCE[dtype])
    assert (fast - weight).abs().max() > 100 * TOLERANCE[dtype]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)], ids=str)
def test_one_step_is_autograds(shape, plain):
    weight = drawn(*shape, seed=1).requires_grad_()
    (3.0 * norm(weight)).backward()
    expected = weight.detach() - 0.01 * weight.grad
    found = gram_descent(weight.detach(), 3.0, steps=1, rate=0.01, plain=plain)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_every_matrix_of_a_batch_moves_as_it_would_alone():
    weight = drawn(2, 3, 7, 4, seed=2)
    together = gram_descent(weight, 1.0, steps=20, rate=0.01)
    alone = torch.stack([torch.stack([gram_descent(w, 1.0, steps=20, rate=0.01) for w in row]) for row in weight])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)], ids=str)
def test_singular_vectors_stay_and_singular_values_follow_the_recursion(shape):
    """Law R1: U and V are those of the start, and s moves by 2 rate strength s (s^2 - 1) / ||s^2 - 1||, zeros of W'W counted."""
    weight = drawn(*shape, seed=3)
    left, s, right = (part.numpy() for part in torch.linalg.svd(weight, full_matrices=False))
    for _ in range(30):
        unmoved = shape[1] - len(s)
        s = s - 2 * 0.02 * s * (s**2 - 1) / math.sqrt(((s**2 - 1) ** 2).sum() + unmoved)
    found = gram_descent(weight, 1.0, steps=30, rate=0.02).numpy()
    np.testing.assert_allclose(left.T @ found @ right.T, np.diag(s), rtol=0, atol=1e-12)
    np.testing.assert_allclose(left @ (left.T @ found @ right.T) @ right, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_to_do_returns_the_weights(plain):
    weight = drawn(6, 4, seed=4)
    assert torch.equal(gram_descent(weight, 0.0, plain=plain), weight)
    assert torch.equal(gram_descent(weight, 1.0, steps=0, plain=plain), weight)


@pytest.mark.parametrize("plain", [False, True])
def test_an_exact_minimum_stays(plain):
    """W'W = I to the last bit: the norm has no derivative there and its gradient is taken as 0."""
    weight = torch.eye(9, 5, dtype=torch.float64)[torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(gram_descent(weight, 1.0, steps=10, rate=0.1, plain=plain), weight)


@pytest.mark.parametrize("plain", [False, True])
def test_a_matrix_with_orthonormal_columns_moves_no_further_than_one_step_reaches(plain):
    """Orthonormal up to round-off: the gradient has norm at most 2 ||W||_2, so no step leaves by more than 2 rate strength."""
    weight = torch.linalg.qr(drawn(9, 5, seed=5)).Q
    step = 1e-6
    moved = gram_descent(weight, 1.0, steps=10, rate=step, plain=plain) - weight
    assert torch.linalg.matrix_norm(moved) < 4 * step


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)], ids=str)
def test_descent_descends(shape):
    weight = drawn(*shape, seed=6)
    norms = [float(norm(gram_descent(weight, 1.0, steps=steps, rate=1e-3))) for steps in range(0, 400, 20)]
    assert all(later < earlier for earlier, later in itertools.pairwise(norms))


def test_where_d_exceeds_f_the_norm_ends_at_what_the_rank_leaves():
    """W'W has d - f eigenvalues that no descent can lift: the norm tends to sqrt(d - f)."""
    end = gram_descent(drawn(3, 7, seed=7), 1.0, steps=4000, rate=5e-3)
    assert float(norm(end)) == pytest.approx(math.sqrt(4), rel=1e-3)
    np.testing.assert_allclose(np.linalg.svd(end.numpy(), compute_uv=False), 1, atol=5e-3)


@pytest.mark.parametrize(
    "change, got",
    [({"strength": -0.1}, r"-0\.1, 0\.001, 50"), ({"rate": 0.0}, r"1\.0, 0\.0, 50"), ({"steps": -1}, r"1\.0, 0\.001, -1")],
)
def test_what_cannot_be_run_is_refused(change, got):
    request = {"strength": 1.0} | change
    with pytest.raises(ValueError, match=rf"strength, rate, steps: expected >= 0, > 0 and >= 0, got {got}"):
        gram_descent(drawn(3, 3), **request)


def test_as_a_prepare_it_changes_w_up_only():
    spec = sg.LayerSpec(d_model=6, d_ff=9, n_experts=3, gated=True, norm="layernorm", norm_affine="per_expert", n_shared_experts=1)
    kept = {}

    def before_and_after(weights):
        kept["before"], kept["after"] = weights, RegulariseGram(2.0, steps=7, rate=0.02)(weights)
        return kept["after"]

    sg.measure(spec, tokens=4, trials=2, prepare=before_and_after)
    before, after = kept["before"], kept["after"]
    assert torch.equal(after.up, gram_descent(before.up, 2.0, steps=7, rate=0.02))
    assert not torch.equal(after.up, before.up)
    for name in ("gate", "down", "gain", "bias", "router"):
        assert getattr(after, name) is getattr(before, name), name
    assert after.trials == before.trials


# Sample size fixed beforehand: 32 experts (496 pairs) and 24 trials leave 1.3% of the null; 5 sigma of it is the line.
R1 = sg.LayerSpec(d_model=8, d_ff=12, n_experts=32, top_k=2, activation="relu")
REQUEST = {"tokens": 2, "trials": 24, "weights": ("up",), "sites": ("output",), "readings": ("mean",)}
DESCENT = RegulariseGram(1.0, steps=400, rate=0.02)


def test_descent_leaves_the_overlap_of_independent_experts_where_it_was():
    """Law R1: E weight MSO stays 1/(d f); the descent did move every matrix, and a null 10% off fails the same line."""
    moved = {}

    def prepare(weights):
        after = DESCENT(weights)
        moved["spectra"] = torch.linalg.svdvals(after.up)
        return after

    up = sg.measure(R1, seed=1, prepare=prepare, **REQUEST).weight_mso["up"]
    null = 1 / (8 * 12)
    assert (moved["spectra"] - 1).abs().max() < 0.05
    assert up.sem < 0.02 * null
    assert student_p((up.mean - null) / up.sem, up.trials - 1) > FIVE_SIGMA
    assert student_p((up.mean - 1.15 * null) / up.sem, up.trials - 1) < FIVE_SIGMA


def test_descent_moves_the_overlap_of_experts_that_share_a_spike():
    """The twin of the test above: a rank-one part common to all experts overlaps before, and descent shortens it to length one."""
    spike = torch.outer(torch.ones(12), torch.ones(8))

    def spiked(weights):
        return dataclasses.replace(weights, up=weights.up + spike)

    before, after = (
        sg.measure(R1, seed=2, prepare=prepare, **REQUEST).weight_mso["up"] for prepare in (spiked, lambda w: DESCENT(spiked(w)))
    )
    paired = before.values - after.values
    t = paired.mean() / (paired.std(ddof=1) / math.sqrt(len(paired)))
    assert t > 0
    assert student_p(t, len(paired) - 1) < FIVE_SIGMA
    assert after.mean < 0.5 * before.mean
    assert (after.mean - 1 / 96) / after.sem > 5

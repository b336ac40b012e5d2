import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.overlaps import add_sums, is_centred, means_by_routing
from tests import reference

DTYPES = (torch.float32, torch.float64)
EPS = np.finfo(np.float64).eps


def routed(rng, n, k, experts, width, dtype=torch.float64):
    """Every expert's vector on every token, a routing with gaps, and the co-activated vectors that it picks."""
    every = rng.standard_normal((n, experts, width)).astype(np.float32)
    indices = np.array([rng.permutation(experts)[:k] for _ in range(n)]).reshape(n, k)
    indices[rng.random((n, k)) < 0.25] = -1
    picked = np.take_along_axis(every, np.maximum(indices, 0)[..., None], 1)
    return every, torch.from_numpy(indices), torch.from_numpy(picked).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "experts", "width"), [(1, 1, 2, 1), (40, 2, 5, 7), (30, 4, 8, 3), (3, 1, 8, 4)])
def test_against_the_oracle(dtype, n, k, experts, width):
    every, indices, vectors = routed(np.random.default_rng([n, k]), n, k, experts, width, dtype)
    means = means_by_routing(vectors, indices, experts)
    assert means.dtype == torch.float64
    # A sum of n terms of size at most `largest`, in float64.
    atol = (n + 1) * EPS * np.abs(every).max()
    np.testing.assert_allclose(means, reference.mean_vectors(every, indices.numpy()), rtol=0, atol=atol, equal_nan=True)


def test_by_hand():
    vectors = torch.tensor([[[1.0, 2.0], [5.0, 6.0]], [[7.0, 7.0], [3.0, 4.0]]])
    means = means_by_routing(vectors, torch.tensor([[0, 1], [-1, 0]]), 3)
    np.testing.assert_array_equal(means, [[2, 3], [5, 6], [math.nan, math.nan]])


def test_no_tokens_reach_nobody():
    assert means_by_routing(torch.empty(0, 2, 3), torch.empty(0, 2, dtype=torch.int64), 4).isnan().all()
    assert means_by_routing(torch.ones(5, 2, 3), torch.full((5, 2), -1), 4).isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_padding_is_never_read_and_a_bad_vector_stays_with_its_expert(bad):
    vectors = torch.ones(3, 2, 2)
    vectors[0, 1] = bad
    vectors[1, 0, 0] = bad
    means = means_by_routing(vectors, torch.tensor([[0, -1], [1, 0], [2, -1]]), 3)
    np.testing.assert_array_equal(means, [[1, 1], [bad, 1], [1, 1]])


@pytest.mark.parametrize(("dtype", "sizes"), [(torch.float32, (1e-20, 1e20)), (torch.float64, (1e-200, 1e200))])
def test_sizes_far_apart(dtype, sizes):
    rng = np.random.default_rng(3)
    vectors = torch.from_numpy(np.stack([size * rng.standard_normal((6, 4)) for size in sizes], 1)).to(dtype)
    means = means_by_routing(vectors, torch.tensor([[0, 1]] * 6), 2).numpy()
    exact = reference.mean_vectors(vectors.numpy(), [[0, 1]] * 6)
    largest = vectors.abs().amax((0, 2)).double().numpy()
    assert np.all(np.abs(means - exact) <= 7 * EPS * largest[:, None])


def test_float32_is_summed_in_float64():
    vectors = torch.full((50_000, 1, 1), 0.1)
    exact = float(np.float32(0.1))
    assert float(means_by_routing(vectors, torch.zeros(50_000, 1, dtype=torch.int64), 1)) == pytest.approx(exact, rel=50_000 * EPS)
    assert abs(float(torch.cumsum(vectors.flatten(), 0)[-1]) / 50_000 - exact) > 50_000 * EPS


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4))
def test_order_of_tokens_slots_and_names_changes_nothing(seed, n, k):
    rng = np.random.default_rng(seed)
    _, indices, vectors = routed(rng, n, k, 5, 3)
    means = means_by_routing(vectors, indices, 5)
    tokens, slots, names = rng.permutation(n), rng.permutation(k), torch.from_numpy(rng.permutation(5))
    renamed = torch.where(indices < 0, -1, names[indices.clamp(min=0)])
    moved = means_by_routing(vectors[tokens][:, slots], renamed[tokens][:, slots], 5)
    np.testing.assert_allclose(moved[names], means, rtol=0, atol=2 * (n + 1) * EPS * float(vectors.abs().max()), equal_nan=True)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_sums_by_expert(dtype):
    rng = np.random.default_rng(5)
    rows = torch.from_numpy(rng.standard_normal((120, 6))).to(dtype)
    experts = torch.from_numpy(rng.integers(-1, 4, 120))
    sums = torch.zeros(5, 6, dtype=torch.float64)
    add_sums(rows, experts, sums)
    for e in range(5):
        kept = rows[experts == e].double().numpy()
        exact = [math.fsum(column) for column in kept.T] if len(kept) else [0.0] * 6
        assert np.all(np.abs(sums[e].numpy() - exact) <= 120 * EPS * np.abs(kept).sum(0))
    assert not sums[4].any()


def test_cutting_the_rows_changes_no_bit():
    rng = np.random.default_rng(6)
    rows, experts = torch.from_numpy(rng.standard_normal((100, 7))), torch.from_numpy(rng.integers(-1, 3, 100))
    whole, cut = torch.zeros(3, 7, dtype=torch.float64), torch.zeros(3, 7, dtype=torch.float64)
    add_sums(rows, experts, whole)
    for start, stop in ((0, 1), (1, 40), (40, 40), (40, 100)):
        add_sums(rows[start:stop], experts[start:stop], cut)
    assert torch.equal(whole, cut)
    # The order of rows is part of the bits: the same rows backwards give others.
    backwards = torch.zeros(3, 7, dtype=torch.float64)
    add_sums(rows.flip(0), experts.flip(0), backwards)
    assert not torch.equal(whole, backwards)


def test_sums_of_vectors_wherever_they_lie():
    rng = np.random.default_rng(7)
    vectors, routing = torch.from_numpy(rng.standard_normal((12, 3, 10))), torch.from_numpy(rng.integers(-1, 4, (12, 3)))
    for view, chosen in ((vectors[::2], routing[::2]), (vectors.transpose(0, 1), routing.T), (vectors[..., ::2], routing)):
        exact, found = (torch.zeros(4, view.shape[-1], dtype=torch.float64) for _ in range(2))
        add_sums(view, chosen, found)
        for vector, expert in zip(view.reshape(-1, view.shape[-1]), chosen.reshape(-1).tolist(), strict=True):
            if expert >= 0:
                exact[expert] += vector
        assert torch.equal(found, exact)


@pytest.mark.parametrize(
    ("shape", "experts", "sums", "message"),
    [
        ((4, 3), [0, 1, 2, 5], (3, 3), "experts: expected -1 to 2, got 0 to 5"),
        ((4, 3), [0, -2, 1, 1], (3, 3), "experts: expected -1 to 2, got -2 to 1"),
        ((4, 3), [0, 1], (3, 3), r"expected .* got \(4, 3\), \(2,\), \(3, 3\)"),
        ((4, 3), [0, 1, 1, 1], (3, 4), r"expected .* got \(4, 3\), \(4,\), \(3, 4\)"),
        ((4, 3), [0, 1, 1, 1], (3, 2), r"expected .* got \(4, 3\), \(4,\), \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_memory_is_touched(shape, experts, sums, message):
    # Typed as whole arrays where the check of shapes at run time would come first.
    with pytest.raises((ValueError, TypeError), match=f"{message}|(?s:Type-check error.*)"):
        add_sums(torch.ones(shape), torch.tensor(experts), torch.zeros(sums, dtype=torch.float64))


def test_an_expert_beyond_the_number_of_experts_is_refused():
    with pytest.raises(ValueError, match="experts: expected -1 to 1, got 7 to 7"):
        means_by_routing(torch.ones(3, 2, 4), torch.full((3, 2), 7), 2)


@pytest.mark.parametrize("shape", [(3, 1), (2, 2), (3, 2, 1), (3,)])
def test_a_routing_of_another_shape_is_refused(shape):
    with pytest.raises((ValueError, TypeError), match=r"expected \(\.\.\., k, width\) and \(\.\.\., k\), got|(?s:Type-check error.*)"):
        means_by_routing(torch.ones(3, 2, 4), torch.zeros(shape, dtype=torch.int64), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tokens_that_reach_nobody_change_no_bit(dtype):
    rng = np.random.default_rng(8)
    _, indices, vectors = routed(rng, 90, 2, 4, 5)
    held = torch.from_numpy(rng.random(90) < 0.5) & (indices >= 0).any(1)
    padded = torch.where(held[:, None], indices, -1)
    vectors = vectors.to(dtype)
    assert torch.equal(means_by_routing(vectors, padded, 4), means_by_routing(vectors[held], indices[held], 4))
    several = means_by_routing(vectors.view(9, 10, 2, 5), padded.view(9, 10, 2), 4)
    assert torch.equal(several, means_by_routing(vectors, padded, 4))


@pytest.mark.parametrize("by_counts", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_common_mean_that_was_taken_out_is_seen(by_counts, dtype):
    g = np.random.default_rng(0)
    means, counts = 1e200 ** (dtype == torch.float64) * g.standard_normal((5, 16)), g.integers(1, 90, 5)
    assert not is_centred(torch.from_numpy(means), torch.from_numpy(counts))
    left = means - np.average(means, 0, counts if by_counts else None)
    assert is_centred(torch.from_numpy(left).to(dtype).double(), torch.from_numpy(counts))
    # Two may well be opposite, and in few dimensions a sum may be short.
    assert not is_centred(torch.tensor([[1.0] * 16, [-1.0] * 16]), torch.tensor([1, 1]))
    assert not is_centred(torch.from_numpy(left[:, :7]), torch.from_numpy(counts))
    assert not is_centred(torch.zeros(5, 16), torch.from_numpy(counts))

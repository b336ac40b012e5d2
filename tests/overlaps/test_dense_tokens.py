"""The overlap of a user's vectors on their tokens, as they lie in memory: oracle, layouts, moments, tasks, and what is left out."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from simgap.overlaps import token_cos2, token_cos2_torch, token_overlap
from simgap.threads import pool
from tests import reference
from tests.overlaps.test_token_overlap import DTYPES, module, round_off


def dense(dtype, n, k, width, seed=0):
    return torch.from_numpy(np.random.default_rng([n, k, width, seed]).standard_normal((n, k, width))).to(dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("n", "k", "width"), [(7, 2, 1), (30, 2, 70), (9, 4, 33), (5, 5, 129), (4, 16, 8), (3, 19, 40), (6, 1, 5), (0, 2, 3)]
)
def test_dense_vectors_against_the_oracle(dtype, n, k, width):
    vectors = dense(dtype, n, k, width)
    found = token_overlap(vectors)
    means, counts = reference.token_overlap(vectors.double().numpy(), np.ones((n, k), bool))
    np.testing.assert_allclose(found.cos2, np.nan_to_num(means), rtol=0, atol=round_off(width))
    np.testing.assert_array_equal(found.pairs, counts)


@pytest.mark.parametrize(
    "view", [lambda v: v[::3], lambda v: v[:, 1:], lambda v: v[..., 2:], lambda v: v[..., ::2], lambda v: v.transpose(0, 1)]
)
def test_strides_change_no_bit(view):
    vectors = view(dense(torch.float32, 20, 4, 41))
    np.testing.assert_array_equal(token_overlap(vectors).cos2, token_overlap(vectors.contiguous()).cos2)


def test_moments_are_those_of_the_values():
    vectors = dense(torch.float64, 500, 3, 20)
    vectors[7, 1] = 0
    vectors[9, :2] = 0
    found = token_overlap(vectors)
    kept = found.cos2[found.pairs > 0]
    assert found.moments.tokens == len(kept) == 499
    assert found.moments.pairs == found.pairs.sum() == 499 * 3 - 2
    assert found.moments.mean == pytest.approx(kept.mean(), rel=1e-13)
    assert found.moments.squares == pytest.approx(((kept - kept.mean()) ** 2).sum(), rel=1e-12)
    assert found.moments.over_pairs == pytest.approx((found.cos2 * found.pairs).sum() / found.pairs.sum(), rel=1e-13)
    assert found.moments.sem == pytest.approx(kept.std(ddof=1) / math.sqrt(len(kept)), rel=1e-12)


def test_moments_far_from_zero_keep_their_variance():
    """Nearly parallel vectors: a sum of squares less a square of sums would lose the variance to round-off."""
    rng = np.random.default_rng(11)
    u = rng.standard_normal((400, 1, 32))
    vectors = torch.from_numpy(np.concatenate([u, u + 1e-5 * rng.standard_normal(u.shape)], 1))
    found = token_overlap(vectors)
    values = found.cos2
    exact = math.fsum((values - values.mean()) ** 2)
    assert found.moments.squares == pytest.approx(exact, rel=1e-4, abs=0)
    assert (values**2).sum() - values.sum() ** 2 / len(values) != pytest.approx(exact, rel=1e-1, abs=0)


def test_tasks_and_threads_change_no_value(monkeypatch):
    vectors = dense(torch.float32, 300, 2, 16)
    whole = token_overlap(vectors)
    monkeypatch.setattr(module, "IN_PLACE", 16 * 2 * 37)
    with pool(2) as (task_map, _):
        cut = token_overlap(vectors, task_map)
    np.testing.assert_array_equal(cut.cos2, whole.cos2)
    assert (cut.moments.tokens, cut.moments.pairs) == (whole.moments.tokens, whole.moments.pairs)
    assert cut.moments.squares == pytest.approx(whole.moments.squares, rel=1e-12)
    assert cut.moments == token_overlap(vectors).moments


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_lost_in_the_moments(bad):
    vectors = dense(torch.float32, 10, 2, 5)
    vectors[4, 0, 2] = bad
    found = token_overlap(vectors)
    assert np.isnan(found.cos2).tolist() == [t == 4 for t in range(10)]
    assert math.isnan(found.moments.mean)
    assert math.isnan(found.moments.over_pairs)


def test_no_tokens_and_one_vector_have_no_moments():
    for shape in ((0, 2, 4), (3, 1, 4)):
        moments = token_overlap(torch.ones(shape)).moments
        assert (moments.tokens, moments.pairs, moments.sem) == (0, 0, None)
        assert math.isnan(moments.over_pairs)


def test_the_moments_of_the_torch_path_are_the_kernels(monkeypatch):
    vectors = dense(torch.float64, 50, 3, 12)
    vectors[3] = 0
    kernel = token_overlap(vectors).moments
    monkeypatch.setattr(module, "on_cpu", lambda _: False)
    other = token_overlap(vectors).moments
    assert (other.tokens, other.pairs) == (kernel.tokens, kernel.pairs)
    assert (other.mean, other.squares, other.total) == pytest.approx((kernel.mean, kernel.squares, kernel.total), rel=1e-12)


def test_the_layout_changes_no_bit(monkeypatch):
    """Cuts into tasks come from the shape alone, though what must be copied is copied in smaller parts."""
    monkeypatch.setattr(module, "IN_PLACE", 2 * 8 * 9)
    monkeypatch.setattr(module, "AT_ONCE", 2 * 8 * 4)
    vectors = dense(torch.float32, 61, 2, 8).half()
    expected = token_overlap(vectors.float())
    wide = torch.zeros(61, 2, 16).index_copy(2, 2 * torch.arange(8), vectors.float())
    for layout in (vectors, wide[..., ::2], vectors.view(61, 1, 2, 8), vectors.double()):
        found = token_overlap(layout)
        np.testing.assert_array_equal(found.cos2, expected.cos2)
        assert found.moments == expected.moments


def test_tokens_through_several_axes_are_read_in_place(monkeypatch):
    """A sliced sequence, whose axes no view can merge."""
    monkeypatch.setattr(module, "tokens_at", None)
    vectors = dense(torch.float32, 60, 2, 8).view(5, 12, 2, 8)[:, 1:]
    assert token_overlap(vectors).moments == token_overlap(vectors.contiguous()).moments
    means = sys.modules["simgap.overlaps.mean_vectors"]
    monkeypatch.setattr(means, "tokens_at", None)
    routing = torch.arange(110).view(5, 11, 2) % 4 - 1
    assert torch.equal(means.means_by_routing(vectors, routing, 3), means.means_by_routing(vectors.contiguous(), routing, 3))


def test_what_is_not_kept_is_not_compared():
    vectors = dense(torch.float64, 30, 3, 8)
    kept = np.random.default_rng(9).random((30, 3)) < 0.6
    index = np.where(kept, np.arange(90).reshape(30, 3), -1)
    cos2, pairs = token_cos2(vectors.reshape(90, 8), torch.from_numpy(index))
    vectors[torch.from_numpy(~kept)] = math.nan
    found = token_overlap(vectors, kept=kept)
    np.testing.assert_array_equal(found.cos2, cos2)
    np.testing.assert_array_equal(found.pairs, pairs)
    assert found.moments.tokens == np.count_nonzero(pairs) < 30
    nothing = token_overlap(vectors, kept=np.zeros((30, 3), bool))
    assert (nothing.moments.tokens, nothing.pairs.any()) == (0, False)


def test_a_lone_vector_that_is_not_finite_survives_any_cut(monkeypatch):
    vectors = dense(torch.float64, 8, 2, 8)
    vectors[:4] = 0
    vectors[0, 0, -1] = math.nan
    whole = token_overlap(vectors).moments
    monkeypatch.setattr(module, "IN_PLACE", 2 * 8 * 4)
    cut = token_overlap(vectors).moments
    assert (whole.tokens, whole.pairs) == (cut.tokens, cut.pairs) == (4, 4)
    assert all(math.isnan(moments.mean) and math.isnan(moments.over_pairs) for moments in (whole, cut))


def test_nothing_on_a_token():
    assert token_overlap(torch.ones(3, 0, 4)).pairs.tolist() == [0, 0, 0]
    assert token_cos2_torch(torch.ones(3, 4), torch.empty(5, 0, dtype=torch.int64))[1].tolist() == [0] * 5


@pytest.mark.gpu
def test_vectors_on_a_device():
    """On a card, compiled and not, against the CPU kernel, in a process without run-time type checks; never run where no card is."""
    script = """
import numpy as np, torch
from simgap.overlaps import token_overlap
vectors = torch.randn(1 << 16, 2, 2048, generator=torch.Generator().manual_seed(4))
for part in (vectors, vectors.bfloat16(), vectors[:1024], vectors[:1024].double()):
    found, expected = token_overlap(part.cuda()), token_overlap(part)
    np.testing.assert_allclose(found.cos2, expected.cos2, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(found.pairs, expected.pairs)
print("same")
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "same\n"

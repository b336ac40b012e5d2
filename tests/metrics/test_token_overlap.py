import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simgap.metrics import token_cos2, token_cos2_torch, token_overlap, undefined_vectors
from simgap.metrics.token_overlap import tokens_at_once
from simgap.threads import pool
from tests import reference

# The function of that name hides the module.
module = sys.modules["simgap.metrics.token_overlap"]
DTYPES = (torch.float32, torch.float64)
PATHS = (token_cos2, token_cos2_torch)
SETTINGS = settings(max_examples=60)
# Small whole numbers: zero, parallel and orthogonal vectors turn up by themselves.
SMALL = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(1, 6)), elements=st.integers(-3, 3).map(float))


def round_off(width):
    """A dot product of `width` terms in float64, in any order, is off by at most width eps |u||v|; cos^2 takes in four such errors."""
    return 4 * (width + 4) * np.finfo(np.float64).eps


def expected(rows, index):
    means, counts = reference.token_overlap(rows.numpy()[index.clamp(min=0).numpy()], (index >= 0).numpy())
    return np.nan_to_num(means), counts


def assert_matches(path, rows, index):
    cos2, pairs = path(rows, index)
    means, counts = expected(rows, index)
    np.testing.assert_allclose(cos2, means, rtol=0, atol=round_off(rows.shape[1]))
    np.testing.assert_array_equal(pairs, counts)


def own_rows(vectors):
    """Vectors (n, k, width) as rows, and the index that puts each back in its place."""
    n, k, width = vectors.shape
    return torch.from_numpy(vectors.reshape(-1, width)), torch.arange(n * k).view(n, k)


def drawn(dtype, n, m, width, size=20, empty=0.2, seed=0):
    rng = np.random.default_rng([n, m, width, seed])
    rows = torch.from_numpy(rng.standard_normal((size, width))).to(dtype)
    index = np.array([rng.permutation(size)[:m] for _ in range(n)]).reshape(n, m)
    index[rng.random((n, m)) < empty] = -1
    return rows, torch.from_numpy(index)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "width"), [(1, 4), (2, 1), (2, 64), (3, 7), (8, 33), (17, 6), (20, 6)])
def test_against_the_oracle(path, dtype, m, width):
    assert_matches(path, *drawn(dtype, 25, m, width))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lead", [None, 1, 2, 4])
def test_the_two_paths_agree(dtype, lead):
    rows, index = drawn(dtype, 40, 5, 30)
    kernel, torch_path = token_cos2(rows, index, lead), token_cos2_torch(rows, index, lead)
    np.testing.assert_allclose(kernel[0], torch_path[0], rtol=0, atol=2 * round_off(30))
    np.testing.assert_array_equal(kernel[1], torch_path[1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("m", [4, 18])
@pytest.mark.parametrize("lead", [1, 3])
def test_lead_pairs_across(path, m, lead):
    rows, index = drawn(torch.float64, 12, m, 5)
    cos2, pairs = path(rows, index, lead)
    for t, slots in enumerate(index.tolist()):
        values = [reference.cos2(rows[a], rows[b]) for a in slots[:lead] for b in slots[lead:] if min(a, b) >= 0]
        assert pairs[t] == len(values)
        assert cos2[t] == pytest.approx(np.mean(values) if values else 0.0, abs=round_off(5))


def test_gathering_in_pieces_changes_nothing(monkeypatch):
    rows, index = drawn(torch.float64, 31, 4, 9)
    whole = token_cos2_torch(rows, index)
    monkeypatch.setattr(module, "AT_ONCE", 4 * 9 * 7)
    pieces = token_cos2_torch(rows, index)
    np.testing.assert_allclose(pieces[0], whole[0], rtol=0, atol=2 * round_off(9))
    np.testing.assert_array_equal(pieces[1], whole[1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("m", [2, 17])
@pytest.mark.parametrize(("dtype", "sizes"), [(torch.float32, (1e-20, 1.0, 1e20)), (torch.float64, (1e-200, 1.0, 1e200, 1e-310, 1e300))])
def test_norms_far_apart(path, m, dtype, sizes):
    rng = np.random.default_rng(m)
    rows = torch.from_numpy(np.concatenate([size * rng.standard_normal((8, 10)) for size in sizes])).to(dtype)
    index = torch.from_numpy(np.array([rng.permutation(len(rows))[:m] for _ in range(20)]))
    assert_matches(path, rows, index)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_near_parallel_vectors(path, dtype):
    rng = np.random.default_rng(7)
    u = rng.standard_normal((20, 24))
    rows = torch.from_numpy(np.concatenate([u, -3 * u * (1 + 1e-7 * rng.standard_normal(u.shape))])).to(dtype)
    index = torch.arange(40).view(2, 20).T
    assert_matches(path, rows, index)
    assert path(rows, index)[0].min() > 1 - 1e-12


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_breaks_its_token_only(path, dtype, bad):
    rows, _ = drawn(dtype, 1, 1, 6, size=4)
    rows[1, 2] = bad
    index = torch.tensor([[0, 1, 2], [0, 2, 3], [1, -1, -1], [-1, 3, 0]])
    cos2, _ = path(rows, index)
    np.testing.assert_array_equal(np.isnan(cos2), [True, False, True, False])
    np.testing.assert_allclose(cos2[[1, 3]], expected(rows, index[[1, 3]])[0], rtol=0, atol=round_off(6))


@pytest.mark.parametrize("path", PATHS)
def test_padding_never_reads_the_row_it_points_away_from(path):
    rows = torch.tensor([[math.nan, 1.0], [1.0, 0.0], [1.0, 1.0]])
    cos2, pairs = path(rows, torch.tensor([[1, 2, -1], [-1, 1, -1]]))
    np.testing.assert_allclose(cos2, [0.5, 0], atol=4e-16)
    np.testing.assert_array_equal(pairs, [1, 0])


@pytest.mark.parametrize("path", PATHS)
def test_a_zero_vector_has_no_pairs(path):
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    cos2, pairs = path(rows, torch.tensor([[0, 1, 2], [0, 1, -1], [1, 1, 1]]))
    np.testing.assert_allclose(cos2, [0.5, 0, 0], atol=4e-16)
    np.testing.assert_array_equal(pairs, [1, 0, 0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("m", [1, 2, 17])
def test_no_tokens(path, m):
    cos2, pairs = path(torch.ones(3, 4), torch.empty(0, m, dtype=torch.int64))
    assert cos2.shape == pairs.shape == (0,)


@pytest.mark.parametrize("path", PATHS)
def test_index_as_a_transposed_view(path):
    rows, index = drawn(torch.float64, 6, 3, 5)
    view = index.T.contiguous().T
    np.testing.assert_array_equal(path(rows, view)[0], path(rows, index)[0])


@pytest.mark.parametrize("path", PATHS)
@SETTINGS
@given(SMALL, st.data())
def test_scaling_a_vector_changes_nothing(path, vectors, data):
    n, k, width = vectors.shape
    factor = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
    scales = np.array(data.draw(st.lists(factor, min_size=n * k, max_size=n * k))).reshape(n, k, 1)
    assert_matches(path, *own_rows(vectors))
    before, after = path(*own_rows(vectors)), path(*own_rows(vectors * scales))
    np.testing.assert_allclose(after[0], before[0], rtol=0, atol=2 * round_off(width))
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("path", PATHS)
@SETTINGS
@given(SMALL, st.data())
def test_the_order_of_slots_changes_nothing(path, vectors, data):
    rows, index = own_rows(vectors)
    order = data.draw(st.permutations(range(index.shape[1])))
    before, after = path(rows, index), path(rows, index[:, order])
    np.testing.assert_allclose(after[0], before[0], rtol=0, atol=2 * round_off(rows.shape[1]))
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("path", PATHS)
@SETTINGS
@given(SMALL, st.integers(0, 2**32 - 1))
def test_rotating_the_space_changes_nothing(path, vectors, seed):
    width = vectors.shape[-1]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    before, after = path(*own_rows(vectors)), path(*own_rows(vectors @ rotation.T))
    # A matrix product is off by width eps |Q||x| per entry, at most width^1.5 eps of the norm, and Q is orthogonal to as much.
    np.testing.assert_allclose(after[0], before[0], rtol=0, atol=16 * (width + 4) ** 1.5 * np.finfo(np.float64).eps)
    np.testing.assert_array_equal(after[1], before[1])


def test_undefined_vectors_names_zeros_then_what_is_not_finite():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    index = torch.tensor([[0, 1], [-1, 2], [1, 1], [1, 0]])
    assert undefined_vectors(rows, index) == ("token 0 slot 1, token 2 slot 0, token 2 slot 1", False)
    assert undefined_vectors(rows, index, most=1) == ("token 0 slot 1", False)
    rows[2, 0] = math.nan
    assert undefined_vectors(rows, index) == ("token 1 slot 1", True)
    assert undefined_vectors(rows[:1], index[:1, :1]) == ("", False)


@pytest.mark.parametrize("path", [token_cos2, token_cos2_torch])
def test_lead_of_all_leaves_no_pair(path):
    """Nobody is left to pair with: both paths say so."""
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert path(rows, torch.tensor([[0, 1, 2]]), 3)[1].tolist() == [0]


@pytest.mark.parametrize("path", [token_cos2, token_cos2_torch])
def test_only_padding_and_no_rows(path):
    cos2, pairs = path(torch.empty(0, 5), torch.tensor([[-1, -1]]))
    assert (cos2.tolist(), pairs.tolist()) == ([0.0], [0])


@pytest.mark.parametrize("index", [[[0, 4]], [[0, -2]]])
def test_an_index_out_of_range_is_refused(index):
    with pytest.raises(ValueError, match="index: expected rows from 0 to 3"):
        token_cos2(torch.randn(4, 5, generator=torch.Generator().manual_seed(2)), torch.tensor(index))


@pytest.mark.parametrize("path", [token_cos2, token_cos2_torch])
def test_parallel_vectors_never_exceed_one(path):
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cos2, _ = path(torch.cat([x, 3 * x]), torch.arange(400).view(2, 200).T)
    assert cos2.max() <= 1
    assert cos2.min() > 1 - 1e-14


def test_many_vectors_on_a_token_are_held_a_few_tokens_at_a_time():
    """The table of products counts, not only the vectors: 512 narrow vectors make a table 128 times their size."""
    for m, width in ((512, 4), (32, 1024), (2, 10**7)):
        assert tokens_at_once(m, width) * m * max(m, width) <= max(1 << 22, m * max(m, width))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_products_pair_by_pair_are_the_products(dtype, m):
    rows, index = drawn(torch.float32, 20, m, 33, empty=0)
    rows = rows.to(dtype)
    np.testing.assert_allclose(module.products_by_pairs(rows, index), module.products(rows, index), rtol=1e-14, atol=1e-12)


@pytest.mark.slow
def test_compiled_products_are_the_products():
    """Compiled for a CPU, the expression that a CUDA device would be given, in several sizes; in a process without run-time type checks,
    which a compiler cannot see through."""
    script = """
import torch
from simgap.metrics.token_overlap import compiled_products, products
for n in (50, 64, 1):
    rows = torch.randn(20, 130, generator=torch.Generator().manual_seed(n))
    index = torch.arange(4 * n).view(n, 4) % 20
    torch.testing.assert_close(compiled_products()(rows, index), products(rows, index), rtol=1e-13, atol=1e-12)
print("same")
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "same\n"


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_row_numbers_of_few_bits(dtype):
    """Places in memory are larger than the numbers of rows."""
    rows = torch.randn(100, 1024, generator=torch.Generator().manual_seed(5))
    index = torch.arange(100).view(50, 2)
    np.testing.assert_array_equal(token_cos2(rows, index.to(dtype))[0], token_cos2(rows, index)[0])


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
    means = sys.modules["simgap.metrics.mean_vectors"]
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
from simgap.metrics import token_overlap
vectors = torch.randn(1 << 16, 2, 2048, generator=torch.Generator().manual_seed(4))
for part in (vectors, vectors.bfloat16(), vectors[:1024], vectors[:1024].double()):
    found, expected = token_overlap(part.cuda()), token_overlap(part)
    np.testing.assert_allclose(found.cos2, expected.cos2, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(found.pairs, expected.pairs)
print("same")
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "same\n"

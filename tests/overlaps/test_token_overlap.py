import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simgap.overlaps import token_cos2, token_cos2_torch, undefined_vectors
from simgap.overlaps.token_overlap import tokens_at_once
from tests import reference

# The function of that name hides the module.
module = sys.modules["simgap.overlaps.token_overlap"]
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
@pytest.mark.parametrize("n_first", [None, 1, 2, 4])
def test_the_two_paths_agree(dtype, n_first):
    rows, index = drawn(dtype, 40, 5, 30)
    kernel, torch_path = token_cos2(rows, index, n_first), token_cos2_torch(rows, index, n_first)
    np.testing.assert_allclose(kernel[0], torch_path[0], rtol=0, atol=2 * round_off(30))
    np.testing.assert_array_equal(kernel[1], torch_path[1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("m", [4, 18])
@pytest.mark.parametrize("n_first", [1, 3])
def test_pairs_of_the_first_with_the_others(path, m, n_first):
    rows, index = drawn(torch.float64, 12, m, 5)
    cos2, pairs = path(rows, index, n_first)
    for t, slots in enumerate(index.tolist()):
        values = [reference.cos2(rows[a], rows[b]) for a in slots[:n_first] for b in slots[n_first:] if min(a, b) >= 0]
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
from simgap.overlaps.token_overlap import compiled_products, products
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

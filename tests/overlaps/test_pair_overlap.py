import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simgap.overlaps import between, gram, gram_of_pieces, pair_cos2
from simgap.overlaps import pair_overlap as module
from simgap.overlaps.pair_overlap import CHUNK
from simgap.threads import pool
from tests import reference

DTYPES = (torch.float32, torch.float64)
SETTINGS = settings(max_examples=60)
# Small whole numbers: zero, parallel and orthogonal vectors turn up by themselves.
SMALL = arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(1, 6)), elements=st.integers(-3, 3).map(float))


def round_off(width):
    """A dot product of `width` terms in float64, in any order, is off by at most width eps |u||v|; cos^2 takes in four such errors."""
    return 4 * (width + 4) * np.finfo(np.float64).eps


def table(vectors):
    """The oracle's symmetric (E, E) table; 1 on the diagonal of a defined vector."""
    size = len(vectors)
    return np.array([[reference.cos2(vectors[i], vectors[j]) for j in range(size)] for i in range(size)])


def assert_matches(vectors, atol=None):
    width = vectors.shape[-1]
    result = pair_cos2(vectors)
    assert result.dtype == np.float64
    for trial, values in zip(vectors.numpy(), result, strict=True):
        np.testing.assert_allclose(values, table(trial), rtol=0, atol=round_off(width) if atol is None else atol, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 2, 5), (2, 6, 40), (1, 17, 9)])
def test_against_the_oracle(dtype, shape):
    assert_matches(torch.from_numpy(np.random.default_rng(shape).standard_normal(shape)).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_longer_than_a_chunk(dtype):
    width = CHUNK + 137
    assert_matches(torch.from_numpy(np.random.default_rng(1).standard_normal((1, 3, width))).to(dtype))


def test_by_hand():
    values = pair_cos2(torch.tensor([[[1.0, 0.0], [1.0, 1.0], [3.0, 4.0]]]))
    np.testing.assert_allclose(values[0], [[1, 0.5, 0.36], [0.5, 1, 0.98], [0.36, 0.98, 1]], rtol=0, atol=round_off(2))


@pytest.mark.parametrize(("dtype", "sizes"), [(torch.float32, (1e-20, 1.0, 1e20)), (torch.float64, (1e-200, 1.0, 1e200, 1e-310, 1e300))])
def test_norms_far_apart(dtype, sizes):
    rng = np.random.default_rng(2)
    vectors = np.concatenate([size * rng.standard_normal((2, 12)) for size in sizes])
    assert_matches(torch.from_numpy(vectors).to(dtype)[None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_parallel_vectors(dtype):
    rng = np.random.default_rng(3)
    u = rng.standard_normal(30)
    vectors = torch.from_numpy(np.stack([u, -2 * u, u + 1e-7 * rng.standard_normal(30), u * (1 + 1e-12)])).to(dtype)[None]
    assert_matches(vectors)
    assert float(pair_cos2(vectors).min()) > 1 - 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0])
def test_undefined_vectors_touch_only_their_own_pairs(dtype, bad):
    vectors = torch.from_numpy(np.random.default_rng(4).standard_normal((2, 4, 7))).to(dtype)
    vectors[1, 2] = 0
    vectors[1, 2, 3] = bad
    assert_matches(vectors)
    undefined = np.isnan(pair_cos2(vectors))
    assert not undefined[0].any()
    np.testing.assert_array_equal(undefined[1], (np.arange(4) == 2)[:, None] | (np.arange(4) == 2)[None])


def test_no_trials_and_one_expert():
    assert pair_cos2(torch.ones(0, 3, 4)).shape == (0, 3, 3)
    np.testing.assert_allclose(pair_cos2(torch.ones(1, 1, 4)), [[[1.0]]], atol=round_off(4))


def test_gram_accumulates_in_float64():
    vectors = torch.from_numpy(np.random.default_rng(5).standard_normal((2, 3, 5000))).float()
    exact = np.array([[[math.fsum(float(a) * float(b) for a, b in zip(u, v, strict=True)) for v in t] for u in t] for t in vectors])
    sizes = vectors.double().norm(dim=-1).numpy()
    bound = 5000 * np.finfo(np.float64).eps * sizes[:, :, None] * sizes[:, None, :]
    assert np.all(np.abs(gram(vectors).numpy() - exact) <= bound)
    single = torch.bmm(vectors, vectors.mT).double().numpy()
    assert np.any(np.abs(single - exact) > bound)


@SETTINGS
@given(SMALL, st.data())
def test_scaling_a_vector_changes_nothing(vectors, data):
    size, width = vectors.shape
    factor = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
    scales = np.array(data.draw(st.lists(factor, min_size=size, max_size=size)))
    before = pair_cos2(torch.from_numpy(vectors)[None])[0]
    after = pair_cos2(torch.from_numpy(vectors * scales[:, None])[None])[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=2 * round_off(width), equal_nan=True)
    np.testing.assert_allclose(before, table(vectors), rtol=0, atol=round_off(width), equal_nan=True)


@SETTINGS
@given(SMALL, st.data())
def test_renaming_the_experts_permutes_the_table(vectors, data):
    order = data.draw(st.permutations(range(len(vectors))))
    before = pair_cos2(torch.from_numpy(vectors)[None])[0]
    after = pair_cos2(torch.from_numpy(vectors[order])[None])[0]
    np.testing.assert_allclose(after, before[np.ix_(order, order)], rtol=0, atol=2 * round_off(vectors.shape[1]), equal_nan=True)


@SETTINGS
@given(SMALL, st.integers(0, 2**32 - 1))
def test_rotating_the_space_changes_nothing(vectors, seed):
    width = vectors.shape[1]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    before = pair_cos2(torch.from_numpy(vectors)[None])[0]
    after = pair_cos2(torch.from_numpy(vectors @ rotation.T)[None])[0]
    # A matrix product is off by width eps |Q||x| per entry, at most width^1.5 eps of the norm, and Q is orthogonal to as much.
    np.testing.assert_allclose(after, before, rtol=0, atol=16 * (width + 4) ** 1.5 * np.finfo(np.float64).eps, equal_nan=True)


def test_between_takes_each_pair_once():
    cos2 = np.arange(16.0).reshape(1, 4, 4)
    assert between(cos2, 4).tolist() == [[1, 2, 3, 6, 7, 11]]
    assert between(cos2, 3).tolist() == [[1, 2, 6]]
    assert between(cos2, 3, shared=True).tolist() == [[3, 7, 11]]
    assert between(cos2, 2, shared=True).tolist() == [[2, 3, 6, 7]]
    assert between(cos2, 1).shape == (1, 0)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("width", [5 * CHUNK, 5 * CHUNK + 77])
def test_pieces_change_no_bit(dtype, width):
    vectors = torch.from_numpy(np.random.default_rng(6).standard_normal((2, 5, width))).to(dtype)
    whole = gram(vectors)
    for step in (CHUNK, 2 * CHUNK):
        pieces = (vectors[..., start : start + step] for start in range(0, width, step))
        assert torch.equal(gram_of_pieces(pieces), whole)
    # Pieces that are no multiple of a chunk are summed in another order: the same numbers, other bits. Sums of bfloat16's are exact.
    other = gram_of_pieces(vectors[..., start : start + CHUNK - 1] for start in range(0, width, CHUNK - 1))
    assert torch.equal(other, whole) == (dtype == torch.bfloat16)
    assert torch.allclose(other, whole, rtol=1e-12, atol=1e-9)


def test_threads_and_spans_change_no_bit(monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 1)
    vectors = torch.from_numpy(np.random.default_rng(7).standard_normal((1, 4, 3 * CHUNK + 5))).float()
    with pool(2) as (task_map, _):
        assert torch.equal(gram(vectors, task_map), gram(vectors))


@pytest.mark.parametrize("view", [lambda v: v[:, ::2], lambda v: v[..., 3:], lambda v: v[..., ::3], lambda v: v.transpose(0, 1)])
def test_vectors_wherever_they_lie(view):
    vectors = view(torch.from_numpy(np.random.default_rng(8).standard_normal((4, 6, 50))))
    assert torch.equal(gram(vectors), gram(vectors.contiguous()))


def test_a_zero_expert_among_float32_costs_no_copy():
    """A zero norm is no sign of a square that left the format: only float64 can do that."""
    vectors = torch.ones(1, 3, 8)
    vectors[0, 1] = 0
    assert np.isnan(pair_cos2(vectors)[0, 1]).all()
    assert pair_cos2(vectors)[0, 0, 2] == pytest.approx(1.0, abs=round_off(8))


def test_gram_of_no_piece():
    with pytest.raises(ValueError, match="pieces: expected at least one"):
        gram_of_pieces([])


def test_no_experts_have_no_table():
    assert gram(torch.ones(1, 0, 4000)).shape == (1, 0, 0)
    assert pair_cos2(torch.ones(2, 0, 3)).shape == (2, 0, 0)


def test_a_trial_does_not_depend_on_the_trials_beside():
    vectors = torch.from_numpy(np.random.default_rng(9).standard_normal((16, 8, 60_000)))
    assert torch.equal(gram(vectors)[:1], gram(vectors[:1]))


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_far_norms_among_many_columns(monkeypatch, size):
    """Scaled piece by piece: a zero expert beside one whose square leaves float64."""
    monkeypatch.setattr(module, "AT_ONCE", 1)
    vectors = np.random.default_rng(10).standard_normal((1, 3, 2500))
    vectors[0, 0] *= size
    vectors[0, 1] = 0
    values = pair_cos2(torch.from_numpy(vectors))[0]
    assert np.isnan(values[1]).all()
    assert values[0, 2] == pytest.approx(reference.cos2(vectors[0, 0] / size, vectors[0, 2]), abs=round_off(2500))

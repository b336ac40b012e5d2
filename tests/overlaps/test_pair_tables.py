"""Tables of pairs against the whole table: cut small, so that a few vectors make many."""

import itertools

import numpy as np
import pytest
import torch

from simgap.overlaps import between, cross_gram, gram, over_pairs, over_tables, pair_cos2
from simgap.overlaps import pair_tables as module
from simgap.overlaps.pair_overlap import CHUNK
from simgap.threads import pool


@pytest.fixture(autouse=True)
def small_tables(monkeypatch):
    monkeypatch.setattr(module, "SIDE", 8)


def drawn(*shape, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(shape).standard_normal(shape)).to(dtype)


def assembled(vectors, **how):
    """The whole table from its parts, which must not overlap."""
    s, experts, _ = vectors.shape
    table = np.zeros((s, experts, experts))

    def put(_, cos2, rows, columns):
        assert not table[:, rows.start : rows.stop, columns.start : columns.stop].any()
        table[:, rows.start : rows.stop, columns.start : columns.stop] = cos2
        if rows != columns:
            table[:, columns.start : columns.stop, rows.start : rows.stop] = cos2.transpose(0, 2, 1)
        return rows, columns

    return table, list(over_pairs(vectors, put, **how))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 9, 40), (2, 21, 1100), (3, 32, 5), (1, 8, 70), (1, 0, 3)])
def test_tables_make_up_the_whole(shape, dtype):
    vectors = drawn(*shape, dtype=dtype)
    found, places = assembled(vectors)
    expected = pair_cos2(vectors)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-13)
    parts = max(1, -(-shape[1] // 8))
    assert len(places) == parts * (parts + 1) // 2
    # Vectors with themselves are summed as in a table of their own.
    assert found[:, :8, :8].tobytes() == pair_cos2(vectors[:, :8]).tobytes()


@pytest.mark.parametrize("view", [lambda v: v[:, ::2], lambda v: v[..., 3:], lambda v: v[..., ::3], lambda v: v.transpose(0, 1)])
def test_vectors_wherever_they_lie(view):
    vectors = view(drawn(20, 24, 50, dtype=torch.float64))
    assert assembled(vectors)[0].tobytes() == assembled(vectors.contiguous())[0].tobytes()


def test_threads_and_tables_side_by_side_change_no_bit():
    vectors = drawn(2, 30, 300)
    expected = assembled(vectors)
    with pool(2) as (task_map, _):
        for at_once in (1, 2, 64):
            found = assembled(vectors, task_map=task_map, at_once=at_once)
            assert (found[0].tobytes(), found[1]) == (expected[0].tobytes(), expected[1])


def test_norms_far_from_one_and_vectors_without_a_direction():
    """A trial whose squares leave float64 is scaled, and the one beside keeps its bits; zeros and what is not finite stay undefined."""
    vectors = drawn(3, 20, 60, dtype=torch.float64)
    plain = assembled(vectors[:1])[0]
    vectors[1, 4] *= 1e200
    vectors[1, 13] *= 1e-200
    vectors[1, 6], vectors[2, 17, 3], vectors[2, 1, 0] = 0, torch.nan, torch.inf
    found, _ = assembled(vectors)
    assert found[:1].tobytes() == plain.tobytes()
    np.testing.assert_allclose(found, pair_cos2(vectors), rtol=0, atol=1e-13, equal_nan=True)
    undefined = np.isnan(found)
    assert undefined[1, 6].all()
    assert undefined[2, 17].all()
    assert undefined[2, 1].all()
    assert undefined.sum() == 39 + 2 * 39 - 2


def test_pairs_of_some_are_picked_from_tables():
    """Each table gives its pairs of routed experts, and of a routed with a shared one, wherever the shared ones begin."""
    vectors = drawn(1, 20, 30)
    whole = pair_cos2(vectors)
    for routed, shared in itertools.product((20, 17, 16, 8, 5), (False, True)):
        picked = list(
            over_pairs(vectors, lambda _, cos2, rows, columns, a=(routed, shared): between(cos2, *a, (rows.start, columns.start))[0])
        )
        np.testing.assert_allclose(np.sort(np.concatenate(picked)), np.sort(between(whole, routed, shared)[0]), rtol=0, atol=1e-13)


def test_one_index_or_a_row_at_a_time_lay_pairs_alike(monkeypatch):
    """Beyond FEW experts no index is made; numpy sums either in one order."""
    from simgap.overlaps import pair_overlap

    table = pair_cos2(drawn(3, 40, 10))
    expected = between(table, 37)
    monkeypatch.setattr(pair_overlap, "FEW", 5)
    found = between(table, 37)
    assert found.flags.c_contiguous
    assert found.tobytes() == expected.tobytes()


def test_names_keep_their_own_norms():
    one, two = drawn(1, 20, 30), 5 * drawn(1, 20, 31)

    def products(rows, columns, _):
        yield "one", cross_gram([one], rows, columns)
        yield "two", cross_gram([two], rows, columns)

    totals = {"one": 0.0, "two": 0.0}
    for name, kept in over_tables(20, products, lambda _, cos2, rows, columns: between(cos2, 20, first=(rows.start, columns.start)).sum()):
        totals[name] += kept
    for name, vectors in (("one", one), ("two", two)):
        assert totals[name] == pytest.approx(between(pair_cos2(vectors), 20).sum(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_products_of_pieces_are_those_of_the_whole(dtype):
    vectors = drawn(2, 11, 2 * CHUNK + 77, dtype=dtype)
    expected = gram(vectors)[:, 0:6, 6:11]
    for pieces in ([vectors], vectors.split(CHUNK, -1)):
        found = cross_gram(iter(pieces), range(6), range(6, 11))
        assert torch.equal(found, cross_gram([vectors], range(6), range(6, 11)))
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-9)
    with pytest.raises(ValueError, match="pieces: expected at least one"):
        cross_gram([], range(6), range(6, 11))

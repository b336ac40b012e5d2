"""Padded tokens and empty slots: what is left out might as well not be there."""

import math
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import simgap as sg
from tests import reference

SETTINGS = settings(max_examples=40)
GARBAGE = (math.nan, math.inf, 0.0, 1e300)


def distinct(rng, shape, experts):
    """Different experts on each token, (..., k)."""
    return np.argsort(rng.random((*shape[:-1], experts)), -1)[..., : shape[-1]]


def spoiled(vectors, kept, rng):
    """The vectors, with garbage wherever they are not kept."""
    garbage = rng.choice(GARBAGE, vectors.shape)
    return np.where(kept[..., None], vectors, garbage)


def as_float32(array, path):
    return np.clip(array, -1e38, 1e38).astype(np.float32)


def mapped(array, path):
    np.save(path / "h.npy", array)
    return np.load(path / "h.npy", mmap_mode="r")


def sparse(array, path):
    """Every other entry of every axis of a larger array."""
    wide = np.full([2 * size for size in array.shape], 7.0)
    wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
    return wide[tuple(slice(None, None, 2) for _ in array.shape)]


LAYOUTS = {
    "float64": lambda array, path: array,
    "float32": as_float32,
    "bfloat16": lambda array, path: torch.from_numpy(as_float32(array, path)).bfloat16(),
    "float16": lambda array, path: torch.from_numpy(np.clip(array, -1e4, 1e4)).half(),
    "big-endian": lambda array, path: array.astype(">f8"),
    "axes in another order": lambda array, path: np.ascontiguousarray(array.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3),
    "strided": sparse,
    "reversed": lambda array, path: np.ascontiguousarray(array[::-1, :, ::-1])[::-1, :, ::-1],
    "memory map": mapped,
    "requires grad": lambda array, path: torch.from_numpy(array).requires_grad_(),
}


def chosen(value, kept):
    """The tokens that are kept whole, as (n, k, width)."""
    return value[torch.from_numpy(kept)] if isinstance(value, torch.Tensor) else np.asarray(value)[kept]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padded_tokens_change_no_bit(layout, tmp_path):
    """(batch, seq, k, width) with an attention mask, against the kept tokens alone; enough numbers for several tasks and a sampled null."""
    rng = np.random.default_rng(70)
    plain = rng.standard_normal((6, 400, 3, 64))
    attended = np.arange(400) < rng.integers(1, 401, (6, 1))
    value = LAYOUTS[layout](spoiled(plain, np.broadcast_to(attended[..., None], plain.shape[:-1]), rng), tmp_path)
    alone = chosen(value, attended)
    assert sg.token_mso(value, mask=attended) == sg.token_mso(alone)
    routing = distinct(rng, plain.shape[:-1], 7)
    assert sg.mean_mso(value, routing, mask=attended) == sg.mean_mso(alone, routing[attended])
    padded = np.where(attended[..., None], routing, -1)
    assert sg.token_mso(value, routing=padded) == sg.token_mso(alone, routing=routing[attended])
    assert sg.mean_mso(value, padded) == sg.mean_mso(alone, routing[attended])


def test_the_bits_hold_where_work_is_cut(monkeypatch):
    """The cuts into tasks are made among the tokens that are kept."""
    overlap, means = (sys.modules[f"simgap.overlaps.{name}"] for name in ("token_overlap", "mean_vectors"))
    monkeypatch.setattr(overlap, "LEAST", 1)
    rng = np.random.default_rng(71)
    for layout in ("float64", "float16"):
        monkeypatch.setattr(overlap, "AT_ONCE", 64)
        monkeypatch.setattr(means, "AT_ONCE", 64)
        kept = rng.random((10, 20)) < 0.6
        value = LAYOUTS[layout](spoiled(rng.standard_normal((10, 20, 2, 8)), np.repeat(kept[..., None], 2, 2), rng), None)
        routing = distinct(rng, (10, 20, 2), 5)
        assert sg.token_mso(value, mask=kept) == sg.token_mso(chosen(value, kept))
        assert sg.mean_mso(value, routing, mask=kept) == sg.mean_mso(chosen(value, kept), routing[kept])


@SETTINGS
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(2, 4),
    st.integers(1, 6),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
)
def test_empty_slots_are_as_if_they_were_not_there(seed, leading, k, width, dtype, by_routing):
    """Any tokens and slots, against loops over what is left."""
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((*leading, k, width)).astype(dtype)
    kept = rng.random((*leading, k)) < 0.7
    with np.errstate(over="ignore"):
        value = spoiled(plain, kept, rng).astype(dtype)
    routing = distinct(rng, kept.shape, k + 2)
    flat, there = plain.reshape(-1, k, width).astype(float), kept.reshape(-1, k)
    # A routing holds anything where the mask says no.
    hidden = np.where(kept, routing, rng.integers(-5, 9, kept.shape))
    given_by = {"routing": np.where(kept, routing, -1)} if by_routing else {"mask": kept.astype(int), "routing": hidden}
    means, counts = reference.token_overlap(flat, there)
    if not sum(counts):
        said = rf"vectors: no token has two non-zero vectors, of {kept.sum()} vectors that routing and mask keep"
        with pytest.raises(ValueError, match=said if kept.any() else "routing: expected indices from 0, or -1 for none, got none"):
            sg.token_mso(value, **given_by)
        return
    found = sg.token_mso(value, **given_by)
    total = sum(mean * count for mean, count in zip(means, counts, strict=True) if count)
    assert found.mean == pytest.approx(total / sum(counts), abs=8 * (width + 4) * np.finfo(float).eps)
    assert (found.pairs, found.dropped, found.dropped_at) == (sum(counts), 0, "")
    # A token's slots may change places, and tokens too: nothing but round-off.
    order, slots = rng.permutation(len(flat)), rng.permutation(k)
    moved = sg.token_mso(value.reshape(-1, k, width)[order][:, slots], mask=there[order][:, slots])
    assert moved.mean == pytest.approx(found.mean, abs=1e-12)


def test_mean_vectors_without_empty_slots():
    rng = np.random.default_rng(72)
    plain, kept = rng.standard_normal((5, 8, 3, 6)), rng.random((5, 8, 3)) < 0.7
    routing = distinct(rng, kept.shape, 5)
    every = np.zeros((40, 5, 6))
    np.put_along_axis(every, routing.reshape(40, 3)[..., None], plain.reshape(40, 3, 6), 1)
    named = np.where(kept, routing, -1).reshape(40, 3)
    mean, pairs = reference.mean_overlap(reference.mean_vectors(every, named))
    value = spoiled(plain, kept, rng)
    for found in (sg.mean_mso(value, routing, mask=kept), sg.mean_mso(value, named.reshape(kept.shape))):
        assert found.mean == pytest.approx(mean, abs=1e-13)
        assert (found.pairs, found.dropped) == (pairs, 0) == (10, 0)


def test_the_null_spread_is_that_of_the_kept_vectors():
    """Frozen pairs among padding: no number of padded tokens narrows the null, and their garbage does not widen it."""
    rng = np.random.default_rng(73)
    frozen = np.repeat(rng.standard_normal((1, 2, 12)), 50, axis=0)
    value = np.concatenate([frozen, np.full((5000, 2, 12), math.nan)])
    assert sg.token_mso(value, mask=np.arange(5050) < 50) == sg.token_mso(frozen)
    # Tokens with one vector have no pair: the spread of the fifty that have is not lost among them.
    kept = np.ones((5050, 2), bool)
    kept[50:, 1] = False
    value[50:, 0] = rng.standard_normal((5000, 12))
    assert sg.token_mso(value, mask=kept) == sg.token_mso(frozen)
    value[50:, 1] = 0
    zeros = sg.token_mso(value)
    assert (zeros.null_sd, zeros.dropped) == (sg.token_mso(frozen).null_sd, 5000)


def test_zero_vectors_are_counted_only_where_they_are_kept():
    vectors = np.random.default_rng(74).standard_normal((2, 3, 2, 5))
    vectors[0, 1] = 0
    vectors[1, 2, 1] = 0
    found = sg.token_mso(vectors)
    assert (found.dropped, found.dropped_at) == (3, "token (0, 1) slot 0, token (0, 1) slot 1, token (1, 2) slot 1")
    mask = np.ones((2, 3), bool)
    mask[0, 1] = False
    found = sg.token_mso(vectors, mask=mask)
    assert (found.dropped, found.dropped_at) == (1, "token (1, 2) slot 1")
    vectors[1, 0, 1, 2] = math.nan
    for call in (lambda **given: sg.token_mso(vectors, **given), lambda **given: sg.mean_mso(vectors, np.tile([0, 1], (2, 3, 1)), **given)):
        with pytest.raises(ValueError, match=re.escape("vectors: not finite at token (1, 0) slot 1")):
            call(mask=mask)
        assert call(mask=mask & (np.arange(3) > 0)).pairs


@pytest.mark.parametrize(
    "make", [list, torch.from_numpy, np.asarray, lambda mask: mask.astype(np.int64), lambda mask: torch.from_numpy(mask).long()]
)
def test_masks_of_every_kind(make):
    rng = np.random.default_rng(75)
    vectors, mask = rng.standard_normal((4, 6, 2, 5)), rng.random((4, 6)) < 0.6
    assert sg.token_mso(vectors, mask=make(mask)) == sg.token_mso(vectors[mask])
    assert sg.token_mso(vectors, mask=make(np.repeat(mask[..., None], 2, -1))) == sg.token_mso(vectors[mask])


def test_nothing_left_out_is_nothing_said():
    rng = np.random.default_rng(76)
    vectors, routing = rng.standard_normal((4, 6, 2, 5)), distinct(rng, (4, 6, 2), 5)
    plain = sg.token_mso(vectors.reshape(24, 2, 5))
    assert sg.token_mso(vectors, routing=routing, mask=np.ones((4, 6), int)) == sg.token_mso(vectors, routing=routing)
    assert sg.token_mso(vectors, mask=np.ones((4, 6), int)) == sg.token_mso(vectors) == plain
    assert sg.mean_mso(vectors, routing, mask=np.ones((4, 6, 2))[..., 0] > 0) == sg.mean_mso(
        vectors.reshape(24, 2, 5), routing.reshape(24, 2)
    )


def test_masked_arrays_leave_out_whole_vectors():
    rng = np.random.default_rng(77)
    plain, kept = rng.standard_normal((50, 2, 8)), rng.random((50, 2)) < 0.7
    vectors = np.ma.array(spoiled(plain, kept, rng), mask=np.repeat(~kept[..., None], 8, -1))
    routing = distinct(rng, (50, 2), 4)
    assert sg.token_mso(vectors) == sg.token_mso(plain, mask=kept)
    assert sg.mean_mso(vectors, routing) == sg.mean_mso(plain, routing, mask=kept)
    tokens = np.arange(50) < 30
    assert sg.token_mso(vectors, mask=tokens) == sg.token_mso(plain, mask=kept & tokens[:, None])
    vectors[7, 1, 3] = np.ma.masked
    vectors.mask[7, 1, :3] = False
    with pytest.raises(ValueError, match="vectors: expected vectors masked whole or not at all, got token 7 slot 1 masked in part"):
        sg.token_mso(vectors)
    with pytest.raises(ValueError, match=r"got token \(0, 7\) slot 1 masked in part"):
        sg.mean_mso(vectors[None], routing[None])


def test_an_expert_twice_on_a_token_is_refused():
    vectors, routing = np.random.default_rng(78).standard_normal((2, 4, 3, 5)), np.tile([0, 1, 2], (2, 4, 1))
    routing[1, 2] = [4, 3, 4]
    with pytest.raises(ValueError, match=r"routing: expected different experts on a token, got expert 4 twice at token \(1, 2\)"):
        sg.token_mso(vectors, routing=routing)
    mask = np.ones((2, 4, 3), int)
    mask[1, 2, 0] = 0
    found, plain = sg.token_mso(vectors, routing=routing, mask=mask), sg.token_mso(vectors, mask=mask)
    assert (found.mean, found.sem, found.null, found.pairs) == (plain.mean, plain.sem, plain.null, plain.pairs)
    routing[1, 2] = -1
    assert sg.token_mso(vectors, routing=routing).pairs == 7 * 3
    assert sg.mean_mso(vectors, np.zeros_like(routing) + np.array([0, 1, 1])).pairs == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": np.ones((4, 3))}, "mask: expected booleans, or 0 and 1, got dtype torch.float64"),
        ({"mask": np.full((4, 3), 2)}, "mask: expected booleans, or 0 and 1, got 2 to 2"),
        ({"mask": np.ones(12, bool)}, "mask: expected (4, 3), one to a token, or (4, 3, 2), one to a vector, got (12,)"),
        ({"mask": np.ones((3, 4), bool)}, "mask: expected (4, 3), one to a token, or (4, 3, 2), one to a vector, got (3, 4)"),
        ({"mask": np.ones((4, 3, 1), bool)}, "mask: expected (4, 3), one to a token, or (4, 3, 2), one to a vector, got (4, 3, 1)"),
        ({"mask": np.zeros((4, 3), bool)}, "vectors: no token has two non-zero vectors, of 0 vectors that routing and mask keep"),
        ({"routing": np.zeros((12, 2), int)}, "routing: expected (4, 3, 2), the shape of vectors without their width, got (12, 2)"),
        ({"routing": np.zeros((4, 3, 2))}, "routing: expected whole numbers, an expert's index or -1 for none, got dtype torch.float64"),
        ({"routing": np.full((4, 3, 2), -2)}, "routing: expected indices from 0, or -1 for none, got -2 to -2"),
        ({"routing": np.full((4, 3, 2), -1)}, "routing: expected indices from 0, or -1 for none, got none"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
        sg.token_mso(np.random.default_rng(79).standard_normal((4, 3, 2, 5)), **given)
    assert "\n" not in str(error.value)


def test_a_routing_in_the_place_of_the_kind_is_refused():
    """As `mean_mso` takes it; typed wrongly, so that the check of types at run time may come first."""
    with pytest.raises((ValueError, TypeError), match=r"kind: expected one of output, normed, got a ndarray|(?s:Type-check error.*)"):
        sg.token_mso(np.ones((4, 2, 3)), np.tile([0, 1], (4, 1)))


def test_a_mask_that_keeps_no_routed_vector_is_refused():
    with pytest.raises(ValueError, match="routing: expected indices from 0, or -1 for none, got none that the mask keeps"):
        sg.mean_mso(np.ones((4, 2, 3)), np.tile([0, 1], (4, 1)), mask=np.zeros(4, bool))
    with pytest.raises(ValueError, match=r"mask: expected \(4,\), one to a token"):
        sg.mean_mso(np.ones((4, 2, 3)), np.tile([0, 1], (4, 1)), mask=np.zeros(5, bool))


def test_padding_as_on_a_device(monkeypatch):
    """The tensor operations that other devices are given, on this one."""
    rng = np.random.default_rng(80)
    plain, kept = rng.standard_normal((6, 20, 3, 8)), rng.random((6, 20, 3)) < 0.7
    value, routing = torch.from_numpy(spoiled(plain, kept, rng)), np.where(kept, distinct(rng, kept.shape, 5), -1)
    expected = sg.token_mso(value, routing=routing), sg.mean_mso(value, routing)
    for module in ("token_overlap", "mean_vectors", "memory"):
        monkeypatch.setattr(sys.modules[f"simgap.overlaps.{module}"], "on_cpu", lambda _: False)
    found = sg.token_mso(value, routing=routing), sg.mean_mso(value, routing)
    for device, cpu in zip(found, expected, strict=True):
        assert device.mean == pytest.approx(cpu.mean, abs=1e-13)
        assert (device.pairs, device.dropped) == (cpu.pairs, cpu.dropped)
        assert (device.null, device.null_sd, device.p) == pytest.approx((cpu.null, cpu.null_sd, cpu.p), rel=1e-9)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_default_device_of_torch_changes_nothing(device):
    rng = np.random.default_rng(81)
    vectors, mask, routing = rng.standard_normal((4, 6, 2, 5)), rng.random((4, 6)) < 0.6, distinct(rng, (4, 6, 2), 5)
    vectors[0, 0, 0] = 0
    vectors[2, 3:] = 0

    def everything():
        return sg.token_mso(vectors, routing=routing, mask=mask), sg.mean_mso(vectors, routing, mask=mask), sg.weight_mso(vectors[:2, 1:3])

    before = everything()
    with torch.device(device):
        assert everything() == before

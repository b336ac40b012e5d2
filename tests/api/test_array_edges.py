"""Hard cases for a user's own arrays: what is missing, extreme, or not an array at all."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import simgap as sg
from simgap.settings import torch_settings


def test_zero_vectors_do_not_widen_the_null():
    """A zero vector says nothing of how tokens depend on each other: with half the vectors zero, tokens are still independent."""
    rng = np.random.default_rng(41)
    vectors = rng.standard_normal((5000, 2, 8))
    vectors[rng.random((5000, 2)) < 0.5] = 0
    overlap = sg.token_mso(vectors)
    assert overlap.null_sd < 1.5 * math.sqrt(2 * 7 / (64 * 10) / overlap.pairs)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_beyond_float64_squares(scale):
    vectors = np.random.default_rng(42).standard_normal((20, 2, 8))
    plain, scaled = sg.token_mso(vectors), sg.token_mso(vectors * scale)
    assert scaled.z == pytest.approx(plain.z, rel=1e-9)
    assert sg.mean_mso(vectors * scale, np.tile([0, 1], (20, 1))).mean == pytest.approx(
        sg.mean_mso(vectors, np.tile([0, 1], (20, 1))).mean, rel=1e-9
    )


def test_sums_near_the_largest_float64_stay_finite():
    vectors = np.full((20, 2, 8), 1e308)
    vectors[:, 1, ::2] *= -1
    assert sg.mean_mso(vectors, np.tile([0, 1], (20, 1))).mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("call", [lambda: sg.weight_mso(np.ones((3, 0))), lambda: sg.token_mso(np.ones((3, 2, 0)))])
def test_no_entries_are_refused(call):
    with pytest.raises(ValueError, match="got shape"):
        call()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16])
def test_routing_of_any_whole_dtype(dtype):
    vectors = np.random.default_rng(43).standard_normal((10, 2, 6))
    routing = np.tile([0, 1], (10, 1))
    assert sg.mean_mso(vectors, routing.astype(dtype)) == sg.mean_mso(vectors, routing)


def test_a_huge_expert_index_costs_nothing():
    vectors = np.random.default_rng(44).standard_normal((10, 2, 6))
    overlap = sg.mean_mso(vectors, np.tile([0, 10**12], (10, 1)))
    assert overlap.pairs == 1
    assert overlap.dropped_at == "expert 1, expert 2, expert 3"


@pytest.mark.parametrize("design", ["frozen pair beside padding", "each slot kept three times in ten", "four frozen slots"])
def test_z_is_calibrated_whatever_slots_are_missing(design):
    """120 seeds each; the standard deviation of z is 1 within 5 standard errors, one sided: cautious is allowed, careless is not."""
    zs = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        if design == "frozen pair beside padding":
            h = np.zeros((100, 4, 32))
            h[:, :2] = rng.standard_normal((2, 32))
        else:
            k = 4 if design == "four frozen slots" else 8
            base = rng.standard_normal((8, 32))
            slots = np.argsort(rng.random((100, 8)), 1)[:, :k]
            h = base[slots] if k == 4 else 0.8 * base[slots] + 0.6 * rng.standard_normal((100, k, 32))
            h = h if k == 4 else np.where(rng.random((100, k, 1)) < 0.3, h, 0)
        zs.append(sg.token_mso(h).z)
    assert np.std(zs, ddof=1) < 1 + 5 * math.sqrt((4.5 - 1) / 4 / 120)
    assert abs(np.mean(zs)) < 5 / math.sqrt(120)


def test_normed_vectors_have_one_dimension_less():
    rng = np.random.default_rng(8)
    h = rng.standard_normal((400, 2, 8))
    h -= h.mean(-1, keepdims=True)
    normed, output = sg.token_mso(h, kind="normed"), sg.token_mso(h)
    assert normed.null == pytest.approx(output.null * 8 / 7, rel=1e-14)
    assert normed.null_sd == pytest.approx(output.null_sd * 8 / 7, rel=1e-14)
    assert (normed.round_null, output.round_null) == (1 / 7, 1 / 8)
    assert abs(normed.z) < 5
    assert sg.mean_mso(h, np.tile([0, 1], (400, 1)), kind="normed").round_null == 1 / 7
    with pytest.raises(ValueError, match="kind: expected one of output, normed, got 'norm'; did you mean 'normed'"):
        sg.token_mso(h, kind="norm")


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.empty(3, 4, device="meta")])
def test_tensors_without_plain_memory_are_refused(value):
    with pytest.raises(ValueError, match="weights: expected a plain dense tensor"):
        sg.weight_mso(value)


def test_ragged_lists_are_refused_by_name():
    with pytest.raises(ValueError, match="weights: expected an array"):
        sg.weight_mso([[1.0, 2.0], [3.0]])


def test_the_default_dtype_of_torch_changes_nothing():
    rng = np.random.default_rng(20)
    h, routing, weights = rng.standard_normal((3000, 2, 24)), rng.integers(0, 5, (3000, 2)), rng.standard_normal((4, 6, 7))

    def everything():
        return [sg.token_mso(h), sg.mean_mso(h, routing), sg.weight_mso(weights), sg.token_mso(h.astype(np.float32))]

    before = everything()
    try:
        torch.set_default_dtype(torch.float64)
        assert everything() == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_threads_change_no_bit(torch_threads):
    rng = np.random.default_rng(21)
    h, routing = rng.standard_normal((5000, 2, 600)).astype(np.float32), rng.integers(0, 6, (5000, 2))
    found = []
    for threads in (1, 2):
        torch_threads(threads)
        found.append((sg.token_mso(h), sg.mean_mso(h, routing), sg.weight_mso(h[:8].reshape(8, -1))))
    assert found[0] == found[1]


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that an operation made in memory of its own."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_memory_map_is_read_in_pieces(tmp_path, torch_threads, dtype):
    """48 MiB of float16 on disk: a copy that the kernels could read would be 96. Through a transposed view too."""
    torch_threads(1)  # the mode sees its own thread only
    written = np.lib.format.open_memmap(tmp_path / "h.npy", "w+", dtype, (6144, 2, 2048))
    written[...] = np.random.default_rng(23).standard_normal((64, 2, 2048), dtype=np.float32)[np.arange(6144) % 64]
    written.flush()
    h = np.lib.format.open_memmap(tmp_path / "h.npy", "r")
    routing = np.arange(2 * 6144).reshape(6144, 2) % 4
    # Inside the settings that these functions compute under, which take a mode of the caller's away.
    with torch_settings(), LargestTensor() as made:
        found = sg.token_mso(h), sg.mean_mso(h, routing), sg.weight_mso(h.reshape(8, 768, 4096).transpose(0, 2, 1))
    assert 1 << 17 < made.bytes <= (1 << 22) * 8
    assert [overlap.pairs for overlap in found] == [6144, 6, 28]
    with LargestTensor() as made:
        torch.from_numpy(np.array(h)).double()
    assert made.bytes == 6144 * 2 * 2048 * 8


@pytest.mark.parametrize("factor", [2.0**-1000, 1e-309, 2.0**900, 1e300])
def test_no_size_of_all_entries_changes_what_is_said(factor):
    generator = np.random.default_rng(4)
    weights, h = generator.standard_normal((6, 5, 7)), generator.standard_normal((200, 2, 16))
    routing = np.array([generator.permutation(6)[:2] for _ in range(200)])
    for say in (
        lambda c: sg.weight_mso(c * weights),
        lambda c: sg.mean_mso(c * h, routing),
        lambda c: sg.token_mso(c * h, routing=routing),
    ):
        plain, scaled = say(1.0), say(factor)
        for name in ("mean", "null", "null_sd", "z", "p"):
            assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-9, abs=1e-9), name

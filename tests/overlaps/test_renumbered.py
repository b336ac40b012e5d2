"""Sums over units against every order of them, by loops that share no code with what they judge."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from simgap.overlaps import renumbered as module
from simgap.overlaps.renumbered import order_sums, units_first
from simgap.threads import in_order, pool
from tests import reference

SIGMA = 5.0


def weights(experts, units, width, seed=0, mean=0.5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((experts, units, width)) * 10.0 ** rng.integers(-2, 2, width) + mean


def every_order(w, v):
    """Cosines of two experts' weights (f, D) over all orders of v's units."""
    norm = math.sqrt(math.fsum(x * x for row in w for x in row)) * math.sqrt(math.fsum(x * x for row in v for x in row))
    return [
        math.fsum(a * b for row, j in zip(w, order, strict=True) for a, b in zip(row, v[j], strict=True)) / norm
        for order in itertools.permutations(range(len(w)))
    ]


def moments(sums):
    """Mean and mean square of each pair's cosine: the law, written down once more."""
    f = sums.units
    return sums.totals / f, sums.traces / (f - 1) + (sums.totals / f) ** 2


@pytest.mark.parametrize("way", ["_by_columns", "_by_units"])
@pytest.mark.parametrize(("experts", "units", "width"), [(3, 5, 4), (2, 2, 3), (4, 4, 1), (2, 5, 70)])
def test_every_order_of_the_units(experts, units, width, way, monkeypatch):
    for name in ("_by_columns", "_by_units"):
        monkeypatch.setattr(module, name, getattr(module, way))
    w = weights(experts, units, width)
    sums = order_sums([torch.from_numpy(w)])
    for number, (i, j) in enumerate(itertools.combinations(range(experts), 2)):
        cosines = every_order(w[i], w[j])
        mean, square = moments(sums)
        assert mean[number] == pytest.approx(math.fsum(cosines) / len(cosines), rel=1e-10)
        assert square[number] == pytest.approx(math.fsum(c * c for c in cosines) / len(cosines), rel=1e-10)
        less = [
            math.fsum(a * b for a, b in zip(row, other, strict=True))
            for row, other in zip(w[i] - w[i].mean(0), w[j] - w[j].mean(0), strict=True)
        ]
        norm = np.linalg.norm(w[i]) * np.linalg.norm(w[j])
        assert sums.largest[number] == pytest.approx((max(*less) if sums.cosines[number] > 0 else -min(*less)) / norm, rel=1e-9)
        assert sums.cosines[number] ** 2 == pytest.approx(reference.cos2(w[i].ravel(), w[j].ravel()), rel=1e-12)


@pytest.mark.parametrize("experts", [3, 8])
def test_both_ways_and_any_blocks_agree(experts, monkeypatch):
    w = torch.from_numpy(weights(experts, 33, 150))
    means, spreads = module._sums_of_units([w], in_order)
    expected = module._by_columns([w], means, in_order)
    for name, value in (("MOST_COLUMNS", 64), ("NUMBERS", 64 * 10), ("UNITS", 7), ("COLUMNS", 11)):
        monkeypatch.setattr(module, name, value)
    for found in (module._by_columns([w], means, in_order), module._by_units([w], means, in_order)):
        assert np.triu(found, 1) == pytest.approx(np.triu(expected, 1), rel=1e-11)
    ends = module._ends([w], means, in_order)
    table = torch.einsum("efd,gfd->feg", *[w - w.mean(1, keepdim=True)] * 2).numpy()
    assert ends[0] == pytest.approx(table.min(0), rel=1e-11)
    assert ends[1] == pytest.approx(table.max(0), rel=1e-11)
    sizes = ((w - w.mean(1, keepdim=True)) ** 2).sum(2).numpy()
    assert spreads == pytest.approx(33 * (sizes**2).sum(1) / sizes.sum(1) ** 2, rel=1e-12)


def test_matrices_of_an_expert_are_rows_of_one():
    """W_up, W_gate and W_down, whose units lie along another axis, cut anywhere."""
    w = weights(4, 6, 9)
    whole = order_sums([torch.from_numpy(w)])
    down = torch.from_numpy(np.ascontiguousarray(w[..., 5:].swapaxes(1, 2)))
    parts = order_sums([torch.from_numpy(w[..., :2].copy()), torch.from_numpy(w[..., 2:5].copy()), units_first(down, 2)])
    for name in ("cosines", "totals", "traces", "spreads", "largest"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-11)
    # With the units of one matrix along the other axis it is another null.
    wrong = order_sums([units_first(torch.from_numpy(w), 2)])
    assert wrong.traces != pytest.approx(whole.traces, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_formats_are_what_their_numbers_are(dtype):
    w = torch.from_numpy(weights(3, 5, 40)).to(dtype)
    found, expected = order_sums([w]), order_sums([w.double()])
    for name in ("cosines", "totals", "traces", "spreads", "largest"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-11)


def test_numbers_near_the_ends_of_float64():
    w = torch.from_numpy(weights(3, 5, 7))
    found = order_sums([w * torch.tensor([1e200, 1e-200, 1e-300], dtype=torch.float64)[:, None, None]])
    assert found.traces == pytest.approx(order_sums([w]).traces, rel=1e-11)


def test_an_expert_of_zeros_has_no_pairs():
    w = torch.from_numpy(weights(5, 4, 3))
    kept = order_sums([w[[0, 2, 4]]])
    w[[1, 3]] = 0
    found = order_sums([w])
    assert found.experts.tolist() == [0, 2, 4]
    assert found.traces == pytest.approx(kept.traces, rel=1e-13)


def test_units_that_are_all_alike():
    w = np.broadcast_to(np.arange(1.0, 4.0), (2, 5, 3)).copy()
    sums = order_sums([torch.from_numpy(w)])
    assert moments(sums)[0] == pytest.approx([1.0])
    assert abs(sums.traces) < 1e-28


def test_drawn_orders():
    """2,000 of them, fixed beforehand: their mean is the null within 5 standard errors, and not the overlap in the order that is there."""
    w = weights(3, 5, 4, mean=0.0)
    w[1] = w[0] + 0.1 * w[1]
    sums = order_sums([torch.from_numpy(w)], draws=2000)
    sem = sums.drawn.std(ddof=1) / math.sqrt(2000)
    assert abs(sums.drawn.mean() - moments(sums)[1].mean()) < SIGMA * sem
    assert abs(sums.drawn.mean() - (sums.cosines**2).mean()) > SIGMA * sem
    for number, (i, j) in enumerate(itertools.combinations(range(3), 2)):
        cosines = np.square(every_order(w[i], w[j]))
        share = float((cosines >= cosines[0] * (1 - 1e-9)).mean())
        assert abs(sums.above[number] / 2000 - share) < SIGMA * math.sqrt(share * (1 - share) / 2000) + 1e-12
    again = order_sums([torch.from_numpy(w)], draws=2000)
    assert (again.drawn == sums.drawn).all()


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(module, "MOST_COLUMNS", 64)
    w = torch.from_numpy(weights(5, 64, 900)).float()
    alone = order_sums([w], draws=5)
    with pool(2) as (task_map, _):
        shared = order_sums([w], draws=5, task_map=task_map)
    for name in ("cosines", "totals", "traces", "spreads", "largest", "drawn", "above"):
        assert (getattr(alone, name) == getattr(shared, name)).all()


MEMORY = """
import torch
from simgap.overlaps.renumbered import order_sums


torch.set_num_threads(1)


def memory(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


w, wide = torch.randn(20, 64, 725), torch.randn(3, 5000, 40)
order_sums([w[:2, :, :9].contiguous()], draws=1)
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
order_sums([w])
order_sums([wide], draws=2)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_that_of_blocks():
    """Less than a table of f by f, 200 MB here, and than all experts' of d by d, 84 MB; in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60e6

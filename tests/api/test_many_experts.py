"""More experts than one table of pairs holds: the numbers of the whole table, the same bits however they are come by."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

import simgap as sg
from simgap.api.batch import Request, measure_batch
from simgap.api.plan import memory_needed
from simgap.kernels.gram import SIDE
from simgap.moe import draw_weights, draws_of
from simgap.overlaps import between, pair_cos2
from simgap.quantities import Quantity
from simgap.selection import select

SPEC = sg.LayerSpec(d_model=16, d_ff=16, n_experts=SIDE + 100, n_shared_experts=2, top_k=2, gated=True, activation="relu")
RUN = sg.RunSpec(tokens=40, trials=2, seed=3)
LESS = {"readings": ("mean",), "sites": ("hidden", "output")}


def test_weights_of_many_experts_against_the_whole_table():
    gap = sg.measure(SPEC, tokens=40, trials=2, seed=3, **LESS)
    weights = draw_weights(draws_of(SPEC, 3, range(2)))
    flat = {"up": weights.up.flatten(2), "down": weights.down.mT.flatten(2), "gate": weights.gate.flatten(2)}
    for kind, vectors in flat.items():
        table = pair_cos2(vectors)
        np.testing.assert_allclose(gap.weight_mso[kind].values, between(table, SPEC.n_experts).mean(1), rtol=1e-12)
        np.testing.assert_allclose(gap.shared.weight_mso[kind].values, between(table, SPEC.n_experts, shared=True).mean(1), rtol=1e-12)
    assert gap.weight_mso["up"].pairs == 2 * SPEC.n_experts * (SPEC.n_experts - 1) // 2
    assert gap.shared.weight_mso["all"].pairs == 2 * SPEC.n_experts * 2


def test_idle_experts_of_all_tables_are_counted_and_the_first_are_named():
    gap = sg.measure(SPEC, tokens=40, trials=2, seed=3, **LESS)
    (sums,) = measure_batch([Request(SPEC, RUN)], select(**LESS))
    reached = (sums.taken > 0).sum(1)
    output = gap.activation_mso["mean"]["output"]
    assert output.pairs == int((reached * (reached - 1) // 2).sum())
    assert output.pairs + output.dropped == SPEC.n_experts * (SPEC.n_experts - 1)
    places = sums.skipped[Quantity("activation_mso", "mean", "output")]
    assert places.count == int((sums.taken == 0).sum())
    idle = np.flatnonzero(sums.taken[0] == 0)[:3]
    assert places.names == tuple(f"trial 0 expert {e}" for e in idle)


@pytest.mark.parametrize("init", ["kaiming_normal", pytest.param("upcycled", marks=pytest.mark.slow)])
def test_many_experts_have_one_result(torch_threads, init):
    """Held or streamed, by one thread or two, alone or beside another trial."""
    spec = dataclasses.replace(SPEC, init=init)
    held, least = memory_needed(spec, RUN, select(**LESS))
    expected = measure_batch([Request(spec, RUN)], select(**LESS))[0].to_plain()
    for threads, memory in ((1, held), (2, held - 1), (1, least)):
        torch_threads(threads)
        found = measure_batch([Request(spec, dataclasses.replace(RUN, memory=memory))], select(**LESS))[0]
        assert found.to_plain() == expected
    begun = measure_batch([Request(spec, dataclasses.replace(RUN, trials=1))], select(**LESS))[0]
    assert begun.followed_by(measure_batch([Request(spec, RUN, 1)], select(**LESS))[0]).to_plain() == expected


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_users_many_experts_against_the_whole_table(dtype):
    weights = np.random.default_rng(4).standard_normal((2 * SIDE + 30, 7)).astype(dtype)
    weights[[5, SIDE + 9]] = 0
    found = sg.weight_mso(weights)
    kept = weights[np.abs(weights).max(1) > 0].astype(float)
    norms = np.linalg.norm(kept, axis=1)
    values = ((kept @ kept.T / norms[:, None] / norms) ** 2)[np.triu_indices(len(kept), 1)]
    assert found.pairs == values.size
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.sem == pytest.approx(values.std(ddof=1) / np.sqrt(values.size), rel=1e-12)
    assert (found.dropped, found.dropped_at) == (2, f"expert 5, expert {SIDE + 9}")
    shares = (kept / norms[:, None]) ** 2
    nulls = (shares @ shares.T)[np.triu_indices(len(kept), 1)]
    assert found.null == pytest.approx(nulls.mean(), rel=1e-11)
    q = (shares**2 @ (shares**2).T)[np.triu_indices(len(kept), 1)]
    # The corrections come from a sample of the experts.
    assert found.null_sd == pytest.approx(math.sqrt(2 * (nulls**2 - q).sum()) / values.size, rel=0.05)
    weights[SIDE + 9, 2] = np.nan
    with pytest.raises(ValueError, match=f"weights: expert {SIDE + 9} holds a value that is not finite"):
        sg.weight_mso(weights)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_of_a_users_weights_does_not_grow_with_their_square():
    """10,000 experts, whose table of pairs would take 800 MB. Some 30 are held, or twice that where threads are kept from running."""
    script = """
import re, numpy as np, torch, simgap as sg
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
torch.set_num_threads(2)
weights = np.random.default_rng(5).standard_normal((10_000, 4)).astype(np.float32)
sg.weight_mso(weights[:700])
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
print(sg.weight_mso(weights).pairs, memory("VmHWM") - before)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pairs, peak = map(int, ran.stdout.split())
    assert pairs == 10_000 * 9_999 // 2
    assert peak < 100 << 20

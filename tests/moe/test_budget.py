"""Whether a plan's bytes bound what is held: the peak of a process's memory against them."""

import json
import os
import subprocess
import sys

import pytest

from simgap.checks import parse_bytes
from simgap.moe import plan_stream
from simgap.moe.budget import cuts, library_bytes
from simgap.specs import LayerSpec, RunSpec

# The peak of the process above what it held after layers of the same kinds, so small that they count for little: these load the libraries.
SCRIPT = """
import json, re, sys
import torch
import simgap as sg
from simgap.api import batch as module
from simgap.api.plan import memory_needed
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
torch.set_num_threads(2)
plans = []
def kept(plan):
    return lambda *arguments: plans.append(plan(*arguments)) or plans[-1]
module.plan_stream, module.plan_block = kept(module.plan_stream), kept(module.plan_block)
small = sg.LayerSpec(d_model=64, d_ff=2100, n_experts=4)
for budget in ("2GiB", memory_needed(small, sg.RunSpec(tokens=20, trials=1))[1]):
    sg.measure(small, tokens=20, trials=1, memory=budget)
sg.measure(sg.LayerSpec(d_model=2, d_ff=2, n_experts=600), tokens=4, trials=1, readings=("mean",))
for fields, tokens, budget, more in json.loads(sys.argv[1]):
    plans.clear()
    fields |= {"inputs": sg.InputSpec(**fields.get("inputs", {})), "space": sg.SpaceSpec(**fields.get("space", {}))}
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted anew
    before = memory("VmRSS")
    sg.measure(sg.LayerSpec(**fields), tokens=tokens, memory=budget, **{"trials": 1} | more)
    print(memory("VmHWM") - before, max((plan.bytes for plan in plans), default=0))
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")

FEW = {"d_model": 4096, "d_ff": 4096, "n_experts": 2, "top_k": 1}
LONG = {"d_model": 32, "d_ff": 8192, "n_experts": 64}
FINE = {"d_model": 16, "d_ff": 16, "top_k": 2}
MEAN, TOKEN = {"readings": ("mean",)}, {"readings": ("token", "mean")}
# Layers, tokens, budgets and requests: large blocks, long hidden vectors, many experts, uneven loads, many trials, wide tables of routing.
LAYERS = [
    (FEW, 16, "60MiB", {}),
    (FINE | {"n_experts": 4000}, 64, "64MiB", MEAN),
    (FINE | {"n_experts": 300}, 200, "160MiB", {"trials": 4}),
    (FEW | {"init": "upcycled"}, 16, "60MiB", {}),
    (LONG, 48, "120MiB", {}),
    (FINE | {"n_experts": 6000}, 16, "64MiB", MEAN),
    (FINE | {"n_experts": 4000}, 32, "80MiB", TOKEN),
    (FINE | {"n_experts": 6000, "gated": True, "norm": "layernorm"}, 16, "128MiB", MEAN),
    (FINE | {"n_experts": 1000, "top_k": 8}, 20, "200MiB", {}),
    (FINE | {"n_experts": 512, "n_shared_experts": 2, "router": "expert_choice"}, 300, "256MiB", TOKEN),
    ({"d_model": 33, "d_ff": 129, "n_experts": 64, "n_shared_experts": 1}, 500, "256MiB", {"trials": 8}),
    ({"d_model": 512, "d_ff": 2048, "n_experts": 16}, 2048, "128MiB", {}),
    ({"d_model": 512, "d_ff": 2048, "n_experts": 16, "gated": True, "norm": "rmsnorm"}, 2048, "512MiB", TOKEN),
    ({"d_model": 1024, "d_ff": 4096, "n_experts": 8}, 256, "200MiB", TOKEN | {"dtype": "float64"}),
    ({"d_model": 256, "d_ff": 1000, "n_experts": 32, "init": "orthogonal"}, 512, "256MiB", TOKEN),
    ({"d_model": 64, "d_ff": 256, "n_experts": 128, "router": "uniform"}, 3000, "128MiB", MEAN),
    ({"d_model": 64, "d_ff": 256, "n_experts": 128, "router": "hash"}, 3000, "128MiB", MEAN),
    ({"d_model": 64, "d_ff": 256, "n_experts": 64, "top_k": 1, "inputs": {"mean": 20.0}}, 2000, "64MiB", TOKEN),
    ({"d_model": 8, "d_ff": 32, "n_experts": 8}, 64, "64MiB", {"trials": 3000}),
    ({"d_model": 2048, "d_ff": 1024, "n_experts": 40, "norm": "layernorm", "norm_affine": "per_expert"}, 100, "150MiB", MEAN),
    ({"d_model": 1024, "d_ff": 512, "n_experts": 16, "space": {"kind": "powerlaw", "scaled": "both", "rotated": True}}, 64, "256MiB", MEAN),
    (FEW | {"space": {"outliers": 4, "scaled": "both", "bias": 1.0}}, 16, "60MiB", {}),
    (FINE | {"inputs": {"massive": 0.5, "document_tokens": 2, "document_correlation": 0.5}}, 100_000, "256MiB", MEAN),
]


def peaks(layers: list) -> list[tuple[int, int]]:
    """Bytes that each layer took, and that its plan had counted, in one fresh process."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    ran = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(layers)], capture_output=True, text=True, check=False, env=plain)
    assert not ran.returncode, ran.stderr
    return [(int(held), int(planned)) for held, planned in map(str.split, ran.stdout.splitlines())]


@linux
def test_layers_stay_within_their_plans_and_budgets():
    """Blocks of weights far larger than the rest, many experts, several trials."""
    found = peaks(LAYERS[:3])
    for (_, _, budget, _), (held, planned) in zip(LAYERS, found, strict=False):
        assert held <= parse_bytes(budget)
        assert not planned or planned / 5 < held < planned
    assert len(found) == 3


@linux
@pytest.mark.slow
@pytest.mark.parametrize("at", range(len(LAYERS)))
def test_each_layer_stays_within_its_budget(at):
    """Each in a process of its own."""
    fields, tokens, budget, _ = LAYERS[at]
    ((held, planned),) = peaks([LAYERS[at]])
    print(f"{fields}, {tokens} tokens: budget {budget}, planned {planned / 2**20:.1f} MiB, peak {held / 2**20:.1f} MiB")
    assert held <= parse_bytes(budget)


def test_cuts_go_down_to_the_rows_of_one_product():
    assert list(cuts(1)) == [1]
    assert list(cuts(100)) == [100, 64, 32, 16]
    assert list(cuts(1024)) == [1024, 512, 256, 128, 64, 32, 16]


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_a_plan_is_the_fastest_that_fits_half_of_the_budget(workers):
    spec, run = LayerSpec(d_model=4096, d_ff=16384), RunSpec(tokens=1024, memory="2GiB")
    plan = plan_stream(spec, run, ("output",), False, workers, lambda tokens: tokens // 4)
    # What libraries keep comes out of the other half.
    assert plan.bytes - plan.workers * library_bytes(spec, run) <= 2**30
    # More threads never give a plan that is slower: with 16, as many as fit.
    one = plan_stream(spec, run, ("output",), False, 1, lambda tokens: tokens // 4)
    assert (-(-1024 // plan.tokens) + 1) / plan.workers <= (-(-1024 // one.tokens) + 1) / one.workers
    assert plan.workers == min(workers, plan.workers) >= min(workers, 2)


def test_where_nothing_fits_half_the_least_is_planned():
    spec, run = LayerSpec(d_model=4096, d_ff=16384), RunSpec(tokens=1024, memory="60MiB")
    plan = plan_stream(spec, run, ("output",), False, 4, lambda tokens: tokens // 4)
    assert (plan.tokens, plan.workers) == (16, 1)

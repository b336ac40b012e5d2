"""Whether a plan's bytes bound what is held: the peak of a process's memory against them."""

import json
import subprocess
import sys

import pytest

from simgap.moe import plan_stream
from simgap.moe.budget import cuts
from simgap.specs import LayerSpec, RunSpec

SCRIPT = """
import json, re, sys
import simgap as sg
from simgap.gap import together as module
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
plans, plan_stream = [], module.plan_stream
module.plan_stream = lambda *arguments: plans.append(plan_stream(*arguments)) or plans[-1]
for small in (dict(memory="2GiB"), dict(memory="6MiB")):  # loads what both ways load
    sg.measure(sg.LayerSpec(d_model=64, d_ff=2100, n_experts=4), tokens=20, trials=1, **small)
for fields, tokens, budget in json.loads(sys.argv[1]):
    plans.clear()
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted anew
    before = memory("VmRSS")
    sg.measure(sg.LayerSpec(**fields), tokens=tokens, trials=1, memory=budget)
    print(memory("VmHWM") - before, plans[-1].bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_streamed_trial_stays_within_its_plan():
    """Blocks of weights far larger than the rest, upcycled ones too, and many blocks of tokens with every expert on every token."""
    wide = {"d_model": 4096, "d_ff": 4096, "n_experts": 2, "top_k": 1}
    many = {"d_model": 32, "d_ff": 8192, "n_experts": 64}
    cases = [(wide, 16, "45MiB"), (wide | {"init": "upcycled"}, 16, "45MiB"), (many, 48, "120MiB")]
    ran = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(cases)], capture_output=True, text=True, check=True)
    for line in ran.stdout.splitlines():
        held, planned = map(int, line.split())
        assert planned / 3 < held < planned
    assert len(ran.stdout.splitlines()) == 3


def test_cuts_go_down_to_the_rows_of_one_product():
    assert list(cuts(1)) == [1]
    assert list(cuts(100)) == [100, 64, 32, 16]
    assert list(cuts(1024)) == [1024, 512, 256, 128, 64, 32, 16]


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_a_plan_is_the_fastest_that_fits_half_of_the_budget(workers):
    spec, run = LayerSpec(d_model=4096, d_ff=16384), RunSpec(tokens=1024, memory="2GiB")
    plan = plan_stream(spec, run, ("output",), False, workers, lambda tokens: tokens // 4)
    assert plan.bytes <= 2**30
    # More threads never give a plan that is slower: with 16, as many as fit.
    one = plan_stream(spec, run, ("output",), False, 1, lambda tokens: tokens // 4)
    assert (-(-1024 // plan.tokens) + 1) / plan.workers <= (-(-1024 // one.tokens) + 1) / one.workers
    assert plan.workers == min(workers, plan.workers) >= min(workers, 2)


def test_where_nothing_fits_half_the_least_is_planned():
    spec, run = LayerSpec(d_model=4096, d_ff=16384), RunSpec(tokens=1024, memory="60MiB")
    plan = plan_stream(spec, run, ("output",), False, 4, lambda tokens: tokens // 4)
    assert (plan.tokens, plan.workers) == (16, 1)

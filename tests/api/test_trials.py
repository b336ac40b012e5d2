"""What trials cost while a run lasts: counted before anything is drawn."""

import subprocess
import sys

import pytest

import simgap as sg
from simgap.api.batch import Request, measure_batch
from simgap.api.plan import memory_needed

# In a process of its own, because the checks of shapes that tests switch on hold memory too.
SCRIPT = """
import tracemalloc
import torch
import simgap as sg
from simgap.api.plan import kept_of
from simgap.moe.budget import GROUP_SIZE
from simgap.selection import select
torch.set_num_threads(1)
for experts, shared in ((2, 1), (40, 0)):
    spec = sg.LayerSpec(d_model=1, d_ff=1, n_experts=experts, n_shared_experts=shared, top_k=1)
    GROUP_SIZE["cpu"] = 16 * experts * experts
    def peak(trials):
        tracemalloc.start()
        sg.measure(spec, tokens=1, trials=trials)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most
    peak(32)
    print(peak(192) - peak(64), kept_of(spec, sg.RunSpec(tokens=1, trials=128), select()))
"""


@pytest.mark.slow
def test_what_is_kept_of_a_trial_is_counted():
    """By the growth of the peak with their number, in groups of a few; tables of loads grow with experts."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    rows = [tuple(map(int, line.split())) for line in ran.stdout.splitlines()]
    assert len(rows) == 2
    for grown, counted in rows:
        assert counted / 5 < grown < counted


@pytest.mark.parametrize("memory, limit", [("1TiB", "machine has 64 GiB"), ("32GiB", "budget is 32 GiB")])
def test_more_trials_than_memory_holds_are_refused(monkeypatch, memory, limit):
    monkeypatch.setattr("simgap.machine.memory", lambda: 64 << 30)
    spec, run = sg.LayerSpec(d_model=8, d_ff=8), sg.RunSpec(trials=99_999_999, memory=memory)
    message = rf"^trials: what is kept of 99999999 trials needs ... GiB, the {limit}$"
    with pytest.raises(ValueError, match=message):
        sg.measure(spec, trials=99_999_999, memory=memory)
    with pytest.raises(ValueError, match=message):
        memory_needed(spec, run)
    with pytest.raises(ValueError, match=message):
        measure_batch([Request(spec, run)])


def test_trials_and_layer_must_fit_together():
    spec, run = sg.LayerSpec(d_model=8, d_ff=8), sg.RunSpec(tokens=20, trials=1000)
    _, least = memory_needed(spec, run)
    _, of_one = memory_needed(spec, sg.RunSpec(tokens=20, trials=1))
    assert least > of_one + 1000 * 700
    with pytest.raises(ValueError, match=r"^trials: what is kept of 1000 trials needs .*, the budget is"):
        sg.measure(spec, tokens=20, trials=1000, memory=least - 1)

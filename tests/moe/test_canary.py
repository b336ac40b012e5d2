"""The canary: one value for one arithmetic, whatever the process and its threads, and another for every other code path of a library."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from simgap.moe import canary as module
from simgap.moe.canary import canary


def begun(**environment: str) -> subprocess.Popen:
    """The canary of a process of its own."""
    command = [sys.executable, "-c", "from simgap.moe.canary import canary; print(canary())"]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen) -> str:
    with process:
        found = process.stdout.read().strip()
    assert process.returncode == 0
    assert re.fullmatch("[0-9a-f]{16}", found)
    return found


def test_it_is_of_the_machine_and_not_of_the_process_and_another_code_path_has_another():
    same, other = begun(OMP_NUM_THREADS="1", PYTHONHASHSEED="7"), begun(ATEN_CPU_CAPABILITY="default")
    assert told(same) == canary()
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        assert told(other) == canary()
    else:
        assert told(other) != canary()


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"NUMBA_CPU_NAME": "generic"},
        pytest.param({"MKL_CBWR": "COMPATIBLE"}, marks=pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="no MKL here")),
    ],
    ids=str,
)
def test_every_library_is_in_it(setting):
    """Slow: the kernels are compiled for another CPU."""
    assert told(begun(**setting)) != canary()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_the_users_settings_do_not_enter(torch_threads, threads):
    torch_threads(threads)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert canary.__wrapped__() == canary()
    finally:
        torch.set_default_dtype(before)
    assert torch.get_num_threads() == threads


def test_one_bit_of_any_sum_changes_it(monkeypatch):
    probes = [np.array(numbers) for numbers in module._probes()]
    assert len(probes) > 20
    assert all(np.isfinite(numbers).all() for numbers in probes)
    found = {canary()}
    for at in range(len(probes)):
        changed = [numbers.copy() for numbers in probes]
        changed[at].view(np.uint8).reshape(-1)[0] ^= 1
        monkeypatch.setattr(module, "_probes", lambda changed=changed: iter(changed))
        found.add(canary.__wrapped__())
    assert len(found) == len(probes) + 1

"""Numbers do not see the settings of torch and numpy that a user works under, and those come out as they went in."""

import dataclasses
import inspect
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import simgap as sg
from simgap import theory
from simgap.settings import SMALLEST_NORMAL, torch_settings
from simgap.threads import pool
from simgap.training import RegulariseGram, RegularisePairs, gram_descent, pairwise_descent

NEWER = hasattr(torch._C, "_get_fp32_precision_getter")
SMALL = {"d_model": 12, "d_ff": 40}


@contextmanager
def put(get, put, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def attribute(of, name, value):
    return put(lambda: getattr(of, name), lambda new: setattr(of, name, new), value)


class Nudging(TorchFunctionMode):
    def __torch_function__(self, function, kinds, arguments=(), keywords=None):
        return nudged(function(*arguments, **(keywords or {})))


class NudgingEach(TorchDispatchMode):
    def __torch_dispatch__(self, function, kinds, arguments=(), keywords=None):
        return nudged(function(*arguments, **(keywords or {})))


def nudged(found):
    return found * 1.001 if isinstance(found, torch.Tensor) and found.is_floating_point() else found


def default_dtype(dtype):
    return lambda: put(torch.get_default_dtype, torch.set_default_dtype, dtype)


SETTINGS = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default float64": default_dtype(torch.float64),
    "default bfloat16": default_dtype(torch.bfloat16),
    "with a meta device": lambda: torch.device("meta"),
    "default meta device": lambda: put(lambda: None, torch.set_default_device, "meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "anomalies": torch.autograd.detect_anomaly,
    "deterministic": lambda: put(torch.are_deterministic_algorithms_enabled, torch._C._set_deterministic_algorithms, True),
    "without oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "matmul medium": lambda: put(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "flushed denormals": lambda: put(lambda: False, torch.set_flush_denormal, True),
    "function mode": Nudging,
    "dispatch mode": NudgingEach,
    "numpy raises": lambda: np.errstate(all="raise"),
    "small buffers": lambda: put(np.getbufsize, np.setbufsize, 16),
}
if NEWER:
    SETTINGS |= {
        "TF32 everywhere": lambda: attribute(torch.backends, "fp32_precision", "tf32"),
        "TF32 on CUDA": lambda: attribute(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        "bfloat16 in oneDNN": lambda: attribute(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    }

DRAWN = np.random.default_rng(0)
# Squares of the first are as small as denormals are.
WEIGHTS = DRAWN.standard_normal((4, 6, 8)) * 1e-309
VECTORS = DRAWN.standard_normal((50, 2, 8)).astype(np.float32)
ROUTING = DRAWN.integers(-1, 4, (50, 2))
MATRICES = torch.from_numpy(DRAWN.standard_normal((4, 12, 8)).astype(np.float32))
SPECS = (
    (sg.LayerSpec(**SMALL, activation="gelu", gated=True, norm="layernorm", init="orthogonal"), None),
    (sg.LayerSpec(**SMALL, n_shared_experts=1, router=sg.RouterSpec("noisy")), None),
    (sg.LayerSpec(**SMALL, inputs=sg.InputSpec("clusters", mean=1.0)), RegulariseGram(1.0, plain=True)),
    (sg.LayerSpec(**SMALL, router=sg.RouterSpec("expert_choice")), RegularisePairs(1.0)),
)


def numbers() -> list[object]:
    """All that the public functions give."""
    measured = [sg.measure(spec, tokens=48, trials=3, prepare=prepare) for spec, prepare in SPECS]
    laws = sg.predict(SPECS[0][0], tokens=48, trials=3)
    judged = sg.calibrate(measured[0], laws)
    overlaps = [sg.weight_mso(WEIGHTS), sg.token_mso(VECTORS), sg.mean_mso(VECTORS, ROUTING)]
    return [*measured, laws, judged, *overlaps, gram_descent(MATRICES, 1.0), pairwise_descent(MATRICES, 1.0, plain=True)]


def bits(found: list[object]) -> list[object]:
    return [one.numpy().tobytes() if isinstance(one, torch.Tensor) else repr(one) for one in found]


@pytest.fixture(scope="module")
def plain():
    return bits(numbers())


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning", "ignore:TF32 acceleration:UserWarning")
@pytest.mark.parametrize("name, threads", [*((name, 1) for name in SETTINGS), ("autocast to bfloat16", 2), ("flushed denormals", 2)])
def test_settings_move_no_bit(name, threads, plain, torch_threads):
    torch_threads(threads)
    with SETTINGS[name]():
        found = numbers()
    assert bits(found) == plain


def test_the_settings_of_a_task_are_those_of_the_pool(torch_threads):
    torch_threads(2)
    look = {
        "autocast": lambda: torch.is_autocast_enabled("cpu"),
        "gradients": torch.is_grad_enabled,
        "modes": torch._C._len_torch_function_stack,
        "denormals": lambda: SMALLEST_NORMAL / 2 > 0,
        "numpy": lambda: tuple(np.geterr().values()),
        "threads": torch.get_num_threads,
    }
    met = threading.Barrier(2)

    def task(_):
        met.wait(30)
        return [see() for see in look.values()]

    with torch.autocast("cpu"), torch.no_grad(), SETTINGS["flushed denormals"](), np.errstate(all="raise"), pool(2) as (task_map, workers):
        here = [see() for see in look.values()]
        seen = task_map(task, range(workers)) if workers == 2 else [here]
    assert dict(zip(look, here, strict=True)) == dict.fromkeys(look, False) | {
        "gradients": True,
        "modes": 0,
        "denormals": True,
        "numpy": ("warn", "warn", "ignore", "warn"),
        "threads": 1,
    }
    assert all(one == here for one in seen)


def state():
    """What a user finds afterwards."""
    precisions = [torch._C._get_fp32_precision_getter(*at) for at in (("cuda", "matmul"), ("mkldnn", "matmul"))] if NEWER else []
    ours = [torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    modes = [torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(), torch.get_default_device().type]
    return [*precisions, *ours, *modes, torch.is_autocast_enabled("cpu"), np.geterr(), SMALLEST_NORMAL / 2]


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning", "ignore:TF32 acceleration:UserWarning")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_come_back_whatever_happens(name):
    with SETTINGS[name]():
        before = state()
        with torch_settings(), torch_settings():
            inside = torch.get_num_threads()
        assert state() == before
        with pytest.raises(KeyError, match="inside"), pool(2), pool(1):
            raise KeyError("inside")
        assert state() == before
    assert inside == 1


@pytest.mark.skipif(not NEWER, reason="torch before 2.9 has one precision")
def test_a_precision_of_none_still_follows_the_one_above_it():
    """What was the user's general setting before stays general: none is left behind as a matmul's own."""
    with SETTINGS["TF32 everywhere"](), SETTINGS["matmul medium"]():
        pass
    own, above = torch.backends.cuda.matmul, torch.backends
    with attribute(own, "fp32_precision", "none"), attribute(above, "fp32_precision", "tf32"):
        with torch_settings():
            assert own.fp32_precision == "ieee"
        assert own.fp32_precision == "tf32"
        with attribute(above, "fp32_precision", "ieee"):
            assert own.fp32_precision == "ieee"


def test_a_function_of_the_users_has_gradients_in_every_thread(torch_threads):
    """On the calling thread too, whatever mode that is in."""

    def trained(weights):
        up = weights.up.clone().requires_grad_()
        (up**2).sum().backward()
        return dataclasses.replace(weights, up=(up - up.grad / 4).detach())

    found = []
    for threads in (1, 2):
        torch_threads(threads)
        with torch.inference_mode():
            found.append(sg.measure(SPECS[1][0], tokens=48, trials=4, prepare=trained).as_dict())
    assert found[0] == found[1]


def test_laws_expect_their_own_underflow():
    expected = theory.dual_map("gelu", 0.5, 100.0), theory.kappa("silu", 0.3), theory.mso_p(1e-4, 64, 28, 10, 8)
    with np.errstate(all="raise"):
        found = theory.dual_map("gelu", 0.5, 100.0), theory.kappa("silu", 0.3), theory.mso_p(1e-4, 64, 28, 10, 8)
    assert found == expected


def test_laws_can_be_handed_to_another_process():
    laws = [law for law in (getattr(theory, name) for name in theory.__all__) if inspect.isfunction(law)]
    assert laws
    assert pickle.loads(pickle.dumps(laws)) == laws  # noqa: S301


def forked(look) -> str:
    """What a forked child finds; it has half a minute."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, look().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        patience = threading.Timer(30, os.kill, (child, signal.SIGKILL))
        patience.start()
        found = answer.read().decode()
        patience.cancel()
    os.waitpid(child, 0)
    return found


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_after_use_and_in_the_midst_of_it(plain, torch_threads):
    """A child whose parent has used pools, and one that was born while another thread was in one: the same bits, the user's settings."""
    torch_threads(2)

    def look():
        precision = torch.get_float32_matmul_precision()
        return f"{bits(numbers()) == plain} {torch.get_num_threads()} {precision}"

    assert bits(numbers()) == plain
    assert forked(look) == "True 2 highest"
    entered, leave = threading.Event(), threading.Event()

    def other():
        with pool(2) as (task_map, _):
            task_map(abs, [1, 2])
            entered.set()
            leave.wait(60)

    with SETTINGS["matmul medium"]():
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(30)
        found = forked(look)
        leave.set()
        thread.join()
        assert found == "True 2 medium"
        assert forked(look) == "True 2 medium"


PROCESS = """
import simgap as sg
spec = sg.LayerSpec(d_model=12, d_ff=40)
measured, laws = sg.measure(spec, tokens=48, trials=3), sg.predict(spec, tokens=48, trials=3)
text = repr((measured.as_dict(), laws.as_dict(), sg.calibrate(measured, laws).as_dict()))
"""


def test_the_surroundings_of_a_process_move_no_bit(tmp_path):
    """No home, no temporary files, an ASCII locale, every warning an error, another order of sets."""
    nowhere = {"HOME": "/proc", "TMPDIR": "/proc", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    # What decides a library's arithmetic is no surroundings.
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "PYTHONPATH", "ATEN_", "MKL_", "OMP_", "NUMBA_"))}
    environment = kept | nowhere
    command = [sys.executable, "-W", "error", "-c", f"{PROCESS}print(text.encode('ascii', 'backslashreplace').decode())"]
    ran = subprocess.run(command, env=environment | {"PYTHONHASHSEED": "77"}, cwd="/", capture_output=True, text=True, check=False)
    here: dict[str, str] = {}
    exec(PROCESS, here)  # noqa: S102
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == here["text"] + "\n"

"""The settings of torch and numpy under which simgap computes, whatever those of the process around it.

Autocast, a default device, TF32, flushed denormals, modes that look into every operation: a user sets them for a model, and numbers that
are to be the same everywhere must not see them. All of it is put back when simgap is done. What belongs to a thread is changed for that
thread; what torch keeps for the whole process is changed once for all that is under way at the same time.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

# What numpy says of floating-point errors by default: that a tail underflows to 0 is expected, and nothing else is.
FLOATING_POINT: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
AUTOCAST_DEVICES = ("cpu", "cuda")
# Where torch 2.9 and later keep the precision of float32 products: a setting of "none" takes that of the one before it in its row.
PRECISIONS = ((("generic", "all"), ("cuda", "all"), ("cuda", "matmul")), (("generic", "all"), ("mkldnn", "all"), ("mkldnn", "matmul")))
SMALLEST_NORMAL = sys.float_info.min


@contextmanager
def torch_settings() -> Iterator[int]:
    """Compute as simgap does, on this thread; yields the thread count that the user had set.

    Inside, torch computes each operation on the calling thread alone, float32 products in float32, no autocast, default device or mode,
    and records no gradient but of what a user's own function asks for. numpy's state of errors is its default. Nested, it changes nothing.
    """
    if _here.inside:
        yield _process.threads
        return
    with ExitStack() as stack:
        threads = stack.enter_context(_of_process())
        _enter_thread(stack)
        _here.inside = True
        stack.callback(setattr, _here, "inside", False)
        yield threads


# Decorators of the public face: a function that uses torch is deaf to all that is replaced, one that uses numpy alone to the caller's
# np.seterr and np.errstate.
own_settings = torch_settings()
numpy_settings = np.errstate(**FLOATING_POINT)


def _enter_thread(stack: ExitStack) -> None:
    """Change what torch and numpy keep for each thread; the stack puts it back."""
    import torch

    stack.enter_context(np.errstate(**FLOATING_POINT))
    # A user's own function may want gradients, and in other threads it has them.
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        stack.enter_context(torch.inference_mode(False))
    for device in AUTOCAST_DEVICES:
        if torch.is_autocast_enabled(device):
            torch.set_autocast_enabled(device, False)
            stack.callback(torch.set_autocast_enabled, device, True)
    # A default device is such a mode too. Only where there is one: a compiler that runs inside needs modes of its own.
    if torch._C._len_torch_function_stack():
        stack.enter_context(torch._C.DisableTorchFunction())
    if torch._C._len_torch_dispatch_stack():
        stack.enter_context(torch._C._DisableTorchDispatch())
    if SMALLEST_NORMAL / 2 == 0.0:
        torch.set_flush_denormal(False)
        stack.callback(torch.set_flush_denormal, True)


class _Process:
    """What is kept for the whole process: who is inside, and what was there before the first."""

    def __init__(self) -> None:
        self.lock, self.inside, self.threads = threading.Lock(), 0, 1
        self.before = ExitStack()
        self.forks_are_seen = False

    def after_fork(self) -> None:
        """In a forked child only the thread that forked lives on: nobody else is inside any more, and nobody holds the lock."""
        import torch

        left, self.lock, self.inside = self.inside, threading.Lock(), int(_here.inside)
        if left and not self.inside:
            torch.set_num_threads(self.threads)
            self.before.close()


class _Here(threading.local):
    inside = False


_process, _here = _Process(), _Here()


@contextmanager
def _of_process() -> Iterator[int]:
    """Change what torch keeps for the process: the first that comes in does, the last that leaves puts it back."""
    import torch

    with _process.lock:
        if not _process.forks_are_seen:
            os.register_at_fork(after_in_child=_process.after_fork)
            _process.forks_are_seen = True
        if not _process.inside:
            _process.threads = torch.get_num_threads()
            with ExitStack() as stack:
                _enter_process(stack)
                _process.before = stack.pop_all()
        _process.inside += 1
        threads = _process.threads
    # torch keeps the count per thread, and as the default of threads not yet born: both have to be one.
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        with _process.lock:
            _process.inside -= 1
            torch.set_num_threads(threads)
            if not _process.inside:
                _process.before.close()


def _enter_process(stack: ExitStack) -> None:
    import torch

    # oneDNN's GELU is another polynomial than torch's own.
    if not torch._C._get_mkldnn_enabled():
        torch._C._set_mkldnn_enabled(True)
        stack.callback(torch._C._set_mkldnn_enabled, False)
    rows = PRECISIONS if hasattr(torch._C, "_get_fp32_precision_getter") else ()
    newer = [torch._C._get_fp32_precision_getter(*row[-1]) for row in rows]
    if set(newer) <= {"none", "ieee"} and torch.get_float32_matmul_precision() == "highest":
        return
    # torch does not say its older setting while a newer one disagrees with it, and setting it sets them: they are replaced before it.
    for row in rows:
        _replace(row, stack)
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("highest")


def _replace(row: tuple[tuple[str, str], ...], stack: ExitStack) -> None:
    """Set the last precision of a row to float32's own; the stack puts it back. Those before it stay: other threads may need them."""
    import torch

    *above, last = row
    with ExitStack() as meanwhile:
        for at in above:
            # A setting of none says that of the one before it: its own is known only while that has none.
            meanwhile.callback(torch._C._set_fp32_precision_setter, *at, torch._C._get_fp32_precision_getter(*at))
            torch._C._set_fp32_precision_setter(*at, "none")
        stack.callback(torch._C._set_fp32_precision_setter, *last, torch._C._get_fp32_precision_getter(*last))
        torch._C._set_fp32_precision_setter(*last, "ieee")

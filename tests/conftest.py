"""Shapes and types in signatures are checked at run time, in tests only.

Kernels stay out, because the hook breaks compilation; so do the modules that refuse wrong shapes in words of their own, which the hook
would pre-empt.
"""

import signal

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

MOE = [f"simgap.moe.{name}" for name in ("inputs", "routers", "dispatch", "experts", "layer")]
install_import_hook([*MOE, "simgap.api.arrays", "simgap.metrics", "simgap.training"], "beartype.beartype")

# The same examples in every run, and no limit by the clock, which other processes share.
settings.register_profile("simgap", deadline=None, derandomize=True)
settings.load_profile("simgap")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Ctrl-C and hanging up as on a terminal: what a shell starts in its background, or under nohup, ignores them, and so would all that we
    start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def torch_threads():
    """A function that sets torch's thread count, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def file(tmp_path):
    """A file of a sweep."""
    # Not above, which would load simgap before its signatures can be checked.
    from tests.sweep_command import TEXT

    path = tmp_path / "my sweep.toml"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def out(tmp_path):
    """The folder that a sweep is to go to."""
    return str(tmp_path / "run")

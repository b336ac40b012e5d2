"""Shapes and types in signatures are checked at run time, in tests only.

Kernels stay out, because the hook breaks compilation; so do the modules that refuse wrong shapes in words of their own, which the hook
would pre-empt.
"""

import pytest
import torch
from jaxtyping import install_import_hook

MOE = [f"simgap.moe.{name}" for name in ("inputs", "routers", "dispatch", "experts", "layer")]
install_import_hook([*MOE, "simgap.gap.arrays", "simgap.metrics", "simgap.training"], "beartype.beartype")


@pytest.fixture
def torch_threads():
    """A function that sets torch's thread count, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

"""Every metric in a file of its own: what its quantities are called, what it looks at in a layer, and what it makes of that.

The bare numbers, overlaps of arrays and tensors without a null, can be had from here too; they load on first use, since what a quantity is
called, and what theory says of it, needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simgap.metrics import information
    from simgap.metrics.routing import counts, dropped_tokens, load
    from simgap.overlaps import means_by_routing, pair_cos2, token_cos2, token_overlap

__all__ = ["counts", "dropped_tokens", "information", "load", "means_by_routing", "pair_cos2", "token_cos2", "token_overlap"]


def __getattr__(name: str) -> Any:
    if name == "information":
        return import_module("simgap.metrics.information")
    if name in ("counts", "dropped_tokens", "load"):
        return getattr(import_module("simgap.metrics.routing"), name)
    if not name.startswith("_") and name in (overlaps := import_module("simgap.overlaps")).__all__:
        return getattr(overlaps, name)
    raise AttributeError(f"module 'simgap.metrics' has no attribute {name!r}")

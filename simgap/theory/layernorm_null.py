"""N4: what LayerNorm leaves of the overlap of independent hidden vectors."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.weight_null import null_mso

ID = "N4"
HYPOTHESES = (
    "LayerNorm with unit gain and zero bias, any eps",
    "the two hidden vectors independent given tokens and routing, the entries of one of them exchangeable: rows of W_up i.i.d. or Haar, "
    "one activation for all units, a router that does not tell the units apart",
    "both non-constant",
)


def null_layernorm_mso(d_ff: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 = 1/(f - 1), exactly, for LayerNormed hidden vectors and for their means over tokens (law N4). d_ff >= 2.

    Centring takes one dimension, and with it the mean that every activation shares.
    """
    return null_mso(ctx.number(d_ff) - 1, ctx=ctx)

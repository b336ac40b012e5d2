"""N2: outputs of untrained experts overlap by 1/d, whatever the experts compute."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.weight_null import null_mso

ID = "N2"
HYPOTHESES = (
    "entries of each W_down i.i.d. and symmetric about 0, or W_down Haar-orthogonal",
    "the W_down of different experts independent of each other, of the hidden vectors and of the routing",
    "hidden vectors non-zero",
    "no residual or shared expert added to the vectors, no norm after W_down",
)
GAUSSIAN = "W_down isotropic on the left (Gaussian or Haar): given the hidden vectors, cos^2 ~ Beta(1/2, (d-1)/2)"


def null_output_mso(d_model: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 of any two experts' outputs = 1/d, exactly: a token's, or means over the tokens routed to each (law N2). d_model >= 1.

    Whatever the activation, gate, norm, router, top-k, d_ff or inputs; a linear expert has the same value.
    """
    return null_mso(d_model, ctx=ctx)

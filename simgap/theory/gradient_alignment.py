"""R3: on one token, the gradients of two experts' W_down are as aligned as the vectors that enter them."""

from typing import Any

import numpy as np

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "R3"
HYPOTHESES = (
    "y = r + sum_e g_e W_down,e h_e: r, the gates g_e and the vectors h_e do not depend on W_down",
    "the loss depends on the W_down only through this one token's y, with dL/dy != 0",
    "g_e and g_v non-zero, h_e and h_v non-zero",
)


def gradient_cosine(gate_e: Any, gate_v: Any, hidden_cosine: Any, *, ctx: Context = FLOAT) -> Any:
    """cos(dL/dW_down,e, dL/dW_down,v) = sign(g_e g_v) cos(h_e, h_v), exactly, on one token (law R3).

    h is whatever enters W_down: after the activation, its gate and its norm. For gates from a softmax the sign is 1. Gradients summed over
    tokens are sum_t g_e(t) delta(t) h_e(t)', and their cosine is no function of the cosines of each token.

    gate_e, gate_v: non-zero, numbers or arrays; hidden_cosine: in [-1, 1]. Raises ValueError for a gate that is 0: its gradient has no
    direction.
    """
    gate_e, gate_v = ctx.number(gate_e), ctx.number(gate_v)
    for name, gate in (("gate_e", gate_e), ("gate_v", gate_v)):
        if np.any(gate == 0):
            raise ValueError(f"{name}: expected gates other than 0, got {gate}")
    return gate_e / ctx.magnitude(gate_e) * (gate_v / ctx.magnitude(gate_v)) * ctx.number(hidden_cosine)

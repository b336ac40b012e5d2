"""What else is known of the tokens of a user's own layer: themselves, their gates, the router that they met, what the experts compute."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.api.as_tensor import as_tensor
from simgap.api.scales import SQUARED
from simgap.own_activations import full_name
from simgap.specs import ACTIVATIONS


class Tokens(NamedTuple):
    """x (n, d_model), gates (n, k), router (E, d_model), activation, scores (n, E): None or "" for what is not given."""

    x: Float[Tensor, "n d"] | None = None
    gates: Float[Tensor, "n k"] | None = None
    router: Float[Tensor, "E d"] | None = None
    activation: str = ""
    scores: Float[Tensor, "n E"] | None = None

    def of(self, tokens: slice) -> "Tokens":
        return self._replace(**{name: part[tokens] for name in ("x", "gates", "scores") if (part := getattr(self, name)) is not None})


NOTHING = Tokens()


def tokens_of(
    inputs: Any,
    gates: Any,
    router: Any,
    activation: str | None,
    scores: Any,
    shape: tuple[int, ...],
    kept: Bool[np.ndarray, " n"] | None,
    indices: Int[Tensor, "m k"],
) -> Tokens:
    """shape: (..., k) of the routing; kept: which tokens no mask leaves out, None for all; indices: of those, -1 for none, of which no gate
    is read. Raises ValueError for shapes that do not fit, what is not finite or has no square in float64, gates below 0 and an activation
    that does not exist."""
    if activation is not None and full_name(activation) not in ACTIVATIONS and "#" not in full_name(activation):
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)} or a name given to sg.activation, got {activation!r}")
    numbered = None if kept is None else torch.from_numpy(np.flatnonzero(kept))

    def each(name: str, value: Any, expected: tuple[int, ...], there: Tensor | None = None) -> Tensor | None:
        if value is None:
            return None
        tensor = as_tensor(name, value)
        if tuple(tensor.shape[: len(expected)]) != expected or tensor.ndim != len(shape) or not tensor.numel():
            axes = ", ".join([*map(str, expected), "E" if name == "scores" else "d_model"][: len(shape)])
            raise ValueError(f"{name}: expected ({axes}), got {tuple(tensor.shape)}")
        flat = tensor.reshape(-1, tensor.shape[-1])
        rows = flat if numbered is None else flat[numbered.to(flat.device)]
        return _finite(name, rows if there is None else rows.masked_fill(~there.to(rows.device), 0.0))

    x, weights = each("inputs", inputs, shape[:-1]), each("gates", gates, shape, indices >= 0)
    if weights is not None and bool((weights < 0).any()):
        raise ValueError("gates: expected numbers of at least 0, got a smaller one")
    rows = None if router is None else as_tensor("router", router)
    if rows is not None and (rows.ndim != 2 or not rows.numel()):
        raise ValueError(f"router: expected (E, d_model), got {tuple(rows.shape)}")
    row = None if rows is None else _finite("router", rows)
    return Tokens(x, weights, row, full_name(activation) if activation else "", each("scores", scores, shape[:-1]))


def _finite(name: str, value: Tensor) -> Tensor:
    """As numpy can hold it."""
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: expected finite numbers, got one that is not")
    if name != "scores" and value.dtype == torch.float64 and float(value.abs().max()) >= SQUARED:
        raise ValueError(f"{name}: expected numbers below 2^400 in size, of which squares add up, got a larger one")
    return value if value.dtype in (torch.float32, torch.float64) else value.float()

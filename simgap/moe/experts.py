"""What an expert computes: W_up, activation, gate, norm, W_down, for all trials and experts in one batched product each."""

import math
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from simgap.moe.weights import HIDDEN_BLOCK, Weights
from simgap.specs import LayerSpec
from simgap.threads import Map, in_order

LAYERNORM_EPS = 1e-5  # torch.nn.LayerNorm's default
RMSNORM_EPS = 1e-6  # as in the LLaMA and Mixtral reference models
# Experts that one task computes: as many as hold this many weights in W_up. A constant, because the shape of a product is part of its bits.
TASK_WEIGHTS = 1 << 21
# No vector register holds more numbers.
VECTOR = 64

# Each may overwrite its argument and returns the result.
ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu_,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x, inplace=True),
    "tanh": torch.tanh_,
    "erf": torch.erf_,
}


def run_experts(
    spec: LayerSpec,
    weights: Weights,
    experts: slice,
    x: Float[Tensor, "s n d"],
    tokens: Int[Tensor, "s E C"],
    sites: Collection[str],
    task_map: Map = in_order,
) -> dict[str, Float[Tensor, "s E C width"]]:
    """The vectors of the given experts at the given sites, one row for each entry of `tokens` (a token's number).

    Sites: "pre", what the activation sees (W_up x, or W_gate x where gated); "hidden", act(W_up x) or act(W_gate x) * (W_up x);
    "normed", after the norm with its gain and bias; "output", W_down of the last of these.
    """
    s, count, length = tokens.shape
    first = experts.start or 0
    at_once = count if s > 1 else max(1, min(count, TASK_WEIGHTS // (spec.d_ff * spec.d_model)))
    flat = x.reshape(-1, x.shape[-1])
    row_of = tokens + torch.arange(s, device=x.device)[:, None, None] * x.shape[1]

    def task(start: int) -> dict[str, Tensor]:
        part = slice(start, min(start + at_once, count))
        held = slice(first + part.start, first + part.stop)
        rows = flat.index_select(0, row_of[:, part].reshape(-1)).view(-1, length, x.shape[-1])
        flat_pre, pre = _padded(rows, spec.d_ff)
        _up(rows, weights.up if weights.gate is None else weights.gate, held, out=pre)
        found = {"pre": pre}
        activated = ACTIVATION_FUNCTIONS[spec.activation](flat_pre.clone() if "pre" in sites else flat_pre)
        last = activated[: pre.numel()].view(pre.shape)
        if weights.gate is not None:
            last = last * _up(rows, weights.up, held)
        found["hidden"] = last
        if spec.norm != "none":
            last = found["normed"] = _normed(spec, weights, held, last)
        if "output" in sites:
            found["output"] = down(last, weights.down[:, held].flatten(0, 1))
        return {site: found[site].view(s, -1, length, found[site].shape[-1]) for site in sites if site in found}

    parts = list(task_map(task, range(0, count, at_once)))
    return parts[0] if len(parts) == 1 else {site: torch.cat([part[site] for part in parts], 1) for site in parts[0]}


def down(hidden: Float[Tensor, "b m f"], weight: Float[Tensor, "b d f"]) -> Float[Tensor, "b m d"]:
    """hidden W_down', summed over blocks of hidden units in their order."""
    result = torch.bmm(hidden[..., :HIDDEN_BLOCK], weight[..., :HIDDEN_BLOCK].mT)
    for start in range(HIDDEN_BLOCK, hidden.shape[-1], HIDDEN_BLOCK):
        part = slice(start, start + HIDDEN_BLOCK)
        result = result.baddbmm_(hidden[..., part], weight[..., part].mT)
    return result


def _padded(rows: Float[Tensor, "b m d"], width: int) -> tuple[Float[Tensor, " N"], Float[Tensor, "b m f"]]:
    """Memory for (b, m, width) vectors, flat with its length rounded up, and in shape.

    Vector instructions leave the last few numbers of an array to scalar ones, which round otherwise; here those are never numbers in use,
    so that a number's bits do not depend on where it lies.
    """
    shape = (*rows.shape[:2], width)
    size = math.prod(shape)
    flat = rows.new_empty(-(-size // VECTOR) * VECTOR)
    flat[size:] = 0
    return flat, flat[:size].view(shape)


def _up(rows: Float[Tensor, "b m d"], weight: Float[Tensor, "s E f d"], held: slice, out: Tensor | None = None) -> Float[Tensor, "b m f"]:
    """rows W', block of hidden units by block."""
    weight = weight[:, held].flatten(0, 1)
    if weight.shape[1] <= HIDDEN_BLOCK:
        return torch.bmm(rows, weight.mT, out=out) if out is not None else torch.bmm(rows, weight.mT)
    result = rows.new_empty(*rows.shape[:2], weight.shape[1]) if out is None else out
    for start in range(0, weight.shape[1], HIDDEN_BLOCK):
        part = slice(start, start + HIDDEN_BLOCK)
        result[..., part] = torch.bmm(rows, weight[:, part].mT)
    return result


def _normed(spec: LayerSpec, weights: Weights, held: slice, hidden: Float[Tensor, "b m f"]) -> Float[Tensor, "b m f"]:
    if spec.norm == "layernorm":
        result = F.layer_norm(hidden, (spec.d_ff,), eps=LAYERNORM_EPS)
    else:
        result = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + RMSNORM_EPS)
    if weights.gain is not None and weights.bias is not None:
        gain, bias = (value[:, held].reshape(-1, 1, spec.d_ff) for value in (weights.gain, weights.bias))
        result = result * gain + bias
    return result

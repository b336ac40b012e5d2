"""What an expert computes: W_up, activation, gate, norm, W_down, for all trials and experts in one batched product each."""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from simgap.batch_invariant import apply, recorded, sum_of_products
from simgap.moe.group import Draw, runs
from simgap.moe.streamed import StreamedWeights
from simgap.moe.weights import Weights
from simgap.own_activations import function_of, in_place
from simgap.specs import LayerSpec
from simgap.threads import Map, in_order

# torch.nn.LayerNorm's default; as in the LLaMA and Mixtral reference models.
NORM_EPS = {"layernorm": 1e-5, "rmsnorm": 1e-6}
# Experts that one task computes: as many as hold this many weights in W_up. A constant, because the shape of a product is part of its bits.
TASK_WEIGHTS = 1 << 21

# Each may overwrite its argument and returns the result.
ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu_,
    "gelu": torch.ops.aten.gelu_,
    "gelu_tanh": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "silu": lambda x: F.silu(x, inplace=True),
    "tanh": torch.tanh_,
    "erf": torch.erf_,
}


def run_experts(
    draws: Sequence[Draw],
    weights: Weights | StreamedWeights,
    experts: slice,
    x: Float[Tensor, "s n d"],
    tokens: Int[Tensor, "s E C"],
    sites: Collection[str],
    task_map: Map = in_order,
) -> dict[str, Float[Tensor, "s E C width"]]:
    """The vectors of the given experts of a group at the given sites, one row for each entry of `tokens` (a token's number).

    Sites: "pre", what the activation sees (W_up x, or W_gate x where gated); "hidden", act(W_up x) or act(W_gate x) * (W_up x);
    "normed", after the norm with its gain and bias; "output", W_down of the last of these. Differentiable with respect to weights and x
    where autograd records them, and then out of place: the same bits in more memory.
    """
    spec = draws[0].spec
    s, count, length = tokens.shape
    first = experts.start or 0
    at_once = experts_at_once(spec, s, count)
    flat = x.reshape(-1, x.shape[-1])
    activations = runs(draws, lambda spec: spec.activation)
    row_of = tokens + torch.arange(s, device=x.device)[:, None, None] * x.shape[1]

    def task(start: int) -> dict[str, Tensor]:
        part = slice(start, min(start + at_once, count))
        held = slice(first + part.start, first + part.stop)
        rows = flat.index_select(0, row_of[:, part].reshape(-1)).view(-1, length, x.shape[-1])
        pre = _up(rows, weights.blocks("gate" if spec.gated else "up", held), spec.d_ff)
        vectors = {"pre": pre}
        last = pre.clone() if "pre" in sites else pre
        active = []
        for run in activations:
            name = draws[run.start].spec.activation
            function = ACTIVATION_FUNCTIONS.get(name) or (function_of(name) if recorded(pre) else in_place(name))
            active.append(apply(function, last.view(s, -1)[run.start : run.stop]))
        if recorded(pre):
            last = torch.cat(active).view_as(pre)
        if spec.gated:
            last = last * _up(rows, weights.blocks("up", held), spec.d_ff)
        vectors["hidden"] = last
        if spec.norm != "none":
            last = vectors["normed"] = _normed(spec, weights, held, last)
        if "output" in sites:
            vectors["output"] = with_output_bias(sum_of_products(last, weights.blocks("down", held)), weights)
        return {site: vectors[site].view(s, -1, length, vectors[site].shape[-1]) for site in sites if site in vectors}

    if at_once >= count:
        return task(0)
    if recorded(x, *(getattr(weights, role) for role in weights.roles if isinstance(weights, Weights))):
        parts = [task(start) for start in range(0, count, at_once)]
        return {site: torch.cat([part[site] for part in parts], 1) for site in parts[0]}
    results: dict[str, Tensor] = {}
    for site in sites:
        if site != "normed" or spec.norm != "none":
            results[site] = x.new_empty(s, count, length, spec.d_model if site == "output" else spec.d_ff)

    def placed(start: int) -> None:
        for site, values in task(start).items():
            results[site][:, start : start + at_once] = values

    list(task_map(placed, range(0, count, at_once)))
    return results


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """An activation by its name, out of place."""
    function = ACTIVATION_FUNCTIONS.get(name)
    return function_of(name) if function is None else lambda x: function(x.clone())


def experts_at_once(spec: LayerSpec, trials: int, count: int) -> int:
    """Experts whose products one task computes."""
    return count if trials > 1 else max(1, min(count, TASK_WEIGHTS // (spec.d_ff * spec.d_model)))


def with_output_bias(outputs: Float[Tensor, "b m d"], weights: Weights | StreamedWeights) -> Float[Tensor, "b m d"]:
    """Outputs of b / s experts of each trial with what every expert of it adds to them."""
    bias = weights.output_bias
    if bias is None:
        return outputs
    return (outputs.unflatten(0, (len(bias), -1)) + bias[:, None, None]).flatten(0, 1)


def _up(rows: Float[Tensor, "b m d"], blocks: Iterator[Float[Tensor, "b h d"]], d_ff: int) -> Float[Tensor, "b m f"]:
    """rows W', block of hidden units by block; contiguous."""
    out, parts, start = rows.new_empty(*rows.shape[:2], d_ff), [], 0
    for weight in blocks:
        parts.append(sum_of_products(rows, [weight], transposed=True, out=out[..., start : start + weight.shape[1]]))
        start += weight.shape[1]
    return torch.cat(parts, -1) if recorded(parts[0]) else out


def _normed(spec: LayerSpec, weights: Weights | StreamedWeights, held: slice, hidden: Float[Tensor, "b m f"]) -> Float[Tensor, "b m f"]:
    if spec.norm == "layernorm":
        result = F.layer_norm(hidden, (spec.d_ff,), eps=NORM_EPS["layernorm"])
    else:
        result = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + NORM_EPS["rmsnorm"])
    if weights.gain is not None and weights.bias is not None:
        gain, bias = (value[:, held].reshape(-1, 1, spec.d_ff) for value in (weights.gain, weights.bias))
        result = result * gain + bias
    return result

"""What an expert computes: W_up, activation, gate, norm, W_down, for all trials and experts in one batched product each."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from simgap.moe.dispatch import ROWS
from simgap.moe.group import Draw, runs
from simgap.moe.streamed import StreamedWeights
from simgap.moe.weights import Weights
from simgap.specs import LayerSpec
from simgap.threads import Map, in_order

LAYERNORM_EPS = 1e-5  # torch.nn.LayerNorm's default
RMSNORM_EPS = 1e-6  # as in the LLaMA and Mixtral reference models
# Experts that one task computes: as many as hold this many weights in W_up. A constant, because the shape of a product is part of its bits.
TASK_WEIGHTS = 1 << 21
# Terms of a sum that one product adds up. Beyond, a library sums a product of few rows in another order than one of many (MKL, from 768
# terms in float32 and 384 in float64), and how many rows there are depends on the trials and tokens beside.
CONTRACTION = {torch.float32: 512, torch.float64: 256}
# Terms times columns from which ROWS rows make a product that torch hands to the library: a smaller one (fewer than 400 in rows, terms and
# columns together) it sums in loops of its own, in another order, and whether it is smaller depends on the rows too.
LEAST_PRODUCT = 400 // ROWS
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
    "normed", after the norm with its gain and bias; "output", W_down of the last of these.
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
        flat_pre, pre = _padded(rows, spec.d_ff)
        _up(rows, weights.blocks("gate" if spec.gated else "up", held), out=pre)
        found = {"pre": pre}
        if len(activations) == 1:
            activated = ACTIVATION_FUNCTIONS[spec.activation](flat_pre.clone() if "pre" in sites else flat_pre)
            last = activated[: pre.numel()].view(pre.shape)
        else:
            last = pre.clone() if "pre" in sites else pre
            for run in activations:
                _activate(ACTIVATION_FUNCTIONS[draws[run.start].spec.activation], last.view(s, -1)[run.start : run.stop].view(-1))
        if spec.gated:
            last = last * _up(rows, weights.blocks("up", held), out=rows.new_empty(pre.shape))
        found["hidden"] = last
        if spec.norm != "none":
            last = found["normed"] = _normed(spec, weights, held, last)
        if "output" in sites:
            found["output"] = down(last, weights.blocks("down", held))
        return {site: found[site].view(s, -1, length, found[site].shape[-1]) for site in sites if site in found}

    if at_once >= count:
        return task(0)
    together: dict[str, Tensor] = {}
    for site in sites:
        if site != "normed" or spec.norm != "none":
            together[site] = x.new_empty(s, count, length, spec.d_model if site == "output" else spec.d_ff)

    def placed(start: int) -> None:
        for site, found in task(start).items():
            together[site][:, start : start + at_once] = found

    list(task_map(placed, range(0, count, at_once)))
    return together


def _activate(function: Callable[[Tensor], Tensor], vectors: Float[Tensor, " N"]) -> None:
    """The activation of some numbers, in their place."""
    # The last few are padded: vector instructions would leave them to scalar ones, as in `_padded`.
    whole = len(vectors) // VECTOR * VECTOR
    for part, padding in ((vectors[:whole], 0), (vectors[whole:], VECTOR - len(vectors) + whole)):
        if len(part):
            found = function(F.pad(part, (0, padding)) if padding else part)
            if found.data_ptr() != part.data_ptr():
                part.copy_(found[: len(part)])


def experts_at_once(spec: LayerSpec, trials: int, count: int) -> int:
    """Experts whose products one task computes."""
    return count if trials > 1 else max(1, min(count, TASK_WEIGHTS // (spec.d_ff * spec.d_model)))


def down(hidden: Float[Tensor, "b m f"], blocks: Iterator[Float[Tensor, "b h d"]]) -> Float[Tensor, "b m d"]:
    """hidden W_down', summed over blocks of hidden units in their order."""
    result, start = None, 0
    for weight in blocks:
        result = _product(hidden[..., start : start + weight.shape[1]], weight, result)
        start += weight.shape[1]
    if result is None:
        raise ValueError("blocks: expected at least one")
    return result


def _up(rows: Float[Tensor, "b m d"], blocks: Iterator[Float[Tensor, "b h d"]], out: Float[Tensor, "b m f"]) -> Float[Tensor, "b m f"]:
    """rows W', block of hidden units by block, into `out`."""
    start = 0
    for weight in blocks:
        part = out[..., start : start + weight.shape[1]]
        if part.is_contiguous():
            _product(rows, weight.mT, out=part)
        else:
            part[...] = _product(rows, weight.mT)
        start += weight.shape[1]
    return out


def _product(rows: Tensor, weight: Tensor, total: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """rows weight, plus `total` (overwritten) where given, a stretch of CONTRACTION terms at a time."""
    if len(rows) == 1 and weight.shape[2] == 1:
        # A lone product of one column the library sums in another order than one of several.
        both = _product(rows.expand(2, -1, -1), weight.expand(2, -1, -1), None if total is None else total.repeat(2, 1, 1))
        return both[:1] if out is None else out.copy_(both[:1])
    terms = CONTRACTION[rows.dtype]
    for start in range(0, rows.shape[-1], terms):
        left, right = rows[..., start : start + terms], weight[:, start : start + terms]
        missing = -(-LEAST_PRODUCT // right.shape[2]) - right.shape[1]
        if missing > 0:
            # Zeros, which no sum sees.
            left, right = F.pad(left, (0, missing)), F.pad(right, (0, 0, 0, missing))
        if total is not None:
            total.baddbmm_(left, right)
        else:
            total = torch.bmm(left, right) if out is None else torch.bmm(left, right, out=out)
    if total is None:
        raise ValueError("rows: expected a width of at least 1")
    return total


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


def _normed(spec: LayerSpec, weights: Weights | StreamedWeights, held: slice, hidden: Float[Tensor, "b m f"]) -> Float[Tensor, "b m f"]:
    if spec.norm == "layernorm":
        result = F.layer_norm(hidden, (spec.d_ff,), eps=LAYERNORM_EPS)
    else:
        result = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + RMSNORM_EPS)
    if weights.gain is not None and weights.bias is not None:
        gain, bias = (value[:, held].reshape(-1, 1, spec.d_ff) for value in (weights.gain, weights.bias))
        result = result * gain + bias
    return result

"""Which experts a token meets. Every router ends in one padded table: index -1 and weight 0 where a token has fewer experts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from simgap.batch_invariant import apply, sum_of_products
from simgap.moe.group import Draw, kinds
from simgap.seeding import stream
from simgap.specs import LayerSpec


@dataclass(frozen=True)
class Routing:
    """indices (s, n, k): the experts of each token, best first, -1 for none. weights (s, n, k): their gates, 0 where the index is -1.

    scores (s, n, E): of which the experts of a token are the highest; logits (s, n, E): of which its gates are the softmax over
    those. Both None where tokens do not choose by scores, and NaN for a trial of that kind beside others.
    """

    indices: Int[Tensor, "s n k"]
    weights: Float[Tensor, "s n k"]
    scores: Float[Tensor, "s n E"] | None = None
    logits: Float[Tensor, "s n E"] | None = None


def route(draws: Sequence[Draw], x: Float[Tensor, "s n d"], router: Float[Tensor, "s E d"] | None) -> Routing:
    """Routing of the tokens x of a group. k is top_k, or under expert_choice the most experts that a token got; beside a wider table, a
    narrower one is padded."""
    products = None if router is None else sum_of_products(x, [router], transposed=True)
    parts = kinds(draws, lambda spec: (spec.router.kind, spec.router.kind == "expert_choice" and spec.router.capacity))
    if len(parts) == 1:
        return _route_alike(draws, x, products)
    routings = [_route_alike([draws[at] for at in part], x[part], None if products is None else products[part]) for part in parts]
    shape = (*x.shape[:2], max(routing.indices.shape[-1] for routing in routings))
    indices, weights = torch.full(shape, -1, device=x.device), x.new_zeros(shape)
    for part, routing in zip(parts, routings, strict=True):
        width = routing.indices.shape[-1]
        indices[part, :, :width], weights[part, :, :width] = routing.indices, routing.weights
    if all(routing.scores is None for routing in routings):
        return Routing(indices, weights)
    tables = x.new_full((2, *x.shape[:2], draws[0].spec.n_experts), math.nan)
    for part, routing in zip(parts, routings, strict=True):
        if routing.scores is not None and routing.logits is not None:
            tables[0, part], tables[1, part] = routing.scores, routing.logits
    return Routing(indices, weights, *tables)


def _route_alike(draws: Sequence[Draw], x: Float[Tensor, "s n d"], products: Float[Tensor, "s n E"] | None) -> Routing:
    """Routing by one kind of router, each draw with its own temperature, noise and bias; products: of tokens and router rows."""
    spec = draws[0].spec
    kind, k = spec.router.kind, spec.top_k
    if kind == "hash":
        keys = torch.from_numpy(_hash_keys(x.shape[1], spec.n_experts)).to(x.device).expand(x.shape[0], -1, -1)
        return _equal_gates(keys.topk(k).indices, x)
    if kind == "uniform":
        return _equal_gates(_noise(draws, x, uniform=True).topk(k).indices, x)

    if products is None:
        raise ValueError(f"router: a {kind} router needs its weights, got None")
    logits = products / _each(draws, "temperature", x)
    if kind == "noisy":
        logits = logits + _each(draws, "noise", x) * _noise(draws, x)
    if kind == "expert_choice":
        return _expert_choice(spec, torch.softmax(logits, -1))
    if kind == "sigmoid":
        scores = apply(torch.sigmoid_, logits.clone())
        bias = [own.router.bias * stream(seed, "router_bias", trial=t).standard_normal(spec.n_experts) for own, seed, t in draws]
        scores = scores + torch.from_numpy(np.stack(bias)).to(scores)[:, None, :]
        chosen = scores.topk(k).indices
        # Scores over their sum, in logarithms: far-off logits have scores that underflow.
        logits = apply(F.logsigmoid, logits)
        return Routing(chosen, torch.softmax(logits.gather(-1, chosen), -1), scores, logits)
    top = logits.topk(k)
    return Routing(top.indices, torch.softmax(top.values, -1), logits, logits)


def _each(draws: Sequence[Draw], name: str, x: Tensor) -> Float[Tensor, "s 1 1"]:
    """A number of each draw's router."""
    return x.new_tensor([getattr(draw.spec.router, name) for draw in draws])[:, None, None]


def _equal_gates(indices: Tensor, x: Tensor) -> Routing:
    return Routing(indices, torch.full(indices.shape, 1 / indices.shape[-1], dtype=x.dtype, device=x.device))


def _noise(draws: Sequence[Draw], x: Tensor, uniform: bool = False) -> Tensor:
    """(s, n, E) of standard normal or of uniform numbers, one stream a trial."""
    shape = (x.shape[1], draws[0].spec.n_experts)
    generators = [stream(draw.seed, "router_noise", trial=draw.trial) for draw in draws]
    drawn = [g.random(shape) if uniform else g.standard_normal(shape) for g in generators]
    return torch.from_numpy(np.stack(drawn)).to(device=x.device, dtype=x.dtype)


def _hash_keys(tokens: int, experts: int) -> np.ndarray:
    """(1, n, E) keys, the splitmix64 finaliser of (token, expert): each token takes its highest keys (rendezvous hashing), so that every
    set of experts is equally likely and no expert depends on what the token holds."""
    z = np.arange(1, tokens * experts + 1, dtype=np.uint64).reshape(1, tokens, experts) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def _expert_choice(spec: LayerSpec, scores: Float[Tensor, "s n E"]) -> Routing:
    """Each expert takes the tokens that score it highest (Zhou et al. 2022, arXiv 2202.09368)."""
    tokens = scores.shape[1]
    taken = min(tokens, max(1, round(spec.router.capacity * tokens * spec.top_k / spec.n_experts)))
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.scatter_(1, scores.topk(taken, dim=1).indices, True)
    counts = chosen.sum(-1, keepdim=True)
    width = int(counts.max())
    ranked = torch.where(chosen, scores, -1.0).sort(dim=-1, descending=True, stable=True).indices[..., :width]
    exists = torch.arange(width, device=scores.device) < counts
    return Routing(torch.where(exists, ranked, -1), torch.where(exists, scores.gather(-1, ranked), 0.0))

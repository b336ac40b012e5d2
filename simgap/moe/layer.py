"""The simulated layer: a group of trials, its tokens block by block, and the vectors of its experts at every site."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.batch_invariant import rounded_up, sum_of_products
from simgap.moe.dispatch import everywhere, owners, padded_positions, routed_only
from simgap.moe.experts import NORM_EPS, activation_function, experts_at_once, run_experts, with_output_bias
from simgap.moe.group import Draw
from simgap.moe.inputs import DrawTokens, clusters_of
from simgap.moe.routers import route
from simgap.moe.streamed import StreamedWeights, stream_weights
from simgap.moe.weights import Weights, draw_weights
from simgap.sources import TOKEN_BLOCK, Block, ExpertMaps, counts
from simgap.specs import LayerSpec, RunSpec
from simgap.threads import Map, in_order

Prepare = Callable[[Weights], Weights]


@dataclass(frozen=True)
class Layer:
    """A group of draws and a spec that has the shape of them all: weights, tokens x (s, n, d_model) and their routing, experts and gates
    (s, n, k), what they were chosen by (see Block), and the tokens that each expert takes (s, E), held; activations come block by block."""

    spec: LayerSpec
    draws: Sequence[Draw]
    weights: Weights | StreamedWeights
    x: Float[Tensor, "s n d"]
    indices: Int[Tensor, "s n k"]
    gates: Float[Tensor, "s n k"]
    taken: Int[np.ndarray, "s E"]
    scores: Float[Tensor, "s n E"] | None = None
    logits: Float[Tensor, "s n E"] | None = None

    @property
    def trials(self) -> tuple[int, ...]:
        return tuple(draw.trial for draw in self.draws)

    @property
    def tokens(self) -> int:
        return self.x.shape[1]

    def blocks(self, sites: Collection[str], every: bool = False, task_map: Map = in_order, tokens: int = TOKEN_BLOCK) -> Iterator[Block]:
        """The tokens, so many at a time, each with the vectors at the given sites; `every` computes every expert on every token.

        Streamed weights are drawn once more for every block. A vector's bits do not depend on its block.
        """
        for start in range(0, self.x.shape[1], tokens):
            # Nothing here may hold a block while the next one is computed.
            yield self._block(slice(start, start + tokens), sites, every, task_map)

    def _block(self, tokens: slice, sites: Collection[str], every: bool, task_map: Map) -> Block:
        spec = self.spec
        x, indices, gates = self.x[:, tokens], self.indices[:, tokens], self.gates[:, tokens]
        scores, logits = (None if table is None else table[:, tokens] for table in (self.scores, self.logits))
        if not sites:
            return Block(tokens.start, x, indices, gates, {}, indices[:, :0, 0], indices[..., :0], None, scores, logits)
        s = len(x)
        plan = (everywhere if every else routed_only)(indices, spec.n_experts)
        routed = run_experts(self.draws, self.weights, slice(0, spec.n_experts), x, plan.tokens, sites, task_map)
        rows = {site: value.flatten(1, 2) for site, value in routed.items()}
        index, owner = plan.index, plan.owner
        if spec.n_shared_experts:
            positions = padded_positions(x.shape[1], x.device)
            experts = slice(spec.n_experts, spec.n_experts + spec.n_shared_experts)
            shared = run_experts(self.draws, self.weights, experts, x, positions.expand(s, spec.n_shared_experts, -1), sites, task_map)
            first = plan.tokens[0].numel()
            stands = (torch.arange(len(positions), device=x.device) < x.shape[1]).expand(s, spec.n_shared_experts, -1)
            owner = torch.cat([owner, owners(stands, spec.n_experts)], 1)
            rows = {site: torch.cat([rows[site], value.flatten(1, 2)], 1) for site, value in shared.items()}
            index = torch.cat([index, _rows_of(x, spec.n_shared_experts, len(positions), first)], -1)
        every_row = _rows_of(x, spec.n_experts, plan.tokens.shape[-1]) if every else None
        return Block(tokens.start, x, indices, gates, rows, owner, index, every_row, scores, logits)

    def longest_list(self, tokens: int = TOKEN_BLOCK) -> int:
        """The longest list of tokens that one expert gets in one block of so many tokens, as it is padded."""
        starts = range(0, self.x.shape[1], tokens)
        return max(rounded_up(int(counts(self.indices[:, t : t + tokens], self.spec.n_experts).max())) for t in starts)

    def output_of_means(self, means: Float[Tensor, "s E f"], task_map: Map = in_order) -> Float[Tensor, "s E d"]:
        """W_down of each expert's mean hidden vector: its mean output, since W_down is linear and a bias is the same on
        every token, without the outputs themselves."""
        s, experts, _ = means.shape
        at_once = experts_at_once(self.spec, s, experts)

        def task(start: int) -> Tensor:
            part = slice(start, min(start + at_once, experts))
            rows = means[:, part].to(self.x.dtype).flatten(0, 1)[:, None, :]
            outputs = with_output_bias(sum_of_products(rows, self.weights.blocks("down", part)), self.weights)
            return outputs.view(s, -1, self.spec.d_model)

        return torch.cat(list(task_map(task, range(0, experts, at_once))), 1)

    @property
    def router(self) -> Float[Tensor, "s E d"] | None:
        return self.weights.router

    @property
    def token_labels(self) -> dict[str, Int[np.ndarray, "s n 1"]]:
        """Domains are clusters, where inputs are."""
        if any(draw.spec.inputs.kind != "clusters" for draw in self.draws):
            return {}
        return {"domain": clusters_of(self.draws, self.tokens, str(self.x.dtype).removeprefix("torch."))[..., None]}

    def experts(self, t: int, e: int) -> ExpertMaps:
        """A routed expert of a trial, by its place among them, as a function of a token; its matrices held, or drawn for this call."""
        spec, units = self.draws[t].spec, dict(zip(self.weights.roles, self.weights.units(t, e), strict=True))
        outer = units["down"] if self.weights.gain is None else units["down"] * self.weights.gain[t, e, :, None]
        inner = (units["gate"], units["up"]) if spec.gated else (units["up"],)
        return ExpertMaps(inner, outer, activation_function(spec.activation), spec.norm, NORM_EPS.get(spec.norm, 0.0))


def _rows_of(x: Float[Tensor, "s n d"], experts: int, stride: int, first: int = 0) -> Int[Tensor, "s n E"]:
    """The row of every token under each of the experts, whose rows begin `stride` apart."""
    tokens = torch.arange(x.shape[1], device=x.device)
    return (first + tokens[:, None] + stride * torch.arange(experts, device=x.device)).expand(x.shape[0], -1, -1)


def simulate(
    draws: Sequence[Draw],
    run: RunSpec,
    draw_tokens: DrawTokens,
    prepare: Prepare | None = None,
    task_map: Map = in_order,
    streamed: bool = False,
) -> Layer:
    """Draw the weights, tokens and routing of a group, of as many tokens and on the device and in the dtype that `run` says.

    `prepare` takes the drawn Weights and returns those to be used. streamed: the weights of a lone draw are not held but drawn as they are
    used; the layer is the same, and `prepare` has nothing to change.
    """
    weights: Weights | StreamedWeights
    if streamed:
        if prepare is not None:
            raise ValueError("prepare: streamed weights are not held, there is nothing to change")
        if len(draws) != 1:
            raise ValueError(f"draws: a streamed layer is one trial, got {len(draws)}")
        weights = stream_weights(draws[0], run.dtype, run.device)
    else:
        weights = draw_weights(draws, run.dtype, run.device, task_map)
        if prepare is not None:
            weights = checked(prepare(weights), weights)
    x = draw_tokens(draws, run.tokens, run.dtype).to(run.device)
    routing = route(draws, x, weights.router)
    spec = draws[0].spec
    taken = counts(routing.indices, spec.n_experts)
    return Layer(spec, draws, weights, x, routing.indices, routing.weights, taken, routing.scores, routing.logits)


# What `prepare` may change.
PARTS = ("up", "gate", "down", "gain", "bias", "router", "output_bias")


def checked(prepared: object, drawn: Weights) -> Weights:
    """The weights that `prepare` returned, or a ValueError that says what is wrong with them."""
    if not isinstance(prepared, Weights):
        raise ValueError(f"prepare: expected it to return Weights (dataclasses.replace the ones it got), got {type(prepared).__name__}")
    for name in PARTS:
        before, after = getattr(drawn, name), getattr(prepared, name)
        if (before is None) != (after is None):
            raise ValueError(f"prepare: {name} must stay {'None' if before is None else 'a tensor'}")
        if after is None or before is None:
            continue
        if not isinstance(after, Tensor) or after.shape != before.shape or after.dtype != before.dtype or after.device != before.device:
            got = f"{tuple(after.shape)} {after.dtype} on {after.device}" if isinstance(after, Tensor) else type(after).__name__
            raise ValueError(f"prepare: {name} must stay {tuple(before.shape)} {before.dtype} on {before.device}, got {got}")
        # One pass over the weights; a NaN is its own smallest and largest.
        if not torch.isfinite(torch.stack(torch.aminmax(after))).all():
            at = (~torch.isfinite(after)).nonzero()[0].tolist()
            expert = "" if name == "output_bias" else f", expert {at[1]}"
            raise ValueError(f"prepare: {name} of trial {drawn.trials[at[0]]}{expert} is not finite")
    # No graph is made of what is only measured.
    tensors = {name: getattr(prepared, name) for name in PARTS}
    return replace(prepared, **{name: value.detach() for name, value in tensors.items() if value is not None and value.requires_grad})

"""The simulated layer: a group of trials, its tokens block by block, and the vectors of its experts at every site."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.moe.dispatch import ROWS, Dispatch, everywhere, padded_positions, rounded_up, routed_only
from simgap.moe.experts import down, run_experts
from simgap.moe.inputs import TOKEN_BLOCK, Source
from simgap.moe.routers import Routing, route
from simgap.moe.weights import Weights, draw_weights
from simgap.specs import LayerSpec, RunSpec
from simgap.threads import Map, in_order

SITES = ("pre", "hidden", "normed", "output")
# A group holds as many trials as fit this many numbers, so that small layers fill a product and large ones stay near the cache. A tight
# budget makes groups smaller; a trial's bits do not depend on its group, because its products have the same shapes in any.
GROUP_SIZE = {"cpu": 1 << 21, "cuda": 1 << 24}

Prepare = Callable[[Weights], Weights]


@dataclass(frozen=True)
class Block:
    """A block of tokens through the experts of `s` trials.

    rows: per site (s, R, width), the computed vectors, row numbers as in `dispatch`; the rows of shared experts follow, C to each.
    index (s, n, k + n_shared): the row of every active expert of a token, routed ones first, -1 for none.
    every (s, n, E): the row of every routed expert for every token, where each computed them all; None otherwise.
    """

    routing: Int[Tensor, "s n k"]
    dispatch: Dispatch
    rows: dict[str, Float[Tensor, "s R width"]]
    index: Int[Tensor, "s n m"]
    every: Int[Tensor, "s n E"] | None


@dataclass(frozen=True)
class Layer:
    """A group of trials of one spec: weights, tokens x (s, n, d_model) and their routing, held; activations come block by block."""

    spec: LayerSpec
    weights: Weights
    x: Float[Tensor, "s n d"]
    routing: Routing

    def blocks(self, sites: Collection[str], all_pairs: bool = False, task_map: Map = in_order) -> Iterator[Block]:
        """The tokens in blocks of TOKEN_BLOCK, each with the vectors at the given sites; all_pairs computes every expert on every token."""
        spec = self.spec
        s, n, _ = self.x.shape
        for start in range(0, n, TOKEN_BLOCK):
            x = self.x[:, start : start + TOKEN_BLOCK]
            indices = self.routing.indices[:, start : start + TOKEN_BLOCK]
            plan = (everywhere if all_pairs else routed_only)(indices, spec.n_experts)
            routed = run_experts(spec, self.weights, slice(0, spec.n_experts), x, plan.tokens, sites, task_map)
            rows = {site: value.flatten(1, 2) for site, value in routed.items()}
            index = plan.index
            if spec.n_shared_experts:
                tokens = padded_positions(x.shape[1], x.device)
                experts = slice(spec.n_experts, spec.n_experts + spec.n_shared_experts)
                shared = run_experts(spec, self.weights, experts, x, tokens.expand(s, spec.n_shared_experts, -1), sites, task_map)
                first = plan.tokens[0].numel()
                rows = {site: torch.cat([rows[site], value.flatten(1, 2)], 1) for site, value in shared.items()}
                index = torch.cat([index, _rows_of(x, spec.n_shared_experts, len(tokens), first)], -1)
            every = _rows_of(x, spec.n_experts, plan.tokens.shape[-1]) if all_pairs else None
            yield Block(indices, plan, rows, index, every)

    def longest_list(self) -> int:
        """The longest list of tokens that one expert gets in one block, as it is padded."""
        starts = range(0, self.x.shape[1], TOKEN_BLOCK)
        return max(routed_only(self.routing.indices[:, t : t + TOKEN_BLOCK], self.spec.n_experts).tokens.shape[-1] for t in starts)

    def output_of_means(self, means: Float[Tensor, "s E f"]) -> Float[Tensor, "s E d"]:
        """W_down of each expert's mean hidden vector: its mean output, since W_down is linear, without the outputs themselves."""
        s, experts, width = means.shape
        flat = means.to(self.x.dtype).reshape(s * experts, 1, width)
        return down(flat, self.weights.down[:, :experts].flatten(0, 1)).view(s, experts, self.spec.d_model)


def _rows_of(x: Float[Tensor, "s n d"], experts: int, stride: int, first: int = 0) -> Int[Tensor, "s n E"]:
    """The row of every token under each of the experts, whose rows begin `stride` apart."""
    tokens = torch.arange(x.shape[1], device=x.device)
    return (first + tokens[:, None] + stride * torch.arange(experts, device=x.device)).expand(x.shape[0], -1, -1)


def simulate(
    spec: LayerSpec, run: RunSpec, source: Source, trials: Sequence[int], prepare: Prepare | None = None, task_map: Map = in_order
) -> Layer:
    """Draw the weights, tokens and routing of a group of trials. `prepare` takes the drawn Weights and returns those to be used."""
    weights = draw_weights(spec, run.seed, trials, run.dtype, run.device, task_map)
    x = source(run.seed, trials, run.tokens, run.dtype).to(run.device)
    if prepare is not None:
        weights = checked(prepare(weights), weights)
    return Layer(spec, weights, x, route(spec, x, weights.router, run.seed, trials))


def checked(prepared: object, drawn: Weights) -> Weights:
    """The weights that `prepare` returned, or a ValueError that says what is wrong with them."""
    if not isinstance(prepared, Weights):
        raise ValueError(f"prepare: expected it to return Weights (dataclasses.replace the ones it got), got {type(prepared).__name__}")
    for name in ("up", "gate", "down", "gain", "bias", "router"):
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
            raise ValueError(f"prepare: {name} of trial {drawn.trials[at[0]]}, expert {at[1]} is not finite")
    return prepared


def group_numbers(spec: LayerSpec, run: RunSpec, all_pairs: bool) -> int:
    """Numbers in the largest array of one trial: W_up, a block's hidden vectors or the tokens."""
    rows = min(run.tokens, TOKEN_BLOCK) * (spec.n_experts if all_pairs else min(spec.top_k, spec.n_experts))
    return max((spec.n_experts + spec.n_shared_experts) * spec.d_ff * spec.d_model, rows * spec.d_ff, run.tokens * spec.d_model)


def group_trials(spec: LayerSpec, run: RunSpec, all_pairs: bool, most: int | None = None) -> list[range]:
    """The trials of a run in groups that are computed together, at most `most` of them where the budget holds no more."""
    size = max(1, GROUP_SIZE[run.device.partition(":")[0]] // group_numbers(spec, run, all_pairs))
    size = size if most is None else min(size, most)
    # A power of two of nearly equal groups, two at least: any usual number of threads shares them evenly.
    count = min(run.trials, 1 << max(1, (-(-run.trials // size) - 1).bit_length()))
    ends = [run.trials * group // count for group in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


def group_bytes(spec: LayerSpec, run: RunSpec, trials: int, sites: Collection[str], all_pairs: bool, longest: int | None = None) -> int:
    """An upper estimate of what one group holds at its peak: weights, tokens, and the vectors of a block with their temporaries.

    longest: the tokens of the busiest expert in a block, where the routing is known; otherwise twice its share.
    """
    item = 8 if run.dtype == "float64" else 4
    experts = spec.n_experts + spec.n_shared_experts
    tokens = min(run.tokens, TOKEN_BLOCK)
    if longest is None:
        longest = min(tokens, 2 * -(-tokens * spec.top_k // spec.n_experts) + ROWS)
    rows = spec.n_experts * rounded_up(tokens if all_pairs else longest) + spec.n_shared_experts * rounded_up(tokens)
    temporaries = 2 + spec.gated + 2 * (spec.norm != "none")
    vectors = rows * (spec.d_ff * (temporaries + len([site for site in sites if site != "output"])) + spec.d_model * 3)
    weights = (3 if spec.gated else 2) * experts * spec.d_ff * spec.d_model
    # 64-bit keys, noise and tables of the routers; the tables of an "all" reading, a few million numbers at a time.
    routing = run.tokens * (spec.n_experts * 8 + spec.top_k * 8)
    tables = 8 * (1 << 22) if all_pairs and spec.n_experts > 16 else 0
    centres = spec.inputs.n_clusters * spec.d_model if spec.inputs.kind == "clusters" else 0
    return trials * item * (weights + 2 * run.tokens * spec.d_model + vectors + routing + centres) + 8 * tables

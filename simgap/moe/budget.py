"""What fits: trials computed together, and what a group of them or a streamed trial holds at its peak."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from simgap import machine
from simgap.kernels.normal import NORMALS_AT_ONCE
from simgap.moe.batch_invariant import ALIGNED, rounded_up
from simgap.moe.experts import experts_at_once
from simgap.moe.inputs import TOKEN_BLOCK
from simgap.moe.weights import HIDDEN_BLOCK
from simgap.specs import LayerSpec, RunSpec
from simgap.threads import WORTH_A_THREAD

# A group holds as many trials as fit this many numbers, so that small layers fill a product and large ones stay near the cache. A tight
# budget makes groups smaller; a trial's bits do not depend on its group, because its products have the same shapes in any.
GROUP_SIZE = {"cpu": 1 << 21, "cuda": 1 << 24}


def group_numbers(spec: LayerSpec, run: RunSpec, all_pairs: bool) -> int:
    """Numbers in the largest array of one trial: W_up, a block's hidden vectors or the tokens."""
    rows = min(run.tokens, TOKEN_BLOCK) * (spec.n_experts if all_pairs else min(spec.top_k, spec.n_experts))
    return max((spec.n_experts + spec.n_shared_experts) * spec.d_ff * spec.d_model, rows * spec.d_ff, run.tokens * spec.d_model)


def group_size(spec: LayerSpec, run: RunSpec, all_pairs: bool) -> int:
    """Trials that a group may hold, whatever the budget."""
    return max(1, GROUP_SIZE[run.device.partition(":")[0]] // group_numbers(spec, run, all_pairs))


def group_trials(spec: LayerSpec, run: RunSpec, all_pairs: bool, most: int | None = None) -> list[range]:
    """The trials of a run in groups that are computed together, at most `most` of them where the budget holds no more."""
    numbers, size = group_numbers(spec, run, all_pairs), group_size(spec, run, all_pairs)
    size = size if most is None else min(size, most)
    # A power of two of nearly equal groups, two at least where they are worth sharing: any usual number of threads shares them evenly.
    least = 1 if numbers * run.trials >= WORTH_A_THREAD else 0
    count = min(run.trials, 1 << max(least, (-(-run.trials // size) - 1).bit_length()))
    ends = [run.trials * group // count for group in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


def budget_bytes(run: RunSpec) -> int:
    """The budget, or what this process may use of the machine where that is less."""
    return min(run.memory_bytes, machine.memory()) if run.device == "cpu" else run.memory_bytes


def group_bytes(
    spec: LayerSpec,
    run: RunSpec,
    trials: int,
    sites: Collection[str],
    all_pairs: bool,
    longest: int | None = None,
    block_tokens: int = TOKEN_BLOCK,
) -> int:
    """An upper estimate of what one group holds at its peak: weights, tokens, and the vectors of a block with their temporaries.

    longest: the tokens of the busiest expert in a block, where the routing is known; otherwise twice its share.
    """
    item = np.dtype(run.dtype).itemsize
    experts = spec.n_experts + spec.n_shared_experts
    tokens = min(run.tokens, block_tokens)
    if longest is None:
        longest = min(tokens, 2 * -(-tokens * spec.top_k // spec.n_experts) + ALIGNED)
    rows = spec.n_experts * rounded_up(tokens if all_pairs else longest) + spec.n_shared_experts * rounded_up(tokens)
    temporaries = 3 + spec.gated + 3 * (spec.norm != "none")
    vectors = rows * (spec.d_ff * (temporaries + len([site for site in sites if site != "output"])) + spec.d_model * 3)
    weights = (3 if spec.gated else 2) * experts * spec.d_ff * spec.d_model
    return trials * (item * (weights + 2 * run.tokens * spec.d_model + vectors) + routing_bytes(spec, run, all_pairs, tokens))


def routing_bytes(spec: LayerSpec, run: RunSpec, all_pairs: bool, tokens: int) -> int:
    """Of one trial's routing and token tables: 64-bit keys, noise and scores of the routers; places, values and counts of the readings of a
    block of so many tokens."""
    item = np.dtype(run.dtype).itemsize
    places = tokens * (spec.n_experts if all_pairs else spec.top_k) * 8 * 4
    centres = item * spec.inputs.n_clusters * spec.d_model if spec.inputs.kind == "clusters" else 0
    return item * run.tokens * (spec.n_experts * 8 + spec.top_k * 8) + places + centres


@dataclass(frozen=True)
class Streaming:
    """How a trial is cut: tokens to a block, each of which draws streamed weights anew, and tasks side by side; bytes at its peak."""

    tokens: int
    workers: int
    bytes: int


def cuts(tokens: int) -> Iterator[int]:
    """Sizes that a block of tokens may have, largest first: all tokens, then powers of two down to ALIGNED."""
    yield tokens
    size = 1 << (tokens - 1).bit_length()
    while size > ALIGNED:
        size //= 2
        yield size


def plan_stream(
    spec: LayerSpec, run: RunSpec, sites: Collection[str], all_pairs: bool, workers: int, longest: Callable[[int], int]
) -> Streaming:
    """Blocks and tasks that finish soonest within half of the budget, or failing that the smallest there are.

    Half, because more buys nothing but fewer draws, and the interpreter and its libraries want room beside. A pass over the weights takes
    about as long to draw them as 1,024 tokens take to use them, and tasks share both. longest: the busiest expert's padded list in blocks
    of so many tokens.
    """

    def cost(plan: Streaming) -> float:
        return (-(-run.tokens // plan.tokens) + run.tokens / TOKEN_BLOCK) / plan.workers

    sizes = [(tokens, longest(tokens)) for tokens in cuts(run.tokens)]
    plans = [
        Streaming(tokens, side_by_side, stream_bytes(spec, run, sites, all_pairs, tokens, length, side_by_side))
        for side_by_side in range(workers, 0, -1)
        for tokens, length in sizes
    ]
    able = [plan for plan in plans if plan.bytes <= budget_bytes(run) // 2]
    return min(able, key=cost) if able else plans[-1]


def plan_block(spec: LayerSpec, run: RunSpec, trials: int, sites: Collection[str], budget: int, longest: Callable[[int], int]) -> Streaming:
    """The largest blocks of tokens, TOKEN_BLOCK at most, with which a held group of known routing keeps to a budget, or the smallest."""
    plan = Streaming(0, 0, 0)
    for tokens in cuts(min(run.tokens, TOKEN_BLOCK)):
        plan = Streaming(tokens, 1, group_bytes(spec, run, trials, sites, False, longest(tokens), tokens))
        if plan.bytes <= budget:
            break
    return plan


def stream_bytes(spec: LayerSpec, run: RunSpec, sites: Collection[str], all_pairs: bool, tokens: int, longest: int, workers: int) -> int:
    """An upper estimate of what a streamed trial holds at its peak with blocks of so many tokens and so many tasks side by side."""
    item = np.dtype(run.dtype).itemsize
    experts, shared = spec.n_experts + spec.n_shared_experts, spec.n_shared_experts
    at_once = max(experts_at_once(spec, 1, spec.n_experts), experts_at_once(spec, 1, shared) if shared else 0)
    length = rounded_up(tokens if all_pairs or shared else longest)
    kept = sum(spec.d_model if site == "output" else spec.d_ff for site in sites)
    rows = spec.n_experts * rounded_up(tokens if all_pairs else longest) + shared * rounded_up(tokens)
    # Shared experts' vectors are laid beside the routed ones: both, and the two together, for a moment.
    held = rows * kept * (2 if shared else 1)
    temporaries = at_once * length * (spec.d_ff * (3 + 2 * spec.gated + 3 * (spec.norm != "none")) + 2 * spec.d_model)
    block = min(spec.d_ff, HIDDEN_BLOCK) * spec.d_model
    drawn = max(at_once * block, experts * min(NORMALS_AT_ONCE, block)) + 2 * NORMALS_AT_ONCE
    # In float64, sums and then means beside them.
    means = 2 * 8 * experts * (kept + spec.d_model)
    return (
        item * (2 * run.tokens * spec.d_model + held + workers * (temporaries + drawn))
        + means
        + routing_bytes(spec, run, all_pairs, tokens)
    )

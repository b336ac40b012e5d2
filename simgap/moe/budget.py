"""What fits: trials computed together, and what a group of them or a streamed trial holds at its peak."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from simgap import machine
from simgap.batch_invariant import ALIGNED, CONTRACTION, rounded_up
from simgap.kernels.gram import SIDE, TABLES
from simgap.kernels.normal import NORMALS_AT_ONCE
from simgap.kernels.products import TILE
from simgap.moe.experts import experts_at_once
from simgap.moe.weights import HIDDEN_BLOCK
from simgap.sources import TOKEN_BLOCK
from simgap.specs import LayerSpec, RunSpec
from simgap.threads import PARALLEL_FROM

# A group holds as many trials as fit this many numbers, so that small layers fill a product and large ones stay near the cache. A tight
# budget makes groups smaller; a trial's bits do not depend on its group, because its products have the same shapes in any.
GROUP_SIZE = {"cpu": 1 << 21, "cuda": 1 << 24}

# What a library keeps for itself of a thread's products (MKL: its copies of both factors, 9 MB in all after products of every size, float32
# and float64; less where no factor is that large), and what else a thread needs for the random numbers that it draws.
PRODUCT_BYTES = 10 << 20
THREAD_BYTES = 1 << 20
# Terms of one product: batch_invariant.CONTRACTION at most.
MOST_TERMS = max(CONTRACTION.values())
# Tables of the same pairs that are held together: sums over blocks and matrices, cos^2 and temporaries.
PAIR_TABLES = 5
# Copies of a matrix from which an orthogonal one is made: Gaussian, Q, R, signs moved in, and the decomposition's own.
ORTHOGONAL = 6
# Python's objects and integers of 64 bits: of a row of vectors, an expert, its stream of weights, a trial, a quantity of a trial or of
# a group, and the load of an expert.
ROW_BYTES = 48
EXPERT_BYTES = 256
STREAM_BYTES = 2 << 10
TRIAL_BYTES = 700
QUANTITY_BYTES = 250
GROUP_BYTES = 1200
LOAD_BYTES = 48


def group_numbers(spec: LayerSpec, run: RunSpec, all_pairs: bool) -> int:
    """Numbers in the largest array of one trial: W_up, a block's hidden vectors, the tokens or a table of pairs."""
    rows = min(run.tokens, TOKEN_BLOCK) * (spec.n_experts if all_pairs else min(spec.top_k, spec.n_experts))
    experts = spec.n_experts + spec.n_shared_experts
    return max(experts * spec.d_ff * spec.d_model, rows * spec.d_ff, run.tokens * spec.d_model, min(experts, SIDE) ** 2)


def group_size(spec: LayerSpec, run: RunSpec, all_pairs: bool) -> int:
    """Trials that a group may hold, whatever the budget."""
    return max(1, GROUP_SIZE[run.device.partition(":")[0]] // group_numbers(spec, run, all_pairs))


def group_trials(spec: LayerSpec, run: RunSpec, all_pairs: bool) -> list[range]:
    """The trials of a run in groups that are computed together."""
    return even_groups(run.trials, group_count(spec, run, all_pairs, run.trials))


def group_count(spec: LayerSpec, run: RunSpec, all_pairs: bool, most: int) -> int:
    """How many groups a run has, where the budget holds no more than `most` trials of one."""
    numbers, size = group_numbers(spec, run, all_pairs), min(group_size(spec, run, all_pairs), most)
    # A power of two, two at least where they are worth sharing: any usual number of threads shares them evenly.
    least = 1 if numbers * run.trials >= PARALLEL_FROM else 0
    return min(run.trials, 1 << max(least, (-(-run.trials // size) - 1).bit_length()))


def even_groups(trials: int, count: int) -> list[range]:
    """So many nearly equal groups of trials."""
    ends = [trials * group // count for group in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


def budget_bytes(run: RunSpec, machine_bytes: int) -> int:
    """The budget, or what this process may use of the machine where that is less."""
    return min(run.memory_bytes, machine_bytes) if run.device == "cpu" else run.memory_bytes


def group_bytes(
    spec: LayerSpec,
    run: RunSpec,
    trials: int,
    sites: Collection[str],
    all_pairs: bool,
    longest: int | None = None,
    block_tokens: int = TOKEN_BLOCK,
) -> int:
    """An upper estimate of what one group holds at its peak, computed by one thread: weights, tokens and sums, and beside them either the
    vectors of a block with their temporaries, or tables of pairs, or the matrices that an orthogonal one is made of.

    longest: the tokens of the busiest expert in a block, where the routing is known; otherwise twice its share.
    """
    item = np.dtype(run.dtype).itemsize
    experts = spec.n_experts + spec.n_shared_experts
    tokens = min(run.tokens, block_tokens)
    if longest is None:
        longest = min(tokens, 2 * -(-tokens * spec.top_k // spec.n_experts) + ALIGNED)
    rows = spec.n_experts * rounded_up(tokens if all_pairs else longest) + spec.n_shared_experts * rounded_up(tokens)
    temporaries = 3 + spec.gated + 3 * (spec.norm != "none")
    d_ff, d_model = rounded_up(spec.d_ff), rounded_up(spec.d_model)
    numbers = rows * (d_ff * (temporaries + len([site for site in sites if site != "output"])) + d_model * 3)
    vectors = item * (numbers + experts_at_once(spec, trials, experts) * _copied(spec)) + rows * ROW_BYTES
    weights = experts * (item * ((3 if spec.gated else 2) * spec.d_ff * spec.d_model + _affine(spec)) + EXPERT_BYTES)
    basis = item * spec.d_model**2 if spec.space.rotated else 0
    held = basis + weights + item * 2 * run.tokens * spec.d_model + routing_bytes(spec, run, all_pairs, tokens) + means_bytes(spec, sites)
    return trials * (held + vectors) + task_bytes(spec, run, trials, all_pairs)


def task_bytes(spec: LayerSpec, run: RunSpec, trials: int, all_pairs: bool) -> int:
    """What each thread that works on a group holds beside: the library's buffers, and one task's tables or matrices."""
    item, experts = np.dtype(run.dtype).itemsize, spec.n_experts + spec.n_shared_experts
    # The "all" reading compares all experts on a token in one table.
    on_a_token = 8 * (experts + TILE) ** 2 if all_pairs else 0
    size = spec.d_ff * spec.d_model
    matrices = ORTHOGONAL * item * max(size, min(PARALLEL_FROM, trials * experts * size)) if spec.init == "orthogonal" else 0
    # The basis of a rotated space is an orthogonal matrix too, and each expert's matrix is turned by it.
    turned = ORTHOGONAL * item * spec.d_model * max(rounded_up(spec.d_model), rounded_up(spec.d_ff)) if spec.space.rotated else 0
    tables = pair_bytes(spec, trials)
    return max(on_a_token, tables, matrices + turned) + library_bytes(spec, run)


def pair_bytes(spec: LayerSpec, trials: int) -> int:
    """Of the tables of pairs that one task works on, in float64: those of all experts, or of SIDE with others."""
    experts = spec.n_experts + spec.n_shared_experts
    table = trials * (min(experts, SIDE) + TILE) ** 2
    # Of few experts there is a table to each matrix and block of hidden units at first.
    first = min((3 if spec.gated else 2) * -(-spec.d_ff // HIDDEN_BLOCK), max(1, TABLES // table)) if experts <= SIDE else 1
    return 8 * table * (PAIR_TABLES + first)


def library_bytes(spec: LayerSpec, run: RunSpec) -> int:
    """Of one thread: what its library keeps of the factors of the largest product it was given, and a stream of random numbers."""
    return THREAD_BYTES + min(PRODUCT_BYTES, np.dtype(run.dtype).itemsize * _factor(spec))


def means_bytes(spec: LayerSpec, sites: Collection[str]) -> int:
    """In float64, of one trial: each expert's sums at the sites, then means beside them."""
    widths = sum(spec.d_model if site == "output" else spec.d_ff for site in sites) + spec.d_model
    return 2 * 8 * (spec.n_experts + spec.n_shared_experts) * widths


def _affine(spec: LayerSpec) -> int:
    """Numbers in an expert's gain and bias, as they are drawn and as they are used."""
    return 0 if spec.norm_affine == "none" else 4 * spec.d_ff


def _factor(spec: LayerSpec) -> int:
    """Numbers in an expert's part of the factor of one product, aligned."""
    d_ff, d_model = rounded_up(spec.d_ff), rounded_up(spec.d_model)
    return max(min(d_ff, HIDDEN_BLOCK) * min(d_model, MOST_TERMS), min(d_ff, MOST_TERMS) * d_model)


def _copied(spec: LayerSpec) -> int:
    """Of these, those that are copied because they do not lie aligned: the last block of hidden units, or all."""
    last = spec.d_ff % HIDDEN_BLOCK
    if spec.d_model % ALIGNED or (last == spec.d_ff and last % ALIGNED):
        return _factor(spec)
    return rounded_up(last) * rounded_up(spec.d_model) if last % ALIGNED else 0


def routing_bytes(spec: LayerSpec, run: RunSpec, all_pairs: bool, tokens: int) -> int:
    """Of one trial's routing and token tables: 64-bit keys, noise and scores of the routers; row numbers, values and counts of the readings
    of a block of so many tokens; and the rows of a user's file, as it holds them and in float64."""
    item = np.dtype(run.dtype).itemsize
    slots = (spec.n_experts if all_pairs else 0) + spec.top_k + spec.n_shared_experts
    tables = tokens * slots * 8 * (6 if spec.n_shared_experts else 4)
    centres = item * spec.inputs.n_clusters * spec.d_model if spec.inputs.kind == "clusters" else 0
    rows = 2 * 8 * run.tokens * spec.d_model if spec.inputs.kind == "file" else 0
    router = 2 * item * rounded_up(spec.n_experts) * rounded_up(spec.d_model)
    return item * run.tokens * (spec.n_experts * 8 + spec.top_k * 8) + tables + centres + rows + router


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
    spec: LayerSpec,
    run: RunSpec,
    sites: Collection[str],
    all_pairs: bool,
    workers: int,
    longest: Callable[[int], int],
    budget: int | None = None,
) -> Streaming:
    """Blocks and tasks that finish soonest within half of the budget (the run's, by default), or failing that the smallest there are.

    Half, because more buys nothing but fewer draws, and the interpreter and its libraries want room beside: what libraries keep of products
    comes out of that room. A pass over the weights takes about as long to draw them as 1,024 tokens take to use them, and tasks share both.
    longest: the busiest expert's padded list in blocks of so many tokens.
    """
    limit = budget_bytes(run, machine.memory()) if budget is None else budget
    kept_by_libraries = library_bytes(spec, run)

    def cost(plan: Streaming) -> float:
        return (-(-run.tokens // plan.tokens) + run.tokens / TOKEN_BLOCK) / plan.workers

    sizes = [(tokens, longest(tokens)) for tokens in cuts(run.tokens)]
    plans = [
        Streaming(tokens, side_by_side, stream_bytes(spec, run, sites, all_pairs, tokens, length, side_by_side))
        for side_by_side in range(workers, 0, -1)
        for tokens, length in sizes
    ]
    able = [plan for plan in plans if plan.bytes <= limit and plan.bytes - plan.workers * kept_by_libraries <= limit // 2]
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
    """An upper estimate of what a streamed trial holds at its peak with blocks of so many tokens and so many tasks side by side: tokens and
    sums, and beside them either the vectors of a block, or tables of pairs with the pieces of weights that they are made of."""
    item = np.dtype(run.dtype).itemsize
    experts, shared = spec.n_experts + spec.n_shared_experts, spec.n_shared_experts
    at_once = max(experts_at_once(spec, 1, spec.n_experts), experts_at_once(spec, 1, shared) if shared else 0)
    length = rounded_up(tokens if all_pairs or shared else longest)
    d_ff, d_model = rounded_up(spec.d_ff), rounded_up(spec.d_model)
    kept = sum(spec.d_model if site == "output" else spec.d_ff for site in sites)
    rows = spec.n_experts * rounded_up(tokens if all_pairs else longest) + shared * rounded_up(tokens)
    # Shared experts' vectors are laid beside the routed ones: both, and the two together, for a moment.
    vectors = item * rows * kept * (2 if shared else 1) + rows * ROW_BYTES
    block = min(spec.d_ff, HIDDEN_BLOCK) * spec.d_model
    temporaries = length * (d_ff * (3 + 2 * spec.gated + 3 * (spec.norm != "none")) + 2 * d_model) + block + _copied(spec)
    pieces = min(experts, 2 * SIDE) * (item * min(NORMALS_AT_ONCE, block) + STREAM_BYTES) + item * 2 * NORMALS_AT_ONCE
    on_a_token = 8 * (experts + TILE) ** 2 if all_pairs else 0
    held = item * 2 * run.tokens * spec.d_model + means_bytes(spec, sites) + routing_bytes(spec, run, all_pairs, tokens)
    held += experts * (item * _affine(spec) + EXPERT_BYTES)
    task = max(item * at_once * temporaries + item * 2 * NORMALS_AT_ONCE, on_a_token)
    beside = max(vectors + workers * task, workers * (pieces + pair_bytes(spec, 1)))
    return held + beside + workers * library_bytes(spec, run)


def kept_bytes(spec: LayerSpec, trials: int, quantities: int, group: int) -> int:
    """What is kept of so many trials until the last is done, in groups of so many: who each is, sums and counts of each quantity, the loads
    of experts."""
    groups = min(trials, 2 * -(-trials // group))
    return trials * (TRIAL_BYTES + QUANTITY_BYTES * quantities + LOAD_BYTES * spec.n_experts) + groups * GROUP_BYTES * (1 + quantities)

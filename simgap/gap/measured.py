"""Measure a layer: draw it, run it, and reduce it to overlaps, one value to a trial."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.gap.shape import READINGS, SITES, WEIGHT_KINDS, Gap, chosen_names
from simgap.gap.tallies import ROUTED, SHARED, Job, Path, tally_pairs, tally_tokens
from simgap.metrics import (
    add_sums,
    cos2_of_gram,
    counts,
    dropped_tokens,
    gram_of_pieces,
    load,
    pair_cos2,
    total,
)
from simgap.moe import (
    HIDDEN_BLOCK,
    Block,
    Layer,
    StreamedWeights,
    Weights,
    budget_bytes,
    group_bytes,
    group_numbers,
    group_trials,
    matrices,
    open_inputs,
    physical_bytes,
    plan_block,
    plan_stream,
    simulate,
)
from simgap.moe.inputs import TOKEN_BLOCK
from simgap.specs import LayerSpec, RunSpec, format_bytes
from simgap.stats import Estimate, difference, ratio_of_means
from simgap.threads import Map, in_order, pool, worth


@dataclass(frozen=True)
class Wanted:
    sites: tuple[str, ...]
    readings: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def all_pairs(self) -> bool:
        return "all" in self.readings

    def by_token(self) -> tuple[str, ...]:
        """Sites whose vectors are wanted one by one."""
        return self.sites if {"token", "all"} & set(self.readings) else ()

    def summed(self, spec: LayerSpec) -> tuple[str, ...]:
        """Sites whose vectors are summed to means. Mean outputs come from the mean of what W_down reads, unless outputs are at hand."""
        if "mean" not in self.readings:
            return ()
        if "output" not in self.sites or self.by_token():
            return self.sites
        last = "normed" if spec.norm != "none" else "hidden"
        return tuple(site for site in SITES if site == last or (site in self.sites and site != "output"))

    def computed(self, spec: LayerSpec) -> tuple[str, ...]:
        """Sites whose vectors must be computed token by token."""
        return tuple(site for site in SITES if site in {*self.by_token(), *self.summed(spec)})


def measure(
    spec: LayerSpec,
    *,
    tokens: int = 1024,
    trials: int = 10,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    memory: int | str = "2GiB",
    sites: Sequence[str] = SITES,
    readings: Sequence[str] = READINGS,
    weights: Sequence[str] = WEIGHT_KINDS,
    prepare: Callable[[Weights], Weights] | None = None,
    progress: Callable[[float], object] | None = None,
) -> Gap[Estimate]:
    """Simulate `trials` independent layers of a spec on fresh tokens and measure every overlap: a Gap of Estimates.

    Trials are the sample: each mean is over trials, and sem says how far another set of layers and tokens would move it. prepare takes the
    drawn Weights of a group of trials and returns those to use (weights of other trials must not enter, or the memory budget would).
    progress is called with the trials just finished, those of a streamed layer in fractions. The same request gives the same bits on a CPU
    of one model with one set of library versions, whatever the memory budget and the number of threads (torch.set_num_threads).

    memory bounds the arrays that are held, not the libraries (some 0.4 GiB). A layer whose weights do not fit is streamed: trial by trial,
    each block of weights drawn when it is used and forgotten, again for every block of tokens. Orthogonal weights, which are drawn whole,
    and prepared ones must fit.

    Raises ValueError naming the argument for a request that cannot be met: an absent device, too small a budget, a bad file of inputs,
    a name of a site, reading or matrix that does not exist, vectors that are not finite.
    """
    if not isinstance(spec, LayerSpec):
        raise ValueError(f"spec: expected a LayerSpec, got {type(spec).__name__}")
    if prepare is not None and not callable(prepare):
        raise ValueError(f"prepare: expected a function of the weights, got {type(prepare).__name__}")
    run = RunSpec(tokens=tokens, trials=trials, seed=seed, device=device, dtype=dtype, memory=memory)  # type: ignore[arg-type]
    wanted = Wanted(
        chosen_names("sites", sites, SITES), chosen_names("readings", readings, READINGS), chosen_names("weights", weights, WEIGHT_KINDS)
    )
    check_device(run.device)
    available = tuple(site for site in wanted.sites if site != "normed" or spec.norm != "none")
    active = Wanted(available, wanted.readings, wanted.weights)
    computed = active.computed(spec)
    one_trial = group_bytes(spec, run, 1, computed, active.all_pairs)
    whole = why_whole(spec, prepare)
    streamed = one_trial > budget_bytes(run) and not whole
    if streamed:
        # The least there could be, were every expert equally loaded: refused before anything is drawn.
        least = plan_stream(spec, run, computed, active.all_pairs, 1, lambda tokens: share(spec, tokens)).bytes
    most = check_memory(spec, run, least if streamed else one_trial, why=whole)
    kept = 16 * trials * (len(wanted.weights) + len(wanted.readings) * len(wanted.sites))
    if kept > run.memory_bytes:
        raise ValueError(f"trials: the values of {trials} trials need {format_bytes(kept)}, the budget is {format_bytes(run.memory_bytes)}")
    groups = [range(t, t + 1) for t in range(trials)] if streamed else group_trials(spec, run, active.all_pairs, most)
    at_once = 1 if streamed else budget_bytes(run) // (one_trial * max(map(len, groups)))
    source = open_inputs(spec.inputs, spec.d_model)

    def measured(group: Sequence[int], task_map: Map = in_order) -> dict[Path, object]:
        layer = simulate(spec, run, source, group, prepare, task_map, streamed)
        tokens = TOKEN_BLOCK
        if streamed:
            plan = plan_stream(spec, run, computed, active.all_pairs, workers, layer.longest_list)
            check_memory(spec, run, plan.bytes)
            tokens, task_map = plan.tokens, task_map if plan.workers > 1 else in_order
        elif not active.all_pairs:
            # Only now is it known how unevenly the router loads the experts: smaller blocks where the usual ones would not fit.
            plan = plan_block(spec, run, len(group), computed, budget_bytes(run) // side_by_side, layer.longest_list)
            check_memory(spec, run, plan.bytes)
            tokens = plan.tokens
        tell = progress or (lambda _: None)
        found = _measure_layer(layer, active, task_map, tokens, tell if streamed else lambda _: None)
        if not streamed:
            tell(len(group))
        return found

    with pool() as (task_map, workers):
        side_by_side = max(1, min(workers, at_once, len(groups))) if run.device == "cpu" else 1
        if side_by_side > 1 and len(groups) >= workers:
            results = list(worth(task_map, group_numbers(spec, run, active.all_pairs) * run.trials)(measured, groups))
        else:
            side_by_side = 1
            results = [measured(group, task_map) for group in groups]
    return _gathered(spec, run, wanted, results)


def why_whole(spec: LayerSpec, prepare: object) -> str:
    """Why a layer's weights must all be held at once; nothing where they can be streamed."""
    if spec.init == "orthogonal":
        return "orthogonal weights are drawn whole and not streamed"
    return "" if prepare is None else "prepared weights are held and not streamed"


def share(spec: LayerSpec, tokens: int) -> int:
    """Tokens to an expert where a router loads all alike."""
    return -(-tokens * spec.top_k // spec.n_experts)


def check_device(device: str) -> None:
    """ValueError where torch has no such device."""
    kind, _, number = device.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r} asked for, but torch {torch.__version__} sees no CUDA device here; use device = 'cpu'")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device: {device!r} asked for, but there are {torch.cuda.device_count()} CUDA devices")


def check_memory(spec: LayerSpec, run: RunSpec, needed: int, why: str = "") -> int:
    """How many times so many bytes fit the budget; ValueError where they do not, or not the machine, and why less would not do."""
    size = f"{spec.parameters:.3g} parameters, {run.tokens} tokens, {run.dtype}"
    needs = f"memory: one trial of this layer ({size}) needs {'' if why else 'at least '}{format_bytes(needed)}"
    reason = f"; {why}" if why else ""
    if run.device == "cpu" and needed > physical_bytes():
        raise ValueError(f"{needs}, the machine has {format_bytes(physical_bytes())}{reason}")
    if needed > run.memory_bytes:
        raise ValueError(f"{needs}, the budget is {format_bytes(run.memory_bytes)}{reason}")
    return int(budget_bytes(run) // needed)


def _measure_layer(
    layer: Layer, wanted: Wanted, task_map: Map, block_tokens: int, progress: Callable[[float], object]
) -> dict[Path, object]:
    """Tallies of one group of trials, keyed by (side, ...) paths, and what its router did.

    progress is told of the shares of a trial that are done: one for the weights, one for each block of tokens.
    """
    spec, trials = layer.spec, layer.weights.trials
    sites, first = wanted.computed(spec), 0
    steps = 1 + (-(-layer.x.shape[1] // block_tokens) if sites else 0)
    found: dict[Path, object] = {}
    for kind, products in _weight_grams(layer.weights, spec, wanted.weights, task_map).items():
        tally_pairs(found, ("weight_mso", kind), cos2_of_gram(products), spec, trials)
    found["routing", "load"] = load(layer.routing.indices, spec.n_experts)
    found["routing", "dropped_tokens"] = dropped_tokens(layer.routing.indices)

    progress(1 / steps)
    sums = {site: _no_sums(layer, site) for site in wanted.summed(spec)}
    for block in layer.blocks(sites, wanted.all_pairs, task_map, block_tokens) if sites else ():
        _add_block(block, sums, spec, task_map)
        tally_tokens(found, _token_jobs(block, wanted, spec), trials, first, task_map)
        first += block.index.shape[1]
        # The next block is computed without this one in memory.
        del block
        progress(1 / steps)
    if sums:
        for site, vectors in _means(layer, sums, wanted, task_map).items():
            tally_pairs(found, ("activation_mso", "mean", site), pair_cos2(vectors), spec, trials)
    return found


def _token_jobs(block: Block, wanted: Wanted, spec: LayerSpec) -> list[Job]:
    """The token and all readings of a block at every wanted site, shared experts apart."""
    shared = spec.n_shared_experts
    k = block.index.shape[-1] - shared
    jobs = []
    for site in (s for s in wanted.sites if s in block.rows):
        rows = block.rows[site]
        if "token" in wanted.readings:
            jobs.append(Job((ROUTED, "activation_mso", "token", site), rows, block.index[..., :k], None))
            if shared:
                jobs.append(Job((SHARED, "activation_mso", "token", site), rows, block.index, k))
        if block.every is not None:
            jobs.append(Job((ROUTED, "activation_mso", "all", site), rows, block.every, None))
            if shared:
                everyone = torch.cat([block.every, block.index[..., k:]], -1)
                jobs.append(Job((SHARED, "activation_mso", "all", site), rows, everyone, spec.n_experts))
    return jobs


def _no_sums(layer: Layer, site: str) -> Float[Tensor, "s E width"]:
    spec = layer.spec
    shape = (len(layer.x), spec.n_experts + spec.n_shared_experts, spec.d_model if site == "output" else spec.d_ff)
    return torch.zeros(shape, dtype=torch.float64, device=layer.x.device)


def _add_block(block: Block, sums: dict[str, Tensor], spec: LayerSpec, task_map: Map) -> None:
    """Add the vectors of a block of tokens to each expert's sums: routed experts' own tokens, and all of them to the shared ones."""
    experts = spec.n_experts + spec.n_shared_experts
    # Experts are numbered over all trials.
    trial = torch.arange(len(block.owner), device=block.owner.device)[:, None]
    owner = torch.where(block.owner < 0, -1, block.owner + experts * trial)

    def add(site: str) -> None:
        add_sums(block.rows[site], owner, sums[site].flatten(0, 1))

    numbers = sum(block.rows[site].numel() for site in sums)
    list(worth(task_map, numbers)(add, sums))


def _means(layer: Layer, sums: dict[str, Tensor], wanted: Wanted, task_map: Map) -> dict[str, Float[Tensor, "s E width"]]:
    """Each expert's mean vector at every wanted site. Idle experts get zeros."""
    spec, trials = layer.spec, layer.weights.trials
    reached = counts(layer.routing.indices, spec.n_experts)
    shared = np.full((len(trials), spec.n_shared_experts), layer.x.shape[1])
    tokens = torch.from_numpy(np.maximum(np.concatenate([reached, shared], 1), 1)).to(layer.x.device)
    means = {site: total / tokens[..., None] for site, total in sums.items()}
    if "output" in wanted.sites and "output" not in means:
        means["output"] = layer.output_of_means(means["normed" if spec.norm != "none" else "hidden"], task_map).double()
    for site in wanted.sites:
        finite = torch.isfinite(means[site]).all(-1)
        if not finite.all():
            t, expert = (~finite).nonzero()[0].tolist()
            raise ValueError(f"mean {site} vector of trial {trials[t]} expert {expert} is not finite")
    return {site: means[site] for site in wanted.sites}


def _weight_grams(
    weights: Weights | StreamedWeights, spec: LayerSpec, kinds: tuple[str, ...], task_map: Map
) -> dict[str, Float[Tensor, "s E E"]]:
    """Inner products of flattened weights for each wanted matrix, and under "all" for their concatenation, by block of hidden units."""
    roles = [role for role in matrices(spec) if role in kinds or "all" in kinds]
    blocks = -(-spec.d_ff // HIDDEN_BLOCK)
    tasks = [(role, block) for role in roles for block in range(blocks)]
    tables = worth(task_map, spec.parameters * len(weights.trials))(lambda task: gram_of_pieces(weights.pieces(*task)), tasks)
    by_block = dict(zip(tasks, tables, strict=True))
    grams = {str(role): total(by_block[role, block] for block in range(blocks)) for role in roles}
    if "all" in kinds:
        grams["all"] = total(grams.values())
    return {kind: grams[kind] for kind in kinds if kind in grams}


def _gathered(spec: LayerSpec, run: RunSpec, wanted: Wanted, results: list[dict[Path, object]]) -> Gap[Estimate]:
    """The groups' tallies as Estimates over all trials, in the shape of a Gap."""

    def estimate(path: Path) -> Estimate:
        tallies = [result[path] for result in results if path in result]
        if not tallies:
            return Estimate.missing(_why_missing(spec, path))
        pairs, expected, total = (np.concatenate([getattr(t, name) for t in tallies]) for name in ("pairs", "expected", "total"))
        values = np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        if not expected.any():
            return Estimate.missing("no token meets two experts")
        places = [place for t in tallies for place in t.at]  # type: ignore[attr-defined]
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        return Estimate.of(values, pairs, int((expected - pairs).sum()), ", ".join(places[:3]) + more)

    def side(name: str, shared: Gap[Estimate] | None, routing: dict) -> Gap[Estimate]:
        weight = {kind: estimate((name, "weight_mso", kind)) for kind in wanted.weights}
        activation = {r: {site: estimate((name, "activation_mso", r, site)) for site in wanted.sites} for r in wanted.readings}
        output = activation.get("mean", {}).get("output", Estimate.missing("mean output not measured"))
        up = weight.get("up", Estimate.missing("W_up not measured"))
        return Gap(spec, run, weight, activation, difference(output, up), ratio_of_means(output, up), shared, routing)

    shares = np.concatenate([result["routing", "load"] for result in results])
    idle = [f"trial {t} expert {e}" for t, e in np.argwhere(shares == 0).tolist()]
    dropped = np.concatenate([result["routing", "dropped_tokens"] for result in results])
    routing = {
        "load": shares.mean(0).tolist(),
        "idle_experts": len(idle),
        "idle_at": idle[:3],
        "dropped_tokens": int(dropped.sum()),
        "tokens": run.tokens * run.trials,
    }
    return side(ROUTED, side(SHARED, None, {}) if spec.n_shared_experts else None, routing)


def _why_missing(spec: LayerSpec, path: Path) -> str:
    if path[-1] == "gate":
        return "gated = false: there is no W_gate"
    if path[-1] == "normed":
        return "norm = none: there is no normed site"
    return "not measured"

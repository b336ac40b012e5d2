"""Measure a layer: draw it, run it, and reduce it to overlaps, one value to a trial."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.gap.shape import READINGS, SITES, WEIGHT_KINDS, Gap, chosen_names
from simgap.metrics import (
    between,
    cos2_of_gram,
    counts,
    dropped_tokens,
    load,
    pair_cos2,
    sums_by_expert,
    token_cos2,
    undefined_vectors,
    weight_grams,
)
from simgap.moe import Block, Layer, Weights, group_bytes, group_numbers, group_trials, open_inputs, simulate
from simgap.specs import LayerSpec, RunSpec, format_bytes
from simgap.stats import Estimate, difference, ratio_of_means
from simgap.threads import Map, in_order, pool, worth

ROUTED, SHARED = "routed", "shared"
Path = tuple[str, ...]


@dataclass
class Tally:
    """One quantity over the trials of a group: sums of cos^2 and counts of pairs, and where undefined vectors were left out."""

    total: np.ndarray
    pairs: np.ndarray
    expected: np.ndarray
    at: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, trials: int) -> "Tally":
        return cls(np.zeros(trials), np.zeros(trials, np.int64), np.zeros(trials, np.int64))


@dataclass(frozen=True)
class Job:
    """One token-wise quantity of a block: vectors, the rows of each token's experts, and `lead` where pairs run across."""

    path: Path
    rows: Float[Tensor, "s R width"]
    index: Int[Tensor, "s n m"]
    lead: int | None


@dataclass(frozen=True)
class Wanted:
    sites: tuple[str, ...]
    readings: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def all_pairs(self) -> bool:
        return "all" in self.readings

    def computed(self, spec: LayerSpec) -> tuple[str, ...]:
        """Sites whose vectors must be computed token by token; mean outputs come from the mean hidden vectors instead."""
        by_token = self.sites if {"token", "all"} & set(self.readings) else tuple(s for s in self.sites if s != "output")
        last = ("normed" if spec.norm != "none" else "hidden",) if "mean" in self.readings and "output" in self.sites else ()
        return tuple(site for site in SITES if site in {*by_token, *last})


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
    progress: Callable[[int], object] | None = None,
) -> Gap[Estimate]:
    """Simulate `trials` independent layers of a spec on fresh tokens and measure every overlap: a Gap of Estimates.

    Trials are the sample: each mean is over trials, and sem says how far another set of layers and tokens would move it. prepare takes the
    drawn Weights of a group of trials and returns those to use (weights of other trials must not enter, or the memory budget would).
    progress is called with the number of trials just finished. The same request gives the same bits on one device type, CPU model and
    set of library versions, whatever the memory budget and the number of threads (torch.set_num_threads).

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
    one_trial = group_bytes(spec, run, 1, active.computed(spec), active.all_pairs)
    most = check_memory(spec, run, one_trial)
    kept = 16 * trials * (len(wanted.weights) + len(wanted.readings) * len(wanted.sites))
    if kept > run.memory_bytes:
        raise ValueError(f"trials: the values of {trials} trials need {format_bytes(kept)}, the budget is {format_bytes(run.memory_bytes)}")
    groups = group_trials(spec, run, active.all_pairs, most)
    at_once = run.memory_bytes // (one_trial * max(map(len, groups)))
    source = open_inputs(spec.inputs, spec.d_model)

    def measured(group: Sequence[int], task_map: Map = in_order) -> dict[Path, object]:
        layer = simulate(spec, run, source, group, prepare, task_map)
        if not active.all_pairs:
            # Only now is it known how unevenly the router loads the experts.
            check_memory(spec, run, group_bytes(spec, run, 1, active.computed(spec), False, layer.longest_list()), len(group))
        found = _measure_layer(layer, active, task_map)
        if progress is not None:
            progress(len(group))
        return found

    with pool() as (task_map, workers):
        workers = min(workers, at_once) if run.device == "cpu" else 1
        if workers > 1 and len(groups) >= workers:
            results = list(worth(task_map, group_numbers(spec, run, active.all_pairs) * run.trials)(measured, groups))
        else:
            results = [measured(group, task_map) for group in groups]
    return _gathered(spec, run, wanted, results)


def check_device(device: str) -> None:
    """ValueError where torch has no such device."""
    kind, _, number = device.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r} asked for, but torch {torch.__version__} sees no CUDA device here; use device = 'cpu'")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device: {device!r} asked for, but there are {torch.cuda.device_count()} CUDA devices")


def check_memory(spec: LayerSpec, run: RunSpec, one_trial: int, trials: int = 1) -> int:
    """How many trials of so many bytes the budget holds at once; ValueError where it holds fewer than asked, or the machine does not."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = f"{spec.parameters:.3g} parameters, {run.tokens} tokens, {run.dtype}"
    what = "one trial" if trials == 1 else f"{trials} trials together"
    needs = f"memory: {what} of this layer ({size}) needs {format_bytes(trials * one_trial)}"
    if run.device == "cpu" and trials * one_trial > physical:
        raise ValueError(f"{needs}, the machine has {format_bytes(physical)}")
    if trials * one_trial > run.memory_bytes:
        raise ValueError(f"{needs}, the budget is {format_bytes(run.memory_bytes)}")
    return int(run.memory_bytes // one_trial)


def _measure_layer(layer: Layer, wanted: Wanted, task_map: Map) -> dict[Path, object]:
    """Tallies of one group of trials, keyed by (side, ...) paths, and what its router did."""
    spec, trials = layer.spec, layer.weights.trials
    found: dict[Path, object] = {}
    for kind, products in _weight_grams(layer.weights, wanted.weights).items():
        _tally_pairs(found, ("weight_mso", kind), cos2_of_gram(products), spec, trials)
    found["routing", "load"] = load(layer.routing.indices, spec.n_experts)
    found["routing", "dropped_tokens"] = dropped_tokens(layer.routing.indices)

    sums: dict[str, Tensor] = {}
    sites, first = wanted.computed(spec), 0
    for block in layer.blocks(sites, wanted.all_pairs, task_map) if sites else ():
        tokens = block.index.shape[1]
        if "mean" in wanted.readings:
            for site in (s for s in sites if s != "output"):
                part = _block_sums(block.rows[site], block.dispatch.taken, spec, tokens)
                sums[site] = part if site not in sums else sums[site] + part
        _tally_tokens(found, _token_jobs(block, wanted, spec), trials, first, task_map)
        first += tokens
    if "mean" in wanted.readings:
        for site, vectors in _means(layer, sums, wanted).items():
            _tally_pairs(found, ("activation_mso", "mean", site), pair_cos2(vectors), spec, trials)
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


def _means(layer: Layer, sums: dict[str, Tensor], wanted: Wanted) -> dict[str, Float[Tensor, "s E width"]]:
    """Each expert's mean vector at every wanted site; the mean output from the mean of what W_down reads. Idle experts get zeros."""
    spec, trials = layer.spec, layer.weights.trials
    reached = counts(layer.routing.indices, spec.n_experts)
    shared = np.full((len(trials), spec.n_shared_experts), layer.x.shape[1])
    tokens = torch.from_numpy(np.maximum(np.concatenate([reached, shared], 1), 1)).to(layer.x.device)
    means = {site: total / tokens[..., None] for site, total in sums.items()}
    if "output" in wanted.sites:
        means["output"] = layer.output_of_means(means["normed" if spec.norm != "none" else "hidden"]).double()
    for site in wanted.sites:
        finite = torch.isfinite(means[site]).all(-1)
        if not finite.all():
            t, expert = (~finite).nonzero()[0].tolist()
            raise ValueError(f"mean {site} vector of trial {trials[t]} expert {expert} is not finite")
    return {site: means[site] for site in wanted.sites}


def _weight_grams(weights: Weights, kinds: tuple[str, ...]) -> dict[str, Tensor]:
    matrices = {"up": weights.up, "gate": weights.gate, "down": weights.down}
    if "all" not in kinds:
        matrices = {kind: matrix for kind, matrix in matrices.items() if kind in kinds}
    grams = weight_grams(matrices) if matrices else {}
    return {kind: products for kind, products in grams.items() if kind in kinds}


def _block_sums(rows: Tensor, taken: Tensor, spec: LayerSpec, tokens: int) -> Tensor:
    """Sums over the tokens of a block, (s, E, width), shared experts after the routed ones: all its tokens, but not the padding."""
    s, experts, count = taken.shape
    routed = sums_by_expert(rows[:, : experts * count].reshape(s, experts, count, -1), taken)
    if not spec.n_shared_experts:
        return routed
    shared = rows[:, experts * count :].reshape(s, spec.n_shared_experts, -1, rows.shape[-1])
    return torch.cat(
        [routed, sums_by_expert(shared, (torch.arange(shared.shape[2], device=rows.device) < tokens).expand(shared.shape[:3]))], 1
    )


def _tally_pairs(found: dict[Path, object], path: Path, cos2: Float[np.ndarray, "s E E"], spec: LayerSpec, trials: Sequence[int]) -> None:
    """Tally a table of pairs, for routed pairs and for shared-with-routed ones; NaN marks an undefined vector, named by its expert."""
    names = [ROUTED, SHARED] if spec.n_shared_experts else [ROUTED]
    at = [f"trial {trials[t]} expert {e}" for t, e in np.argwhere(np.isnan(np.diagonal(cos2, axis1=1, axis2=2))).tolist()]
    for name in names:
        values = between(cos2, spec.n_experts, shared=name == SHARED)
        defined = ~np.isnan(values)
        found[(name, *path)] = Tally(np.where(defined, values, 0.0).sum(1), defined.sum(1), np.full(len(trials), values.shape[1]), at)


def _tally_tokens(found: dict[Path, object], jobs: list[Job], trials: Sequence[int], first: int, task_map: Map) -> None:
    """Add a block of tokens to the tallies of the token and all readings, one task to a quantity."""

    def one(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        s, n, m = job.index.shape
        offset = torch.arange(s, device=job.index.device)[:, None, None] * job.rows.shape[1]
        index = torch.where(job.index < 0, -1, job.index + offset).reshape(s * n, m)
        cos2, pairs = token_cos2(job.rows.flatten(0, 1), index, job.lead)
        due = _pairs_due(job.index, job.lead)
        cos2, pairs = cos2.reshape(s, n), pairs.reshape(s, n)
        places = []
        for t in np.flatnonzero((pairs.sum(1) != due) | np.isnan(cos2).any(1)).tolist():
            where, not_finite = undefined_vectors(job.rows[t], job.index[t], first)
            places.append(f"trial {trials[t]}: {where}")
            if not_finite:
                raise ValueError(f"{' '.join(job.path[2:])} vectors that are not finite: {places[-1]}")
        return (cos2 * pairs).sum(1), pairs.sum(1), due, places

    numbers = sum(job.index.numel() * job.rows.shape[-1] for job in jobs)
    for job, (total, pairs, due, places) in zip(jobs, worth(task_map, numbers)(one, jobs), strict=True):
        tally = found.setdefault(job.path, Tally.empty(len(trials)))
        assert isinstance(tally, Tally)  # noqa: S101 - narrows a heterogeneous dict for the type checker
        tally.total += total
        tally.pairs += pairs
        tally.expected += due
        tally.at.extend(places)


def _pairs_due(index: Int[Tensor, "s n m"], lead: int | None) -> np.ndarray:
    """Pairs of existing vectors in each trial, defined or not."""
    exists = (index >= 0).sum(-1)
    if lead is None:
        return (exists * (exists - 1) // 2).sum(1).cpu().numpy()
    inside = (index[..., :lead] >= 0).sum(-1)
    return (inside * (exists - inside)).sum(1).cpu().numpy()


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

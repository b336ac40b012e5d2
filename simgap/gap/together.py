"""Measure layers of one shape by one tensor program: the trials of all of them in groups, each one's tallies, and the Gap they make."""

import functools
import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from simgap.gap.shape import READINGS, SITES, WEIGHT_KINDS, Gap, chosen_names
from simgap.gap.tallies import ROUTED, SHARED, GroupTallies, Path, Tallies, cut
from simgap.gap.tallying import Wanted, tally_layer
from simgap.machine import freed_at_once
from simgap.moe import (
    Draw,
    Weights,
    budget_bytes,
    group_bytes,
    group_numbers,
    group_size,
    group_trials,
    kept_bytes,
    open_inputs,
    plan_block,
    plan_stream,
    shape,
    simulate,
    stream_bytes,
    task_bytes,
)
from simgap.moe.budget import cuts
from simgap.moe.inputs import TOKEN_BLOCK
from simgap.settings import own_settings
from simgap.specs import LayerSpec, RunSpec, format_bytes
from simgap.stats import Estimate, difference, ratio_of_means
from simgap.threads import Map, in_order, pool, worth


@dataclass(frozen=True)
class Request:
    """Trials first, ..., run.trials - 1 of one layer: all of them, or those that come after `first` measured ones.

    Raises ValueError for what is no LayerSpec or RunSpec, and for a first trial beyond the last.
    """

    spec: LayerSpec
    run: RunSpec
    first: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("spec", LayerSpec), ("run", RunSpec)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name}: expected a {kind.__name__}, got {type(getattr(self, name)).__name__}")
        if type(self.first) is not int or not 0 <= self.first < self.run.trials:
            raise ValueError(f"first: expected a trial from 0 to {self.run.trials - 1}, got {self.first!r}")

    @property
    def trials(self) -> int:
        return self.run.trials - self.first


def program(spec: LayerSpec, run: RunSpec) -> tuple[Hashable, ...]:
    """What requests must share to be measured in one call: the shape of the layer and its norm, tokens, dtype and device.

    They may differ in everything else: seed, trials, activation, init, router, inputs, the spread of a norm's gain and bias.
    """
    return *shape(spec), run.tokens, run.dtype, run.device


def extent(spec: LayerSpec, run: RunSpec) -> tuple[Hashable, ...]:
    """What memory and time are estimated from: layers that are equal in it need the same."""
    inputs = spec.inputs.kind == "file" or (spec.inputs.kind == "clusters" and spec.inputs.n_clusters)
    return *program(spec, run), spec.init == "orthogonal", inputs


@own_settings
def measure_together(
    requests: Sequence[Request],
    *,
    sites: Sequence[str] = SITES,
    readings: Sequence[str] = READINGS,
    weights: Sequence[str] = WEIGHT_KINDS,
) -> list[Tallies]:
    """The tallies of each request, in their order: the bits that it would have alone, at a fraction of the cost for small layers.

    All requests have one `program`, and the memory budget is the first one's. Raises ValueError as `measure` does where one of them cannot
    be met, or has vectors that are not finite; none of them then has a result.
    """
    return tallied(requests, chosen(sites, readings, weights))


def chosen(sites: Sequence[str], readings: Sequence[str], weights: Sequence[str]) -> Wanted:
    """What is wanted, in the known order. Raises ValueError for a name that does not exist."""
    return Wanted(
        chosen_names("sites", sites, SITES), chosen_names("readings", readings, READINGS), chosen_names("weights", weights, WEIGHT_KINDS)
    )


def memory_needed(
    spec: LayerSpec,
    run: RunSpec,
    *,
    sites: Sequence[str] = SITES,
    readings: Sequence[str] = READINGS,
    weights: Sequence[str] = WEIGHT_KINDS,
) -> tuple[int, int]:
    """Bytes of one trial held whole, and the least that will do where its weights can be streamed. Raises ValueError where the budget or
    the machine has less than that."""
    wanted = chosen(sites, readings, weights).of(spec)
    computed, kept, whole = wanted.computed(spec), kept_of(spec, run, wanted), why_whole(spec, None)
    held = group_bytes(spec, run, 1, computed, wanted.all_pairs)
    if not whole:
        least, beside = least_streamed(spec, run, computed, wanted.all_pairs), kept_of(spec, run, wanted, streamed=True)
    if whole or held + kept <= least + beside:
        least, beside = held, kept
    check_memory(spec, run, least, beside, whole)
    return held + kept, least + beside


def tallied(
    requests: Sequence[Request],
    wanted: Wanted,
    prepare: Callable[[Weights], Weights] | None = None,
    progress: Callable[[float], object] | None = None,
) -> list[Tallies]:
    """`measure_together`, with the prepare and progress of `measure`: prepare for a lone request, as weights do not say whose they are."""
    if not requests:
        return []
    if len({program(request.spec, request.run) for request in requests}) > 1:
        raise ValueError("requests: expected one program, got several")
    check_device(requests[0].run.device)
    # Like beside like, because neighbours of one init and of one activation are done by one call.
    specs = [request.spec for request in requests]
    order = sorted(range(len(specs)), key=lambda at: (specs[at].init, specs[at].init_correlation, specs[at].activation))
    asked = [requests[at] for at in order]
    groups = _measured(asked, wanted.of(asked[0].spec), prepare, progress or (lambda _: None))
    found = cut(groups, [request.first for request in asked], [request.trials for request in asked])
    return [tallies for _, tallies in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def _measured(
    requests: list[Request], wanted: Wanted, prepare: Callable[[Weights], Weights] | None, progress: Callable[[float], object]
) -> list[GroupTallies]:
    """The tallies of all trials of the requests, one after the other, in groups that fit the budget and share the threads."""
    count = sum(request.trials for request in requests)
    run = replace(requests[0].run, trials=count)
    spec, computed = requests[0].spec, wanted.computed(requests[0].spec)
    one_trial = max(
        group_bytes(inputs_of, run, 1, computed, wanted.all_pairs) for inputs_of in {r.spec.inputs: r.spec for r in requests}.values()
    )
    whole = next(filter(None, (why_whole(request.spec, prepare) for request in requests)), "")
    kept = kept_of(spec, run, wanted)
    streamed = False
    if one_trial + kept > budget_bytes(run) and not whole:
        # Refused before anything is drawn.
        least, beside = least_streamed(spec, run, computed, wanted.all_pairs), kept_of(spec, run, wanted, streamed=True)
        streamed = least + beside < one_trial + kept
        one_trial, kept = (least, beside) if streamed else (one_trial, kept)
    budget = budget_bytes(run) - kept
    most = check_memory(spec, run, one_trial, kept, whole)
    draws = [Draw(request.spec, request.run.seed, trial) for request in requests for trial in range(request.first, request.run.trials)]
    groups = [range(t, t + 1) for t in range(count)] if streamed else group_trials(spec, run, wanted.all_pairs, most)
    largest = max(map(len, groups))
    at_once = 1 if streamed else budget // (one_trial * largest)
    source = open_inputs(draws)

    # What is freed must be there for what comes next where the budget has room for little else.
    tight = streamed or 2 * one_trial * largest > budget
    with pool() as (task_map, workers), freed_at_once() if tight else nullcontext():
        side_by_side = max(1, min(workers, at_once, len(groups))) if run.device == "cpu" else 1
        if len(groups) < workers:
            side_by_side = 1
        # Threads that work on one group together: as many as there is memory for.
        able = 1 + (budget - one_trial * largest) // task_bytes(spec, run, largest, wanted.all_pairs)

        def measured(group: range, threads: int = 1) -> GroupTallies:
            with _share(task_map, workers, threads) as shared:
                layer = simulate(draws[group.start : group.stop], run, source, prepare, shared, streamed)
            tokens = TOKEN_BLOCK
            if streamed:
                plan = plan_stream(spec, run, computed, wanted.all_pairs, workers, layer.longest_list, budget)
                check_memory(spec, run, plan.bytes, kept)
                tokens, threads = plan.tokens, plan.workers
            elif not wanted.all_pairs:
                # Only now is it known how unevenly the router loads the experts: smaller blocks where the usual ones would not fit.
                plan = plan_block(spec, run, len(group), computed, budget // side_by_side, layer.longest_list)
                check_memory(spec, run, plan.bytes, kept)
                tokens = plan.tokens
            with _share(task_map, workers, threads) as shared:
                found = tally_layer(layer, wanted, shared, tokens, progress if streamed else lambda _: None, threads)
            if not streamed:
                progress(len(group))
            return found

        if side_by_side > 1:
            return list(worth(task_map, group_numbers(spec, run, wanted.all_pairs) * run.trials)(measured, groups))
        return [measured(group, 1 if streamed else min(workers, able)) for group in groups]


@contextmanager
def _share(task_map: Map, workers: int, threads: int) -> Iterator[Map]:
    """A map over so many threads: that of a pool of `workers`, or where these are more, one of a pool of its own."""
    if threads >= workers:
        yield task_map
    elif threads == 1:
        yield in_order
    else:
        with pool(threads) as (fewer, _):
            yield fewer


def kept_of(spec: LayerSpec, run: RunSpec, wanted: Wanted, streamed: bool = False) -> int:
    """Bytes that are kept of all trials of a run."""
    group = 1 if streamed else group_size(spec, run, wanted.all_pairs)
    return kept_bytes(spec, run.trials, wanted.quantities * (2 if spec.n_shared_experts else 1), group)


def why_whole(spec: LayerSpec, prepare: object) -> str:
    """Why a layer's weights must all be held at once; nothing where they can be streamed."""
    if spec.init == "orthogonal":
        return "orthogonal weights are drawn whole and not streamed"
    return "" if prepare is None else "prepared weights are held and not streamed"


def least_streamed(spec: LayerSpec, run: RunSpec, computed: Collection[str], all_pairs: bool) -> int:
    """The least bytes that a streamed trial could do with, were its router to load all experts alike."""
    *_, tokens = cuts(run.tokens)
    return stream_bytes(spec, run, computed, all_pairs, tokens, -(-tokens * spec.top_k // spec.n_experts), 1)


def check_device(device: str) -> None:
    """ValueError where torch has no such device."""
    kind, _, number = device.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r} asked for, but torch {torch.__version__} sees no CUDA device here; use device = 'cpu'")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device: {device!r} asked for, but there are {torch.cuda.device_count()} CUDA devices")


def check_memory(spec: LayerSpec, run: RunSpec, needed: int, kept: int = 0, why: str = "") -> int:
    """How many times so many bytes fit the budget, or the machine, beside what is `kept` of all trials; ValueError where they do not, and
    why less would not do."""
    budget = budget_bytes(run)
    if needed + kept <= budget:
        return int((budget - kept) // needed)
    limit = f"the {'machine has' if budget < run.memory_bytes else 'budget is'} {format_bytes(budget)}"
    if needed <= budget < 2 * kept:
        raise ValueError(f"trials: what is kept of {run.trials} trials needs {format_bytes(kept)}, {limit}")
    size = f"{spec.parameters:.3g} parameters, {run.tokens} tokens, {run.dtype}"
    needs = f"memory: one trial of this layer ({size}) needs {'' if why else 'at least '}{format_bytes(needed + kept)}"
    raise ValueError(f"{needs}, {limit}{f'; {why}' if why else ''}")


def gathered(
    spec: LayerSpec,
    run: RunSpec,
    tallies: Tallies,
    *,
    sites: Sequence[str] = SITES,
    readings: Sequence[str] = READINGS,
    weights: Sequence[str] = WEIGHT_KINDS,
) -> Gap[Estimate]:
    """What `measure` returns, from the tallies of all trials of a run. Raises ValueError as `check_tallies`."""
    check_tallies(spec, run, tallies)
    return estimated(spec, run, chosen(sites, readings, weights), tallies)


def check_tallies(spec: LayerSpec, run: RunSpec, tallies: Tallies) -> None:
    """ValueError for tallies of other trials than a run's, or of another layer."""
    if tallies.first or tallies.trials != run.trials or tallies.taken.shape[1] != spec.n_experts:
        got = f"trials {tallies.first} to {tallies.first + tallies.trials - 1} of {tallies.taken.shape[1]} experts"
        raise ValueError(f"tallies: expected trials 0 to {run.trials - 1} of {spec.n_experts} experts, got {got}")


def estimated(spec: LayerSpec, run: RunSpec, wanted: Wanted, tallies: Tallies) -> Gap[Estimate]:
    """The Estimates of what is wanted, in the shape of a Gap."""
    (found,) = estimates([tallies])

    def side(name: str, shared: Gap[Estimate] | None, routing: dict) -> Gap[Estimate]:
        def estimate(*path: str) -> Estimate:
            return estimate_at(spec, found, name, path)

        weight = {kind: estimate("weight_mso", kind) for kind in wanted.weights}
        activation = {r: {site: estimate("activation_mso", r, site) for site in wanted.sites} for r in wanted.readings}
        return Gap(spec, run, weight, activation, estimate("gap"), estimate("ratio"), shared, routing)

    return side(ROUTED, side(SHARED, None, {}) if spec.n_shared_experts else None, _routing(run, tallies))


def estimate_at(spec: LayerSpec, found: Mapping[Path, Estimate], side: str, path: Path) -> Estimate:
    """One quantity of a Gap by its place there, in the pairs of that side, from the `estimates` of what was tallied."""
    if path in (("gap",), ("ratio",)):
        output = found.get((side, "activation_mso", "mean", "output")) or _missing("mean output not measured")
        up = found.get((side, "weight_mso", "up")) or _missing("W_up not measured")
        return difference(output, up) if path == ("gap",) else ratio_of_means(output, up)
    whole = (side, *path)
    return found[whole] if whole in found else _missing(_why_missing(spec, path))


def _routing(run: RunSpec, tallies: Tallies) -> dict[str, Any]:
    """What the router did: each expert's share of the assignments, averaged over trials, and the experts and tokens that went without."""
    shares = tallies.taken / np.maximum(tallies.taken.sum(1, keepdims=True), 1)
    idle = np.flatnonzero(tallies.taken == 0)
    return {
        "load": shares.mean(0).tolist(),
        "idle_experts": len(idle),
        "idle_at": [f"trial {at // tallies.taken.shape[1]} expert {at % tallies.taken.shape[1]}" for at in idle[:3].tolist()],
        "dropped_tokens": int(tallies.dropped.sum()),
        "tokens": run.tokens * run.trials,
    }


def estimates(tallies: Sequence[Tallies]) -> list[dict[Path, Estimate]]:
    """Each quantity's Estimate over all trials: what Estimate.of makes of one row, for all rows of many layers in one pass.

    Raises ValueError for layers that differ in their quantities or trials, and for none.
    """
    if len({(one.paths, one.trials) for one in tallies}) != 1:
        raise ValueError("tallies: expected some, all of the same quantities over as many trials")
    total, pairs, expected = (np.array([getattr(one, name) for one in tallies]) for name in ("total", "pairs", "expected"))
    n = pairs.shape[-1]
    values = np.divide(total, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    means = (np.add.reduce(values, -1) / n).tolist()
    sems = (values.std(-1, ddof=1) / math.sqrt(n)).tolist() if n > 1 else np.full(pairs.shape[:-1], None).tolist()
    fewest, counted, existing = pairs.min(-1).tolist(), pairs.sum(-1).tolist(), expected.sum(-1).tolist()

    def estimate(layer: int, row: int, path: Path) -> Estimate:
        if not existing[layer][row]:
            return _missing("no token meets two experts")
        places = tallies[layer].left_out.get(path, "")
        dropped, kept, of_each = existing[layer][row] - counted[layer][row], values[layer, row], pairs[layer, row]
        if not fewest[layer][row]:
            return Estimate.of(kept, of_each, dropped, str(places))
        return Estimate(means[layer][row], sems[layer][row], n, counted[layer][row], dropped, str(places), "", kept, of_each)

    return [{path: estimate(layer, row, path) for row, path in enumerate(one.paths)} for layer, one in enumerate(tallies)]


@functools.cache
def _missing(why: str) -> Estimate:
    return Estimate.missing(why)


def _why_missing(spec: LayerSpec, path: Path) -> str:
    if path[-1] == "gate":
        return "gated = false: there is no W_gate"
    if path[-1] == "normed":
        return "norm = none: there is no normed site"
    return "not measured"

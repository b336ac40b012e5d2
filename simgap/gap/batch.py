"""Measure layers of one shape by one tensor program: the trials of all of them in groups, each one's sums, and the Gap they make."""

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from simgap.checks import format_bytes
from simgap.machine import freed_at_once, kept_for_reuse
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
from simgap.observe import observe
from simgap.quantities import ROUTED, Quantity
from simgap.results import Gap
from simgap.selection import Selection, metric_of, metrics, select
from simgap.settings import own_settings
from simgap.sources import TOKEN_BLOCK, Needs, Work
from simgap.specs import LayerSpec, RunSpec
from simgap.stats import Estimate
from simgap.sums import GroupSums, Sums, cut
from simgap.threads import Map, if_large, in_order, pool

DEFAULT = select()


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


def batch_key(spec: LayerSpec, run: RunSpec) -> tuple[Hashable, ...]:
    """What requests must share to be measured in one call: the shape of the layer and its norm, tokens, dtype and device.

    They may differ in everything else: seed, trials, activation, init, router, inputs, the spread of a norm's gain and bias.
    """
    return *shape(spec), run.tokens, run.dtype, run.device


def cost_key(spec: LayerSpec, run: RunSpec) -> tuple[Hashable, ...]:
    """What memory and time are estimated from: layers that are equal in it need the same."""
    inputs = spec.inputs.kind == "file" or (spec.inputs.kind == "clusters" and spec.inputs.n_clusters)
    return *batch_key(spec, run), spec.init == "orthogonal", inputs


@own_settings
def measure_batch(requests: Sequence[Request], selection: Selection = DEFAULT) -> list[Sums]:
    """The sums of each request, in their order: the bits that it would have alone, at a fraction of the cost for small layers.

    All requests have one `batch_key`, and the memory budget is the first one's. Raises ValueError as `measure` does where one of them
    cannot be met, or has vectors that are not finite; none of them then has a result.
    """
    return sums_of(requests, selection)


def memory_needed(spec: LayerSpec, run: RunSpec, selection: Selection = DEFAULT) -> tuple[int, int]:
    """Bytes of one trial held whole, and the least that will do where its weights can be streamed. Raises ValueError where the budget or
    the machine has less than that."""
    needs, kept, whole = selection.needs(spec), kept_of(spec, run, selection), why_whole(spec, None)
    held = group_bytes(spec, run, 1, needs.sites, needs.every) + needs.bytes
    if not whole:
        least, beside = least_streamed(spec, run, needs), kept_of(spec, run, selection, streamed=True)
    if whole or held + kept <= least + beside:
        least, beside = held, kept
    check_memory(spec, run, least, beside, whole)
    return held + kept, least + beside


def sums_of(
    requests: Sequence[Request],
    selection: Selection,
    prepare: Callable[[Weights], Weights] | None = None,
    progress: Callable[[float], object] | None = None,
) -> list[Sums]:
    """`measure_batch`, with the prepare and progress of `measure`: prepare for a lone request, as weights do not say whose they are."""
    if not requests:
        return []
    if len({batch_key(request.spec, request.run) for request in requests}) > 1:
        raise ValueError("requests: expected one batch key, got several")
    check_device(requests[0].run.device)
    # Like beside like, because neighbours of one init and of one activation are done by one call.
    specs = [request.spec for request in requests]
    order = sorted(range(len(specs)), key=lambda at: (specs[at].init, specs[at].init_correlation, specs[at].activation))
    asked = [requests[at] for at in order]
    groups = _measured(asked, selection, prepare, progress or (lambda _: None))
    layers = cut(groups, [request.first for request in asked], [request.trials for request in asked])
    return [sums for _, sums in sorted(zip(order, layers, strict=True), key=lambda pair: pair[0])]


def _measured(
    requests: list[Request], selection: Selection, prepare: Callable[[Weights], Weights] | None, progress: Callable[[float], object]
) -> list[GroupSums]:
    """The sums of all trials of the requests, one after the other, in groups that fit the budget and share the threads."""
    count = sum(request.trials for request in requests)
    run = replace(requests[0].run, trials=count)
    spec = requests[0].spec
    needs = selection.needs(spec)
    one_trial = needs.bytes + max(
        group_bytes(inputs_of, run, 1, needs.sites, needs.every) for inputs_of in {r.spec.inputs: r.spec for r in requests}.values()
    )
    whole = next(filter(None, (why_whole(request.spec, prepare) for request in requests)), "")
    kept = kept_of(spec, run, selection)
    streamed = False
    if one_trial + kept > budget_bytes(run) and not whole:
        # Refused before anything is drawn.
        least, beside = least_streamed(spec, run, needs), kept_of(spec, run, selection, streamed=True)
        streamed = least + beside < one_trial + kept
        one_trial, kept = (least, beside) if streamed else (one_trial, kept)
    budget = budget_bytes(run) - kept
    most = check_memory(spec, run, one_trial, kept, whole)
    draws = [Draw(request.spec, request.run.seed, trial) for request in requests for trial in range(request.first, request.run.trials)]
    groups = [range(t, t + 1) for t in range(count)] if streamed else group_trials(spec, run, needs.every, most)
    largest = max(map(len, groups))
    at_once = 1 if streamed else budget // (one_trial * largest)
    tokens_of = open_inputs(draws)
    quantities = selection.of(spec)

    # What is freed must be there for what comes next where the budget has room for little else.
    tight = streamed or 2 * one_trial * largest > budget
    if not tight:
        kept_for_reuse()
    with pool() as (task_map, workers), freed_at_once() if tight else nullcontext():
        side_by_side = max(1, min(workers, at_once, len(groups))) if run.device == "cpu" else 1
        if len(groups) < workers:
            side_by_side = 1
        # Threads that work on one group together: as many as there is memory for.
        able = 1 + (budget - one_trial * largest) // task_bytes(spec, run, largest, needs.every)

        def measured(group: range, threads: int = 1) -> GroupSums:
            with _share(task_map, workers, threads) as shared:
                layer = simulate(draws[group.start : group.stop], run, tokens_of, prepare, shared, streamed)
            tokens = TOKEN_BLOCK
            if streamed:
                plan = plan_stream(spec, run, needs.sites, needs.every, workers, layer.longest_list, budget - needs.bytes)
                check_memory(spec, run, plan.bytes + needs.bytes, kept)
                tokens, threads = plan.tokens, plan.workers
            elif not needs.every:
                # Only now is it known how unevenly the router loads the experts: smaller blocks where the usual ones would not fit.
                keeps = needs.bytes * len(group)
                plan = plan_block(spec, run, len(group), needs.sites, budget // side_by_side - keeps, layer.longest_list)
                check_memory(spec, run, plan.bytes + keeps, kept)
                tokens = plan.tokens
            with _share(task_map, workers, threads) as shared:
                sums = observe(layer, quantities, Work(shared, threads), tokens, progress if streamed else lambda _: None)
            if not streamed:
                progress(len(group))
            return sums

        if side_by_side > 1:
            return list(if_large(task_map, group_numbers(spec, run, needs.every) * run.trials)(measured, groups))
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


def kept_of(spec: LayerSpec, run: RunSpec, selection: Selection, streamed: bool = False) -> int:
    """Bytes that are kept of all trials of a run."""
    group = 1 if streamed else group_size(spec, run, selection.needs(spec).every)
    return kept_bytes(spec, run.trials, len(selection.of(spec)) * (2 if spec.n_shared_experts else 1), group)


def why_whole(spec: LayerSpec, prepare: object) -> str:
    """Why a layer's weights must all be held at once; nothing where they can be streamed."""
    if spec.init == "orthogonal":
        return "orthogonal weights are drawn whole and not streamed"
    return "" if prepare is None else "prepared weights are held and not streamed"


def least_streamed(spec: LayerSpec, run: RunSpec, needs: Needs) -> int:
    """The least bytes that a streamed trial could do with, were its router to load all experts alike."""
    *_, tokens = cuts(run.tokens)
    longest = -(-tokens * spec.top_k // spec.n_experts)
    return needs.bytes + stream_bytes(spec, run, needs.sites, needs.every, tokens, longest, 1)


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


def gathered(spec: LayerSpec, run: RunSpec, sums: Sums, selection: Selection = DEFAULT) -> Gap[Estimate]:
    """What `measure` returns, from the sums of all trials of a run. Raises ValueError as `check_sums`."""
    check_sums(spec, run, sums)
    (known,) = estimates([sums])
    values = {quantity: estimate_of(spec, known, quantity) for quantity in selection.sides(spec)}
    return Gap(spec, run, values, _routing(run, sums))


def check_sums(spec: LayerSpec, run: RunSpec, sums: Sums) -> None:
    """ValueError for sums of other trials than a run's, or of another layer."""
    if sums.first or sums.trials != run.trials or sums.taken.shape[1] != spec.n_experts:
        got = f"trials {sums.first} to {sums.first + sums.trials - 1} of {sums.taken.shape[1]} experts"
        raise ValueError(f"sums: expected trials 0 to {run.trials - 1} of {spec.n_experts} experts, got {got}")


def estimate_of(spec: LayerSpec, known: Mapping[Quantity, Estimate], quantity: Quantity) -> Estimate:
    """One quantity, from the `estimates` of what was observed, or from those that it is derived from."""
    if quantity in known:
        return known[quantity]
    metric = metrics()[metric_of()[quantity.on(ROUTED)]]
    if hasattr(metric, "derive"):
        return metric.derive(quantity, known.get)
    return missing_estimate(metric.missing(spec, quantity) or "not measured")


def _routing(run: RunSpec, sums: Sums) -> dict[str, Any]:
    """What the router did: each expert's share of the assignments, averaged over trials, and the experts and tokens that went without."""
    shares = sums.taken / np.maximum(sums.taken.sum(1, keepdims=True), 1)
    idle = np.flatnonzero(sums.taken == 0)
    return {
        "load": shares.mean(0).tolist(),
        "idle_experts": len(idle),
        "idle_at": [f"trial {at // sums.taken.shape[1]} expert {at % sums.taken.shape[1]}" for at in idle[:3].tolist()],
        "dropped_tokens": int(sums.dropped.sum()),
        "tokens": run.tokens * run.trials,
    }


def estimates(layers: Sequence[Sums]) -> list[dict[Quantity, Estimate]]:
    """Each quantity's Estimate over all trials: what Estimate.of makes of one row, for all rows of many layers in one pass.

    Raises ValueError for layers that differ in their quantities or trials, and for none.
    """
    if len({(sums.quantities, sums.trials) for sums in layers}) != 1:
        raise ValueError("sums: expected some, all of the same quantities over as many trials")
    total, pairs, expected = (np.array([getattr(sums, name) for sums in layers]) for name in ("total", "pairs", "expected"))
    n = pairs.shape[-1]
    values = np.divide(total, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    means = (np.add.reduce(values, -1) / n).tolist()
    sems = (values.std(-1, ddof=1) / math.sqrt(n)).tolist() if n > 1 else np.full(pairs.shape[:-1], None).tolist()
    fewest, counted, existing = pairs.min(-1).tolist(), pairs.sum(-1).tolist(), expected.sum(-1).tolist()

    def estimate(layer: int, row: int, quantity: Quantity) -> Estimate:
        if not existing[layer][row]:
            return missing_estimate("no token meets two experts")
        skipped = layers[layer].skipped.get(quantity, "")
        dropped, kept, of_each = existing[layer][row] - counted[layer][row], values[layer, row], pairs[layer, row]
        if not fewest[layer][row]:
            return Estimate.of(kept, of_each, dropped, str(skipped))
        return Estimate(means[layer][row], sems[layer][row], n, counted[layer][row], dropped, str(skipped), "", kept, of_each)

    return [{quantity: estimate(layer, row, quantity) for row, quantity in enumerate(sums.quantities)} for layer, sums in enumerate(layers)]


@functools.cache
def missing_estimate(why: str) -> Estimate:
    return Estimate.missing(why)

"""Measure layers of one shape by the same tensor operations: the trials of all of them in groups, each one's sums, and the Gap they
make."""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from simgap import machine
from simgap.api.plan import DEFAULT, Plan, check_memory, plan_of
from simgap.moe import Draw, Layer, Streaming, Weights, even_groups, open_inputs, plan_block, plan_stream, shape, simulate
from simgap.observe import Keeper, observe
from simgap.quantities import ROUTED, Quantity
from simgap.results import Gap
from simgap.selection import Selection, metric_of, metrics
from simgap.settings import own_settings
from simgap.sources import Work
from simgap.specs import LayerSpec, RunSpec
from simgap.stats import Estimate
from simgap.sums import GroupSums, Sums, cut
from simgap.threads import if_large, in_order, pool, shared_by


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
    return *batch_key(spec, run), *own_cost(spec)


def own_cost(spec: LayerSpec) -> tuple[Hashable, ...]:
    """The part of the `cost_key` in which layers of one batch key may differ."""
    inputs = spec.inputs.kind == "file" or (spec.inputs.kind == "clusters" and spec.inputs.n_clusters)
    return spec.init == "orthogonal", spec.space.rotated, inputs


@own_settings
def measure_batch(
    requests: Sequence[Request], selection: Selection = DEFAULT, prepare: Callable[[Weights], Weights] | None = None
) -> list[Sums]:
    """The sums of each request, in their order: the bits that it would have alone, at a fraction of the cost for small layers.

    All requests have one `batch_key`, and the memory budget is the first one's. Raises ValueError as `measure` does where one of them
    cannot be met, or has vectors that are not finite; none of them then has a result.
    """
    return sums_of(requests, selection, prepare)


def sums_of(
    requests: Sequence[Request],
    selection: Selection,
    prepare: Callable[[Weights], Weights] | None = None,
    progress: Callable[[float], object] | None = None,
    keeper: Keeper | None = None,
) -> list[Sums]:
    """`measure_batch`, with the prepare and progress of `measure`: prepare for a lone request, as weights do not say whose they are.
    keeper: is shown the blocks of the first group of trials."""
    if not requests:
        return []
    if len(requests) > 1 and len({batch_key(request.spec, request.run) for request in requests}) > 1:
        raise ValueError("requests: expected one batch key, got several")
    if len(requests) > 1 and prepare is not None:
        raise ValueError(f"prepare: expected one request, got {len(requests)}")
    # Like beside like, because neighbours of one init and of one activation are done by one call.
    specs = [request.spec for request in requests]
    order = sorted(range(len(specs)), key=lambda at: (specs[at].init, specs[at].init_correlation, specs[at].activation))
    # Together those that have the same quantities, which may hang on the router; one alone has its own.
    parts: dict[tuple[Quantity, ...], list[int]] = {}
    for at in order:
        parts.setdefault(selection.of(specs[at]) if len(specs) > 1 else (), []).append(at)
    layers: dict[int, Sums] = {}
    for part in parts.values():
        asked = [requests[at] for at in part]
        groups = _measured(asked, selection, prepare, progress, keeper)
        layers |= zip(part, cut(groups, [request.first for request in asked], [request.trials for request in asked]), strict=True)
    return [layers[at] for at in range(len(requests))]


def _measured(
    requests: list[Request],
    selection: Selection,
    prepare: Callable[[Weights], Weights] | None = None,
    progress: Callable[[float], object] | None = None,
    keeper: Keeper | None = None,
) -> list[GroupSums]:
    """The sums of all trials of the requests, one after the other, in groups that fit the budget and share the threads."""
    first = requests[0].run
    # Without its seed, which no plan depends on.
    run = RunSpec(first.tokens, sum(request.trials for request in requests), 0, first.device, first.dtype, first.memory)
    specs = tuple({own_cost(request.spec): request.spec for request in requests}.values())
    plan = plan_of(specs, run, selection, prepare is not None, machine.memory())
    draws = [Draw(request.spec, request.run.seed, trial) for request in requests for trial in range(request.first, request.run.trials)]
    tokens_of = open_inputs(draws)
    if not plan.tight:
        machine.kept_for_reuse()
    with pool() as (task_map, workers), machine.freed_at_once() if plan.tight else nullcontext():
        # Groups side by side, where there are enough of them and memory for it; else the threads share one group after the other.
        beside = min(workers, plan.at_once) if plan.groups >= workers and run.device == "cpu" else 1
        threads = 1 if beside > 1 else min(workers, plan.threads)

        def measured(group: range) -> GroupSums:
            layer = simulate(draws[group.start : group.stop], run, tokens_of, prepare, shared_by(threads), plan.streamed)
            tokens, at_once = plan.tokens, threads
            if tokens is None:
                cuts = _cut(specs[0], run, plan, layer, workers, beside)
                tokens, at_once = cuts.tokens, cuts.workers if plan.streamed else threads
            work, tell = Work(shared_by(at_once), at_once), progress if plan.streamed else None
            sums = observe(layer, plan.quantities, work, tokens, tell, keeper if group.start == 0 else None)
            if progress is not None and not plan.streamed:
                progress(len(group))
            return sums

        return list((if_large(task_map, plan.numbers) if beside > 1 else in_order)(measured, even_groups(run.trials, plan.groups)))


def _cut(spec: LayerSpec, run: RunSpec, plan: Plan, layer: Layer, workers: int, beside: int) -> Streaming:
    """The blocks of tokens of a group, now that it is known how unevenly the router loads the experts: smaller ones where the usual ones
    would not fit."""
    trials, sites = len(layer.trials), plan.needs.sites
    if plan.streamed:
        cuts = plan_stream(spec, run, sites, plan.needs.every, workers, layer.longest_list, plan.budget - plan.needs.bytes)
    else:
        cuts = plan_block(spec, run, trials, sites, plan.budget // beside - plan.needs.bytes * trials, layer.longest_list)
    check_memory(spec, run, plan.budget + plan.kept, cuts.bytes + plan.needs.bytes * trials, plan.kept)
    return cuts


def gathered(spec: LayerSpec, run: RunSpec, sums: Sums, selection: Selection = DEFAULT) -> Gap[Estimate]:
    """What `measure` returns, from the sums of all trials of a run, such as `check_sums` lets through."""
    (known,) = estimates([sums])
    values = {quantity: estimate_of(spec, known, quantity) for quantity in selection.sides(spec)}
    return Gap(spec, run, values, _routing(run, sums), null=selection.null)


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

    by_layer: list[dict[Quantity, Estimate]] = [{} for _ in layers]
    for (layer, own), (row, quantity) in itertools.product(enumerate(layers), enumerate(layers[0].quantities)):
        if not existing[layer][row]:
            by_layer[layer][quantity] = missing_estimate("no token meets two experts")
            continue
        skipped = str(own.skipped.get(quantity, ""))
        dropped, kept, of_each = existing[layer][row] - counted[layer][row], values[layer, row], pairs[layer, row]
        if not fewest[layer][row]:
            by_layer[layer][quantity] = Estimate.of(kept, of_each, dropped, skipped)
            continue
        mean, sem, pairs_in_all = means[layer][row], sems[layer][row], counted[layer][row]
        by_layer[layer][quantity] = Estimate(mean, sem, n, pairs_in_all, dropped, skipped, "", kept, of_each)
    return by_layer


@functools.cache
def missing_estimate(why: str) -> Estimate:
    return Estimate.missing(why)

"""What a router's choice says of a token, how clear it is, and how far two routings agree.

mutual_information, in nats, of a token's expert with its label: "domain", "token_type", or "previous", an expert of the layer before. A
token counts once for each of its experts with each of its labels. The plug-in value less its bias for independent tokens (law I1), so that
it is 0 on average where labels say nothing, and below 0 now and then. normalised_mutual_information: that over the smaller of the two
entropies; 1 is out of reach where a token has several experts. gate_margin: the least score among a token's experts less the largest among
the others, its k-th less its next; below 0 on a token that has not the experts of its highest scores. router_saturation: the share of a
token's experts that another routing of the same tokens gives it too, one of another checkpoint, say.

Names under which public tools measure different things, and what they are here:
co-activation: of the two highest-ranked experts alone, or of neighbours in rank, elsewhere; of all pairs of a token's experts in
`routing max_coactivation`. CKA: a Pearson correlation of flattened features, entry by entry, elsewhere, which knows one basis; here a
kernel alignment, which no rotation changes. MaxVio: of |load - mean| or of load - mean, of each micro-batch and then averaged or of all
tokens at once; here the signed one of all tokens that are given. An average over micro-batches is larger by chance alone.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from simgap.quantities import ROUTED, Quantity
from simgap.sources import Block, Needs, Source, Work
from simgap.specs import LayerSpec
from simgap.sums import Values
from simgap.theory.routing_chance import information_bias

# Scores have no largest value, and an information less its bias no least one.
ORDER, DEFAULT, SIDES, RANGE = 9, False, (ROUTED,), (-float(1 << 32), float(1 << 32))
INFORMATION, NORMALISED = "mutual_information", "normalised_mutual_information"
OF_LABELS, TRACE = ("domain", "token_type", "previous"), "trace"
GATE_MARGIN, SATURATION = Quantity("gate_margin"), Quantity("router_saturation")
QUANTITIES = (*(Quantity(metric, name) for metric in (INFORMATION, NORMALISED) for name in OF_LABELS), GATE_MARGIN, SATURATION)
# Routers that rank the experts of a token by its scores.
RANKING = ("linear", "noisy", "sigmoid")
# Cells of a table that are counted one by one, however few are filled; tokens that are counted at once.
FEW_CELLS, AT_ONCE = 1 << 16, 1 << 16


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    if quantity == GATE_MARGIN:
        if spec.router.kind not in RANKING:
            return f"router = {spec.router.kind}: it does not rank the experts of a token"
        return "top_k = n_experts: there is no next expert" if spec.top_k == spec.n_experts else ""
    if quantity == SATURATION:
        return "a simulated layer has one routing"
    if spec.router.kind == "soft" or (spec.top_k == spec.n_experts and spec.router.kind != "expert_choice"):
        return "every token has every expert, which says nothing of it"
    if quantity.reading == "domain":
        clusters = spec.inputs.kind == "clusters" and spec.inputs.n_clusters > 1
        return "" if clusters else "simulated tokens have domains where inputs = clusters, which are at least 2"
    return f"simulated tokens have no {'types' if quantity.reading == 'token_type' else 'layer before'}"


def label_of(quantity: Quantity) -> str:
    """The name of the labels that a quantity reads, or nothing."""
    return TRACE if quantity == SATURATION else quantity.reading


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    labels = tuple(name for name in (*OF_LABELS, TRACE) if name in map(label_of, asked))
    table = spec.inputs.n_clusters if spec.inputs.kind == "clusters" else 0
    return Needs(
        routing=GATE_MARGIN in asked, labels=labels, scores=GATE_MARGIN in asked, bytes=4 * 8 * spec.n_experts * table if labels else 0
    )


@dataclass(frozen=True)
class State:
    """margins: of the tokens of each block; routing and labels are known without a look at the blocks."""

    source: Source
    asked: tuple[Quantity, ...]
    margins: list[Float[np.ndarray, "s _"]] = field(default_factory=list)

    def add(self, block: Block) -> None:
        if GATE_MARGIN in self.asked and block.scores is not None:
            tables = zip(block.indices.cpu().numpy(), block.scores.double().cpu().numpy(), strict=True)
            self.margins.append(np.stack([gate_margins(*table) for table in tables]))

    def finish(self) -> dict[Quantity, Values]:
        indices, labels = self.source.indices.cpu().numpy(), self.source.token_labels
        trials = range(len(self.source.trials))
        values = {q: [of_routing(q, indices[t], labels[label_of(q)][t]) for t in trials] for q in self.asked if q != GATE_MARGIN}
        if GATE_MARGIN in self.asked:
            margins = np.concatenate(self.margins, 1) if self.margins else np.full((len(trials), 1), np.nan)
            values[GATE_MARGIN] = [float(own.mean()) if len(own) else math.nan for own in (row[~np.isnan(row)] for row in margins)]
        return {quantity: Values.of(np.array(values[quantity])) for quantity in self.asked}


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    return State(source, asked)


def of_routing(quantity: Quantity, indices: Int[np.ndarray, "n k"], labels: Int[np.ndarray, "n m"]) -> float:
    """A quantity of the routing and the labels that it reads."""
    if quantity == SATURATION:
        return saturation(indices, labels)
    information, entropy = mutual_information(indices, labels)
    if quantity.metric == INFORMATION:
        return information
    return information / entropy if entropy > 0 else math.nan


def mutual_information(indices: Int[np.ndarray, "n k"], labels: Int[np.ndarray, "n m"]) -> tuple[float, float]:
    """Of expert and label, in nats, less its bias for independent tokens; and the smaller entropy of the two. -1 stands for none, and a
    token that has no expert or no label is not counted. NaN where no token is."""
    # Most routings have no holes, and to look at the tokens one by one takes longer than to count them.
    if not (whole := bool((indices >= 0).all() and (labels >= 0).all())):
        counted = (indices >= 0).any(1) & (labels >= 0).any(1)
        indices, labels = indices[counted], labels[counted]
    if not len(indices):
        return math.nan, math.nan
    each, label_each = (float(part.shape[1]) if whole else _each(part >= 0) for part in (indices, labels))
    experts, width = int(indices.max()) + 1, int(labels.max()) + 1
    number, met = _cells(indices, labels, whole)
    total = int(met.sum())
    of_expert = np.bincount(number // width, met, experts)
    of_label = np.bincount(number % width, met, width)
    entropies = [
        math.log(total) - float((part * np.log(part)).sum()) / total for part in (each[each > 0] for each in (of_expert, of_label))
    ]
    both = math.log(total) - float((met * np.log(met)).sum()) / total
    bias = information_bias(int((of_expert > 0).sum()), each, int((of_label > 0).sum()), total, label_each)
    return sum(entropies) - both - bias, min(entropies)


def _each(there: Bool[np.ndarray, "n k"]) -> float:
    """How many a token has, on average over them all."""
    counts = there.sum(1)
    return float((counts**2).sum() / counts.sum())


def _cells(
    indices: Int[np.ndarray, "n k"], labels: Int[np.ndarray, "n m"], whole: bool
) -> tuple[Int[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """The filled cells of the table of experts and labels, by expert times the number of labels plus label, and how often each is met.
    whole: there is no -1."""
    width = int(labels.max()) + 1
    size, slots = (int(indices.max()) + 1) * width, indices.shape[1] * labels.shape[1]
    few = size <= max(FEW_CELLS, 4 * len(indices) * slots)
    table, rest = np.zeros(size if few else 0, np.int64), []
    for start in range(0, len(indices), AT_ONCE):
        one, other = indices[start : start + AT_ONCE, :, None], labels[start : start + AT_ONCE, None, :]
        number = one * width + other
        number = number.ravel() if whole else number[(one >= 0) & (other >= 0)]
        if few:
            table += np.bincount(number, minlength=size)
        else:
            rest.append(number)
    if few:
        filled = np.flatnonzero(table)
        return filled, table[filled].astype(np.float64)
    number, met = np.unique(np.concatenate(rest), return_counts=True)
    return number, met.astype(np.float64)


def gate_margins(indices: Int[np.ndarray, "n k"], scores: Float[np.ndarray, "n E"]) -> Float[np.ndarray, " n"]:
    """Of each token: the least score among its experts less the largest among the others; NaN where it has not both."""
    chosen = np.zeros((len(scores), scores.shape[1] + 1), bool)
    np.put_along_axis(chosen, indices, True, 1)
    # The last column is that of no expert.
    chosen = chosen[:, :-1]
    margins = np.where(chosen, scores, np.inf).min(1) - np.where(chosen, -np.inf, scores).max(1)
    return np.where(np.isfinite(margins), margins, np.nan)


def saturation(routing: Any, other: Any) -> float:
    """Mean over tokens of the share of a token's experts that the other routing gives it too (router saturation of two checkpoints, or of
    two traces), 0 to 1; sum pi pi'/k by chance (law I2).

    routing (..., k), other (..., m): whole numbers, -1 for none. Tokens to which either gives none are left out; NaN where none is left.
    Raises ValueError for shapes that do not fit.

    >>> saturation([[0, 1], [2, 3]], [[1, 0], [2, 5]])
    0.75
    """
    one, two = np.asarray(routing), np.asarray(other)
    if one.ndim < 2 or one.shape[:-1] != two.shape[:-1] or not {one.dtype.kind, two.dtype.kind} <= {"i", "u"}:
        raise ValueError(
            f"routing, other: expected whole numbers, (..., k) and (..., m), got {one.dtype} {one.shape} and {two.dtype} {two.shape}"
        )
    one, two = one.reshape(-1, one.shape[-1]).astype(np.int64), two.reshape(-1, two.shape[-1]).astype(np.int64)
    counted = (one >= 0).any(1) & (two >= 0).any(1)
    one, two = one[counted].T, two[counted].T
    shared, there = np.zeros((2, one.shape[1]), np.int64)
    for own in one:
        common = np.zeros(len(own), bool)
        for its in two:
            common |= own == its
        shared += common & (own >= 0)
        there += own >= 0
    return float((shared / there).mean()) if len(there) else math.nan


def chance_of_saturation(
    routing: Int[np.ndarray, "n k"], other: Int[np.ndarray, "n m"]
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """The shares and the inclusion that law I2 asks for, of tokens to which both give an expert."""
    counted = (routing >= 0).any(1) & (other >= 0).any(1)
    one, two = routing[counted], other[counted]
    experts, there = int(max(one.max(), two.max())) + 1, one >= 0
    weights = np.broadcast_to(1 / there.sum(1, keepdims=True), one.shape)[there]
    return np.bincount(one[there], weights, experts) / len(one), np.bincount(two[two >= 0], minlength=experts) / len(one)

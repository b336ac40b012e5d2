"""Every metric on a user's own arrays: vectors of the routed experts, the routing alone, matrices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from simgap import machine
from simgap.api.array_source import ArraySource, ArrayWeights
from simgap.api.array_tokens import NOTHING, tokens_of
from simgap.api.as_tensor import as_tensor
from simgap.api.batch import gathered
from simgap.api.calibration import Comparison, calibrate
from simgap.api.memory_maps import refuse_truncated
from simgap.api.named_null import DRAWN
from simgap.api.other_token import labels_of
from simgap.api.routed_vectors import RoutedVectors
from simgap.api.scales import middling, squarable
from simgap.api.token_labels import token_labels_of
from simgap.checks import choice, format_bytes, whole_number
from simgap.null_names import check_null_of_arrays
from simgap.nulls import nulls_of_arrays
from simgap.nulls.other_token import NO_LABELS, Labels
from simgap.observe import observe
from simgap.overlaps.rectified import one_signed_tokens
from simgap.quantities import SITES, WEIGHT_KINDS, Quantity, chosen_names
from simgap.results import Gap
from simgap.selection import Selection, metric_of, metrics, select
from simgap.settings import own_settings
from simgap.sources import Work
from simgap.specs import Activation, LayerSpec, RunSpec
from simgap.sums import cut
from simgap.threads import pool

# Experts that an index may stand for where nothing says how many there are, since a mark for none, such as 65535, is no expert; and at all.
MOST_EXPERTS, MOST_COUNTED = 4096, 1 << 31
ROLES = WEIGHT_KINDS[:-1]


@own_settings
def measure_arrays(
    vectors: Any = None,
    routing: Any = None,
    *,
    weights: Mapping[str, Any] | None = None,
    site: str = "output",
    mask: Any = None,
    n_experts: int | None = None,
    metrics: Sequence[str] | str | None = None,
    quantities: Sequence[str] | str | None = None,
    documents: Any = None,
    strata: Any = None,
    inputs: Any = None,
    gates: Any = None,
    router: Any = None,
    activation: str | None = None,
    labels: Mapping[str, Any] | None = None,
    scores: Any = None,
    null: str = "law",
    draws: int = 0,
) -> Gap[Comparison]:
    """Every metric of a layer of your own, each value with its null: a Gap of comparisons, which prints as a table.

    vectors: (..., k, width), what each token's k experts gave at a site, "pre", "hidden", "normed" (after a LayerNorm) or "output"; may be
    left out. routing: (..., k) integers, which expert each came from, -1 for none; a token with none at all was dropped by the router.
    mask: (...) or (..., k), True or 1 for what is kept; a token that it leaves out whole is padding and not counted. n_experts: by default
    up to the highest index; experts that no token reached are idle. weights: {"up": (E, d_ff, d_model), "gate": the same, "down": (E,
    d_model, d_ff)}, any of them. metrics, quantities: as of `measure`; by default overlaps and the gap, as far as these arrays have them.
    inputs: (..., d_model), the tokens themselves; gates: (..., k), each at least 0, else all weigh alike; router: (E, d_model), its rows;
    activation: of experts without a norm, act(W_up x), or act(W_gate x) * (W_up x) where weights have a gate: with inputs and weights, the
    Jacobians of such experts. labels: what is known of each token, by name, whole numbers from 0, -1 for none: {"domain": (...),
    "token_type": (...), "previous": (..., m), its experts in the layer before, "trace": (..., m), its experts in another routing of this
    layer}. scores: (..., E), of which each token's experts have the highest, as the router ranks them.

    null: "law", the null that each metric has for arrays: signs for overlaps (law T0), balanced choices for routing, labels put on other
    tokens for information, by whole documents where documents= says which they are, no law for cka.
    "isotropic": overlaps in a round space, spread by the sizes of their entries (law T6). "separable": those of weights, beside matrices
    whose rows and columns have the second moments that these have (law T9). "signs": law T0 alone. "other_token": the same pairs of experts
    on other tokens of like size, of other documents and the same stratum (law T3); documents, strata: (...) whole numbers, which each token
    is of. "permuted": the vectors of each expert put on other tokens of its own, `draws` times: what is left of a value is not of the
    tokens. "random_groups": all vectors dealt to the experts anew: what is left is not of the experts. No p is smaller than 2/(draws + 1).
    draws: at least 2; 0 for 20 to 99, as many as are cheap. "renumbered": each expert's hidden units in any order (law T8), of weights;
    with draws=, by so many orders in place of the law. A layer is one trial, so that no value has an error of its own; z is in units of the
    null's spread, p two-sided. The spec of the Gap holds the sizes of the layer; nothing else of it is known.

    Raises ValueError for shapes that do not fit, values that are not finite, names that do not exist, and quantities that such arrays have
    not got.
    """
    choice("site", site, SITES)
    check_null_of_arrays(null)
    count = _count_of_draws(draws, null)
    others = {"inputs": inputs, "gates": gates, "router": router, "activation": activation, "labels": labels, "scores": scores}
    source = source_of(vectors, routing, weights, site, mask, n_experts, documents, strata, **others)
    of_labels = null == "law" and bool(source.token_labels) and strata is None
    if null != "other_token" and source.labels is not NO_LABELS and not of_labels:
        raise ValueError(f"documents, strata: expected null='other_token', which other tokens are for, got null={null!r}")
    selection = _selected(source, metrics, quantities)
    _check_memory(source, selection)
    run = RunSpec(tokens=max(1, source.tokens), trials=1)
    with pool() as (task_map, workers):
        work = Work(task_map, workers)
        (sums,) = cut([observe(source, selection.observed, work)], [0], [1])
        measured = gathered(source.spec, run, sums, selection)
        nulls = nulls_of_arrays(source, selection, null, work, count)
    for name, value in (("vectors", vectors), *((f"weights {role}", matrix) for role, matrix in (weights or {}).items())):
        refuse_truncated(name, value)
    return calibrate(replace(measured, routing=measured.routing if source.tokens else {}), Gap(source.spec, run, nulls, null=null))


def source_of(
    vectors: Any,
    routing: Any,
    weights: Mapping[str, Any] | None,
    site: str,
    mask: Any,
    n_experts: Any,
    documents: Any,
    strata: Any,
    *,
    inputs: Any = None,
    gates: Any = None,
    router: Any = None,
    activation: str | None = None,
    labels: Any = None,
    scores: Any = None,
) -> ArraySource:
    matrices, scaled = _matrices(weights)
    h, indices, grouped, given, of_tokens = torch.empty(0, 1, 0), torch.full((0, 1), -1), NO_LABELS, NOTHING, {}
    if routing is not None or vectors is not None or mask is not None or not matrices:
        routed = RoutedVectors.of_routing(routing, mask) if vectors is None else RoutedVectors.of(vectors, routing, mask)
        h, indices = routed.of_tokens()
        h = middling(h, indices)
        shape, kept = tuple(routed.vectors.shape[:-1]), routed.kept_tokens()
        if documents is not None or strata is not None:
            grouped = labels_of(documents, strata, shape[:-1])
            grouped = Labels(*(each if each is None or kept is None else each[kept] for each in grouped))
        given = tokens_of(inputs, gates, router, activation, scores, shape, kept, indices)
        of_tokens = token_labels_of(labels, shape[:-1], kept)
    elif any(value is not None for value in (inputs, gates, router, activation, labels, scores)):
        raise ValueError("inputs, gates, router, activation, labels, scores: expected routing too, which experts the tokens met")
    experts = _count_of_experts(indices, matrices, n_experts)
    width = h.shape[-1]
    if site == "normed" and width == 1:
        raise ValueError(f"vectors: LayerNormed vectors have a width of at least 2, got {width}")
    if given.x is not None and any(matrix.dtype == torch.float64 for matrix in matrices.values()):
        given = given._replace(x=given.x.double())
    widths = {name: each.shape[-1] for name, each in (("inputs", given.x), ("router", given.router)) if each is not None}
    in_outputs = [width] if site == "output" and width else []
    d_ff, d_model = _widths(matrices) or (max(1, width), [*in_outputs, *widths.values(), max(1, width)][0])
    for name, own in widths.items():
        if own != d_model:
            raise ValueError(f"{name}: expected d_model = {d_model}, as the other arrays have, got {own}")
    if given.router is not None and len(given.router) != experts:
        raise ValueError(f"router: expected a row to each of {experts} experts, got {len(given.router)}")
    if given.scores is not None and given.scores.shape[1] != experts:
        raise ValueError(f"scores: expected {experts} to a token, one of each expert, got {given.scores.shape[1]}")
    if "trace" in of_tokens and (highest := int(of_tokens["trace"].max())) >= max(experts, MOST_EXPERTS):
        raise ValueError(f"labels trace: expected experts below {max(experts, MOST_EXPERTS)}, got {highest}")
    if matrices and width and width != (d_model if site == "output" else d_ff):
        expected = f"d_model = {d_model}" if site == "output" else f"d_ff = {d_ff}"
        raise ValueError(f"vectors: expected a width of {expected} as weights have, got {width}")
    spec = LayerSpec(
        d_model=d_model,
        d_ff=max(2, d_ff),
        n_experts=experts,
        top_k=min(experts, indices.shape[-1]),
        gated="gate" in matrices,
        norm="layernorm" if site == "normed" else "none",
    )
    if given.activation:
        if scaled:
            # No activation but ReLU is the same on another scale.
            raise ValueError("activation: expected weights of which the largest of each expert is from 2^-400 to 2^400 in size")
        spec = replace(spec, activation=cast(Activation, given.activation))
    one_signed = _rectified(h, indices.cpu().numpy() >= 0) if width else ""
    arrays = h if width else None, ArrayWeights(matrices), one_signed, grouped
    return ArraySource(spec, indices[None], site, *arrays, given=given, token_labels=of_tokens)


def _count_of_experts(indices: Tensor, matrices: Mapping[str, Tensor], given: Any) -> int:
    held = len(next(iter(matrices.values()))) if matrices else 0
    highest = int(indices.max()) + 1 if indices.numel() else 0
    if given is None:
        if highest > max(MOST_EXPERTS, held):
            raise ValueError(f"routing: expected indices below {MOST_EXPERTS}, or n_experts, got {highest - 1}")
        given = held or max(2, highest)
    if held and (given != held or highest > held):
        raise ValueError(f"n_experts: expected {held}, as weights have, at least {max(2, highest)}, got {given!r}")
    if (count := whole_number("n_experts", given, max(2, highest))) > MOST_COUNTED:
        raise ValueError(f"n_experts: expected a whole number, at most {MOST_COUNTED}, got {given!r}")
    return count


def _count_of_draws(draws: Any, null: str) -> int:
    count = whole_number("draws", draws, 0, "0: as many as are cheap")
    if count == 1:
        raise ValueError("draws: expected at least 2 permutations, of which there is a spread, or 0, got 1")
    if count and null not in DRAWN:
        raise ValueError(f"draws: expected null= one of {', '.join(DRAWN)}, of which they are the permutations, got null={null!r}")
    return count


def _matrices(weights: Mapping[str, Any] | None) -> tuple[dict[str, Tensor], bool]:
    """By role; and whether each expert's were put on a scale of its own, so that their squares stay within float64."""
    if weights is not None and not (isinstance(weights, Mapping) and weights):
        raise ValueError(f"weights: expected a mapping of {', '.join(ROLES)} to (E, ...) arrays, got {type(weights).__name__}")
    roles = chosen_names("weights", tuple(weights or ()), ROLES)
    matrices = {role: as_tensor(f"weights {role}", (weights or {})[role]) for role in roles}
    for role, matrix in matrices.items():
        if matrix.ndim != 3 or not matrix.numel() or len(matrix) < 2:
            raise ValueError(f"weights {role}: expected (E, rows, columns) of at least 2 experts, got {tuple(matrix.shape)}")
        if not math.isfinite(float(matrix.sum(dtype=torch.float64))) and not bool(torch.isfinite(matrix).all()):
            expert = int((~torch.isfinite(matrix)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"weights {role}: expert {expert} holds a value that is not finite")
        if len(matrix) != len(next(iter(matrices.values()))):
            raise ValueError(f"weights {role}: expected as many experts as in the other matrices, got {len(matrix)}")
    fit = squarable(matrices)
    return fit, fit is not matrices


def _widths(matrices: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """d_ff and d_model, on which all matrices agree."""
    shapes: dict[str, tuple[int, int]] = {}
    for role, matrix in matrices.items():
        rows, columns = matrix.shape[1:]
        shapes[role] = (columns, rows) if role == "down" else (rows, columns)
    for role, shape in shapes.items():
        if shape != (first := next(iter(shapes.values()))):
            raise ValueError(
                f"weights {role}: expected d_ff = {first[0]}, d_model = {first[1]} as in the others, got {shape[0]}, {shape[1]}"
            )
    return next(iter(shapes.values()), None)


def _rectified(h: Tensor, there: np.ndarray) -> str:
    """Why signs say nothing of the vectors of some tokens."""
    why = one_signed_tokens(h, np.flatnonzero(there.any(1)), there)
    return why and f"rectified vectors overlap without being related, and signs say nothing of them: {why}"


def _selected(source: ArraySource, metrics: Sequence[str] | str | None, quantities: Sequence[str] | str | None) -> Selection:
    """What these arrays have of what is asked for; ValueError for a text of which they have nothing."""
    whole = select(quantities, metrics=metrics)
    lacking = {quantity: _lacking(source, quantity) for quantity in whole.observed}
    for name in [quantities] if isinstance(quantities, str) else quantities or ():
        reasons = [_lacks(quantity, lacking) for quantity in select([name]).asked]
        if all(reasons):
            raise ValueError(f"quantities: {name!r} is not in these arrays: {reasons[0]}")
    asked = tuple(quantity for quantity in whole.asked if not _lacks(quantity, lacking))
    if not asked:
        hint = "; metrics='routing' reads the routing alone" if source.vectors is None and source.tokens else ""
        raise ValueError(f"metrics: these arrays have none of what is asked for: {next(iter(lacking.values()))}{hint}")
    return Selection(asked, tuple(quantity for quantity in whole.observed if not lacking[quantity]))


def _lacks(quantity: Quantity, lacking: Mapping[Quantity, str]) -> str:
    """Why a quantity, or what it is derived from, is not there."""
    if quantity in lacking:
        return lacking[quantity]
    return next(filter(None, (lacking[part] for part in metrics()[metric_of()[quantity]].INPUTS)), "")


def _lacking(source: ArraySource, quantity: Quantity) -> str:
    metric = metrics()[metric_of()[quantity]]
    needs = metric.needs(source.spec, (quantity,))
    roles, site = set(source.weights.roles), quantity.site
    vectors_at = site or next(iter(needs.sites), "output")
    reasons = (
        (needs.weights and site == "all" and not {"up", "down"} <= roles, "it needs W_up and W_down"),
        (needs.weights and site not in ("", "all", *roles), f"weights {site} are not given"),
        (needs.weights and not roles, "weights are not given"),
        (needs.experts and (source.experts is None or source.given.x is None), "it needs weights up and down, the activation and inputs"),
        (needs.inputs and source.given.x is None, "inputs are not given"),
        (needs.router and source.router is None, "router is not given"),
        (not set(needs.labels) <= set(source.token_labels), f"labels {', '.join(needs.labels)} are not given"),
        (needs.scores and source.given.scores is None, "scores are not given"),
        (not (needs.weights or needs.router or source.tokens), "no routing is given"),
        (needs.every, "it needs every expert on every token, not the routed ones"),
        (needs.sites and (source.vectors is None or vectors_at != source.site), f"vectors at {vectors_at} are not given"),
    )
    if why := next((why for lacks, why in reasons if lacks), ""):
        return why
    # Labels and scores that are given are there, whatever a simulated layer has.
    return "" if needs.labels or needs.scores else metric.missing(source.spec, quantity)


def _check_memory(source: ArraySource, selection: Selection) -> None:
    """ValueError where the tables of so many experts do not fit the machine."""
    spec, has = source.spec, machine.memory()
    needed = selection.needs(spec).bytes + 3 * 8 * spec.n_experts * max(spec.d_model, spec.d_ff)
    if needed > has:
        raise ValueError(f"n_experts: tables of {spec.n_experts} experts need {format_bytes(needed)}, the machine has {format_bytes(has)}")

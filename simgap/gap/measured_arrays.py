"""Every metric on a user's own arrays: vectors of the routed experts, the routing alone, matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from simgap.gap.array_source import ArraySource, ArrayWeights
from simgap.gap.as_tensor import as_tensor
from simgap.gap.batch import gathered
from simgap.gap.calibration import Comparison, calibrate
from simgap.gap.memory_maps import refuse_truncated
from simgap.gap.padding import expert_indices, indices_of_kept, kept_by_all, kept_by_mask, masked_vectors, refuse_repeated
from simgap.gap.rectified import refuse_rectified
from simgap.nulls import NULLS_OF_ARRAYS, nulls_of_arrays
from simgap.observe import observe
from simgap.quantities import SITES, WEIGHT_KINDS, Quantity, chosen_names
from simgap.results import Gap
from simgap.selection import Selection, metric_of, metrics, select
from simgap.settings import own_settings
from simgap.sources import Work
from simgap.specs import LayerSpec, RunSpec, choice
from simgap.sums import cut
from simgap.threads import pool

# Tokens that are looked at for rectified vectors.
SEEN_TOKENS = 16
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
    null: str = "law",
) -> Gap[Comparison]:
    """Every metric of a layer of your own, each value beside its null: a Gap of comparisons, which prints as a table.

    vectors: (..., k, width), what each token's k experts gave at a site, "pre", "hidden", "normed" (after a LayerNorm) or "output"; may be
    left out. routing: (..., k) integers, which expert each came from, -1 for none. mask: (...) or (..., k), True or 1 for what is kept.
    n_experts: by default up to the highest index; experts that no token reached are idle. weights: {"up": (E, d_ff, d_model), "gate": ...,
    "down": ...}, any of them. metrics, quantities: as of `measure`; by default overlaps and the gap, as far as these arrays have them.

    null: "law", the null that each metric has for arrays: signs for overlaps (law T0), balanced choices for routing, no law for cka.
    "permuted": the vectors of each expert put on other tokens of its own, 20 times: what is left of a value is not of the tokens. A layer
    is one trial, so that no value has an error of its own; z is in units of the null's spread, p two-sided.

    Raises ValueError for shapes that do not fit, values that are not finite, names that do not exist, and quantities that such arrays have
    not got.
    """
    chosen_names("site", (site,) if isinstance(site, str) else site, SITES)
    choice("null", null, NULLS_OF_ARRAYS)
    if routing is None and weights is None:
        raise ValueError("routing: expected (..., k) integers, which expert each vector came from, got none")
    source = _source(vectors, routing, weights, site, mask, n_experts)
    selection = _available(source, select(quantities, metrics=metrics), explicit=quantities is not None)
    run = RunSpec(tokens=max(1, source.tokens), trials=1)
    with pool() as (task_map, workers):
        work = Work(task_map, workers)
        (sums,) = cut([observe(source, selection.observed, work)], [0], [1])
        measured = gathered(source.spec, run, sums, selection)
        nulls = nulls_of_arrays(source, selection, null, work)
    for name, value in (("vectors", vectors), *((f"weights {role}", matrix) for role, matrix in (weights or {}).items())):
        refuse_truncated(name, value)
    return calibrate(measured, Gap(source.spec, run, nulls))


def _source(vectors: Any, routing: Any, weights: Mapping[str, Any] | None, site: str, mask: Any, n_experts: int | None) -> ArraySource:
    matrices = _matrices(weights)
    experts = len(next(iter(matrices.values()))) if matrices else 0
    h, indices, width = None, torch.full((1, 0, 1), -1), 1
    if routing is not None:
        data, unmasked = masked_vectors("vectors", vectors)
        h = None if data is None else as_tensor("vectors", data)
        if h is not None and (h.ndim < 3 or not h.numel()):
            raise ValueError(f"vectors: expected (..., k, width), not empty, got {tuple(h.shape)}")
        named = expert_indices(routing, None if h is None else tuple(h.shape[:-1]))
        if named.ndim < 2 or not named.numel():
            raise ValueError(f"routing: expected (..., k), not empty, got {tuple(named.shape)}")
        kept = kept_by_all(unmasked, None if mask is None else kept_by_mask(mask, tuple(named.shape)))
        indices = indices_of_kept(named, kept).reshape(1, -1, named.shape[-1])
        refuse_repeated(indices[0])
        h = None if h is None else h.reshape(-1, *h.shape[-2:])
        width = 1 if h is None else h.shape[-1]
        indices = indices if h is None else indices.to(h.device)
    elif vectors is not None:
        raise ValueError("routing: expected which expert each vector came from, got vectors without it")
    highest = int(indices.max()) + 1 if indices.numel() else 0
    count = max(experts, highest) if n_experts is None else n_experts
    if isinstance(count, bool) or not isinstance(count, int) or count < max(2, highest, experts) or (experts and count != experts):
        least = f"{experts}, as weights have" if experts else f"at least {max(2, highest)}"
        raise ValueError(f"n_experts: expected {least}, got {count}")
    up, down = matrices.get("up", matrices.get("gate")), matrices.get("down")
    d_ff, d_model = (up.shape[1:] if up is not None else down.shape[:0:-1]) if matrices else (width, width)  # type: ignore[union-attr]
    if site == "normed" and width < 2 and h is not None:
        raise ValueError(f"vectors: LayerNormed vectors have a width of at least 2, got {width}")
    spec = LayerSpec(
        d_model=d_model,
        d_ff=max(2, d_ff),
        n_experts=count,
        top_k=min(count, indices.shape[-1]),
        gated="gate" in matrices,
        norm="layernorm" if site == "normed" else "none",
    )
    return ArraySource(spec, indices, site, h, ArrayWeights(matrices), _one_signed(h, indices))


def _matrices(weights: Mapping[str, Any] | None) -> dict[str, torch.Tensor]:
    if weights is not None and not (isinstance(weights, Mapping) and weights):
        raise ValueError(f"weights: expected a mapping of {', '.join(ROLES)} to (E, ...) arrays, got {type(weights).__name__}")
    roles = chosen_names("weights", tuple(weights or ()), ROLES)
    matrices = {role: as_tensor(f"weights {role}", (weights or {})[role]) for role in roles}
    for role, matrix in matrices.items():
        if matrix.ndim != 3 or not matrix.numel():
            raise ValueError(f"weights {role}: expected (E, rows, columns), got {tuple(matrix.shape)}")
        if not bool(torch.isfinite(matrix.sum())) and not bool(torch.isfinite(matrix).all()):
            raise ValueError(f"weights {role}: not finite")
        if len(matrix) != len(next(iter(matrices.values()))):
            raise ValueError(f"weights {role}: expected as many experts as in the other matrices, got {len(matrix)}")
    return matrices


def _one_signed(h: torch.Tensor | None, indices: torch.Tensor) -> str:
    """Why signs say nothing of the vectors of some evenly spaced tokens."""
    if h is None:
        return ""
    there = (indices[0] >= 0).any(1).nonzero()[:, 0]
    if not len(there):
        return ""
    picked = there[torch.linspace(0, len(there) - 1, SEEN_TOKENS, device=there.device).long().unique()]
    try:
        refuse_rectified("vectors", h[picked][indices[0, picked] >= 0], h.shape[1], "simgap.measure_arrays gives them without this null")
    except ValueError:
        return "rectified vectors overlap without being related, and signs say nothing of them"
    return ""


def _available(source: ArraySource, selection: Selection, explicit: bool) -> Selection:
    """What these arrays have of a selection."""
    lacking = {q: why for q in selection.observed if (why := _lacking(source, q))}

    def lacks(quantity: Quantity) -> str:
        inputs = getattr(metrics()[metric_of()[quantity]], "INPUTS", ()) if quantity not in selection.observed else ()
        return next(filter(None, (lacking.get(part, "") for part in (*inputs, quantity))), "")

    if explicit and (missing := [(q, lacks(q)) for q in selection.asked if lacks(q)]):
        raise ValueError(f"quantities: {str(missing[0][0])!r} is not in these arrays: {missing[0][1]}")
    asked = tuple(q for q in selection.asked if not lacks(q))
    if not asked:
        raise ValueError(f"metrics: these arrays have none of what is asked for: {next(iter(lacking.values()))}")
    return Selection(asked, tuple(q for q in selection.observed if q not in lacking))


def _lacking(source: ArraySource, quantity: Quantity) -> str:
    metric = metrics()[metric_of()[quantity]]
    needs = metric.needs(source.spec, (quantity,))
    if why := metric.missing(source.spec, quantity):
        return why
    if needs.weights:
        held = source.weights.roles
        return "" if quantity.site in held or (quantity.site == "all" and held) else "weights of that matrix are not given"
    if not source.tokens:
        return "no routing is given"
    if needs.every:
        return "it needs every expert on every token, not the routed ones"
    if needs.sites and (source.vectors is None or (quantity.site or source.site) != source.site):
        return f"vectors at {' or '.join(needs.sites)} are not given"
    return ""

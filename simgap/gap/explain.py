"""Why is this overlap 0.6? The ladder of a user's own vectors on tokens."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.gap.explanation import MEAN, OWN, ROUND, SIZES, SPACE, TOKEN, Explanation, Rung, in_words
from simgap.gap.memory_maps import refuse_truncated
from simgap.gap.other_token import SECOND_LEVEL, doubts, labels_of
from simgap.gap.routed_vectors import RoutedVectors
from simgap.gap.rungs import Spread, tables
from simgap.nulls.other_token import elsewhere, of_gains, upper_z
from simgap.overlaps import OtherTokens, common_mean, entries_of, other_tokens, own_overlaps
from simgap.overlaps.memory import AT_ONCE, tokens_at
from simgap.overlaps.one_expert import GROUPS
from simgap.overlaps.other_tokens import SAMPLED
from simgap.overlaps.token_overlap import token_name
from simgap.stats import LEAST_P
from simgap.threads import pool

# Vectors whose overlap with their own on other tokens is this close to 1 are the same on all tokens.
SAME = 1e-6


def explain(vectors: Any, routing: Any, *, documents: Any = None, strata: Any = None, mask: Any = None) -> Explanation:
    """Why the experts' vectors overlap as much as they do on a token: a ladder whose rungs are held one against the next (laws T1 to T3).

    A round space gives 1/width. About a mean that experts share, of length |m|, it gives 1/width + (1 - 1/width)|m|^4, with |m|^4 from
    four different experts on different tokens; what that mean shares with the spread about it (2 m'Cm) belongs to the next rung. The shared
    space is tr(S_e S_f) of the same pairs of experts on tokens of different documents; of like size, on those nearest in size. The last
    rung is the overlap on a token. Beside them: one expert on two tokens, tr(S_e^2).

    vectors: (..., k, width) array, memory map or tensor, k >= 2. routing: (..., k) integers, which expert each came from, -1 for none.
    documents, strata: (...) integers, as for `token_mso`: other tokens are of other documents and of the same stratum. mask: (...) or
    (..., k). Errors are over experts, each left out in turn, and conservative. Some 2^25 / width pairs of vectors are looked at, evenly
    drawn, whatever n: a value that is not looked at is not seen. Memory: those, and 4 experts x width numbers with their products.

    Raises ValueError for shapes that do not fit, values that are not finite, no routing, one document, fewer than 5 experts that meet, and
    experts that say the same on all tokens.

    >>> import numpy as np, simgap as sg
    >>> rng = np.random.default_rng(0)
    >>> h, routing = rng.standard_normal((500, 2, 16)), rng.random((500, 8)).argsort(1)[:, :2]
    >>> round(sg.explain(h, routing)["round space"].value, 4)
    0.0625
    """
    routed = RoutedVectors.of(vectors, routing, mask, least=2)
    h, kept = routed.vectors, routed.kept()
    *sizes, k, width = h.shape
    labels = labels_of(documents, strata, tuple(sizes))
    numbers, numbered = routed.experts()
    experts = numbered.reshape(-1, k)
    exists = np.ones(experts.shape, bool) if kept is None else kept.reshape(-1, k)
    with pool() as (task_map, _):
        entries = entries_of(experts, exists, len(numbers), max(2, SAMPLED // width))
        _refuse_not_finite(h, entries.tokens, exists)
        looked = elsewhere(h, experts, exists, len(numbers), labels, task_map)
        if isinstance(looked, str):
            raise ValueError(f"documents: expected other tokens to hold each pair of experts against, got none: {looked}")
        _refuse_not_finite(h, looked.pairs.tokens, exists)
        alike, null = looked.found, of_gains(looked.found, labels)
        if null.mean is None or null.sd is None:
            raise ValueError(
                f"routing: expected experts enough to hold against each other, since they are the sample, got too few: {null.why}"
            )
        plain = other_tokens(h, looked.pairs, labels.documents, None, labels.strata, task_map)
        own = own_overlaps(h, entries, labels.documents, labels.strata, task_map)
        if np.nanmin(own) > 1 - SAME:
            raise ValueError(
                "vectors: expected experts that say different things on different tokens, got one direction of each on all tokens"
            )
        mean = Spread(*common_mean(h, entries, labels.documents))
        doubt = doubts(h, exists)
    refuse_truncated("vectors", vectors)
    rows, notes = _ladder(plain, alike, own, mean, width)
    gain = alike.over_pairs(alike.gains)
    z, upper = upper_z(gain, null)
    p = max(float(upper), LEAST_P)
    unequal = alike.over_pairs(alike.other) - plain.over_pairs(plain.other) > gain
    if labels.documents is None:
        notes.append("each token counts as its own document: pass documents= where tokens come in some")
    shared = int((exists.sum(1) * (exists.sum(1) - 1) // 2).sum())
    compared = int(alike.count.sum())
    if compared < shared:
        notes.append(f"{compared:,} of {shared:,} pairs of vectors were compared")
    notes += [doubt] if doubt else []
    paragraph = in_words(tuple(rows), width, p, z, SECOND_LEVEL, unequal)
    return Explanation(tuple(rows), paragraph, gain, null.sd, z, p, len(np.unique(alike.named)), width, compared, tuple(notes))


def _ladder(plain: OtherTokens, alike: OtherTokens, own: Float[np.ndarray, " E"], mean: Spread, width: int) -> tuple[list[Rung], list[str]]:
    same, of_size, weights = tables(alike)
    _, other, weights_of_other = tables(plain)
    met = int((weights.sum(1) > 0).sum())
    found = [
        (ROUND, Spread.fixed(1 / width, met), "T1", "independent vectors, all directions alike"),
        (MEAN, mean.map(1 - 1 / width, 1 / width).at(weights.sum(1) > 0), "T1", "a round space about one mean for all experts"),
        (SPACE, Spread.of_pairs(other, weights_of_other), "T2", "the same pairs of experts, any other tokens"),
        (SIZES, Spread.of_pairs(of_size, weights), "T2", "the same pairs of experts, other tokens of like size"),
        (TOKEN, Spread.of_pairs(same, weights), "T3", "measured"),
    ]
    notes = []
    if not found[1][1].value > 0:
        why = f"it takes {GROUPS} documents" if math.isnan(mean.value) else "lost in its error"
        notes.append(f"{MEAN}: left out, {why}")
        found = [rung for rung in found if rung[0] != MEAN]
    rows, below = [], None
    for name, value, law, assumes in found:
        rows.append(_rung(name, value, below, law, assumes))
        below = value
    of_experts = Spread.of_experts(own, weights.sum(1))
    shared = next(value for name, value, *_ in found if name == SPACE)
    rows.append(_rung(OWN, of_experts, shared, "T2", "one expert on two tokens; its factor is over the shared space"))
    return rows, notes


def _rung(name: str, value: Spread, below: Spread | None, law: str, assumes: str, reading: str = "raw") -> Rung:
    if below is None or not below.value > 0:
        return Rung(name, reading, value.value, _known(value.error), None, None, law, assumes)
    factor = value.over(below)
    return Rung(name, reading, value.value, _known(value.error), factor.value, _known(factor.error), law, assumes)


def _known(error: float) -> float | None:
    return error if math.isfinite(error) and error > 0 else None


def _refuse_not_finite(h: Tensor, tokens: Int[np.ndarray, " m"], exists: Bool[np.ndarray, "n k"]) -> None:
    *sizes, k, width = h.shape
    tokens, step = np.unique(tokens), max(1, AT_ONCE // (k * width))
    for start in range(0, len(tokens), step):
        some = tokens[start : start + step]
        finite = torch.isfinite(tokens_at(h, some).abs().amax(-1)).cpu().numpy()
        for at, slot in np.argwhere(~finite & exists[some])[:1].tolist():
            place = [int(axis) for axis in np.unravel_index(some[at], sizes)]
            raise ValueError(f"vectors: not finite at token {token_name(place)} slot {slot}")

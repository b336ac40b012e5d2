"""Why is this overlap 0.6? The ladder of a user's own vectors on tokens."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.api.explanation import (
    MEAN,
    OWN,
    ROUND,
    SIZES,
    SPACE,
    TOKEN,
    Explanation,
    Rung,
    correlation_in_words,
    in_words,
    whitened_in_words,
)
from simgap.api.memory_maps import refuse_truncated
from simgap.api.other_token import SECOND_LEVEL, doubts, labels_of, standing_out_in_words, table_of
from simgap.api.pair_table import MOST_PAIRS
from simgap.api.routed_vectors import RoutedVectors
from simgap.api.rungs import Spread, tables
from simgap.nulls.other_token import Elsewhere, Labels, elsewhere, judged, of_gains, sizes_do_more
from simgap.overlaps import OtherTokens, TokenPairs, Whitening, common_mean, entries_of, other_tokens, own_of
from simgap.overlaps.memory import AT_ONCE, tokens_at
from simgap.overlaps.one_expert import GROUPS
from simgap.overlaps.other_tokens import SAMPLED
from simgap.overlaps.token_overlap import token_name
from simgap.overlaps.whitened import DRAWN, WIDEST, why_not
from simgap.theory.activations import activation_of
from simgap.theory.normalisation import explaining_correlation
from simgap.threads import Map, pool

# Vectors whose overlap with their own on other tokens is this close to 1 are the same on all tokens.
SAME = 1e-6
# Experts, in whose groups of four a pair has others to be whitened by.
FEWEST_WHITENED = 8


def explain(
    vectors: Any, routing: Any, *, documents: Any = None, strata: Any = None, mask: Any = None, activation: Any = None
) -> Explanation:
    """Why the experts' vectors overlap as much as they do on a token: a ladder whose rungs are held one against the next (laws T1 to T3).

    A round space gives 1/width. About a mean that experts share, of length |m|, it gives 1/width + (1 - 1/width)|m|^4, with |m|^4 from
    four different experts on different tokens; what that mean shares with the spread about it (2 m'Cm) belongs to the next rung. The shared
    space is tr(S_e S_f) of the same pairs of experts on tokens of different documents; of like size, on those nearest in size. The last
    rung is the overlap on a token. Beside them: one expert on two tokens, tr(S_e^2). *Whitened* is the same from the shared space up, after
    the second moment of other experts has made the space round (law T4): it sees what outlier coordinates hide, and less where there are
    none. Its null is its own shared space, never 1/width; how often its p is wrong was counted for 8 to 64 experts in width 32.
    `top(reading="whitened")` lists the pairs of experts that stand out.

    vectors: (..., k, width) array, memory map or tensor, k >= 2. routing: (..., k) integers, which expert each came from, -1 for none.
    documents, strata: (...) integers, as for `token_mso`: other tokens are of other documents and of the same stratum. mask: (...) or
    (..., k). Errors are over experts, each left out in turn, and conservative. Some 2^25 / width pairs of vectors are looked at, evenly
    drawn, whatever n: a value that is not looked at is not seen. Memory: those, 4 experts x width numbers with their products, and some
    6 width^2 numbers of float64 to whiten, in O(width^3) time: seconds for a width of 2,048, minutes for 8,192. Whitening is left out by
    name for fewer than 8 experts, fewer than 2 width vectors of other experts, and more than 8,192 dimensions. activation: of
    `theory.dual_map`; the vectors are what it made of pre-activations, and the correlation of those that would give this overlap is told
    (law L2).

    Raises ValueError for shapes that do not fit, values that are not finite, no routing, one document, fewer than 5 experts that meet, and
    experts that say the same on all tokens.

    >>> import numpy as np, simgap as sg
    >>> rng = np.random.default_rng(0)
    >>> h, routing = rng.standard_normal((500, 2, 16)), rng.random((500, 8)).argsort(1)[:, :2]
    >>> round(sg.explain(h, routing)["round space"].value, 4)
    0.0625
    """
    act = None if activation is None else activation_of(activation)
    routed = RoutedVectors.of(vectors, routing, mask, least=2)
    h, kept = routed.vectors, routed.kept()
    *sizes, k, width = h.shape
    labels = labels_of(documents, strata, tuple(sizes))
    numbers, numbered = routed.experts()
    experts = numbered.reshape(-1, k)
    exists = np.ones(experts.shape, bool) if kept is None else kept.reshape(-1, k)
    with pool() as (task_map, _):
        entries = entries_of(experts, exists, len(numbers), max(2, SAMPLED // width, DRAWN * min(width, WIDEST)))
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
        plain = other_tokens(h, looked.pairs, labels.documents, None, labels.strata, task_map, looked.lengths)
        own = other_tokens(h, entries, labels.documents, None, labels.strata, task_map)
        raw = _Reading(plain, alike, own_of(own))
        if np.min(raw.own, initial=1.0, where=~np.isnan(raw.own)) > 1 - SAME:
            raise ValueError(
                "vectors: expected experts that say different things on different tokens, got one direction of each on all tokens"
            )
        mean = Spread(*common_mean(h, entries, labels.documents))
        white = _whitened(h, entries, looked, labels, task_map)
        doubt = doubts(h, exists, task_map)
    refuse_truncated("vectors", vectors)
    rows = _ladder("raw", raw, mean.map(1 - 1 / width, 1 / width), width)
    notes = []
    if all(rung.name != MEAN for rung in rows):
        notes.append(f"{MEAN}: left out, {f'it takes {GROUPS} documents' if math.isnan(mean.value) else 'lost in its error'}")
    gain, z, p = judged(alike, null)
    beside, white_z, white_p = "", None, None
    pair_tables = {"raw": table_of(alike, numbers)} if len(alike.count) <= MOST_PAIRS else {}
    if isinstance(white, str):
        notes.append(f"whitened: left out, {white}")
    else:
        rows += _ladder("whitened", white, None, width)
        _, white_z, white_p = judged(white.alike, of_gains(white.alike, labels))
        if len(white.alike.count) <= MOST_PAIRS:
            pair_tables["whitened"] = table_of(white.alike, numbers)
        beside = f" {whitened_in_words(tuple(rows), white_z, white_p, len(np.unique(alike.named)))}"
        if few := standing_out_in_words(pair_tables.get("whitened")):
            beside += f' Whitened, {few} stand out from all pairs: .top(reading="whitened") lists them.'
    if labels.documents is None:
        notes.append("each token counts as its own document: pass documents= where tokens come in some")
    shared = int((exists.sum(1) * (exists.sum(1) - 1) // 2).sum())
    compared = int(alike.count.sum())
    if compared < shared:
        notes.append(f"{compared:,} of {shared:,} pairs of vectors were compared")
    notes += [doubt] if doubt else []
    said = in_words(tuple(rows), width, p, z, SECOND_LEVEL, sizes_do_more(alike, raw.plain))
    if few := standing_out_in_words(pair_tables.get("raw")):
        said += f" Of single pairs {few} stand out: .top() lists them."
    said += beside
    correlation = None
    if act is not None:
        measured = next(rung.value for rung in rows if rung.name == TOKEN)
        try:
            correlation = float(explaining_correlation(min(measured, 1.0), act))
            said += f" {correlation_in_words(act.name, correlation)}"
        except ValueError as error:
            notes.append(f"correlation: left out, {str(error).partition(': ')[2]}")
    met = len(np.unique(alike.named))
    return Explanation(
        tuple(rows), said, gain, null.sd, z, p, met, width, compared, tuple(notes), white_z, white_p, correlation, pair_tables
    )


class _Reading(NamedTuple):
    """The same pairs of experts on other tokens: any, and of like size; and each expert by itself, (E,)."""

    plain: OtherTokens
    alike: OtherTokens
    own: Float[np.ndarray, " E"]


def _whitened(h: Tensor, entries: TokenPairs, looked: Elsewhere, labels: Labels, task_map: Map) -> _Reading | str:
    """The whitened reading, or why there is none."""
    width, met = h.shape[-1], len(np.unique(looked.found.named))
    if met < FEWEST_WHITENED or width > WIDEST:
        return f"it takes {FEWEST_WHITENED} experts that meet, got {met}" if width <= WIDEST else f"wider than {WIDEST:,}"
    if why := why_not(entries, width):
        return why
    whitening = Whitening.of(h, entries, task_map)
    looks = [(looked.pairs, (None, looked.order)), (entries, (None,))]
    plain, alike, own = whitening.other_tokens(h, looks, labels.documents, labels.strata, task_map)
    return _Reading(plain, alike, own_of(own))


def _ladder(reading: str, values: _Reading, mean: Spread | None, width: int) -> list[Rung]:
    """From a round space about a mean up; without that from the shared space, as there is no other null of whitened vectors."""
    same, of_size, weights = tables(values.alike)
    _, other, weights_of_other = tables(values.plain)
    met = weights.sum(1) > 0
    space = Spread.of_pairs(other, weights_of_other)
    steps = [
        (SPACE, space, "T2", "the same pairs of experts, any other tokens"),
        (SIZES, Spread.of_pairs(of_size, weights), "T2", "the same pairs of experts, other tokens of like size"),
        (TOKEN, Spread.of_pairs(same, weights), "T3", "measured"),
    ]
    if mean is not None:
        lowest = (ROUND, Spread.fixed(1 / width, int(met.sum())), "T1", "independent vectors, all directions alike")
        about = (MEAN, mean.at(met), "T1", "a round space about one mean for all experts")
        # What is lost in its error may come out below 0.
        steps = [lowest, *([about] if mean.value > 0 else []), *steps]
    rows, below = [], None
    for name, value, law, assumes in steps:
        rows.append(_rung(name, reading, value, below, law, assumes))
        below = value
    own = Spread.of_experts(values.own, weights.sum(1))
    if math.isnan(own.value):
        return rows
    return [*rows, _rung(OWN, reading, own, space, "T2", "one expert on two tokens; its factor is over the shared space")]


def _rung(name: str, reading: str, value: Spread, below: Spread | None, law: str, assumes: str) -> Rung:
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

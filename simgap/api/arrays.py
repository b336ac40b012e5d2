"""A user's own weights or hidden states against their null: is 0.02 a lot?

Any real dtype. float32, float64 and bfloat16 are read as they lie in memory, once, if their last axis is contiguous; float16 and other
layouts are copied a few million numbers at a time, whole numbers (as float64), lists and reversed views whole. All products and sums are
in float64, whatever torch's default dtype, TF32 setting and thread count.

A memory map whose file is shorter than the array is refused before it is read and after. One that is cut short while it is read can still
end the process without a word (SIGBUS): copy a file that others may write.
"""

import functools
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simgap.api.as_tensor import as_tensor
from simgap.api.measured_arrays import source_of
from simgap.api.memory_maps import refuse_truncated
from simgap.api.named_null import DRAWN, SIGNED, UNSEEN, by_name, check_draws, needed_by, unused_by
from simgap.api.other_token import by_other_tokens, labels_of, on_other_tokens, verdict_of_tokens
from simgap.api.overlap import Overlap, SignNull, promoted, verdict
from simgap.api.pair_table import MOST_PAIRS, PairTable
from simgap.api.renumbered import units_axis, verdict_of_orders, with_renumbered
from simgap.api.routed_vectors import RoutedVectors
from simgap.api.scales import summable
from simgap.checks import choice
from simgap.null_names import MEANS, TOKENS, WEIGHTS, check_null_of_arrays
from simgap.overlaps import (
    Moments,
    Signs,
    TokenPairs,
    between,
    flipped_overlaps,
    flipped_token_overlaps,
    is_centred,
    means_by_routing,
    over_pairs,
    size_sums,
    token_overlap,
    undefined_vectors,
)
from simgap.overlaps.memory import flattened, tokens_at
from simgap.overlaps.rectified import one_signed_experts, one_signed_tokens, refuse_rectified
from simgap.overlaps.sketches import unit_rows
from simgap.quantities import Quantity
from simgap.settings import own_settings
from simgap.threads import pool

# Tokens that are looked through at a time for one that is undefined.
TOKENS_AT_ONCE = 1024
KINDS = ("output", "normed")
REMEDY = 'pass the outputs, or hidden vectors after a LayerNorm as kind="normed"; null="random_groups" asks nothing of signs'


@own_settings
def weight_mso(weights: Any, *, units: int | None = None, null: str = "law", draws: int = 0) -> Overlap:
    """Mean squared overlap of E experts' flattened weights, beside what their entries would give with fair signs (law T0).

    weights: (E, ...) numpy array, memory map or torch tensor on any device, or a list of E of one shape and dtype, E >= 2; N is the product
    of the other axes. One matrix of each expert, or several side by side: entries may have any scales. The null and its variance are closed
    forms over pairs; beyond 64 experts or 65,536 numbers in all, corrections of higher order are taken over some of them. units: the axis
    of hidden units of (E, a, b) weights: 1 for W_up or W_gate as (E, d_ff, d_model), 2 for W_down as (E, d_model, d_ff). Given, a second
    null stands beside: each expert's hidden units in any order, which changes no expert (law T8). Its mean is exact; its sd and p suppose
    nearly normal cosines of pairs, and say so where they are not. O(E d_ff d_model^2). null: "law" is all that; the name of one null makes
    it the only one: "signs", "renumbered" (with `units`), "isotropic" (a round space, law T6), "separable" ((E, a, b) weights, scales of
    rows and columns, law T9). p is of the upper tail whatever the null. draws: signs to draw for p instead, E^2 N each; with `units` as
    many orders of the units too.

    Raises ValueError for fewer than 2 experts, for values that are masked or not finite, for rectified ones and where no two experts are
    non-zero; for `units` that is no such axis.

    >>> import numpy as np, simgap as sg
    >>> W_up = np.random.default_rng(0).standard_normal((8, 64, 16))
    >>> overlap = sg.weight_mso(W_up, units=1)
    >>> f"{overlap.mean:.5f} of {overlap.null:.5f} by signs, {overlap.beside[0].null:.5f} renumbered"
    '0.00133 of 0.00098 by signs, 0.00098 renumbered'
    """
    vectors = as_tensor("weights", weights)
    if vectors.ndim < 2 or vectors.shape[0] < 2 or not vectors.numel():
        raise ValueError(f"weights: expected (E, ...) with at least 2 experts and some entries, got shape {tuple(vectors.shape)}")
    check_null_of_arrays(null, WEIGHTS)
    needed_by(null, "units", units, "the axis of hidden units, 1 or 2", names=("renumbered",))
    unused_by(null, "units", units is not None, names=("law", "renumbered"))
    axis, draws = None if units is None else units_axis(units, tuple(vectors.shape)), check_draws(draws, null)
    if null == "separable" and vectors.ndim != 3:
        raise ValueError(f"weights: expected (E, rows, columns) for null='separable', got shape {tuple(vectors.shape)}")
    overlap = _of_vectors("weights", flattened(vectors), 0 if null in DRAWN else draws, signed=null in SIGNED)
    if axis:
        with pool() as (task_map, _):
            overlap = with_renumbered(overlap, vectors, axis, draws, task_map)
    if null == "renumbered":
        overlap = promoted(overlap, overlap.beside[0], verdict_of_orders(overlap.beside[0]))
    elif null in UNSEEN:
        matrices = vectors.reshape(len(vectors), -1, vectors.shape[-1]) if vectors.ndim > 2 else vectors[:, None]
        source = source_of(None, None, {"up": matrices}, "output", None, None, None, None)
        overlap = by_name(overlap, null, source, Quantity("weight_mso", site="up"), draws)
    refuse_truncated("weights", weights)
    return overlap


@own_settings
def mean_mso(vectors: Any, routing: Any, kind: str = "output", *, mask: Any = None, null: str = "law", draws: int = 0) -> Overlap:
    """Mean squared overlap of experts' mean vectors over the tokens routed to them, beside what fair signs would give (law T0).

    kind: "output" for expert outputs, gated hidden vectors and others whose signs could be either; "normed" for hidden vectors after a
    LayerNorm without gain and bias, whose null is width/(width - 1) times as large (law N4). Rectified hidden vectors (ReLU, SiLU, GELU)
    are refused: they share a mean and overlap far more without being related. So are means that a common mean was taken out of, which
    depend on each other (law T7): `measure_arrays(..., metrics="centred_overlap", null="isotropic")` takes it out itself.

    vectors: (..., k, width), the co-activated vectors of each token; the leading axes, one or several, number the tokens. routing: (..., k)
    integers, which expert each came from, -1 for none; an expert that a token names twice counts twice. mask: (...) or (..., k), True or 1
    for what is kept; what it leaves out is never read, whatever vectors and routing hold there. A vector that a numpy mask covers whole is
    left out too. An expert below the highest index that no token reached has no mean: it is left out and counted. null: "law", which is
    signs, "isotropic", or "random_groups", all vectors dealt to the experts anew. draws: as for `weight_mso`.

    Raises ValueError for shapes that do not fit, for values that are not finite, and where fewer than 2 experts were reached.
    """
    _check_kind(kind)
    check_null_of_arrays(null, MEANS)
    draws = check_draws(draws, null)
    routed = RoutedVectors.of(vectors, routing, mask, repeats=True)
    # The highest index stands for all up to it.
    (reached, numbered), h = routed.experts(), routed.vectors
    compact = torch.from_numpy(numbered).to(h.device)
    with pool() as (task_map, _):
        means = means_by_routing(h, compact, len(reached), task_map)
        if not torch.isfinite(means).all():
            _refuse_not_finite(h, numbered >= 0)
            # All finite, but a sum is not.
            means = means_by_routing(summable(h, compact), compact, len(reached), task_map)
    if is_centred(means, torch.from_numpy(np.bincount(numbered[numbered >= 0], minlength=len(reached))).to(means.device)):
        remedy = 'measure_arrays(..., metrics="centred_overlap", null="isotropic") takes a common mean out itself'
        raise ValueError(f"vectors: expected means that are independent, got such that a common mean was taken out of; {remedy}")
    overlap = _of_vectors("vectors", means, 0 if null in DRAWN else draws, reached.tolist(), kind, null in SIGNED)
    if null in UNSEEN:
        source = source_of(h, compact, None, kind, None, len(reached), None, None)
        overlap = by_name(overlap, null, source, Quantity("activation_mso", "mean", kind), draws)
    refuse_truncated("vectors", vectors)
    return overlap


@own_settings
def token_mso(
    vectors: Any,
    kind: str = "output",
    *,
    routing: Any = None,
    mask: Any = None,
    documents: Any = None,
    strata: Any = None,
    null: str = "law",
    draws: int = 0,
) -> Overlap:
    """Mean squared overlap of the k vectors that share a token, over n tokens, beside what fair signs would give (law T0).

    vectors: (..., k, width) numpy array, memory map or torch tensor on any device, k >= 2; the leading axes, one or several, number the
    tokens. A zero vector's pairs are left out and counted. kind: "output" or "normed", as for `mean_mso`.
    routing: (..., k) integers, which expert each vector came from, -1 for none. An expert has one sign to a coordinate, the same on all its
    tokens: with `routing` the null's spread knows which tokens those are. Without it one sign to a coordinate is common to all pairs of
    columns. An expert twice on one token is refused: its vectors are no pair of experts. mask: (...) or (..., k), True or 1 for what is
    kept. What either leaves out, or a numpy mask that covers a whole vector, is padding: never compared and not counted, whatever it holds,
    and the result has the bits of an array without the tokens that are left out whole.
    documents, strata: (...) integers, which document a token is of, and which kind of token it is (a class of sizes, or of positions). With
    `routing` the overlap is held against the same pairs of experts on other tokens as well (law T3): of other documents, by default each
    token its own; of the same stratum, and of like size. It takes at least 5 experts. `by_pair` of the result has every pair of experts.
    null: "law" is all that; the name of one null makes it the only one: "signs", and with `routing` "other_token", "isotropic" (a round
    space, law T6), "permuted" (each expert's vectors on other tokens of its own) or "random_groups" (all dealt to the experts anew), the
    last two by `draws` permutations.
    sem is over tokens. null is exact; null_sd and p are exact up to 32 coordinates and beyond come from sketches with one fixed draw of
    signs: null_sd is right to some 2 to 4 percent, and where experts say nearly the same on all of their tokens to 3 to 9 for 8 experts
    and more, to 15 for 3. draws: signs to draw for p instead, each of which costs a product of all pairs with them.

    Raises ValueError for k < 2, for no tokens, for shapes that do not fit, for values that are not finite, for rectified ones and where no
    token has two non-zero vectors.
    """
    _check_kind(kind)
    check_null_of_arrays(null, TOKENS)
    draws = check_draws(draws, null)
    needed_by(null, "routing", routing, "(..., k) integers, which expert each vector came from", names=("other_token", *UNSEEN))
    unused_by(null, "documents, strata", documents is not None or strata is not None, names=("law", "other_token"))
    routed = RoutedVectors.of(vectors, routing, mask, least=2)
    h, kept = routed.vectors, routed.kept()
    *sizes, k, width = h.shape
    labels = labels_of(documents, strata, tuple(sizes))
    if routing is None and not (documents is None and strata is None):
        raise ValueError("routing: expected (..., k) integers beside documents and strata, which say what other tokens are, got none")
    experts, reached = None, np.zeros(1, np.int64)
    if routing is not None:
        reached, numbered = routed.experts()
        experts = numbered.reshape(-1, k)
    dimensions = _dimensions(width, kind)
    signs = Signs.of(experts, (math.prod(sizes), k), width)
    with pool() as (task_map, _):
        of_tokens = token_overlap(h, task_map, kept, signs, lengths=experts is not None)
        moments = of_tokens.moments
        there = k if kept is None else kept.reshape(-1, k).sum(1)
        dropped, undefined = 0, ""
        for start in _starts_of(np.flatnonzero(np.isnan(of_tokens.cos2) | (of_tokens.pairs < there * (there - 1) // 2))):
            where, zeros = _undefined(h, start, kept)
            dropped += zeros
            undefined = undefined or where
        if not moments.pairs or of_tokens.sketches is None:
            left = "" if kept is None else f", of {int(kept.sum())} vectors that routing and mask keep"
            raise ValueError(f"vectors: no token has two non-zero vectors{left}")
        exists = np.ones((len(of_tokens.pairs), k), bool) if kept is None else kept.reshape(-1, k)
        if kind == "output" and null in SIGNED:
            refuse_rectified("vectors", one_signed_tokens(h, np.flatnonzero(of_tokens.pairs), None if kept is None else exists), REMEDY)
        drawn = None
        if draws and null not in DRAWN:
            drawn = flipped_token_overlaps(h, TokenPairs.of(experts, exists, len(reached)), draws, task_map) / moments.pairs
        signs_null = SignNull.of_sum(of_tokens.sketches.cumulants(width), moments.pairs, _factor(width, kind), drawn)
        overlap = signs_null.overlap(moments.over_pairs, moments.sem, moments.pairs, dimensions, dropped, undefined)
        if experts is None or null not in ("law", "other_token"):
            overlap = replace(overlap, verdict=verdict(overlap.p, "unnamed" if experts is None else "tokens", draws))
        else:
            others = on_other_tokens(h, experts, reached, exists, labels, (of_tokens.lengths, of_tokens.sketches), task_map)
            elsewhere = others.second.null / overlap.null if others.second and overlap.null else None
            said = verdict_of_tokens(overlap, others, elsewhere)
            beside = () if others.second is None else (others.second,)
            overlap = replace(overlap, elsewhere=elsewhere, verdict=said, beside=beside, table=others.table)
            if null == "other_token":
                overlap = by_other_tokens(overlap, others)
    if null in UNSEEN:
        source = source_of(h, numbered, None, kind, None, len(reached), None, None)
        overlap = by_name(overlap, null, source, Quantity("activation_mso", "token", kind), draws)
    refuse_truncated("vectors", vectors)
    return overlap


def _starts_of(tokens: np.ndarray) -> list[int]:
    """Where the stretches of TOKENS_AT_ONCE begin that hold any of the tokens."""
    return [int(start) for start in np.unique(tokens // TOKENS_AT_ONCE) * TOKENS_AT_ONCE]


def _undefined(h: Tensor, start: int, kept: np.ndarray | None) -> tuple[str, int]:
    """Where the first zero vectors are among TOKENS_AT_ONCE tokens, and how many; ValueError that names the first that is not finite."""
    *sizes, k, width = h.shape
    part = range(start, min(start + TOKENS_AT_ONCE, math.prod(sizes)))
    rows = tokens_at(h, part).reshape(-1, width)
    index = np.arange(len(rows)).reshape(-1, k)
    if kept is not None:
        index = np.where(kept.reshape(-1, k)[part.start : part.stop], index, -1)
    where, not_finite = undefined_vectors(rows, torch.from_numpy(index).to(h.device), start, sizes=sizes)
    if not_finite:
        raise ValueError(f"vectors: not finite at {where}")
    zero = (rows.abs().amax(-1) == 0).cpu().numpy()
    return where, int(zero[index[index >= 0]].sum())


def _refuse_not_finite(h: Tensor, kept: np.ndarray) -> None:
    """ValueError that names the first kept vector that is not finite, if there is one."""
    for start in range(0, math.prod(h.shape[:-2]), TOKENS_AT_ONCE):
        _undefined(h, start, kept)


def _check_kind(kind: Any) -> None:
    if not isinstance(kind, str):
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got a {type(kind).__name__}; give routing and mask by name")
    choice("kind", kind, KINDS)


def _dimensions(width: int, kind: str) -> int:
    """Dimensions that independent vectors of this kind spread over: centring takes one."""
    if kind == "normed" and width < 2:
        raise ValueError(f"vectors: LayerNormed vectors have a width of at least 2, got {width}")
    return width - 1 if kind == "normed" else width


def _factor(width: int, kind: str) -> float:
    """By how much overlaps exceed what signs would make of them, where LayerNorm took the mean."""
    return width / _dimensions(width, kind)


def _of_vectors(
    name: str, vectors: Tensor, draws: int, numbers: list[int] | None = None, kind: str = "output", signed: bool = True
) -> Overlap:
    """Overlap of one vector to each expert; `numbers` are the experts' own, ascending, and those left out have no vector. signed: refuse
    rectified ones."""
    experts = list(range(len(vectors))) if numbers is None else numbers
    held = set(experts)
    idle = experts[-1] + 1 - len(experts)
    unreached = list(itertools.islice((e for e in range(experts[-1]) if e not in held), 3))
    undefined: list[int] = []
    moments = Moments(0, 0.0, 0.0, 0.0, 0)
    width, drawn = vectors.shape[1], None
    keeps = math.comb(len(vectors), 2) <= MOST_PAIRS
    of_pairs = np.zeros((len(vectors), len(vectors))) if keeps else None
    with pool() as (task_map, _):
        for own, of_table in over_pairs(vectors[None], functools.partial(_moments_of_pairs, of_pairs), task_map):
            undefined += own
            moments = moments.plus(of_table)
        for e in undefined:
            if not bool(torch.isfinite(vectors[e]).all()):
                raise ValueError(f"{name}: expert {experts[e]} holds a value that is not finite")
        missing, pairs = [experts[e] for e in undefined], moments.pairs
        if not pairs:
            raise ValueError(f"{name}: fewer than 2 experts have a non-zero vector")
        dimensions = _dimensions(width, kind)
        if kind == "output" and signed:
            refuse_rectified(name, one_signed_experts(vectors), REMEDY if numbers else "simgap.metrics has the bare number")
        sums = size_sums(vectors, task_map, keeps)
        if draws:
            defined = np.setdiff1d(np.arange(len(vectors)), undefined)
            drawn = flipped_overlaps(unit_rows(vectors[defined]), draws, task_map)
    sem = math.sqrt(moments.squares / (pairs - 1)) / math.sqrt(pairs) if pairs > 1 else None
    left_out = ", ".join(f"expert {e}" for e in sorted(missing + unreached)[:3])
    null = SignNull.of_sum(sums.cumulants, pairs, _factor(width, kind), drawn)
    overlap = null.overlap(min(moments.mean, 1.0), sem, pairs, dimensions, len(missing) + idle, left_out)
    said = verdict(overlap.p, "weights" if numbers is None else "means", draws)
    table = None
    if of_pairs is not None and sums.of_pairs is not None:
        kept = np.setdiff1d(np.arange(len(vectors)), undefined)
        at = np.ix_(kept, kept)
        table = PairTable.of_vectors(np.array(experts)[kept], of_pairs[at], sums.of_pairs[at] * _factor(width, kind))
    return replace(overlap, mean=moments.mean, verdict=said, table=table)


def _moments_of_pairs(of_pairs: np.ndarray | None, _: str, cos2: np.ndarray, rows: range, columns: range) -> tuple[list[int], Moments]:
    """Of one table of pairs: the numbers of undefined vectors, where they meet themselves, and the moments of the pairs of others; the
    table goes to its place in `of_pairs`, if that is kept."""
    undefined = np.flatnonzero(np.isnan(np.diagonal(cos2[0]))) + rows.start if rows == columns else np.zeros(0, np.int64)
    if of_pairs is not None:
        of_pairs[rows.start : rows.stop, columns.start : columns.stop] = cos2[0]
    values = between(cos2, columns.stop, first=(rows.start, columns.start))[0]
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if values.size else 0.0
    apart = values - mean
    return undefined.tolist(), Moments(values.size, mean, float((apart * apart).sum()), float(values.sum()), values.size)

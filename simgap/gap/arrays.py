"""A user's own weights or hidden states against their null: is 0.02 a lot?

Any real dtype. float32, float64 and bfloat16 are read as they lie in memory, once, if their last axis is contiguous; float16 and other
layouts are copied a few million numbers at a time, whole numbers (as float64), lists and reversed views whole. All products and sums are
in float64, whatever torch's default dtype, TF32 setting and thread count.

A memory map whose file is shorter than the array is refused before it is read and after. One that is cut short while it is read can still
end the process without a word (SIGBUS): copy a file that others may write.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simgap.gap.as_tensor import as_indices, as_tensor
from simgap.gap.calibration import verdict
from simgap.gap.memory_maps import refuse_truncated
from simgap.gap.padding import expert_indices, indices_of_kept, kept_by_all, kept_by_mask, masked_vectors, refuse_repeated
from simgap.gap.token_null import token_null_variance
from simgap.metrics import Moments, between, means_by_routing, over_pairs, token_overlap, undefined_vectors
from simgap.metrics.memory import tokens_at
from simgap.settings import own_settings
from simgap.specs import nearest
from simgap.stats import moment_matched_p
from simgap.theory.mso_law import mso_p
from simgap.theory.weight_null import null_mso, null_variance
from simgap.threads import pool

# Tokens that are looked through at a time for one that is undefined.
TOKENS_AT_ONCE = 1024
KINDS = ("output", "normed")


@dataclass(frozen=True)
class Overlap:
    """A mean squared overlap beside its null; prints as one sentence.

    mean: in [0, 1]. sem: standard error over pairs (weights, means) or over tokens, None where there is one. pairs: how many it rests on.
    null: 1/width, what independent vectors without a common mean give. null_sd: how far such a mean strays from it. excess = mean / null.
    z = (mean - null) / null_sd. p: two-sided, from the law of the mean over all pairs of isotropic vectors (law N1B); over tokens from the
    Beta law with the null's mean and sd. dropped: vectors left out because they are
    zero or belong to an expert that no token reached; dropped_at names the first.
    """

    mean: float
    sem: float | None
    pairs: int
    null: float
    null_sd: float
    excess: float
    z: float
    p: float
    dropped: int = 0
    dropped_at: str = ""

    def __str__(self) -> str:
        sem = "" if self.sem is None else f" ± {self.sem:.1g}"
        lost = f"; {self.dropped} undefined vectors left out ({self.dropped_at})" if self.dropped else ""
        return (
            f"overlap {self.mean:.4g}{sem} over {self.pairs} pairs is {self.excess:.3g} times its null {self.null:.3g}, "
            f"z {self.z:.1f}, p {self.p:.2g}: {verdict(self.z, self.p)}{lost}"
        )


@own_settings
def weight_mso(weights: Any) -> Overlap:
    """Mean squared overlap of E experts' flattened weights, beside the null 1/N of independent matrices (law N1).

    weights: (E, ...) numpy array, memory map or torch tensor on any device, or a list of E of one shape and dtype, E >= 2; N is the product
    of the other axes. One matrix of each expert: matrices of different scale flattened together have a larger null
    (`simgap.theory.null_all_weights_mso`). null_sd and p are those of isotropic vectors: exact moments, and the law that has four of them
    (law N1B).

    Raises ValueError for fewer than 2 experts, for values that are masked or not finite, and where no two experts are non-zero.
    """
    vectors = as_tensor("weights", weights)
    if vectors.ndim < 2 or vectors.shape[0] < 2 or not vectors.numel():
        raise ValueError(f"weights: expected (E, ...) with at least 2 experts and some entries, got shape {tuple(vectors.shape)}")
    # In the order of memory, which inner products do not see: a transposed view is not copied.
    order = sorted(range(1, vectors.ndim), key=lambda axis: -vectors.stride()[axis])
    overlap = _of_vectors("weights", vectors.permute(0, *order).reshape(len(vectors), -1))
    refuse_truncated("weights", weights)
    return overlap


@own_settings
def mean_mso(vectors: Any, routing: Any, kind: str = "output", *, mask: Any = None) -> Overlap:
    """Mean squared overlap of experts' mean vectors over the tokens routed to them, beside the null 1/width (law N2).

    kind: "output" for expert outputs and other vectors without a mean entry of their own, null 1/width; "normed" for hidden vectors after a
    LayerNorm without gain and bias, null 1/(width - 1) (law N4). Rectified hidden vectors (ReLU, SiLU, GELU) share a mean and overlap far
    more without being related: no null here is theirs.

    vectors: (..., k, width), the co-activated vectors of each token; the leading axes, one or several, number the tokens. routing: (..., k)
    integers, which expert each came from, -1 for none; an expert that a token names twice counts twice. mask: (...) or (..., k), True or 1
    for what is kept; what it leaves out is never read, whatever vectors and routing hold there. A vector that a numpy mask covers whole is
    left out too. An expert below the highest index that no token reached has no mean: it is left out and counted.

    Raises ValueError for shapes that do not fit, for values that are not finite, and where fewer than 2 experts were reached.
    """
    data, unmasked = masked_vectors("vectors", vectors)
    h = as_tensor("vectors", data)
    _check_kind(kind)
    indices = as_indices("routing", routing)
    shape = tuple(h.shape[:-1])
    if h.ndim < 3 or indices.shape != shape or not h.numel():
        raise ValueError(
            f"vectors, routing: expected (..., k, width) and (..., k), not empty, got {tuple(h.shape)} and {tuple(indices.shape)}"
        )
    kept = kept_by_all(unmasked, None if mask is None else kept_by_mask(mask, shape))
    indices = indices_of_kept(indices.to(h.device), kept)
    if int(indices.max()) < 0:
        raise ValueError(f"routing: expected indices from 0, or -1 for none, got none{'' if kept is None else ' that the mask keeps'}")
    # Numbered anew, so that an index of any size costs nothing; the highest stands for all up to it.
    reached, numbered = torch.unique(indices[indices >= 0], return_inverse=True)
    compact = indices.masked_scatter(indices >= 0, numbered)
    with pool() as (task_map, _):
        means = means_by_routing(h, compact, len(reached), task_map)
        if not torch.isfinite(means).all():
            _refuse_not_finite(h, (indices >= 0).cpu().numpy())
            # All finite, but a sum is not: one scale for all, which no cosine sees.
            means = means_by_routing(h * 2.0**-64, compact, len(reached), task_map)
    overlap = _of_vectors("vectors", means, reached.tolist(), kind)
    refuse_truncated("vectors", data)
    return overlap


@own_settings
def token_mso(vectors: Any, kind: str = "output", *, routing: Any = None, mask: Any = None) -> Overlap:
    """Mean squared overlap of the k vectors that share a token, over n tokens, beside the null 1/width (laws N1, N2).

    vectors: (..., k, width) numpy array, memory map or torch tensor on any device, k >= 2; the leading axes, one or several, number the
    tokens. A zero vector's pairs are left out and counted. kind: "output" or "normed", as for `mean_mso`.
    routing: (..., k) integers, which expert each vector came from, -1 for none. Today it only says which vectors there are. An expert twice
    on one token is refused: its vectors are no pair of experts. mask: (...) or (..., k), True or 1 for what is kept. What either leaves
    out, or a numpy mask that covers a whole vector, is padding: never compared and not counted, whatever it holds, and the result has the
    bits of an array without the tokens that are left out whole.
    sem is over tokens. Tokens that share experts are not independent, so null_sd does not come from n alone: it adds, from a sample of
    token pairs, the covariance 2 (Q_1 - 1/d)(Q_2 - 1/d) / ((d+2)(d-1)) that law N2 gives to two tokens whose vectors have mean squared
    cosines Q with each other. Experts' outputs that barely change from token to token keep a spread that no number of tokens removes.

    Raises ValueError for k < 2, for no tokens, for shapes that do not fit, for values that are not finite, and where no token has two
    non-zero vectors.
    """
    data, unmasked = masked_vectors("vectors", vectors)
    h = as_tensor("vectors", data)
    _check_kind(kind)
    if h.ndim < 3 or h.shape[-2] < 2 or not h.numel():
        raise ValueError(f"vectors: expected (..., k, width) with at least one token, k >= 2, width >= 1, got shape {tuple(h.shape)}")
    shape = tuple(h.shape[:-1])
    kept = kept_by_all(unmasked, None if mask is None else kept_by_mask(mask, shape))
    if routing is not None:
        indices = indices_of_kept(expert_indices(routing, shape).cpu(), kept)
        refuse_repeated(indices)
        kept = kept_by_all((indices >= 0).numpy())
    k, width = h.shape[-2:]
    dimensions = _dimensions(width, kind)
    with pool() as (task_map, _):
        found = token_overlap(h, task_map, kept)
        variance = token_null_variance(h, found.pairs, dimensions, kept) if found.moments.pairs else 0.0
    moments = found.moments
    there = k if kept is None else kept.reshape(-1, k).sum(1)
    dropped, places = 0, ""
    for start in _starts_of(np.flatnonzero(np.isnan(found.cos2) | (found.pairs < there * (there - 1) // 2))):
        where, zeros = _undefined(h, start, kept)
        dropped += zeros
        places = places or where
    if not moments.pairs:
        left = "" if kept is None else f", of {int(kept.sum())} vectors that routing and mask keep"
        raise ValueError(f"vectors: no token has two non-zero vectors{left}")
    overlap = _overlap(moments.over_pairs, moments.sem, moments.pairs, dimensions, variance, dropped, places)
    refuse_truncated("vectors", data)
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
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")


def _dimensions(width: int, kind: str) -> int:
    """Dimensions that independent vectors of this kind spread over: centring takes one."""
    if kind == "normed" and width < 2:
        raise ValueError(f"vectors: LayerNormed vectors have a width of at least 2, got {width}")
    return width - 1 if kind == "normed" else width


def _of_vectors(name: str, vectors: Tensor, numbers: list[int] | None = None, kind: str = "output") -> Overlap:
    """Overlap of one vector to each expert; `numbers` are the experts' own, ascending, and those left out have no vector."""
    experts = list(range(len(vectors))) if numbers is None else numbers
    held = set(experts)
    idle = experts[-1] + 1 - len(experts)
    unreached = list(itertools.islice((e for e in range(experts[-1]) if e not in held), 3))
    undefined: list[int] = []
    moments = Moments(0, 0.0, 0.0, 0.0, 0)
    with pool() as (task_map, _):
        for own, of_table in over_pairs(vectors[None], _moments_of_pairs, task_map):
            undefined += own
            moments = moments.plus(of_table)
    for e in undefined:
        if not bool(torch.isfinite(vectors[e]).all()):
            raise ValueError(f"{name}: expert {experts[e]} holds a value that is not finite")
    missing, pairs = [experts[e] for e in undefined], moments.pairs
    if not pairs:
        raise ValueError(f"{name}: fewer than 2 experts have a non-zero vector")
    width = _dimensions(vectors.shape[1], kind)
    variance = (null_variance(width) if width > 1 else 0.0) / pairs
    sem = math.sqrt(moments.squares / (pairs - 1)) / math.sqrt(pairs) if pairs > 1 else None
    places = ", ".join(f"expert {e}" for e in sorted(missing + unreached)[:3])
    found = _overlap(moments.mean, sem, pairs, width, variance, len(missing) + idle, places)
    p = mso_p(min(found.mean, 1.0), width, pairs, 1, len(vectors) - len(missing)) if width > 1 else 1.0
    return replace(found, p=p)


def _moments_of_pairs(_: str, cos2: np.ndarray, rows: range, columns: range) -> tuple[list[int], Moments]:
    """Of one table of pairs: the numbers of undefined vectors, where they meet themselves, and the moments of the pairs of others."""
    undefined = np.flatnonzero(np.isnan(np.diagonal(cos2[0]))) + rows.start if rows == columns else np.zeros(0, np.int64)
    values = between(cos2, columns.stop, first=(rows.start, columns.start))[0]
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if values.size else 0.0
    apart = values - mean
    return undefined.tolist(), Moments(values.size, mean, float((apart * apart).sum()), float(values.sum()), values.size)


def _overlap(mean: float, sem: float | None, pairs: int, width: int, variance: float, dropped: int, where: str) -> Overlap:
    null, sd = null_mso(width), math.sqrt(variance)
    z = (mean - null) / sd if sd else 0.0
    proper = 0 < variance < null * (1 - null)
    p = moment_matched_p(mean, null, sd) if proper else 1.0
    return Overlap(mean, sem, pairs, null, sd, mean / null, z, p, dropped, where)

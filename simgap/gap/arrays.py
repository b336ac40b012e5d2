"""A user's own weights or hidden states against their null: is 0.02 a lot?

Any real dtype. float32, float64 and bfloat16 are read as they lie in memory, once, if their last axis is contiguous; float16 and other
layouts are copied a few million numbers at a time, whole numbers (as float64) and reversed views whole. All products and sums are in
float64, whatever torch's default dtype, TF32 setting and thread count.
"""

import itertools
import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simgap.gap.calibration import verdict
from simgap.metrics import between, means_by_routing, pair_cos2, token_overlap, undefined_vectors
from simgap.specs import nearest
from simgap.stats import moment_matched_p
from simgap.theory.mso_law import mso_p
from simgap.theory.weight_null import null_mso, null_variance
from simgap.threads import pool

# Tokens that are looked through at a time for one that is undefined.
TOKENS_AT_ONCE = 1024
SAMPLED_VECTORS = 1024
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


def weight_mso(weights: Any) -> Overlap:
    """Mean squared overlap of E experts' flattened weights, beside the null 1/N of independent matrices (law N1).

    weights: (E, ...) numpy array, memory map or torch tensor on any device, E >= 2; N is the product of the other axes. One matrix of each
    expert: matrices of different scale flattened together have a larger null (`simgap.theory.null_all_weights_mso`). null_sd and p are
    those of isotropic vectors: exact moments, and the law that has four of them (law N1B).

    Raises ValueError for fewer than 2 experts, for values that are not finite, and where no two experts are non-zero.
    """
    vectors = _tensor("weights", weights)
    if vectors.ndim < 2 or vectors.shape[0] < 2 or not vectors.numel():
        raise ValueError(f"weights: expected (E, ...) with at least 2 experts and some entries, got shape {tuple(vectors.shape)}")
    # In the order of memory, which inner products do not see: a transposed view is not copied.
    order = sorted(range(1, vectors.ndim), key=lambda axis: -vectors.stride()[axis])
    return _of_vectors("weights", vectors.permute(0, *order).reshape(len(vectors), -1))


def mean_mso(vectors: Any, routing: Any, kind: str = "output") -> Overlap:
    """Mean squared overlap of experts' mean vectors over the tokens routed to them, beside the null 1/width (law N2).

    kind: "output" for expert outputs and other vectors without a mean entry of their own, null 1/width; "normed" for hidden vectors after a
    LayerNorm without gain and bias, null 1/(width - 1) (law N4). Rectified hidden vectors (ReLU, SiLU, GELU) share a mean and overlap far
    more without being related: no null here is theirs.

    vectors: (n, k, width), the co-activated vectors of each token. routing: (n, k) integers, which expert each came from, -1 for none.
    An expert below the highest index that no token reached has no mean: it is left out and counted.

    Raises ValueError for shapes that do not fit, for values that are not finite, and where fewer than 2 experts were reached.
    """
    h = _tensor("vectors", vectors)
    _check_kind(kind)
    indices = _tensor("routing", routing)
    if h.ndim != 3 or indices.shape != h.shape[:2] or not h.numel():
        raise ValueError(f"vectors, routing: expected (n, k, width) and (n, k), not empty, got {tuple(h.shape)} and {tuple(indices.shape)}")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"routing: expected whole numbers, an expert's index or -1 for none, got dtype {indices.dtype}")
    indices = indices.long().to(h.device)
    if int(indices.min()) < -1 or int(indices.max()) < 0:
        raise ValueError(f"routing: expected indices from 0, or -1 for none, got {int(indices.min())} to {int(indices.max())}")
    # Numbered anew, so that an index of any size costs nothing; the highest stands for all up to it.
    reached, numbered = torch.unique(indices[indices >= 0], return_inverse=True)
    compact = indices.masked_scatter(indices >= 0, numbered)
    with pool() as (task_map, _):
        means = means_by_routing(h, compact, len(reached), task_map)
        if not torch.isfinite(means).all():
            _refuse_undefined(h, indices)
            # All finite, but a sum is not: one scale for all, which no cosine sees.
            means = means_by_routing(h * 2.0**-64, compact, len(reached), task_map)
    return _of_vectors("vectors", means, reached.tolist(), kind)


def token_mso(vectors: Any, kind: str = "output") -> Overlap:
    """Mean squared overlap of the k vectors that share a token, over n tokens, beside the null 1/width (laws N1, N2).

    vectors: (n, k, width) numpy array, memory map or torch tensor on any device, k >= 2; a zero vector's pairs are left out and counted.
    kind: "output" or "normed", as for `mean_mso`.
    sem is over tokens. Tokens that share experts are not independent, so null_sd does not come from n alone: it adds, from a sample of
    token pairs, the covariance 2 (Q_1 - 1/d)(Q_2 - 1/d) / ((d+2)(d-1)) that law N2 gives to two tokens whose vectors have mean squared
    cosines Q with each other. Experts' outputs that barely change from token to token keep a spread that no number of tokens removes.

    Raises ValueError for k < 2, for no tokens, for values that are not finite, and where no token has two non-zero vectors.
    """
    h = _tensor("vectors", vectors)
    _check_kind(kind)
    if h.ndim != 3 or h.shape[1] < 2 or not h.numel():
        raise ValueError(f"vectors: expected (n, k, width) with at least one token, k >= 2, width >= 1, got shape {tuple(h.shape)}")
    _, k, width = h.shape
    dimensions = _dimensions(width, kind)
    with pool() as (task_map, _):
        found = token_overlap(h, task_map)
        variance = _token_null_variance(h, found.moments.pairs, dimensions) if found.moments.pairs else 0.0
    moments = found.moments
    dropped, places = 0, ""
    for start in _starts_of(np.flatnonzero(np.isnan(found.cos2) | (found.pairs < k * (k - 1) // 2))):
        part = h[start : start + TOKENS_AT_ONCE]
        where, not_finite = undefined_vectors(part.reshape(-1, width), torch.arange(len(part) * k, device=h.device).view(-1, k), start)
        if not_finite:
            raise ValueError(f"vectors: not finite at {where}")
        dropped += int((part.abs().amax(-1) == 0).sum())
        places = places or where
    if not moments.pairs:
        raise ValueError("vectors: no token has two non-zero vectors")
    return _overlap(moments.over_pairs, moments.sem, moments.pairs, dimensions, variance, dropped, places)


def _starts_of(tokens: np.ndarray) -> list[int]:
    """Where the stretches of TOKENS_AT_ONCE begin that hold any of the tokens."""
    return [int(start) for start in np.unique(tokens // TOKENS_AT_ONCE) * TOKENS_AT_ONCE]


def _refuse_undefined(h: Tensor, routing: Tensor) -> None:
    """ValueError that names the first vector of an expert that is not finite, if there is one."""
    for start in range(0, len(h), TOKENS_AT_ONCE):
        part, kept = h[start : start + TOKENS_AT_ONCE], routing[start : start + TOKENS_AT_ONCE] >= 0
        index = torch.where(kept, torch.arange(kept.numel(), device=h.device).view(kept.shape), -1)
        where, not_finite = undefined_vectors(part.reshape(-1, h.shape[-1]), index, start)
        if not_finite:
            raise ValueError(f"vectors: not finite at {where}")


def _token_null_variance(h: Tensor, pairs: int, dimensions: int) -> float:
    """Null variance of a token overlap: that of independent pairs, plus the mean covariance of pairs on two different tokens (law N2).

    Between tokens t and t' it is the sum over slots of (cos^2(v_ti, v_t'i') - 1/d)(cos^2(v_tj, v_t'j') - 1/d), which is zero on average
    where the slots hold different experts, so the experts' names are not needed.
    Estimated on evenly spaced tokens, SAMPLED_VECTORS vectors in all, and cut off at 0: with far more tokens than that, what is left of the
    estimate's own error makes null_sd too wide on average, and z too small.
    """
    n, k, width = h.shape
    single = null_variance(dimensions) if dimensions > 1 else 0.0
    if n < 2 or dimensions < 2:
        return single / pairs
    sample = min(n, max(2, SAMPLED_VECTORS // k))
    picked = (torch.arange(sample) * (n - 1) // (sample - 1)).to(h.device)
    v = h[picked].double()
    largest = v.abs().amax(-1, keepdim=True)
    v = v / torch.where(largest > 0, largest, 1.0)
    v = v / v.norm(dim=-1, keepdim=True).clamp(min=1)
    m = len(picked)
    flat = v.reshape(m * k, width)
    exists = (largest > 0).double().reshape(m * k)
    q = ((flat @ flat.T).square() - 1 / dimensions) * exists[:, None] * exists
    q = q.view(m, k, m, k).permute(0, 2, 1, 3)
    # Sum over i < j and i' != j' of q_ii' q_jj': all index pairs, less those that share a row, a column, or both.
    total = q.sum((2, 3)).square() - q.sum(3).square().sum(2) - q.sum(2).square().sum(2) + q.square().sum((2, 3))
    covered = float(total.sum() - total.diagonal().sum()) / 2
    # The same sum over the pairs that exist, which is what the covariance is a mean over; each is at most the variance of one pair, and
    # at most one pair of t' can match a pair of t.
    present = exists.view(m, k).sum(1)
    existing = present * (present - 1) / 2
    couples = float(existing.sum() ** 2 - existing.square().sum())
    if couples == 0:
        return single / pairs
    matched = float(torch.minimum(existing[:, None], existing).sum() - existing.sum()) / couples
    covariance = 2 / ((dimensions + 2) * (dimensions - 1)) * covered / couples
    share = 1 - float(existing.square().sum() / existing.sum() ** 2) if n <= m else (n - 1) / n
    return single / pairs + min(max(covariance, 0.0), single * matched) * share


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}{nearest(str(kind), KINDS)}")


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
    with pool() as (task_map, _):
        table = pair_cos2(vectors[None], task_map)
    undefined = np.flatnonzero(np.isnan(np.diagonal(table[0]))).tolist()
    for e in undefined:
        if not bool(torch.isfinite(vectors[e]).all()):
            raise ValueError(f"{name}: expert {experts[e]} holds a value that is not finite")
    missing = [experts[e] for e in undefined]
    values = between(table, len(vectors))[0]
    values = values[~np.isnan(values)]
    if not values.size:
        raise ValueError(f"{name}: fewer than 2 experts have a non-zero vector")
    width = _dimensions(vectors.shape[1], kind)
    variance = (null_variance(width) if width > 1 else 0.0) / values.size
    sem = float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else None
    places = ", ".join(f"expert {e}" for e in sorted(missing + unreached)[:3])
    found = _overlap(float(values.mean()), sem, values.size, width, variance, len(missing) + idle, places)
    p = mso_p(min(found.mean, 1.0), width, values.size, 1, len(vectors) - len(missing)) if width > 1 else 1.0
    return replace(found, p=p)


def _overlap(mean: float, sem: float | None, pairs: int, width: int, variance: float, dropped: int, where: str) -> Overlap:
    null, sd = null_mso(width), math.sqrt(variance)
    z = (mean - null) / sd if sd else 0.0
    proper = 0 < variance < null * (1 - null)
    p = moment_matched_p(mean, null, sd) if proper else 1.0
    return Overlap(mean, sem, pairs, null, sd, mean / null, z, p, dropped, where)


def _tensor(name: str, value: Any) -> Tensor:
    """A numeric tensor over the user's memory, without a copy of floats of 64 bits and fewer; whole numbers as float64."""
    if isinstance(value, Tensor):
        tensor = value.detach()
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise ValueError(f"{name}: expected a plain dense tensor, got {tensor.layout}, {tensor.dtype} on {tensor.device.type}")
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name}: expected an array, got {' '.join(str(error).split())}") from None
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{name}: expected numbers, got dtype {array.dtype}")
        if array.dtype.byteorder == ">" or array.dtype.itemsize > 8 or any(stride < 0 for stride in array.strides):
            native = array.dtype.itemsize <= 8 and array.dtype.byteorder != ">"
            array = np.ascontiguousarray(array, dtype=array.dtype if native else np.float64 if array.dtype.kind == "f" else np.int64)
        with warnings.catch_warnings():
            # torch warns of a read-only array, because one could write through its tensor; nothing here does.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            tensor = torch.from_numpy(array)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: expected real numbers, got dtype {tensor.dtype}")
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return tensor.float()
    return tensor if name == "routing" or tensor.is_floating_point() else tensor.double()

"""How far the overlap on tokens strays from its null when tokens share experts (law N2)."""

import numpy as np
import torch
from torch import Tensor

from simgap.metrics.memory import tokens_at
from simgap.theory.weight_null import null_variance

SAMPLED_VECTORS = 1024


def token_null_variance(h: Tensor, pairs: np.ndarray, dimensions: int, kept: np.ndarray | None = None) -> float:
    """Null variance of a token overlap: that of independent pairs, plus the mean covariance of pairs on two different tokens (law N2).

    Between tokens t and t' it is the sum over slots of (cos^2(v_ti, v_t'i') - 1/d)(cos^2(v_tj, v_t'j') - 1/d), which is zero on average
    where the slots hold different experts, so the experts' names are not needed.
    Estimated on evenly spaced tokens, SAMPLED_VECTORS vectors in all, and cut off at 0: with far more tokens than that, what is left of the
    estimate's own error makes null_sd too wide on average, and z too small.

    h: (..., k, width). pairs: how many each token has, some of them any; the others are not among those that are sampled. kept: which
    vectors there are, (..., k), by default all.
    """
    *_, k, _ = h.shape
    tokens, count = np.flatnonzero(pairs), int(pairs.sum())
    n = len(tokens)
    single = null_variance(dimensions) if dimensions > 1 else 0.0
    if n < 2 or dimensions < 2:
        return single / count
    sample = min(n, max(2, SAMPLED_VECTORS // k))
    picked = tokens[np.arange(sample) * (n - 1) // (sample - 1)]
    v = tokens_at(h, picked).double()
    if kept is not None:
        v = v.masked_fill(torch.from_numpy(~kept.reshape(-1, k)[picked, :, None]).to(h.device), 0.0)
    largest = v.abs().amax(-1, keepdim=True)
    v = v / torch.where(largest > 0, largest, 1.0)
    v = v / v.norm(dim=-1, keepdim=True).clamp(min=1)
    m = len(picked)
    flat = v.flatten(0, 1)
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
        return single / count
    matched = float(torch.minimum(existing[:, None], existing).sum() - existing.sum()) / couples
    covariance = 2 / ((dimensions + 2) * (dimensions - 1)) * covered / couples
    share = 1 - float(existing.square().sum() / existing.sum() ** 2) if n <= m else (n - 1) / n
    return single / count + min(max(covariance, 0.0), single * matched) * share

"""Sums of cos^2 and counts of pairs over the trials of a group, quantity by quantity, and where vectors were left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.metrics import between, token_cos2, undefined_vectors
from simgap.specs import LayerSpec
from simgap.threads import Map, worth

ROUTED, SHARED = "routed", "shared"
Path = tuple[str, ...]


@dataclass
class Tally:
    """One quantity over the trials of a group: sums of cos^2 and counts of pairs, and where undefined vectors were left out."""

    total: np.ndarray
    pairs: np.ndarray
    expected: np.ndarray
    at: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, trials: int) -> "Tally":
        return cls(np.zeros(trials), np.zeros(trials, np.int64), np.zeros(trials, np.int64))


@dataclass(frozen=True)
class Job:
    """One token-wise quantity of a block: vectors, the rows of each token's experts, and `lead` where pairs run across."""

    path: Path
    rows: Float[Tensor, "s R width"]
    index: Int[Tensor, "s n m"]
    lead: int | None


def tally_pairs(found: dict[Path, object], path: Path, cos2: Float[np.ndarray, "s E E"], spec: LayerSpec, trials: Sequence[int]) -> None:
    """Tally a table of pairs, for routed pairs and for shared-with-routed ones; NaN marks an undefined vector, named by its expert."""
    names = [ROUTED, SHARED] if spec.n_shared_experts else [ROUTED]
    at = [f"trial {trials[t]} expert {e}" for t, e in np.argwhere(np.isnan(np.diagonal(cos2, axis1=1, axis2=2))).tolist()]
    for name in names:
        values = between(cos2, spec.n_experts, shared=name == SHARED)
        defined = ~np.isnan(values)
        found[(name, *path)] = Tally(np.where(defined, values, 0.0).sum(1), defined.sum(1), np.full(len(trials), values.shape[1]), at)


def tally_tokens(found: dict[Path, object], jobs: list[Job], trials: Sequence[int], first: int, task_map: Map) -> None:
    """Add a block of tokens to the tallies of the token and all readings, one task to a quantity."""

    def one(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        s, n, m = job.index.shape
        offset = torch.arange(s, device=job.index.device)[:, None, None] * job.rows.shape[1]
        index = torch.where(job.index < 0, -1, job.index + offset).reshape(s * n, m)
        cos2, pairs = token_cos2(job.rows.flatten(0, 1), index, job.lead)
        due = _pairs_due(job.index, job.lead)
        cos2, pairs = cos2.reshape(s, n), pairs.reshape(s, n)
        places = []
        for t in np.flatnonzero((pairs.sum(1) != due) | np.isnan(cos2).any(1)).tolist():
            where, not_finite = undefined_vectors(job.rows[t], job.index[t], first)
            places.append(f"trial {trials[t]}: {where}")
            if not_finite:
                raise ValueError(f"{' '.join(job.path[2:])} vectors that are not finite: {places[-1]}")
        return cos2 * pairs, pairs.sum(1), due, places

    numbers = sum(job.index.numel() * job.rows.shape[-1] for job in jobs)
    for job, (values, pairs, due, places) in zip(jobs, worth(task_map, numbers)(one, jobs), strict=True):
        tally = found.setdefault(job.path, Tally.empty(len(trials)))
        assert isinstance(tally, Tally)  # noqa: S101 - narrows a heterogeneous dict for the type checker
        # Token after token, so that the sum does not depend on how tokens are cut into blocks; numpy's own sum of a row would.
        tally.total = np.add.accumulate(np.concatenate([tally.total[:, None], values], 1), axis=1)[:, -1]
        tally.pairs += pairs
        tally.expected += due
        tally.at.extend(places)


def _pairs_due(index: Int[Tensor, "s n m"], lead: int | None) -> np.ndarray:
    """Pairs of existing vectors in each trial, defined or not."""
    exists = (index >= 0).sum(-1)
    if lead is None:
        return (exists * (exists - 1) // 2).sum(1).cpu().numpy()
    inside = (index[..., :lead] >= 0).sum(-1)
    return (inside * (exists - inside)).sum(1).cpu().numpy()

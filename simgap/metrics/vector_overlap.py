"""Overlap of vectors on a token: of the experts that are active on it, or of all experts."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from simgap.quantities import ROUTED, SHARED, SITES, Quantity
from simgap.sources import TOKEN_BLOCK, Block, Needs, Source, Work, missing_site
from simgap.specs import LayerSpec
from simgap.sums import NAMED, Skipped, Values
from simgap.threads import if_large

ORDER, DEFAULT, SIDES, RANGE = 2, True, (ROUTED, SHARED), (0.0, 1.0)
QUANTITIES = tuple(Quantity("activation_mso", reading, site) for reading in ("token", "all") for site in SITES)
missing = missing_site


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    sites = {quantity.site for quantity in asked}
    return Needs(tuple(site for site in SITES if site in sites), any(quantity.reading == "all" for quantity in asked))


@dataclass(frozen=True)
class TokenGroup:
    """Which vectors of a token are compared, and `n_first` where pairs run from so many first ones to the others.

    index (s, n, m): the rows of a token's experts, -1 for none; over all trials in `flat` (s n, m). expected (s,): pairs, defined or not.
    own (s,): how many of the first ones a trial fills, where the table is as wide as its widest trial needs; None where all do.
    """

    index: Int[Any, "s n m"]
    flat: Int[Any, "N m"]
    n_first: int | None
    expected: Int[np.ndarray, " s"]
    own: list[int] | None

    def slots(self, t: int) -> Int[Any, "n m"]:
        """The rows of one trial's tokens, in as many columns as it has alone."""
        import torch

        index = self.index[t]
        return index if self.own is None else torch.cat([index[:, : self.own[t]], index[:, self.n_first :]], 1)


@dataclass(frozen=True)
class State:
    """values: sums of cos^2, and where vectors are undefined: as "token 4 slot 1", by trial of the group and part of TOKEN_BLOCK tokens, so
    that what is named does not depend on how tokens are cut into blocks."""

    source: Source
    asked: tuple[Quantity, ...]
    work: Work
    values: dict[Quantity, Values] = field(default_factory=dict)
    undefined: dict[Quantity, dict[tuple[int, int], list[str]]] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """Compare the vectors of a block of tokens, one task to a quantity."""
        groups = self._groups(block)
        tasks = [(q.on(side), groups[side, q.reading]) for q in self.asked for side in (ROUTED, SHARED) if (side, q.reading) in groups]
        numbers = sum(group.index.numel() * block.rows[q.site].shape[-1] for q, group in tasks)
        results = if_large(self.work.task_map, numbers)(lambda task: self._compared(block, *task), tasks)
        for (quantity, group), (cos2, pairs, undefined) in zip(tasks, results, strict=True):
            values = self.values.setdefault(quantity, Values.empty(len(cos2)))
            # Token after token, so that the sum does not depend on how tokens are cut into blocks; numpy's own sum of a row would.
            cos2[:, 0] += values.total
            values.total = np.add.accumulate(cos2, axis=1)[:, -1]
            values.pairs += pairs
            values.expected += group.expected
            for key, names in undefined.items():
                self.undefined.setdefault(quantity, {}).setdefault(key, []).extend(names)

    def finish(self) -> dict[Quantity, Values]:
        for quantity, own in self.undefined.items():
            for t, part in sorted(own):
                named = ", ".join(own[t, part][:NAMED])
                self.values[quantity].skip(t, Skipped(1, (f"trial {self.source.trials[t]}: {named}",)))
        return self.values

    def _groups(self, block: Block) -> dict[tuple[str, str], TokenGroup]:
        """What is compared on the tokens of a block, by side and reading."""
        import torch

        readings, shared = {quantity.reading for quantity in self.asked}, self.source.spec.n_shared_experts
        k, rows, groups = block.index.shape[-1] - shared, next(iter(block.rows.values())).shape[1], {}
        if "token" in readings:
            groups[ROUTED, "token"] = _group(block.index[..., :k], rows)
            if shared:
                own = (self.source.indices >= 0).sum(-1).amax(1).tolist()
                groups[SHARED, "token"] = _group(block.index, rows, k, own)
        if "all" in readings and block.every is not None:
            groups[ROUTED, "all"] = _group(block.every, rows)
            if shared:
                routed_and_shared = torch.cat([block.every, block.index[..., k:]], -1)
                groups[SHARED, "all"] = _group(routed_and_shared, rows, self.source.spec.n_experts)
        return groups

    def _compared(
        self, block: Block, quantity: Quantity, group: TokenGroup
    ) -> tuple[Float[np.ndarray, "s n"], Int[np.ndarray, " s"], dict[tuple[int, int], list[str]]]:
        """Sums of cos^2 on each token, pairs of each trial, and where vectors are undefined."""
        from simgap.overlaps.token_overlap import token_cos2, undefined_vectors

        rows, (s, n, _), first = block.rows[quantity.site], group.index.shape, block.first
        cos2, pairs = (values.reshape(s, n) for values in token_cos2(rows.flatten(0, 1), group.flat, group.n_first))
        broken = np.flatnonzero((pairs.sum(1) != group.expected) | np.isnan(cos2).any(1)).tolist()
        undefined = {}
        for t, part in ((t, part) for t in broken for part in range(first // TOKEN_BLOCK, -(-(first + n) // TOKEN_BLOCK))):
            start, stop = max(first, part * TOKEN_BLOCK), (part + 1) * TOKEN_BLOCK
            where, not_finite = undefined_vectors(rows[t], group.slots(t)[start - first : stop - first], start, NAMED)
            if not_finite:
                raise ValueError(f"{quantity.reading} {quantity.site} vectors that are not finite: trial {self.source.trials[t]}: {where}")
            if where:
                undefined[t, part] = where.split(", ")
        return cos2 * pairs, pairs.sum(1), undefined


def _group(index: Int[Any, "s n m"], rows: int, n_first: int | None = None, own: list[int] | None = None) -> TokenGroup:
    """The vectors of a block, of which each trial has so many rows."""
    import torch

    (s, n, m), exists = index.shape, index >= 0
    flat = torch.where(exists, index + torch.arange(0, s * rows, rows, device=index.device)[:, None, None], -1).reshape(s * n, m)
    there = exists.sum(-1)
    first = None if n_first is None else exists[..., :n_first].sum(-1)
    pairs = there * (there - 1) // 2 if first is None else first * (there - first)
    return TokenGroup(index, flat, n_first, pairs.sum(1).cpu().numpy(), own)


start = State

"""Overlap of vectors on a token: of the experts that are active on it, or of all experts."""

from collections.abc import Iterator
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
    """Which vectors of a token are compared, and `lead` where pairs run from so many first ones to the others.

    index (s, n, m): the rows of a token's experts, -1 for none; over all trials in `flat` (s n, m). expected (s,): pairs, defined or not.
    own (s,): how many of the first ones a trial fills, where the table is as wide as its widest trial needs; None where all do.
    """

    side: str
    reading: str
    index: Int[Any, "s n m"]
    flat: Int[Any, "N m"]
    lead: int | None
    expected: Int[np.ndarray, " s"]
    own: list[int] | None

    def slots(self, t: int) -> Int[Any, "n m"]:
        """The rows of one trial's tokens, in as many columns as it has alone."""
        import torch

        index = self.index[t]
        return index if self.own is None else torch.cat([index[:, : self.own[t]], index[:, self.lead :]], 1)


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
        groups = {(group.side, group.reading): group for group in self._groups(block)}
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

    def _groups(self, block: Block) -> Iterator[TokenGroup]:
        """The token and all readings of a block, shared experts apart."""
        import torch

        readings, shared = {quantity.reading for quantity in self.asked}, self.source.spec.n_shared_experts
        k = block.index.shape[-1] - shared
        rows = next(iter(block.rows.values())).shape[1]

        def group(side: str, reading: str, index: Any, lead: int | None = None, own: list[int] | None = None) -> TokenGroup:
            s, n, m = index.shape
            flat = torch.where(index < 0, -1, index + torch.arange(s, device=index.device)[:, None, None] * rows).reshape(s * n, m)
            return TokenGroup(side, reading, index, flat, lead, _expected_pairs(index, lead), own)

        if "token" in readings:
            yield group(ROUTED, "token", block.index[..., :k])
            if shared:
                own = (self.source.indices >= 0).sum(-1).amax(1).tolist()
                yield group(SHARED, "token", block.index, k, own)
        if "all" in readings and block.every is not None:
            yield group(ROUTED, "all", block.every)
            if shared:
                yield group(SHARED, "all", torch.cat([block.every, block.index[..., k:]], -1), self.source.spec.n_experts)

    def _compared(
        self, block: Block, quantity: Quantity, group: TokenGroup
    ) -> tuple[Float[np.ndarray, "s n"], Int[np.ndarray, " s"], dict[tuple[int, int], list[str]]]:
        """Sums of cos^2 on each token, pairs of each trial, and where vectors are undefined."""
        from simgap.overlaps.token_overlap import token_cos2, undefined_vectors

        rows, (s, n, _), first = block.rows[quantity.site], group.index.shape, block.first
        cos2, pairs = (values.reshape(s, n) for values in token_cos2(rows.flatten(0, 1), group.flat, group.lead))
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


def _expected_pairs(index: Int[Any, "s n m"], lead: int | None) -> Int[np.ndarray, " s"]:
    """Pairs of existing vectors in each trial, defined or not."""
    exists = (index >= 0).sum(-1)
    if lead is None:
        return (exists * (exists - 1) // 2).sum(1).cpu().numpy()
    inside = (index[..., :lead] >= 0).sum(-1)
    return (inside * (exists - inside)).sum(1).cpu().numpy()


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    return State(source, asked, work)

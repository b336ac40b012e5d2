"""One group of trials, tallied: the pairs of its weights, of its mean vectors, and of the vectors that meet on its tokens."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.gap.shape import SITES
from simgap.gap.tallies import NAMED, ROUTED, SHARED, GroupTallies, Path, Places, Tally
from simgap.metrics import (
    add_sums,
    between,
    counts,
    cross_gram,
    dropped_tokens,
    over_pairs,
    over_tables,
    token_cos2,
    total,
    undefined_vectors,
    waves,
)
from simgap.metrics.pair_tables import Products, Reduce
from simgap.moe import HIDDEN_BLOCK, Block, Layer, StreamedWeights, Weights, matrices
from simgap.moe.inputs import TOKEN_BLOCK
from simgap.seeding import Role
from simgap.specs import LayerSpec
from simgap.threads import Map, worth


@dataclass(frozen=True)
class Wanted:
    sites: tuple[str, ...]
    readings: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def all_pairs(self) -> bool:
        return "all" in self.readings

    def of(self, spec: LayerSpec) -> "Wanted":
        """What there is of it in a layer."""
        return Wanted(tuple(site for site in self.sites if site != "normed" or spec.norm != "none"), self.readings, self.weights)

    def by_token(self) -> tuple[str, ...]:
        """Sites whose vectors are wanted one by one."""
        return self.sites if {"token", "all"} & set(self.readings) else ()

    def summed(self, spec: LayerSpec) -> tuple[str, ...]:
        """Sites whose vectors are summed to means. Mean outputs come from the mean of what W_down reads, unless outputs are at hand."""
        if "mean" not in self.readings:
            return ()
        if "output" not in self.sites or self.by_token():
            return self.sites
        last = "normed" if spec.norm != "none" else "hidden"
        return tuple(site for site in SITES if site == last or (site in self.sites and site != "output"))

    @property
    def quantities(self) -> int:
        """How many there are, those of shared experts apart."""
        return len(self.weights) + len(self.readings) * len(self.sites)

    def computed(self, spec: LayerSpec) -> tuple[str, ...]:
        """Sites whose vectors must be computed token by token."""
        return tuple(site for site in SITES if site in {*self.by_token(), *self.summed(spec)})


# Undefined vectors of each quantity, as "token 4 slot 1", by trial of the group and part of TOKEN_BLOCK tokens, so that what is named does
# not depend on how tokens are cut into blocks.
Spots = dict[Path, dict[tuple[int, int], list[str]]]


@dataclass(frozen=True)
class Meeting:
    """Which vectors of a token are compared, in one reading, and `lead` where pairs run from so many first ones to the others.

    index (s, n, m): the rows of a token's experts, -1 for none; over all trials in `flat` (s n, m). due (s,): pairs, defined or not.
    own (s,): how many of the first ones a trial fills, where the table is as wide as its widest trial needs; None where all do.
    """

    name: str
    reading: str
    index: Int[Tensor, "s n m"]
    flat: Int[Tensor, "N m"]
    lead: int | None
    due: Int[np.ndarray, " s"]
    own: list[int] | None

    def slots(self, t: int) -> Int[Tensor, "n m"]:
        """The rows of one trial's tokens, in as many columns as it has alone."""
        index = self.index[t]
        return index if self.own is None else torch.cat([index[:, : self.own[t]], index[:, self.lead :]], 1)


def tally_layer(
    layer: Layer,
    wanted: Wanted,
    task_map: Map,
    block_tokens: int,
    progress: Callable[[float], object],
    tables: int = 1,
) -> GroupTallies:
    """Tallies of one group of trials, and what its router did.

    progress is told of the shares of a trial that are done: one for the weights, one for each block of tokens. tables: of pairs of many
    experts, so many are made side by side. Raises ValueError naming the trial for vectors that are not finite.
    """
    spec, trials = layer.spec, [draw.trial for draw in layer.draws]
    sites, first = wanted.computed(spec), 0
    steps = 1 + (-(-layer.x.shape[1] // block_tokens) if sites else 0)
    found: dict[Path, Tally] = {}
    spots: Spots = {}
    by_side, products = _by_side(spec, trials), _weight_grams(layer.weights, spec, wanted.weights)
    for kind, tallies in over_tables(spec.n_experts + spec.n_shared_experts, products, by_side, task_map, tables):
        _add_pairs(found, ("weight_mso", kind), tallies)
    taken = counts(layer.routing.indices, spec.n_experts)

    progress(1 / steps)
    sums = {site: _no_sums(layer, site) for site in wanted.summed(spec)}
    for block in layer.blocks(sites, wanted.all_pairs, task_map, block_tokens) if sites else ():
        _add_block(block, sums, spec, task_map)
        _tally_tokens(found, spots, block, _meetings(block, wanted, layer), wanted.by_token(), trials, first, task_map)
        first += block.index.shape[1]
        # The next block is computed without this one in memory.
        del block
        progress(1 / steps)
    for path, (t, part) in ((path, key) for path, own in spots.items() for key in sorted(own)):
        found[path].add_places(t, Places(1, (f"trial {trials[t]}: {', '.join(spots[path][t, part][:NAMED])}",)))
    if sums:
        for site, vectors in _means(layer, taken, sums, wanted, task_map).items():
            numbers = max(vectors.numel(), len(vectors) * vectors.shape[1] ** 2)
            for tallies in over_pairs(vectors, by_side, worth(task_map, numbers), tables):
                _add_pairs(found, ("activation_mso", "mean", site), tallies)
    return GroupTallies(found, taken, dropped_tokens(layer.routing.indices))


def _meetings(block: Block, wanted: Wanted, layer: Layer) -> list[Meeting]:
    """The token and all readings of a block, shared experts apart."""
    shared = layer.spec.n_shared_experts
    k = block.index.shape[-1] - shared
    rows = next(iter(block.rows.values())).shape[1] if block.rows else 0

    def meeting(name: str, reading: str, index: Tensor, lead: int | None = None, own: list[int] | None = None) -> Meeting:
        s, n, m = index.shape
        flat = torch.where(index < 0, -1, index + torch.arange(s, device=index.device)[:, None, None] * rows).reshape(s * n, m)
        return Meeting(name, reading, index, flat, lead, _pairs_due(index, lead), own)

    found = []
    if "token" in wanted.readings:
        found.append(meeting(ROUTED, "token", block.index[..., :k]))
        if shared:
            own = (layer.routing.indices >= 0).sum(-1).amax(1).tolist()
            found.append(meeting(SHARED, "token", block.index, k, own))
    if block.every is not None:
        found.append(meeting(ROUTED, "all", block.every))
        if shared:
            found.append(meeting(SHARED, "all", torch.cat([block.every, block.index[..., k:]], -1), layer.spec.n_experts))
    return found


def _pairs_due(index: Int[Tensor, "s n m"], lead: int | None) -> Int[np.ndarray, " s"]:
    """Pairs of existing vectors in each trial, defined or not."""
    exists = (index >= 0).sum(-1)
    if lead is None:
        return (exists * (exists - 1) // 2).sum(1).cpu().numpy()
    inside = (index[..., :lead] >= 0).sum(-1)
    return (inside * (exists - inside)).sum(1).cpu().numpy()


def _tally_tokens(
    found: dict[Path, Tally],
    spots: Spots,
    block: Block,
    meetings: list[Meeting],
    sites: tuple[str, ...],
    trials: Sequence[int],
    first: int,
    task_map: Map,
) -> None:
    """Add a block of tokens to the tallies of the token and all readings, one task to a quantity."""

    def one(site: str, meeting: Meeting) -> tuple[np.ndarray, np.ndarray, dict[tuple[int, int], list[str]]]:
        rows, (s, n, _) = block.rows[site], meeting.index.shape
        cos2, pairs = (found.reshape(s, n) for found in token_cos2(rows.flatten(0, 1), meeting.flat, meeting.lead))
        undefined = np.flatnonzero((pairs.sum(1) != meeting.due) | np.isnan(cos2).any(1)).tolist()
        places = {}
        for t, part in ((t, part) for t in undefined for part in range(first // TOKEN_BLOCK, -(-(first + n) // TOKEN_BLOCK))):
            start, stop = max(first, part * TOKEN_BLOCK), (part + 1) * TOKEN_BLOCK
            where, not_finite = undefined_vectors(rows[t], meeting.slots(t)[start - first : stop - first], start, NAMED)
            if not_finite:
                raise ValueError(f"{meeting.reading} {site} vectors that are not finite: trial {trials[t]}: {where}")
            if where:
                places[t, part] = where.split(", ")
        return cos2 * pairs, pairs.sum(1), places

    tasks = [(site, meeting) for site in sites for meeting in meetings]
    numbers = sum(meeting.index.numel() * block.rows[site].shape[-1] for site, meeting in tasks)
    results = worth(task_map, numbers)(lambda task: one(*task), tasks)
    for (site, meeting), (values, pairs, places) in zip(tasks, results, strict=True):
        path = (meeting.name, "activation_mso", meeting.reading, site)
        tally = found.setdefault(path, Tally.empty(len(trials)))
        # Token after token, so that the sum does not depend on how tokens are cut into blocks; numpy's own sum of a row would.
        values[:, 0] += tally.total
        tally.total = np.add.accumulate(values, axis=1)[:, -1]
        tally.pairs += pairs
        tally.expected += meeting.due
        for key, names in places.items():
            spots.setdefault(path, {}).setdefault(key, []).extend(names)


def _by_side(spec: LayerSpec, trials: Sequence[int]) -> Reduce[dict[str, Tally]]:
    """A function that tallies a table of pairs: the routed ones, and those of a shared with a routed expert. NaN marks an undefined vector,
    named by its expert where it meets itself."""

    def by_side(_: str, cos2: Float[np.ndarray, "s a b"], rows: range, columns: range) -> dict[str, Tally]:
        at: dict[int, list[str]] = {}
        for t, e in np.argwhere(np.isnan(np.diagonal(cos2, axis1=1, axis2=2))).tolist() if rows == columns else ():
            at.setdefault(t, []).append(f"trial {trials[t]} expert {rows[e]}")
        places = {t: Places(len(names), tuple(names[:NAMED])) for t, names in at.items()}
        tallies = {}
        for side in (ROUTED, SHARED) if spec.n_shared_experts else (ROUTED,):
            values = between(cos2, spec.n_experts, side == SHARED, (rows.start, columns.start))
            undefined = np.isnan(values)
            pairs = values.shape[1] - undefined.sum(1)
            tallies[side] = Tally(np.where(undefined, 0.0, values).sum(1), pairs, np.full(len(trials), values.shape[1]), dict(places))
        return tallies

    return by_side


def _add_pairs(found: dict[Path, Tally], path: Path, tallies: dict[str, Tally]) -> None:
    """Add what one table of pairs holds of a quantity."""
    for side, tally in tallies.items():
        if (side, *path) in found:
            found[side, *path].add(tally)
        else:
            found[side, *path] = tally


def _no_sums(layer: Layer, site: str) -> Float[Tensor, "s E width"]:
    spec = layer.spec
    shape = (len(layer.x), spec.n_experts + spec.n_shared_experts, spec.d_model if site == "output" else spec.d_ff)
    return torch.zeros(shape, dtype=torch.float64, device=layer.x.device)


def _add_block(block: Block, sums: dict[str, Tensor], spec: LayerSpec, task_map: Map) -> None:
    """Add the vectors of a block of tokens to each expert's sums: routed experts' own tokens, and all of them to the shared ones."""
    experts = spec.n_experts + spec.n_shared_experts
    # Experts are numbered over all trials.
    trial = torch.arange(len(block.owner), device=block.owner.device)[:, None]
    owner = torch.where(block.owner < 0, -1, block.owner + experts * trial)

    def add(site: str) -> None:
        add_sums(block.rows[site], owner, sums[site].flatten(0, 1))

    numbers = sum(block.rows[site].numel() for site in sums)
    list(worth(task_map, numbers)(add, sums))


def _means(
    layer: Layer, taken: Int[np.ndarray, "s E"], sums: dict[str, Tensor], wanted: Wanted, task_map: Map
) -> dict[str, Float[Tensor, "s E width"]]:
    """Each expert's mean vector at every wanted site. Idle experts get zeros."""
    spec = layer.spec
    shared = np.full((len(taken), spec.n_shared_experts), layer.x.shape[1])
    tokens = torch.from_numpy(np.maximum(np.concatenate([taken, shared], 1), 1)).to(layer.x.device)
    means = {site: total / tokens[..., None] for site, total in sums.items()}
    if "output" in wanted.sites and "output" not in means:
        means["output"] = layer.output_of_means(means["normed" if spec.norm != "none" else "hidden"], task_map).double()
    for site in wanted.sites:
        finite = torch.isfinite(means[site]).all(-1)
        if not finite.all():
            t, expert = (~finite).nonzero()[0].tolist()
            raise ValueError(f"mean {site} vector of trial {layer.draws[t].trial} expert {expert} is not finite")
    return {site: means[site] for site in wanted.sites}


def _weight_grams(weights: Weights | StreamedWeights, spec: LayerSpec, kinds: tuple[str, ...]) -> Products:
    """A function that gives inner products of some experts' flattened weights with others': of each wanted matrix, and under "all" of their
    concatenation, each by block of hidden units."""
    roles = [role for role in matrices(spec) if role in kinds or "all" in kinds]
    blocks = -(-spec.d_ff // HIDDEN_BLOCK)
    tasks = [(role, block) for role in roles for block in range(blocks)]

    def products(rows: range, columns: range, task_map: Map) -> Iterator[tuple[str, Float[Tensor, "s a b"]]]:
        def table(task: tuple[Role, int]) -> Tensor:
            if isinstance(weights, Weights):
                return cross_gram(weights.pieces(*task), rows, columns)
            # Only the experts of this table are drawn.
            some, others = range(len(rows)), range(len(rows), len(rows) + len(columns))
            return (
                cross_gram(weights.pieces(*task, rows), some, some)
                if rows == columns
                else cross_gram(weights.pieces(*task, [*rows, *columns]), some, others)
            )

        trials = len(weights.trials)
        shared = waves(worth(task_map, spec.parameters * trials), trials * len(rows) * len(columns))
        tables, every = iter(shared(table, tasks)), None
        for role in roles:
            one = total(itertools.islice(tables, blocks))
            if "all" in kinds:
                every = one.clone() if every is None else every.add_(one)
            if role in kinds:
                yield role, one
        if every is not None:
            yield "all", every

    return products

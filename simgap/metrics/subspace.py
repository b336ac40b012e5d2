"""In which directions do an expert's vectors vary, and are they those of other experts? Principal components weighted by the gates.

Of each expert, the vectors of the tokens that the router gave it, each weighted by its gate, about their weighted mean: the components of
its outputs (or of another site), and of its inputs, the tokens themselves ("input_..."). Of every pair of experts:

subspace_overlap: |U'V|^2 / min(r, q) of the two bases, the mean cos^2 of their principal angles, in [0, 1]; subspace_largest: the largest
cos^2; subspace_geodesic: sqrt(sum of squared angles), subspace_chordal: sqrt(sum of their sin^2). Reading "rank_8": the 8 leading
components of each; "variance_90": as many as hold 90% of the variance; "edge": as many as stand out of equal noise (Marchenko and Pastur).
Of each expert, averaged: pca_effective_rank, exp of the entropy of the shares of variance, and pca_participation_ratio.

Experts whose inputs come of one law, or whose outputs share a space that is not round, have subspaces in common by that alone: beside each
value stands what untrained experts have, or random groups of the same tokens (null="random_groups"), not r/d alone.

Components are exact up to a width of 256, or 256 tokens an expert; beyond, 128 leading directions are kept, in memory of 256 rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from simgap.quantities import ROUTED, SITES, Quantity
from simgap.sources import Block, Needs, Source, Work, missing_site
from simgap.specs import LayerSpec
from simgap.sums import NAMED, Values

if TYPE_CHECKING:
    from simgap.overlaps.subspaces import Components, Rows

ORDER, DEFAULT, SIDES, RANGE = 7, False, (ROUTED,), (0.0, float(1 << 40))
DISTANCES, RANKS, SPECTRUM = (
    ("overlap", "largest", "geodesic", "chordal"),
    ("rank_8", "variance_90", "edge"),
    ("effective_rank", "participation_ratio"),
)
OF_VECTORS = (
    *(Quantity(f"subspace_{name}", rank, site) for name in DISTANCES for rank in RANKS for site in SITES),
    *(Quantity(f"pca_{name}", "", site) for name in SPECTRUM for site in SITES),
)
OF_INPUTS = (
    *(Quantity(f"input_subspace_{name}", rank) for name in DISTANCES for rank in RANKS),
    *(Quantity(f"input_pca_{name}") for name in SPECTRUM),
)
QUANTITIES = OF_VECTORS + OF_INPUTS
RANK, SHARE = 8, 0.9
# Rows that are held of each expert: as of overlaps.subspaces, which needs torch.
HELD = 256


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    width = spec.d_model if quantity.site in ("", "output") else spec.d_ff
    if quantity.reading == "rank_8" and width < RANK:
        return f"rank_8: of vectors of a width of at least {RANK}, not {width}"
    return missing_site(spec, quantity)


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    sites = tuple(site for site in SITES if any(quantity.site == site for quantity in asked))
    widths = [spec.d_model if site == "output" else spec.d_ff for site in sites] + [spec.d_model] * any(not q.site for q in asked)
    return Needs(sites, routing=True, inputs=any(not q.site for q in asked), bytes=8 * spec.n_experts * HELD * 2 * sum(widths))


@dataclass(frozen=True)
class State:
    """rows: by site ("" for the tokens themselves), trial and expert."""

    source: Source
    asked: tuple[Quantity, ...]
    work: Work
    rows: "dict[tuple[str, int, int], Rows]"

    def add(self, block: Block) -> None:
        indices, gates = block.indices, block.gates

        def expert(at: tuple[str, int, int]) -> None:
            site, t, e = at
            token, slot = (indices[t] == e).nonzero(as_tuple=True)
            of = block.rows[site][t][block.index[t, token, slot]] if site else block.x[t, token]
            self.rows[at].add(of, gates[t, token, slot])

        list(self.work.task_map(expert, list(self.rows)))

    def finish(self) -> dict[Quantity, Values]:
        trials = range(len(self.source.trials))
        values = {quantity: Values.empty(len(trials)) for quantity in self.asked}
        for site in dict.fromkeys(site for site, _, _ in self.rows):
            for t in trials:
                experts = [self.rows[site, t, e] for e in range(self.source.spec.n_experts)]
                components = list(self.work.task_map(lambda rows: rows.components(), experts))
                for quantity in self.asked:
                    if quantity.site == site and quantity.metric.endswith(SPECTRUM):
                        _count(values[quantity], t, (_spectrum(e, one, quantity) for e, one in enumerate(components)))
                for rank in RANKS:
                    asked = [q for q in self.asked if q.site == site and q.reading == rank]
                    if asked:
                        self._of_rank(t, components, rank, {q: values[q] for q in asked})
        return values

    def _of_rank(self, t: int, components: "list[Components | None]", rank: str, values: dict[Quantity, Values]) -> None:
        from simgap.overlaps.subspaces import distances, principal_angles

        bases = [None if one is None else _basis(one, rank) for one in components]

        def of_pair(pair: tuple[int, int]) -> dict[str, float] | str:
            one, other = (bases[e] for e in pair)
            if one is None or other is None:
                return f"expert {pair[0] if one is None else pair[1]} has too few directions for {rank}"
            return distances(principal_angles(one, other))

        pairs = list(self.work.task_map(of_pair, list(combinations(range(len(bases)), 2))))
        for quantity, of in values.items():
            name = quantity.metric.rpartition("_")[2]
            _count(of, t, (each if isinstance(each, str) else each[name] for each in pairs))


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    from simgap.overlaps.subspaces import Rows

    spec = source.spec
    sites = [site for site in ("", *SITES) if any(quantity.site == site for quantity in asked)]
    width = {site: spec.d_model if site in ("", "output") else spec.d_ff for site in sites}
    keys = [(site, t, e) for site in sites for t in range(len(source.trials)) for e in range(spec.n_experts)]
    return State(source, asked, work, {key: Rows(width[key[0]]) for key in keys})


def _basis(components: "Components", rank: str) -> Any:
    """The leading components; None where there are not as many."""
    count = {"rank_8": lambda: RANK, "variance_90": lambda: components.rank_of_variance(SHARE), "edge": components.rank_beyond_noise}[
        rank
    ]()
    return components.vectors[:, :count] if 0 < count <= len(components.values) else None


def _spectrum(e: int, components: "Components | None", quantity: Quantity) -> float | str:
    if components is None:
        return f"expert {e} has no two vectors that differ"
    return components.effective_rank() if quantity.metric.endswith("effective_rank") else components.participation_ratio()


def _count(values: Values, t: int, each: Iterator[float | str]) -> None:
    """Values, or why there is none."""
    found = list(each)
    why = tuple(dict.fromkeys(value for value in found if isinstance(value, str)))
    values.put(t, np.array([math.nan if isinstance(value, str) else value for value in found]), why[:NAMED])

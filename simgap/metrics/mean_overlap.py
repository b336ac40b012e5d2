"""Overlap of the experts' mean vectors over the tokens routed to them: what the persistence paper compares."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.quantities import ROUTED, SHARED, SITES, Quantity
from simgap.sources import Block, Needs, Source, Work, missing_site
from simgap.specs import LayerSpec
from simgap.sums import Values
from simgap.threads import if_large

ORDER, DEFAULT, SIDES, RANGE = 1, True, (ROUTED, SHARED), (0.0, 1.0)
QUANTITIES = tuple(Quantity("activation_mso", "mean", site) for site in SITES)
missing = missing_site


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    return Needs(_summed(spec, [quantity.site for quantity in asked]))


def _read_by_down(spec: LayerSpec) -> str:
    return "hidden" if spec.norm == "none" else "normed"


def _summed(spec: LayerSpec, sites: list[str]) -> tuple[str, ...]:
    """Sites whose vectors are summed. A mean output is W_down of the mean of what W_down reads, since W_down is linear."""
    return tuple(site for site in SITES[:-1] if site in sites or ("output" in sites and site == _read_by_down(spec)))


def _summed_of(source: Source, sites: list[str]) -> tuple[str, ...]:
    """The same of a source; one that has no W_down holds outputs themselves."""
    return _summed(source.spec, sites) if source.output_of_means else tuple(sites)


@dataclass(frozen=True)
class State:
    """sums: at each site, of the vectors of each expert of all trials in float64, one expert after the other."""

    source: Source
    sites: list[str]
    work: Work
    sums: dict[str, Float[Any, "s E width"]] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """Add the vectors of a block to each expert's sums: routed experts' own tokens, and all of them to the shared ones."""
        import torch

        from simgap.overlaps.mean_vectors import add_sums

        spec = self.source.spec
        experts, trials = spec.n_experts + spec.n_shared_experts, len(block.owner)
        # Experts are numbered over all trials.
        trial = torch.arange(trials, device=block.owner.device)[:, None]
        owner = torch.where(block.owner < 0, -1, block.owner + experts * trial)
        sites = _summed_of(self.source, self.sites)
        for site in sites:
            if site not in self.sums:
                width = block.rows[site].shape[-1]
                self.sums[site] = torch.zeros(trials, experts, width, dtype=torch.float64, device=block.owner.device)

        def add(site: str) -> None:
            add_sums(block.rows[site], owner, self.sums[site].flatten(0, 1))

        list(if_large(self.work.task_map, sum(block.rows[site].numel() for site in sites))(add, sites))

    def finish(self) -> dict[Quantity, Values]:
        from simgap.overlaps.expert_pairs import accumulate, sides_of
        from simgap.overlaps.pair_tables import over_pairs

        values: dict[Quantity, Values] = {}
        reduce, means = sides_of(self.source), self.means()
        for site in self.sites:
            vectors = means[site]
            numbers = max(vectors.numel(), len(vectors) * vectors.shape[1] ** 2)
            for by_side in over_pairs(vectors, reduce, if_large(self.work.task_map, numbers), self.work.tables):
                accumulate(values, Quantity("activation_mso", "mean", site), by_side)
        return values

    def means(self) -> dict[str, Float[Any, "s E width"]]:
        """Each expert's mean vector at every site. Idle experts get zeros."""
        import torch

        source, spec = self.source, self.source.spec
        shared = np.full((len(source.trials), spec.n_shared_experts), source.tokens)
        tokens = torch.from_numpy(np.concatenate([source.taken, shared], 1)).to(source.indices.device)
        means = {site: total / tokens.clamp(min=1)[..., None] for site, total in self.sums.items()}
        if "output" in self.sites and source.output_of_means:
            means["output"] = source.output_of_means(means[_read_by_down(spec)], self.work.task_map).double()
            # What experts add to every output is no output of one that is idle.
            means["output"].masked_fill_((tokens == 0)[..., None], 0)
        for site in self.sites:
            finite = torch.isfinite(means[site]).all(-1)
            if not finite.all():
                t, expert = (~finite).nonzero()[0].tolist()
                raise ValueError(f"mean {site} vector of trial {source.trials[t]} expert {expert} is not finite")
        return means


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    return State(source, [quantity.site for quantity in asked], work)

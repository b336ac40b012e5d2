"""Overlap of the directions of experts' mean outputs less their common mean: what is left once what all experts share is taken out."""

from dataclasses import dataclass

import numpy as np

from simgap.metrics.mean_overlap import State as Means
from simgap.metrics.mean_overlap import needs as needs_of_means
from simgap.metrics.mean_overlap import start as start_means
from simgap.quantities import ROUTED, Quantity
from simgap.sources import Block, Needs, Source, Work
from simgap.specs import LayerSpec
from simgap.sums import NAMED, Skipped, Values

ORDER, DEFAULT, SIDES, RANGE = 6, False, (ROUTED,), (0.0, 1.0)
QUANTITIES = (Quantity("centred_mso", site="output"),)
MEAN = Quantity("activation_mso", "mean", "output")


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    return ""


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    return needs_of_means(spec, (MEAN,))


@dataclass(frozen=True)
class State:
    """Mean outputs, each scaled to length 1, less the mean of these over the routed experts. A trial in which an expert has none is left
    out: fewer experts overlap more."""

    means: Means

    def add(self, block: Block) -> None:
        self.means.add(block)

    def finish(self) -> dict[Quantity, Values]:
        from simgap.overlaps.expert_pairs import sides_of
        from simgap.overlaps.pair_tables import over_pairs
        from simgap.threads import if_large

        source, work = self.means.source, self.means.work
        vectors = self.means.means()["output"][:, : source.spec.n_experts]
        largest = vectors.abs().amax(-1, keepdim=True)
        units = vectors / largest.clamp(min=float(np.finfo(np.float64).tiny))
        units = units / units.norm(dim=-1, keepdim=True).clamp(min=1.0)
        centred = units - units.mean(1, keepdim=True)
        tables = over_pairs(centred, sides_of(source), if_large(work.task_map, centred.numel()), work.tables)
        values = Values.empty(len(vectors))
        for table in tables:
            values.add(table[ROUTED])
        for t in range(len(vectors)):
            idle = np.flatnonzero((largest[t, :, 0] == 0).cpu().numpy()).tolist()
            if idle:
                values.total[t] = values.pairs[t] = 0
                values.at[t] = Skipped(len(idle), tuple(f"trial {source.trials[t]} expert {e}" for e in idle[:NAMED]))
        return {QUANTITIES[0]: values}


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    return State(start_means(source, (MEAN,), work))

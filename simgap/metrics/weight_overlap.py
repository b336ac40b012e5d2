"""Overlap of the experts' weights: each matrix flattened, and all of an expert's matrices side by side."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float

from simgap.quantities import ROUTED, SHARED, WEIGHT_KINDS, Quantity
from simgap.sources import Block, Needs, Source, Work
from simgap.specs import LayerSpec
from simgap.sums import Values
from simgap.threads import Map, if_large

ORDER, DEFAULT, SIDES, RANGE = 0, True, (ROUTED, SHARED), (0.0, 1.0)
QUANTITIES = tuple(Quantity("weight_mso", site=kind) for kind in WEIGHT_KINDS)


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    return "gated = false: there is no W_gate" if quantity.site == "gate" and not spec.gated else ""


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    return Needs(weights=True)


@dataclass(frozen=True)
class State:
    source: Source
    kinds: tuple[str, ...]
    work: Work

    def add(self, block: Block) -> None:
        """Weights do not come with tokens."""

    def finish(self) -> dict[Quantity, Values]:
        from simgap.overlaps.expert_pairs import accumulate, sides_of
        from simgap.overlaps.pair_tables import over_tables

        spec, values = self.source.spec, dict[Quantity, Values]()
        tables = over_tables(
            spec.n_experts + spec.n_shared_experts, self._products(), sides_of(self.source), self.work.task_map, self.work.tables
        )
        for kind, by_side in tables:
            accumulate(values, Quantity("weight_mso", site=kind), by_side)
        return values

    def _products(self) -> Any:
        """A function that gives inner products of some experts' flattened weights with others': of each wanted matrix, and under "all" of
        their concatenation, each by block of hidden units."""
        from simgap.overlaps.pair_overlap import total, waves
        from simgap.overlaps.pair_tables import cross_gram

        spec, weights, every = self.source.spec, self.source.weights, "all" in self.kinds
        roles = [role for role in weights.roles if role in self.kinds or every]
        tasks = [(role, block) for role in roles for block in range(weights.hidden_blocks)]

        def products(rows: range, columns: range, task_map: Map) -> Iterator[tuple[str, Float[Any, "s a b"]]]:
            def table(task: tuple[str, int]) -> Any:
                return cross_gram(*weights.pieces(*task, rows, columns))

            trials = len(self.source.trials)
            shared = waves(if_large(task_map, spec.parameters * trials), trials * len(rows) * len(columns))
            tables, summed = iter(shared(table, tasks)), None
            for role in roles:
                one = total(itertools.islice(tables, weights.hidden_blocks))
                if every:
                    summed = one.clone() if summed is None else summed.add_(one)
                if role in self.kinds:
                    yield role, one
            if summed is not None:
                yield "all", summed

        return products


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    return State(source, tuple(quantity.site for quantity in asked), work)

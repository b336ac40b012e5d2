"""Tables of the pairs of experts, reduced to sums: of the pairs of routed experts, and of those of a routed with a shared one."""

import numpy as np
from jaxtyping import Float

from simgap.overlaps.pair_overlap import between
from simgap.overlaps.pair_tables import Reduce
from simgap.quantities import ROUTED, SHARED, Quantity
from simgap.sources import Source
from simgap.sums import NAMED, Skipped, Values


def sides_of(source: Source) -> Reduce[dict[str, Values]]:
    """A function that sums up a table of pairs by their sides. NaN marks an undefined vector, named by its expert where it meets itself."""
    spec, trials = source.spec, source.trials

    def by_side(_: str, cos2: Float[np.ndarray, "s a b"], rows: range, columns: range) -> dict[str, Values]:
        at: dict[int, list[str]] = {}
        for t, e in np.argwhere(np.isnan(np.diagonal(cos2, axis1=1, axis2=2))).tolist() if rows == columns else ():
            at.setdefault(t, []).append(f"trial {trials[t]} expert {rows[e]}")
        skipped = {t: Skipped(len(names), tuple(names[:NAMED])) for t, names in at.items()}
        sums = {}
        for side in (ROUTED, SHARED) if spec.n_shared_experts else (ROUTED,):
            values = between(cos2, spec.n_experts, side == SHARED, (rows.start, columns.start))
            undefined = np.isnan(values)
            pairs = values.shape[1] - undefined.sum(1)
            sums[side] = Values(np.where(undefined, 0.0, values).sum(1), pairs, np.full(len(trials), values.shape[1]), dict(skipped))
        return sums

    return by_side


def accumulate(values: dict[Quantity, Values], quantity: Quantity, by_side: dict[str, Values]) -> None:
    """Add what one table of pairs holds of a quantity."""
    for side, more in by_side.items():
        if (own := quantity.on(side)) in values:
            values[own].add(more)
        else:
            values[own] = more

"""The weight-activation gap: the overlap of mean outputs less that of W_up, and the ratio of the two."""

from collections.abc import Callable

from simgap.quantities import ROUTED, SHARED, Quantity
from simgap.stats import Estimate, difference, ratio_of_means

ORDER, DEFAULT, SIDES = 3, True, (ROUTED, SHARED)
GAP, RATIO = QUANTITIES = Quantity("gap"), Quantity("ratio")
OUTPUT, UP = INPUTS = Quantity("activation_mso", "mean", "output"), Quantity("weight_mso", site="up")


def derive(quantity: Quantity, estimate: Callable[[Quantity], Estimate | None]) -> Estimate:
    """From the estimates of the two overlaps, on the same side."""
    output = estimate(OUTPUT.on(quantity.side)) or Estimate.missing("mean output not measured")
    up = estimate(UP.on(quantity.side)) or Estimate.missing("W_up not measured")
    return difference(output, up) if quantity.metric == "gap" else ratio_of_means(output, up)

"""Untrained layers of the same spec, simulated on seeds of their own: a null for whatever can be measured."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from simgap.nulls.prediction import Prediction
from simgap.quantities import ROUTED, Quantity
from simgap.seeding import derived
from simgap.selection import metric_of, metrics
from simgap.settings import own_settings
from simgap.specs import LayerSpec, RunSpec
from simgap.stats import Estimate

LAYERS, MOST_PARAMETERS = 16, 1 << 28
HYPOTHESES = ("experts independent and untrained; the tokens and the router those of the spec", f"{LAYERS} layers simulated")


def of_untrained(spec: LayerSpec, run: RunSpec, quantity: Quantity, observed: tuple[Quantity, ...]) -> Prediction:
    """The null of one quantity, from layers in which all of `observed` is looked at at once."""
    metric = metrics()[metric_of()[quantity.on(ROUTED)]]
    if hasattr(metric, "missing") and (why := metric.missing(spec, quantity)):
        return Prediction.missing(why)
    if spec.parameters > MOST_PARAMETERS:
        return Prediction.missing(f"no law: layers of {spec.parameters:.3g} parameters are not simulated for a null")
    # Experts that share a base are what is asked about, and no null.
    untrained = replace(spec, init="kaiming_normal", init_correlation=LayerSpec().init_correlation) if spec.init == "upcycled" else spec
    known = layers(untrained, run.tokens, observed)
    found = known[quantity] if quantity in known else metric.derive(quantity, known.get)
    if found.mean is None or found.sem is None or found.trials < LAYERS:
        return Prediction.missing("no law: not every simulated layer has such a pair")
    # The mean over trials strays from the mean over layers, which is off itself.
    spread = found.sem * math.sqrt(LAYERS / run.trials + 1)
    supposes = "independent untrained experts"
    return Prediction(found.mean, spread, "simulated", "simulated", "untrained", HYPOTHESES, dof=LAYERS - 1, supposes=supposes)


@lru_cache(maxsize=64)
@own_settings
def layers(spec: LayerSpec, tokens: int, observed: tuple[Quantity, ...]) -> dict[Quantity, Estimate]:
    """Each quantity, on every side that it has, over so many untrained layers."""
    from simgap.moe import draws_of, open_inputs, simulate
    from simgap.observe import observe
    from simgap.sources import Work

    seed = derived(0, f"null {spec.key()}")
    values: dict[Quantity, list[float]] = {}
    for trial in range(LAYERS):
        draws = draws_of(spec, seed, [trial])
        layer = simulate(draws, RunSpec(tokens=tokens, trials=1), open_inputs(draws))
        for quantity, one in observe(layer, observed, Work()).quantities.items():
            values.setdefault(quantity, []).append(float(one.total[0] / one.pairs[0]) if one.pairs[0] else math.nan)
    return {quantity: Estimate.of(np.array(of_layers)) for quantity, of_layers in values.items()}

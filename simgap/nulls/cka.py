"""CKA of independent untrained experts: no law gives it, so untrained layers of the same spec are simulated, on seeds of their own.

Two random experts on the same tokens share those tokens' geometry and are far from 0: 0.9 at a hidden site is no sign of training.
"""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from simgap.metrics.cka import KINDS, QUANTITIES, missing
from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.seeding import derived
from simgap.settings import own_settings
from simgap.specs import LayerSpec, RunSpec

LAYERS, MOST_PARAMETERS = 16, 1 << 28
# Layers that differ in anything have other nulls, if only by their seed.
WHOLE_SPEC = True
HYPOTHESES = ("experts independent and untrained; the tokens and the router those of the spec", f"{LAYERS} layers simulated")


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    if why := missing(spec, quantity):
        return Prediction.missing(why)
    if spec.parameters > MOST_PARAMETERS:
        return Prediction.missing(f"no law: layers of {spec.parameters:.3g} parameters are not simulated for a null")
    # Experts that share a base are what is asked about, and no null.
    untrained = replace(spec, init="kaiming_normal", init_correlation=LayerSpec().init_correlation) if spec.init == "upcycled" else spec
    values = simulated(untrained, run.tokens, quantity.reading, quantity.site)[quantity.metric]
    if len(values) < LAYERS:
        return Prediction.missing("no law: not every simulated layer has such a pair")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    spread = sd * math.sqrt(1 / run.trials + 1 / LAYERS)
    supposes = "independent untrained experts"
    return Prediction(mean, spread, "simulated", "simulated", "untrained", HYPOTHESES, dof=LAYERS - 1, supposes=supposes)


@lru_cache(maxsize=64)
@own_settings
def simulated(spec: LayerSpec, tokens: int, reading: str, site: str) -> dict[str, Float[np.ndarray, "_"]]:
    """The quantities of this reading and site in each of so many untrained layers that has them."""
    from simgap.moe import draws_of, open_inputs, simulate
    from simgap.observe import observe
    from simgap.sources import Work

    seed = derived(0, f"null {spec.key()}")
    values: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for trial in range(LAYERS):
        draws = draws_of(spec, seed, [trial])
        layer = simulate(draws, RunSpec(tokens=tokens, trials=1), open_inputs(draws))
        sums = observe(layer, tuple(Quantity(kind, reading, site) for kind in KINDS), Work()).quantities
        for kind in KINDS:
            one = sums[Quantity(kind, reading, site)]
            values[kind] += (one.total / one.pairs).tolist() if one.pairs[0] else []
    return {kind: np.array(of_layers) for kind, of_layers in values.items()}

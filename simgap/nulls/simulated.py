"""Untrained layers of the same spec, simulated on seeds of their own: a null for whatever can be measured."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from simgap.nulls.exchange import draws_of_size
from simgap.nulls.prediction import Prediction
from simgap.quantities import ROUTED, Quantity
from simgap.seeding import derived
from simgap.selection import metric_of, metrics, needs_of
from simgap.settings import own_settings
from simgap.specs import LayerSpec, RunSpec
from simgap.stats import Estimate

# Layers at least and at most, and the numbers of a layer from which none is simulated.
LEAST_LAYERS, MOST_LAYERS, MOST_NUMBERS = 16, 199, 1 << 28
HYPOTHESIS = "experts independent and untrained; the tokens and the router those of the spec"


def of_layer(spec: LayerSpec, run: RunSpec, quantity: Quantity, observed: tuple[Quantity, ...]) -> Prediction:
    """The null of one quantity, from layers in which all of `observed` is looked at at once."""
    metric = metrics()[metric_of()[quantity.on(ROUTED)]]
    if hasattr(metric, "missing") and (why := metric.missing(spec, quantity)):
        return Prediction.missing(why)
    numbers = _numbers(spec, run.tokens, observed)
    if numbers > MOST_NUMBERS:
        why = f"no law: layers of {spec.parameters:.3g} parameters on {run.tokens} tokens are not simulated for a null"
        return Prediction.missing(why)
    count = draws_of_size(numbers, spec.n_experts, LEAST_LAYERS, MOST_LAYERS)
    # Experts that share a base are what is asked about, and no null.
    untrained = replace(spec, init="kaiming_normal", init_correlation=LayerSpec().init_correlation) if spec.init == "upcycled" else spec
    # A file of inputs is told apart by its content, which the key knows.
    known = layers(untrained, untrained.key(), run.tokens, count, observed)
    estimate = known[quantity] if quantity in known else metric.derive(quantity, known.get)
    if estimate.mean is None or estimate.sem is None or estimate.trials < count:
        return Prediction.missing("no law: not every simulated layer has such a pair")
    # The mean over trials strays from the mean over layers, which is off itself.
    spread, hypotheses = estimate.sem * math.sqrt(count / run.trials + 1), (HYPOTHESIS, f"{count} layers simulated")
    supposes = "independent untrained experts"
    return Prediction(estimate.mean, spread, "simulated", "simulated", "untrained", hypotheses, supposes=supposes, draws=estimate.values)


def _numbers(spec: LayerSpec, tokens: int, observed: tuple[Quantity, ...]) -> float:
    """Weights of one layer, and what its experts read and hold of the tokens."""
    every = needs_of(spec, observed).every or spec.router.kind == "soft"
    more = spec.router.capacity if spec.router.kind == "expert_choice" else 1.0
    active = spec.n_shared_experts + min(spec.n_experts, spec.n_experts if every else spec.top_k * more)
    return spec.parameters + tokens * (spec.d_model + spec.d_ff) * active


@lru_cache(maxsize=64)
@own_settings
def layers(spec: LayerSpec, key: str, tokens: int, count: int, observed: tuple[Quantity, ...]) -> dict[Quantity, Estimate]:
    """Each quantity, on every side that it has, over so many untrained layers of this spec and its key."""
    from simgap.moe import draws_of, group_trials, open_inputs, simulate
    from simgap.observe import observe
    from simgap.sources import Work

    run = RunSpec(tokens=tokens, trials=count)
    draws = draws_of(spec, derived(0, f"null {key}"), range(count))
    tokens_of = open_inputs(draws)
    values: dict[Quantity, list[float]] = {}
    for group in group_trials(spec, run, needs_of(spec, observed).every):
        layer = simulate(draws[group.start : group.stop], run, tokens_of)
        for quantity, one in observe(layer, observed, Work()).quantities.items():
            values.setdefault(quantity, []).extend(one.means.tolist())
    return {quantity: Estimate.of(np.array(of_layers)) for quantity, of_layers in values.items()}

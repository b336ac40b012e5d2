"""Directions of untrained experts' mean outputs less their mean: law T7B. Of a user's own, in a round space alone."""

import math
from typing import Any

from simgap.nulls.prediction import Prediction, pairs_of
from simgap.nulls.sites import UPCYCLED
from simgap.quantities import Quantity
from simgap.specs import GAUSSIAN_INITS, LayerSpec, RunSpec
from simgap.theory import centred_means as laws
from simgap.theory import output_null

# Width from which the expansion is within its error; experts from which both tails of its law are right.
LEAST_WIDTH, LEAST_EXPERTS = 8, 6


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if spec.init == "upcycled":
        return Prediction.missing(UPCYCLED)
    if spec.init not in (*GAUSSIAN_INITS, "orthogonal"):
        return Prediction.missing(f"no law: W_down of init {spec.init} has no uniform direction")
    hypotheses = (*output_null.HYPOTHESES, *laws.DIRECTIONS, output_null.GAUSSIAN)
    return of_directions(spec.d_model, spec.n_experts, run.trials, hypotheses, pairs_of(spec, run, quantity.side))


def of_directions(width: int, n_experts: int, trials: int, hypotheses: tuple[str, ...], pairs: int = 0, **rest: Any) -> Prediction:
    """The null of so many independent directions in each trial; rest: other fields."""
    if n_experts == 2:
        return Prediction(1.0, 0.0, "exact", "exact", laws.DIRECTIONS_ID, hypotheses, pairs, **rest)
    if width < LEAST_WIDTH:
        return Prediction.missing(f"no law: centred directions have one from width {LEAST_WIDTH}")
    sd = skew = None
    if n_experts >= LEAST_EXPERTS:
        variance, third = laws.centred_directions_spread(width, n_experts)
        sd, skew = math.sqrt(variance / trials), third / variance**1.5 / math.sqrt(trials)
    about: Any = {"order": "O(1/d_model^3)", "error": laws.directions_error(width), "skew": skew, **rest}
    sd_kind: Any = None if sd is None else "leading"
    mean = laws.null_centred_directions(width, n_experts)
    return Prediction(mean, sd, "leading", sd_kind, laws.DIRECTIONS_ID, hypotheses, pairs, **about)


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    return Prediction.missing('no law: signs are not those of vectors less a mean; null="isotropic" is that of a round space')

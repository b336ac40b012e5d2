"""Each expert's vectors on other tokens of its own: a control for whatever the arrays are, which says what of a value is of the tokens."""

import math
from typing import Any

import numpy as np

from simgap.nulls.exchange import draws_of_size
from simgap.nulls.prediction import Prediction
from simgap.observe import observe
from simgap.quantities import Quantity
from simgap.sources import Work

LEAST_DRAWS, MOST_DRAWS = 20, 99
# Of a value: what round-off moves and permuting does not.
ROUND_OFF = 1e-9
HYPOTHESES = ("a vector has nothing to do with the token that it is on, its expert alone",)


def permuted(source: Any, observed: tuple[Quantity, ...], work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """What is observed, permuted: each draw, their mean and spread. source: one that can be permuted. draws: how often, at least 2; 0 for
    as often as is cheap at its size."""
    numbers = 0 if source.vectors is None else math.prod(source.vectors.shape)
    count = draws or draws_of_size(numbers, source.spec.n_experts, LEAST_DRAWS, MOST_DRAWS)
    drawn = [observe(source.permuted(number), observed, work).quantities for number in range(count)]
    hypotheses = (*HYPOTHESES, f"{count} permutations")
    nulls = {}
    for quantity in observed:
        values = np.array([draw[quantity].means[0] for draw in drawn])
        mean, sd = float(values.mean()), float(values.std(ddof=1))
        if not sd > ROUND_OFF * abs(mean):
            why = "null = permuted: not every permutation has such a pair" if math.isnan(mean) else "null = permuted: it moves nothing here"
            nulls[quantity] = Prediction.missing(why)
            continue
        spread, supposes = sd * math.sqrt(1 + 1 / count), "experts on other tokens"
        nulls[quantity] = Prediction(mean, spread, "simulated", "simulated", "permuted", hypotheses, supposes=supposes, draws=values)
    return nulls

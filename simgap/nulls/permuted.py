"""Vectors drawn anew from those that there are: a control for whatever the arrays are.

Each expert's on other tokens of its own says what of a value is of the tokens; all dealt to experts anew, what is of the experts.
"""

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
# What a null draws, what it supposes, and that in a few words.
KINDS = {
    "permuted": ("a vector has nothing to do with the token that it is on, its expert alone", "experts on other tokens"),
    "random_groups": (
        "a vector has nothing to do with its expert, nor with the token that it is on",
        "random groups of the experts' sizes",
    ),
}


def permuted(source: Any, observed: tuple[Quantity, ...], work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """The null of every observed quantity, by `draws` permutations."""
    return _drawn_anew(source, observed, work, "permuted", draws)


def random_groups(source: Any, observed: tuple[Quantity, ...], work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """The same of vectors dealt to experts anew."""
    return _drawn_anew(source, observed, work, "random_groups", draws)


def _drawn_anew(source: Any, observed: tuple[Quantity, ...], work: Work, kind: str, draws: int) -> dict[Quantity, Prediction]:
    """What is observed of each draw, its mean and spread. kind: one of KINDS. draws: how often, at least 2; 0 for as often as is cheap."""
    numbers = 0 if source.vectors is None else math.prod(source.vectors.shape)
    count = draws or draws_of_size(numbers, source.spec.n_experts, LEAST_DRAWS, MOST_DRAWS)
    draw = source.permuted if kind == "permuted" else source.regrouped
    drawn = [observe(draw(number), observed, work).quantities for number in range(count)]
    supposed, supposes = KINDS[kind]
    hypotheses = (supposed, f"{count} permutations")
    nulls = {}
    for quantity in observed:
        values = np.array([one[quantity].means[0] for one in drawn])
        mean, sd = float(values.mean()), float(values.std(ddof=1))
        if not sd > ROUND_OFF * abs(mean):
            why = f"null = {kind}: not every permutation has such a pair" if math.isnan(mean) else f"null = {kind}: it moves nothing here"
            nulls[quantity] = Prediction.missing(why)
            continue
        spread = sd * math.sqrt(1 + 1 / count)
        nulls[quantity] = Prediction(mean, spread, "simulated", "simulated", kind, hypotheses, supposes=supposes, draws=values)
    return nulls

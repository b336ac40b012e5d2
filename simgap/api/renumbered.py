"""The second null of a user's own weights: each expert's hidden units in any order."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from simgap.api.overlap import SPACE, Overlap, SecondNull, too_few_draws
from simgap.checks import whole_number
from simgap.nulls.renumbered import Renumbered
from simgap.overlaps import order_sums, units_first
from simgap.stats import LEAST_P, LEVEL
from simgap.theory import renumbered
from simgap.threads import Map

SUPPOSES = "each expert's hidden units in any order"
UNSEEN = "the same units in other orders"
ANCESTOR = "a common ancestor (upcycling) or a pull on the weights"
ALIKE = f"units of the same number are alike, as {ANCESTOR} makes them"
DOUBT = "few large units rule it: not to be relied on without draws="


def units_axis(units: Any, shape: tuple[int, ...]) -> int:
    """The axis of hidden units; ValueError where it is none of the two that (E, a, b) weights have, or has one unit."""
    axes = "1 for (E, d_ff, d_model) weights, 2 for (E, d_model, d_ff)"
    axis = whole_number("units", units, 1, axes)
    if axis > 2 or len(shape) != 3:
        raise ValueError(f"units: expected the axis of hidden units, {axes}, got {axis} for shape {shape}")
    if shape[axis] < 2:
        raise ValueError(f"units: expected at least 2 hidden units along axis {axis}, got shape {shape}")
    return axis


def with_renumbered(overlap: Overlap, weights: Tensor, axis: int, draws: int, task_map: Map) -> Overlap:
    """An overlap of finite weights, two of which are not zero, with this null beside it and in its table of pairs."""
    null = Renumbered(order_sums([units_first(weights, axis)], draws, task_map))
    second = _second(null, overlap.mean, draws)
    table = overlap.table
    if table is not None:
        table = replace(table, others={"renumbered_null": null.nulls, "renumbered_p": null.pair_p})
    return replace(overlap, beside=(second,), verdict=verdict_of_both(overlap.p, second, draws), table=table)


def _second(null: Renumbered, overlap: float, draws: int) -> SecondNull:
    mean, variance, _ = null.cumulants
    sd, p = math.sqrt(variance), max(null.p(overlap), LEAST_P)
    doubt = DOUBT if null.dominated and not draws else ""
    excess, z = overlap / mean if mean else 1.0, (overlap - mean) / sd if sd else 0.0
    return SecondNull("renumbered", mean, sd, excess, z, p, SUPPOSES, UNSEEN, renumbered.ID, draws, doubt)


def verdict_of_both(p: float, second: SecondNull, draws: int = 0) -> str:
    """What p under signs and the second null ask for, at LEVEL. draws: that both are by."""
    if few := too_few_draws(p, draws) or too_few_draws(second.p, draws):
        return few
    if p > LEVEL and second.p > LEVEL:
        return f"nothing to explain at the level {LEVEL:g}"
    if second.doubt:
        return "cannot tell: few large units rule the renumbered null; pass draws= to draw orders of the units"
    if second.p > LEVEL:
        return f"more than signs give, no more than units in any order do: {SPACE}, a common mean of the units or low rank"
    if p > LEVEL:
        sizes = "units of the same number have one size or shape"
        return f"more than units in any order give, no more than signs do: {sizes}, as {ANCESTOR} leaves"
    return f"more than both nulls give: {ALIKE}"


def verdict_of_orders(second: SecondNull) -> str:
    """What this null alone asks for, at LEVEL."""
    if few := too_few_draws(second.p, second.draws):
        return few
    if second.p > LEVEL:
        return f"nothing to explain at the level {LEVEL:g}"
    return "cannot tell" if second.doubt else f"more than units in any order give: {ALIKE}"

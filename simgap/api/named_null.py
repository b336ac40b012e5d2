"""A user's own overlap beside one null alone, which is chosen by name."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from simgap.api.array_source import ArraySource
from simgap.api.calibration import within_error
from simgap.api.overlap import Overlap, too_few_draws
from simgap.checks import shown
from simgap.nulls import Prediction, nulls_of_arrays
from simgap.quantities import Quantity
from simgap.selection import Selection
from simgap.sources import Work
from simgap.stats import LEAST_P, LEVEL
from simgap.theory.pearson import matched_law
from simgap.theory.sign_flips import upper_p
from simgap.threads import pool

# Nulls that are drawn anew from the arrays, and all that take draws.
DRAWN = ("permuted", "random_groups", "renumbered")
TAKE_DRAWS = ("law", "signs", *DRAWN)
# Nulls of vectors of either sign.
SIGNED = ("law", "signs", "isotropic", "separable")
# What would do the same as experts that are alike.
UNSEEN = {
    "isotropic": "a space that is not round (large coordinates, a power law, a common mean), a common bias or W_down",
    "separable": "weights in blocks or with a common mean",
    "permuted": "tokens of unequal size, a residual or shared expert in the vectors",
    "random_groups": "tokens of unequal size, a bias of each expert, a residual or shared expert in the vectors",
}


def check_draws(draws: Any, null: str) -> int:
    """Raises ValueError for what is no number of draws, and for some of a null that is not drawn."""
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 0:
        raise ValueError(f"draws: expected a whole number of signs, orders or permutations to draw, 0 for none, got {shown(draws)}")
    if draws and null not in TAKE_DRAWS:
        raise ValueError(f"draws: expected null= one of {', '.join(TAKE_DRAWS)}, which are drawn, got null={null!r}")
    if draws == 1 and null in ("permuted", "random_groups"):
        raise ValueError("draws: expected at least 2 permutations, of which there is a spread, or 0, got 1")
    return int(draws)


def needed_by(null: str, argument: str, given: Any, what: str, *, names: tuple[str, ...]) -> None:
    """ValueError where one of these nulls is asked for without an argument that it takes."""
    if null in names and given is None:
        raise ValueError(f"{argument}: expected {what}, for null={null!r}, got none")


def unused_by(null: str, argument: str, given: bool, *, names: tuple[str, ...]) -> None:
    """ValueError for an argument that only these nulls take."""
    if given and null not in names:
        raise ValueError(f"{argument}: expected null={' or '.join(map(repr, names))}, got null={null!r}")


def by_name(overlap: Overlap, null: str, source: ArraySource, quantity: Quantity, draws: int) -> Overlap:
    """An overlap of the source's arrays beside the null of this name. Raises ValueError where there is none of these arrays."""
    with pool() as (task_map, workers):
        prediction = nulls_of_arrays(source, Selection((quantity,), (quantity,)), null, Work(task_map, workers), draws)[quantity]
    if prediction.mean is None or prediction.sd is None:
        raise ValueError(f"null: {null!r} is not to be had of these arrays: {prediction.why.removeprefix(f'null = {null}: ')}")
    count, p = 0 if prediction.draws is None else len(prediction.draws), _upper_tail(overlap.mean, prediction)
    z = (overlap.mean - prediction.mean) / prediction.sd if prediction.sd else 0.0
    excess = overlap.mean / prediction.mean if prediction.mean else math.inf
    values: dict[str, Any] = {"null": prediction.mean, "null_sd": prediction.sd, "excess": excess, "z": z, "p": p, "draws": count}
    if p <= LEVEL and within_error(z, overlap.mean - prediction.mean, prediction.error):
        said = f"cannot tell: within the null's own error, {prediction.error:.2g}"
    else:
        said = _verdict(p, f"more than {prediction.supposes.rstrip(',')} give; {UNSEEN[null]} would do this too", count)
    return replace(
        overlap, **values, name=null, supposes=prediction.supposes.rstrip(","), verdict=said, beside=(), elsewhere=None, table=None
    )


def _verdict(p: float, more: str, draws: int) -> str:
    return too_few_draws(p, draws) or (f"nothing to explain at the level {LEVEL:g}" if p > LEVEL else more)


def _upper_tail(mean: float, null: Prediction) -> float:
    """p of so large a mean: by the draws, by three cumulants, or by the Beta law with the null's mean and sd."""
    if null.mean is None or not null.sd:
        return 1.0
    if null.draws is not None:
        # Equal up to round-off counts as equal.
        return float(1 + (null.draws >= mean * (1 - 1e-9)).sum()) / (len(null.draws) + 1)
    if null.skew:
        return max(float(upper_p(mean, null.mean, null.sd**2, null.skew * null.sd**3)), LEAST_P)
    if null.sd**2 < null.mean * (1 - null.mean):
        return max(float(matched_law(null.mean, null.sd).sf(np.array([mean]))[0]), LEAST_P)
    return 0.5 * math.erfc((mean - null.mean) / null.sd / math.sqrt(2))

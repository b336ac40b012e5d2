"""The cumulants and p of law T8 against orders of the units that are drawn one by one, for fixed weights.

`data/drawn_orders.jsonl` is what the full preset recorded.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from experiments.cells import Bench, Record
from experiments.null_rates.gap_and_ratio import SIGMA, verdict
from experiments.null_rates.other_tokens import recorded
from experiments.null_rates.renumbered import Draw, rows
from simgap.nulls.renumbered import Renumbered
from simgap.overlaps import OrderSums, order_sums
from simgap.report.table import Table
from simgap.theory.renumbered import pair_p
from simgap.theory.sign_flips import upper_p

KEPT = Path(__file__).parent / "data" / "drawn_orders.jsonl"
DRAWS = {"smoke": 2000, "full": 100_000}
LEVELS = (0.05, 0.01, 0.001)
UNITS, WIDTH = 512, 32
EXPERTS = (2, 4)
CUMULANTS = ("mean", "variance", "third cumulant")
RELIED_ON = "relied on"
DESIGNS: dict[str, Draw] = {
    "round": lambda rng, shape: rng.standard_normal(shape),
    "rows lognormal, sd 0.5": rows(0.5),
    "a column x 10": lambda rng, shape: rng.standard_normal(shape) * np.where(np.arange(WIDTH) == 0, 10.0, 1.0),
    # Few large units, which the law names as not to be relied on.
    "rows lognormal, sd 1.5": rows(1.5),
}


def compute(preset: str, bench: Bench) -> list[Record]:
    return recorded([(design, experts) for design in DESIGNS for experts in EXPERTS], DRAWS[preset], against_draws, bench)


def against_draws(design: str, experts: int, draws: int, seed: int) -> dict[str, Any]:
    """Of each cumulant of the mean overlap the law's, that of the draws and its error; how many draws have a p up to each level."""
    rng = np.random.default_rng([seed, list(DESIGNS).index(design), experts])
    weights = DESIGNS[design](rng, (experts, UNITS, WIDTH))
    sums = order_sums([torch.from_numpy(weights)])
    law = Renumbered(sums)
    pairs = list(combinations(range(experts), 2))
    weights /= np.sqrt((weights**2).sum((1, 2), keepdims=True))
    means = weights.mean(1, keepdims=True)
    # What a unit moves the cosine by when it meets another: by units less their mean, whose orders have the same spread.
    tables = [(weights - means)[e] @ (weights - means)[f].T for e, f in pairs]
    apart = np.array([UNITS * float(means[e, 0] @ means[f, 0]) for e, f in pairs])
    overlaps, p = np.empty(draws), np.ones(draws)
    for draw in range(draws):
        orders = rng.permuted(np.tile(np.arange(UNITS), (experts, 1)), axis=1)
        met = np.stack([table[orders[e], orders[f]] for table, (e, f) in zip(tables, pairs, strict=True)])
        cosines = met.sum(1) + apart
        overlaps[draw] = (cosines**2).mean()
        # A p above all levels need not be known.
        if least_p(law, overlaps[draw]) <= LEVELS[0]:
            p[draw] = p_of(sums, cosines, np.where(cosines < 0, -met.min(1), met.max(1)))
    values: dict[str, Any] = {}
    # The mean of the law is exact, so that powers about it have the other cumulants as their means.
    beyond = overlaps - law.cumulants[0]
    for name, stated, sample in zip(CUMULANTS, law.cumulants, (overlaps, beyond**2, beyond**3), strict=True):
        values[name] = [float(stated), float(sample.mean()), float(sample.std(ddof=1) / draws**0.5)]
    return values | {"p": [int((p <= level).sum()) for level in LEVELS], RELIED_ON: not law.dominated}


def least_p(law: Renumbered, overlap: float) -> float:
    """What no p of these weights is below, whichever units meet: by a normal cosine of one pair, by the cumulants of several."""
    if len(law.overlaps) > 1:
        return float(upper_p(overlap, *law.cumulants))
    mean, sd = law.moments
    return float(pair_p(overlap, mean[0], sd[0]))


def p_of(sums: OrderSums, cosines: Float[np.ndarray, " pairs"], largest: Float[np.ndarray, " pairs"]) -> float:
    """What the law says of the same weights in another order."""
    null = Renumbered(replace(sums, cosines=cosines, largest=largest))
    return null.p(float(null.overlaps.mean()))


def render(records: Sequence[Record], out: Path) -> list[Path]:
    columns = ["weights", "experts", "relied on", "draws", *(text for name in CUMULANTS for text in (f"{name}, law/draws", "z"))]
    page = Table("Law T8 against orders of the units", [*columns, *(text for level in LEVELS for text in (f"p <= {level}", "verdict"))])
    for record in records:
        (design, experts), n, values = record["labels"]["cell"], record["labels"]["repetitions"], record["values"]
        row: list[object] = [design, experts, "yes" if values[RELIED_ON] else "no", n]
        for name in CUMULANTS:
            stated, sampled, error = values[name]
            row += [stated / sampled, (sampled - stated) / error]
        for level, count in zip(LEVELS, values["p"], strict=True):
            row += [count / n, verdict(count, n, level)]
        page.rows.append(row)
    page.notes = [
        f"Fixed weights of {UNITS} units in {WIDTH} columns. z: of the draws' cumulant, in its errors. Verdicts are binomial, at {SIGMA:g} "
        "sigma. The mean is exact; the others suppose a normal cosine and pairs that are independent."
    ]
    return page.write(out / "drawn_orders")

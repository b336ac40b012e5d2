"""How often independent experts have a small p with their hidden units in any order, in round spaces and others (law T8).

`data/renumbered.jsonl` is what the full preset recorded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.cells import Bench, Record
from experiments.null_rates.gap_and_ratio import LEVELS, SIGMA, verdict
from simgap.nulls.renumbered import Renumbered
from simgap.overlaps import order_sums, size_sums
from simgap.report.table import Table
from simgap.theory import mso_p
from simgap.theory.sign_flips import upper_p

KEPT = Path(__file__).parent / "data" / "renumbered.jsonl"
EXPERTS = (2, 8)
REPETITIONS = {"smoke": 100, "full": 1000}
UNITS, WIDTH = 64, 16
COLUMNS = np.where(np.arange(WIDTH) == 0, 10.0, np.where(np.arange(WIDTH) == 1, 5.0, 1.0))
ALL, TRUSTED, PAIR = "renumbered", "renumbered, relied on", "renumbered, one pair"
# Nulls that do not hold here.
SIGNS, ROUND = "signs", "round space"

Draw = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]


def rows(spread: float) -> Draw:
    """Units of lognormal sizes."""
    return lambda rng, shape: rng.standard_normal(shape) * np.exp(spread * rng.standard_normal((*shape[:2], 1)))


def rotated(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Large directions that are no coordinates, the same of all experts, and a common mean."""
    basis = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    return (rng.standard_normal(shape) * COLUMNS) @ basis + rng.standard_normal(WIDTH)


DESIGNS: dict[str, Draw] = {
    "iid": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails (t3)": lambda rng, shape: rng.standard_t(3, shape),
    "t3, columns x 10 and x 5": lambda rng, shape: rng.standard_t(3, shape) * COLUMNS,
    "rotated, a common mean": rotated,
    "rows lognormal, sd 0.5": rows(0.5),
    "rows lognormal, sd 1": rows(1.0),
    "rows lognormal, sd 1.5": rows(1.5),
}


def compute(preset: str, bench: Bench) -> list[Record]:
    n = REPETITIONS[preset]
    return bench.labelled([{"design": d, "experts": e, "repetitions": n} for d in DESIGNS for e in EXPERTS], rejections)


def rejections(design: str, experts: int, repetitions: int, seed: int) -> dict[str, list[int]]:
    """Of each null, of how many repetitions it gives a p, and how many of these are below each of the levels."""
    rng = np.random.default_rng([seed, list(DESIGNS).index(design), experts])
    p: dict[str, list[float]] = {name: [] for name in (ALL, TRUSTED, PAIR, SIGNS, ROUND)}
    for _ in range(repetitions):
        weights = DESIGNS[design](rng, (experts, UNITS, WIDTH))
        null, signs = Renumbered(order_sums([torch.from_numpy(weights)])), size_sums(torch.from_numpy(weights.reshape(experts, -1)))
        overlap = float(null.overlaps.mean())
        p[ALL].append(null.p(overlap))
        if not null.dominated:
            p[TRUSTED].append(p[ALL][-1])
        p[PAIR].append(float(null.pair_p[0]))
        p[SIGNS].append(upper_p(overlap * signs.pairs, *signs.cumulants))
        p[ROUND].append(float(mso_p(overlap, UNITS * WIDTH, signs.pairs, 1, experts, "upper")))
    return {name: [len(values), *(int((np.array(values) < level).sum()) for level in LEVELS)] for name, values in p.items()}


def render(records: Sequence[Record], out: Path) -> list[Path]:
    page = Table(
        "How often p is small where units are numbered independently",
        ["weights", "experts", "null", "repetitions", *(text for level in LEVELS for text in (f"p < {level}", "verdict"))],
    )
    for record in records:
        for name, (n, *counts) in record["values"].items():
            row: list[object] = [record["labels"]["design"], record["labels"]["experts"], name, n]
            for level, count in zip(LEVELS, counts, strict=True):
                row += [count / n if n else "", verdict(count, n, level) if n else ""]
            page.rows.append(row)
    page.notes = [
        f"Independent experts of {UNITS} units in {WIDTH} columns. Relied on: where no few large units rule the spread. Verdicts are "
        f"binomial, at {SIGMA:g} sigma. Signs and a round space are nulls of something else."
    ]
    return page.write(out / "renumbered")

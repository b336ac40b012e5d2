"""How often the nulls that arrays have by name give a small p where nothing is to be found, and where their hypotheses break (laws T6, T9).

`data/by_name.jsonl` is what the full preset recorded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import Bench, Record
from experiments.null_rates.gap_and_ratio import LEVELS, SIGMA, verdict
from experiments.null_rates.signs import DESIGNS as TOKENS_OF
from simgap import measure_arrays
from simgap.report.table import Table

KEPT = Path(__file__).parent / "data" / "by_name.jsonl"
EXPERTS = (3, 8)
REPETITIONS = {"smoke": 60, "full": 250}
TOKENS, TOP_K, ROWS, COLUMNS = 96, 2, 32, 16

Draw = Callable[[np.random.Generator, int], dict[str, Any]]


def tokens(design: str) -> Draw:
    def draw(rng: np.random.Generator, experts: int) -> dict[str, Any]:
        routing = np.argsort(rng.random((TOKENS, experts)), 1)[:, :TOP_K]
        return {"vectors": TOKENS_OF[design](rng, experts, routing), "routing": routing}

    return draw


def normed(rng: np.random.Generator, experts: int) -> dict[str, Any]:
    """SiLU of vectors that an expert mostly repeats, LayerNormed."""
    arrays = tokens("shared experts")(rng, experts)
    h = arrays["vectors"] / (1 + np.exp(-arrays["vectors"]))
    return arrays | {"vectors": h - h.mean(2, keepdims=True), "site": "normed"}


def weights(of: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    return lambda rng, experts: {"weights": {"up": of(rng, experts)}}


def gaussian(rng: np.random.Generator, experts: int) -> np.ndarray:
    return rng.standard_normal((experts, ROWS, COLUMNS))


def turned(rng: np.random.Generator, experts: int) -> np.ndarray:
    """Columns of a power law in directions that are no columns."""
    turn = np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))[0]
    return gaussian(rng, experts) * np.arange(1, COLUMNS + 1) ** -0.5 @ turn


FEW = np.where(np.arange(COLUMNS) < 2, 10.0, 1.0)
BLOCKS = np.kron(np.eye(2), np.ones((ROWS // 2, COLUMNS // 2)))
DESIGNS: dict[tuple[str, str], Draw] = {
    ("isotropic", "SwiGLU"): tokens("SwiGLU"),
    ("isotropic", "heavy tails (t3)"): tokens("heavy tails (t3)"),
    ("isotropic", "shared experts"): tokens("shared experts"),
    ("isotropic", "SiLU, LayerNormed"): normed,
    ("isotropic", "weights (t2)"): weights(lambda rng, e: rng.standard_t(2, (e, ROWS, COLUMNS))),
    ("isotropic", "weights, 95% zeros"): weights(lambda rng, e: gaussian(rng, e) * (rng.random((e, ROWS, COLUMNS)) < 0.05)),
    ("separable", "weights"): weights(gaussian),
    ("separable", "weights, 2 columns x 10"): weights(lambda rng, e: gaussian(rng, e) * FEW),
    ("separable", "weights, lognormal rows"): weights(lambda rng, e: gaussian(rng, e) * np.exp(rng.standard_normal((e, ROWS, 1)))),
    ("separable", "weights, a power law turned"): weights(turned),
    ("separable", "weights (t3), 2 columns x 10"): weights(lambda rng, e: rng.standard_t(3, (e, ROWS, COLUMNS)) * FEW),
}
# Hypotheses that break.
BROKEN: dict[tuple[str, str], Draw] = {
    ("isotropic", "4 coordinates x 10"): tokens("4 coordinates x 10"),
    ("isotropic", "weights, a power law turned"): weights(turned),
    ("separable", "weights in two blocks"): weights(lambda rng, e: gaussian(rng, e) * BLOCKS),
    ("separable", "weights with a common mean"): weights(lambda rng, e: gaussian(rng, e) + 0.5),
}


def compute(preset: str, bench: Bench) -> list[Record]:
    n, settings = REPETITIONS[preset], (*DESIGNS, *BROKEN)
    labels = [{"null": null, "design": design, "experts": e, "repetitions": n} for null, design in settings for e in EXPERTS]
    return bench.labelled(labels, rejections)


def rejections(null: str, design: str, experts: int, repetitions: int, seed: int) -> dict[str, Any]:
    """Of each quantity: repetitions with a p below each of the levels, the mean of measured over null, and the root of the mean of z^2."""
    every = DESIGNS | BROKEN
    rng = np.random.default_rng([seed, list(every).index((null, design)), experts])
    by_quantity: dict[str, list[list[float | None]]] = {}
    for _ in range(repetitions):
        m = measure_arrays(**every[null, design](rng, experts), null=null, metrics=["weight_overlap", "mean_overlap", "vector_overlap"])
        for quantity, one in m.values.items():
            by_quantity.setdefault(str(quantity), []).append([one.p, one.excess, one.z])
    values: dict[str, Any] = {}
    for name, rows in by_quantity.items():
        p, excess, z = np.array(rows, np.float64).T
        values[name] = [
            [int((p < level).sum()) for level in LEVELS],
            round(float(excess.mean()), 4),
            round(float(np.sqrt((z * z).mean())), 4),
        ]
    return values


def render(records: Sequence[Record], out: Path) -> list[Path]:
    page = Table(
        "How often p of a null by name is small where nothing is to be found",
        [
            "null",
            "vectors",
            "experts",
            "quantity",
            "repetitions",
            "measured/null",
            "rms z",
            *(t for level in LEVELS for t in (f"p < {level}", "verdict")),
        ],
    )
    for record in records:
        labels, n = record["labels"], record["labels"]["repetitions"]
        for name, (counts, excess, z) in record["values"].items():
            row: list[object] = [labels["null"], labels["design"], labels["experts"], name, n, excess, z]
            for level, count in zip(LEVELS, counts, strict=True):
                row += [count / n, verdict(count, n, level)]
            page.rows.append(row)
    page.notes = [
        f"Independent experts, {TOKENS} tokens, k = {TOP_K}, width 48; weights {ROWS} x {COLUMNS}. Verdicts are binomial, at "
        f"{SIGMA:g} sigma. The last {len(BROKEN)} settings break their null's hypotheses."
    ]
    return page.write(out / "by_name")

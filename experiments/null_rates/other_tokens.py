"""How often the second null of tokens and the pair table are wrong where experts are independent (laws T2, T3 and T10).

`data/other_tokens.jsonl` is what the full preset recorded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.cells import Bench, Record
from experiments.null_rates.gap_and_ratio import SIGMA, verdict
from simgap import token_mso
from simgap.api.overlap import Overlap
from simgap.report.table import Table
from simgap.theory import mso_p

KEPT = Path(__file__).parent / "data" / "other_tokens.jsonl"
REPETITIONS = {"smoke": 100, "full": 1000}
LEVELS = (0.05, 0.01, 0.001)
TOKENS, D_IN, UNITS, WIDTH, DOCUMENT = 300, 8, 16, 32, 20
OTHER, SIGNS, ROUND = "other tokens", "signs", "round space"
MORE, PAIRS = "more than", "a pair at 0.05"


class Layer(NamedTuple):
    """A layer's routing (n, k) and vectors (n, k, width), and the document of each token."""

    routing: np.ndarray
    vectors: np.ndarray
    documents: np.ndarray | None = None


Draw = Callable[[np.random.Generator, int, int], Layer]


def balanced(rng: np.random.Generator, experts: int, top_k: int, tokens: int = TOKENS) -> np.ndarray:
    return np.argsort(rng.random((tokens, experts)), 1)[:, :top_k]


def crowded(rng: np.random.Generator, experts: int, top_k: int) -> np.ndarray:
    """The first expert is on 90% of the tokens."""
    order = rng.random((TOKENS, experts))
    order[:, 0] = np.where(rng.random(TOKENS) < 0.9, -1.0, 2.0)
    return np.argsort(order, 1)[:, :top_k]


def routed(of_experts: np.ndarray, routing: np.ndarray) -> np.ndarray:
    """(E, n, width) on the tokens of each expert."""
    return of_experts[routing, np.arange(len(routing))[:, None]]


def relu_experts(rng: np.random.Generator, x: np.ndarray, experts: int, width: int = WIDTH) -> np.ndarray:
    """(E, n, width): independent experts' outputs on all tokens."""
    up = rng.standard_normal((experts, D_IN, UNITS), np.float32)
    return np.maximum(x @ up, 0) @ rng.standard_normal((experts, UNITS, width), np.float32)


def tokens_of(rng: np.random.Generator, tokens: int = TOKENS) -> np.ndarray:
    return rng.standard_normal((tokens, D_IN), np.float32)


def outputs(scale: np.ndarray | None = None, turned: bool = False, routing_of: Callable[..., np.ndarray] = balanced) -> Draw:
    """ReLU experts' outputs whose coordinates have these scales, or directions that are no coordinates."""

    def draw(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
        routing = routing_of(rng, experts, top_k)
        h = routed(relu_experts(rng, tokens_of(rng), experts), routing)
        h = h if scale is None else h * scale.astype(np.float32)
        return Layer(routing, h @ np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32) if turned else h)

    return draw


def vectors(mean: float = 0.0) -> Draw:
    """Independent vectors, with a mean in common whose length is so many times theirs."""

    def draw(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
        common = mean * rng.standard_normal(WIDTH, np.float32)
        return Layer(balanced(rng, experts, top_k), rng.standard_normal((TOKENS, top_k, WIDTH), np.float32) + common)

    return draw


def lognormal_rows(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
    """Rows of W_down, which give output coordinates, of lognormal sizes: each expert has its own."""
    routing = balanced(rng, experts, top_k)
    sizes = np.exp(rng.standard_normal((experts, 1, WIDTH), np.float32))
    return Layer(routing, routed(relu_experts(rng, tokens_of(rng), experts) * sizes, routing))


def t3_weights(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
    routing = balanced(rng, experts, top_k)
    hidden = np.maximum(tokens_of(rng) @ rng.standard_t(3, (experts, D_IN, UNITS)), 0)
    return Layer(routing, routed(hidden @ rng.standard_t(3, (experts, UNITS, WIDTH)), routing).astype(np.float32))


def swiglu(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
    routing, x = balanced(rng, experts, top_k), tokens_of(rng)
    up, gate = (x @ rng.standard_normal((experts, D_IN, WIDTH), np.float32) for _ in range(2))
    return Layer(routing, routed(up * gate / (1 + np.exp(-gate)), routing))


def in_documents(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
    """Tokens of a document follow each other at AR(0.9)."""
    x = rng.standard_normal((TOKENS // DOCUMENT, DOCUMENT, D_IN), np.float32)
    for at in range(1, DOCUMENT):
        x[:, at] = 0.9 * x[:, at - 1] + 0.19**0.5 * x[:, at]
    routing = balanced(rng, experts, top_k)
    h = routed(relu_experts(rng, x.reshape(TOKENS, D_IN), experts), routing)
    return Layer(routing, h, np.repeat(np.arange(TOKENS // DOCUMENT), DOCUMENT))


def outliers(count: int, size: float) -> np.ndarray:
    return np.where(np.arange(WIDTH) < count, size, 1.0)


def power_law(exponent: float) -> np.ndarray:
    return np.arange(1, WIDTH + 1) ** -exponent


DRAWS: dict[str, Draw] = {
    "independent vectors": vectors(),
    "a common mean": vectors(0.5),
    "ReLU outputs": outputs(),
    "1 coordinate x 10": outputs(outliers(1, 10)),
    "1 coordinate x 100": outputs(outliers(1, 100)),
    "4 coordinates x 10": outputs(outliers(4, 10)),
    "4 coordinates x 100": outputs(outliers(4, 100)),
    "16 coordinates x 10": outputs(outliers(16, 10)),
    "16 coordinates x 100": outputs(outliers(16, 100)),
    "i^-0.5": outputs(power_law(0.5)),
    "i^-0.5, turned": outputs(power_law(0.5), turned=True),
    "i^-1": outputs(power_law(1.0)),
    "i^-1, turned": outputs(power_law(1.0), turned=True),
    "lognormal rows": lognormal_rows,
    "SwiGLU": swiglu,
    "weights (t3)": t3_weights,
    "AR(0.9) in documents": in_documents,
    "90% on one expert": outputs(routing_of=crowded),
}
# Of each: experts and k. Every draw at 8 experts, the fewest and many where they matter.
CASES: tuple[tuple[str, int, int], ...] = (
    *((design, 8, 2) for design in DRAWS),
    ("ReLU outputs", 5, 2),
    ("4 coordinates x 100", 5, 2),
    ("ReLU outputs", 8, 8),
    ("ReLU outputs", 64, 2),
    ("ReLU outputs", 64, 8),
    ("4 coordinates x 10", 64, 8),
    ("i^-1, turned", 64, 2),
    ("90% on one expert", 64, 2),
    ("1 coordinate x 100", 16, 2),
)


def compute(preset: str, bench: Bench) -> list[Record]:
    return recorded(CASES, REPETITIONS[preset], rates, bench)


def recorded(cells: Sequence[tuple[Any, ...]], repetitions: int, of: Callable[..., Any], bench: Bench) -> list[Record]:
    """A record of each cell, kept as soon as it is there. of: the values of a cell, so many repetitions and a seed."""
    begun = [{"labels": {"cell": list(cell), "repetitions": repetitions}} for cell in cells]
    return bench.each(begun, lambda at: of(*cells[at], repetitions, bench.seed))


def rates(design: str, experts: int, top_k: int, repetitions: int, seed: int) -> dict[str, Any]:
    """Of each null: repetitions with a p below each of the levels, then the sd of z. Of the verdict and of pairs: how many."""
    rng = np.random.default_rng([seed, list(DRAWS).index(design), experts, top_k])
    p: dict[str, list[float]] = {OTHER: [], SIGNS: [], ROUND: []}
    z: dict[str, list[float]] = {OTHER: [], SIGNS: []}
    said = {MORE: 0, PAIRS: 0}
    for _ in range(repetitions):
        layer = DRAWS[design](rng, experts, top_k)
        overlap = token_mso(layer.vectors, routing=layer.routing, documents=layer.documents)
        (second,) = overlap.beside
        for name, one in ((OTHER, second), (SIGNS, overlap)):
            p[name].append(one.p)
            z[name].append(one.z)
        p[ROUND].append(float(mso_p(overlap.mean, WIDTH, top_k * (top_k - 1) // 2, TOKENS, top_k, "upper")))
        said[MORE] += overlap.verdict.startswith("more than")
        said[PAIRS] += a_pair_stands_out(overlap)
    counts = {name: [int((np.array(values) < level).sum()) for level in LEVELS] for name, values in p.items()}
    return {name: [*counts[name], round(float(np.std(values)), 3)] for name, values in z.items()} | {ROUND: counts[ROUND]} | said


def a_pair_stands_out(overlap: Overlap) -> bool:
    return overlap.table is not None and bool(overlap.table.standing_out(0.05))


def render(records: Sequence[Record], out: Path) -> list[Path]:
    return table_of(records).write(out / "other_tokens")


def counts_of(records: Sequence[Record]) -> list[list[Any]]:
    """A row to each count of each cell: the cell, what is counted, of how many layers, and the count."""
    return [
        [*record["labels"]["cell"], name, record["values"]["layers"], value]
        for record in records
        for name, value in record["values"].items()
        if name != "layers"
    ]


def table_of(records: Sequence[Record]) -> Table:
    page = Table(
        "How often other tokens and single pairs are wrong where experts are independent",
        ["vectors", "experts", "k", "null", "repetitions", "sd of z", *(t for level in LEVELS for t in (f"p < {level}", "verdict"))],
    )
    for record in records:
        n, values = record["labels"]["repetitions"], record["values"]
        for name in (OTHER, SIGNS, ROUND):
            counts, spread = values[name][:3], values[name][3:]
            row: list[object] = [*record["labels"]["cell"], name, n, *(spread or [""])]
            for level, count in zip(LEVELS, counts, strict=True):
                row += [count / n, verdict(count, n, level)]
            page.rows.append(row)
        for name in (MORE, PAIRS):
            page.rows.append([*record["labels"]["cell"], name, n, "", values[name] / n, *[""] * 5])
    page.notes = [
        f"{TOKENS} tokens, width {WIDTH}. Verdicts are binomial, at {SIGMA:g} sigma. The last two rows of a cell are layers whose verdict "
        "begins with these words, and layers with a pair whose adjusted p is at most 0.05."
    ]
    return page

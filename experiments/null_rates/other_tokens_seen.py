"""What the second null of tokens sees, and what misleads it (laws T2 and T3).

`data/other_tokens_seen.jsonl` is what the full preset recorded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.cells import Bench, Record
from experiments.null_rates.other_tokens import TOKENS, WIDTH, Layer, balanced, outliers, recorded, relu_experts, routed, tokens_of
from simgap import token_mso
from simgap.nulls.other_token import Labels, judged, of_gains
from simgap.overlaps import TokenPairs, other_tokens
from simgap.report.table import Table

KEPT = Path(__file__).parent / "data" / "other_tokens_seen.jsonl"
# Layers of a cell: judged by other tokens, and simulated ones that judge the same gain.
LAYERS, NULLS = {"smoke": 20, "full": 200}, {"smoke": 100, "full": 1000}
LEVELS = (0.05, 0.01)
STRATA = 10
SPACES = {"round": 0, "4 coordinates x 10": 4}
BROKEN = ("bias, sizes 0.3", "bias, sizes 1", "residual", "massive tokens", "a document repeated")
SHARES = (0.05, 0.1, 0.3, 0.5)
# What, of which vectors, experts, and k.
CELLS: tuple[tuple[str, str, int, int], ...] = (
    *(("broken", design, 16, k) for design in BROKEN for k in (2, 4)),
    *(("shared", space, experts, 2) for space in SPACES for experts in (8, 16, 64)),
)
MISLED, DOCUMENT, COPIES = 1500, 20, 15


def compute(preset: str, bench: Bench) -> list[Record]:
    def values(kind: str, design: str, experts: int, what: int, repetitions: int, seed: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, CELLS.index((kind, design, experts, what))])
        if kind == "broken":
            return misled(rng, design, experts, what, repetitions // 2)
        return power(rng, design, experts, repetitions, NULLS[preset])

    return recorded(CELLS, LAYERS[preset], values, bench)


def broken(rng: np.random.Generator, design: str, experts: int, top_k: int) -> tuple[Layer, np.ndarray, np.ndarray]:
    """Independent experts on tokens that differ in more than chance; each token's true stratum; its document, copies in one."""
    routing, each, x = balanced(rng, experts, top_k, MISLED), np.arange(MISLED), tokens_of(rng, MISLED)
    # Inputs of one length, so that a token's size is what is written here: outputs and a bias of about 1 a coordinate.
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    h = routed(relu_experts(rng, x, experts), routing) / 8**0.5
    if design.startswith("bias"):
        size = np.exp(float(design.split()[-1]) * rng.standard_normal(MISLED))
        h = h * size[:, None, None] + rng.standard_normal(WIDTH)
        return Layer(routing, h.astype(np.float32)), classes(size), each
    if design == "residual":
        residual = rng.standard_normal((MISLED, 1, WIDTH), np.float32)
        return Layer(routing, h + residual), classes(np.linalg.norm(residual[:, 0], axis=1)), each
    if design == "massive tokens":
        massive = rng.random(MISLED) < 0.03
        common = 100 * rng.standard_normal(WIDTH)
        return Layer(routing, (h + massive[:, None, None] * common).astype(np.float32)), massive.astype(np.int64), each
    # The first document again and again, its routing along.
    source = np.where(each < COPIES * DOCUMENT, each % DOCUMENT, each)
    return Layer(routing[source], h[source]), np.zeros(MISLED, np.int64), source // DOCUMENT


def classes(size: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(size)) * STRATA // len(size)


def misled(rng: np.random.Generator, design: str, experts: int, top_k: int, repetitions: int) -> dict[str, Any]:
    """How many have p < 0.05 by any other tokens, by ones of like size, and by the remedy; a doubt; and "more than" of each of the last."""
    counts = dict.fromkeys(("any", "like size", "remedy", "doubt", "more than", "more than, remedy"), 0)
    for _ in range(repetitions):
        layer, strata, documents = broken(rng, design, experts, top_k)
        overlap = token_mso(layer.vectors, routing=layer.routing)
        remedied = token_mso(layer.vectors, routing=layer.routing, documents=documents, strata=strata)
        counts["any"] += plain_p(layer, experts) < LEVELS[0]
        counts["like size"] += overlap.beside[0].p < LEVELS[0]
        counts["remedy"] += remedied.beside[0].p < LEVELS[0]
        counts["doubt"] += bool(overlap.beside[0].doubt)
        counts["more than"] += overlap.verdict.startswith("more than")
        counts["more than, remedy"] += remedied.verdict.startswith("more than")
    return {"layers": repetitions} | {name: int(count) for name, count in counts.items()}


def plain_p(layer: Layer, experts: int) -> float:
    vectors, exists = torch.from_numpy(layer.vectors), np.ones(layer.routing.shape, bool)
    sums = other_tokens(vectors, TokenPairs.of(layer.routing, exists, experts, 1 << 20))
    return judged(sums, of_gains(sums, Labels()))[2]


def shared(rng: np.random.Generator, space: str, experts: int, share: float) -> Layer:
    """Experts whose outputs hold so large a share, by amplitude, of what one more expert says."""
    routing = balanced(rng, experts, 2)
    own = relu_experts(rng, tokens_of(rng), experts + 1)
    h = (1 - share**2) ** 0.5 * routed(own[1:], routing) + share * own[0][:, None]
    return Layer(routing, h * outliers(SPACES[space], 10).astype(np.float32))


def power(rng: np.random.Generator, space: str, experts: int, repetitions: int, nulls: int) -> dict[str, Any]:
    """Of each share and level: how many other tokens find, and how many their gain does among simulated layers of independent experts."""

    def judged(share: float) -> tuple[float, float]:
        layer = shared(rng, space, experts, share)
        (second,) = token_mso(layer.vectors, routing=layer.routing).beside
        return second.p, second.z * second.null_sd

    null = np.sort([judged(0.0)[1] for _ in range(nulls)])
    values = {"layers": repetitions}
    for share in SHARES:
        p, gain = np.array([judged(share) for _ in range(repetitions)]).T
        among = (1 + nulls - np.searchsorted(null, gain)) / (nulls + 1)
        for level in LEVELS:
            values[f"{share}, p < {level}"] = int((p < level).sum())
            values[f"{share}, p < {level}, simulated"] = int((among <= level).sum())
    return values


def render(records: Sequence[Record], out: Path) -> list[Path]:
    page = Table(
        "What other tokens see, and what misleads them",
        ["setting", "vectors", "experts", "k", "what", "of", "count"],
    )
    for record in records:
        total = record["values"]["layers"]
        page.rows += [[*record["labels"]["cell"], name, total, value] for name, value in record["values"].items()]
    page.notes = [
        f"{TOKENS} tokens, width {WIDTH}; broken: {MISLED:,}. Remedy: strata= of the true sizes, and documents= in which copies are one. "
        f"Shared: by the share of the amplitude; simulated: the same gain among {NULLS['full']:,} layers."
    ]
    return page.write(out / "other_tokens_seen")

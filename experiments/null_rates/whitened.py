"""How often vectors whitened by other experts have a small p where experts are independent, and what they see (law T4).

`data/whitened.jsonl` is what the full preset recorded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.cells import Bench, Record
from experiments.null_rates import other_tokens
from experiments.null_rates.gap_and_ratio import SIGMA, verdict
from experiments.null_rates.other_tokens import DRAWS, LEVELS, Draw, Layer, balanced, outliers, recorded, relu_experts, routed
from experiments.null_rates.other_tokens_seen import shared
from simgap.nulls.other_token import NO_LABELS, Labels, elsewhere, judged, of_gains
from simgap.overlaps import OtherTokens, Whitening, entries_of
from simgap.overlaps.other_tokens import SAMPLED
from simgap.overlaps.whitened import DRAWN, why_not
from simgap.report.table import Table
from simgap.threads import in_order

KEPT = Path(__file__).parent / "data" / "whitened.jsonl"
REPETITIONS = {"smoke": 60, "full": 1000}
RAW, WHITENED = "raw", "whitened"
# Tokens whose experts' vectors are hardly enough to whiten others by; and ones of which half are copies.
FEW, COPIED = 100, 200
SHARE = 0.3


def tokens(count: int, scale: np.ndarray | float = 1.0) -> Draw:
    def draw(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
        routing, x = balanced(rng, experts, top_k, count), other_tokens.tokens_of(rng, count)
        return Layer(routing, routed(relu_experts(rng, x, experts), routing) * np.float32(scale))

    return draw


def copies(one: bool) -> Draw:
    """Half of the tokens are one, or each is there twice: a document to each and its copies. Routing is drawn anew."""

    def draw(rng: np.random.Generator, experts: int, top_k: int) -> Layer:
        each = np.arange(COPIED)
        source = np.where(each < COPIED // 2, 0, each) if one else each // 2
        routing, x = balanced(rng, experts, top_k, COPIED), other_tokens.tokens_of(rng, COPIED)[source]
        return Layer(routing, routed(relu_experts(rng, x, experts), routing), source)

    return draw


def alike(space: str) -> Draw:
    """Experts that share a part of what they say on a token: nothing that a null should keep."""
    return lambda rng, experts, _: shared(rng, space, experts, SHARE)


INDEPENDENT: dict[str, Draw] = DRAWS | {
    "few tokens": tokens(FEW),
    "few tokens, 4 coordinates x 100": tokens(FEW, scale=outliers(4, 100)),
    "each token twice": copies(one=False),
    "half the tokens are one": copies(one=True),
}
ALIKE: dict[str, Draw] = {f"{SHARE} in common, {space}": alike(space) for space in ("round", "4 coordinates x 10")}
# As large a part of the settings of other tokens as differ in what whitening sees, and ones of its own.
CELLS: tuple[tuple[str, int, int], ...] = (
    ("independent vectors", 8, 2),
    ("4 coordinates x 100", 8, 2),
    ("i^-1, turned", 8, 2),
    ("AR(0.9) in documents", 8, 2),
    ("few tokens", 8, 2),
    ("half the tokens are one", 8, 4),
    *((design, 16, 2) for design in ALIKE),
    ("a common mean", 8, 2),
    ("4 coordinates x 10", 8, 2),
    ("lognormal rows", 8, 2),
    ("SwiGLU", 8, 2),
    ("ReLU outputs", 64, 2),
    ("90% on one expert", 8, 2),
    ("few tokens, 4 coordinates x 100", 8, 2),
    ("each token twice", 8, 4),
)


def compute(preset: str, bench: Bench) -> list[Record]:
    return recorded(CELLS, REPETITIONS[preset], rates, bench)


def rates(design: str, experts: int, top_k: int, repetitions: int, seed: int) -> dict[str, Any]:
    """Of each reading: repetitions with a p below each of the levels, then the mean and the sd of z."""
    designs = INDEPENDENT | ALIKE
    rng = np.random.default_rng([seed, list(designs).index(design), experts, top_k])
    p: dict[str, list[float]] = {RAW: [], WHITENED: []}
    z: dict[str, list[float]] = {RAW: [], WHITENED: []}
    for _ in range(repetitions):
        for name, found in zip(p, readings(designs[design](rng, experts, top_k), experts), strict=True):
            _, deviation, one = judged(found, of_gains(found, NO_LABELS))
            z[name].append(deviation)
            p[name].append(one)
    counts = {name: [int((np.array(values) < level).sum()) for level in LEVELS] for name, values in p.items()}
    return {name: [*counts[name], round(float(np.mean(z[name])), 3), round(float(np.std(z[name])), 3)] for name in p}


def readings(layer: Layer, experts: int) -> tuple[OtherTokens, OtherTokens]:
    """What meeting on a token adds, raw and whitened: what `sg.explain` judges, whose other rungs take as long again."""
    vectors, exists = torch.from_numpy(layer.vectors), np.ones(layer.routing.shape, bool)
    looked = elsewhere(vectors, layer.routing, exists, experts, Labels(layer.documents), in_order)
    width = layer.vectors.shape[-1]
    entries = entries_of(layer.routing, exists, experts, max(2, SAMPLED // width, DRAWN * width))
    if isinstance(looked, str) or why_not(entries, width):
        raise ValueError(f"layer: expected vectors enough to whiten by, got {layer.vectors.shape}")
    (whitened,) = Whitening.of(vectors, entries).other_tokens(vectors, [(looked.pairs, (looked.order,))], layer.documents)
    return looked.found, whitened


def render(records: Sequence[Record], out: Path) -> list[Path]:
    columns = ["vectors", "experts", "k", "reading", "repetitions", "mean z", "sd of z"]
    page = Table("How often a whitened reading is wrong", [*columns, *(text for level in LEVELS for text in (f"p < {level}", "verdict"))])
    for record in records:
        n, values = record["labels"]["repetitions"], record["values"]
        for name in (RAW, WHITENED):
            *counts, mean, spread = values[name]
            row: list[object] = [*record["labels"]["cell"], name, n, mean, spread]
            for level, count in zip(LEVELS, counts, strict=True):
                row += [count / n, verdict(count, n, level)]
            page.rows.append(row)
    page.notes = [
        f"Independent experts, but where they have a share of their amplitude in common. Verdicts are binomial, at {SIGMA:g} sigma."
    ]
    return page.write(out / "whitened")

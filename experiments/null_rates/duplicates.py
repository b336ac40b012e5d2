"""Whether two pairs of copies among 64 experts are found, as they are and whitened, and whether others are taken for copies (laws T4, T10).

`data/duplicates.jsonl` is what the full preset recorded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import Bench, Record
from experiments.null_rates.other_tokens import D_IN, WIDTH, Layer, balanced, counts_of, outliers, recorded, relu_experts, routed
from experiments.null_rates.whitened import RAW, WHITENED, readings
from simgap import token_mso
from simgap.api.other_token import HIDDEN, table_of
from simgap.api.pair_table import PairTable
from simgap.report.table import Table

KEPT = Path(__file__).parent / "data" / "duplicates.jsonl"
LAYERS = {"smoke": 1, "full": 100}
EXPERTS, TOKENS, TOP_K = 64, 8192, 8
LEVEL = 0.05
# Large coordinates and their size; pairs of copies; how much of another expert's outputs a copy has beside its twin's.
CELLS: tuple[tuple[int, int, int, float], ...] = ((4, 10, 0, 0.0), (4, 10, 2, 0.0), (1, 100, 0, 0.3), (1, 100, 2, 0.3))
# So large a coordinate hides near copies from the vectors as they are.
HIDING = 100


def compute(preset: str, bench: Bench) -> list[Record]:
    return recorded(CELLS, LAYERS[preset], seen, bench)


def layer(rng: np.random.Generator, large: int, size: int, copies: int, own_part: float) -> Layer:
    routing, x = balanced(rng, EXPERTS, TOP_K, TOKENS), rng.standard_normal((TOKENS, D_IN), np.float32)
    own = relu_experts(rng, x, EXPERTS + copies)
    for at in range(copies):
        own[2 * at + 1] = own[2 * at] + np.float32(own_part) * own[EXPERTS + at]
    return Layer(routing, routed(own, routing) * outliers(large, size).astype(np.float32))


def seen(large: int, size: int, copies: int, own_part: float, layers: int, seed: int) -> dict[str, Any]:
    """Of each reading, layers whose first rows are the copies, whose copies all have an adjusted p up to the level, and which have others
    at it; those that are told that few directions hide the rest, and those with a p below it by other tokens."""
    rng = np.random.default_rng([seed, CELLS.index((large, size, copies, own_part))])
    alike = {(2 * at, 2 * at + 1) for at in range(copies)}
    counts: dict[str, int] = {"layers": layers, "hidden": 0, "p < 0.05": 0}
    for _ in range(layers):
        drawn = layer(rng, large, size, copies, own_part)
        found = token_mso(drawn.vectors, routing=drawn.routing)
        counts["hidden"] += HIDDEN in found.verdict
        counts["p < 0.05"] += found.beside[0].p < LEVEL
        tables = {RAW: found.table}
        if size == HIDING:
            tables[WHITENED] = table_of(readings(drawn, EXPERTS)[1], np.arange(EXPERTS))
        for name, table in tables.items():
            for what, is_so in said(table, alike).items():
                counts[f"{name}: {what}"] = counts.get(f"{name}: {what}", 0) + is_so
    return {name: int(count) for name, count in counts.items()}


def said(table: PairTable | None, alike: set[tuple[int, int]]) -> dict[str, bool]:
    """Of a table; without copies whether any pair is taken for one."""
    if table is None:
        raise ValueError("table: expected one of all pairs, got none")
    standing = set(table.standing_out(LEVEL))
    if not alike:
        return {"others": bool(standing)}
    rows = {tuple(row) for row in table.top(len(alike))[["expert", "other"]].to_numpy().tolist()}
    return {"first rows": rows == alike, "copies": alike <= standing, "others": bool(standing - alike)}


def render(records: Sequence[Record], out: Path) -> list[Path]:
    page = Table("Whether two pairs of copies are found", ["large coordinates", "size", "copies", "own part", "what", "layers", "count"])
    page.rows += counts_of(records)
    page.notes = [
        f"{EXPERTS} experts, {TOKENS:,} tokens, k = {TOP_K}, width {WIDTH}. First rows: the two of the highest scores are the copies. "
        f"Copies, others: those with an adjusted p up to {LEVEL:g}."
    ]
    return page.write(out / "duplicates")

"""What is said of experts that began as copies of one dense MLP and have noise of their own (upcycling), beside the test of a round space.

`data/upcycled.jsonl` is what the full preset recorded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.cells import Bench, Record
from experiments.null_rates.other_tokens import a_pair_stands_out, counts_of, recorded
from simgap import explain, token_mso, weight_mso
from simgap.report.table import Table
from simgap.theory import mso_p

KEPT = Path(__file__).parent / "data" / "upcycled.jsonl"
LAYERS = {"smoke": 3, "full": 100}
EXPERTS, TOP_K, TOKENS, D_MODEL, D_FF = 16, 2, 2400, 64, 128
LEVEL, SECOND_LEVEL = 0.001, 0.01
INDEPENDENT, COPIES, REORDERED = "independent", "copies", "copies, units in other orders"
# What, and how much noise, of the root mean square of the weights.
CELLS: tuple[tuple[str, float], ...] = (
    (INDEPENDENT, 0.0),
    *((COPIES, noise) for noise in (0.01, 0.5, 1.5, 2.0, 16.0)),
    *((REORDERED, noise) for noise in (0.01, 0.5)),
)


class Upcycled(NamedTuple):
    """Vectors (n, k, d_model) of their experts, routing (n, k), and W_up (E, d_ff, d_model)."""

    vectors: np.ndarray
    routing: np.ndarray
    up: np.ndarray


def layer(rng: np.random.Generator, design: str, noise: float) -> Upcycled:
    """SwiGLU experts; a router of linear scores, so that experts see tokens of their own."""
    base = rng.standard_normal((3, D_FF, D_MODEL), np.float32)
    each = rng.standard_normal((EXPERTS, 3, D_FF, D_MODEL), np.float32)
    if design != INDEPENDENT:
        each = base + np.float32(noise) * each
    if design == REORDERED:
        orders = rng.permuted(np.tile(np.arange(D_FF), (EXPERTS, 1)), axis=1)
        each = np.stack([weights[:, order] for weights, order in zip(each, orders, strict=True)])
    x = rng.standard_normal((TOKENS, D_MODEL), np.float32) / np.float32(D_MODEL**0.5)
    routing = np.argsort(-(x @ rng.standard_normal((D_MODEL, EXPERTS), np.float32)), 1)[:, :TOP_K]
    vectors = np.empty((TOKENS, TOP_K, D_MODEL), np.float32)
    for expert, (up, gate, down) in enumerate(each):
        token, slot = np.nonzero(routing == expert)
        gates = x[token] @ gate.T
        vectors[token, slot] = (x[token] @ up.T * gates / (1 + np.exp(-gates))) @ down
    return Upcycled(vectors, routing, each[:, 0])


def compute(preset: str, bench: Bench) -> list[Record]:
    return recorded(CELLS, LAYERS[preset], said, bench)


def said(design: str, noise: float, layers: int, seed: int) -> dict[str, Any]:
    """Of so many layers, how often each test is small and each thing is said; and mean overlaps."""
    rng = np.random.default_rng([seed, CELLS.index((design, noise))])
    seen: dict[str, list[float]] = {}
    for _ in range(layers):
        vectors, routing, up = layer(rng, design, noise)
        tokens, weights, ladder = token_mso(vectors, routing=routing), weight_mso(up, units=1), explain(vectors, routing)
        one = {
            "tokens: overlap": tokens.mean,
            "tokens: round space": mso_p(tokens.mean, D_MODEL, TOP_K * (TOP_K - 1) // 2, TOKENS, TOP_K, "upper") < LEVEL,
            "tokens: signs": tokens.p < LEVEL,
            "tokens: other tokens": tokens.beside[0].p < SECOND_LEVEL,
            "tokens: more than": tokens.verdict.startswith("more than a shared space, bias or W_down"),
            "tokens: a pair at 0.05": a_pair_stands_out(tokens),
            "explain: whitened": (ladder.whitened_p or 1.0) < SECOND_LEVEL,
            "explain: own/L2": ladder["one expert"].factor or 0.0,
            "explain: nothing tells them apart": "nothing tells these experts apart" in ladder.paragraph,
            "weights: overlap": weights.mean,
            "weights: round space": mso_p(weights.mean, D_FF * D_MODEL, EXPERTS * (EXPERTS - 1) // 2, 1, EXPERTS, "upper") < LEVEL,
            "weights: signs": weights.p < LEVEL,
            "weights: renumbered": weights.beside[0].p < LEVEL,
            "weights: more than both": weights.verdict.startswith("more than both nulls give: units of the same number are alike"),
            "weights: a pair at 0.05": a_pair_stands_out(weights),
        }
        for name, value in one.items():
            seen.setdefault(name, []).append(float(value))
    # Means of what is no count.
    means = ("tokens: overlap", "weights: overlap", "explain: own/L2")
    counts = {name: round(float(np.mean(values)), 5) if name in means else int(sum(values)) for name, values in seen.items()}
    return {"layers": layers} | counts


def render(records: Sequence[Record], out: Path) -> list[Path]:
    page = Table("What is said of upcycled experts", ["experts", "noise", "what", "layers", "count, or mean"])
    page.rows += counts_of(records)
    page.notes = [
        f"{EXPERTS} SwiGLU experts of {D_FF} units in width {D_MODEL}, copies of one but for noise, {TOKENS:,} tokens, k = {TOP_K}; W_up. "
        f"Counts of p < {LEVEL:g}, other tokens and whitened p < {SECOND_LEVEL:g}; overlaps and own/L2 are means."
    ]
    return page.write(out / "upcycled")

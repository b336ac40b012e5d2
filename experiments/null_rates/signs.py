"""How often the public functions give a small p where nothing is to be found: independent experts in round spaces and others (law T0).

`data/signs.jsonl` is what the full preset recorded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.cells import Bench, Record
from experiments.null_rates.gap_and_ratio import LEVELS, SIGMA, verdict
from simgap import mean_mso, token_mso, weight_mso
from simgap.overlaps import size_sums
from simgap.report.table import Table
from simgap.theory.sign_flips import upper_p

KEPT = Path(__file__).parent / "data" / "signs.jsonl"
EXPERTS = (3, 8, 32)
REPETITIONS = {"smoke": 100, "full": 1000}
TOKENS, TOP_K, D_MODEL, D_FF = 128, 2, 16, 48
FUNCTIONS = ("weights", "means", "tokens", "tokens without routing")
# What signs drawn for each pair, not for each expert, make of the weights: their law lacks the triangles.
BY_PAIR = "weights, signs by pair"

Draw = Callable[[np.random.Generator, int, np.ndarray], np.ndarray]


def iid(rng: np.random.Generator, experts: int, routing: np.ndarray) -> np.ndarray:
    return rng.standard_normal((*routing.shape, D_FF))


def heavy_tails(rng: np.random.Generator, experts: int, routing: np.ndarray) -> np.ndarray:
    return rng.standard_t(3, (*routing.shape, D_FF))


def swiglu(rng: np.random.Generator, experts: int, routing: np.ndarray) -> np.ndarray:
    x = rng.standard_normal((len(routing), D_MODEL))
    up, gate = (np.einsum("tkfd,td->tkf", rng.standard_normal((experts, D_FF, D_MODEL))[routing], x) for _ in range(2))
    return up * gate / (1 + np.exp(-gate))


def outputs(scale: np.ndarray) -> Draw:
    """ReLU experts' outputs, whose coordinates have these scales."""

    def draw(rng: np.random.Generator, experts: int, routing: np.ndarray) -> np.ndarray:
        x = rng.standard_normal((len(routing), D_MODEL))
        hidden = np.maximum(np.einsum("tkfd,td->tkf", rng.standard_normal((experts, 32, D_MODEL))[routing], x), 0)
        return np.einsum("tkdf,tkf->tkd", rng.standard_normal((experts, D_FF, 32))[routing], hidden) * scale

    return draw


def shared_experts(rng: np.random.Generator, experts: int, routing: np.ndarray) -> np.ndarray:
    """Each expert says nearly the same on all of its tokens."""
    return rng.standard_normal((experts, D_FF))[routing] + 0.3 * rng.standard_normal((*routing.shape, D_FF))


DESIGNS: dict[str, Draw] = {
    "iid": iid,
    "heavy tails (t3)": heavy_tails,
    "SwiGLU": swiglu,
    "4 coordinates x 10": outputs(np.where(np.arange(D_FF) < 4, 10.0, 1.0)),
    "2 coordinates x 100": outputs(np.where(np.arange(D_FF) < 2, 100.0, 1.0)),
    "power law": outputs(np.arange(1, D_FF + 1) ** -0.5),
    "shared experts": shared_experts,
}


def compute(preset: str, bench: Bench) -> list[Record]:
    n = REPETITIONS[preset]
    return bench.labelled([{"design": d, "experts": e, "repetitions": n} for d in DESIGNS for e in EXPERTS], rejections)


def rejections(design: str, experts: int, repetitions: int, seed: int) -> dict[str, list[int]]:
    """Of each function, how many repetitions have a p below each of the levels."""
    rng = np.random.default_rng([seed, list(DESIGNS).index(design), experts])
    p: dict[str, list[float]] = {name: [] for name in (*FUNCTIONS, BY_PAIR)}
    for _ in range(repetitions):
        routing = np.argsort(rng.random((TOKENS, experts)), 1)[:, :TOP_K]
        h = DESIGNS[design](rng, experts, routing)
        # One vector to an expert.
        weights = DESIGNS[design](rng, experts, np.arange(experts)[None])[0]
        p["weights"].append(weight_mso(weights).p)
        p["means"].append(mean_mso(h, routing).p)
        p["tokens"].append(token_mso(h, routing=routing).p)
        p["tokens without routing"].append(token_mso(h).p)
        p[BY_PAIR].append(_p_by_pair(weights))
    return {name: [int((np.array(values) < level).sum()) for level in LEVELS] for name, values in p.items()}


def _p_by_pair(weights: np.ndarray) -> float:
    vectors = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    pairs = np.triu_indices(len(vectors), 1)
    sums = size_sums(torch.from_numpy(vectors))
    third = 8 * (sums.p3 - 3 * sums.pq + 2 * sums.r)
    return upper_p(float(((vectors @ vectors.T)[pairs] ** 2).sum()), sums.p, 2 * (sums.p2 - sums.q), third)


def render(records: Sequence[Record], out: Path) -> list[Path]:
    page = Table(
        "How often p is small where nothing is to be found",
        ["vectors", "experts", "function", "repetitions", *(text for level in LEVELS for text in (f"p < {level}", "verdict"))],
    )
    for record in records:
        labels, n = record["labels"], record["labels"]["repetitions"]
        for name, counts in record["values"].items():
            row: list[object] = [labels["design"], labels["experts"], name, n]
            for level, count in zip(LEVELS, counts, strict=True):
                row += [count / n, verdict(count, n, level)]
            page.rows.append(row)
    page.notes = [
        f"Independent experts, {TOKENS} tokens, k = {TOP_K}, width {D_FF}; weights are one vector of each expert. Verdicts are binomial, "
        f"at {SIGMA:g} sigma. Signs by pair, not by expert, are no null: their law lacks what three experts add around a triangle."
    ]
    return page.write(out / "signs")

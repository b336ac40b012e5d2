"""How often the p of other tokens is below 0.001 where experts are independent: six settings, ten thousand layers each (laws T2 and T3).

`data/rare.jsonl` is what the full preset recorded.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.cells import Bench, Record
from experiments.null_rates import other_tokens
from experiments.null_rates.other_tokens import rates, recorded

KEPT = Path(__file__).parent / "data" / "rare.jsonl"
REPETITIONS = {"smoke": 100, "full": 10_000}
CASES = tuple(
    (design, 8, 2) for design in ("independent vectors", "4 coordinates x 10", "i^-1", "lognormal rows", "SwiGLU", "AR(0.9) in documents")
)


def compute(preset: str, bench: Bench) -> list[Record]:
    return recorded(CASES, REPETITIONS[preset], rates, bench)


def render(records: Sequence[Record], out: Path) -> list[Path]:
    return other_tokens.table_of(records).write(out / "rare")

"""The atlas of spaces that are not round: how many times 1/d independent experts overlap there, and by which nulls (laws T0, T3, T5)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.cells import Bench, Record
from experiments.sweeps.anisotropy_figures import draw_maps
from experiments.sweeps.atlas import PRESETS, chosen, sweep_parts, z_table
from experiments.sweeps.atlas_verdicts import FAILS, VERDICTS, Judged, beside, verdicts
from simgap import LayerSpec, RunSpec, predict, token_mso
from simgap.api.calibration import compare
from simgap.api.reported import FIVE_SIGMA
from simgap.moe import draws_of, open_inputs, simulate
from simgap.report.table import Table
from simgap.specs import SpaceSpec
from simgap.stats import Estimate, holm
from simgap.sweeps import Cells
from simgap.sweeps.file import read_file
from simgap.sweeps.plan import run_of

__all__ = ["PRESETS", "compute", "render"]
FILE = Path(__file__).with_suffix(".toml")
TOKENS = {"smoke": (64,), "cpu": (64, 512), "full": (64, 512)}
LEVEL = 0.001
# What a null of arrays says of one layer's outputs on a token.
SIGNS, OTHER = "signs", "other tokens"


def compute(preset: str, bench: Bench) -> list[Record]:
    """Sweep the cells of anisotropy.toml at each number of tokens, and hold the first layer of each cell against the nulls of arrays."""
    described = read_file(FILE)
    cells, left_out = chosen(described, preset)
    parts = [(f"tokens_{tokens}", cells, {"tokens": tokens}) for tokens in TOKENS[preset]]
    records = sweep_parts(parts, described, bench, left_out)
    return records + [one for tokens in TOKENS[preset] for one in _arrays(cells, tokens, bench)]


def _arrays(cells: Cells, tokens: int, bench: Bench) -> list[Record]:
    run = RunSpec(tokens=tokens, trials=1, seed=bench.seed)
    specs = list(cells)
    begun = [{"arrays": spec.to_dict(), "tokens": tokens} for spec in specs]
    return bench.each(begun, lambda at: held(specs[at], run_of(run, cells.key(at))))


def held(spec: LayerSpec, run: RunSpec) -> dict[str, Any]:
    """The outputs of one layer, those of the sweep's first trial, held against signs and against other tokens: [excess, z, p] of each."""
    draws = draws_of(spec, run.seed, [0])
    (block,) = simulate(draws, run, open_inputs(draws)).blocks(("output",), tokens=run.tokens)
    found = token_mso(block.rows["output"][0][block.index[0]], routing=block.indices[0])
    values: dict[str, Any] = {"mean": found.mean, "verdict": found.verdict, SIGNS: [found.excess, found.z, found.p]}
    return values | {OTHER: [[one.excess, one.z, one.p] for one in found.beside if one.name == "other_token"]}


def round_twin(record: Record) -> Iterator[Judged]:
    """The same values, held against the law of a space that is round."""
    for point in beside(record):
        spec, trials = replace(point.spec, space=SpaceSpec()), point.trials
        law = predict(spec, tokens=record["tokens"], trials=trials, quantities=[point.quantity])[point.quantity]
        row = record["quantities"][point.quantity]
        both = compare(Estimate(row["mean"], row["sem"], row["n"], row["pairs"]), law, overlap=True, experts=spec.n_experts)
        yield replace(
            point, law_id=law.law, law=law.mean, sd=law.sd, kind=law.kind, sd_kind=law.sd_kind, z=both.z, z_unit=both.z_unit, p=both.p
        )


def render(records: Sequence[Record], out: Path) -> list[Path]:
    """The map as a table and a figure. Reads only the records."""
    cells = [record for record in records if "spec" in record]
    arrays = [record for record in records if "arrays" in record]
    # Each law's verdicts are corrected for all cells and quantities.
    laws = {
        "T5": verdicts([point for record in cells for point in beside(record)]),
        "a round space": verdicts([point for record in cells for point in round_twin(record)]),
    }
    page = Table("Where the laws of a round space fail", ["quantity", "held against", "cells", *VERDICTS, "largest |z|", "measured / law"])
    for quantity in dict.fromkeys(point.quantity for point in laws["T5"]):
        for name, found in laws.items():
            mine = [point for point in found if point.quantity == quantity]
            ratios = [point.measured / (point.law or math.nan) for point in mine]
            counts = [sum(point.verdict == verdict for point in mine) for verdict in VERDICTS]
            worst = max(abs(point.normal or 0.0) for point in mine)
            page.rows.append([quantity, name, len(mine), *counts, worst, f"{min(ratios):.3g} to {max(ratios):.3g}"])
    page.notes = _notes(cells, laws, arrays)
    page.sections = [_by_space(laws, arrays), z_table(laws["T5"]), *_failed(laws["T5"])]
    return [*page.write(out / "anisotropy"), *draw_maps(laws, arrays, out / "anisotropy_map")]


def _notes(cells: Sequence[Record], laws: dict[str, list[Judged]], arrays: Sequence[Record]) -> list[str]:
    failing, exact = (sum(point.verdict == FAILS for point in found) for found in (laws["a round space"], laws["T5"]))
    most = max(laws["a round space"], key=lambda point: point.measured / (point.law or math.nan))
    tokens = sorted({cell["tokens"] for cell in cells})
    return [
        f"{len(cells)} cells at {' and '.join(map(str, tokens))} tokens, {cells[0]['trials']} trials each: independent untrained experts. "
        f"Held against a round space {failing} of {len(laws['T5'])} quantities fail, the worst by {most.measured / (most.law or 1):.3g} "
        f"times ({most.quantity}, {most.cell}). Held against T5 {exact} fail.",
        *(_said_of_arrays(name, arrays) for name in (SIGNS, OTHER)),
        "Verdicts are those of the atlas; p is corrected over all cells and quantities, for each law apart. Layers are the same at every "
        "number of tokens, which Holm's correction allows.",
    ]


def _said_of_arrays(name: str, arrays: Iterable[Record]) -> str:
    parts = []
    for turned in (False, True):
        p = [p for record in arrays if record["arrays"]["space"]["rotated"] == turned for *_, p in rows_of(record, name)]
        small, corrected = sum(one < LEVEL for one in p), sum(one < FIVE_SIGMA for one in holm(p))
        parts.append(
            f"of {len(p)} layers in {'turned directions' if turned else 'coordinates'} {small} have p < {LEVEL}, {corrected} stay refused"
        )
    return f"Against {name}, one layer's outputs: {'; '.join(parts)} at five sigma after correction."


def rows_of(record: Record, name: str) -> list[list[float]]:
    """[excess, z, p] of one null of a layer's arrays; none where it had no pairs to judge."""
    return [record["values"][SIGNS]] if name == SIGNS else record["values"][OTHER]


def _by_space(laws: dict[str, list[Judged]], arrays: Sequence[Record]) -> Table:
    """Of each space, over experts, top-k and tokens."""
    columns = ["size of 4 outliers", "exponent", "turned", "T5, times 1/d", "measured, times 1/d", "largest |z| against T5"]
    table = Table("By space", [*columns, *(f"{name}: p < {LEVEL}, of" for name in (SIGNS, OTHER))])
    for space in dict.fromkeys(point.spec.space for point in laws["T5"]):
        mine = [p for p in laws["T5"] if p.spec.space == space and p.quantity.startswith("activation_mso")]
        times = [p.measured * p.spec.d_model for p in mine]
        said = [[p for r in arrays if SpaceSpec(**r["arrays"]["space"]) == space for *_, p in rows_of(r, name)] for name in (SIGNS, OTHER)]
        row = [space.scale, space.alpha, space.rotated, (mine[0].law or 0.0) * mine[0].spec.d_model, sum(times) / len(times)]
        shares = [f"{sum(p < LEVEL for p in one)} of {len(one)}" for one in said]
        table.rows.append([*row, max(abs(p.normal or 0.0) for p in mine), *shares])
    return table


def _failed(found: Sequence[Judged]) -> list[Table]:
    table = Table("What fails against T5", ["quantity", "cell", "predicted", "measured", "z", "corrected p"])
    table.rows = [[p.quantity, p.cell, p.law, p.measured, p.z, p.corrected] for p in found if p.verdict == FAILS]
    return [table] if table.rows else []

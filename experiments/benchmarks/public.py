"""The public functions, null and its spread included, beside torch's own road to the bare number and beside the bare kernel, in one run."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmarks import expressions
from experiments.benchmarks.rates import interleaved, quartiles
from experiments.cells import Bench, Record
from simgap import mean_mso, token_mso, weight_mso
from simgap.overlaps import gram, means_by_routing, token_overlap
from simgap.records import Records
from simgap.report.table import Table
from simgap.threads import pool

DEVICES = ("cpu",)
ROUNDS = {"smoke": 3, "full": 9}
# Of 2 vectors on a token, and so many times k of more.
EXPERTS = 8
# (tokens, k, width) and (experts, entries), float32; the last of each are 256 MiB.
TOKENS = {
    "smoke": ((256, 2, 64), (1024, 2, 512)),
    "full": ((256, 2, 64), (4096, 2, 512), (4096, 8, 64), (4096, 2, 4096), (1024, 8, 2048), (65536, 2, 512), (8192, 2, 4096)),
}
WEIGHTS = {"smoke": ((8, 1 << 14),), "full": ((8, 1 << 16), (8, 1 << 20), (64, 1 << 20))}
BARE, TORCH = "kernel", "torch"


def compute(preset: str, bench: Bench) -> list[Record]:
    cells: list[tuple[str, Callable[..., dict[str, Callable[[], Any]]], tuple[int, ...]]] = []
    cells += [("tokens", _tokens, shape) for shape in TOKENS[preset]] + [("means", _means, shape) for shape in TOKENS[preset]]
    cells += [("weights", _weights, shape) for shape in WEIGHTS[preset]]
    file, records = Records(bench.out / f"{bench.artefact}.jsonl"), []
    for name, contenders, shape in tqdm(cells, desc=bench.artefact, unit="cell", disable=bench.quiet or None):
        record: Record = {"key": f"{name} {shape}", "artefact": bench.artefact, "labels": {"function": name, "shape": list(shape)}}
        record["seconds"] = interleaved(contenders(*shape), ROUNDS[preset])
        record["machine"] = {"threads": torch.get_num_threads()}
        records.append(record | {"provenance": bench.origin})
        file.append(records[-1])
    return records


def _layer(n: int, k: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    routing = torch.rand(n, _experts(k), generator=generator).argsort(1)[:, :k].contiguous()
    return torch.randn(n, k, width, generator=generator), routing


def _experts(k: int) -> int:
    return EXPERTS if k <= 2 else EXPERTS * k


def _pooled(function: Callable[[Any], Any]) -> Callable[[], Any]:
    def called() -> Any:
        with pool() as (task_map, _):
            return function(task_map)

    return called


def _tokens(n: int, k: int, width: int) -> dict[str, Callable[[], Any]]:
    h, routing = _layer(n, k, width)
    return {
        "token_mso": lambda: token_mso(h),
        "token_mso, routing=": lambda: token_mso(h, routing=routing),
        BARE: _pooled(lambda task_map: token_overlap(h, task_map)),
        TORCH: lambda: expressions.normalise_bmm(h),
    }


def _means(n: int, k: int, width: int) -> dict[str, Callable[[], Any]]:
    h, routing = _layer(n, k, width)
    experts = _experts(k)
    return {
        "mean_mso": lambda: mean_mso(h, routing),
        BARE: _pooled(lambda task_map: means_by_routing(h, routing, experts, task_map)),
        TORCH: lambda: _mean_cos2(expressions.means_single(h, routing, experts)),
    }


def _weights(experts: int, entries: int) -> dict[str, Callable[[], Any]]:
    weights = torch.randn(experts, entries, generator=torch.Generator().manual_seed(0))
    return {
        "weight_mso": lambda: weight_mso(weights),
        BARE: _pooled(lambda task_map: gram(weights[None], task_map)),
        TORCH: lambda: _mean_cos2(weights),
    }


def _mean_cos2(vectors: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    i, j = torch.triu_indices(len(vectors), len(vectors), 1)
    return (unit @ unit.mT)[i, j].square().mean()


def render(records: Sequence[Record], out: Path) -> list[Path]:
    page = Table(
        "The public functions beside torch's bare number",
        ["call", "shape", "ms", "torch / ours", "quartiles", "ours / kernel", "quartiles "],
    )
    for record in records:
        seconds = record["seconds"]
        for name in (name for name in seconds if name not in (BARE, TORCH)):
            ratios = [
                quartiles([a / b for a, b in zip(*each, strict=True)])
                for each in ((seconds[TORCH], seconds[name]), (seconds[name], seconds[BARE]))
            ]
            both = itertools.chain.from_iterable((middle, f"{low:.2f} to {high:.2f}") for low, middle, high in ratios)
            shape = " x ".join(map(str, record["labels"]["shape"]))
            page.rows.append([name, shape, 1e3 * quartiles(seconds[name])[1], *both])
    threads = records[0]["machine"]["threads"]
    page.notes = [
        f"float32, {threads} threads, {EXPERTS} experts, {EXPERTS} k where more than 2 vectors share a token. Every contender once a "
        "round in random order; ratios are medians of rounds. "
        "torch: normalise + bmm of all tokens; index_add_ of means, or the weights, then normalise + mm. None of these knows a null."
    ]
    return page.write(out / "public")

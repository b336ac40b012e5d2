"""The overlap kernels beside the read bandwidth of the machine and beside the same numbers in torch, numpy and plain numba, in one run.

With --device cuda the same shapes on a tensor of 4 GiB, without numpy and numba. That path has not been run on hardware.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmarks import expressions
from experiments.benchmarks.rates import fastest, interleaved, quartiles, readers
from experiments.cells import Bench, Record
from simgap.api.plan import check_device
from simgap.overlaps import gram, means_by_routing, token_cos2, token_overlap
from simgap.overlaps.token_overlap import tokens_at_once
from simgap.records import Records
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table
from simgap.threads import pool

Contenders = dict[str, Callable[[], Any]]
OURS, HALF, READ, COMPILED = "simgap", "bfloat16", "read: ", "compiled: "
GATHERED, HELD = "rows[index], then overlap", "the same into held memory"
# float32 numbers of every tensor.
NUMBERS = {"smoke": {"cpu": 1 << 22, "cuda": 1 << 22}, "full": {"cpu": 1 << 28, "cuda": 1 << 30}}
ROUNDS = {"smoke": 3, "full": 7}
# Compiled expressions that stay after a heat of so many rounds.
FINALISTS, HEAT = 2, 2
KS = (2, 4, 8)
WIDTHS = {"smoke": (512,), "full": (512, 1024, 4096)}
GATHERED_KS = (2, 4)
EXPERTS = (8, 64)
MEANS_K, MEANS_WIDTH = 2, 1024


@dataclass(frozen=True)
class Data:
    """The tensors that all cells are views of: float32, bfloat16 of as many bytes, and one to be read in between."""

    single: Tensor
    half: Tensor
    other: Tensor | None

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator(self.single.device).manual_seed(1)

    def synchronise(self) -> None:
        if self.single.is_cuda:
            torch.cuda.synchronize(self.single.device)


@dataclass(frozen=True)
class Target:
    """A ratio of a contender's time to ours that was asked for, at some k (none: whatever the shape)."""

    what: str
    kernel: str
    ks: tuple[int, ...]
    contender: str
    bar: float


TARGETS = (
    Target("share of the read bandwidth", "token", (2, 4), READ, 0.8),
    Target("share of the read bandwidth", "token", (8,), READ, 0.6),
    Target("times as fast as normalise + bmm", "token", (2, 4), "normalise + bmm", 10),
    Target("times as fast as the eager Gram", "token", (2, 4), "eager Gram", 1.5),
    Target("times as fast as the best compiled", "token", (2, 4), COMPILED, 1),
    Target("times as fast as the best compiled", "token", (8,), COMPILED, 1.5),
    Target("times as fast as gather (rows[index]), then overlap", "gathered", GATHERED_KS, GATHERED, 2),
    Target("times as fast as gather into memory held beforehand, then overlap", "gathered", GATHERED_KS, HELD, 2),
    Target("tokens/s of bfloat16 over float32", "token", KS, HALF, 1.5),
)


def compute(preset: str, bench: Bench) -> list[Record]:
    """Every cell: its contenders and the readers of the same bytes, once a round; how far each contender's numbers are from ours."""
    check_device(bench.device)
    shapes = list(itertools.product(KS, WIDTHS[preset]))
    cells: list[tuple[str, dict[str, int]]] = [("token", {"k": k, "d": d}) for k, d in shapes]
    cells += [("gathered", {"k": k, "d": d}) for k, d in shapes if k in GATHERED_KS]
    cells += [(kernel, {"experts": experts}) for kernel in ("gram", "means") for experts in EXPERTS]
    data = _data(NUMBERS[preset][bench.device.partition(":")[0]], bench.device)
    before = None if data.other is None else data.other.sum
    contenders_of: dict[str, Callable[..., tuple[Contenders, dict[str, str]]]]
    contenders_of = {"token": _token, "gathered": _gathered, "gram": _gram, "means": _means}
    records, file = [], Records(bench.out / f"{bench.artefact}.jsonl")
    for kernel, labels in tqdm(cells, desc=bench.artefact, unit="cell", disable=bench.quiet or None):
        contenders, missing = contenders_of[kernel](data, **labels)
        apart = _apart(contenders)
        record: Record = {"key": f"{kernel} {labels}", "artefact": bench.artefact, "labels": {"kernel": kernel} | labels}
        record |= {"bytes": 4 * data.single.numel(), "machine": _machine(bench.device), "apart": apart, "missing": missing}
        with readers(data.single) as reader_of:
            contenders |= {READ + name: reader for name, reader in reader_of.items()}
            record["seconds"] = interleaved(contenders, ROUNDS[preset], before, data.synchronise)
        records.append(record | {"provenance": bench.origin})
        file.append(records[-1])
    return records


def _data(numbers: int, device: str) -> Data:
    generator = torch.Generator(device).manual_seed(0)
    single = torch.randn(numbers, generator=generator, device=device)
    half = torch.cat([single.bfloat16(), -single.bfloat16()])
    # The last-level cache of a server may hold a whole tensor; a card's holds little of one.
    return Data(single, half, None if single.is_cuda else torch.ones(numbers))


def _machine(device: str) -> dict[str, Any]:
    cuda = device != "cpu"
    return {
        "threads": torch.get_num_threads(),
        "card": torch.cuda.get_device_name(device) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
    }


def _token(data: Data, k: int, d: int) -> tuple[Contenders, dict[str, str]]:
    h, half = data.single.view(-1, k, d), data.half.view(-1, k, d)
    contenders: Contenders = {
        OURS: lambda: _overlap(h),
        HALF: lambda: _overlap(half),
        "normalise + bmm": lambda: expressions.normalise_bmm(h),
        "eager Gram": lambda: expressions.gram_bmm(h),
    }
    functions, missing = expressions.compiled(h)
    heat = interleaved(functions, HEAT, synchronise=data.synchronise)
    contenders |= {
        COMPILED + name: functions[name] for name in sorted(functions, key=lambda name: statistics.median(heat[name]))[:FINALISTS]
    }
    if not h.is_cuda:
        array = h.numpy()
        contenders["numpy matmul"] = lambda: expressions.numpy_matmul(array)
        contenders["numpy einsum"] = lambda: expressions.numpy_einsum(array)
        contenders["numba loop"] = lambda: expressions.numba_loop(array)
    return contenders, missing


def _overlap(h: Tensor) -> np.ndarray:
    with pool() as (task_map, _):
        return token_overlap(h, task_map).cos2


def _gathered(data: Data, k: int, d: int) -> tuple[Contenders, dict[str, str]]:
    """Every row once, in random order."""
    rows = data.single.view(-1, d)
    index = torch.randperm(len(rows), generator=data.generator, device=rows.device).view(-1, k)
    step = tokens_at_once(k, d)

    def ours() -> np.ndarray:
        if rows.is_cuda:
            return token_cos2(rows, index)[0]
        with pool() as (task_map, _):
            return np.concatenate(
                list(task_map(lambda start: token_cos2(rows, index[start : start + step])[0], range(0, len(index), step)))
            )

    held = torch.empty_like(rows)

    def into_held() -> np.ndarray:
        return _overlap(torch.index_select(rows, 0, index.view(-1), out=held).view(-1, k, d))

    return {OURS: ours, GATHERED: lambda: _overlap(rows[index]), HELD: into_held}, {}


def _gram(data: Data, experts: int) -> tuple[Contenders, dict[str, str]]:
    vectors = data.single.view(experts, -1)

    def ours() -> Tensor:
        with pool() as (task_map, _):
            return gram(vectors[None], task_map)[0]

    rivals: Contenders = {
        "mm in float64": lambda: expressions.gram_double(vectors),
        "mm in float32": lambda: expressions.gram_single(vectors),
    }
    return {OURS: ours} | rivals, {}


def _means(data: Data, experts: int) -> tuple[Contenders, dict[str, str]]:
    width = min(MEANS_WIDTH, data.single.numel() // (4 * MEANS_K * experts))
    vectors = data.single.view(-1, MEANS_K, width)
    routing = torch.randint(experts, vectors.shape[:2], generator=data.generator, device=vectors.device)

    def ours() -> Tensor:
        with pool() as (task_map, _):
            return means_by_routing(vectors, routing, experts, task_map)

    contenders: Contenders = {OURS: ours, "index_add_ in float64": lambda: expressions.means_double(vectors, routing, experts)}
    return contenders | {"index_add_ in float32": lambda: expressions.means_single(vectors, routing, experts)}, {}


def _apart(contenders: Contenders) -> dict[str, float]:
    """Largest distance of each contender's numbers from ours, in units of our largest."""
    ours = np.asarray(contenders[OURS]())
    values = {name: f() for name, f in contenders.items() if name != HALF}
    arrays = {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in values.items()}
    return {name: float(np.abs(array - ours).max() / np.abs(ours).max()) for name, array in arrays.items()}


def ratio(record: Record, over: str, under: str) -> tuple[float, float, float] | None:
    """Quartiles over rounds of the seconds of one contender over those of another; of several whose names begin so, the fastest."""
    names = [{name: t for name, t in record["seconds"].items() if name.startswith(start)} for start in (over, under)]
    if not all(names):
        return None
    first, second = (able[fastest(able)] for able in names)
    return quartiles([one / other for one, other in zip(first, second, strict=True)])


def times_ours(record: Record, contender: str) -> tuple[float, float, float] | None:
    """How many times as fast as a contender ours is; for HALF how many times the tokens of float32 bfloat16 does in its time."""
    if contender != HALF:
        return ratio(record, contender, OURS)
    quotients = ratio(record, OURS, HALF)
    return None if quotients is None else (2 * quotients[0], 2 * quotients[1], 2 * quotients[2])


def render(records: Sequence[Record], out: Path) -> list[Path]:
    by_kernel = {kernel: [r for r in records if r["labels"]["kernel"] == kernel] for kernel in ("token", "gathered", "gram", "means")}
    rivals = {"/ normalise + bmm": "normalise + bmm", "/ eager Gram": "eager Gram", "/ compiled": COMPILED, "/ numpy": "numpy"}
    rivals |= {"/ numba loop": "numba loop", "bfloat16 tokens/s": HALF}
    title = "The overlap on a token: how many times as fast as what others write"
    page = Table(title, ["k", "d", "ms", "GB/s", "share of read", "quartiles", *rivals, "best compiled"])
    for record in by_kernel["token"]:
        compiled = {name.removeprefix(COMPILED): t for name, t in record["seconds"].items() if name.startswith(COMPILED)}
        cells = [_middle(times_ours(record, rival)) for rival in rivals.values()]
        page.rows.append([record["labels"]["k"], record["labels"]["d"], *_speed(record), *cells, fastest(compiled) if compiled else None])
    page.notes = _notes(records)
    others = Table("Gathered rows, Gram tables and mean vectors", ["kernel", "shape", "ms", "GB/s", "share of read", "quartiles", "rivals"])
    for kernel in ("gathered", "gram", "means"):
        for record in by_kernel[kernel]:
            names = [name for name in record["seconds"] if name != OURS and not name.startswith(READ)]
            beside = "; ".join(f"{_middle(times_ours(record, name)):.2f} x {name}" for name in names)
            others.rows.append([kernel, _shape(record), *_speed(record), beside])
    page.sections = [_targets(by_kernel), others, _all_times(records)]
    rivals_of = ["normalise + bmm", "eager Gram", COMPILED, "numpy", "numba loop"]
    panels = [_panel([r for r in by_kernel["token"] if r["labels"]["k"] == k], f"token overlap, k = {k}", "width", rivals_of) for k in KS]
    panels.append(_panel(by_kernel["gathered"], "gathered rows", "k x width", [GATHERED, HELD]))
    panels.append(_panel(by_kernel["gram"], "Gram table", "experts", ["mm in float64", "mm in float32"]))
    panels.append(_panel(by_kernel["means"], "mean vectors", "experts", ["index_add_ in float64", "index_add_ in float32"]))
    return page.write(out / "kernels") + draw(
        panels, "Bytes per second over the read bandwidth of the same run", out / "kernels", columns=3
    )


def _middle(quotients: tuple[float, float, float] | None) -> float | None:
    return None if quotients is None else quotients[1]


def _shape(record: Record) -> str:
    return " x ".join(str(value) for name, value in record["labels"].items() if name != "kernel")


def _speed(record: Record) -> list[Any]:
    """Milliseconds, GB/s, share of the read bandwidth with its quartiles."""
    middle = statistics.median(record["seconds"][OURS])
    share = times_ours(record, READ) or (0.0, 0.0, 0.0)
    return [1e3 * middle, record["bytes"] / middle / 1e9, share[1], f"{share[0]:.2f} to {share[2]:.2f}"]


def _notes(records: Sequence[Record]) -> list[str]:
    machine, size, rounds = records[0]["machine"], records[0]["bytes"] / 2**20, len(records[0]["seconds"][OURS])
    card = f", {machine['card']}, CUDA {machine['cuda']}" if machine["card"] else ""
    cold = "" if card else " Another array is read before each call, so that none finds its own in cache."
    rates = {
        name.removeprefix(READ): quartiles([r["bytes"] / t / 1e9 for r in records for t in r["seconds"][name]])
        for name in records[0]["seconds"]
        if name.startswith(READ)
    }
    read = "; ".join(f"{name} {middle:.1f} ({low:.1f} to {high:.1f})" for name, (low, middle, high) in rates.items())
    lost = sorted({f"{name} at {_shape(r)}: {why}" for r in records for name, why in r["missing"].items()})
    return [
        f"float32 tensors of {size:g} MiB, bfloat16 of as many bytes, {machine['threads']} threads{card}. {rounds} rounds, each contender "
        "once a round in random order; a ratio is the median over rounds of two times of one round, its quartiles beside it (in the figure "
        f"half their distance).{cold}",
        f"Read bandwidth: the fastest reader of a cell, by median. All cells, GB/s, median and quartiles: {read}.",
        "/ x: the time of x over ours, the fastest where there are several (compiled: the two expressions that won a heat; numpy: matmul "
        "and einsum). A rival that makes a new array pays for its memory, as it would in use. bfloat16 tokens/s: over ours in float32. "
        "Ours sums in float64; so do the numba loop, pairwise_double and what says so.",
        *([f"Not compiled: {'; '.join(lost)}."] if lost else []),
    ]


def _targets(by_kernel: dict[str, list[Record]]) -> Table:
    table = Table("Targets", ["target", "kernel", "k", "at least", "measured, least to most", "met at"])
    for target in TARGETS:
        rows = [r for r in by_kernel[target.kernel] if r["labels"]["k"] in target.ks]
        ratios = [value[1] for r in rows if (value := times_ours(r, target.contender)) is not None]
        span = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else None
        met = f"{sum(value >= target.bar for value in ratios)} of {len(rows)} shapes"
        table.rows.append([target.what, target.kernel, ", ".join(map(str, target.ks)), target.bar, span, met])
    return table


def _all_times(records: Sequence[Record]) -> Table:
    table = Table("Every contender", ["kernel", "shape", "contender", "ms", "lower quartile", "upper quartile", "distance from ours"])
    for record in records:
        for name, times in record["seconds"].items():
            low, middle, high = (1e3 * t for t in quartiles(times))
            table.rows.append([record["labels"]["kernel"], _shape(record), name, middle, low, high, record["apart"].get(name)])
    return table


def _panel(records: Sequence[Record], title: str, axis: str, rivals: Sequence[str]) -> Panel:
    ticks = [_shape(record).replace(" x ", "x") if " x " in axis else str(list(record["labels"].values())[-1]) for record in records]
    panel = Panel(title, axis, "share of the read bandwidth", ticks=ticks)
    for name in (OURS, *rivals):
        shares = [(at, share) for at, record in enumerate(records) if (share := ratio(record, READ, name)) is not None]
        label = f"best {name.removesuffix(': ')}" if name in (COMPILED, "numpy") else name
        bars = [(high - low) / 2 for _, (low, _, high) in shares]
        panel.ours.append(Series(label, [at for at, _ in shares], [share[1] for _, share in shares], bars))
    for target in TARGETS:
        at = [i for i, r in enumerate(records) if r["labels"]["kernel"] == target.kernel and r["labels"].get("k") in target.ks]
        if target.contender == READ and at:
            panel.laws.append(Series(f"target {target.bar:g}", at, [target.bar] * len(at)))
    return panel

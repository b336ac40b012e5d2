"""The dual map of SiLU on a million points against scipy's dblquad and against Monte Carlo, timed in one run."""

import math
import statistics
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.rates import seconds
from experiments.cells import Bench, Record
from simgap.records import Records
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table
from simgap.seeding import stream
from simgap.theory import angular
from simgap.theory.activations import BY_NAME
from simgap.theory.dual_map import dual_map, kappa
from simgap.theory.floats import FLOAT

DEVICES = ("cpu",)
SCATTERED = 10_000  # pairs that share neither rho nor std: no grid to gain by
GRID = 1000  # values of rho in [-1, 1], and of std in STDS
STDS = (0.01, 100.0)
# What scipy is asked for, fixed beforehand: so many (rho, std), rho uniform, std log-uniform in a range that suits it.
PAIRS = {"smoke": 6, "full": 40}
PAIR_RHO, PAIR_STDS = 0.99, (0.1, 10.0)
REACH = 9.0  # of its square: beyond, a normal has 2e-19 of its mass
DRAWS = 1 << 20  # of Monte Carlo, for one value
CERTIFIED_STD = 2.0  # pairs below it are held against a certified enclosure; above, one takes up to half a minute
BITS = 128
PROMISED = 1e-12  # what dual_map's docstring promises, absolutely
BAR = 10_000  # how many times faster than dblquad a value has to be


def compute(preset: str, bench: Bench) -> list[Record]:
    """The grid from a cold and from a warm cache, then each pair by dblquad, by Monte Carlo and by the plain route, on one machine."""
    rho, std = np.linspace(-1, 1, GRID)[:, None], np.geomspace(*STDS, GRID)
    cold, warm = [], []
    for _ in range(3):
        angular._series.cache_clear()
        start = time.perf_counter()
        values = dual_map("silu", rho, std)
        cold.append(time.perf_counter() - start)
        warm.append(seconds(lambda: dual_map("silu", rho, std), repeats=1))
    generator = stream(bench.seed, "test")
    scattered = generator.uniform(-PAIR_RHO, PAIR_RHO, SCATTERED), np.geomspace(*PAIR_STDS, SCATTERED)
    apart = seconds(lambda: dual_map("silu", *scattered), repeats=3)
    low, high = map(math.log, PAIR_STDS)
    pairs = [(generator.uniform(-PAIR_RHO, PAIR_RHO), math.exp(generator.uniform(low, high))) for _ in range(PAIRS[preset])]
    # The first call of any route also fills its tables of nodes.
    for route in (_plain, _dblquad, _monte_carlo):
        route(0.5, 1.0, generator)
    rows = [_row(rho, std, generator) for rho, std in pairs]
    record: Record = {"key": "dual_map", "artefact": bench.artefact, "labels": {"activation": "silu", "values": values.size}}
    record |= {"cold": cold, "warm": warm, "scattered": apart, "pairs": rows, "provenance": bench.origin}
    Records(bench.out / f"{bench.artefact}.jsonl").append(record)
    return [record]


def _row(rho: float, std: float, generator: np.random.Generator) -> dict[str, Any]:
    """One pair by every route: seconds and value of each, with the error that the route itself reports."""
    row: dict[str, Any] = {"rho": rho, "std": std, "ours": dual_map("silu", rho, std)}
    row["one_call"] = seconds(lambda: dual_map("silu", rho, std), repeats=5)
    for name, route in (("plain", _plain), ("dblquad", _dblquad), ("monte_carlo", _monte_carlo)):
        start = time.perf_counter()
        value, error = route(rho, std, generator)
        row[name] = {"seconds": time.perf_counter() - start, "value": value, "reported": error}
    if std < CERTIFIED_STD:
        row["certified"] = _certified(rho, std)
    return row


def _plain(rho: float, std: float, generator: np.random.Generator) -> tuple[float, float | None]:
    """Gauss-Legendre in polar coordinates, which shares neither series nor transform with the fast route: the reference."""
    return float(kappa("silu", rho, std)), None


def _dblquad(rho: float, std: float, generator: np.random.Generator) -> tuple[float, float | None]:
    """scipy at its default tolerances, over a finite square, with math's scalar functions: its best case."""
    from scipy.integrate import dblquad, quad

    across = math.sqrt(1 - rho * rho)

    def silu(x: float) -> float:
        return x / (1 + math.exp(-x)) if x >= 0 else x * math.exp(x) / (1 + math.exp(x))

    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    top, top_error = dblquad(
        lambda v, u: density(u) * density(v) * silu(std * u) * silu(std * (rho * u + across * v)), -REACH, REACH, -REACH, REACH
    )
    size, size_error = quad(lambda u: density(u) * silu(std * u) ** 2, -REACH, REACH)
    return top / size, (top_error + abs(top / size) * size_error) / size


def _monte_carlo(rho: float, std: float, generator: np.random.Generator) -> tuple[float, float | None]:
    """A ratio of means over DRAWS pairs, with its delta-method standard error."""
    act = BY_NAME["silu"].value
    u, w = generator.standard_normal((2, DRAWS))
    first, second = act(std * u, FLOAT), act(std * (rho * u + math.sqrt(1 - rho * rho) * w), FLOAT)
    size = (first**2 + second**2) / 2
    value = float((first * second).mean() / size.mean())
    return value, float((first * second - value * size).std() / size.mean() / math.sqrt(DRAWS))


def _certified(rho: float, std: float) -> list[float]:
    """Middle and radius of an enclosure of the same value, certified for these very floats."""
    from simgap.certify import BALL, precision

    with precision(BITS):
        ball = kappa("silu", Fraction(rho), Fraction(std), ctx=BALL)
        return [float(ball.mid()), float(ball.rad())]


def render(records: Sequence[Record], out: Path) -> list[Path]:
    record = records[-1]
    pairs, values = record["pairs"], record["labels"]["values"]
    ours = {name: statistics.median(record[name]) / values for name in ("cold", "warm")}
    error = max(abs(row["ours"] - row["plain"]["value"]) for row in pairs)
    per_value = {name: statistics.median(row[name]["seconds"] for row in pairs) for name in ("plain", "dblquad", "monte_carlo")}
    off = {name: [abs(row[name]["value"] - row["plain"]["value"]) for row in pairs] for name in ("dblquad", "monte_carlo")}
    sem = math.sqrt(statistics.fmean(row["monte_carlo"]["reported"] ** 2 for row in pairs))

    def needed(accuracy: float) -> float:
        return per_value["monte_carlo"] * (sem / accuracy) ** 2

    title = "The dual map of SiLU: seconds and accuracy"
    page = Table(title, ["route", "values", "seconds per value", "largest error", "times ours, cold", "how known"])
    rows: list[tuple[str, int, float, float, str]] = [
        ("ours, cold cache", values, ours["cold"], error, "measured"),
        ("ours, warm cache", values, ours["warm"], error, "measured"),
        ("ours, scattered pairs, warm", SCATTERED, record["scattered"] / SCATTERED, error, "measured"),
        ("ours, one call to a value, warm", len(pairs), statistics.median(row["one_call"] for row in pairs), error, "measured"),
        ("plain route of the package (the reference)", len(pairs), per_value["plain"], 0.0, "measured"),
        ("scipy dblquad", len(pairs), per_value["dblquad"], max(off["dblquad"]), "measured"),
        (f"Monte Carlo, {DRAWS:,} draws", len(pairs), per_value["monte_carlo"], max(off["monte_carlo"]), "measured"),
    ]
    for accuracy in (statistics.median(off["dblquad"]), PROMISED):
        rows.append((f"Monte Carlo to {accuracy:.2g}", 0, needed(accuracy), accuracy, f"computed: {_draws(sem, accuracy):.2g} draws"))
    page.rows = [[name, n or None, each, err, each / ours["cold"], how] for name, n, each, err, how in rows]
    page.notes = _notes(record, per_value["dblquad"], ours)
    panel = Panel("cost of accuracy", "seconds per value", "largest error", x_ticks=[10.0**k for k in range(-8, 13, 4)], log_y=True)
    floor = np.finfo(np.float64).eps
    for name, _, each, err, _ in [rows[0], *rows[2:4], *rows[5:7]]:
        panel.ours.append(Series(name, [each], [max(err, floor)]))
    line = np.geomspace(1e-9, sem, 30)
    panel.laws.append(Series("Monte Carlo, computed: one standard error", [needed(e) for e in line], line.tolist()))
    return page.write(out / "dual_map") + draw([panel], title, out / "dual_map")


def _draws(sem: float, accuracy: float) -> float:
    return DRAWS * (sem / accuracy) ** 2


def _notes(record: Record, dblquad_seconds: float, ours: dict[str, float]) -> list[str]:
    pairs = record["pairs"]
    faster = {name: dblquad_seconds / each for name, each in ours.items()}
    verdict = "met" if min(faster.values()) >= BAR else "missed"
    held = [row for row in pairs if "certified" in row]
    away = max((abs(row["ours"] - row["certified"][0]) + row["certified"][1] for row in held), default=math.nan)
    reported = max(row["dblquad"]["reported"] for row in pairs)
    times = "; ".join(f"{name} {', '.join(f'{t:.2f}' for t in record[name])} s" for name in ("cold", "warm"))
    return [
        f"Per value of the grid of {record['labels']['values']:,} ours is {faster['cold']:,.0f} times as fast as dblquad from a cold "
        f"cache, {faster['warm']:,.0f} times from a warm one: the bar of {BAR:,} is {verdict}. The whole grid, three times each: {times}. "
        "A grid shares its work among its rows and columns, and its products run on all cores; pairs that share nothing, and calls for "
        "one value each, have rows of their own.",
        f"Grid: {GRID} rho in [-1, 1] by {GRID} std from {STDS[0]:g} to {STDS[1]:g}. Cold: the cache of angular series cleared. "
        f"Pairs: {len(pairs)} (rho, std), |rho| < {PAIR_RHO}, std from {PAIR_STDS[0]:g} to {PAIR_STDS[1]:g}, drawn beforehand. Errors are "
        f"distances from the plain route, itself good to some 1e-15; on the {len(held)} pairs with std < {CERTIFIED_STD:g} ours is within "
        f"{away:.1e} of a certified enclosure. dblquad at its default tolerances, whose own bound is at most {reported:.1e}.",
        "Monte Carlo is measured at its fixed draws alone. What it would need for an accuracy is computed from its standard error by "
        "1/sqrt(n), not measured. Seconds per value: medians, for ours of the whole grid's time over its values.",
    ]

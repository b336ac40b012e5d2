"""The Gram loss moves singular values and not the overlap of untrained experts: descent on ||W'W - I|| beside its flow (law R1)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.cells import Bench, Cell, Record, estimate
from experiments.theory.points import Point, lines_of, over_law, own_seed, simulated, write
from simgap import LayerSpec, RunSpec
from simgap.moe import draw_weights, draws_of
from simgap.overlaps import between, pair_cos2
from simgap.report.figure import Panel, Series
from simgap.seeding import stream
from simgap.theory.gram_flow import gram_flow_singular, shared_spike_cosine, unsquared_time
from simgap.theory.weight_null import null_weight_mso
from simgap.threads import pool
from simgap.training import gram_descent

TIMES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0)
# Steps to each time: descent is off its flow by O(1/steps), here below a thousandth.
STEPS = 1000
ONE = LayerSpec(d_model=6, d_ff=12, n_experts=2)
UNTRAINED = LayerSpec(d_model=8, d_ff=32)
# Wide, since the law of the spike is the limit of many hidden units.
SPIKED = LayerSpec(d_model=4, d_ff=2048, n_experts=2)
SPIKE, NOISE = 2.0, 0.5
TRIALS = {"smoke": 100, "full": 400}
SPIKED_TRIALS = {"smoke": 10, "full": 20}


def compute(preset: str, bench: Bench) -> list[Record]:
    """One matrix, untrained layers, and pairs that share a spike, each descended to every time of the flow."""
    return bench.run(
        [
            Cell({"kind": "singular values"}, ONE, 1, singular_values),
            Cell({"kind": "untrained"}, UNTRAINED, TRIALS[preset], untrained),
            Cell({"kind": "shared spike", "spike": SPIKE, "noise": NOISE}, SPIKED, SPIKED_TRIALS[preset], spiked),
        ]
    )


def singular_values(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Singular values of one matrix at each time, by the plain descent on the matrix itself."""
    weight = draw_weights(draws_of(cell.spec, own_seed(cell, run), [0]), "float64").up[0, 0]
    moved = {t: gram_descent(weight, time_to(weight, t), STEPS, 1 / STEPS, plain=True) for t in TIMES}
    return {f"t {t:g}": torch.linalg.svdvals(w).tolist() for t, w in moved.items()}


def untrained(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, the weight MSO of untrained experts, all after the steps that take the first of them all to each time."""
    spec, seed = cell.spec, own_seed(cell, run)
    drawn = draw_weights(draws_of(spec, seed, range(run.trials)), "float64").up
    moved = {t: gram_descent(drawn, time_to(drawn[0, 0], t), STEPS, 1 / STEPS) for t in TIMES}
    return {f"t {t:g}": between(pair_cos2(w.flatten(2)), spec.n_experts).mean(1).tolist() for t, w in moved.items()}


def spiked(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, cos^2 of two experts that share a spike, each at the given time of its own flow."""
    spec, seed = cell.spec, own_seed(cell, run)

    def one(trial: int) -> list[float]:
        drawn = _spiked(draw_weights(draws_of(spec, seed, [trial]), "float64").up[0], seed, trial)
        moved = (torch.stack([gram_descent(w, time_to(w, t), STEPS, 1 / STEPS) for w in drawn]) for t in TIMES)
        return [float(between(pair_cos2(w.flatten(1)[None]), spec.n_experts)[0, 0]) for w in moved]

    with pool() as (task_map, _):
        by_time = zip(*task_map(one, range(run.trials)), strict=True)
        return {f"t {t:g}": list(values) for t, values in zip(TIMES, by_time, strict=True)}


def time_to(weight: torch.Tensor, t: float) -> float:
    """When the descent of the unsquared norm, at strength 1, is where the flow of the squared one is at time t."""
    return unsquared_time(torch.linalg.svdvals(weight).numpy(), t)


def _spiked(drawn: torch.Tensor, seed: int, trial: int) -> torch.Tensor:
    """SPIKE u v' in both experts, and noise of variance NOISE^2 / d_ff in each; the drawn entries have variance 2 / d_model."""
    f, d = drawn.shape[1:]
    u, v = (torch.from_numpy(stream(seed, "inputs", trial=trial, block=b).standard_normal(n)) for b, n in enumerate((f, d)))
    noise = drawn * (d / 2) ** 0.5 * NOISE / f**0.5
    return noise + SPIKE * torch.outer(u / u.norm(), v / v.norm())


def points(records: Sequence[Record]) -> list[Point]:
    """Overlaps beside their laws; singular values have no error to stand beside."""
    all_points = []
    for record in records[1:]:
        kind, spec = record["labels"]["kind"], record["spec"]
        for t in TIMES:
            law = float(null_weight_mso(spec["d_model"], spec["d_ff"]))
            if kind == "shared spike":
                law = float(shared_spike_cosine(SPIKE, NOISE, spec["d_model"], t)) ** 2
            all_points.append(Point(kind, t, law, estimate(record, f"t {t:g}")))
    return all_points


def singular_error(record: Record) -> float:
    """The largest relative distance of a descended singular value from the flow's."""
    start = np.array(record["values"]["t 0"])
    return max(float(np.abs(np.array(record["values"][f"t {t:g}"]) / gram_flow_singular(start, t) - 1).max()) for t in TIMES)


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    notes = [
        f"Left: the {ONE.d_model} singular values of one {ONE.d_ff} x {ONE.d_model} matrix under {STEPS} steps of plain descent on "
        f"||W'W - I|| to each time, at most {singular_error(records[0]):.1g} from the flow's, relative. Middle and right: "
        f"{UNTRAINED.n_experts} untrained experts, d = {UNTRAINED.d_model}, d_ff = {UNTRAINED.d_ff}, and pairs W = {SPIKE:g} u v' + noise "
        f"{NOISE:g}, d = {SPIKED.d_model}, d_ff = {SPIKED.d_ff}, u and v shared. Points of one line share their draws: the same experts, "
        "followed in time. One standard error."
    ]
    panels = [_singular_panel(records[0]), _overlap_panel(all_points), _ratio_panel(all_points)]
    return write(all_points, panels, "What descent on ||W'W - I|| moves, and what it cannot", notes, out / "gram_flow")


TIME = "time t of the flow"


def _singular_panel(record: Record) -> Panel:
    panel = Panel("singular values", TIME, "singular value", x_scale="linear")
    curve = np.linspace(0, max(TIMES), 121)
    for number, start in enumerate(record["values"]["t 0"]):
        panel.laws.append(Series(f"s_{number + 1}", curve.tolist(), gram_flow_singular(start, curve).tolist()))
        panel.ours.append(Series(f"s_{number + 1}", TIMES, [record["values"][f"t {t:g}"][number] for t in TIMES]))
    return panel


def _overlap_panel(points: Sequence[Point]) -> Panel:
    curve = np.linspace(0, max(TIMES), 121)
    panel = Panel("overlap between experts", TIME, "weight MSO", x_scale="linear", log_y=True, y_limits=(1e-3, 1))
    for kind, line in lines_of(points).items():
        shared = kind == "shared spike"
        law = shared_spike_cosine(SPIKE, NOISE, SPIKED.d_model, curve) ** 2 if shared else np.full_like(curve, line[0].law)
        label = kind if shared else f"{kind}: 1/(d d_ff)"
        panel.laws.append(Series(label, curve.tolist(), law.tolist()))
        panel.ours.append(simulated(line, label))
    return panel


def _ratio_panel(points: Sequence[Point]) -> Panel:
    panel = Panel("measured over law", TIME, "measured / law", x_scale="linear", y_limits=(0.85, 1.15))
    panel.laws.append(Series("the law", [0, max(TIMES)], [1.0, 1.0]))
    panel.ours = [over_law(line, kind) for kind, line in lines_of(points).items()]
    return panel

"""Other readings of "activation overlap" and "weight overlap": what the printed width would give under each, before it is called wrong."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from experiments.cells import Cell, Record
from experiments.persistence.published import reported
from simgap import LayerSpec, RunSpec, Weights, measure
from simgap.api.reported import FIVE_SIGMA, Null, Reported, fitting_widths, joint_p
from simgap.moe import Layer, draws_of, open_inputs, simulate
from simgap.overlaps import between, means_by_routing, pair_cos2
from simgap.theory import null_output_mso, null_variance, null_weight_mso
from simgap.threads import pool

TOKEN_READINGS = {"output token": "co-activated outputs on a token", "output all": "outputs of every pair of experts on every token"}
ACTIVATIONS = {
    "output mean": "mean output vectors (Table 2's definition)",
    **TOKEN_READINGS,
    "hidden mean": "mean hidden vectors, after ReLU",
    "hidden token": "co-activated hidden vectors on a token",
    "hidden all": "hidden vectors of every pair of experts on every token",
    "pre mean": "mean pre-activations",
    "inputs mean": "mean of the tokens routed to each expert",
    "tied mean": "mean outputs with W_down = W_up'",
    "residual mean": "mean outputs plus mean inputs",
    "concatenated mean": "mean hidden and mean output vectors, concatenated",
    "output mean, doubled": "mean output vectors, each pair counted twice",
}
WEIGHTS = {
    "up": "W_up (Table 2's definition)",
    "down": "W_down",
    "all": "W_up and W_down flattened together",
    "up, doubled": "W_up, each pair counted twice",
}


def reading_cell(spec: LayerSpec, trials: int, **labels: object) -> Cell:
    """A cell that measures every reading of one configuration."""
    return Cell({"readings": True, **labels}, spec, trials, every_reading)


def every_reading(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, the overlap under each reading above."""
    measured = measure(cell.spec, **run.to_dict(), sites=("hidden", "output"), weights=("up", "down", "all"))
    values = {f"weight {kind}": value.values for kind, value in measured.weight_mso.items()}
    for reading in ("token", "all"):
        values |= {f"{site} {reading}": value.values for site, value in measured.activation_mso[reading].items() if value.mean is not None}
    draws = draws_of(cell.spec, run.seed, range(run.trials))
    source = open_inputs(draws)
    with pool() as (task_map, _):
        by_trial = list(task_map(lambda draw: _mean_readings(simulate([draw], run, source)), draws))
    values |= {name: np.array([one[name] for one in by_trial]) for name in by_trial[0]}
    values["output mean, doubled"] = 2 * values["output mean"]
    values["weight up, doubled"] = 2 * values["weight up"]
    return {name: np.asarray(v).tolist() for name, v in values.items()}


def _mean_readings(layer: Layer) -> dict[str, float]:
    """Overlaps of one trial's mean vectors: at each site, of the inputs, and of what a tied or residual expert would put out."""
    experts = layer.spec.n_experts
    indices = layer.indices[0]
    x = layer.x[0][:, None, :].expand(-1, indices.shape[1], -1)
    sites: dict[str, list[torch.Tensor]] = {"pre": [], "hidden": []}
    for block in layer.blocks(tuple(sites)):
        for site, parts in sites.items():
            parts.append(block.rows[site][0][block.index[0]])
    means = {site: means_by_routing(torch.cat(parts), indices, experts)[None] for site, parts in sites.items()}
    means["inputs"] = means_by_routing(x, indices, experts)[None]
    means["output"] = layer.output_of_means(means["hidden"]).double()
    tied = replace(layer, weights=_tied(cast(Weights, layer.weights)))
    means["tied"] = tied.output_of_means(means["hidden"]).double()
    means["residual"] = means["output"] + means["inputs"]
    means["concatenated"] = torch.cat([means["hidden"], means["output"]], -1)
    return {f"{name} mean": float(np.nanmean(between(pair_cos2(vectors), experts))) for name, vectors in means.items()}


def _tied(weights: Weights) -> Weights:
    return Weights(weights.up, weights.gate, weights.up.mT, weights.gain, weights.bias, weights.router, weights.trials)


@dataclass(frozen=True)
class Verdict:
    """Joint p of a table's values, of one side, under one reading at the printed width."""

    side: str
    reading: str
    p: float
    note: str = ""

    @property
    def fits(self) -> str:
        if self.p >= 0.05:
            return "fits"
        return "excluded at 5 sigma" if self.p < FIVE_SIGMA else "unlikely"


def judge(rows: Sequence[dict[str, str]], records: Sequence[Record], trials: int) -> list[Verdict]:
    """Every reading at the printed width against the independent rows of a table; one record of readings to each row.

    Each reading's null is its simulated mean, and its spread the simulated spread of a mean over `trials` trials.
    """
    verdicts = []
    for side, readings, prefix in (("activation", ACTIVATIONS, ""), ("weight", WEIGHTS, "weight ")):
        for name, words in readings.items():
            kept = [i for i, record in enumerate(records) if prefix + name in record["values"]]
            values = [reported(rows[i])[side == "activation"] for i in kept]
            nulls = [_null(records[i]["values"][prefix + name], trials) for i in kept]
            note = "" if len(kept) == len(rows) else f"without {', '.join(row_names(rows, kept))}: at top_k = 1 no such reading"
            verdicts.append(Verdict(side, words, joint_p(values, nulls), note))
    return verdicts


def row_names(rows: Sequence[dict[str, str]], kept: Sequence[int]) -> list[str]:
    return [row["architecture"] for i, row in enumerate(rows) if i not in kept]


def _null(values: Sequence[float], trials: int) -> Null:
    """Mean and spread of a mean over `trials` trials; the simulated mean's own error counts too."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) * math.sqrt(1 / trials + 1 / len(values))


def law_nulls(specs: Sequence[LayerSpec], trials: int, side: str) -> list[Null]:
    """Laws N1 and N2 for each row, with the standard deviation that the stated number of trials leaves."""
    nulls = []
    for spec in specs:
        width = spec.d_model if side == "activation" else spec.d_model * spec.d_ff
        mean = null_output_mso(spec.d_model) if side == "activation" else null_weight_mso(spec.d_model, spec.d_ff)
        pairs = spec.n_experts * (spec.n_experts - 1) // 2 * trials
        nulls.append((mean, (null_variance(width) / pairs) ** 0.5))
    return nulls


def fit(
    rows: Sequence[dict[str, str]], spec_of: Callable[[dict[str, str], int], LayerSpec], trials: int, widths: Iterable[int]
) -> dict[int, float]:
    """Widths at which all of a table's values, weight and activation, agree with N1 and N2 together, with their joint p."""
    values: list[Reported] = [value for row in rows for value in reported(row)]

    def nulls(width: int) -> list[Null]:
        specs = [spec_of(row, width) for row in rows]
        sides = (law_nulls(specs, trials, "weight"), law_nulls(specs, trials, "activation"))
        return [null for pair in zip(*sides, strict=True) for null in pair]

    return fitting_widths(values, nulls, widths)

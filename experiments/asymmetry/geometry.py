"""Function apart, representation together: how much of that asymmetry untrained experts show, over top-k and temperature."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.cells import Bench, Record, estimate
from simgap import InputSpec, LayerSpec, RouterSpec
from simgap.metrics.subspace import RANK
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table
from simgap.specs import InputKind
from simgap.stats import Estimate
from simgap.theory.jacobian_null import ID as JACOBIAN_LAW
from simgap.theory.output_null import null_output_mso
from simgap.theory.subspace_null import null_subspace_overlap

LAYER = LayerSpec(d_model=32, d_ff=64, n_experts=8, activation="relu")
TRIALS, TOKENS = {"smoke": 2, "full": 20}, {"smoke": 256, "full": 1024}
TOP_K = {"smoke": (1, 2, 8), "full": tuple(range(1, LAYER.n_experts + 1))}
TEMPERATURES = {"smoke": (1.0,), "full": (0.2, 1.0, 5.0)}
JACOBIANS, TOKEN_MSO = "jacobian_mso token", "activation_mso token output"
OUTPUTS, INPUTS = "subspace_overlap rank_8 output", "input_subspace_overlap rank_8"
SPECTRA = {name: f"jacobian_spectrum {name}" for name in ("leading", "decay", "effective_rank")}
QUANTITIES = (JACOBIANS, TOKEN_MSO, OUTPUTS, INPUTS, *SPECTRA.values())
ROUTED, RANDOM, UPCYCLED, DENSE = "routed", "random groups", "upcycled", "dense"
INPUT_KINDS: tuple[InputKind, ...] = ("gaussian", "powerlaw")
SHOWN = {"gaussian": "round", "powerlaw": "power law"}


class Law(NamedTuple):
    """What independent experts give of a quantity, and the law that says so."""

    value: float
    law: str


def law_of(quantity: str, spec: LayerSpec) -> Law | None:
    """None where there is none: experts' tokens are then held against random groups of them."""
    d = spec.d_model
    values = {
        JACOBIANS: Law(1 / d**2, f"{JACOBIAN_LAW}: 1/d^2"),
        TOKEN_MSO: Law(float(null_output_mso(d)), "N2: 1/d"),
        OUTPUTS: Law(float(null_subspace_overlap(d, RANK)), f"N5: {RANK}/d"),
    }
    return values.get(quantity)


def compute(preset: str, bench: Bench) -> list[Record]:
    """Layers of every top-k and temperature, on round tokens and on some of power-law spectrum; beside them the same with tokens dealt to
    experts at random, upcycled ones, whose experts correlate by 0.5, and dense ones: two experts that see all tokens alike, each of the
    size of the whole layer. A soft router is the one of all experts: top-k = E."""
    layers: list[tuple[dict[str, object], LayerSpec]] = []
    dense = replace(LAYER, d_ff=LAYER.n_experts * LAYER.d_ff, n_experts=2, top_k=2, router=RouterSpec(kind="uniform"))
    for inputs in INPUT_KINDS:
        for k in TOP_K[preset]:
            spec = replace(LAYER, top_k=k, inputs=InputSpec(inputs))
            for temperature in TEMPERATURES[preset]:
                layers.append((_labels(inputs, ROUTED, k, temperature), replace(spec, router=RouterSpec(temperature=temperature))))
            layers.append((_labels(inputs, RANDOM, k), replace(spec, router=RouterSpec(kind="uniform"))))
            layers.append((_labels(inputs, UPCYCLED, k, 1.0), replace(spec, init="upcycled", init_correlation=0.5)))
        layers.append((_labels(inputs, DENSE), replace(dense, inputs=InputSpec(inputs))))
    # These layers are what a simulated null is made of.
    return replace(bench, tokens=TOKENS[preset]).sweep(layers, QUANTITIES, TRIALS[preset], null="isotropic")


def _labels(inputs: str, kind: str, top_k: int | None = None, temperature: float | None = None) -> dict[str, object]:
    return {"inputs": inputs, "kind": kind, "top_k": top_k, "temperature": temperature}


def of(record: Record, quantity: str) -> Estimate | None:
    """None where a layer has none: no two experts meet on a token."""
    return estimate(record, quantity) if quantity in record["values"] else None


def render(records: Sequence[Record], out: Path) -> list[Path]:
    title = "Functional alignment and representational overlap of untrained experts"
    page = Table(title, ["tokens", "experts", "top-k", "temperature", *(column for quantity in QUANTITIES for column in (quantity, "sem"))])
    for record in records:
        estimates = [of(record, quantity) for quantity in QUANTITIES]
        values = [value for one in estimates for value in ((one.mean, one.sem) if one else (None, None))]
        page.rows.append([*record["labels"].values(), *values])
    run, laws = (
        records[0]["run"],
        [f"{quantity} {law.value:.4g} ({law.law})" for quantity in QUANTITIES if (law := law_of(quantity, LAYER))],
    )
    page.notes = [
        f"{LAYER.n_experts} plain ReLU experts, d_model = {LAYER.d_model}, d_ff = {LAYER.d_ff}, a linear router, {run['tokens']} Gaussian "
        f"tokens, round or of spectrum 1/i, {run['trials']} layers a row, sem over layers. Independent experts: {', '.join(laws)}. "
        "Subspaces of inputs are to be held against those of random groups of as many tokens.",
        f"Dense: two experts of d_ff = {LAYER.n_experts * LAYER.d_ff}, the size of the whole layer, on all tokens alike. top-k = "
        f"{LAYER.n_experts} is the soft router: every expert on every token, weighted by its gate, the more unevenly the lower the "
        "temperature. Upcycled: correlation 0.5 with each other.",
        *_notes(records),
    ]
    page.sections = [_asymmetry(records)]
    return [*page.write(out / "geometry"), *draw(_panels(records), title, out / "geometry", columns=3)]


def _asymmetry(records: Sequence[Record]) -> Table:
    """Over its null: how far function is from alignment, and representations from independence."""
    section = Table(
        "Over the null", ["tokens", "experts", "top-k", "temperature", "Jacobians", "outputs", "output subspaces", "input subspaces"]
    )
    chance = {(r["labels"]["inputs"], r["labels"]["top_k"]): of(r, INPUTS) for r in records if r["labels"]["kind"] == RANDOM}
    for record in (r for r in records if r["labels"]["kind"] != DENSE):
        row: list[object] = [*record["labels"].values()]
        for quantity in (JACOBIANS, TOKEN_MSO, OUTPUTS, INPUTS):
            law, one = law_of(quantity, LAYER), of(record, quantity)
            random = chance[record["labels"]["inputs"], record["labels"]["top_k"]]
            null = law.value if law else random and random.mean
            row.append(one.mean / null if one and one.mean is not None and null else None)
        section.rows.append(row)
    section.notes = ["Jacobians, outputs and output subspaces over their laws; input subspaces over those of random groups as large."]
    return section


def _notes(records: Sequence[Record]) -> list[str]:
    """What all routed layers together say of the three laws."""
    said = []
    for quantity in (JACOBIANS, TOKEN_MSO, OUTPUTS):
        law, means = law_of(quantity, LAYER), [one.mean for r in _of_kind(records, ROUTED) if (one := of(r, quantity)) and one.mean]
        over = Estimate.of(np.array(means) / law.value) if law else None
        if over is not None and over.mean is not None:
            said.append(f"{quantity} {over.mean:.4f} ± {over.sem or 0.0:.1g}")
    return [f"Over the law, mean and standard error over the routed rows: {', '.join(said)}."]


def _of_kind(records: Sequence[Record], kind: str, inputs: str = "", temperature: float | None = None) -> list[Record]:
    """Of one law of tokens and one temperature, or of all."""
    labels = ((r, r["labels"]) for r in records)
    return [r for r, own in labels if own["kind"] == kind and inputs in ("", own["inputs"]) and temperature in (None, own["temperature"])]


def _panels(records: Sequence[Record]) -> list[Panel]:
    planes = [
        _plane(records, TOKEN_MSO, "outputs on a token", "overlap of outputs (cos^2)"),
        _plane(records, OUTPUTS, "subspaces of outputs", "overlap of the 8 leading output directions"),
        _plane(records, INPUTS, "subspaces of inputs", "overlap of the 8 leading input directions"),
    ]
    return planes + [_spectrum(records, name) for name in SPECTRA]


def _plane(records: Sequence[Record], across: str, title: str, x_label: str) -> Panel:
    """The asymmetry: function up, representation across, each with what independent experts give as a line."""
    panel = Panel(title, x_label, "overlap of Jacobians (cos^2)", x_scale="linear", log_y=True)
    up, along = law_of(JACOBIANS, LAYER), law_of(across, LAYER)
    for kind, said in ((ROUTED, "routed"), (RANDOM, "random groups"), (UPCYCLED, "upcycled")):
        for inputs in INPUT_KINDS:
            both = [(x, y) for r in _of_kind(records, kind, inputs) if (x := of(r, across)) and (y := of(r, JACOBIANS))]
            panel.ours.append(_series(f"{SHOWN[inputs]}: {said}", both))
    least = up.value / 3 if up else 1e-4
    if up:
        panel.laws.append(Series(f"independent ({up.law})", [0, 1], [up.value, up.value]))
    if along:
        panel.laws.append(Series(f"independent ({along.law})", [along.value, along.value], [least, 1.0]))
    panel.marks.append(Series("one function, one space", [1.0], [1.0]))
    panel.y_limits = (least, 2.0)
    return panel


def _series(label: str, points: Sequence[tuple[Estimate, Estimate]]) -> Series:
    return Series(
        label, [x.mean or math.nan for x, _ in points], [y.mean or math.nan for _, y in points], [y.sem or 0.0 for _, y in points]
    )


def _spectrum(records: Sequence[Record], name: str) -> Panel:
    """Of experts' mean Jacobians, over top-k; dense experts as lines."""
    said = {"leading": "largest singular value", "decay": "tenth over first singular value", "effective_rank": "effective rank"}[name]
    panel = Panel(f"mean Jacobians: {said}", f"top-k (k = {LAYER.n_experts}: soft)", said, x_scale="linear")
    round_, uneven = INPUT_KINDS
    kinds = [(f"{SHOWN[round_]}: temperature {t:g}", _of_kind(records, ROUTED, round_, t)) for t in temperatures(records)]
    kinds.append((f"{SHOWN[round_]}: random groups", _of_kind(records, RANDOM, round_)))
    kinds.append((f"{SHOWN[uneven]}: temperature 1", _of_kind(records, ROUTED, uneven, 1.0)))
    for label, some in kinds:
        both = [(r["labels"]["top_k"], one) for r in some if (one := of(r, SPECTRA[name]))]
        panel.ours.append(Series(label, [k for k, _ in both], [e.mean or math.nan for _, e in both], [e.sem or 0.0 for _, e in both]))
    for inputs in INPUT_KINDS:
        (dense,) = [one.mean or math.nan for r in _of_kind(records, DENSE, inputs) if (one := of(r, SPECTRA[name]))]
        panel.laws.append(Series(f"{SHOWN[inputs]}: dense", [1, LAYER.n_experts], [dense, dense]))
    shown = [y for series in panel.ours + panel.laws for y in series.y]
    panel.y_limits = (0.96 * min(shown), 1.04 * max(shown))
    return panel


def temperatures(records: Sequence[Record]) -> list[float]:
    return list(dict.fromkeys(r["labels"]["temperature"] for r in records if r["labels"]["kind"] == ROUTED))

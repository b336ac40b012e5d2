"""The atlas as figures: measured over law along every axis, z of exact laws against the normal, and leading laws against their order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaincinv, ndtri

from experiments.sweeps.atlas_verdicts import FAILS, HALF, HOLDS, LEADING, NOT_RESOLVED, SPREAD_OFF, TEN_TIMES, Judged
from simgap import LayerSpec
from simgap.report.figure import Panel, Series, draw

MOST_TICKS = 10
BASE = LayerSpec(d_model=128, d_ff=512, n_experts=8, top_k=2)
SHOWN = {
    "weight_mso up": "weight MSO (W_up)",
    "activation_mso mean output": "mean output",
    "activation_mso token output": "token output",
    "activation_mso token hidden": "token hidden",
}
# How the spread of z is known.
SPREADS = {"exact": "law, exact", "leading": "law, leading order", None: "measured"}
# What may become of a leading law that is tested.
TESTED = (HOLDS, LEADING, FAILS, SPREAD_OFF, NOT_RESOLVED)
# An axis: the layers that lie on it, and where on it one lies.
WIDTHS: dict[str, tuple[LayerSpec, Callable[[LayerSpec], Any]]] = {
    "d_model": (BASE, lambda s: s.d_model),
    "d_ff": (BASE, lambda s: s.d_ff),
    "n_experts": (BASE, lambda s: s.n_experts),
    "top_k, 64 experts": (replace(BASE, n_experts=64), lambda s: s.top_k),
}


def _normed(spec: LayerSpec) -> str:
    name = {"none": "none", "layernorm": "LN", "rmsnorm": "RMS"}[spec.norm]
    return name if spec.norm_affine == "none" else f"{name}\n{'own' if spec.norm_affine == 'per_expert' else 'shared'}"


KINDS: dict[str, tuple[str, Callable[[LayerSpec], LayerSpec], Callable[[LayerSpec], str]]] = {
    "activation": ("activation", lambda s: replace(BASE, activation=s.activation), lambda s: s.activation),
    "gated activation": ("activation, gated", lambda s: replace(BASE, activation=s.activation, gated=True), lambda s: s.activation),
    "router": ("router", lambda s: replace(BASE, router=s.router, top_k=8 if s.router.kind == "soft" else 2), lambda s: s.router.kind),
    "norm": ("norm (gain, bias: none, own, shared)", lambda s: replace(BASE, norm=s.norm, norm_affine=s.norm_affine), _normed),
    "init": ("init", lambda s: replace(BASE, init=s.init), lambda s: s.init.replace("_", "\n")),
    "inputs": ("inputs", lambda s: replace(BASE, inputs=s.inputs), lambda s: s.inputs.kind),
}


def draw_all(judged: Sequence[Judged], out: Path) -> list[Path]:
    """atlas_axes, atlas_kinds, atlas_normal and atlas_orders, each where there is something to draw."""
    figures = [
        ("axes", axis_panels(judged), "One width at a time around d_model 128, d_ff 512, 8 experts, top-2: measured over law", 4),
        ("kinds", kind_panels(judged), "One choice at a time around d_model 128, d_ff 512, 8 experts, top-2: measured over law", 4),
        ("normal", normal_panels(judged), "Layers spread over all axes: z of exact laws against the standard normal", None),
        ("orders", order_panels(judged), "Laws to leading order: relative deviation against the order that the law states", 3),
    ]
    return [path for name, panels, title, columns in figures if panels for path in draw(panels, title, out / f"atlas_{name}", columns)]


def spread_out(judged: Sequence[Judged]) -> list[Judged]:
    """The points of layers that lie on no axis."""
    return [point for point in judged if off_axes(point.spec)]


def off_axes(spec: LayerSpec) -> bool:
    """Whether a layer leaves the base in two of its four sizes at once, and not only in its experts as the axes do."""
    differ = [getattr(spec, name) != getattr(BASE, name) for name in ("d_model", "d_ff", "n_experts", "top_k")]
    return any(differ[:2]) and sum(differ) > 1


def axis_panels(judged: Sequence[Judged]) -> list[Panel]:
    """A row of panels for each quantity, one for each width."""
    panels = []
    for quantity, label in SHOWN.items():
        mine = [point for point in judged if point.quantity == quantity and point.law is not None]
        for name, (base, at) in WIDTHS.items():
            field = name.partition(",")[0]
            line = sorted((p for p in mine if p.spec == replace(base, **{field: at(p.spec)})), key=lambda p: at(p.spec))
            if len(line) > 1:
                panels.append(_over_law(f"{label} along {name}", name, [at(p.spec) for p in line], line))
    return panels


def kind_panels(judged: Sequence[Judged]) -> list[Panel]:
    """A row of panels for each choice, one for each quantity."""
    panels = []
    for title, on, label in KINDS.values():
        for quantity, shown in SHOWN.items():
            mine = [p for p in judged if p.quantity == quantity and p.law is not None and p.spec == on(p.spec)]
            if len(mine) > 1:
                panel = _over_law(f"{shown} by {title}", "", list(range(len(mine))), mine)
                # Every other one a line lower: they are longer than they are apart.
                panel.ticks = ["\n" * (at % 2) + label(p.spec) for at, p in enumerate(mine)]
                panels.append(panel)
    return panels


def _over_law(title: str, x_label: str, x: Sequence[float], points: Sequence[Judged]) -> Panel:
    """Measured over law with one standard error, and the law with the spread that it gives."""
    laws = np.array([point.law for point in points])
    values = np.array([point.measured for point in points]) / laws
    errors = np.array([point.sem or 0.0 for point in points]) / laws
    ticks = list(dict.fromkeys(x))
    # Of many, every other one is named, the last among them: five digits are wider than an octave.
    panel = Panel(title, x_label, "measured / law", x_ticks=ticks[::-2] if len(ticks) > MOST_TICKS else ticks)
    panel.ours.append(Series("measured, one standard error", x, values.tolist(), errors.tolist()))
    panel.laws.append(Series("the law", x, [1.0] * len(x)))
    spread = np.array([np.nan if point.sd is None else point.sd for point in points]) / laws
    reach = np.abs(values - 1) + errors
    if np.isfinite(spread).any():
        panel.laws += [Series(f"one sd {word}", x, (1 + sign * spread).tolist()) for word, sign in (("above", 1), ("below", -1))]
        reach = np.fmax(reach, spread)
    limit = 1.1 * float(reach.max()) or 0.1
    panel.y_limits = (1 - limit, 1 + limit)
    return panel


def normal_panels(judged: Sequence[Judged]) -> list[Panel]:
    """Sorted z of exact laws against the normal's quantiles, with the band that holds 95% of each: a panel for each quantity, in which
    every point is of another layer with a seed of its own."""
    exact = [p for p in spread_out(judged) if p.kind == "exact" and p.normal is not None]
    panels = []
    for quantity, label in SHOWN.items():
        points = sorted((p for p in exact if p.quantity == quantity), key=lambda p: p.normal or 0.0)
        n = len(points)
        if n < 2:
            continue
        rank = np.arange(1, n + 1)
        x = ndtri((rank - 0.5) / n)
        low, high = (ndtri(betaincinv(rank, n + 1 - rank, share)) for share in (0.025, 0.975))
        panel = Panel(f"{label}: {n} layers", "standard normal", "z", x_scale="linear")
        for sd_kind, spread in SPREADS.items():
            at = [i for i, p in enumerate(points) if p.sd_kind == sd_kind]
            panel.ours.append(Series(f"spread: {spread}", x[at].tolist(), [points[i].normal or 0.0 for i in at]))
        panel.laws.append(Series("standard normal", x.tolist(), x.tolist()))
        for end, y in (("lower", low), ("upper", high)):
            panel.laws.append(Series(f"{end} end of 95%", x.tolist(), y.tolist()))
        limit = 1.1 * max(abs(points[0].normal or 0.0), abs(points[-1].normal or 0.0), float(np.abs(low).max()))
        panel.y_limits = (-limit, limit)
        panels.append(panel)
    return panels


def order_panels(judged: Sequence[Judged]) -> list[Panel]:
    """For each leading law: |measured / law - 1| against order / law, a mark for each verdict."""
    leading = [p for p in judged if p.kind == "leading" and p.order and p.law and p.error]
    panels = []
    for law in dict.fromkeys(p.law_id for p in leading):
        mine = [p for p in leading if p.law_id == law]
        panel = Panel(f"law {law}: {len(mine)} quantities", "order of the law's error / law", "|measured / law - 1|", log_y=True)
        for verdict in TESTED:
            points = [p for p in mine if p.verdict == verdict]
            x = [(p.order or 0.0) / (p.law or 1.0) for p in points]
            y = [abs(p.deviation or 0.0) for p in points]
            panel.ours.append(Series(verdict, x, y, [(p.error or 0.0) / (p.law or 1.0) for p in points]))
        across = np.geomspace(min(x for s in panel.ours for x in s.x), max(x for s in panel.ours for x in s.x), 50)
        panel.laws.append(Series("the order itself", across.tolist(), across.tolist()))
        panel.laws.append(Series("most that is leading order only", across.tolist(), np.minimum(TEN_TIMES * across, HALF).tolist()))
        panels.append(panel)
    return panels

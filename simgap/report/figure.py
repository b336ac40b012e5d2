"""Figures of overlaps: ours with error bars, laws as lines, published values as marks; they read in greyscale."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simgap.report.files import with_ending, write_whole

# Shape and filling tell the series apart; colour only helps.
OURS: dict[str, Any] = {"marker": "o", "color": "#08306b", "markersize": 5, "capsize": 3, "linestyle": "none"}
OTHER: dict[str, Any] = {"marker": "s", "color": "#6baed6", "markersize": 4.5, "capsize": 3, "linestyle": "none"}
PUBLISHED: dict[str, Any] = {
    "marker": "D",
    "markeredgecolor": "#b30000",
    "markerfacecolor": "white",
    "markersize": 7,
    "linestyle": "none",
    "markeredgewidth": 1.6,
}
# A point of the law that has a name, such as a fixed point: a ring, so that it hides nothing.
MARK: dict[str, Any] = {
    "marker": "o",
    "markeredgecolor": "#000000",
    "markerfacecolor": "none",
    "markersize": 12,
    "linestyle": "none",
    "markeredgewidth": 1.2,
}
CLOUD: dict[str, Any] = {"marker": ".", "color": "#555555", "markersize": 4, "linestyle": "none", "alpha": 0.35, "markeredgewidth": 0}
LAWS: tuple[dict[str, Any], ...] = (
    {"color": "#333333", "linestyle": "-"},
    {"color": "#777777", "linestyle": "--"},
    {"color": "#777777", "linestyle": ":"},
    {"color": "#333333", "linestyle": "-."},
    {"color": "#999999", "linestyle": "-"},
    {"color": "#333333", "linestyle": (0, (6, 1.5, 1, 1.5, 1, 1.5))},
    {"color": "#333333", "linestyle": (0, (1, 1))},
)
STYLES = (
    OURS,
    OTHER,
    OURS | {"marker": "^", "color": "#000000"},
    OTHER | {"marker": "v", "color": "#238b45"},
    OURS | {"marker": "D", "color": "#8c510a", "markerfacecolor": "white"},
    OTHER | {"marker": "x", "color": "#54278f", "markersize": 6},
    OURS | {"marker": "o", "color": "#333333", "markerfacecolor": "white"},
)


@dataclass
class Series:
    """Points (x, y) with an error bar each (one standard error, or a rounding interval), or a law's line (error None).

    A law and points of one label share one entry of the legend.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None


@dataclass
class Panel:
    """One pair of axes. ticks: the labels at 0, 1, ... of a categorical x axis; None for a logarithmic or linear one with `x_ticks`.

    marks: points of the law to ring. cloud: many points without error bars. y_limits: the ends of the y axis; a linear one starts
    at 0 unless told.
    """

    title: str
    x_label: str
    y_label: str
    ours: list[Series] = field(default_factory=list)
    laws: list[Series] = field(default_factory=list)
    published: list[Series] = field(default_factory=list)
    marks: list[Series] = field(default_factory=list)
    cloud: list[Series] = field(default_factory=list)
    ticks: Sequence[str] | None = None
    x_ticks: Sequence[float] = ()
    x_scale: Literal["log", "linear"] = "log"
    log_y: bool = False
    y_limits: tuple[float, float] | None = None


def draw(panels: Sequence[Panel], title: str, stem: Path, columns: int | None = None) -> list[Path]:
    """Draw the panels into STEM.png and STEM.pdf, side by side or in rows of `columns`.

    matplotlib's defaults hold, whatever the user's matplotlibrc, rcParams and backend, which stay as they are.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Not by pyplot, which would choose a backend: a figure of its own is written by the one that its format needs.
        figure = Figure(figsize=(5.4 * columns, 5.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        figure.suptitle(title, fontsize=11)
        return saved(figure, stem)


def saved(figure: Any, stem: Path) -> list[Path]:
    """A matplotlib figure into STEM.png and STEM.pdf; without a date in them, the same numbers give the same bytes."""
    return [
        write_whole(with_ending(stem, ".png"), lambda path: figure.savefig(path, dpi=150, metadata={"Software": None})),
        write_whole(with_ending(stem, ".pdf"), lambda path: figure.savefig(path, metadata={"CreationDate": None})),
    ]


def _draw_panel(axis: Any, panel: Panel) -> None:
    if len(panel.laws) > len(LAWS) or len(panel.ours) > len(STYLES):
        raise ValueError(f"{panel.title}: at most {len(LAWS)} laws and {len(STYLES)} series of ours tell apart in greyscale")
    for series in panel.cloud:
        axis.plot(series.x, series.y, label=series.label, zorder=0, **CLOUD)
    for law, style in zip(panel.laws, LAWS, strict=False):
        if panel.ticks is None:
            axis.plot(law.x, law.y, label=law.label, linewidth=1.4, zorder=1, **style)
        else:
            # Between categories there is no law to draw.
            ends = ([x - 0.4 for x in law.x], [x + 0.4 for x in law.x])
            axis.hlines(law.y, *ends, label=law.label, linewidth=1.4, zorder=1, colors=style["color"], linestyles=style["linestyle"])
    for series, style in zip(panel.ours, STYLES, strict=False):
        axis.errorbar(series.x, series.y, yerr=series.error, label=series.label, zorder=3, **style)
    for series in panel.published:
        axis.errorbar(series.x, series.y, yerr=series.error, label=series.label, zorder=2, ecolor="#b30000", elinewidth=1, **PUBLISHED)
    for series in panel.marks:
        axis.plot(series.x, series.y, label=series.label, zorder=4, **MARK)
    _scale(axis, panel)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.grid(alpha=0.25, linewidth=0.6)
    by_label: dict[str, list[Any]] = {}
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        by_label.setdefault(label, []).append(handle)
    handles = [entry[0] if len(entry) == 1 else tuple(entry) for entry in by_label.values()]
    # Below the axes, where it hides no point.
    axis.legend(handles, list(by_label), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)


def _scale(axis: Any, panel: Panel) -> None:
    if panel.ticks is not None:
        axis.set_xticks(range(len(panel.ticks)), panel.ticks)
        axis.margins(x=0.12)
    else:
        axis.set_xscale(panel.x_scale)
        if panel.x_ticks:
            axis.set_xticks(panel.x_ticks, [f"{x:g}" for x in panel.x_ticks])
            axis.minorticks_off()
    if panel.log_y:
        axis.set_yscale("log")
    else:
        if panel.y_limits is None:
            axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    if panel.y_limits is not None:
        axis.set_ylim(*panel.y_limits)

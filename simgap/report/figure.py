"""Figures of overlaps: ours with error bars, laws as lines, published values as marks; they read in greyscale."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
LAWS = ({"color": "#333333", "linestyle": "-"}, {"color": "#777777", "linestyle": "--"}, {"color": "#777777", "linestyle": ":"})
STYLES = (OURS, OTHER)


@dataclass
class Series:
    """Points (x, y) with an error bar each (one standard error, or a rounding interval), or a law's line (error None)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None


@dataclass
class Panel:
    """One pair of axes. ticks: the labels at 0, 1, ... of a categorical x axis; None for a logarithmic one with `x_ticks`."""

    title: str
    x_label: str
    y_label: str
    ours: list[Series] = field(default_factory=list)
    laws: list[Series] = field(default_factory=list)
    published: list[Series] = field(default_factory=list)
    ticks: Sequence[str] | None = None
    x_ticks: Sequence[float] = ()
    log_y: bool = False


def draw(panels: Sequence[Panel], title: str, stem: Path) -> list[Path]:
    """Draw the panels side by side into STEM.png and STEM.pdf."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 5.2), layout="constrained", squeeze=False)
    try:
        for axis, panel in zip(axes[0], panels, strict=True):
            _draw_panel(axis, panel)
        figure.suptitle(title, fontsize=11)
        # Without a date in the file, the same numbers give the same bytes.
        return [
            write_whole(with_ending(stem, ".png"), lambda path: figure.savefig(path, dpi=150, metadata={"Software": None})),
            write_whole(with_ending(stem, ".pdf"), lambda path: figure.savefig(path, metadata={"CreationDate": None})),
        ]
    finally:
        plt.close(figure)


def _draw_panel(axis: Any, panel: Panel) -> None:
    if len(panel.laws) > len(LAWS) or len(panel.ours) > len(STYLES):
        raise ValueError(f"{panel.title}: at most {len(LAWS)} laws and {len(STYLES)} series of ours tell apart in greyscale")
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
    if panel.ticks is None:
        axis.set_xscale("log")
        axis.set_xticks(panel.x_ticks, [f"{x:g}" for x in panel.x_ticks])
        axis.minorticks_off()
    else:
        axis.set_xticks(range(len(panel.ticks)), panel.ticks)
        axis.margins(x=0.12)
    if panel.log_y:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.grid(alpha=0.25, linewidth=0.6)
    # Below the axes, where it hides no point.
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)

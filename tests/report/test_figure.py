"""Figures: both formats, the same bytes twice, error bars where given, and nothing left open or behind."""

from dataclasses import replace

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from simgap.report import figure
from simgap.report.figure import Panel, Series, draw

PNG, PDF = b"\x89PNG\r\n\x1a\n", b"%PDF-"


def numbers() -> Panel:
    widths = [64, 128, 256]
    return Panel(
        "Outputs",
        "d_model",
        "overlap",
        ours=[Series("ours", widths, [1 / w for w in widths], [1e-4] * 3), Series("other", widths, [2 / w for w in widths], [1e-4] * 3)],
        laws=[Series("1/d", widths, [1 / w for w in widths])],
        published=[Series("paper", [128], [0.0081], [5e-5])],
        x_ticks=widths,
        log_y=True,
    )


def linear() -> Panel:
    """Everything that the first two lack: a linear axis with ends, more lines than three, marks, a cloud, and a shared label."""
    xs = [-1.0, 0.0, 1.0]
    return Panel(
        "Maps",
        "rho",
        "cosine",
        ours=[Series("law 0", xs, [0.1, 0.2, 0.3], [0.01] * 3)],
        laws=[Series(f"law {n}", xs, [0.1 * n, 0.2, 0.3]) for n in range(5)],
        marks=[Series("fixed point", [0.0], [0.2])],
        cloud=[Series("layers", xs, [-0.4, 0.4, 0.1])],
        x_scale="linear",
        y_limits=(-0.5, 0.5),
    )


def categories() -> Panel:
    return Panel(
        "Inits", "init", "overlap", ours=[Series("ours", [0, 1], [0.01, 0.02])], laws=[Series("law", [0, 1], [0.01, 0.01])], ticks="ab"
    )


def test_both_formats_are_written(tmp_path):
    paths = draw([numbers(), categories()], "Title", tmp_path / "figures" / "overlaps")
    assert [path.name for path in paths] == ["overlaps.png", "overlaps.pdf"]
    assert [path.read_bytes()[: len(magic)] for path, magic in zip(paths, (PNG, PDF), strict=True)] == [PNG, PDF]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["overlaps.pdf", "overlaps.png"]
    assert plt.get_fignums() == []


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    """And other error bars give others: they are drawn."""
    wider = numbers()
    wider.ours[0].error = [1e-3] * 3
    first, second, third = (draw([p], "Title", tmp_path / n)[0].read_bytes() for p, n in ((numbers(), "a"), (numbers(), "b"), (wider, "c")))
    assert first == second
    assert first != third


DARK = {"axes.facecolor": "black", "text.color": "white", "savefig.facecolor": "black", "savefig.transparent": True}
TYPE = {"text.usetex": True, "text.latex.preamble": "\\nonsense", "font.family": "No Such Font", "font.size": 23.0, "pdf.fonttype": 42}
LAYOUT = {"savefig.bbox": "tight", "figure.autolayout": True, "axes.prop_cycle": mpl.cycler(marker=["x"]), "axes.unicode_minus": False}


def test_the_users_settings_and_backend_do_not_enter_and_stay(tmp_path, monkeypatch):
    plain = [path.read_bytes() for path in draw([numbers()], "Title", tmp_path / "plain")]
    for of, name in ((mpl, "use"), (plt, "figure"), (plt, "switch_backend")):
        monkeypatch.setattr(of, name, lambda *_, name=name, **__: pytest.fail(f"{name} is the user's"))
    with mpl.rc_context(DARK | TYPE | LAYOUT):
        before = dict(mpl.rcParams)
        assert [path.read_bytes() for path in draw([numbers()], "Title", tmp_path / "found")] == plain
        assert dict(mpl.rcParams) == before
        with pytest.raises(ValueError, match="must have the same size"):
            draw([replace(numbers(), ours=[Series("ours", [64], [0.1, 0.2])])], "Title", tmp_path / "broken")
        assert dict(mpl.rcParams) == before


def test_a_figure_that_cannot_be_drawn_leaves_nothing(tmp_path):
    broken = numbers()
    broken.ours[0].y = [0.1]
    with pytest.raises(ValueError, match="must have the same size"):
        draw([broken], "Title", tmp_path / "broken")
    assert list(tmp_path.iterdir()) == []
    assert plt.get_fignums() == []


def axes_of(panel: Panel, see):
    """What `see` finds on the drawn axes; they are gone once the file is written."""
    drawing, axis = plt.subplots()
    try:
        figure._draw_panel(axis, panel)
        return see(axis)
    finally:
        plt.close(drawing)


def test_scales_and_limits():
    def scales(axis):
        return axis.get_xscale(), axis.get_yscale(), axis.get_ylim()[0]

    assert axes_of(linear(), scales) == ("linear", "linear", -0.5)
    assert axes_of(numbers(), scales)[:2] == ("log", "log")
    assert axes_of(categories(), scales) == ("linear", "linear", 0.0)


def test_a_law_and_its_points_share_a_legend_entry():
    def labels(axis):
        return [text.get_text() for text in axis.get_legend().get_texts()]

    assert sorted(axes_of(linear(), labels)) == ["fixed point", *(f"law {n}" for n in range(5)), "layers"]
    assert sorted(axes_of(numbers(), labels)) == ["1/d", "other", "ours", "paper"]


def test_lines_and_points_tell_apart_without_colour():
    """Seven dashings and shades, seven shapes and fillings, no two alike."""
    lines = [(str(style["linestyle"]), style["color"]) for style in figure.LAWS]
    shapes = [(style["marker"], style.get("markerfacecolor")) for style in figure.STYLES]
    assert len(set(lines)) == len(lines) == 7
    assert len(set(shapes)) == len(shapes) == 7


@pytest.mark.parametrize("field", ["ours", "laws"])
def test_more_series_than_styles_are_refused(tmp_path, field):
    crowded = numbers()
    setattr(crowded, field, [Series(f"{n}", [64], [0.1]) for n in range(8)])
    with pytest.raises(ValueError, match="Outputs: at most 7 laws and 7 series of ours tell apart in greyscale"):
        draw([crowded], "Title", tmp_path / "crowded")


def test_marks_and_clouds_are_drawn(tmp_path):
    whole = draw([linear()], "Title", tmp_path / "whole")[0].read_bytes()
    for field in ("marks", "cloud"):
        bare = linear()
        setattr(bare, field, [])
        assert draw([bare], "Title", tmp_path / field)[0].read_bytes() != whole


def test_rows_of_panels(tmp_path):
    """Three panels in rows of two: twice as high as one row of two, and the fourth place is empty."""
    sizes = [plt.imread(draw([categories()] * n, "Title", tmp_path / f"{n}", columns=2)[0]).shape for n in (2, 3)]
    assert (sizes[1][0], sizes[1][1]) == (2 * sizes[0][0], sizes[0][1])

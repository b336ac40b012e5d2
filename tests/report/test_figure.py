"""Figures: both formats, the same bytes twice, error bars where given, and nothing left open or behind."""

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

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


def test_a_figure_that_cannot_be_drawn_leaves_nothing(tmp_path):
    broken = numbers()
    broken.ours[0].y = [0.1]
    with pytest.raises(ValueError, match="must have the same size"):
        draw([broken], "Title", tmp_path / "broken")
    assert list(tmp_path.iterdir()) == []
    assert plt.get_fignums() == []

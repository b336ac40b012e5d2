"""Progress: seen on a terminal while cells are built, and never a reason to stop."""

import io
import os
import sys

import pytest

from simgap.cli import main
from simgap.specs import LayerSpec
from simgap.sweeps import grid, progress
from simgap.sweeps.file import read_file
from simgap.sweeps.progress import Forgiving, counted, hidden


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal_of(monkeypatch):
    """Stderr as a terminal has it, and no patience. No fixture: pytest puts back what it captures before a test begins."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    return found


TEXT = "[layer]\nd_model = 4\n[[design]]\naxes.d_ff = [4, 5, 6]\n[[design]]\naxes.top_k = [1, 2]\n"


def test_a_terminal_sees_how_many_cells_are_built(monkeypatch, tmp_path):
    terminal = terminal_of(monkeypatch)
    assert len(grid(LayerSpec(), d_ff=range(2, 12))) == 10
    assert "building cells: " in terminal.getvalue()
    assert "/10.0 [" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r"), "and nothing of it stays"
    (tmp_path / "x.toml").write_text(f"max_parameters = 1e9\n{TEXT}")
    assert len(read_file(tmp_path / "x.toml").cells) == 5
    assert all(f"{what}: " in terminal.getvalue() for what in ("building cells", "sizes of cells"))


def test_short_work_and_pipes_see_none(tmp_path, monkeypatch, capsys):
    terminal = terminal_of(monkeypatch)
    (tmp_path / "x.toml").write_text(TEXT)
    argv = ["sweep", str(tmp_path / "x.toml"), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main([*argv, "--json"]) == 0
    assert terminal.getvalue() == ""
    assert main(argv) == 0
    assert "planning: " in terminal.getvalue()
    monkeypatch.setattr(progress, "DELAY", 60.0)
    seen = len(terminal.getvalue())
    assert list(counted([1, 2], "counting", 2, True)) == [1, 2]
    assert len(terminal.getvalue()) == seen
    monkeypatch.setattr(sys, "stderr", None)
    assert hidden(None)
    assert hidden(True)


def test_ctrl_c_while_cells_are_built_ends_cleanly(monkeypatch):
    terminal = terminal_of(monkeypatch)

    def where(cell):
        if cell.d_ff == 5:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        grid(LayerSpec(), d_ff=range(2, 12), where=where)
    assert terminal.getvalue().endswith("\r")


@pytest.mark.parametrize("gone", ["reader", "disk", "stream"])
def test_what_cannot_be_written_is_dropped(monkeypatch, gone):
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(os.open("/dev/full", os.O_WRONLY) if gone == "disk" else writer, "w", buffering=1)
    if gone == "stream":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    assert list(counted(range(3), "counting", 3, True)) == [0, 1, 2]
    Forgiving(stream).write("more\n")
    Forgiving(stream).flush()
    # Python would try once more to write what is held.
    if not stream.closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.close()

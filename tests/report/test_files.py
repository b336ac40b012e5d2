"""write_whole: the old file or the new one, never half of one, and nothing left beside it."""

import os

import pytest

from simgap.report.files import write_whole


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_into_folders_that_do_not_exist_yet(tmp_path):
    path = tmp_path / "a" / "b" / "text.md"
    assert write_whole(path, lambda temporary: temporary.write_text("whole")) == path
    assert path.read_text() == "whole"
    assert names(path.parent) == ["text.md"]


def test_the_writer_gets_a_hidden_file_beside_the_path_with_its_suffix(tmp_path):
    path, seen = tmp_path / "text.md", []

    def write(temporary):
        seen.append(temporary)
        assert not path.exists()
        temporary.write_text("new")

    write_whole(path, write)
    assert len(seen) == 1
    assert (seen[0].parent, seen[0].suffix) == (tmp_path, ".md")
    assert seen[0].name.startswith(".text.")
    assert not seen[0].exists()


@pytest.mark.parametrize("old", [None, "old"])
def test_a_writer_that_raises_leaves_nothing_behind(tmp_path, old):
    path = tmp_path / "text.md"
    if old is not None:
        path.write_text(old)

    def write(temporary):
        temporary.write_text("half of")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_whole(path, write)
    assert names(tmp_path) == ([] if old is None else ["text.md"])
    assert old is None or path.read_text() == old


def test_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "text.md"
    path.write_text("a longer old text")
    write_whole(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert names(tmp_path) == ["text.md"]


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        path = write_whole(tmp_path / "text.md", lambda temporary: temporary.write_text("new"))
        kept = os.umask(mask)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert kept == mask

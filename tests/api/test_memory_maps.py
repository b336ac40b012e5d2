"""Memory maps of files that are cut short: one line, where a read would kill the process or see zeros."""

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

import simgap as sg
from simgap.api.memory_maps import refuse_truncated

VECTORS = np.random.default_rng(60).standard_normal((400, 2, 8))


@pytest.fixture
def saved(tmp_path):
    np.save(tmp_path / "h.npy", VECTORS)
    return tmp_path / "h.npy"


def views(mapped):
    return {
        "whole": mapped,
        "plain array": np.asarray(mapped),
        "slice": mapped[100:, ::-1],
        "reshaped": np.asarray(mapped).reshape(20, 20, 2, 8)[3:],
        "other byte order": mapped.view(">f8"),
        "without a mask": np.ma.array(mapped),
        "in a list": [mapped, mapped],
    }


@pytest.mark.parametrize("view", ["whole", "plain array", "slice", "reshaped", "other byte order", "without a mask", "in a list"])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("lost", [1, 30_000])
def test_a_file_that_was_cut_short_is_refused(saved, view, mode, lost):
    """By one byte, within the last page, where a read would see a zero; and by whole pages, where it would end the process."""
    value = views(np.load(saved, mmap_mode=mode))[view]
    shape, size = np.shape(value), saved.stat().st_size
    os.truncate(saved, size - lost)
    with pytest.raises(
        ValueError, match=rf"the mapped file '.*h\.npy' was cut short: it has {size - lost} bytes, and the array needs {size}"
    ):
        sg.token_mso(value)
    with pytest.raises(ValueError, match=r"^vectors.*was cut short"):
        sg.mean_mso(value, np.zeros(shape[:-1], int))
    with pytest.raises(ValueError, match=r"^weights.*was cut short"):
        sg.weight_mso(value)


def test_what_lies_before_the_cut_is_read(saved):
    mapped = np.load(saved, mmap_mode="r")
    os.truncate(saved, saved.stat().st_size - 8 * 16 * 10)
    assert sg.token_mso(mapped[:390]) == sg.token_mso(VECTORS[:390])


def test_offsets_of_more_than_a_page(tmp_path):
    path = tmp_path / "h.bin"
    VECTORS.tofile(path)
    mapped = np.memmap(path, np.float64, "r", offset=8 * 16 * 100, shape=(300, 2, 8))
    assert sg.token_mso(mapped) == sg.token_mso(VECTORS[100:])
    size = path.stat().st_size
    os.truncate(path, size - 8)
    with pytest.raises(ValueError, match=f"it has {size - 8} bytes, and the array needs {size}"):
        sg.token_mso(mapped)
    assert sg.token_mso(mapped[:299]) == sg.token_mso(VECTORS[100:399])


def test_another_file_of_that_name_does_no_harm(saved):
    mapped = np.load(saved, mmap_mode="r")
    saved.unlink()
    saved.write_bytes(b"short")
    assert sg.token_mso(mapped) == sg.token_mso(VECTORS)


def test_maps_without_numpy(saved):
    with saved.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, np.float64, offset=saved.stat().st_size - VECTORS.nbytes).reshape(VECTORS.shape)
    assert sg.token_mso(array) == sg.token_mso(VECTORS)
    os.truncate(saved, 1000)
    with pytest.raises(ValueError, match="vectors: the mapped file was cut short: it has 1000 bytes"):
        sg.token_mso(array)


def test_memory_without_a_file_is_not_asked():
    anonymous = np.frombuffer(mmap.mmap(-1, VECTORS.nbytes), np.float64).reshape(VECTORS.shape)
    anonymous[...] = VECTORS
    assert sg.token_mso(anonymous) == sg.token_mso(VECTORS)
    refuse_truncated("vectors", VECTORS.tolist())
    assert sg.token_mso(VECTORS[:, ::-1]).pairs == 400


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("call", ["weight_mso", "token_mso", "mean_mso"])
def test_a_file_cut_short_within_its_last_page_while_it_is_read(saved, monkeypatch, call, listed):
    """No read dies of it, and some see zeros: refused afterwards."""
    from simgap.api import arrays as module

    name = {"weight_mso": "over_pairs", "token_mso": "token_overlap", "mean_mso": "means_by_routing"}[call]
    inner = getattr(module, name)

    def cut(*given, **more):
        os.truncate(saved, saved.stat().st_size - 1)
        return inner(*given, **more)

    monkeypatch.setattr(module, name, cut)
    routing = [np.tile([0, 1], (400, 1))] if call == "mean_mso" else []
    mapped = np.load(saved, mmap_mode="r")
    with pytest.raises(ValueError, match=r"the mapped file '.*' was cut short"):
        getattr(sg, call)(list(mapped) if listed else mapped, *routing)


def test_without_the_check_the_process_dies(saved):
    """The witness: what `refuse_truncated` is there for."""
    script = f"""
import os
import numpy as np
mapped = np.load({str(saved)!r}, mmap_mode="r")
os.truncate({str(saved)!r}, 10_000)
print(mapped.sum())
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode < 0

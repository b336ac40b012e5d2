"""Rows of a file: read where they lie, of one content, and refused with a reason where they are not what the file says."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from simgap.moe.rowfile import CLOSE, Rows
from simgap.specs import InputSpec


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((40, 6))


def matrix_in(path, width=6, tensor=""):
    """All rows of a file."""
    found = Rows(str(path), tensor, width)
    return found.take(np.arange(len(found)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_chosen_rows_of_an_array(tmp_path, order, version):
    """Over several windows of the file, and at their edges."""
    matrix = np.random.default_rng(0).standard_normal((3 * CLOSE // 8, 2)).astype(">f8", order=order)
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array(file, matrix, version)
    found = Rows(str(tmp_path / "x.npy"), "", 2)
    step = CLOSE // 16
    for chosen in ([0], [len(matrix) - 1], [step - 1, step], [5, 6, 2 * step, 2 * step + 9, 3 * step - 1], range(len(matrix))):
        assert np.array_equal(found.take(np.array(chosen)), matrix[np.array(chosen)])
    starts, parts = zip(*found.blocks(), strict=True)
    assert np.array_equal(np.concatenate(parts), matrix)
    assert list(starts) == [0, *np.cumsum([len(part) for part in parts])[:-1]]


def test_a_row_longer_than_a_window(tmp_path):
    matrix = np.random.default_rng(0).standard_normal((5, CLOSE // 4 + 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", matrix)
    assert np.array_equal(Rows(str(tmp_path / "x.npy"), "", matrix.shape[1]).take(np.array([1, 2, 4])), matrix[[1, 2, 4]])


def cut(path):
    os.truncate(path, os.path.getsize(path) - 8)


def cut_to_nothing(path):
    os.truncate(path, 0)


def lengthen(path):
    with open(path, "ab") as file:
        file.write(b"more")


def write_over(path):
    content = path.read_bytes()
    with open(path, "r+b") as file:
        file.write(content[:-1] + b"x")
    os.utime(path, ns=(0, 1))


@pytest.mark.parametrize("change", [cut, cut_to_nothing, lengthen, write_over])
@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_a_file_that_changes_while_it_is_read(tmp_path, rows, change, ending):
    """A mapped one that was cut short ended the process by SIGBUS."""
    path = tmp_path / f"x.{ending}"
    np.save(path, rows) if ending == "npy" else save_file({"h": torch.from_numpy(rows)}, path)
    found = Rows(str(path), "", 6)
    assert np.array_equal(found.take(np.arange(3)), rows[:3])
    change(path)
    with pytest.raises(ValueError, match=rf"^inputs\.path: '.*x\.{ending}' changed while it was read$"):
        found.take(np.arange(40))


def test_a_file_that_is_replaced_is_read_to_its_end(tmp_path, rows):
    path = tmp_path / "x.npy"
    np.save(path, rows)
    found = Rows(str(path), "", 6)
    np.save(tmp_path / "y.npy", -rows)
    os.replace(tmp_path / "y.npy", path)
    assert np.array_equal(found.take(np.arange(40)), rows)


def test_the_file_is_closed_with_its_rows(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    before = len(os.listdir("/proc/self/fd"))
    found = Rows(str(tmp_path / "x.npy"), "", 6)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del found
    with pytest.raises(ValueError, match="but d_model is 7"):
        Rows(str(tmp_path / "x.npy"), "", 7)
    assert len(os.listdir("/proc/self/fd")) == before


def npy(shape, data=b"12345678"):
    header = repr({"descr": "<f8", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def safetensors(header, data=b"12345678", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype="F64", shape=(1, 1), offsets=(0, 8)):
    return {"h": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", npy((2, 1)), r"shape \(2, 1\) of float64 takes 16 bytes, it has 8"),
        ("x.npy", npy((10**30, 1)), "takes 8,000,0"),
        ("x.npy", npy((-1, 1)), r"expected lengths of axes, got shape \(-1, 1\)"),
        ("x.npy", npy((1, 1)).replace(b"NUMPY\x01", b"NUMPY\x09"), r"version \(9, 0\) of the format"),
        ("x.npy", b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{}", "a header of 2,147,483,648 bytes is that of no matrix"),
        ("x.safetensors", safetensors(tensor(), length=10**18), "a header of 1,000,000,000,000,000,000 bytes does not fit the file"),
        ("x.safetensors", safetensors(tensor(shape=(2, 1))), r"shape \(2, 1\) of F64 takes 16 bytes, it has 8"),
        ("x.safetensors", safetensors(tensor(offsets=(0, 99))), "its header tells of 99 bytes, after it come 8"),
        ("x.safetensors", safetensors(tensor(offsets=(-99, 8))), "expected where the tensor begins and ends, got -99 and 8"),
        ("x.safetensors", safetensors(tensor(offsets=(-8, 8))), "begins and ends, got -8 and 8"),
        ("x.safetensors", safetensors(tensor(offsets=(0.0, 8))), "begins and ends, got 0.0 and 8"),
        ("x.safetensors", safetensors(tensor(offsets=(0, 16)), b"12345678" * 2), r"takes 8 bytes, its header gives it 16"),
        ("x.safetensors", safetensors(tensor(shape=(-1, -1))), r"expected lengths of axes, got shape \(-1, -1\)"),
        ("x.safetensors", safetensors(tensor(shape=(True, 1))), "expected lengths of axes"),
        ("x.safetensors", safetensors(tensor(shape="no")), "expected lengths of axes"),
        ("x.safetensors", safetensors(tensor(dtype=[])), "list"),
        ("x.safetensors", safetensors({}), "it holds 0 tensors"),
        ("x.safetensors", safetensors([]), ""),
        ("x.safetensors", safetensors({"h": 1}), ""),
        ("x.safetensors", safetensors(b"[" * 100_000), "recursion"),
        ("x.safetensors", safetensors(b"\xff" * 9), "decode|UTF"),
    ],
)
def test_no_size_is_believed_that_the_file_does_not_have(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^inputs\.path: cannot read '.*{name}': .*({says})[^\n]*$"):
        Rows(str(tmp_path / name), "", 1)


def test_a_fortran_ordered_file(tmp_path, rows):
    np.save(tmp_path / "x.npy", np.asfortranarray(rows))
    assert np.array_equal(matrix_in(tmp_path / "x.npy"), rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors(tmp_path, rows, dtype):
    matrix = torch.from_numpy(rows).to(dtype)
    save_file({"h": matrix}, tmp_path / "one.safetensors")
    save_file({"other": torch.zeros(2, 2), "h": matrix}, tmp_path / "two.safetensors")
    assert np.array_equal(matrix_in(tmp_path / "one.safetensors"), matrix.double().numpy())
    assert np.array_equal(matrix_in(tmp_path / "two.safetensors", tensor="h"), matrix.double().numpy())


def test_safetensors_names(tmp_path):
    save_file({"a": torch.zeros(2, 6), "b": torch.zeros(2, 6)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*x\.safetensors': it holds 2 tensors; name one in inputs\.tensor$"):
        matrix_in(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*': it has no tensor 'c'$"):
        matrix_in(tmp_path / "x.safetensors", tensor="c")


@pytest.mark.parametrize(
    "array, got",
    [
        (np.zeros((3, 6), np.int64), r"shape \(3, 6\), dtype int64"),
        (np.zeros((3, 6), bool), r"shape \(3, 6\), dtype bool"),
        (np.zeros((3, 6), complex), r"shape \(3, 6\), dtype complex128"),
        (np.zeros((2, 3, 6)), r"shape \(2, 3, 6\), dtype float64"),
        (np.zeros(6), r"shape \(6,\), dtype float64"),
    ],
    ids=["integers", "booleans", "complex", "three axes", "one axis"],
)
def test_what_is_no_matrix_of_floats(tmp_path, array, got):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=rf"^inputs\.path: expected a matrix of floats in '.*x\.npy', got {got}$"):
        matrix_in(tmp_path / "x.npy")


def test_an_integer_tensor(tmp_path):
    save_file({"h": torch.zeros(3, 6, dtype=torch.int32)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"^inputs\.path: expected a matrix of floats in .*, got shape \(3, 6\), dtype I32$"):
        matrix_in(tmp_path / "x.safetensors")


class Trap:
    """Unpickling this calls a function; nothing that reads tokens may."""

    def __reduce__(self):
        return exec, ("raise RuntimeError('unpickled')",)


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*x\.npy': .*Python objects in dtype"):
        matrix_in(tmp_path / "x.npy", 1)
    (tmp_path / "y.npy").write_bytes(b"\x80\x04\x95 pickled")
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*y\.npy': .*magic string"):
        matrix_in(tmp_path / "y.npy", 1)


@pytest.mark.parametrize("kept", [0, 4, 40, -8])
def test_truncated_npy(tmp_path, rows, kept):
    np.save(tmp_path / "x.npy", rows)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*x\.npy': [^\n]+$"):
        matrix_in(tmp_path / "x.npy")


@pytest.mark.parametrize("kept", [0, 4, 40, -8])
def test_truncated_safetensors(tmp_path, rows, kept):
    save_file({"h": torch.from_numpy(rows)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*x\.safetensors': [^\n]+$"):
        matrix_in(tmp_path / "x.safetensors")


def write_archive(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.ones((3, 6)))


@pytest.mark.parametrize(
    "name, write",
    [
        ("archive.npy", write_archive),
        ("eight_bits.safetensors", lambda path: save_file({"h": torch.ones(3, 6).to(torch.float8_e4m3fn)}, path)),
    ],
)
def test_other_formats_are_refused_with_a_reason(tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=r"^inputs\.path: "):
        matrix_in(tmp_path / name)


def test_a_header_that_breaks_numpys_parser_is_refused(tmp_path):
    header = b"{'a\0':1\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*x\.npy': "):
        matrix_in(tmp_path / "x.npy")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="not a regular file"):
        matrix_in(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="not a regular file"):
        InputSpec(kind="file", path=str(tmp_path / "x.npy")).file_hash()

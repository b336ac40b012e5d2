"""Arrays in files: what is read, and that nothing is believed which the file does not bear out."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from simgap.api.array_files import array_in


def safetensors(tensors, data, length=None):
    text = json.dumps(tensors).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8", "u1", "?"])
def test_arrays_of_any_shape(tmp_path, dtype, order):
    array = np.asarray(np.random.default_rng(0).integers(0, 2, (4, 3, 2)), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    found = array_in("vectors", str(tmp_path / "a.npy"))
    assert isinstance(found, np.memmap)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool])
def test_tensors(tmp_path, dtype):
    tensor = torch.arange(24).reshape(4, 3, 2).to(dtype)
    save_file({"x": tensor}, tmp_path / "a.safetensors")
    save_file({"routing": tensor, "vectors": tensor + tensor}, tmp_path / "b.safetensors")
    for name in ("a", "b"):
        found = array_in("routing", str(tmp_path / f"{name}.safetensors"))
        assert torch.equal(torch.from_numpy(np.array(found)) if isinstance(found, np.ndarray) else found, tensor)


def test_an_empty_array(tmp_path):
    np.save(tmp_path / "a.npy", np.empty((0, 3)))
    assert array_in("vectors", str(tmp_path / "a.npy")).shape == (0, 3)


def objects(path):
    np.save(path, np.array([{}, []], object), allow_pickle=True)


def cut(path):
    np.save(path, np.ones((100, 3)))
    path.write_bytes(path.read_bytes()[:-8])


def fields(path):
    np.save(path, np.zeros(3, [("a", "f4"), ("b", "i4")]))


HEADER = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npy", objects, "Python objects in dtype"),
        ("a.npy", cut, r"shape \(100, 3\) of float64 takes 2,400 bytes, it has 2,392"),
        ("a.npy", fields, "expected real numbers, got dtype"),
        ("a.npy", lambda path: path.write_bytes(b""), "EOF"),
        ("a.npy", lambda path: path.mkdir(), "Is a directory"),
        ("a.npy", lambda path: None, "No such file"),
        ("a.pt", lambda path: path.write_bytes(b""), r"expected a file that ends in \.npy or \.safetensors"),
        ("a.safetensors", lambda path: path.write_bytes(b"\xff" * 16), "does not fit the file"),
        ("a.safetensors", lambda path: path.write_bytes(safetensors({"x": HEADER}, b"1234")), "its header tells of 8 bytes"),
        ("a.safetensors", lambda path: path.write_bytes(safetensors({"x": HEADER | {"shape": [1 << 40]}}, b"12345678")), "takes 4,398"),
        (
            "a.safetensors",
            lambda path: path.write_bytes(safetensors({"x": HEADER | {"shape": [-1]}}, b"12345678")),
            "expected lengths of axes",
        ),
        (
            "a.safetensors",
            lambda path: path.write_bytes(safetensors({"x": HEADER | {"dtype": "F8_E4M3"}}, b"12345678")),
            "got dtype F8_E4M3",
        ),
        (
            "a.safetensors",
            lambda path: path.write_bytes(safetensors({"x": HEADER, "y": HEADER}, b"12345678")),
            "it holds 2 tensors, none of them named vectors",
        ),
    ],
)
def test_what_is_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^vectors: .*{message}") as refused:
        array_in("vectors", str(tmp_path / name))
    assert "\n" not in str(refused.value)

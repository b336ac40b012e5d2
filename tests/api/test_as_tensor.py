"""What a user may hand over: every kind is read right, or refused in one line that names the argument."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import simgap as sg
from simgap.api.as_tensor import as_booleans, as_indices, as_tensor

RNG = np.random.default_rng(50)
PLAIN = RNG.standard_normal((3, 4, 5))
FLOAT8 = [getattr(torch, name) for name in dir(torch) if name.startswith("float8_")]
# What no list below names is refused, whatever torch adds: this is all that a release may have.
NO_NUMBERS = [
    getattr(torch, name)
    for name in dir(torch)
    if isinstance(getattr(torch, name), torch.dtype)
    and name.startswith(
        ("bits", "int1", "int2", "int3", "int4", "int5", "int6", "int7", "uint1", "uint2", "uint3", "uint4", "uint5", "uint6")
    )
    and name not in ("int16", "int32", "uint16", "uint32", "int64", "uint64")
] + [dtype for dtype in (getattr(torch, "float4_e2m1fn_x2", None),) if dtype is not None]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("container", [list, tuple, nn.ParameterList])
def test_parameters_in_a_list_are_stacked(container):
    parameters = [nn.Parameter(torch.from_numpy(part)) for part in PLAIN]
    assert sg.weight_mso(container(parameters)) == sg.weight_mso(PLAIN)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int8, torch.uint16, torch.uint64, *FLOAT8])
def test_tensors_of_any_dtype_in_a_list_are_stacked(dtype):
    whole = torch.from_numpy(np.abs(np.rint(4 * PLAIN)) + 1).to(dtype)
    assert sg.weight_mso(list(whole)) == sg.weight_mso(whole) == sg.weight_mso(whole.double())


def test_lists_of_arrays_of_both_libraries_and_nested_ones():
    mixed = [torch.from_numpy(PLAIN[0]), PLAIN[1], nn.Parameter(torch.from_numpy(PLAIN[2]))]
    assert sg.weight_mso(mixed) == sg.weight_mso(PLAIN)
    nested = [[torch.from_numpy(PLAIN[e, row]) for row in range(4)] for e in range(3)]
    assert sg.weight_mso(nested) == sg.weight_mso(PLAIN.tolist()) == sg.weight_mso(PLAIN)
    assert sg.token_mso([[list(map(np.float64, vector)) for vector in token] for token in PLAIN]) == sg.token_mso(PLAIN)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (np.ones((4, 6)), r"one shape, got \(4, 5\) at weights\[0\] and \(4, 6\) at weights\[2\]"),
        (torch.ones(4, 5).bfloat16(), r"one dtype, got torch.float64 at weights\[0\] and torch.bfloat16 at weights\[2\]"),
        (np.ones((4, 5), int), r"one dtype, got torch.float64 at weights\[0\] and torch.int64 at weights\[2\]"),
    ],
)
def test_lists_of_unlike_arrays_are_refused(other, what):
    with pytest.raises(ValueError, match="weights: expected arrays of " + what):
        sg.weight_mso([PLAIN[0], torch.from_numpy(PLAIN[1]), other])


@pytest.mark.parametrize(
    "view",
    [
        PLAIN[:1, :2][::-1],
        PLAIN[:1, :, ::-1],
        PLAIN[::-1, ::-1, ::-1],
        PLAIN[:, ::-2],
        np.broadcast_to(PLAIN[0], (9, 4, 5)),
        np.frombuffer(b"\0" + PLAIN.tobytes(), np.float64, offset=1).reshape(PLAIN.shape),
        np.rec.fromarrays([PLAIN, np.ones(PLAIN.shape, np.int8)], names="numbers,other")["numbers"],
        PLAIN.copy(order="F"),
    ],
    ids=["reversed of length 1", "reversed last", "all reversed", "by -2", "broadcast", "misaligned", "a field of records", "Fortran"],
)
def test_views_of_every_kind(view):
    view = view.view()
    view.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sg.token_mso(view)
    assert found == sg.token_mso(np.array(view, order="C"))


def test_tensors_of_every_kind():
    tensor = torch.from_numpy(PLAIN)
    with torch.inference_mode():
        inference = torch.from_numpy(PLAIN) + 0
    negated = torch.complex(tensor, -tensor).conj().imag
    assert negated.is_neg()
    huge = torch.empty(1, 2, 5, dtype=torch.float64).as_strided((1, 2, 5), (1 << 50, 5, 1)).copy_(tensor[:1, :2])

    class Named(torch.Tensor):
        """A subclass that changes nothing."""

    for value, same in (
        (inference, PLAIN),
        (negated, PLAIN),
        (torch._neg_view(tensor), PLAIN),
        (huge, PLAIN[:1, :2]),
        (tensor.expand(2, 3, 4, 5)[0], PLAIN),
        (tensor.as_subclass(Named), PLAIN),
        (nn.Parameter(tensor), PLAIN),
        (tensor.requires_grad_() * 1, PLAIN),
    ):
        assert sg.token_mso(value) == sg.token_mso(same)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u8", "i8", "u4", "i4", "u2", "i2", "u1", "i1", "f2", "f4", "f8", "f16"])
def test_numbers_of_every_size_and_byte_order(kind, order):
    limits = np.iinfo(kind) if kind[0] in "ui" else np.finfo("f8" if kind == "f16" else kind)
    exact = [int(limits.max), int(limits.max) // 3, int(limits.min), 0, 1] if kind[0] in "ui" else [limits.max, limits.tiny, -0.75, 0, 1]
    array = np.array(exact, kind).astype(order + kind)
    tensor = as_tensor("weights", array)
    np.testing.assert_array_equal(tensor.double().numpy(), np.array([float(number) for number in exact]))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.int64])
def test_torch_numbers_of_every_size(dtype):
    exact = [int(np.iinfo(dtype).max), int(np.iinfo(dtype).max) // 3, 1]
    tensor = torch.from_numpy(np.array(exact, dtype))
    assert as_tensor("vectors", tensor).tolist() == as_tensor("vectors", [tensor])[0].tolist() == [float(number) for number in exact]


def test_torch_booleans_are_no_numbers():
    with pytest.raises(ValueError, match=r"vectors: expected real numbers, got dtype torch.bool"):
        as_tensor("vectors", torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("dtype", FLOAT8)
def test_every_float8_value(dtype):
    found = as_tensor("vectors", torch.arange(256).to(torch.uint8).view(dtype))
    np.testing.assert_array_equal(found.double().numpy(), torch.arange(256).to(torch.uint8).view(dtype).double().numpy())
    assert found.isfinite().any()


def test_longdouble_beyond_float64_is_refused():
    for number in ("1e4000", "1e-4000"):
        with pytest.raises(ValueError, match="vectors: expected numbers within the range of float64, got float128"):
            as_tensor("vectors", np.full((2, 2, 3), np.longdouble(number)))
    assert as_tensor("vectors", np.array([np.longdouble("inf"), 0])).tolist() == [math.inf, 0]


def test_big_endian_uint64_is_not_negative():
    """Through 64 signed bits these two would be parallel."""
    weights = np.array([[2**63, 1], [2**64 - 2**12, 0]], ">u8")
    assert sg.weight_mso(weights).mean == 1
    weights = np.array([[2**63 + 2**62, 2**62], [2**62, 2**62]], ">u8")
    assert sg.weight_mso(weights).mean == pytest.approx((3 + 1) ** 2 / (10 * 2), rel=1e-15)


def foreign(**methods):
    return type("Foreign", (), methods)()


def refuses(*_args, **_kwargs):
    raise TypeError("Implicit conversion\nto a host array is not allowed")


OBJECTS = {
    "strings": (np.array([["a", "b"], ["c", "d"]]), "expected numbers, got dtype <U1"),
    "bytes": (np.array([[b"a"], [b"b"]]), r"expected numbers, got dtype \|S1"),
    "a path": ("weights.npy", "expected numbers, got dtype <U11 from str"),
    "datetimes": (np.zeros((3, 4), "M8[s]"), r"expected numbers, got dtype datetime64\[s\]"),
    "durations": (np.zeros((3, 4), "m8[s]"), r"expected numbers, got dtype timedelta64\[s\]"),
    "objects": (np.array([[1.0, None], [2.0, 3.0]]), "expected numbers, got dtype object"),
    "records": (np.zeros((3, 4), "f8,i4"), r"expected numbers, got dtype \[\('f0'"),
    "modules": ([nn.Linear(2, 3), nn.Linear(2, 3)], r"got dtype object from list of Linear; give their weights, \[module.weight"),
    "a dictionary": ({"up": PLAIN}, "expected numbers, got dtype object from dict"),
    "nothing": (None, "expected numbers, got dtype object from NoneType"),
    "complex": (PLAIN * 1j, "expected numbers, got dtype complex128"),
    "booleans": (PLAIN > 0, "expected real numbers, got dtype torch.bool"),
    "NaN in a frame": (pd.DataFrame({"a": [1.0, np.nan], "b": [3.0, 4.0]}), "expert 1 holds a value that is not finite"),
    "NA in a frame": (pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": ["x", "y"]}), "expected numbers, got dtype object"),
    "nullable numbers": (pd.DataFrame(PLAIN[0]).convert_dtypes(dtype_backend="numpy_nullable"), "expected numbers, got dtype object"),
    "dates in a frame": (pd.DataFrame({"a": pd.date_range("2020", periods=3)}), "expected numbers, got dtype datetime64"),
    "only __dlpack__": (foreign(__dlpack__=refuses), "expected numbers, got dtype object from Foreign"),
    "no implicit copy": (foreign(__array__=refuses), "expected an array, got Foreign: Implicit conversion to a host array is not allowed"),
    "a ragged list": ([[1.0, 2.0], [3.0]], "expected an array, got list: setting an array element"),
    "masked entries": (np.ma.masked_greater(PLAIN, 1), r"expected an array without masked entries, got \d+ masked"),
    "masked entries in a list": ([PLAIN[0], np.ma.masked_greater(PLAIN[1], 1)], r"\[1\]: expected an array without masked entries"),
    "masked by __array__": (foreign(__array__=lambda *_, **__: np.ma.masked_greater(PLAIN, 1)), "without masked entries, got"),
    "masked records": (np.ma.array(np.zeros((3, 4), "f8,i4"), mask=True), r"expected numbers, got dtype \[\('f0'"),
    "numpy.ma.masked": (np.ma.masked, "expected an array without masked entries, got 1 masked"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_no_array_of_numbers_is_refused(name):
    value, message = OBJECTS[name]
    with pytest.raises(ValueError, match=f"^weights.*{message}") as error:
        sg.weight_mso(value)
    assert one_line(error)


@pytest.mark.parametrize(
    "value",
    [
        np.ma.array(PLAIN.reshape(3, -1)),
        np.ma.array(PLAIN.reshape(3, -1), mask=np.zeros((3, 20), bool)),
        PLAIN.reshape(3, -1).view(np.matrix),
        pd.DataFrame(PLAIN.reshape(3, -1)),
        foreign(__array__=lambda self, dtype=None, copy=None: PLAIN.reshape(3, -1)),
        [pd.Series(row) for row in PLAIN.reshape(3, -1)],
    ],
    ids=["no mask", "nothing masked", "matrix", "frame", "__array__", "series in a list"],
)
def test_what_numpy_makes_an_array_of(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sg.weight_mso(value) == sg.weight_mso(PLAIN)


def with_dispatch():
    class Doubled(torch.Tensor):
        """Stands for other numbers than its memory holds."""

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return func(*(arg.as_subclass(torch.Tensor) if isinstance(arg, cls) else arg for arg in args), **(kwargs or {}))

    return torch.ones(3, 2, 4).as_subclass(Doubled)


def with_function():
    class Units(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return super().__torch_function__(func, types, args, kwargs or {})

    return torch.ones(3, 2, 4).as_subclass(Units)


def fake():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(3, 2, 4)


def masked_tensor():
    return torch.masked.masked_tensor(torch.ones(3, 2, 4), torch.ones(3, 2, 4).bool())


def distributed():
    """A DTensor's class, on a tensor of its own: to build a real one a process group is needed."""
    from torch.distributed.tensor import DTensor

    made = torch.Tensor._make_wrapper_subclass(DTensor, (3, 2, 4))
    assert isinstance(made, DTensor)
    return made


TENSORS = {
    "__torch_dispatch__": (with_dispatch, "got the subclass Doubled"),
    "__torch_function__": (with_function, "got the subclass Units"),
    "fake": (fake, "got the subclass FakeTensor"),
    "MaskedTensor": (masked_tensor, "got the subclass MaskedTensor"),
    "DTensor": (distributed, "got the subclass DTensor"),
    "lazy": (nn.UninitializedParameter, "got the subclass UninitializedParameter"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2, 3)] * 2), "expected a plain dense tensor, got a nested one"),
    "jagged": (lambda: torch.nested.nested_tensor([torch.ones(2, 3)] * 2, layout=torch.jagged), "got the subclass NestedTensor"),
    "COO": (lambda: torch.eye(3).to_sparse(), "expected a plain dense tensor, got torch.sparse_coo"),
    "CSR": (lambda: torch.eye(3).to_sparse_csr(), "expected a plain dense tensor, got torch.sparse_csr"),
    "MKL-DNN": (lambda: torch.ones(3, 4).to_mkldnn(), "expected a plain dense tensor, got torch._mkldnn"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 0, torch.qint8), "expected a plain dense tensor, .*torch.qint8"),
    "meta": (lambda: torch.empty(3, 4, device="meta"), "expected a plain dense tensor, .* on meta"),
    "complex": (lambda: torch.ones(3, 4, dtype=torch.complex64), "expected real numbers, got dtype torch.complex64"),
    "conjugated": (lambda: torch.ones(3, 4, dtype=torch.complex64).conj(), "expected real numbers, got dtype torch.complex64"),
    "zero tensor": (lambda: torch._efficientzerotensor((3, 2, 4)), "expected a tensor with memory of its own"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of:UserWarning", "ignore:Sparse CSR:UserWarning", "ignore:.*deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_hold_no_plain_numbers_are_refused(name):
    make, message = TENSORS[name]
    value = make()
    for argument, call in (
        ("weights", lambda: sg.weight_mso(value)),
        ("vectors", lambda: sg.token_mso(value)),
        ("vectors", lambda: sg.mean_mso(value, np.zeros((3, 2), int))),
        (r"weights(\[0\])?", lambda: sg.weight_mso([value, value])),
    ):
        with pytest.raises(ValueError, match=f"^{argument}: .*{message}") as error:
            call()
        assert one_line(error)


@pytest.mark.parametrize("dtype", NO_NUMBERS, ids=str)
def test_dtypes_of_less_than_a_byte_are_refused(dtype):
    value = torch.zeros(4, 2, 4, dtype=torch.uint8).view(dtype)
    for call in (sg.weight_mso, sg.token_mso):
        with pytest.raises(ValueError, match=f"expected real numbers, got dtype {dtype}"):
            call(value)
    with pytest.raises(ValueError, match="routing: expected whole numbers"):
        sg.mean_mso(np.ones((4, 2, 4)), value[..., 0])


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, torch.func.functionalize])
@pytest.mark.parametrize("wrapped", [True, False])
def test_tensors_within_transforms_are_refused_or_right(transform, wrapped):
    tensor = torch.from_numpy(PLAIN)
    answers = []

    def inside(x):
        try:
            answers.append(sg.token_mso(x if wrapped else tensor))
        except ValueError as error:
            answers.append(str(error))
        return x.sum()

    transform(inside)(tensor[None] if transform is torch.func.vmap else tensor)
    refused = "vectors: expected a tensor with memory of its own, got one that torch only traces (vmap, grad, compile)"
    assert answers == [refused] or (not wrapped and answers == [sg.token_mso(PLAIN)])


@pytest.mark.parametrize(
    "value", [np.array([2**63, 0], np.uint64), np.array([2**64 - 1, 0], ">u8"), torch.from_numpy(np.array([2**64 - 1, 1], np.uint64))]
)
def test_an_index_beyond_64_signed_bits_is_refused(value):
    """2^64 - 1 would come out as -1, none."""
    with pytest.raises(ValueError, match=r"routing: expected indices below 2\^63"):
        as_indices("routing", value)


def test_indices_in_lists_and_masked_ones():
    assert as_indices("routing", [torch.tensor([1, -1]), torch.tensor([0, 2])]).tolist() == [[1, -1], [0, 2]]
    assert as_indices("routing", np.array([3, 2**63 - 1], ">u8")).tolist() == [3, 2**63 - 1]
    with pytest.raises(ValueError, match="routing: expected an array without masked entries"):
        as_indices("routing", np.ma.masked_less(np.arange(4), 2))


def test_booleans():
    assert as_booleans("mask", [1, 0, 1]).tolist() == as_booleans("mask", np.array([True, False, True])).tolist() == [True, False, True]
    assert as_booleans("mask", torch.tensor([1, 0], dtype=torch.uint64)).tolist() == [True, False]
    with pytest.raises(ValueError, match="mask: expected booleans, or 0 and 1, got -1 to 1"):
        as_booleans("mask", np.array([-1, 0, 1]))
    with pytest.raises(ValueError, match=r"mask: expected booleans, or 0 and 1, got dtype torch.float64"):
        as_booleans("mask", np.array([0.0, -np.inf]))


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0), (3, 0, 4), (0, 2, 4)])
@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_no_axes_and_axes_of_no_size_are_refused(make, shape):
    with pytest.raises(ValueError, match=r"weights: expected .* got shape"):
        sg.weight_mso(make(shape))
    with pytest.raises(ValueError, match=r"vectors: expected .* got shape"):
        sg.token_mso(make(shape))
    with pytest.raises(ValueError, match=r"vectors: expected .* got shape"):
        sg.mean_mso(make(shape), np.zeros(shape[:-1], int))

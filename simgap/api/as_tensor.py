"""A user's value as a torch tensor: what each kind of array means here, and a refusal in one line for those that mean nothing.

Memory is shared where torch can see it as it lies; nothing here writes to it.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simgap.api.memory_maps import refuse_truncated

WHOLE = (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor of FLOATS over the user's memory where it has their dtype; whole numbers as float64, 8-bit floats as float32.

    value: a torch tensor or Parameter, whatever `numpy.asarray` makes an array of real numbers, or a list or tuple of such, nested at will,
    which is stacked. Raises ValueError for anything else, and for masked entries.
    """
    tensor = plain_tensor(name, value)
    if tensor.dtype in WHOLE:
        return tensor.double()
    if str(tensor.dtype).startswith("torch.float8_"):
        return tensor.float()
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{name}: expected real numbers, got dtype {tensor.dtype}")
    return tensor


def as_indices(name: str, value: Any) -> Tensor:
    """An int64 tensor of experts' indices; raises ValueError for what is not whole or is 2^63 and more."""
    tensor = plain_tensor(name, value)
    if tensor.dtype not in WHOLE:
        raise ValueError(f"{name}: expected whole numbers, an expert's index or -1 for none, got dtype {tensor.dtype}")
    indices = tensor.long()
    # An index that has no place in 64 signed bits would come out negative, and -1 means none.
    if tensor.dtype == torch.uint64 and bool((indices < 0).any()):
        raise ValueError(f"{name}: expected indices below 2^63, got a larger one")
    return indices


def as_labels(name: str, value: Any) -> Tensor:
    """An int64 tensor on the CPU, of whole numbers or booleans."""
    tensor = plain_tensor(name, value)
    if tensor.dtype not in (*WHOLE, torch.bool):
        raise ValueError(f"{name}: expected whole numbers or booleans, got dtype {tensor.dtype}")
    return tensor.cpu().long()


def as_booleans(name: str, value: Any) -> Tensor:
    """A boolean tensor, on the CPU, of booleans or of the whole numbers 0 and 1."""
    tensor = plain_tensor(name, value)
    if tensor.dtype == torch.bool:
        return tensor.cpu()
    if tensor.dtype not in WHOLE:
        raise ValueError(f"{name}: expected booleans, or 0 and 1, got dtype {tensor.dtype}")
    numbers = tensor.cpu().long()
    if not bool(((numbers == 0) | (numbers == 1)).all()):
        raise ValueError(f"{name}: expected booleans, or 0 and 1, got {int(numbers.min())} to {int(numbers.max())}")
    return numbers == 1


def plain_tensor(name: str, value: Any) -> Tensor:
    """A dense tensor of the value's own dtype, whatever that is, without a gradient; see `as_tensor`."""
    if isinstance(value, Tensor):
        tensor = _of_tensor(name, value)
    elif isinstance(value, (list, tuple, nn.ParameterList)) and _holds_arrays(value):
        tensor = _stacked(name, [plain_tensor(f"{name}[{place}]", part) for place, part in enumerate(value)])
    else:
        tensor = _of_array(name, value)
    tensor = tensor.detach()
    try:
        has_memory = not tensor.numel() or tensor.data_ptr() != 0
    except RuntimeError:
        # Tensors within torch.func transforms, and those detached within one.
        has_memory = False
    if not has_memory:
        raise ValueError(f"{name}: expected a tensor with memory of its own, got one that torch only traces (vmap, grad, compile)")
    return tensor


def _of_tensor(name: str, value: Tensor) -> Tensor:
    kind = type(value)
    function = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    # DTensor, FakeTensor, MaskedTensor, ...: such a tensor's memory, if it has any, is not what it stands for.
    known = (Tensor.__torch_function__.__func__, nn.Parameter.__torch_function__)  # type: ignore[attr-defined]
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ or function not in known:
        raise ValueError(f"{name}: expected a plain torch tensor, got the subclass {kind.__name__} with operations of its own")
    if value.is_nested:
        raise ValueError(f"{name}: expected a plain dense tensor, got a nested one")
    if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
        raise ValueError(f"{name}: expected a plain dense tensor, got {value.layout}, {value.dtype} on {value.device.type}")
    return value.as_subclass(Tensor).detach().resolve_neg()


def _holds_arrays(parts: Any) -> bool:
    """Whether a sequence holds anything but numbers and sequences of numbers; numpy alone would lose its masks and gradients' tensors."""
    return any(
        _holds_arrays(part) if isinstance(part, (list, tuple)) else hasattr(part, "__array__") and not isinstance(part, np.generic)
        for part in parts
    )


def _stacked(name: str, parts: list[Tensor]) -> Tensor:
    for place, part in enumerate(parts):
        for what, got, first in (
            ("shape", tuple(part.shape), tuple(parts[0].shape)),
            ("dtype", part.dtype, parts[0].dtype),
            ("device", part.device, parts[0].device),
        ):
            if got != first:
                raise ValueError(f"{name}: expected arrays of one {what}, got {first} at {name}[0] and {got} at {name}[{place}]")
    return torch.stack(parts)


def _of_array(name: str, value: Any) -> Tensor:
    try:
        # A masked one first, which numpy would give without its mask.
        given = np.asanyarray(value)
        array = np.asarray(given)
    except MemoryError:
        raise
    except Exception as error:  # whatever a foreign __array__ may raise
        raise ValueError(f"{name}: expected an array, got {type(value).__name__}: {' '.join(str(error).split())}") from None
    # Types that other libraries register with numpy may call themselves floats.
    if array.dtype.kind not in "fiub" or array.dtype.isbuiltin == 2:
        raise ValueError(f"{name}: expected numbers, got dtype {array.dtype}{_source(value, array)}")
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise ValueError(f"{name}: expected an array without masked entries, got {int(np.ma.getmaskarray(given).sum())} masked")
    refuse_truncated(name, array)
    if array.dtype.itemsize > 8:
        array = _narrowed(name, array)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # What torch has no strides for; along an axis of length 1 too, where numpy lets any stride stand.
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # torch warns of a read-only array, because one could write through its tensor; nothing here does.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)


def _source(value: Any, array: np.ndarray) -> str:
    """What an array without numbers was made of, where its dtype does not tell."""
    if array.ndim and array.dtype.kind == "O" and isinstance(array.flat[0] if array.size else None, nn.Module):
        return f" from {type(value).__name__} of {type(array.flat[0]).__name__}; give their weights, [module.weight for module in ...]"
    return "" if isinstance(value, np.ndarray) else f" from {type(value).__name__}"


def _narrowed(name: str, array: np.ndarray) -> np.ndarray:
    """Floats of more than 64 bits as float64; raises ValueError where one would become infinite or zero."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = array.astype(np.float64)
        if bool((np.isinf(narrow) & np.isfinite(array)).any()) or bool(((narrow == 0) & (array != 0)).any()):
            raise ValueError(f"{name}: expected numbers within the range of float64, got {array.dtype} beyond it")
    return narrow

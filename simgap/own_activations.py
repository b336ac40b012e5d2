"""A user's own activation: a function of numbers, known by a name and by the hash of what it says."""

import ast
import builtins
import dis
import hashlib
import inspect
import marshal
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import CellType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FULL = re.compile(r"[A-Za-z_]\w*#[0-9a-f]{16}")
# Modules whose functions are what their names and versions say.
LIBRARIES = ("torch", "numpy", "math", "builtins", "scipy")
# Numbers that a function is tried at, and how many of them without the others.
TRIED, FEWER = 257, 101
# Numbers that a function takes at a time, so that what it holds meanwhile is small beside any budget.
PIECE = 1 << 16

# This process's functions by full name, and the full name that a short one was last given to.
_functions: dict[str, Callable[[Any], Any]] = {}
_latest: dict[str, str] = {}


def activation(name: str, function: Callable[[Any], Any]) -> Any:
    """Make a function an activation of this process: `LayerSpec(activation=name)` takes it from here on. Its full name is returned.

    function: of a torch tensor, number by number, such as lambda x: x.clamp(min=0) ** 2; it gets float32 or float64 of one axis and returns
    as many of the same. The full name, "squared_relu#1d0c...", holds the hash of the function's source, of the plain values that it reads
    and of the functions that it calls, so that a layer's key is of this function and not of its name. What it reads of a library enters by
    its name alone.

    A layer that is pickled, as for the workers of a sweep, takes the function along to processes of the same version of Python. A process
    that does not know it refuses the layer by name. Records can be read without it.

    >>> import simgap as sg
    >>> name = sg.activation("squared_relu", lambda x: x.clamp(min=0) ** 2)
    >>> sg.LayerSpec(activation="squared_relu").activation == name
    True

    Raises ValueError for a name that is no identifier or simgap's own, for what is no Python function, for one that reads what has no plain
    value (a dictionary, an object of a class) or calls itself, and for one that is not finite, not of one number, or not the same each
    time.
    """
    from simgap.settings import own_settings
    from simgap.specs import ACTIVATIONS

    if not isinstance(name, str) or not name.isidentifier() or not name.isascii():
        raise ValueError(f"name: expected a name such as 'squared_relu', got {name!r}")
    if name in ACTIVATIONS:
        raise ValueError(f"name: {name!r} is an activation of simgap's; expected another")
    if not isinstance(function, FunctionType):
        raise ValueError(f"function: expected a Python function, got {type(function).__name__}; a lambda x: ... may call it")
    full = f"{name}#{hashlib.sha256(_said(name, function, ()).encode()).hexdigest()[:16]}"
    own_settings(_try)(name, function)
    _functions[full], _latest[name] = function, full
    return full


def full_name(name: str) -> str:
    """The full name that a short one stands for in this process; the name itself where it is full or unknown."""
    return _latest.get(name, name) if isinstance(name, str) else name


def function_of(full: str) -> Callable[[Any], Any]:
    """The function of tensors of this full name. Raises ValueError where this process does not know it."""
    if full not in _functions:
        short = full.partition("#")[0]
        known = f"; {short!r} is another function here" if short in _latest else ""
        raise ValueError(f"activation: {full!r} is not known in this process{known}; call sg.activation({short!r}, ...) in it first")
    return _functions[full]


def in_place(full: str) -> Callable[[Any], Any]:
    """The function of this full name as one that overwrites its argument, a piece at a time."""
    function = function_of(full)

    def applied(values: Any) -> Any:
        for part in values.split(PIECE):
            part.copy_(function(part.clone()))
        return values

    return applied


def of_arrays(full: str) -> "Callable[[np.ndarray], np.ndarray]":
    """The function of this full name, of numpy arrays in float64."""
    import torch

    from simgap.settings import own_settings

    function = function_of(full)

    @own_settings
    def value(x: "np.ndarray") -> "np.ndarray":
        return function(torch.tensor(x, dtype=torch.float64).reshape(-1)).reshape(x.shape).numpy()

    return value


def _try(name: str, function: Callable[[Any], Any]) -> None:
    """Raises ValueError for a function that is not of one number."""
    import torch

    for dtype in (torch.float32, torch.float64):
        x = torch.linspace(-8, 8, TRIED, dtype=dtype)
        try:
            values, again = function(x.clone()), function(x[:FEWER].clone())
        except Exception as error:
            raise ValueError(f"function: {name!r} cannot be computed of a tensor: {type(error).__name__}: {error}") from error
        if not isinstance(values, torch.Tensor) or values.dtype != dtype or values.shape != x.shape:
            got = f"{values.dtype} of shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(f"function: {name!r} of {TRIED} numbers of {dtype} gave {got}, expected as many of the same")
        if not bool(values.isfinite().all()):
            raise ValueError(f"function: {name!r} is not finite at {x[~values.isfinite()][0]:g}")
        if not torch.allclose(values[:FEWER], again, rtol=1e-5, atol=1e-6):
            raise ValueError(f"function: {name!r} of a number depends on the numbers beside it, or on chance")


def _said(name: str, value: Any, above: tuple[Any, ...]) -> str:
    """What a function says, or the value of something that it reads. Raises ValueError for what has no plain value."""
    module = str(getattr(value, "__module__", None) or type(value).__module__).partition(".")[0]
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return repr(value)
    if isinstance(value, tuple):
        return f"({','.join(_said(name, each, above) for each in value)})"
    if isinstance(value, ModuleType):
        return value.__name__
    if module in LIBRARIES and (callable(value) or (type(value).__module__ == "torch" and type(value).__name__ == "dtype")):
        return f"{module}.{getattr(value, '__qualname__', value)}"
    if not isinstance(value, FunctionType):
        raise ValueError(f"function: {name!r} reads {type(value).__name__} {value!r:.40}, of which a key can hold no plain value")
    if value in above:
        raise ValueError(f"function: {name!r} calls itself")
    read = {each: _said(f"{name}: {each}", inner, (*above, value)) for each, inner in _read(value).items()}
    given = _said(name, (value.__defaults__ or (), *sorted((value.__kwdefaults__ or {}).items())), above)
    return f"{_source(value)} {read} {given}"


def _read(function: FunctionType) -> dict[str, Any]:
    """What a function reads from around it, by name."""
    cells = zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()), strict=True)
    around = vars(builtins) | function.__globals__ | dict(cells)
    return {name: around[name] for name in sorted(set(_names(function.__code__))) if name in around}


def carried(full: str) -> tuple[Any, ...]:
    """The function of this full name as plain values, for another process; empty where this one does not know it."""
    return _packed(_functions[full]) if full in _functions else ()


def arrived(full: str, packed: tuple[Any, ...]) -> None:
    """Take in what `carried` gave, if this version of Python can read it."""
    if packed and full not in _functions and packed[1] == sys.version_info[:2]:
        _functions[full] = _unpacked(packed)


def _packed(value: Any) -> tuple[Any, ...]:
    if isinstance(value, ModuleType):
        return "module", value.__name__
    if not isinstance(value, FunctionType) or value.__module__.partition(".")[0] in LIBRARIES:
        return "value", value
    read = {name: _packed(each) for name, each in _read(value).items()}
    return "function", sys.version_info[:2], marshal.dumps(value.__code__), read, value.__defaults__, value.__kwdefaults__


def _unpacked(packed: tuple[Any, ...]) -> Any:
    kind, *rest = packed
    if kind != "function":
        return rest[0] if kind == "value" else import_module(rest[0])
    code, read = marshal.loads(rest[1]), {name: _unpacked(each) for name, each in rest[2].items()}  # noqa: S302
    function = FunctionType(
        code, read | {"__builtins__": builtins}, None, rest[3], tuple(CellType(read[name]) for name in code.co_freevars)
    )
    function.__kwdefaults__ = rest[4]
    return function


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function's code reads from around it, those of functions inside it too."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            yield step.argval
        elif isinstance(step.argval, CodeType):
            yield from _names(step.argval)


def _source(function: FunctionType) -> str:
    """A function's source without its layout and comments; its compiled code where there is none, as on the prompt."""
    positions = [(at[0], at[2]) for at in function.__code__.co_positions() if at[2] is not None and at[2] != at[3]]
    try:
        tree = ast.parse("".join(inspect.findsource(function)[0]))
    except (OSError, SyntaxError):
        tree = ast.Module([], [])
    sources = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Lambda | ast.FunctionDef) and _holds(node, positions)]
    return min(sources, key=len) if sources else _compiled(function.__code__)


def _holds(node: ast.Lambda | ast.FunctionDef, positions: list[tuple[Any, Any]]) -> bool:
    """Whether all positions, as line and column, lie within a node."""
    first, last = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return all(first <= position < last for position in positions)


def _compiled(code: CodeType) -> str:
    """One version of Python's code for a function."""
    constants = [_compiled(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return f"{sys.version_info[:2]} {code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"

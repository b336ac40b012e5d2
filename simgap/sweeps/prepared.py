"""The function that changes the drawn weights of a sweep's cells, and the name by which a folder knows it."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

PLAIN = (bool, int, float, str, type(None))


def name_of(prepare: Callable[[Any], Any] | None) -> str:
    """What a manifest says of a `prepare`: "" for none, a module's function, or a frozen dataclass with the values of its fields.

    >>> from simgap.training import RegulariseGram
    >>> name_of(RegulariseGram(0.5, steps=10))
    'RegulariseGram(strength=0.5, steps=10, rate=0.001) of simgap.training.gram_descent'

    Raises ValueError for anything else, which a folder could not tell from another one: a lambda, a function inside a function or with the
    name of another (as functools.wraps gives it), a dataclass that can be changed or whose fields are no plain values.
    """
    if prepare is None:
        return ""
    kind = prepare if inspect.isfunction(prepare) else type(prepare)
    name, of = kind.__qualname__, f" of {kind.__module__}"
    # What its module has under this name may be another one.
    named = getattr(sys.modules.get(kind.__module__), name, None) is kind
    if inspect.isfunction(prepare) and named:
        return name + of
    if callable(prepare) and named and is_dataclass(kind) and kind.__dataclass_params__.frozen:
        values = {field.name: getattr(prepare, field.name) for field in fields(prepare)}
        if all(isinstance(value, PLAIN) for value in values.values()):
            return f"{name}({', '.join(f'{field}={value!r}' for field, value in values.items())}){of}"
    raise ValueError(
        f"prepare: expected a function of a module, or a frozen dataclass of plain values that is called, so that the folder can say what "
        f"prepared its cells, got {name}{of}"
    )

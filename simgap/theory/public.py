"""A law as users call it by name."""

import inspect
from collections.abc import Callable, Hashable
from fractions import Fraction
from functools import wraps
from typing import Any

import numpy as np

from simgap.checks import shown
from simgap.settings import numpy_settings


def public(law: Callable[..., Any]) -> Callable[..., Any]:
    """The law deaf to the caller's np.errstate, since a tail that underflows to 0 is part of every integral here; where it cannot be
    evaluated, a ValueError that names the argument which is no number."""
    deaf = numpy_settings(law)

    @wraps(law)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return deaf(*args, **kwargs)
        except (TypeError, ValueError) as error:
            try:
                given = inspect.signature(law).bind(*args, **kwargs).arguments
            except TypeError:
                # A call that does not fit the signature is Python's to refuse.
                raise error from None
            if any(str(error).startswith(f"{name}:") for name in given):
                raise
            for name, value in given.items():
                if expected := _lacking(name, value):
                    raise ValueError(f"{name}: expected {expected}, got {shown(value)}") from None
            raise

    return called


def _lacking(name: str, value: Any) -> str:
    """What an argument of this name should be and is not, or nothing."""
    if name in ("activation", "ctx"):
        return "" if isinstance(value, Hashable) else "a name or an Activation"
    try:
        array = np.asarray(Fraction(value) if isinstance(value, str) else value)
        if array.dtype.kind not in "cmM" and not np.isnan(array.astype(np.float64)).any():
            return ""
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        pass
    return "a number, or an array of them"

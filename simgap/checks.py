"""What is asked of an argument, in one form everywhere: which argument, what was expected, what came; and the words for it."""

import difflib
import os
import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
# What Hugging Face's configurations call a field; "n_shared_experts" they call so too.
ELSEWHERE = {
    "hidden_size": "d_model",
    "n_embd": "d_model",
    "intermediate_size": "d_ff",
    "moe_intermediate_size": "d_ff",
    "num_experts": "n_experts",
    "num_local_experts": "n_experts",
    "n_routed_experts": "n_experts",
    "num_experts_per_tok": "top_k",
    "hidden_act": "activation",
}


@lru_cache(maxsize=256, typed=True)
def parse_bytes(value: int | str) -> int:
    """Bytes in 1073741824, "512MiB", "2 GiB" or "1.5GB". Raises ValueError for anything else and for less than one byte."""
    whole = _whole(value)
    if whole is not None:
        size = whole
    else:
        match = re.fullmatch(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([a-zA-Z]*)\s*", value) if isinstance(value, str) else None
        if match is None or match[2].lower() not in BYTES_PER_UNIT:
            raise ValueError(f"memory: expected bytes or a size such as '2GiB', got {value!r}")
        size = int(Fraction(match[1]) * BYTES_PER_UNIT[match[2].lower()])
    if size < 1:
        raise ValueError(f"memory: expected at least one byte, got {value!r}")
    return size


def format_bytes(size: float) -> str:
    """1610612736 -> '1.5 GiB'."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB" if size < 999.5 else f"{size:.0f} TiB"


def absolute(argument: str, path: str) -> str:
    """A path from the root, whatever the current folder is later; "~" is the user's home. Raises ValueError naming the argument where it is
    relative to a current folder that is gone."""
    try:
        # Not abspath, which takes "link/.." for nothing.
        return str(Path(os.path.expanduser(path)).absolute())
    except OSError:
        raise ValueError(f"{argument}: {path!r} is relative to the current folder, and that is gone") from None


def printable(text: str) -> str:
    """Text for a terminal: whatever would move its cursor or change its colours is shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def shown(value: object) -> str:
    """The beginning of a strange value, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(name: str, options: tuple[str, ...] | list[str]) -> str:
    """'; did you mean X?' for the option closest to a mistyped name, or the one that others call so, or nothing."""
    plain = {option.strip("-").replace("-", "_"): option for option in options}
    meant = ELSEWHERE.get(name.strip("-").replace("-", "_"), "")
    close = [plain[meant]] if meant in plain else difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def choice(name: str, value: object, options: tuple[str, ...]) -> None:
    """Raises ValueError for a value that is none of the options, with the nearest that is."""
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(options)}, got {shown(value)}{nearest(str(value), options)}")


def whole_number(name: str, value: object, low: int, why: str = "") -> int:
    """The value as an int, whichever library's it is. Raises ValueError for booleans, for less than `low` and for anything else."""
    whole = _whole(value)
    if whole is None or whole < low:
        raise ValueError(f"{name}: expected a whole number, at least {low}{f' ({why})' if why else ''}, got {shown(value)}")
    return whole


def _whole(value: object) -> int | None:
    """The value as an int where it is a whole number of any library's; None for booleans, arrays and everything else."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if isinstance(value, bool) or kind == "b" or not hasattr(value, "__index__"):
        return None
    try:
        return value.__index__()
    except TypeError:
        return None

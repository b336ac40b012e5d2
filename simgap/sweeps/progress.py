"""Lines of progress on stderr, which never stop what they tell of."""

import contextlib
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")
# Seconds before work that is mostly short says how far it is.
DELAY = 2.0


def hidden(show: bool | None) -> bool:
    """Whether progress is not shown: None is for a terminal alone, and a process may have no stderr at all."""
    return sys.stderr is None or not (sys.stderr.isatty() if show is None else show)


def counted(items: Iterable[T], what: str, total: int | None, show: bool | None) -> Iterable[T]:
    """The items, with a line of progress while they are gone through, where that takes long and there is someone to see it."""
    if hidden(show):
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, unit="cell", unit_scale=True, delay=DELAY, leave=False, file=Forgiving(sys.stderr))


class Forgiving:
    """A stream whose reader may leave and whose disk may be full: what cannot be written is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

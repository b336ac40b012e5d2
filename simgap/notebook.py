"""How values look in a notebook: text and tables as HTML, whatever is in them escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import chain, repeat


def text(value: object) -> str:
    """What print shows of a value."""
    return f"<pre>{escape(str(value))}</pre>"


def table(rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> str:
    """Rows of cells, the header first, and a line for each note below."""
    lines = [
        "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in row) for tag, row in zip(chain(["th"], repeat("td")), rows, strict=False)
    ]
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>{below}"

"""What is known of each token of a user's own layer by name: whole numbers, -1 for none."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from simgap.api.as_tensor import as_labels
from simgap.checks import shown
from simgap.metrics.information import OF_LABELS, TRACE
from simgap.quantities import chosen_names

NAMES = (*OF_LABELS, TRACE)
# Those of which a token has several: experts.
SEVERAL = ("previous", TRACE)


def token_labels_of(labels: Any, shape: tuple[int, ...], kept: Bool[np.ndarray, " n"] | None) -> dict[str, Int[np.ndarray, "1 n _"]]:
    """shape: of the axes that number the tokens; kept: which of them no mask leaves out, None for all. Labels are numbered anew from 0, but
    for experts of another routing, which are those of this one.

    Raises ValueError for other names and shapes, for what is neither whole nor boolean, for numbers below -1, for labels that are all
    alike, which say nothing, and for an expert that a token has twice.
    """
    if labels is None:
        return {}
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(f"labels: expected a mapping of {', '.join(NAMES)} to whole numbers, got {shown(labels)}")
    of_tokens = {}
    for name in chosen_names("labels", tuple(labels), NAMES):
        given, said = as_labels(f"labels {name}", labels[name]).numpy(), "(..., m)" if name in SEVERAL else "one to a token"
        axes = given.shape[:-1] if name in SEVERAL else given.shape
        if tuple(axes) != shape or not given.size:
            raise ValueError(f"labels {name}: expected {shape} whole numbers, {said}, got shape {tuple(given.shape)}")
        rows = given.reshape(int(np.prod(shape)), -1)
        rows = rows if kept is None else rows[kept]
        if (rows < -1).any():
            raise ValueError(f"labels {name}: expected whole numbers from 0, or -1 for none, got {int(rows.min())}")
        different = np.unique(rows[rows >= 0])
        if len(different) < 2:
            raise ValueError(f"labels {name}: expected at least two different ones, got {len(different)}: they say nothing of a token")
        if name in SEVERAL:
            _refuse_repeated(name, rows)
        of_tokens[name] = (rows if name == TRACE else np.where(rows < 0, -1, np.searchsorted(different, rows)))[None].astype(np.int64)
    return of_tokens


def _refuse_repeated(name: str, rows: Int[np.ndarray, "n m"]) -> None:
    ordered = np.sort(rows, 1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        token, at = np.argwhere(twice)[0]
        raise ValueError(f"labels {name}: expected different experts on a token, got expert {ordered[token, at]} twice at token {token}")

"""The frame of a sweep: one row to a cell and quantity, from the records alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simgap.records import replacing
from simgap.sweeps.fields import NAMES, NESTED, flat
from simgap.sweeps.store import Store, read_store

if TYPE_CHECKING:
    from pandas import DataFrame

FRAME = "frame.parquet"
VALUES = (
    "mean", "sem", "n", "pairs", "dropped", "predicted_mean", "predicted_sd", "predicted_kind", "predicted_sd_kind", "law",
    "excess", "scaled_excess", "z", "z_unit", "p", "effective_dimension", "why",
)  # fmt: skip
OF_CELL = ("trials", "seed", "idle_experts", "dropped_tokens")
# What another run of the same cells need not repeat: everything else is the same to the bit.
COSTS = ("seconds", "peak_memory", "together", "device", "host")
TEXTS = ("quantity", "predicted_kind", "predicted_sd_kind", "law", "z_unit", "why", "device", "host", "cell", "dtype")
WHOLE = ("n", "pairs", "dropped", "trials", "seed", "idle_experts", "dropped_tokens", "together", "tokens")


def collect(path: str | os.PathLike[str]) -> "DataFrame":
    """The frame of a sweep's folder, written to frame.parquet in it as well, whole or not at all.

    One row to a cell and quantity, cells in the order of the sweep: the measured mean, sem and n trials, the predicted mean and sd, the
    calibration (excess, z, p, effective dimension), seconds and bytes, and every field of the spec. Raises ValueError where the folder
    holds no sweep, OSError where it cannot be written.
    """
    folder = Path(path)
    table = frame(read_store(folder))
    with replacing(folder / FRAME) as beside:
        table.to_parquet(beside, index=False)
    return table


def frame(store: Store) -> "DataFrame":
    """The frame of what is recorded, in memory alone."""
    import pandas as pd

    columns: dict[str, list[Any]] = {name: [] for name in ("quantity", *VALUES)}
    cells: dict[str, list[Any]] = {name: [] for name in ("cell", *OF_CELL, *COSTS, *NAMES)}
    rows = []
    for at, record in _recorded(store):
        quantities = record["quantities"]
        rows.append(len(quantities))
        for name, row in quantities.items():
            columns["quantity"].append(name)
            for value in VALUES:
                columns[value].append(row.get(value))
        spec = flat(store.cells[at])
        cells["cell"].append(record["cell"])
        for name in (*OF_CELL, *COSTS):
            cells[name].append(record.get(name))
        for name in NAMES:
            cells[name].append(spec[name])
    repeats = np.repeat(np.arange(len(rows)), rows)
    data = {name: _series(name, values) for name, values in columns.items()}
    data |= {_short(name): _series(name, values).take(repeats).reset_index(drop=True) for name, values in cells.items()}
    data |= {name: pd.Series([getattr(store.run, name)]).repeat(len(repeats)).reset_index(drop=True) for name in ("tokens", "dtype")}
    first = ("cell", *(_short(name) for name in store.cells.columns), "quantity", *VALUES)
    return pd.DataFrame({name: data[name] for name in dict.fromkeys((*first, *OF_CELL, *COSTS, *data))})


def _recorded(store: Store) -> Iterator[tuple[int, dict[str, Any]]]:
    """The newest record of every cell that has one, in the order of the cells."""
    for at in np.flatnonzero(store.trials).tolist():
        record = store.earlier(at)
        if record is None or not isinstance(record.get("quantities"), dict):
            raise ValueError(f"out: the record of {store.cells.name(at)} in {str(store.path)!r} changed while it was read")
        yield at, record


def _short(name: str) -> str:
    """A spec's field as a column: "router" for "router.kind"."""
    return name.removesuffix(".kind") if name.removesuffix(".kind") in NESTED else name


def _series(name: str, values: list[Any]) -> Any:
    import pandas as pd

    if name in WHOLE:
        return pd.Series(values, dtype="Int64" if any(value is None for value in values) else "int64")
    if name in TEXTS or any(isinstance(value, str) for value in values):
        # Few distinct texts, repeated: a category holds each once.
        return pd.Series(pd.Categorical(values, pd.Index(sorted({value for value in values if value is not None}), dtype="str")))
    if all(isinstance(value, bool) for value in values) and values:
        return pd.Series(values, dtype=bool)
    if values and all(type(value) is int for value in values):
        return pd.Series(values, dtype="int64")
    return pd.Series(np.array([np.nan if value is None else value for value in values], np.float64))

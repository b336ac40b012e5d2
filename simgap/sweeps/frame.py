"""The frame of a sweep: one row to a cell and quantity, from the records alone."""

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from simgap.checks import choice, printable, shown
from simgap.records import replacing
from simgap.sweeps.fields import NAMES, NESTED, TYPES, flat
from simgap.sweeps.store import Store, folder_of, read_store

if TYPE_CHECKING:
    from pandas import DataFrame

FRAME = "frame.parquet"
SPECS = ("all", "varying")
VALUES = (
    "mean", "sem", "n", "pairs", "dropped", "predicted_mean", "predicted_sd", "predicted_error", "predicted_kind", "predicted_sd_kind",
    "law", "excess", "scaled_excess", "z", "z_unit", "p", "effective_dimension", "why",
)  # fmt: skip
OF_CELL = ("trials", "seed", "idle_experts", "dropped_tokens")
# What another run of the same cells need not repeat: everything else is the same to the bit.
COSTS = ("seconds", "peak_memory", "batch", "device", "host")
TEXTS = ("quantity", "predicted_kind", "predicted_sd_kind", "law", "z_unit", "why", "device", "host", "cell", "dtype", "null")
WHOLE = ("n", "pairs", "dropped", "trials", "seed", "idle_experts", "dropped_tokens", "batch", "tokens", "parameters")


def collect(path: str | os.PathLike[str], write: bool = True) -> "DataFrame":
    """The frame of a sweep's folder, written to frame.parquet in it as well, whole or not at all; write=False is for a folder that may
    only be read.

    One row to a cell and quantity, cells in the order of the sweep. cell: its key; the fields that vary; quantity: such as
    "activation_mso mean output"; mean and sem over n of the cell's trials (those that have the quantity); predicted_mean, predicted_sd and
    predicted_error, the size of the error that a leading mean has of its own; excess, z, p, effective_dimension as `calibrate` has them;
    parameters; seconds of the cell, its share where cells were done together; peak_memory: bytes by which its process grew meanwhile;
    every other field of the spec. simgap.sweeps.COSTS names the columns that another run of the same cells need not repeat. Lines that are
    no whole records are left out, with a warning in the log "simgap.sweeps".

    Raises ValueError where the folder holds no sweep or a record is not of its form, OSError where it cannot be written.
    """
    store = read_store(folder_of(path))
    for note in store.notes:
        logging.getLogger("simgap.sweeps").warning(printable(note))
    return written(store) if write else frame(store)


def written(store: Store) -> "DataFrame":
    """The frame of what is recorded, put into the folder as well, whole or not at all."""
    table = frame(store)
    # By a file and not by its name, which need not be text.
    with replacing(store.path / FRAME) as beside, open(beside, "wb") as file:
        table.to_parquet(file, index=False)
    return table


def frame(store: Store, spec: str = "all") -> "DataFrame":
    """The frame of what is recorded, in memory alone; of the layers' fields all, or spec = "varying" those that vary. Raises ValueError for
    another word, and where a record is not of its form."""
    import pandas as pd

    choice("spec", spec, SPECS)
    columns: dict[str, list[Any]] = {name: [] for name in ("quantity", *VALUES)}
    cells: dict[str, list[Any]] = {name: [] for name in ("cell", "parameters", *OF_CELL, *COSTS, *NAMES)}
    rows = []
    for at, record in store.newest():
        quantities = record["quantities"]
        rows.append(len(quantities))
        for name, row in quantities.items():
            columns["quantity"].append(name)
            for value in VALUES:
                columns[value].append(row.get(value))
        layer = store.cells[at]
        of_cell = {name: record.get(name) for name in ("cell", *OF_CELL, *COSTS)} | {"parameters": layer.parameters} | flat(layer)
        for field, of_layer in of_cell.items():
            cells[field].append(of_layer)
    for name, values in (*columns.items(), *((name, cells[name]) for name in ("cell", *OF_CELL, *COSTS))):
        _check(name, values, store)
    repeats = np.repeat(np.arange(len(rows)), rows)
    data = {name: _series(name, values) for name, values in columns.items()}
    data |= {_short(name): _series(name, values).take(repeats).reset_index(drop=True) for name, values in cells.items()}
    data |= {name: _series(name, [getattr(store.run, name)] * len(repeats)) for name in ("tokens", "dtype")}
    data["null"] = _series("null", [store.selection.null] * len(repeats))
    first = ("cell", *(_short(name) for name in store.cells.names), "parameters", "quantity", *VALUES)
    common = {_short(name) for name in NAMES if name not in store.cells.names} if spec == "varying" else ()
    return pd.DataFrame({name: data[name] for name in dict.fromkeys((*first, *OF_CELL, *COSTS, *data)) if name not in common})


def _check(name: str, values: list[Any], store: Store) -> None:
    """ValueError for what no record's writer puts into a column of texts, whole numbers of 64 bits, or numbers; all may be missing."""
    allowed = {str} if name in TEXTS else {int} if name in WHOLE else {int, float}
    for value in values:
        if value is not None and (type(value) not in allowed or (type(value) is int and not -(1 << 63) <= value < 1 << 63)):
            raise ValueError(f"out: the records in {str(store.path)!r} have a {name} of {shown(value)}")


def _short(name: str) -> str:
    """A spec's field as a column: "router" for "router.kind"."""
    return name.removesuffix(".kind") if name.removesuffix(".kind") in NESTED else name


def _series(name: str, values: list[Any]) -> Any:
    """A column of the type that its name says, whatever is in it."""
    import pandas as pd

    kind = TYPES.get(name)
    if name in WHOLE or kind is int:
        return pd.Series(values, dtype="Int64" if any(value is None for value in values) else "int64")
    if kind is bool:
        return pd.Series(values, dtype=bool)
    if name in TEXTS or kind not in (None, float):
        # Few distinct texts, repeated: a category holds each once.
        return pd.Series(pd.Categorical(values, pd.Index(sorted({value for value in values if value is not None}), dtype="str")))
    return pd.Series(np.array([np.nan if value is None else value for value in values], np.float64))

"""Measuring the cells of an artefact: each recorded as soon as it is done, none done twice by the same code."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simgap import Gap, LayerSpec, RunSpec, Weights, measure, predict
from simgap.api.measured import TRIALS_BAR
from simgap.moe.canary import canary
from simgap.records import Records, provenance
from simgap.stats import Estimate

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One measurement of an artefact: labels name it, prepare (a frozen dataclass, so that it can be named) changes its weights."""

    labels: dict[str, Any]
    spec: LayerSpec
    trials: int
    sites: tuple[str, ...] = ("output",)
    readings: tuple[str, ...] = ("mean",)
    weights: tuple[str, ...] = ("up",)
    prepare: Callable[[Weights], Weights] | None = None
    custom: Callable[["Cell", RunSpec], dict[str, list[float]]] | None = None


@dataclass
class Bench:
    """Where cells are run and recorded: `out`, a device, a seed, and one progress bar for them all."""

    out: Path
    artefact: str
    device: str = "cpu"
    seed: int = 0
    tokens: int = 1024
    quiet: bool = False
    origin: dict[str, Any] = field(default_factory=lambda: provenance(canary=canary()))

    def run(self, cells: Sequence[Cell]) -> list[Record]:
        """Measure the cells that this code has not yet recorded in `out`, and return the records of all of them, in order."""
        records = Records(self.out / f"{self.artefact}.jsonl")
        done = []
        trials, quiet = sum(cell.trials for cell in cells), self.quiet or None
        with tqdm(total=trials, desc=f"{self.artefact}: ", disable=quiet, bar_format=TRIALS_BAR) as bar:
            for cell in cells:
                record = records.find(self._key(cell), self.origin)
                if record is None:
                    record = self._measure(cell, bar)
                    records.append(record)
                else:
                    bar.update(cell.trials)
                done.append(record)
        return done

    def _run_spec(self, cell: Cell) -> RunSpec:
        # Layers of one seed share their first random numbers whatever their shape; a seed to each spec keeps rows of a table independent.
        mixed = hashlib.sha256(f"{self.seed} {cell.spec.key()}".encode()).digest()[:4]
        return RunSpec(tokens=self.tokens, trials=cell.trials, seed=int.from_bytes(mixed), device=self.device)

    def _key(self, cell: Cell) -> str:
        named: list[Any] = [
            cell.labels,
            cell.spec.key(),
            self._run_spec(cell).key(),
            cell.sites,
            cell.readings,
            cell.weights,
            repr(cell.prepare),
        ]
        named.append(getattr(cell.custom, "__qualname__", None))
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]

    def _measure(self, cell: Cell, bar: tqdm) -> Record:
        run = self._run_spec(cell)
        start = time.perf_counter()
        record: Record = {"key": self._key(cell), "artefact": self.artefact, "labels": cell.labels}
        record |= {"spec": cell.spec.to_dict(), "run": run.to_dict(), "prepare": repr(cell.prepare) if cell.prepare else None}
        if cell.custom is not None:
            record["values"] = cell.custom(cell, run)
            bar.update(cell.trials)
        else:
            chosen: dict[str, Any] = {"sites": cell.sites, "readings": cell.readings, "weights": cell.weights}
            measured = measure(cell.spec, **run.to_dict(), **chosen, prepare=cell.prepare, progress=bar.update)
            record["measured"] = measured.as_dict()
            record["predicted"] = predict(cell.spec, tokens=run.tokens, trials=run.trials, **chosen).as_dict()
            record["values"] = _values(measured)
        return record | {"seconds": round(time.perf_counter() - start, 4), "provenance": self.origin}


def estimate(record: Record, quantity: str) -> Estimate:
    """A quantity of a record as an Estimate over its trials; quantity is a path such as "weight_mso up"."""
    return Estimate.of(record["values"][quantity])


def _values(gap: Gap[Estimate]) -> dict[str, list[float]]:
    """Values trial by trial of every quantity that has them in every trial."""
    items = ((" ".join(path), value) for path, value in gap.items())
    return {name: value.values.tolist() for name, value in items if value.mean is not None and value.trials == len(value.values)}

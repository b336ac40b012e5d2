"""What an artefact computes: layers that are swept, and values of no metric, each recorded as soon as it is there, none done twice."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simgap import LayerSpec, RunSpec, Weights, sweep
from simgap.moe.canary import canary
from simgap.records import Records, provenance, source_digest
from simgap.stats import Estimate
from simgap.sweeps.prepared import name_of
from simgap.sweeps.store import read_store

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """Values of a layer that no metric gives, trial by trial: of, a function of the cell and its run. labels name it."""

    labels: dict[str, Any]
    spec: LayerSpec
    trials: int
    of: Callable[["Cell", RunSpec], dict[str, list[float]]]


@dataclass
class Bench:
    """Where an artefact records: `out`, for a device and a seed."""

    out: Path
    artefact: str
    device: str = "cpu"
    seed: int = 0
    tokens: int = 1024
    quiet: bool = False
    origin: dict[str, Any] = field(default_factory=lambda: provenance(canary=canary()))

    def sweep(
        self,
        layers: Sequence[tuple[dict[str, Any], LayerSpec]],
        quantities: Sequence[str],
        trials: int,
        prepare: Callable[[Weights], Weights] | None = None,
        null: str = "law",
    ) -> list[Record]:
        """A record of each layer, (labels, spec): its values trial by trial, and beside their null.

        What is asked for and the code have a folder of their own, so that nothing is refused as another sweep's.
        """
        asked: dict[str, Any] = {"quantities": list(quantities), "trials": trials, "tokens": self.tokens}
        asked |= {"seed": self.seed, "device": self.device} | ({"null": null} if null != "law" else {})
        code = [source_digest(), self.origin["versions"], self.origin["canary"]]
        out = self.out / self.artefact / _digest([[spec.key() for _, spec in layers], asked, name_of(prepare), code])
        show = False if self.quiet else None
        run = sweep([spec for _, spec in layers], **asked, prepare=prepare, out=out, engine="inprocess", progress=show)
        if run.set_aside:
            raise ValueError(str(run.set_aside[0]))
        records = []
        for (labels, spec), gap, (_, record) in zip(layers, run.measured(), read_store(out).newest(), strict=True):
            values = {str(quantity): value.values.tolist() for quantity, value in gap.values.items() if value.trials == trials}
            shown = {name: record[name] for name in ("quantities", "seconds")}
            records.append({"labels": labels, "spec": spec.to_dict(), "run": gap.run.to_dict(), "values": values, **shown})
        return records

    def run(self, cells: Sequence[Cell]) -> list[Record]:
        """A record of each cell."""
        runs = [self._run_spec(cell) for cell in cells]
        begun = [{"labels": c.labels, "spec": c.spec.to_dict(), "run": r.to_dict()} for c, r in zip(cells, runs, strict=True)]
        return self.each(begun, lambda at: cells[at].of(cells[at], runs[at]))

    def labelled(self, labels: Sequence[dict[str, Any]], of: Callable[..., Any]) -> list[Record]:
        """A record of each labels: the values of(**labels, seed) of them."""
        return self.each([{"labels": own} for own in labels], lambda at: of(**labels[at], seed=self.seed))

    def each(self, begun: Sequence[Record], values: Callable[[int], Any]) -> list[Record]:
        """A record of each, begun with what names it; values(at) of the one at `at`, unless this code has recorded them in `out`."""
        file = Records(self.out / f"{self.artefact}.jsonl")
        done = []
        for at, named in enumerate(tqdm(begun, desc=self.artefact, unit="cell", disable=self.quiet or None)):
            key = _digest([named, self.seed])
            record = file.find(key, self.origin)
            if record is None:
                start = time.perf_counter()
                record = {"key": key, "artefact": self.artefact, **named, "values": values(at)}
                record |= {"seconds": round(time.perf_counter() - start, 4), "provenance": self.origin}
                file.append(record)
            done.append(record)
        return done

    def _run_spec(self, cell: Cell) -> RunSpec:
        # Layers of one seed share their first random numbers whatever their shape; a seed to each spec keeps rows of a table independent.
        mixed = hashlib.sha256(f"{self.seed} {cell.spec.key()}".encode()).digest()[:4]
        return RunSpec(tokens=self.tokens, trials=cell.trials, seed=int.from_bytes(mixed), device=self.device)


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def estimate(record: Record, quantity: str) -> Estimate:
    """A quantity of a record as an Estimate over its trials; quantity is a text such as "weight_mso up"."""
    return Estimate.of(record["values"][quantity])

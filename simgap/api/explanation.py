"""Why an overlap is what it is: a ladder from a round space to the measured value, and what it says in plain words."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simgap.api.pair_table import PairTable
from simgap.stats import p_text

if TYPE_CHECKING:
    from pandas import DataFrame

# In the order of the ladder.
ROUND, MEAN, SPACE, SIZES, TOKEN = "round space", "common mean", "shared space", "like size", "on a token"
OWN = "one expert"
# Experts of the largest layers whose whitened p was counted (experiments/null_rates/whitened.py).
CALIBRATED = 64


@dataclass(frozen=True)
class Rung:
    """A step of the ladder. name; reading: "raw" or "whitened". value: of the overlap up to here, in [0, 1] (an unbiased estimate may leave
    it by its error). error: what it strays by with the experts, None where that is not known or 0. factor: value over that of the rung
    below, None for the lowest; factor_error: its own. law, assumes: what the value rests on. own/L2 is the factor of "one expert"."""

    name: str
    reading: str
    value: float
    error: float | None
    factor: float | None
    factor_error: float | None
    law: str
    assumes: str


@dataclass(frozen=True)
class Explanation:
    """The ladder of an overlap; prints as a table with a paragraph below it.

    rows: rungs from a round space up, then "one expert", which is no rung but is read beside them; of each reading. paragraph: the same in
    plain words. gain, gain_sd, z, p: L3 - L2, what meeting on a token adds beyond other tokens of like size, how far that strays for
    independent experts, and its upper tail (law T3), of the vectors as they are. experts, width, pairs: experts that meet, the space, and
    pairs of vectors that were compared. notes: what was left out, and doubts. whitened_z, whitened_p: z and p of the whitened reading, None
    where it is left out. correlation: of pre-activations that gives this overlap, where an activation was named (law L2).
    tables: of each reading, what `by_pair` and `top` show.
    """

    rows: tuple[Rung, ...]
    paragraph: str
    gain: float
    gain_sd: float
    z: float
    p: float
    experts: int
    width: int
    pairs: int
    notes: tuple[str, ...] = ()
    whitened_z: float | None = None
    whitened_p: float | None = None
    correlation: float | None = None
    tables: Mapping[str, PairTable] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> Rung:
        """The rung of that name, of the vectors as they are; "whitened on a token" for the other reading. KeyError where there is none."""
        for rung in self.rows:
            if name in ((rung.name,) if rung.reading == "raw" else (f"{rung.reading} {rung.name}",)):
                return rung
        raise KeyError(name)

    def ladder(self, reading: str = "raw") -> tuple[Rung, ...]:
        """The rungs of a reading, from the lowest to the measured overlap."""
        return tuple(rung for rung in self.rows if rung.reading == reading and rung.name != OWN)

    def by_pair(self, reading: str = "raw") -> "DataFrame":
        """A pandas row to each pair of experts, as of `Overlap.by_pair`, by what they overlap on tokens and on others of like size; own_p
        is not known. reading: "raw" or "whitened". Raises ValueError for a reading that there is not."""
        return self._table(reading).frame()

    def top(self, n: int = 10, reading: str = "raw") -> "DataFrame":
        """The n rows of `by_pair` with the highest scores."""
        return self._table(reading).top(n)

    def _table(self, reading: str) -> PairTable:
        if reading not in self.tables:
            raise ValueError(f"reading: expected {' or '.join(self.tables) or 'none, since there are too many pairs'}, got {reading!r}")
        return self.tables[reading]

    def __str__(self) -> str:
        return str(_report().shown(self))

    def _repr_html_(self) -> str:
        return str(_report().shown(self).html())

    def as_dict(self) -> dict[str, Any]:
        """Every field by its name, in plain Python values."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "tables"} | {
            "rows": [asdict(rung) for rung in self.rows],
            "notes": list(self.notes),
        }

    def to_frame(self) -> "DataFrame":
        """A pandas row to a rung."""
        import pandas as pd

        return pd.DataFrame([asdict(rung) for rung in self.rows])

    def figure(self, stem: str | Path) -> list[Path]:
        """Write the ladder as a waterfall into STEM.png and STEM.pdf."""
        return _report().waterfall(self, Path(stem))


def _report() -> Any:
    # Loaded when it is shown: the report stands above what it reports.
    return import_module("simgap.report.explanation")


WHY = {
    MEAN: "a mean that all experts share",
    SPACE: "directions that they share without meeting (outlier coordinates, a power law, one W_down)",
    SIZES: "tokens of unequal size",
    TOKEN: "meeting on a token",
}


def in_words(rows: tuple[Rung, ...], width: int, p: float, z: float, level: float, unequal: bool) -> str:
    """The paragraph of the raw ladder."""
    ladder = [rung for rung in rows if rung.reading == "raw" and rung.name != OWN]
    at = {rung.name: rung for rung in rows if rung.reading == "raw"}
    top = ladder[-1]
    said = [
        f"On a token these experts overlap by {top.value:.3g}; in a round space of {width} dimensions chance alone gives {1 / width:.3g}"
    ]
    steps = [rung for rung in ladder[1:] if rung.factor is not None]
    said[0] += f", {top.value * width:.3g} times less" if top.value * width > 1 else ""
    said[0] += ", and the steps between are: " + ", ".join(f"{WHY[rung.name]} x {rung.factor:.3g}" for rung in steps) + "."
    whole = math.log(top.value * width) if top.value > 0 else 0.0
    largest = max(steps, key=lambda rung: abs(math.log(max(rung.factor or 1.0, 1e-9))))
    if whole > 0.1 and largest.factor and largest.factor > 1:
        share = math.log(largest.factor) / whole
        said.append(f"{'All' if share > 0.99 else f'{share:.0%}'} of it, on the log scale, is {WHY[largest.name]}.")
    elif abs(whole) <= 0.1 and p > level:
        said.append("That is what a round space gives: there is nothing to explain.")
    adds = f"What meeting adds is z {z:.1f} of what independent experts stray by ({p_text(p)})"
    if p > level:
        said.append(f"{adds}: no more than chance.")
    elif unequal:
        said.append(f"{adds}, but tokens of unequal size do more than that, and sizes are known only up to an error: pass strata=.")
    else:
        said.append(f"{adds}: experts do alike on the same token, or a residual stream or a shared expert is in the vectors.")
    own = at.get(OWN)
    if own is not None and own.factor is not None:
        said.append(_own_in_words(own, own.factor))
    return " ".join(said)


def _own_in_words(own: Rung, factor: float) -> str:
    itself = f"One expert overlaps with itself on two tokens by {own.value:.3g}, {factor:.3g} times what two experts do"
    if factor <= 1 + 2 * (own.factor_error or 0.0):
        return f"{itself}: on different tokens nothing tells these experts apart."
    return (
        f"{itself}. By itself that is no sign of specialisation: untrained ReLU experts already have 0.10 where two of them have 1/width. "
        "Compare it with an untrained layer."
    )


def whitened_in_words(rows: tuple[Rung, ...], z: float, p: float, experts: int) -> str:
    simulated = f"layers of 8 to {CALIBRATED} experts in width 32"
    where = f"calibrated on simulated {simulated}" if experts <= CALIBRATED else f"uncalibrated: the simulated ones were {simulated}"
    at = {rung.name: rung for rung in rows if rung.reading == "whitened"}
    adds = at[TOKEN].factor
    return (
        f"Whitened by other experts (law T4) two of them overlap by {at[SPACE].value:.3g} on different tokens, and meeting adds x "
        f"{adds:.3g} (z {z:.1f}, {p_text(p)}): a reading without the sizes of directions, {where}."
    )


def correlation_in_words(activation: str, correlation: float) -> str:
    return (
        f"If these are {activation} of Gaussian pre-activations of standard deviation 1 in wide experts, with one correlation for all "
        f"pairs and tokens, that is {correlation:.3g} (law L2); independent experts have 0."
    )

"""A reported pair of overlaps against its null: do the printed numbers say more than their dimensions?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simgap import notebook
from simgap.api.calibration import ROUND_OFF, verdict
from simgap.api.reported import FITS, Reported
from simgap.specs import LayerSpec, RunSpec
from simgap.stats import fisher, p_text
from simgap.theory.mso_law import mso_p
from simgap.theory.weight_null import null_mso, null_variance

# Beyond so many sd no width fits, whatever the other value says: the upper p of a single pair is 5e-4 there.
FAR = 8.0


@dataclass(frozen=True)
class Judged:
    """One reported overlap, with the interval that rounds to it, of all pairs of n_experts vectors in so many dimensions, over trials.

    excess and z are of the value as printed, p of the value in the interval that the null likes best: 1 where that is the null's mean.
    """

    reported: Reported
    dimension: int
    n_experts: int
    trials: int

    @property
    def null(self) -> float:
        return null_mso(self.dimension)

    @property
    def null_sd(self) -> float:
        return math.sqrt(null_variance(self.dimension) / (self.pairs * self.trials))

    @property
    def pairs(self) -> int:
        return self.n_experts * (self.n_experts - 1) // 2

    @property
    def excess(self) -> float:
        return self.reported.value / self.null

    @property
    def z(self) -> float:
        return self.reported.z((self.null, self.null_sd)) if self.dimension > 1 else 0.0

    @property
    def nearest_z(self) -> float:
        """How many sd the interval's nearest value is away."""
        return abs(self.reported.nearest(self.null) - self.null) / self.null_sd if self.dimension > 1 else 0.0

    @property
    def p(self) -> float:
        closest = self.reported.nearest(self.null)
        if closest == self.null or self.dimension == 1:
            return float(closest == self.null)
        return float(mso_p(min(max(closest, ROUND_OFF), 1.0), self.dimension, self.pairs, self.trials, self.n_experts))

    def __str__(self) -> str:
        low, high = (self.reported.value + sign * self.reported.half_unit for sign in (-1, 1))
        return (
            f"{self.reported.value:.4g} ({low:.4g} to {high:.4g}) is {self.excess:.3g} times its null {self.null:.4g}, "
            f"z {self.z:.1f} null sd, {p_text(self.p)}"
        )

    def as_dict(self) -> dict[str, float]:
        plain = {"value": self.reported.value, "half_unit": self.reported.half_unit}
        return plain | {name: getattr(self, name) for name in ("null", "null_sd", "excess", "z", "p")}


@dataclass(frozen=True)
class Judgement:
    """What `judge` found: each value beside its null, their joint p at the printed widths (Fisher), and the widths d at which it is 0.05 or
    more, with that p. Prints as lines; the last is the verdict."""

    spec: LayerSpec
    trials: int
    values: Mapping[str, Judged]
    p: float
    widths: Mapping[int, float]

    @property
    def verdict(self) -> str:
        """One sentence."""
        most = max(self.values.values(), key=lambda one: -one.p)
        said = verdict(most.z, self.p)
        powers = [d for d in self.widths if d & (d - 1) == 0]
        named = f", {' and '.join(map(str, powers))} of the powers of two" if powers else ""
        beyond = " or more" if 4 * self.spec.d_model in self.widths else ""
        fits = f"d from {min(self.widths)} to {max(self.widths)}{beyond} fits{named}" if self.widths else "no width fits"
        return f"at d = {self.spec.d_model}, joint {p_text(self.p)}: {said}; {fits} (joint p {FITS:g} or more, d_ff kept)"

    def __str__(self) -> str:
        return "\n".join([*(f"{name} {one}" for name, one in self.values.items()), self.verdict])

    def as_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {name: getattr(self.spec, name) for name in ("d_model", "d_ff", "n_experts", "top_k")}
        plain |= {"trials": self.trials, "values": {name: one.as_dict() for name, one in self.values.items()}, "p": self.p}
        return plain | {"widths": {str(d): p for d, p in self.widths.items()}, "verdict": self.verdict}

    def _repr_html_(self) -> str:
        return notebook.text(self)


def judge(
    *,
    weight_mso: float | str | None = None,
    activation_mso: float | str | None = None,
    d_model: int,
    d_ff: int,
    n_experts: int,
    top_k: int = 2,
    trials: int = 1,
) -> Judgement:
    """A published weight MSO (of W_up) and activation MSO (of experts' mean outputs) against untrained experts of the printed widths.

    The nulls are 1/(d_model d_ff) and 1/d_model (laws N1, N2); p is that of the mean over all pairs of isotropic vectors and over trials
    (law N1B), joint p that of both values together (Fisher): they are independent where W_down is Gaussian. A printed number stands for all
    that round to it and is taken where its null likes it best: a value of few digits has too large a p, and dilutes the joint one. Give
    texts, as "0.0040", since a float does not know its last 0. trials: how many layers a value is a mean of; at 1, where nothing is said,
    the spread is the widest. top_k is checked and changes nothing. Widths d are tried from 2 to 4 d_model, at the same d_ff.

    Raises ValueError where neither value is given, for what is no decimal number from 0 to 1, and for a layer that is none.

    >>> judgement = judge(weight_mso="3.9e-6", activation_mso="0.0040", d_model=256, d_ff=1024, n_experts=16, trials=5)
    >>> print(judgement.values["weight_mso"])
    3.9e-06 (3.85e-06 to 3.95e-06) is 1.02 times its null 3.815e-06, z 0.4 null sd, p 0.86
    >>> min(judgement.widths), max(judgement.widths)
    (233, 274)
    """
    spec, run = LayerSpec(d_model=d_model, d_ff=d_ff, n_experts=n_experts, top_k=top_k), RunSpec(trials=trials)
    given = {"weight_mso": (weight_mso, spec.d_ff), "activation_mso": (activation_mso, 1)}
    reported = {name: (_reported(name, value), times) for name, (value, times) in given.items() if value is not None}
    if not reported:
        raise ValueError("weight_mso, activation_mso: expected at least one, got neither")

    def at(width: int) -> list[Judged]:
        return [Judged(value, width * times, spec.n_experts, run.trials) for value, times in reported.values()]

    judged, widths = at(spec.d_model), {}
    for width in range(2, 4 * spec.d_model + 1):
        tried = at(width)
        if all(one.nearest_z <= FAR for one in tried) and (p := fisher([one.p for one in tried])) >= FITS:
            widths[width] = p
    return Judgement(spec, run.trials, dict(zip(reported, judged, strict=True)), fisher([one.p for one in judged]), widths)


def _reported(name: str, value: float | str) -> Reported:
    try:
        reported = Reported.parse(value if isinstance(value, str) else str(value))
    except ValueError as error:
        raise ValueError(str(error).replace("reported", name, 1)) from None
    if not 0 <= reported.value <= 1:
        raise ValueError(f"{name}: expected a mean of squared cosines, from 0 to 1, got {value!r}")
    return reported

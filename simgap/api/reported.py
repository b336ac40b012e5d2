"""Values as papers print them: a number with its rounding interval, and the widths that could have given it."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from simgap.stats import fisher, moment_matched_p

# A null as (mean, standard deviation of the reported mean).
Null = tuple[float, float]

FIVE_SIGMA = 5.733e-7  # two-sided
FITS = 0.05


@dataclass(frozen=True)
class Reported:
    """A printed number and the interval that rounds to it: "1.33e-4" stands for [1.325e-4, 1.335e-4]."""

    value: float
    half_unit: float

    @classmethod
    def parse(cls, text: str) -> "Reported":
        """Raises ValueError for anything but a plain decimal number such as 0.0169 or 1.33e-4."""
        match = re.fullmatch(r"\s*[+-]?[0-9]{1,30}(?:\.([0-9]{1,30}))?(?:[eE]([+-]?[0-9]{1,3}))?\s*", text)
        if match is None:
            raise ValueError(f"reported: expected a decimal number such as 1.33e-4, got {text!r}")
        exponent = int(match[2] or 0) - len(match[1] or "")
        value, half_unit = float(text), float(f"5e{exponent - 1}")
        if not math.isfinite(value) or not 0 < half_unit < math.inf:
            raise ValueError(f"reported: {text!r} is beyond the range of a float")
        return cls(value, half_unit)

    def __sub__(self, other: "Reported") -> "Reported":
        """The difference of two printed numbers, uncertain by both roundings."""
        return Reported(self.value - other.value, self.half_unit + other.half_unit)

    def nearest(self, target: float) -> float:
        """The value in the rounding interval closest to a target: the benefit of the doubt."""
        return min(max(target, self.value - self.half_unit), self.value + self.half_unit)

    def z(self, null: Null) -> float:
        """Deviation of the printed value, as printed, in the null's standard deviations."""
        return (self.value - null[0]) / null[1]

    def p(self, null: Null) -> float:
        """Two-sided p of the value in the rounding interval that the null likes best; 1 where the interval holds the null's mean."""
        closest = self.nearest(null[0])
        return 1.0 if closest == null[0] else moment_matched_p(closest, *null)


def joint_p(values: Sequence[Reported], nulls: Sequence[Null]) -> float:
    """p of several independent reported values under their nulls together (Fisher)."""
    return fisher([value.p(null) for value, null in zip(values, nulls, strict=True)])


def fitting_widths(
    values: Sequence[Reported], null_at: Callable[[int], Sequence[Null]], widths: Iterable[int], level: float = FITS
) -> dict[int, float]:
    """Every candidate width at which the values' joint p reaches the level, with that p; null_at(width) gives each value's null."""
    p_of_width = {width: joint_p(values, null_at(width)) for width in widths}
    return {width: p for width, p in p_of_width.items() if p >= level}

"""Estimates with their errors, and the tests that hold them against a null."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from simgap.notebook import text

LEAST_P = 1e-300
# Of a verdict: one in a thousand.
LEVEL = 1e-3


@dataclass(frozen=True)
class Estimate:
    """A mean over independent trials: its standard error (None at one trial), the trials and the expert pairs that it rests on.

    dropped counts the pairs left out because a vector was undefined (an expert that no token reached, a zero vector); `dropped_at` names
    the first of them. mean is None where the quantity does not exist, and `why` says so. values holds the trials (NaN: none left in one).
    """

    mean: float | None
    sem: float | None
    trials: int
    pairs: int = 0
    dropped: int = 0
    dropped_at: str = ""
    why: str = ""
    values: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    per_trial: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False, compare=False)

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, " s"],
        pairs: int | Int[np.ndarray, " s"] = 0,
        dropped: int = 0,
        dropped_at: str = "",
    ) -> "Estimate":
        """Mean and sem = std / sqrt(n) of independent values; a NaN is a trial with nothing to average, and is left out.

        pairs: how many each trial rests on, or all of them together.
        """
        values = np.asarray(values, np.float64)
        per_trial = np.asarray(pairs if np.ndim(pairs) else [], np.int64)
        pairs = int(np.sum(pairs))
        kept = values[~np.isnan(values)]
        if kept.size == 0:
            return cls(None, None, 0, 0, dropped, dropped_at, "no trial has a pair of defined vectors", values, per_trial)
        sem = float(kept.std(ddof=1) / math.sqrt(kept.size)) if kept.size > 1 else None
        return cls(float(kept.mean()), sem, kept.size, pairs, dropped, dropped_at, "", values, per_trial)

    @classmethod
    def missing(cls, why: str) -> "Estimate":
        return cls(None, None, 0, why=why)

    def __str__(self) -> str:
        if self.mean is None:
            return f"none: {self.why}"
        sem = "" if self.sem is None else f" ± {self.sem:.1g}"
        return f"{self.mean:.4g}{sem} ({self.trials} trials, {self.pairs} pairs)"

    _repr_html_ = text

    def as_dict(self) -> dict[str, Any]:
        if self.mean is None:
            return {"mean": None, "sem": None, "trials": 0, "pairs": 0, "why": self.why}
        plain: dict[str, Any] = {"mean": self.mean, "sem": self.sem, "trials": self.trials, "pairs": self.pairs}
        if self.dropped:
            plain |= {"dropped": self.dropped, "dropped_at": self.dropped_at}
        return plain


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b, trial by trial, so that whatever the two share within a trial stays out of the error."""
    if a.mean is None or b.mean is None:
        return Estimate.missing(a.why or b.why)
    _same_trials(a, b)
    pairs = np.minimum(a.per_trial, b.per_trial) if a.per_trial.size and b.per_trial.size else min(a.pairs, b.pairs)
    return Estimate.of(a.values - b.values, pairs, max(a.dropped, b.dropped), a.dropped_at or b.dropped_at)


def _same_trials(a: Estimate, b: Estimate) -> None:
    if a.values.shape != b.values.shape:
        raise ValueError(f"a, b: expected values of the same trials, got {a.values.size} and {b.values.size}")


def ratio_of_means(a: Estimate, b: Estimate) -> Estimate:
    """mean(a) / mean(b) over the trials that have both, with the delta-method sem: std of (a - r b) / mean(b), over sqrt(n)."""
    if a.mean is None or b.mean is None:
        return Estimate.missing(a.why or b.why)
    _same_trials(a, b)
    both = ~(np.isnan(a.values) | np.isnan(b.values))
    top, bottom = a.values[both], b.values[both]
    n = top.size
    if not n:
        return Estimate.missing("no trial has both quantities")
    below = bottom.mean()
    if below == 0:
        return Estimate.missing("the denominator is zero")
    r = float(top.mean() / below)
    sem = float((top - r * bottom).std(ddof=1) / abs(below) / math.sqrt(n)) if n > 1 else None
    lost = max(a.dropped, b.dropped), a.dropped_at or b.dropped_at
    return Estimate(r, sem, n, min(a.pairs, b.pairs), *lost, "", top / np.where(bottom == 0, np.nan, bottom))


def moment_matched_p(value: Any, mean: float, sd: float) -> Any:
    """Two-sided p of a mean of squared cosines under the Beta law on [0, 1] that has the null's mean and standard deviation.

    At one pair of isotropic vectors that Beta is the exact law; at few pairs it keeps the null's skew, which a normal approximation loses;
    at many it tends to the normal. Triangles of pairs correlate at third order, which no two moments can see (law N1). value: a number, or
    an array of them.
    """
    from scipy.special import betainc, betaincc

    if not 0 < mean < 1 or sd <= 0 or sd * sd >= mean * (1 - mean):
        raise ValueError(f"null: no Beta law on [0, 1] has mean {mean!r} and standard deviation {sd!r}")
    if np.isnan(value).any():
        raise ValueError("value: expected a number, got nan")
    size = mean * (1 - mean) / (sd * sd) - 1
    a, b = mean * size, (1 - mean) * size
    return two_sided_p(np.minimum(np.maximum(value, 0.0), 1.0), partial(betainc, a, b), partial(betaincc, a, b))


def two_sided_p(x: Any, cdf: Callable[[Any], Any], sf: Callable[[Any], Any]) -> Any:
    """Twice the smaller tail of a continuous law beyond x, at most 1: a number, or an array. The upper tail is computed only where it is
    the smaller one, which for a Beta law takes several times as long as the lower."""
    if np.ndim(x) == 0:
        lower = float(cdf(x))
        # In this order a nan stays one, as it does in an array.
        return min(2 * (float(sf(x)) if lower > 0.5 else lower), 1.0)
    p = np.array(cdf(x))
    upper = p > 0.5
    p[upper] = sf(x[upper])
    return np.minimum(1.0, 2 * p)


def least_p(values: Any, mean: float, sd: float) -> Any:
    """Two-sided p of a mean of squares that is exactly 0, at most 2 sd^2 / (sd^2 + mean^2) whatever its law (Cantelli's inequality).

    Vectors with entries of exactly 0 have such overlaps with a probability that no continuous law of the same mean and sd knows. values:
    an array of zeros, whose shape the result has.
    """
    return np.full(np.shape(values), min(1.0, 2 * sd * sd / (sd * sd + mean * mean)))


def p_text(p: float) -> str:
    """A p as it is printed, such as "p 0.013"; "p < 1e-300" for what a float can hardly tell from 0, which no p is."""
    return f"p {p:.2g}" if p >= LEAST_P else f"p < {LEAST_P:g}"


def normal_p(z: Any) -> Any:
    """Two-sided p of a standard normal z: a number, or an array of them."""
    from scipy.special import erfc

    return plain(erfc(np.abs(z) / math.sqrt(2)))


def normal_score(p: float, sign: float) -> float:
    """The standard normal z of this two-sided p, 0 <= p <= 1, with the sign given; infinite where p is 0.

    Beside a z in units of a standard deviation it knows the skew of the law that p was taken from.
    """
    from scipy.special import ndtri

    return math.copysign(abs(float(ndtri(p / 2))), sign)


def student_p(t: Any, dof: Any) -> Any:
    """Two-sided p of Student's t: for a z whose standard error was itself estimated, from dof + 1 values."""
    from scipy.special import stdtr

    return plain(2 * stdtr(dof, -np.abs(t)))


def plain(array: Any) -> Any:
    """A Python float for an array without axes."""
    return float(array) if np.ndim(array) == 0 else array


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Pearson's correlation, in [-1, 1]. Raises ValueError for fewer than 3 points and for a constant side."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1 or x.size < 3:
        raise ValueError(f"x, y: expected two series of equal length, at least 3, got shapes {x.shape} and {y.shape}")
    x, y = _standardised("x", x), _standardised("y", y)
    return float(np.clip((x * y).sum(), -1.0, 1.0))


def _standardised(name: str, series: np.ndarray) -> np.ndarray:
    """The series less its mean, at length 1; ValueError where it is not finite, or constant up to round-off."""
    largest = np.abs(series).max()
    if not np.isfinite(largest):
        raise ValueError(f"{name}: holds a value that is not finite")
    scaled = series / largest if largest > 0 else series
    centred = scaled - scaled.mean()
    length = math.sqrt(float((centred * centred).sum()))
    if length <= 4 * np.finfo(np.float64).eps * series.size:
        raise ValueError(f"{name}: a constant series has no correlation")
    return centred / length


def pearson_p(r: Any, n: Any) -> Any:
    """Two-sided p of a correlation r of n independent pairs: t = r sqrt((n - 2) / (1 - r^2)) on n - 2 degrees of freedom (law S1).

    r in [-1, 1], n >= 3: numbers, or arrays that broadcast. Raises ValueError out of range.
    """
    r, n = np.asarray(r, np.float64), np.asarray(n, np.float64)
    if not ((n >= 3).all() and (np.abs(r) <= 1).all()):
        raise ValueError(f"r, n: expected |r| <= 1 and n >= 3, got r = {r}, n = {n}")
    with np.errstate(divide="ignore"):
        t = np.abs(r) * np.sqrt((n - 2) / (1 - r * r))
    return student_p(t, n - 2)


def implied_n(r: float, p: float, r_half_unit: float = 0.0005, p_half_unit: float = 0.0005, n_max: int = 100_000) -> list[int]:
    """Every n at which a correlation that rounds to r can have a p that rounds to p: what a reported pair says of the points behind it."""
    sizes = []
    for n in range(3, n_max + 1):
        high = pearson_p(max(abs(r) - r_half_unit, 0.0), n)
        low = pearson_p(min(abs(r) + r_half_unit, 1.0), n)
        if high < p - p_half_unit:
            break
        if low <= p + p_half_unit:
            sizes.append(n)
    return sizes


def permutation_within(x: Float[np.ndarray, "s l"], y: Float[np.ndarray, "s l"], generator: np.random.Generator, n: int = 10_000) -> float:
    """p of the correlation of x and y inside rows, with y shuffled inside each row: rows are seeds, columns conditions that share the seed.

    Points of one row share an initialisation and are not exchangeable with another row's, so only the order inside a row is free under the
    null that conditions move the two sides independently. Each row is centred first: what seeds share between the two sides is no effect of
    the conditions, and left in it would hide one of the other sign. The smallest p it can give is 1 / (n + 1); p is 1 where no condition
    moves anything.
    """
    x, y = _centred_rows(x, y)
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    if scale == 0:
        return 1.0
    shuffled = generator.permuted(np.broadcast_to(y, (n, *y.shape)), axis=2)
    r = np.abs(np.einsum("sl,nsl->n", x, shuffled)) / scale
    observed = abs(float((x * y).sum())) / scale
    return float((1 + np.count_nonzero(r >= observed - 1e-12)) / (n + 1))


def sign_flip(x: Float[np.ndarray, "s l"], y: Float[np.ndarray, "s l"], generator: np.random.Generator, n: int = 10_000) -> float:
    """p of the correlation of x and y inside rows with rows, not points, as the sample: each row's covariance keeps its size, not its sign.

    Where conditions move both sides of a row smoothly, as a regulariser's strength does, the order inside a row is no draw of chance:
    `permutation_within` then calls every such response an association, whichever way each row happens to turn. Here rows are exchangeable
    with their mirror images under the null, and only their agreement counts. Exact up to 12 rows (all 2^s flips), n random ones beyond.
    """
    x, y = _centred_rows(x, y)
    covariance = (x * y).sum(1)
    rows = len(covariance)
    if rows <= 12:
        signs = 1 - 2 * (np.arange(2**rows)[:, None] >> np.arange(rows) & 1)
        extreme = np.abs(signs @ covariance) >= abs(covariance.sum()) * (1 - 1e-12)
        return float(extreme.mean())
    signs = generator.choice([-1.0, 1.0], (n, rows))
    return float((1 + np.count_nonzero(np.abs(signs @ covariance) >= abs(covariance.sum()) * (1 - 1e-12))) / (n + 1))


def _centred_rows(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two (seeds, conditions) arrays, each row less its mean; ValueError where they do not fit."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"x, y: expected two finite (seeds, conditions) arrays with at least 2 conditions, got {x.shape} and {y.shape}")
    return x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: family-wise p-values, valid under any dependence."""
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p_values: expected numbers in [0, 1], got {list(p_values)}")
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def benjamini_yekutieli(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """p adjusted so that those at most q have a false discovery rate of at most q, however they depend on each other (2001); NaN stays, and
    counts as no test."""
    p = np.asarray(p_values, np.float64)
    known = ~np.isnan(p)
    adjusted, m = np.full(len(p), math.nan), int(known.sum())
    if m:
        order = np.argsort(p[known], kind="stable")
        steps = p[known][order] * m * (1 / np.arange(1, m + 1)).sum() / np.arange(1, m + 1)
        own = np.empty(m)
        own[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
        adjusted[known] = own
    return adjusted


def fisher(p_values: Sequence[float]) -> float:
    """Fisher's combination of independent p-values: -2 sum ln p against chi^2 on 2n degrees of freedom."""
    from scipy.special import chdtrc

    if not p_values or min(p_values) < 0 or max(p_values) > 1:
        raise ValueError(f"p_values: expected at least one, each in [0, 1], got {list(p_values)}")
    if min(p_values) == 0:
        return 0.0
    return float(chdtrc(2 * len(p_values), -2 * sum(math.log(p) for p in p_values)))


def normalised_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """2 I(a; b) / (H(a) + H(b)) of two labellings of the same items, in [0, 1]: 1 where each tells the other, 0 where they are independent
    or all items have one label.

    By the mean of both entropies and not by the smaller: labels that merge kinds of the other do not reach 1. A plug-in estimate:
    independent labels of A and B kinds give about (A - 1)(B - 1) / (n (H(a) + H(b))) (H in nats, filled cells), not 0.
    Raises ValueError for labellings of different lengths, or of nothing.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"a, b: expected two labellings (n,) of the same n > 0 items, got {a.shape} and {b.shape}")
    (kinds_a, of_a), (kinds_b, of_b) = (np.unique(labels, return_inverse=True) for labels in (a, b))
    joint = np.bincount(of_a * len(kinds_b) + of_b, minlength=len(kinds_a) * len(kinds_b)).reshape(len(kinds_a), -1)
    of_each = _entropy(joint.sum(1)) + _entropy(joint.sum(0))
    # I = H(a) + H(b) - H(a, b); round-off may leave the range.
    return min(1.0, max(0.0, 2 * (1 - _entropy(joint.ravel()) / of_each))) if of_each > 0 else 0.0


def _entropy(counts: Int[np.ndarray, " m"]) -> float:
    """In nats, of the shares of counts."""
    share = counts[counts > 0] / counts.sum()
    return max(0.0, -float((share * np.log(share)).sum()))

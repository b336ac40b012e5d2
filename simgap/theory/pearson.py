"""Laws with given cumulants, for tail probabilities of a mean that is skewed: Pearson's system, whose types I, III, VI and IV follow from
the first four cumulants. Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions, vol. 1 (1994), ch. 12, section 4."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float

from simgap.theory.floats import larger, legendre_rule, plain, shared, smaller

# Below this share of a quadratic term the density p'/p = -(x + c1) / (c0 + c1 x + c2 x^2) is that of type III, to relative error about c2.
LEAST_CURVATURE = 1e-8
# Type IV is integrated over u = asinh(z) up to |z| = 1e8 standard deviations; its fourth moment exists, so less than 1e-30 lies beyond.
REACH = math.asinh(1e8)
PANELS, POINTS = 64, 16
# Of `nodes`: sinh of a lattice, so that the trapezoid rule sees the middle finely and the tails far out.
LATTICE = np.arange(-60, 61) / 10
LEAST_WEIGHT = 1e-50


class Distribution(Protocol):
    """What a test needs of a law: both tails and their inverses."""

    def cdf(self, x: Any) -> Any: ...
    def sf(self, x: Any) -> Any: ...
    def ppf(self, q: Any) -> Any: ...
    def isf(self, q: Any) -> Any: ...
    def nodes(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]: ...
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Standard:
    """A law that scipy knows by a name and shapes, at low + scale times it. Tails are scipy's to the bit, straight from the special
    functions: its own distributions take far longer to build and to look at their arguments than to evaluate. Inverses are its own."""

    family: Literal["norm", "gamma", "beta", "betaprime"]
    shapes: tuple[float, ...] = ()
    low: float = 0.0
    scale: float = 1.0

    def cdf(self, x: Any) -> Any:
        return plain(_tail(self.family, self.shapes, self._standardised(x), upper=False))

    def sf(self, x: Any) -> Any:
        return plain(_tail(self.family, self.shapes, self._standardised(x), upper=True))

    def ppf(self, q: Any) -> Any:
        return self.frozen.ppf(q)

    def isf(self, q: Any) -> Any:
        return self.frozen.isf(q)

    @property
    def frozen(self) -> Any:
        """The same as a frozen scipy distribution."""
        from scipy import stats

        return getattr(stats, self.family)(*self.shapes, loc=self.low, scale=self.scale)

    def nodes(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Points x and weights w of E g(X) = sum w g(x) for a bounded, smooth g, by the trapezoid rule in log odds or in log z."""
        if self.family == "norm":
            middle, wide = 0.0, 1.0
        elif self.family == "gamma":
            middle, wide = math.log(self.shapes[0]), self.shapes[0] ** -0.5
        else:
            a, b = self.shapes
            middle, wide = math.log(a / b), math.sqrt(1 / a + 1 / b)
        y = middle + wide * np.sinh(LATTICE)
        if self.family == "norm":
            z, log_density = y, -y * y / 2
        elif self.family == "gamma":
            z, log_density = np.exp(np.minimum(y, 700.0)), self.shapes[0] * y - np.exp(np.minimum(y, 700.0))
        else:
            log_density = -a * np.logaddexp(0, -y) - b * np.logaddexp(0, y)
            z = np.exp(np.minimum(y, 700.0)) if self.family == "betaprime" else 1 / (1 + np.exp(-np.maximum(y, -700.0)))
        return _rule(self.low + self.scale * z, log_density, np.cosh(LATTICE))

    def _standardised(self, x: Any) -> Any:
        return ((x if isinstance(x, float) else np.asarray(x, np.float64)) - self.low) / self.scale


def _tail(family: str, shapes: tuple[float, ...], z: Any, upper: bool) -> Any:
    """P(Z > z) or P(Z <= z) of a standard law, each from the function that keeps its digits where it is small."""
    from scipy import special

    if family == "norm":
        return special.ndtr(-z if upper else z)
    if family == "gamma":
        return (special.gammaincc if upper else special.gammainc)(*shapes, larger(z, 0.0))
    a, b = shapes
    mine, other = (special.betaincc, special.betainc) if upper else (special.betainc, special.betaincc)
    if family == "beta":
        return mine(a, b, smaller(larger(z, 0.0), 1.0))
    # Z / (1 + Z) has a Beta law; where it is near 1 its complement keeps more digits.
    z = larger(z, 0.0)
    if isinstance(z, float):
        return other(b, a, 1 / (1 + z)) if z > 1 else mine(a, b, z / (1 + z))
    tail, far = np.empty(z.shape), z > 1
    tail[far] = other(b, a, 1 / (1 + z[far]))
    tail[~far] = mine(a, b, z[~far] / (1 + z[~far]))
    return tail


@dataclass(frozen=True)
class PearsonIV:
    """Density proportional to (1 + t^2)^-m exp(-nu arctan t), t = ((x - mean)/sd - centre) / scale: tails of a power on both sides."""

    mean: float
    sd: float
    m: float
    nu: float
    centre: float
    scale: float

    def sf(self, x: Any) -> Any:
        u = self._within(x)
        return plain(np.minimum(self._mass(u, np.full_like(u, REACH)) / self._total, 1.0))

    def cdf(self, x: Any) -> Any:
        u = self._within(x)
        return plain(np.minimum(self._mass(np.full_like(u, -REACH), u) / self._total, 1.0))

    def ppf(self, q: Any) -> Any:
        return self._inverse(self.cdf, q, rising=True)

    def isf(self, q: Any) -> Any:
        return self._inverse(self.sf, q, rising=False)

    def nodes(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """As `Standard.nodes`."""
        lattice = LATTICE * (math.asinh(REACH) / LATTICE[-1])
        u = np.sinh(lattice)
        return _rule(self.mean + self.sd * np.sinh(u), self._log_density(u), np.cosh(lattice))

    def _within(self, x: Any) -> Any:
        u = np.arcsinh((np.asarray(x, np.float64) - self.mean) / self.sd)
        return np.minimum(np.maximum(u, -REACH), REACH)

    def _log_density(self, u: np.ndarray) -> np.ndarray:
        t = (np.sinh(u) - self.centre) / self.scale
        return -self.m * np.log1p(t * t) - self.nu * np.arctan(t) + np.log(np.cosh(u))

    @cached_property
    def _peak(self) -> float:
        return float(self._log_density(np.linspace(-REACH, REACH, 401)).max())

    @cached_property
    def _total(self) -> float:
        return float(self._mass(np.asarray(-REACH), np.asarray(REACH)))

    def _mass(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Composite Gauss-Legendre from low to high, element by element; panels as wide as a standard deviation at most, near the mean."""
        nodes, weights = _panel_rule()
        span = (high - low)[..., None]
        # A product with the weights would round each element differently, in how many it is given along with.
        return (span * np.exp(self._log_density(low[..., None] + span * nodes) - self._peak) * weights).sum(-1)

    def _inverse(self, tail: Any, q: Any, rising: bool) -> Any:
        from scipy.optimize import brentq

        def one(level: float) -> float:
            if not 0 < level < 1:
                return math.inf if (level >= 1) == rising else -math.inf
            u = brentq(lambda u: tail(self.mean + self.sd * math.sinh(u)) - level, -REACH, REACH, xtol=1e-13)
            return self.mean + self.sd * math.sinh(u)

        levels = np.asarray(q, np.float64)
        return plain(np.array([one(float(level)) for level in levels.flat]).reshape(levels.shape))


def _rule(
    x: Float[np.ndarray, " m"], log_density: Float[np.ndarray, " m"], step: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The points that weigh anything, and their weights of sum 1."""
    weights = np.exp(log_density - log_density.max()) * step
    weights /= weights.sum()
    kept = weights > LEAST_WEIGHT
    return shared(x[kept], weights[kept])


@lru_cache(maxsize=1024)
def nodes_of(law: Distribution) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """`law.nodes()`, found once."""
    return law.nodes()


def matched_law(mean: float, sd: float) -> Standard:
    """The Beta law on [0, 1] with this mean and standard deviation, 0 < sd^2 < mean (1 - mean)."""
    size = mean * (1 - mean) / (sd * sd) - 1
    return Standard("beta", (mean * size, (1 - mean) * size))


@lru_cache(maxsize=1)
def _panel_rule() -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Composite Gauss-Legendre on [0, 1]."""
    x, w = legendre_rule(POINTS)
    edges = np.linspace(0, 1, PANELS + 1)
    half = (edges[1] - edges[0]) / 2
    return shared((edges[:-1, None] + half * (1 + x)).ravel(), np.tile(half * w, PANELS))


def pearson_law(mean: float, variance: float, third: float, fourth: float) -> tuple[Distribution, float]:
    """The law of Pearson's system with these first four cumulants, third >= 0, and the lower end of its support (-inf for type IV).

    A Beta law (type I), a gamma law (III) or a Beta-prime law (VI), shifted and scaled, or type IV. Raises ValueError for cumulants that
    no law has: fourth / variance^2 must exceed third^2 / variance^3 - 2.
    """
    if not variance > 0 or third < 0:
        raise ValueError(f"variance, third: expected variance > 0 and third >= 0, got {variance!r} and {third!r}")
    sd = math.sqrt(variance)
    skew, kurtosis = third / sd**3, 3 + fourth / variance**2
    if kurtosis <= 1 + skew**2:
        raise ValueError(f"fourth: expected more than (skewness^2 - 2) variance^2, got {fourth!r}")
    # Around the mean, in standard deviations: p'/p = -(z + c1) / (c0 + c1 z + c2 z^2).
    whole = 10 * kurtosis - 12 * skew**2 - 18
    c0, c1 = (4 * kurtosis - 3 * skew**2) / whole, skew * (kurtosis + 3) / whole
    # 2 kurtosis - 3 skew^2 - 6, without the cancellation of its 6.
    c2 = (2 * fourth / variance**2 - 3 * skew**2) / whole
    if abs(c2) < LEAST_CURVATURE:
        if skew < LEAST_CURVATURE:
            return Standard("norm", (), mean, sd), -math.inf
        low = mean - 2 * sd / skew
        return Standard("gamma", (4 / skew**2,), low, sd * skew / 2), low
    discriminant = c1 * c1 - 4 * c0 * c2
    if abs(discriminant) < 1e-12 * c0 * abs(c2):
        discriminant = 1e-12 * c0 * abs(c2)  # type V lies between IV and VI, and either is near enough
    if discriminant < 0:
        centre, scale = -c1 / (2 * c2), math.sqrt(-discriminant) / (2 * c2)
        return PearsonIV(mean, sd, 1 / (2 * c2), (c1 + centre) / (c2 * scale), centre, scale), -math.inf
    # Citardauq's form for the root near 0: no cancellation when c2 is small.
    far = -(c1 + math.sqrt(discriminant)) / (2 * c2)
    near = c0 / (c2 * far)
    if c2 < 0:
        low, high = sorted((near, far))
        a, b = ((root + c1) / (c2 * (other - root)) + 1 for root, other in ((low, high), (high, low)))
        return Standard("beta", (a, b), mean + sd * low, sd * (high - low)), mean + sd * low
    # Both ends lie below the mean: the nearer one starts the support.
    a = (near + c1) / (c2 * (far - near)) + 1
    return Standard("betaprime", (a, 1 / c2 - 1), mean + sd * near, sd * (near - far)), mean + sd * near


def law_from(low: float, mean: float, variance: float, third: float) -> Distribution:
    """The Beta law on [low, b] with these three cumulants, b its own; the gamma law where the skewness is too large for one.

    With c = sd / (mean - low) and g the skewness, a Beta law exists for c - 1/c < g < 2c: its shapes a, s - a follow from
    s = 2 (1 + g c - c^2) / (c (2c - g)); at g = 2c it is the gamma law that starts at low, beyond that one that starts higher.
    """
    sd, reach = math.sqrt(variance), mean - low
    c, g = sd / reach, third / variance**1.5
    if g >= 2 * c * (1 - LEAST_CURVATURE):
        return Standard("gamma", (4 / g**2,), mean - 2 * sd / g, sd * g / 2)
    if g <= c - 1 / c:
        raise ValueError(f"third: no law from {low!r} up has mean {mean!r}, variance {variance!r} and so small a skewness, {g!r}")
    s = 2 * (1 + g * c - c * c) / (c * (2 * c - g))
    width = reach * (s * c * c + 1 + c * c)
    a = reach * s / width
    return Standard("beta", (a, s - a), low, width)

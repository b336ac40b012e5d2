"""Laws in floating point: Python numbers and numpy arrays, element by element."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.stats import plain

# Panels of the Gaussian quadrature: dyadic towards 0, where an activation of a wide normal varies on the scale 1/std, then of unit length.
# Gauss-Legendre with 16 points on each is exact to round-off for functions analytic beside a half-line, at every std up to about 2^20.
DYADIC = 30
REACH = 16
POINTS = 16

_erf = np.frompyfunc(math.erf, 1, 1)


class Floats:
    """The float context. Parameters that are ints and Fractions pass unchanged, so that a rational law of them stays exact; text becomes a
    float, everything else float64."""

    pi = math.pi

    def number(self, value: Any) -> Any:
        if isinstance(value, int | float | Fraction):
            return value
        if isinstance(value, str):
            return float(Fraction(value))
        array = np.asarray(value, np.float64)
        return array if array.ndim else float(array)

    def sqrt(self, x: Any) -> Any:
        return np.sqrt(_float(x))

    def exp(self, x: Any) -> Any:
        return np.exp(_float(x))

    def log(self, x: Any) -> Any:
        return np.log(_float(x))

    def log1p(self, x: Any) -> Any:
        return np.log1p(_float(x))

    def erf(self, x: Any) -> Any:
        # One by one, but scipy takes longer to import than every expectation here takes.
        return _erf(_float(x)).astype(np.float64) if np.ndim(x) else math.erf(x)

    def tanh(self, x: Any) -> Any:
        return np.tanh(_float(x))

    def logistic(self, x: Any) -> Any:
        x = _float(x)
        small = np.exp(-np.abs(x))
        return np.where(x >= 0, 1.0, small) / (1 + small)

    def asin(self, x: Any) -> Any:
        return np.arcsin(_float(x))

    def magnitude(self, x: Any) -> Any:
        return np.abs(_float(x))

    def positive_part(self, x: Any) -> Any:
        return np.maximum(_float(x), 0.0)

    def step(self, x: Any) -> Any:
        return np.where(_float(x) > 0, 1.0, 0.0)

    def expect(self, f: Callable[[Any], Any], std: Any = 1, degree: int = 2) -> Any:
        """E f(std z), element by element in std; relative error about 1e-14 where f does not change sign."""
        nodes, weights = normal_rule()
        std = np.asarray(self.number(std), np.float64)
        values = f(std[..., None] * nodes) * np.ones_like(nodes)
        return plain(values @ weights)

    def expect_pair(self, f: Callable[[Any], Any], g: Callable[[Any], Any], rho: Any, std: Any = 1, degree: int = 1) -> Any:
        """E f(std u) g(std v), element by element in rho and std: the plain route, 10 ms a value. In polar coordinates of the plane a kink
        at 0 is a ray, so between the four rays where u or v vanishes the integrand is analytic. Raises ValueError for rho outside
        [-1, 1]."""
        rho, std = np.broadcast_arrays(np.asarray(rho, np.float64), np.asarray(std, np.float64))
        inside = (rho >= -1) & (rho <= 1)
        if not inside.all():
            raise ValueError(f"rho: expected correlations in [-1, 1], got {float(rho[~inside].flat[0])}")
        result = np.empty(rho.shape)
        for at in np.ndindex(rho.shape):
            result[at] = pair_at_angle(f, g, math.acos(rho[at]), float(std[at]))
        return plain(result)


def pair_at_angle(f: Callable[[Any], Any], g: Callable[[Any], Any], between: float, std: float, depth: int = DYADIC) -> float:
    """E f(std u) g(std v) for u and v of correlation cos(between), between in [0, pi]. depth: the quadrature resolves std 2^-depth."""
    radii, radial = _radial_rule(depth)
    total = 0.0
    # u = r cos t and v = r cos(t - between): both positive, u alone, both negative, v alone.
    rays = [between - math.pi / 2, math.pi / 2, between + math.pi / 2, 3 * math.pi / 2, between + 3 * math.pi / 2]
    for start, stop in pairwise(rays):
        angles, angular = _sector_rule(start, stop, depth)
        u = std * np.outer(np.cos(angles), radii)
        v = std * np.outer(np.cos(angles - between), radii)
        total += float(angular @ (f(u) * g(v) * np.ones_like(u)) @ radial)
    return total / (2 * math.pi)


def _float(x: Any) -> Any:
    return float(x) if isinstance(x, int | Fraction) else x


def larger(x: Any, bound: float) -> Any:
    """max(x, bound) of a number or an array; a NaN of x stays. A number in a numpy function costs ten times itself."""
    return max(x, bound) if isinstance(x, float) else np.maximum(x, bound)


def smaller(x: Any, bound: float) -> Any:
    """min(x, bound), as `larger`."""
    return min(x, bound) if isinstance(x, float) else np.minimum(x, bound)


def shared(*arrays: np.ndarray) -> Any:
    """The arrays made read-only, for a cache whose callers must not write into each other's values."""
    for array in arrays:
        array.flags.writeable = False
    return arrays if len(arrays) > 1 else arrays[0]


def elementwise(function: Callable[..., Any], *values: Any) -> Any:
    """function(*values) for numbers; for arrays, of each element of their broadcast, one by one."""
    if not any(np.ndim(value) for value in values):
        return function(*values)
    arrays = np.broadcast_arrays(*(np.asarray(value) for value in values))
    results = [function(*(number.item() for number in numbers)) for numbers in zip(*(array.ravel() for array in arrays), strict=True)]
    return np.array(results, np.float64).reshape(arrays[0].shape + np.shape(results)[1:])


@lru_cache(maxsize=8)
def legendre_rule(points: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Gauss-Legendre nodes and weights on [-1, 1], found once: their eigenvalues take longer than most integrals over them."""
    return shared(*np.polynomial.legendre.leggauss(points))


@lru_cache(maxsize=8)
def half_line(depth: int = DYADIC, points: int = POINTS) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Composite Gauss-Legendre on [0, REACH], dyadic towards 0."""
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-depth, 1), np.arange(2.0, REACH + 1)])
    x, w = legendre_rule(points)
    half = np.diff(edges)[:, None] / 2
    return shared((edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel())


@lru_cache(maxsize=1)
def normal_rule() -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes z and weights of `expect`, for what needs a function's values at them more than once. Read-only: all callers share them."""
    z, w = half_line()
    w = w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return shared(np.concatenate([-z[::-1], z]), np.concatenate([w[::-1], w]))


@lru_cache(maxsize=8)
def _radial_rule(depth: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    r, w = half_line(depth)
    return r, w * r * np.exp(-r * r / 2)


def _sector_rule(start: float, stop: float, depth: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes on an arc, dyadic towards both ends."""
    unit, w = half_line(depth)
    near = unit < 1
    arc = (stop - start) / 2
    unit, w = arc * unit[near], arc * w[near]
    return np.concatenate([start + unit, stop - unit]), np.concatenate([w, w])


FLOAT = Floats()

"""A1: what an activation does to angles: from the correlation of two pre-activations to the cosine of the activated vectors, wide limit."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.activations import ERF, GELU, RELU, Activation, Own, activation_of, check_slope, irregular
from simgap.theory.angular import LARGEST_STD, SMALLEST_STD, pair_expectation
from simgap.theory.closed_duals import erf_dual, gelu_even_dual, identity_dual, relu_even_dual
from simgap.theory.context import Context
from simgap.theory.floats import DYADIC, FLOAT, pair_at_angle, plain, shared

ID = "A1"
HYPOTHESES = (
    "pre-activations of the two vectors jointly Gaussian, entry by entry independent, with one standard deviation",
    "wide: d_ff to infinity",
)
# Nodes of the series in the angle, and the share of its last quarter at which it is taken to have ended.
COUNTS = (24, 48, 96)
TAIL = 1e-11


def kappa(activation: str | Activation, rho: Any, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """kappa(rho) = E[act(su) act(sv)] / E[act(su)^2] for standard normal u, v with correlation rho (law A1). The plain route."""
    act = activation_of(activation)
    rho, std = ctx.number(rho), ctx.number(std)

    def value(x: Any) -> Any:
        return act.value(x, ctx)

    return ctx.expect_pair(value, value, rho, std) / ctx.expect(lambda x: value(x) ** 2, std, degree=2)


def kappa_zero(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """kappa(0) = (E act(sz))^2 / E act(sz)^2: the cosine that independent rectified vectors share (law A1)."""
    act = activation_of(activation)
    std = ctx.number(std)
    return ctx.expect(lambda x: act.value(x, ctx), std, degree=1) ** 2 / ctx.expect(lambda x: act.value(x, ctx) ** 2, std, degree=2)


def dual_map(activation: str | Activation | Own, rho: Any, std: Any = 1.0, gated: bool = False) -> Any:
    """kappa(rho), the cosine of act(su) and act(sv) in the wide limit; rho kappa(rho) for gated units act(g) u (laws A1, A7).

    rho: in [-1, 1]; std: in [1e-6, 1e3]; numbers or arrays that broadcast. Absolute error below 1e-12 for std in [0.01, 100], and relative
    error too where rho >= 0. Closed forms for identity, ReLU, erf and GELU (law A2), the angular series for the rest. activation may be a
    function of numpy arrays, element by element, smooth on either side of 0 and continuous or not there: absolute error below 1e-9, and a
    second for each std, longer where it is large.

    >>> import numpy as np
    >>> from simgap import theory
    >>> round(theory.dual_map(lambda x: np.maximum(x, 0) ** 2, 0.5), 4)  # squared ReLU
    0.4712

    Raises ValueError for rho or std out of range, for a function with kinks away from 0, and for an Activation whose slope or parts are not
    its value's.
    """
    value = cosine_of_parts(dual_parts(check_slope(activation_of(activation)), rho, std))
    return plain(np.asarray(rho, np.float64) * value if gated else value)


def cosine_of_parts(parts: tuple[Any, Any, Any]) -> Any:
    """kappa from `dual_parts`."""
    even, odd, size = parts
    return (even + odd) / size


def dual_parts(activation: str | Activation | Own, rho: Any, std: Any) -> tuple[Any, Any, Any]:
    """E e(su) e(sv) and E o(su) o(sv) for the activation's even and odd parts, and E act(su)^2, their sum at rho = 1, as arrays."""
    act = activation_of(activation)
    rho, std = np.broadcast_arrays(checked_rho(rho), np.asarray(std, np.float64))
    if not (np.isfinite(std).all() and (std > 0).all()):
        raise ValueError(f"std: expected finite numbers above 0, got {_first(std, ~(np.isfinite(std) & (std > 0)))}")
    # Closed forms reach further, until they overflow; one range for all activations is easier to rely on.
    within = (std >= SMALLEST_STD) & (std <= LARGEST_STD)
    if not within.all():
        raise ValueError(f"std: expected numbers from {SMALLEST_STD:g} to {LARGEST_STD:g}, got {_first(std, ~within):g}")
    for each in np.unique(std) if act.plain else ():
        if why := irregular(act, float(each)):
            raise ValueError(why)
    # One value at rho = 1 for each std, not for each element.
    stds, at = np.unique(std, return_inverse=True)
    top = np.array([_mean_square(act, float(stds[0]))]) if stds.size == 1 else _mean_squares(act, stds)
    return _even(act, rho, std), _odd(act, rho, std), top[at].reshape(std.shape)


def _mean_squares(act: Activation, stds: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """E act(su)^2."""
    return _even(act, np.ones_like(stds), stds) + _odd(act, np.ones_like(stds), stds)


@lru_cache(maxsize=1024)
def _mean_square(act: Activation, std: float) -> float:
    return float(_mean_squares(act, np.array([std]))[0])


def _even(act: Activation, rho: np.ndarray, std: np.ndarray) -> np.ndarray:
    if act.even is None:
        return np.zeros(np.shape(rho))
    if act == RELU:
        return relu_even_dual(rho, std)
    if act == GELU:
        return gelu_even_dual(rho, std)
    if act.plain:
        return (_by_angle(act, rho, std) + _by_angle(act, -rho, std)) / 2
    return pair_expectation(act, rho, std, odd=False)


def _odd(act: Activation, rho: np.ndarray, std: np.ndarray) -> np.ndarray:
    if act.linear is not None:
        return float(act.linear) ** 2 * identity_dual(rho, std)
    if act == ERF:
        return erf_dual(rho, std)
    if act.plain:
        return (_by_angle(act, rho, std) - _by_angle(act, -rho, std)) / 2
    return pair_expectation(act, rho, std, odd=True)


def _by_angle(act: Activation, rho: np.ndarray, std: np.ndarray) -> np.ndarray:
    """E act(su) act(sv) of a user's own activation, by its series in the angle."""
    result = np.empty(np.shape(rho))
    for each in np.unique(std):
        at = std == each
        result[at] = np.polynomial.chebyshev.chebval(2 * np.arccos(rho[at]) / np.pi - 1, _angle_series(act, float(each)))
    return result


@lru_cache(maxsize=64)
def _angle_series(act: Activation, std: float) -> Float[np.ndarray, " n"]:
    """Chebyshev coefficients over [0, pi] of E act(su) act(sv) as a function of arccos rho, which is analytic there, the ends included,
    where act is analytic on either side of 0. Raises ValueError where they do not fall off."""
    depth = min(DYADIC, 8 + max(0, math.ceil(math.log2(std))))

    def value(x: np.ndarray) -> np.ndarray:
        return act.value(x, FLOAT)

    for count in COUNTS:
        nodes = np.polynomial.chebyshev.chebpts1(count)
        values = [pair_at_angle(value, value, float(angle), std, depth) for angle in np.pi * (1 + nodes) / 2]
        series = np.polynomial.chebyshev.chebfit(nodes, values, count - 1)
        if np.abs(series[-count // 4 :]).max() <= TAIL * np.abs(series).max():
            return shared(series)
    raise ValueError(f"activation: {act.name!r} is not smooth on either side of 0 on the scale of std {std:.3g}")


def checked_rho(rho: Any) -> Float[np.ndarray, "*shape"]:
    """rho as float64. Raises ValueError outside [-1, 1] and for NaN."""
    rho = np.asarray(rho, np.float64)
    inside = (rho >= -1) & (rho <= 1)
    if not inside.all():
        raise ValueError(f"rho: expected correlations in [-1, 1], got {_first(rho, ~inside)}")
    return rho


def _first(values: np.ndarray, bad: np.ndarray) -> float:
    return float(values[bad].flat[0])

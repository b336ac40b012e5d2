"""A1: what an activation does to angles: from the correlation of two pre-activations to the cosine of the activated vectors, wide limit."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.activations import ERF, GELU, RELU, Activation, activation_of
from simgap.theory.angular import LARGEST_STD, SMALLEST_STD, pair_expectation
from simgap.theory.closed_duals import erf_dual, gelu_even_dual, identity_dual, relu_even_dual
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT, plain

ID = "A1"
HYPOTHESES = (
    "pre-activations of the two vectors jointly Gaussian, entry by entry independent, with one standard deviation",
    "wide: d_ff to infinity",
)


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


def dual_map(activation: str | Activation, rho: Any, std: Any = 1.0, gated: bool = False) -> Any:
    """kappa(rho), the cosine of act(su) and act(sv) in the wide limit; rho kappa(rho) for gated units act(g) u (laws A1, A7).

    rho: in [-1, 1]; std: in [1e-6, 1e3]; numbers or arrays that broadcast. Absolute error below 1e-12 for std in [0.01, 100], and relative
    error too where rho >= 0. Closed forms for identity, ReLU, erf and GELU (law A2), the angular series for the rest.
    Raises ValueError for rho or std out of range.
    """
    value = cosine_of_parts(dual_parts(activation, rho, std))
    return plain(np.asarray(rho, np.float64) * value if gated else value)


def cosine_of_parts(parts: tuple[Any, Any, Any]) -> Any:
    """kappa from `dual_parts`."""
    even, odd, size = parts
    return (even + odd) / size


def dual_parts(activation: str | Activation, rho: Any, std: Any) -> tuple[Any, Any, Any]:
    """E e(su) e(sv) and E o(su) o(sv) for the activation's even and odd parts, and E act(su)^2, their sum at rho = 1, as arrays."""
    act = activation_of(activation)
    rho, std = np.broadcast_arrays(checked_rho(rho), np.asarray(std, np.float64))
    if not (np.isfinite(std).all() and (std > 0).all()):
        raise ValueError(f"std: expected finite numbers above 0, got {_first(std, ~(np.isfinite(std) & (std > 0)))}")
    # Closed forms reach further, until they overflow; one range for all activations is easier to rely on.
    within = (std >= SMALLEST_STD) & (std <= LARGEST_STD)
    if not within.all():
        raise ValueError(f"std: expected numbers from {SMALLEST_STD:g} to {LARGEST_STD:g}, got {_first(std, ~within):g}")
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
    return pair_expectation(act, rho, std, odd=False)


def _odd(act: Activation, rho: np.ndarray, std: np.ndarray) -> np.ndarray:
    if act.linear is not None:
        return float(act.linear) ** 2 * identity_dual(rho, std)
    if act == ERF:
        return erf_dual(rho, std)
    return pair_expectation(act, rho, std, odd=True)


def checked_rho(rho: Any) -> Float[np.ndarray, "*shape"]:
    """rho as float64. Raises ValueError outside [-1, 1] and for NaN."""
    rho = np.asarray(rho, np.float64)
    inside = (rho >= -1) & (rho <= 1)
    if not inside.all():
        raise ValueError(f"rho: expected correlations in [-1, 1], got {_first(rho, ~inside)}")
    return rho


def _first(values: np.ndarray, bad: np.ndarray) -> float:
    return float(values[bad].flat[0])

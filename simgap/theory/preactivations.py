"""What reaches an activation: the standard deviation of W x for each init, and how much the tokens' norms and cosines vary."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.theory.floats import legendre_rule, shared

MOST_NORM_NODES = 40
COSINE_POINTS = 96


def preactivation_std(init: str, d_model: int, d_ff: int, power: float = 1.0) -> float:
    """s with W x ~ N(0, s^2) at ||x||^2 = power d_model, for a (d_ff, d_model) matrix of that init.

    s^2 / power: 2 for Kaiming fan-in, 2 d / (d + f) for Xavier, d / max(d, f) for orthogonal. Gaussian entries give a normal exactly;
    uniform and orthogonal ones up to O(1/d).
    """
    if init.startswith("kaiming"):
        variance = 2.0
    elif init.startswith("xavier"):
        variance = 2 * d_model / (d_model + d_ff)
    elif init == "orthogonal":
        variance = d_model / max(d_model, d_ff)
    else:
        raise ValueError(f"init: expected a kaiming, xavier or orthogonal one, got {init!r}")
    return math.sqrt(variance * power)


def over_norms(f: Callable[[Any], Any], std: float, dimension: float) -> float:
    """E f(std r), r^2 ~ chi^2_D / D: tokens N(0, I) in R^D; infinity for tokens of one norm. f takes an array.

    dimension: D > 0; for other tokens the effective dimension 2 (E r^2)^2 / Var r^2 of their norm, whose first two moments are then met.
    Gauss-Laguerre in r^2, for what is smooth in std^2, as all moments of an activation of a normal are: absolute error of overlaps kappa0^2
    below 1e-8 for D >= 16, 1e-6 for D >= 8, 1e-3 for D >= 2, where the short tokens of a wide law are few nodes'.
    Raises ValueError for D not above 0.
    """
    stds, weights = norm_rule(std, dimension)
    return float(np.asarray(f(stds)) @ weights)


def norm_rule(std: float, dimension: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The nodes std r and the weights of `over_norms`. Raises ValueError for D not above 0."""
    if not dimension > 0:
        raise ValueError(f"dimension: expected a number above 0, got {dimension}")
    if math.isinf(dimension):
        return np.array([std]), np.ones(1)
    square, weights = _norm_rule(dimension)
    return std * np.sqrt(square), weights


@lru_cache(maxsize=256)
def _norm_rule(dimension: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes r^2 and weights for chi^2_D / D, from the eigenvalues of the Laguerre polynomials' Jacobi matrix (Golub and Welsch 1969)."""
    # Each node more gains a factor of about Var r^2 = 2 / D.
    count = MOST_NORM_NODES if dimension <= 8 else min(MOST_NORM_NODES, math.ceil(14 / math.log10(dimension / 2)))
    shape = dimension / 2
    k = np.arange(count)
    jacobi = np.diag(2 * k + shape) + np.diag(np.sqrt(k[1:] * (k[1:] + shape - 1)), 1)
    nodes, vectors = np.linalg.eigh(jacobi, UPLO="U")
    return shared(nodes / shape, vectors[0] ** 2)


def over_cosines(f: Callable[[Any], Any], d_model: int, mean_cosine: float = 0.0) -> float:
    """E f(rho), rho the cosine of two independent tokens of an isotropic law in R^d that share a component: rho = b + (1 - b) rho_0,
    rho_0 the cosine of two points of the sphere, b = mean_cosine. Exact at b = 0, leading order in b otherwise. f takes an array."""
    rho, weights = token_cosines(d_model, mean_cosine)
    return float(np.asarray(f(rho)) @ weights)


def token_cosines(d_model: int, mean_cosine: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The cosines and the weights of `over_cosines`."""
    rho, weights = cosine_rule(d_model)
    return mean_cosine + (1 - mean_cosine) * rho, weights


@lru_cache(maxsize=256)
def cosine_rule(d_model: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Cosines and weights of E f(rho), rho the cosine of two uniform points of the sphere in R^d: rho = sin t has density cos(t)^(d - 2),
    and maps such as ReLU's, with a root at rho = +-1, are smooth in t. Two points, +-1, in one dimension. Raises ValueError for
    d_model < 1."""
    if not d_model >= 1:
        raise ValueError(f"d_model: expected at least 1, got {d_model}")
    if d_model == 1:
        return shared(np.array([-1.0, 1.0]), np.array([0.5, 0.5]))
    x, w = legendre_rule(COSINE_POINTS)
    # cos(t)^(d-2) <= exp(-(d-2) t^2 / 2) is below 1e-17 beyond t = 9 / sqrt(d - 2).
    half = min(math.pi / 2, 9 / math.sqrt(d_model - 2)) if d_model > 2 else math.pi / 2
    weights = w * np.cos(half * x) ** (d_model - 2)
    return shared(np.sin(half * x), weights / weights.sum())

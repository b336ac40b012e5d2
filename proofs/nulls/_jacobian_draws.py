"""Jacobians of untrained experts for N6, drawn once."""

from collections.abc import Callable
from functools import cache

import numpy as np

from proofs.statement import generator

DRAWS = 30_000
# The kurtosis of W_down moves a share by a third of its term in 1/f: seen from here on.
SIGN_DRAWS = 100_000

SLOPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: (x > 0) * 1.0,
    "silu": lambda x: (1 + np.exp(-x) * (1 + x)) / (1 + np.exp(-x)) ** 2,
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
    "square": lambda x: x * x,
    "clipped": lambda x: (np.abs(x) < 1) * 1.0,
}


def _downs(random: np.random.Generator, count: int, d: int, f: int, entries: str) -> np.ndarray:
    return random.standard_normal((count, d, f)) if entries == "gaussian" else random.choice([-1.0, 1.0], (count, d, f))


def _along(jacobians: np.ndarray) -> np.ndarray:
    return (jacobians[:, :, 0] ** 2).sum(1) / (jacobians**2).sum((1, 2))


def _cos2(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * second).sum((1, 2)) ** 2 / ((first**2).sum((1, 2)) * (second**2).sum((1, 2)))


@cache
def shares(d: int, f: int, activation: str, entries: str) -> np.ndarray:
    """|J x|^2 / |J|^2 with x the first axis, at pre-activations of standard deviation 1; a Jacobian of zeros is left out."""
    random = generator("N6", f"share {d} {f} {activation} {entries}")
    count = SIGN_DRAWS if entries == "signs" else DRAWS
    up = random.standard_normal((count, f, d))
    jacobians = (_downs(random, count, d, f, entries) * SLOPES[activation](up[:, None, :, 0])) @ up
    return _along(jacobians[(jacobians**2).sum((1, 2)) > 0])


@cache
def overlaps(d: int, f: int, inputs: str) -> tuple[np.ndarray, np.ndarray]:
    """cos^2 and the first share, of experts whose slope is the square of the reading; x the first axis, or first and second."""
    random = generator("N6", f"overlap {d} {f} {inputs}")
    jacobians = []
    for axis in (0, 0 if inputs == "one" else 1):
        up = random.standard_normal((DRAWS, f, d))
        jacobians.append((random.standard_normal((DRAWS, d, f)) * SLOPES["square"](up[:, None, :, axis])) @ up)
    return _cos2(*jacobians), _along(jacobians[0])


@cache
def shared_overlaps(d: int, f: int, activation: str) -> np.ndarray:
    """cos^2 of experts that share W_up."""
    count = DRAWS // 4
    random = generator("N6", f"shared {d} {f} {activation}")
    up = random.standard_normal((count, f, d))
    middle = SLOPES[activation](up[:, None, :, 0])
    return _cos2(*((random.standard_normal((count, d, f)) * middle) @ up for _ in range(2)))

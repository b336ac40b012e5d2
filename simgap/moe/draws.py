"""Filling arrays from a stream: the two laws that every initialisation and every input is made of."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from simgap.kernels.normal import NORMALS_AT_ONCE, box_muller, fill_normals
from simgap.moe.group import Draw
from simgap.seeding import Label, Role, stream, words


def fill_normal(out: np.ndarray, generator: np.random.Generator, std: float = 1.0) -> np.ndarray:
    """Fill a contiguous float array with independent N(0, std^2) from one generator, and return it.

    float32 by the Box-Muller kernel, two numbers from each uniform float64: several times the rate of numpy's ziggurat on one core, and
    without the interpreter's lock, so that threads draw side by side. float64 by numpy.
    """
    flat = _flat(out)
    if out.dtype != np.float32:
        generator.standard_normal(dtype=out.dtype, out=flat)
        flat *= std
        return out
    uniform = np.empty((min(flat.size, NORMALS_AT_ONCE) + 1) // 2)
    for start in range(0, flat.size, NORMALS_AT_ONCE):
        piece = flat[start : start + NORMALS_AT_ONCE]
        drawn = generator.random(out=uniform[: (piece.size + 1) // 2])
        box_muller(drawn, piece, np.float32(std))
    return out


def fill_rows(out: np.ndarray, labels: list[Label], std: float = 1.0) -> None:
    """Fill each row of an (S, m) float array, each contiguous, with N(0, std^2) from the stream of its label: `fill_normal`, row by row."""
    if out.dtype == np.float32:
        fill_normals(words(labels), out, np.float32(std))
        return
    for row, label in zip(out, labels, strict=True):
        fill_normal(row, stream(*label), std)


def fill_uniform(out: np.ndarray, generator: np.random.Generator, bound: float = 1.0) -> np.ndarray:
    """Fill a contiguous float array with independent uniform numbers on (-bound, bound), exactly symmetric about 0, and return it."""
    flat = _flat(out)
    generator.random(dtype=out.dtype, out=flat)
    step = 2.0 ** -(24 if out.dtype == np.float32 else 53)
    flat -= out.dtype.type(0.5 - step / 2)
    flat *= out.dtype.type(2 * bound)
    return out


def common_vectors(draws: Sequence[Draw], role: Role, sizes: Sequence[float], dtype: str) -> Float[np.ndarray, "s d"]:
    """A vector of each draw, of uniform direction and with this root mean square entry."""
    d = draws[0].spec.d_model
    direction = np.stack([stream(draw.seed, role, trial=draw.trial).standard_normal(d) for draw in draws])
    direction *= np.array(sizes)[:, None] * math.sqrt(d) / np.linalg.norm(direction, axis=1, keepdims=True)
    return direction.astype(dtype)


def _flat(out: np.ndarray) -> np.ndarray:
    if not out.flags.c_contiguous:
        raise ValueError(f"out: expected a contiguous array to fill, got strides {out.strides}")
    return out.reshape(-1)

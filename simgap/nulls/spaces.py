"""Layers whose space is not round: which of its overlaps law T5 or T1 gives, and which it does not."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from simgap.spaces import direction_scales
from simgap.specs import GAUSSIAN_INITS, LayerSpec, SpaceSpec
from simgap.theory import output_null, weight_null
from simgap.theory.anisotropic import Spread, anisotropic_spread, spectrum_bound

# Eigenvalues, and how often each comes.
Spectrum = tuple[tuple[float, ...], tuple[int, ...]]
SUPPOSES = "independent weights in a space of these sizes"
# By how much the kurtosis of a uniform entry is below a normal one's.
UNIFORM_DEFICIT = 6 / 5
# Entries to a direction from which the error below holds by simulation: below, an outlier's one or two make it several times too small.
FEWEST_UNIFORM = 4


@lru_cache(maxsize=256)
def spread_of(spectrum: Spectrum) -> Spread:
    """`anisotropic_spread`, computed once for all cells of a sweep that share the spectrum."""
    return anisotropic_spread(*spectrum)


@lru_cache(maxsize=64)
def squares(space: SpaceSpec | None, d_model: int) -> Spectrum:
    """The mean squares of a space's directions; of a round one where there is none."""
    if space is None:
        return (1.0,), (d_model,)
    values, counts = np.unique(direction_scales(space, d_model) ** 2, return_counts=True)
    return tuple(values.tolist()), tuple(counts.tolist())


def of_outputs(spec: LayerSpec) -> Spread | str:
    """The spread of cos^2 of two experts' outputs, where they are isotropic vectors times the sizes of the directions; or why they are
    not."""
    if spec.space.bias:
        return "space.bias: experts share a vector, and the overlap that it gives them follows no law here"
    if spec.init not in GAUSSIAN_INITS and spec.init != "orthogonal":
        return f"init = {spec.init}: law T5 needs a W_down that is isotropic but for the sizes of the space (Gaussian or orthogonal)"
    return spread_of(squares(spec.space, spec.d_model))


def of_weights(spec: LayerSpec, parts: Sequence[tuple[str, float]]) -> Spectrum | None:
    """The variances of the entries of some matrices flattened together, (role, variance) each; None where the space leaves them as they
    are."""
    sides = [("outputs" if role == "down" else "inputs", variance) for role, variance in parts]
    if not any(spec.space.scales(side) for side, _ in sides):
        return None
    values: dict[float, int] = {}
    for side, variance in sides:
        for value, count in zip(*squares(spec.space if spec.space.scales(side) else None, spec.d_model), strict=True):
            values[value * variance] = values.get(value * variance, 0) + count * spec.d_ff
    return tuple(values), tuple(values.values())


def orthogonal_mean(spectrum: Spectrum) -> float:
    """E cos^2 of matrices with orthonormal rows of W_down or columns of W_up, d_model <= d_ff, times sizes: law T1.

    The share of each direction is what it is, not only on average, and signs of directions are fair: E cos^2 = tr L^2/(tr L)^2.
    """
    return float(spectrum_bound(*spectrum))


def uniform_error(spectrum: Spectrum) -> float:
    """The size, relative, of what uniform entries add to the overlap of normal ones, p_i the entries' shares: twice the first order
    2 (6/5) (sum p^3 / sum p^2 - sum p^2), from E u_i^2/Q to second order in Q about its mean."""
    values, counts = (np.array(part, np.float64) for part in spectrum)
    shares = values / (values @ counts)
    second, third = counts @ shares**2, counts @ shares**3
    return float(2 * 2 * UNIFORM_DEFICIT * (third / second - second))


SIZES = "W_down Gaussian or Haar-orthogonal, times the sizes of the space's directions"
HYPOTHESES = (SIZES, *output_null.HYPOTHESES[1:])
WEIGHTS = (
    weight_null.HYPOTHESES[0],
    "entries i.i.d. and symmetric about 0, times the sizes of the space's directions",
    weight_null.HYPOTHESES[2],
)
COVARIANCE = "sd: pairs that share an expert have a covariance (law T5)"
GAUSSIAN = f"entries Gaussian; {COVARIANCE}"
TOKENS_OPEN = "sd: how far tokens of an expert share the large directions of its outputs is open"
NORMS_CONSTANT = "d_model <= d_ff: each direction's share of a matrix is constant"

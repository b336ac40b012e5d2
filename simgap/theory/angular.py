"""A fast route to Gaussian pair expectations: E p(su) p(sv) for all rho and std at once.

In polar coordinates of the plane u = r cos t, v = r cos(t - phi), rho = cos phi, so that

    E p(su) p(sv) = int_0^inf r exp(-r^2/2) A(s r, phi) dr,    A(a, phi) = (1/2 pi) int p(a cos t) p(a cos(t - phi)) dt.

A is an autocorrelation on the circle, A(a, phi) = sum_m |g_m(a)|^2 cos(m phi): a Chebyshev series in rho with coefficients >= 0, from one
FFT. It depends on s and r through a = s r alone, so one lattice in log a serves every std, and the trapezoid rule on it converges
exponentially: as a turns in the complex plane, exp(-r^2/2) allows an angle of pi/4, poles of p on the imaginary axis pi/2, those of
GELU's tanh form pi/6. Parity splits the series: even m carry the even part of p, odd m the odd part, so no digit is lost where the one
is small beside the other.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from simgap.theory.activations import Activation, activation_of
from simgap.theory.floats import FLOAT, shared

# exp(-2 pi (pi/6) / STEP) is 7e-18, for the narrowest of the sectors above.
STEP = 1 / 12
# A lattice point a = exp(k STEP) matters to std where NEAR < a / std < FAR: below, r^4 is under 1e-20 of its peak; above, exp(-r^2/2) is.
NEAR, FAR = 1e-5, 10.5
SMALLEST_STD, LARGEST_STD = 1e-6, 1e3
RHO_BLOCK = 4096
# Series that are summed together have lengths within this factor.
GROUP_SPAN = 16
# Enough for poles at +-i/20 of a pre-activation at the largest std.
MOST_ANGLES = 1 << 23


def pair_expectation(
    activation: str | Activation, rho: Float[np.ndarray, "*shape"], std: Float[np.ndarray, "*shape"], odd: bool
) -> Float[np.ndarray, "*shape"]:
    """E p(su) p(sv), element by element, p the even part of the activation, or with odd=True its odd part.

    rho in [-1, 1], std in [1e-6, 1e3]. Relative error about 1e-14 for rho >= 0, absolute about 1e-14 of the value at rho = 1 below.
    Cost: one matrix product over the distinct rho and std, about 150 lattice points per decade of both.
    """
    activation = activation_of(activation)
    if activation.kinked:
        raise ValueError(f"activation: {activation.name!r} is not smooth at 0, so its series on the circle converges too slowly")
    rhos, rho_at = np.unique(np.ravel(rho), return_inverse=True)
    stds, std_at = np.unique(np.ravel(std), return_inverse=True)
    result = np.empty(rho_at.size)
    if not rhos.size:
        return result.reshape(np.shape(rho))
    if stds[0] < SMALLEST_STD or stds[-1] > LARGEST_STD:
        raise ValueError(f"std: expected numbers from {SMALLEST_STD:g} to {LARGEST_STD:g}, got {stds[0]:g} to {stds[-1]:g}")
    points = np.arange(math.floor(math.log(stds[0] * NEAR) / STEP), math.ceil(math.log(stds[-1] * FAR) / STEP) + 1)
    ratio = np.exp(points * STEP) / stds[:, None]
    weights = STEP * ratio**2 * np.exp(-(ratio**2) / 2)
    for start in range(0, rhos.size, RHO_BLOCK):
        block = slice(start, start + RHO_BLOCK)
        inside = np.flatnonzero((rho_at >= start) & (rho_at < start + RHO_BLOCK))
        angular = _angular(activation, points, rhos[block], odd)
        if stds.size * angular.shape[1] <= 4 * inside.size:
            result[inside] = (weights @ angular)[std_at[inside], rho_at[inside] - start]
        else:
            for some in np.array_split(inside, -(-inside.size // RHO_BLOCK)):
                result[some] = np.einsum("ip,pi->i", weights[std_at[some]], angular[:, rho_at[some] - start])
    return result.reshape(np.shape(rho))


def _angular(activation: Activation, points: np.ndarray, rhos: Float[np.ndarray, " R"], odd: bool) -> Float[np.ndarray, "P R"]:
    """A(a, phi) at the lattice points and correlations: neighbours in length go through one Clenshaw recurrence together."""
    series = [_series(activation, k, odd) for k in points.tolist()]
    lengths = np.array([len(c) for c in series])
    # From the longest down, in groups: one table of all would be as long as the longest and as wide as the lattice.
    order = np.argsort(-lengths, kind="stable")
    result = np.empty((points.size, rhos.size))
    start = 0
    while start < order.size:
        stop = int(np.searchsorted(-lengths[order], -lengths[order[start]] / GROUP_SPAN, side="right"))
        group = order[start:stop]
        result[group] = _clenshaw([series[row] for row in group.tolist()], rhos, odd)
        start = stop
    return result


def _clenshaw(series: list[Float[np.ndarray, " M"]], rhos: Float[np.ndarray, " R"], odd: bool) -> Float[np.ndarray, "P R"]:
    """sum_j c_j T_2j(rho), or sum_j c_j T_2j+1(rho): Chebyshev series of the first or the third kind in 2 rho^2 - 1, the longest first."""
    lengths = np.array([len(c) for c in series])
    table = np.zeros((lengths[0], len(series), 1))
    for column, coefficients in enumerate(series):
        table[: len(coefficients), column, 0] = coefficients
    # Row j concerns the series longer than j, which come first; the recurrence of the others has yet to start, at zero.
    begun = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left").tolist()
    y = 2 * rhos * rhos - 1
    twice = 2 * y
    first, second, free = (np.zeros((len(series), rhos.size)) for _ in range(3))
    for j in range(len(table) - 1, 0, -1):
        top = begun[j]
        following = np.multiply(twice, first[:top], out=free[:top])
        following -= second[:top]
        following += table[j, :top]
        first, second, free = free, first, second
    last = (2 * y - 1 if odd else y) * first - second + table[0]
    return rhos * last if odd else last


@lru_cache(maxsize=4096)
def _series(activation: Activation, point: int, odd: bool) -> Float[np.ndarray, " M"]:
    """The coefficients of A(exp(point STEP), .), of even or of odd index, up to the last that matters."""
    radius = math.exp(point * STEP)
    part: Callable = activation.value if activation.even is None or odd else activation.even
    size = 64
    while True:
        values = part(radius * np.cos(2 * math.pi * np.arange(size) / size), FLOAT)
        whole = np.abs(np.fft.rfft(values) / size)
        spectrum = whole[odd::2]
        if activation.even is None and whole[::2].max() > 1e-12 * whole.max():
            raise ValueError(f"activation: {activation.name!r} is not odd; expected its even part")
        if spectrum[-len(spectrum) // 4 :].max() <= 1e-16 * spectrum.max():
            break
        if size == MOST_ANGLES:
            raise ValueError(
                f"activation: the series of {activation.name!r} at radius {radius:g} does not end; is it smooth, free of round-off?"
            )
        size *= 2
    power = 2 * spectrum**2
    if not odd:
        power[0] /= 2
    # |g_m|^2 carries round-off squared: what lies below 1e-32 of the largest is nothing.
    return shared(power[: np.flatnonzero(power >= 1e-32 * power.max())[-1] + 1])

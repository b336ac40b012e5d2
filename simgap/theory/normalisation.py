"""L1, L2: what LayerNorm and RMSNorm after an activation do to angles, and the correlation that explains an observed overlap."""

from typing import Any, Literal

import numpy as np

from simgap.theory.activations import Activation, activation_of
from simgap.theory.compression import root_between
from simgap.theory.context import Context
from simgap.theory.dual_map import dual_parts
from simgap.theory.floats import FLOAT, plain

ID = "L1"
HYPOTHESES = (
    "pre-activations of the two vectors jointly Gaussian, entry by entry independent, with one standard deviation",
    "wide: d_ff to infinity",
    "norm with unit gain and zero bias, its epsilon nil; act not constant",
)

THIRDS = 45
ROUND_OFF = 1e-12


def layernorm_cosine(cosine: Any, cosine_zero: Any, *, ctx: Context = FLOAT) -> Any:
    """c = (kappa - kappa0) / (1 - kappa0): the cosine that LayerNorm leaves of kappa(rho), wide limit (law L1).

    cosine: kappa(rho) in [-1, 1]; cosine_zero: kappa0 in [0, 1).
    """
    kappa, zero = ctx.number(cosine), ctx.number(cosine_zero)
    return (kappa - zero) / (1 - zero)


def raises_overlap_below(cosine_zero: Any, *, ctx: Context = FLOAT) -> Any:
    """kappa0 / (2 - kappa0): LayerNorm raises cos^2 where kappa(rho) is smaller than this, lowers it where larger (law L1).

    cosine_zero: kappa0 in (0, 1). At kappa0 = 0 (odd activations) LayerNorm changes no cosine.
    """
    zero = ctx.number(cosine_zero)
    return zero / (2 - zero)


def layernorm_map(activation: str | Activation, rho: Any, std: Any = 1.0) -> Any:
    """c(rho) = (kappa(rho) - kappa0) / (1 - kappa0), the cosine of the LayerNormed act(su) and act(sv) in the wide limit (law L1).

    rho: in [-1, 1]; std: in [1e-6, 1e3]; numbers or arrays that broadcast. |c| <= |rho|, c <= kappa. Absolute error below 1e-12 for std in
    [0.01, 100]. An RMSNorm divides a vector by its length alone: the map with it is `dual_map`.
    Raises ValueError for rho or std out of range.
    """
    return plain(centred_cosine(dual_parts(activation, rho, std), dual_parts(activation, 0.0, std)[0]))


def centred_cosine(parts: tuple[Any, Any, Any], rest: Any) -> Any:
    """`layernorm_map` from `dual_parts`, of which centring takes away rest = (E act(su))^2."""
    even, odd, size = parts
    return (even - rest + odd) / (size - rest)


def unique_above(at_minus_one: Any, lowest: Any, *, ctx: Context = FLOAT) -> Any:
    """max(map(-1), -min map)^2: an overlap above it has one correlation in [-1, 1] alone; one in (0, limit] has more (law L2).

    at_minus_one, lowest: map(-1) and the least value of map on [-1, 1], at most 0, for act = linear + even part. Where the least value is
    above 0, overlaps below its square have no correlation, and that square may have one alone. Where map rises throughout, as
    SiLU's does at s = 1, they are one, and negative for SiLU and GELU: the limit is map(-1)^2.
    """
    end, low = ctx.number(at_minus_one), ctx.number(lowest)
    larger = (end - low + ctx.magnitude(end + low)) / 2
    return larger * larger


def explaining_correlation(
    mso: Any, activation: str | Activation, std: Any = 1.0, norm: Literal["rmsnorm", "layernorm"] | None = None
) -> Any:
    """The correlation rho of the pre-activations that explains an overlap, if all pairs share it: map(rho)^2 = mso, map(rho) >= 0 (law L2).

    map: kappa, or `layernorm_map` for norm = "layernorm"; None and "rmsnorm" are one, an RMSNorm turns nothing. mso: in [0, 1]; std as
    there; numbers or arrays that broadcast. The largest such rho is returned, on the branch where the map rises. Another rho has the same
    overlap iff sqrt(mso) <= max(map(-1), -min map); where the map rises on all of [-1, 1] that is mso <= map(-1)^2.
    Absolute error below 1e-10 for mso >= 1e-4. Raises ValueError for mso out of range, or below what any rho gives, and for
    an unknown norm.
    """
    act = activation_of(activation)
    if norm not in (None, "rmsnorm", "layernorm"):
        raise ValueError(f"norm: expected None, 'rmsnorm' or 'layernorm', got {norm!r}")
    mso, std = np.broadcast_arrays(np.asarray(mso, np.float64), np.asarray(std, np.float64))
    inside = (mso >= 0) & (mso <= 1)
    if not inside.all():
        raise ValueError(f"mso: expected numbers in [0, 1], got {mso[~inside].flat[0]}")

    rest, _, size = dual_parts(act, 0.0, std)
    rest = rest if norm == "layernorm" else 0 * rest

    def above(rho: np.ndarray) -> np.ndarray:
        even, odd, _ = dual_parts(act, rho, std)
        return even - rest + odd - np.sqrt(mso) * (size - rest)

    low = np.where(above(np.zeros(mso.shape)) > 0, -1.0, 0.0)
    if (above(low) > 0).any():
        low = np.where(above(low) > 0, _turning_point(act, std), low)
    lowest = above(low) / size
    if (lowest > ROUND_OFF).any():
        at = np.argmax(lowest)
        raise ValueError(f"mso: no correlation gives an overlap as small as {mso.flat[at]} with {act.name!r} at std {std.flat[at]}")
    return plain(root_between(above, low, np.ones(mso.shape)))


def _turning_point(act: Activation, std: np.ndarray) -> np.ndarray:
    """The rho in [-1, 0] from which kappa rises. With a linear odd part kappa is convex on [-1, 1], as the even powers of rho are: a third
    that cannot hold the minimum is dropped. Rarely needed: of the activations here none has kappa(-1) > 0."""
    low, high = np.full(std.shape, -1.0), np.zeros(std.shape)

    def kappa(rho: np.ndarray) -> np.ndarray:
        even, odd, _ = dual_parts(act, rho, std)
        return even + odd

    for _ in range(THIRDS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        falls = kappa(left) > kappa(right)
        low, high = np.where(falls, left, low), np.where(falls, high, right)
    return np.where(kappa(np.full(std.shape, -1.0)) <= kappa(low), -1.0, low)

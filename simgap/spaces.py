"""How large the directions of a layer's space are: plain numbers, which draws apply and laws read."""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from simgap.specs import SpaceSpec


@lru_cache(maxsize=64)
def direction_scales(space: SpaceSpec, d_model: int) -> Float[np.ndarray, " d"]:
    """The sizes of the d_model directions, largest mean squares first, of mean square 1; all 1 in a round space. Read-only.

    >>> from simgap.specs import SpaceSpec
    >>> direction_scales(SpaceSpec(outliers=1, scale=7.0), 3).round(3).tolist()
    [1.698, 0.243, 0.243]
    """
    sizes = np.ones(d_model)
    if space.kind == "powerlaw":
        sizes = np.arange(1, d_model + 1, dtype=np.float64) ** (-space.alpha / 2)
    elif space.kind == "lognormal":
        quantile = NormalDist().inv_cdf
        normal = np.array([quantile(1 - (i + 0.5) / d_model) for i in range(d_model)])
        # The first is the largest: no spread makes one infinite.
        with np.errstate(over="ignore"):
            sizes = np.exp(space.spread * (normal - normal[0]))
    sizes[: space.outliers] *= min(space.scale, 1.0)
    sizes[space.outliers :] /= max(space.scale, 1.0)
    sizes /= sizes.max()
    sizes *= math.sqrt(d_model) / np.linalg.norm(sizes)
    sizes.flags.writeable = False
    return sizes

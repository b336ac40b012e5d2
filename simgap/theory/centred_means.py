"""T7: what experts' vectors overlap by once their common mean is taken out of them."""

import math
from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.token_variance import output_alignment

ID, DIRECTIONS_ID = "T7", "T7B"
GAUSSIAN = ("vectors of experts independent and isotropic Gaussian", "their mean over all experts is taken out of each")
DIRECTIONS = (
    "vectors of experts independent, the direction of each uniform, whatever their lengths",
    "each scaled to length 1, and then their mean over all experts taken out",
    "every expert receives a token",
)


def centred_correlation(n_experts: Any, own: Any = 1, other: Any = 1, total: Any = None, *, ctx: Context = FLOAT) -> Any:
    """Correlation, coordinate by coordinate, of two of E independent vectors less the mean of all: -1/(E-1) for equal variances (law T7).

    own, other, total: variances of a coordinate of the two, and their sum over all E experts, by default E; for unequal ones
    (S/E^2 - (s + s')/E) / sqrt((s (1 - 2/E) + S/E^2)(s' (1 - 2/E) + S/E^2)). n_experts: E >= 2.
    """
    e, s, r = ctx.number(n_experts), ctx.number(own), ctx.number(other)
    if total is None:
        return -1 / (e - 1)
    common = ctx.number(total) / (e * e)
    left, right = (one * (1 - 2 / e) + common for one in (s, r))
    return (common - (s + r) / e) / ctx.sqrt(left * right)


def null_centred_mso(width: int, n_experts: int, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 of two of E independent isotropic Gaussian vectors of equal variance less their mean, exactly (law T7).

    1 - (1 - rho^2) (d - 1)/d 2F1(1, 1; d/2 + 1; rho^2), rho = -1/(E - 1): about rho^2 + (1 - rho^2)(1 - 2 rho^2)/d. 1 at E = 2. Of unequal
    variances it is `output_alignment` at `centred_correlation`. width: d >= 1; n_experts: E >= 2.
    """
    if n_experts == 2:
        return ctx.number(1)
    return output_alignment(width, -centred_correlation(n_experts, ctx=ctx), ctx=ctx)


def null_centred_directions(width: Any, n_experts: Any, *, ctx: Context = FLOAT) -> Any:
    """E cos^2 of two of E independent uniform unit vectors less their mean, to O(1/d^3): rho^2 + c1/d + c2/d^2 (law T7B).

    c1 = (E-2)(E^3 - 2 E^2 - E - 2)/(E-1)^4, c2 = 2 (E-2)(5 E^4 - 9 E^3 - 7 E^2 - 3 E - 2)/(E (E-1)^6). No closed form is known: four
    vectors already sum to a walk. width: d; n_experts: E >= 2.
    """
    d, e = ctx.number(width), ctx.number(n_experts)
    first = (e - 2) * (e**3 - 2 * e**2 - e - 2) / (e - 1) ** 4
    second = 2 * (e - 2) * (5 * e**4 - 9 * e**3 - 7 * e**2 - 3 * e - 2) / (e * (e - 1) ** 6)
    return 1 / (e - 1) ** 2 + first / d + second / (d * d)


def centred_directions_spread(width: Any, n_experts: Any, *, ctx: Context = FLOAT) -> tuple[Any, Any]:
    """Variance and third cumulant of the mean of cos^2 over all pairs of the same, to leading order in 1/d (law T7B).

    To that order the mean is m chi^2 of E - 1 degrees of freedom and m' chi^2 of E (E - 3)/2 around its expectation, m = 4/((E-1)^5 d),
    m' = 2 E/((E-1)^3 d): 2 (E-1) m^2 + E (E-3) m'^2 and 8 (E-1) m^3 + 4 E (E-3) m'^3. n_experts: E >= 3.
    """
    d, e = ctx.number(width), ctx.number(n_experts)
    few, many = 4 / ((e - 1) ** 5 * d), 2 * e / ((e - 1) ** 3 * d)
    return 2 * (e - 1) * few**2 + e * (e - 3) * many**2, 8 * (e - 1) * few**3 + 4 * e * (e - 3) * many**3


def directions_error(width: float) -> float:
    """The size of what `null_centred_directions` leaves out, 2/d^3: simulated, 1.1/d^3 at E = 3, less at more experts."""
    return 2 / math.pow(width, 3)

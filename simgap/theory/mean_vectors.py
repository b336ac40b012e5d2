"""A6: mean hidden vectors of independent experts align, as far as the mean over tokens averages what is not common to all tokens.

Given the tokens, a mean hidden vector of d_ff -> infinity units has squared length D E act(sz)^2 per unit, D the mean over token pairs
(t, t'), t = t' included, of kappa(rho_tt'); two experts' means have the product (E act(sz))^2 per unit. So cos^2 -> kappa0^2 / (D_1 D_2).
"""

import math
from typing import Any

import numpy as np

from simgap.theory.activations import Activation, activation_of
from simgap.theory.context import Context
from simgap.theory.dual_map import dual_map
from simgap.theory.floats import FLOAT, plain
from simgap.theory.preactivations import cosine_rule

ID = "A6"
HYPOTHESES = (
    "wide: d_ff to infinity, error O(1 / d_ff)",
    "rows of W_up i.i.d. isotropic Gaussian, independent between the experts, of the tokens and of the routing",
    "tokens on the sphere ||x||^2 = d_model, so that every pre-activation has one standard deviation",
    "no gate, and E act(sz) != 0",
)
ROUTED = (
    "tokens uniform on the sphere (Gaussian tokens: the same to this order)",
    "top-k of a linear router with entries N(0, 1/d_model), experts and top_k fixed: error O(1 / d_model^2 + 1 / (tokens d_model))",
)


def mso_of_means(kappa_zero: Any, first: Any, second: Any, *, ctx: Context = FLOAT) -> Any:
    """cos^2 = kappa0^2 / (D_1 D_2) of two experts' mean hidden vectors, wide limit, for given tokens (law A6).

    first, second: D_1 and D_2 in [kappa0, 1], the mean of kappa(rho_tt') over all ordered token pairs of either expert, t = t' included.
    """
    return ctx.number(kappa_zero) ** 2 / (ctx.number(first) * ctx.number(second))


def mean_pair_kappa(tokens: Any, distinct: Any, *, ctx: Context = FLOAT) -> Any:
    """E D = 1/n + (1 - 1/n) q: n pairs t = t' have kappa(1) = 1, the others q = E kappa(rho) on average (law A6). tokens: n >= 1."""
    n = ctx.number(tokens)
    return 1 / n + (1 - 1 / n) * ctx.number(distinct)


def leading_mean_kappa(shares: tuple[Any, ...], d_model: Any, mean_cosine: Any = 0, *, ctx: Context = FLOAT) -> Any:
    """E kappa(rho) = kappa0 + kappa'(0) b + kappa''(0) / (2 d), error O(1/d^2), for tokens with E rho = b = O(1/d) (law A6).

    shares: c_0, c_1, c_2, ... of `hermite_shares`: kappa0 = c_0, kappa'(0) = c_1, kappa''(0) = 2 c_2. mean_cosine: b.
    """
    return shares[0] + shares[1] * ctx.number(mean_cosine) + shares[2] / ctx.number(d_model)


def sphere_remainder(shares: tuple[Any, ...], d_model: Any, *, ctx: Context = FLOAT) -> Any:
    """What `leading_mean_kappa` leaves out at b = 0 is between 0 and 3 (1 - c_0 - c_1 - c_2) / (d (d + 2)) (law A6)."""
    d = ctx.number(d_model)
    return 3 * (1 - shares[0] - shares[1] - shares[2]) / (d * (d + 2))


def jensen_excess(kappa_zero: Any, tokens: Any, distinct: Any, variance: Any, *, ctx: Context = FLOAT) -> Any:
    """E 1/D^2 exceeds 1/(E D)^2, but E kappa0^2/D^2 by at most 2 (n-1)/n^3 Var kappa(rho) (2 kappa0 + mu)/mu^3, mu = E D (law A6).

    For the same n independent tokens, uniform on the sphere, at both experts. distinct: E kappa(rho); variance: Var kappa(rho), at most
    kappa'(1)^2 / d. O(1 / (n^2 d)).
    """
    kappa_zero, n = ctx.number(kappa_zero), ctx.number(tokens)
    mu = mean_pair_kappa(n, distinct, ctx=ctx)
    return 2 * (n - 1) / n**3 * ctx.number(variance) * (2 * kappa_zero + mu) / mu**3


def hermite_shares(activation: str | Activation, std: Any = 1, *, ctx: Context = FLOAT) -> tuple[Any, Any, Any, Any]:
    """c_j = a_j^2 / sum_i a_i^2 for j = 0..3, the shares of the Hermite coefficients in kappa(rho) = sum_j c_j rho^j (law A1).

    By Stein's lemma a_1 = s E act', a_2 = E[x act'] / sqrt 2, a_3 = (E[x^2 act'] / s - s E act') / sqrt 6, at x = sz.
    """
    act = activation_of(activation)
    s = ctx.number(std)
    size = ctx.expect(lambda x: act.value(x, ctx) ** 2, s, degree=2)
    mean = ctx.expect(lambda x: act.value(x, ctx), s, degree=1)

    def slope_moment(power: int) -> Any:
        return ctx.expect(lambda x: act.slope(x, ctx) * x**power, s, degree=power + 1)

    slopes = [slope_moment(power) for power in range(3)]
    first, third = s * slopes[0], slopes[2] / s - s * slopes[0]
    # Products, not powers: a ball around 0 has a square, but its power by logarithms is undefined.
    return mean * mean / size, first * first / size, slopes[1] * slopes[1] / (2 * size), third * third / (6 * size)


def sphere_cosine_moment(d_model: Any, power: int, *, ctx: Context = FLOAT) -> Any:
    """E rho^p of the cosine of two uniform points of the sphere in R^d: prod_{i<=p/2} (2i-1)/(d+2i-2), and 0 for odd p."""
    if power % 2:
        return ctx.number(0)
    d, moment = ctx.number(d_model), ctx.number(1)
    for i in range(1, power // 2 + 1):
        moment = moment * (2 * i - 1) / (d + 2 * i - 2)
    return moment


def sphere_mean_magnitude(d_model: int, *, ctx: Context = FLOAT) -> Any:
    """E |rho| = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)): 1, 2/pi at d = 1, 2, then times d/(d+1) from d to d + 2. d_model: an int >= 1."""
    value = ctx.number(1) if d_model % 2 else 2 / ctx.number(ctx.pi)
    for d in range(2 - d_model % 2, d_model, 2):
        value = value * d / (d + 1)
    return value


def relu_sphere_kappa(d_model: int, *, ctx: Context = FLOAT) -> Any:
    """E kappa(rho) = (d/2) (E |rho|)^2 for ReLU and tokens uniform on the sphere: (1/pi)(1 + 1/(2d) + O(1/d^2)) (law A6)."""
    return d_model * sphere_mean_magnitude(d_model, ctx=ctx) ** 2 / 2


def sphere_mean_kappa(activation: str | Activation, std: Any, d_model: Any) -> Any:
    """E kappa(rho) for two tokens uniform on the sphere in R^d, element by element in std and d_model (law A6).

    d_model: integers >= 1. Absolute error below 1e-12. Raises ValueError for d_model below 1, and as `dual_map` does.
    """
    stds, widths = np.broadcast_arrays(np.asarray(std, np.float64), np.asarray(d_model))
    if not (widths >= 1).all():
        raise ValueError(f"d_model: expected integers >= 1, got {widths[~(widths >= 1)].flat[0]}")
    result = np.empty(widths.shape)
    for width in np.unique(widths):
        cosines, weights = cosine_rule(int(width))
        at = widths == width
        result[at] = dual_map(activation, cosines, stds[at][:, None]) @ weights
    return plain(result)


def mean_hidden_mso(activation: str | Activation, std: Any, tokens: Any, d_model: Any, mean_cosine: Any = 0.0) -> Any:
    """MSO of mean hidden vectors over n tokens each, [kappa0 / (1/n + (1 - 1/n) q)]^2, q = E kappa(rho) + kappa'(0) b (law A6).

    tokens: n, the tokens of each expert, the same or different ones: tokens x top_k / n_experts on average where they are routed; that it
    varies from expert to expert matters in O(1/n^2 + 1/(n d)). mean_cosine: b = E rho over distinct tokens of one expert, 0 for tokens
    spread uniformly (a hash or uniform router, or no router), `routed_mean_cosine` for a linear one. Numbers or arrays that broadcast.
    Leading order: error O(1/d_ff), O(1/(n^2 d)), and with b = O(1/d) also O(1/d^2). Raises ValueError for tokens below 1.
    """
    tokens = np.asarray(tokens, np.float64)
    if not (tokens >= 1).all():
        raise ValueError(f"tokens: expected numbers >= 1, got {tokens[~(tokens >= 1)].flat[0]:g}")
    kappa_zero, slope = hermite_shares(activation, std)[:2]
    distinct = sphere_mean_kappa(activation, std, d_model) + slope * np.asarray(mean_cosine, np.float64)
    shared = mean_pair_kappa(tokens, distinct)
    value = mso_of_means(kappa_zero, shared, shared)
    return plain(value)


def selection_probability(below: Any, n_experts: int, top_k: int, *, ctx: Context = FLOAT) -> Any:
    """P(a logit is among the top k of E) given that each other logit lies below it with probability p: P(Binomial(E-1, 1-p) < k)."""
    below = ctx.number(below)
    terms = (math.comb(n_experts - 1, i) * (1 - below) ** i * below ** (n_experts - 1 - i) for i in range(top_k))
    return sum(terms, 0 * below)


def selected_logit_moment(n_experts: int, top_k: int, power: int, *, ctx: Context = FLOAT) -> Any:
    """E[l_e^p | e is selected] for E independent standard normal logits: (E/k) E[z^p P(z is among the top k)] (law A6).

    1 <= top_k <= n_experts <= 1000. Raises ValueError otherwise.
    """
    if not 1 <= top_k <= n_experts <= 1000:
        raise ValueError(f"top_k: expected 1 <= top_k <= n_experts <= 1000, got top_k = {top_k}, n_experts = {n_experts}")
    root = ctx.sqrt(ctx.number(2))

    def weighted(z: Any) -> Any:
        return z**power * selection_probability((1 + ctx.erf(z / root)) / 2, n_experts, top_k, ctx=ctx)

    return n_experts * ctx.expect(weighted, 1, degree=max(power, 1)) / top_k


def selected_logit_mean(n_experts: int, top_k: int, *, ctx: Context = FLOAT) -> Any:
    """mu = E[l_e | e is selected], the mean of the top k of E standard normals (law A6): 1/sqrt(pi) at E = 2, k = 1, and 0 at k = E."""
    return selected_logit_moment(n_experts, top_k, 1, ctx=ctx)


def routed_mean_cosine(d_model: Any, n_experts: int, top_k: int, noise: Any = 0, *, ctx: Context = FLOAT) -> Any:
    """b = E rho of two tokens routed to one expert, mu^2 E / ((E - 1) d (1 + noise^2)); 0 for one expert (law A6).

    noise: standard deviation of Gaussian noise on the logits, in units of theirs (a noisy router's noise times its temperature). Exact for
    orthonormal router rows and Gaussian tokens; relative error O(1/d) for entries N(0, 1/d) and for tokens uniform on the sphere.
    """
    if n_experts == 1:
        return ctx.number(0) * ctx.number(d_model)
    return cosine_of_logits(selected_logit_mean(n_experts, top_k, ctx=ctx), d_model, n_experts, noise, ctx=ctx)


def cosine_of_logits(mu: Any, d_model: Any, n_experts: Any, noise: Any = 0, *, ctx: Context = FLOAT) -> Any:
    """||E[x | e]||^2 / d = mu^2 E / ((E - 1) d (1 + noise^2)) for orthonormal router rows: E[x | e] = sum_j E[l_j | e] r_j, where the
    expert's own logit has mean mu/sqrt(1 + noise^2) and each other -1/(E-1) times that (law A6). n_experts: E >= 2."""
    mu, experts, noise = ctx.number(mu), ctx.number(n_experts), ctx.number(noise)
    return mu * mu * experts / ((experts - 1) * ctx.number(d_model) * (1 + noise * noise))


def sphere_routed_cosine(d_model: int, n_experts: int, top_k: int, noise: Any = 0, *, ctx: Context = FLOAT) -> Any:
    """E rho for tokens uniform on the sphere: (pi/2) d (E |rho_0|)^2 = 1 + 1/(2d) + O(1/d^2) times `routed_mean_cosine` (law A6).

    Exact for orthonormal router rows; rho_0 is the cosine of two uniform points.
    """
    scale = ctx.number(ctx.pi) / 2 * d_model * sphere_mean_magnitude(d_model, ctx=ctx) ** 2
    return scale * routed_mean_cosine(d_model, n_experts, top_k, noise, ctx=ctx)


def logit_spread(square: Any, n_experts: Any, *, ctx: Context = FLOAT) -> Any:
    """||E[l l' | e] - I||_F^2 = (square - 1)^2 E^2 / ((E - 1)(E - 2)), square = E[l_e^2 | e], for E >= 3 (law A6)."""
    experts = ctx.number(n_experts)
    return (ctx.number(square) - 1) ** 2 * experts**2 / ((experts - 1) * (experts - 2))


def routed_remainder(shares: tuple[Any, ...], d_model: Any, n_experts: int, top_k: int, *, ctx: Context = FLOAT) -> Any:
    """Bound on |E kappa(rho) - c_0 - c_1 E rho - c_2/d|, router rows orthonormal and tokens uniform on the sphere (law A6).

    `remainder_of_moments` with the logits' own moments; O(1/d^2). 3 <= n_experts <= d_model.
    """
    spread = logit_spread(selected_logit_moment(n_experts, top_k, 2, ctx=ctx), n_experts, ctx=ctx)
    first = ctx.number(d_model) * routed_mean_cosine(d_model, n_experts, top_k, ctx=ctx)
    return remainder_of_moments(shares, d_model, n_experts, first, spread, ctx=ctx)


def remainder_of_moments(shares: tuple[Any, ...], d_model: Any, n_experts: Any, first: Any, spread: Any, *, ctx: Context = FLOAT) -> Any:
    """c_2 Delta/d^2 + c_3 [(E(E+2))^(3/2) + 3 T_1 m]/d^3 + (1-c_0-..-c_3) [(E(E+2))^2 + 6 (E+Delta) m + 3m(m+2)]/(d(d+2))^2, m = d - E.

    first: T_1 = E <l, l'> = mu^2 E/(E-1) of two tokens' logits; spread: Delta, E <l, l'>^2 = E + Delta (law A6).
    """
    d, experts = ctx.number(d_model), ctx.number(n_experts)
    rest, length = d - experts, experts * (experts + 2)
    third = (length * ctx.sqrt(length) + 3 * ctx.number(first) * rest) / d**3
    fourth = (length**2 + 6 * (experts + ctx.number(spread)) * rest + 3 * rest * (rest + 2)) / (d * (d + 2)) ** 2
    return shares[2] * spread / d**2 + shares[3] * third + (1 - shares[0] - shares[1] - shares[2] - shares[3]) * fourth

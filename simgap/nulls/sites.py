"""The null of each activation site and reading of a spec: which law gives it, under what hypotheses, and to what order."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from simgap.nulls import spaces
from simgap.spaces import direction_scales
from simgap.specs import GAUSSIAN_INITS, LayerSpec
from simgap.theory import anisotropic, layernorm_null, output_null, weight_null
from simgap.theory.activations import SEEN_AT, activation_of, irregular, looked_up
from simgap.theory.anisotropic import Spread
from simgap.theory.dual_map import cosine_of_parts, dual_parts
from simgap.theory.finite_width import exact_token_mso
from simgap.theory.floats import FLOAT, normal_rule, shared
from simgap.theory.gated import gated_share_moment
from simgap.theory.mean_vectors import cosine_of_logits, mean_pair_kappa, selected_logit_mean
from simgap.theory.normalisation import centred_cosine
from simgap.theory.preactivations import norm_rule, over_cosines, over_norms, preactivation_std, token_cosines
from simgap.theory.token_variance import output_alignment, token_covariance
from simgap.theory.wide_overlap import affine_moments, overlap_from_moments

Kind = Literal["exact", "leading"]


@dataclass(frozen=True)
class SiteNull:
    """One pair's null at a site: mean of cos^2, its law and hypotheses, how it is known, and the order of its error where that is leading,
    with the size of that error, absolute.

    width: the dimension in which the two vectors are isotropic as far as second moments go, None where they share a mean or a direction
    is larger than another. spread: that of cos^2 of two mean vectors in such a space.
    """

    mean: float
    law: str
    hypotheses: tuple[str, ...]
    kind: Kind = "exact"
    order: str = ""
    width: int | None = None
    error: float = 0.0
    spread: Spread | None = None


def site_null(spec: LayerSpec, site: str, reading: str, tokens: int, across: bool) -> SiteNull | str:
    """The null of a site in a reading, or why there is none. across: pairs of a routed expert with a shared one."""
    if site not in ("pre", "hidden", "normed", "output") or reading not in ("mean", "token", "all"):
        # By name, so that a site or reading that is added has no law until one is written.
        return f"no law: none is written for {reading} {site}"
    if spec.init == "upcycled":
        return UPCYCLED
    if site == "normed" and spec.norm == "none":
        return "norm = none: there is no normed site"
    if site == "output":
        uneven = spec.space.bias > 0 or spec.space.scales("outputs")
        supposed = spaces.HYPOTHESES if uneven else output_null.HYPOTHESES
        hypotheses = supposed if spec.n_shared_experts == 0 else (*supposed[:3], SHARED_APART)
        if uneven:
            spread = spaces.of_outputs(spec)
            return spread if isinstance(spread, str) else SiteNull(spread.mean, anisotropic.ID, hypotheses, spread=spread)
        return SiteNull(output_null.null_output_mso(spec.d_model), output_null.ID, hypotheses, width=spec.d_model)
    independent = (*weight_null.HYPOTHESES, W_UP_INDEPENDENT)
    if spec.d_ff == 1:
        return SiteNull(weight_null.null_mso(1), weight_null.ID, ("one hidden unit: every cos^2 is 1; both vectors non-zero",), width=1)
    affine = _norm_of(spec, site)[1][0] > 0
    if site == "normed" and spec.norm == "layernorm" and not affine:
        mean = layernorm_null.null_layernorm_mso(spec.d_ff)
        return SiteNull(mean, layernorm_null.ID, (*layernorm_null.HYPOTHESES, W_UP_INDEPENDENT), width=spec.d_ff - 1)
    if not affine and (site == "pre" or sign_symmetric(spec)):
        own = (SEEN_ODD,) if site != "pre" and not spec.gated and looked_up(spec.activation).plain else ()
        law = "A7" if spec.gated and site != "pre" else weight_null.ID
        return SiteNull(weight_null.null_mso(spec.d_ff), law, (*independent, *own), width=spec.d_ff)
    if reading == "mean":
        return _mean_vectors(spec, site, tokens, across)
    return _one_token(spec, site)


def sign_symmetric(spec: LayerSpec) -> bool:
    """Whether flipping the sign of a row of W_up flips the hidden entry: a gated or an odd unit."""
    return spec.gated or looked_up(spec.activation).even is None


def unreliable(spec: LayerSpec, std: float) -> str:
    """Why no integral over the activation can be relied on, or nothing."""
    act = looked_up(spec.activation)
    return irregular(act, SEEN_AT) or irregular(act, std)


def _own(spec: LayerSpec) -> tuple[str, ...]:
    """What is taken for granted of an activation of the user's own."""
    return (SMOOTH,) if looked_up(spec.activation).plain else ()


def _one_token(spec: LayerSpec, site: str) -> SiteNull | str:
    """Two experts on one token, averaged over the tokens' norms: law A5, exact for Gaussian W_up and tokens; L1 for a gain and bias."""
    norms = norm_law(spec)
    if isinstance(norms, str):
        return norms
    power, dimension = norms
    if dimension < 1:
        return f"inputs = {spec.inputs.kind}: the tokens' norms spread too far for law A5 (effective dimension {dimension:.2g} < 1)"
    centred, affine = _norm_of(spec, site)
    std = preactivation_std(spec.init, spec.d_model, spec.d_ff, power)
    if why := unreliable(spec, std):
        return why
    uneven = spec.space.scales("inputs")
    if uneven and spec.init.endswith("uniform"):
        return f"init = {spec.init}: a few large columns of uniform entries give no Gaussian pre-activations"
    gaussian_tokens = spec.inputs.kind in ("gaussian", "sphere", "clusters") and not spec.inputs.mean and not uneven
    # The order's terms, and their sizes as shares of the mean.
    error = {} if gaussian_tokens else {"1/D^2": 1 / dimension**2}
    if spec.router.kind == "expert_choice" or spec.init not in GAUSSIAN_INITS:
        # The longer a token, the more experts choose it.
        error["1/d_model"] = 1 / spec.d_model
    if affine[0]:
        moments = _entry_moments(spec.activation, spec.gated, centred, std, dimension)
        mean = over_norms(lambda _: overlap_from_moments(affine_moments(lambda p: moments[p], *affine), spec.d_ff), std, dimension)
    else:
        mean = _rectified_overlap(spec.activation, spec.d_ff, std, dimension)
    if mean > 1:
        return _beyond_one(spec, mean)
    hypotheses = (NEAR_GAUSSIAN, W_UP_INDEPENDENT, "both vectors non-zero", *((AFFINE,) if affine[0] else ()), *_own(spec))
    size = mean * sum(error.values())
    terms = list(error)
    if affine[0]:
        size += _affine_error(spec, affine, float(np.max(moments[4])))
        terms.append("1/d_ff" if _moved_by_norms(spec, affine) else "1/d_ff^2")
    order = f"O({' + '.join(terms)})" if terms else ""
    if not gaussian_tokens:
        order += f", D = {dimension:.3g} the effective dimension of the tokens' norms"
    return SiteNull(mean, "L1" if affine[0] else "A5", hypotheses, "leading" if terms else "exact", order, error=size)


def _moved_by_norms(spec: LayerSpec, affine: tuple[float, bool]) -> bool:
    """Whether what a vector is divided by, which its own entries decide, meets a component that the two vectors share: then the moments of
    independent entries miss a term in 1/d_ff."""
    return affine[1] or not (spec.norm == "layernorm" or sign_symmetric(spec))


def _affine_error(spec: LayerSpec, affine: tuple[float, bool], kurtosis: float) -> float:
    """The size of the error that moments of independent entries have after a norm with a gain and bias of spread affine[0] > 0."""
    of_norms = kurtosis * affine[0] ** 2 / (2 * spec.d_ff) if _moved_by_norms(spec, affine) else 0.0
    return of_norms + 2 / spec.d_ff**2


@lru_cache(maxsize=4096)
def _rectified_overlap(activation: str, d_ff: int, std: float, dimension: float) -> float:
    """E cos^2 of two rectified vectors on a token at every d_ff >= 2 (law A5), over the tokens' norms."""
    return over_norms(lambda stds: [exact_token_mso(activation, d_ff, float(s)) for s in stds], std, dimension)


def _mean_vectors(spec: LayerSpec, site: str, tokens: int, across: bool) -> SiteNull | str:
    """Two experts' means over their tokens: law A6, with the routed tokens' common direction, and L1 for a gain and bias."""
    if why := _uneven_tokens(spec):
        return f"{why}: law A6 needs isotropic tokens, independent of each other"
    if spec.router.kind == "expert_choice" or (spec.router.kind == "sigmoid" and spec.router.bias):
        return f"router = {spec.router.kind}: the common direction of its tokens follows no law here"
    if _crowded(spec):
        return f"n_experts > d_model: law A6 needs a router of nearly orthogonal rows, and {spec.n_experts} in R^{spec.d_model} are not"
    centred, affine = _norm_of(spec, site)
    std = preactivation_std(spec.init, spec.d_model, spec.d_ff)
    if why := unreliable(spec, std):
        return why
    # Signed: an entry has mean sqrt(kappa0) after RMSNorm or none, 0 after centring.
    kappa0 = 0.0 if centred or sign_symmetric(spec) else cosine_of_parts(_parts_at_zero(spec.activation, std))

    def common(cosine: float, count: float) -> float:
        alike = _cosines(spec.activation, spec.gated, centred, std, spec.d_model, cosine)
        return mean_pair_kappa(count, over_cosines(lambda _: alike, spec.d_model, cosine))

    routed = common(routed_cosine(spec), max(1.0, tokens * spec.top_k / spec.n_experts))
    other = common(0.0, tokens) if across else routed
    sides = [_normal_moments(math.sqrt(kappa0), max(side - kappa0, 0.0)) for side in (routed, other)]
    joint = affine_moments(lambda p: sides[0][p], *affine, second=lambda p: sides[1][p])
    share = "every expert receives its share of the tokens"
    hypotheses = (NEAR_GAUSSIAN, W_UP_INDEPENDENT, share, *((AFFINE,) if affine[0] else ()), *_own(spec))
    if spec.router.kind not in BLIND_ROUTERS:
        hypotheses = (*hypotheses, "d_model far above n_experts: the router's rows are nearly orthogonal")
    mean = float(overlap_from_moments(joint, spec.d_ff))
    if mean > 1:
        return _beyond_one(spec, mean)
    # The last term is of the counts, which vary from expert to expert: no width removes it.
    order = "O(1/d_model + 1/d_ff + (n_experts/(tokens*top_k))^2)"
    size = mean * (1 / spec.d_model + 1 / spec.d_ff + (spec.n_experts / (tokens * spec.top_k)) ** 2)
    if affine[0]:
        # Means over tokens are nearly normal.
        size += _affine_error(spec, affine, 3.0)
    return SiteNull(mean, "L1" if affine[0] else "A6", hypotheses, "leading", order, error=size)


def _norm_of(spec: LayerSpec, site: str) -> tuple[bool, tuple[float, bool]]:
    """Whether the site is centred, and the standard deviation of its gain and bias with whether experts share them."""
    if site != "normed":
        return False, (0.0, False)
    shared = spec.norm_affine == "shared"
    return spec.norm == "layernorm", (0.0 if spec.norm_affine == "none" else spec.norm_affine_std, shared)


@lru_cache(maxsize=256)
def _entry_moments(activation: str, gated: bool, centred: bool, std: float, dimension: float) -> list[Float[np.ndarray, " n"]]:
    """E x^p, p = 0..4, of a hidden entry scaled to E x^2 = 1, centred where LayerNorm does it, at the nodes of the tokens' norms."""
    nodes, weights = normal_rule()
    value = activation_of(activation).value(norm_rule(std, dimension)[0][:, None] * nodes, FLOAT)
    raw: list[Any] = [power @ weights for power in (np.ones_like(value), value, value**2, value**3, value**4)]
    if gated:
        # Times a standard normal: odd moments vanish, the fourth gains a factor 3.
        raw = [raw[0], 0 * raw[1], raw[2], 0 * raw[3], 3 * raw[4]]
    if centred:
        mean = raw[1]
        raw = [sum(math.comb(p, i) * raw[i] * (-mean) ** (p - i) for i in range(p + 1)) for p in range(5)]
    return [shared(moment / raw[2] ** (p / 2)) for p, moment in enumerate(raw)]


def _normal_moments(mean: float, variance: float) -> tuple[float, ...]:
    """E x^p, p = 0..4, of N(mean, variance): a mean over many tokens is nearly normal about the mean that all entries share."""
    m, v = mean, variance
    return (1.0, m, m * m + v, m**3 + 3 * m * v, m**4 + 6 * m * m * v + 3 * v * v)


@lru_cache(maxsize=1024)
def _cosines(activation: str, gated: bool, centred: bool, std: float, d_model: int, cosine: float) -> Float[np.ndarray, " n"]:
    """The cosines of one expert's vectors at two tokens of each of the `token_cosines`, wide limit (laws A1, A7, L1)."""
    parts = _parts(activation, std, d_model, cosine)
    if centred and not gated:
        return shared(centred_cosine(parts, _parts_at_zero(activation, std)[0]))
    value = cosine_of_parts(parts)
    return shared(token_cosines(d_model, cosine)[0] * value if gated else value)


@lru_cache(maxsize=256)
def _parts(activation: str, std: float, d_model: int, cosine: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return shared(*dual_parts(activation, token_cosines(d_model, cosine)[0], std))


@lru_cache(maxsize=1024)
def _parts_at_zero(activation: str, std: float) -> tuple[float, float, float]:
    even, odd, size = dual_parts(activation, 0.0, std)
    return float(even), float(odd), float(size)


def norm_law(spec: LayerSpec) -> tuple[float, float] | str:
    """E ||x||^2 / d and the effective dimension 2 (E r^2)^2 / Var r^2 of the tokens' norm, r = ||x|| / sqrt(d), as W_up sees them; or why
    none is known."""
    inputs, d = spec.inputs, spec.d_model
    if inputs.kind == "file":
        return "inputs = file: the norms of its rows follow no law"
    if inputs.massive:
        return "inputs.massive: the tokens' norms are of two sizes, and law A5 knows one"
    if spec.space.scales("inputs"):
        if inputs.kind != "gaussian" or inputs.mean:
            return f"{_uneven_tokens(spec, but_space=True)}: the norms of tokens that W_up scales are known for gaussian ones alone"
        # What W_up sees of a token is Gaussian, with the sizes of the space.
        fourth = float((direction_scales(spec.space, d) ** 4).sum()) / d**2
        return 1.0, 1 / fourth
    power = 1 + inputs.mean**2
    spread = 2.0 / d
    if inputs.kind == "sphere":
        spread = 0.0
    elif inputs.kind == "powerlaw":
        spectrum = np.arange(1, d + 1) ** -inputs.alpha
        spread = float(2 * (spectrum**2).sum() / spectrum.sum() ** 2)
    elif inputs.kind == "student":
        if inputs.dof <= 4:
            return f"inputs = student with dof = {inputs.dof:g}: the tokens' squared norms have no variance"
        spread = (3 * (inputs.dof - 2) / (inputs.dof - 4) - 1) / d
    # The cross term 2 <mean, x> has variance 4 mean^2 / d in units of d.
    spread += 4 * inputs.mean**2 / d
    return power, 2 * power**2 / spread if spread else math.inf


def routed_cosine(spec: LayerSpec) -> float:
    """The cosine that two isotropic tokens of one expert have on average, leading order in 1/d (law A6)."""
    if spec.router.kind in BLIND_ROUTERS:
        return 0.0
    noise = spec.router.noise * spec.router.temperature if spec.router.kind == "noisy" else 0.0
    return float(cosine_of_logits(_selected_mean(spec.n_experts, spec.top_k), spec.d_model, spec.n_experts, noise))


@lru_cache(maxsize=1024)
def _selected_mean(n_experts: int, top_k: int) -> float:
    return selected_logit_mean(n_experts, top_k)


def _uneven_tokens(spec: LayerSpec, but_space: bool = False) -> str:
    """Why tokens, as W_up sees them, are not isotropic, independent and of one size; nothing where they are."""
    inputs = spec.inputs
    if inputs.kind not in ("gaussian", "sphere") or inputs.mean:
        return f"inputs = {inputs.kind}{', with a mean' if inputs.mean else ''}"
    if inputs.massive or inputs.document_correlation:
        return f"inputs = {inputs.kind}, {'some of them massive' if inputs.massive else 'correlated within a document'}"
    return "" if but_space or not spec.space.scales("inputs") else "space.scaled = " + spec.space.scaled


def _crowded(spec: LayerSpec) -> bool:
    """Whether the router reads tokens by more rows than they have dimensions, so that its rows are far from orthogonal."""
    return spec.router.kind not in BLIND_ROUTERS and spec.n_experts > spec.d_model


def token_variance(spec: LayerSpec, site: str, reading: str, width: int, tokens: int, across: bool) -> float | str:
    """Variance of one pair's mean of cos^2 over tokens at a site without a common mean, in `width` dimensions; or why none is known.

    Tokens share experts: their covariance is a floor that no number of tokens removes (law N2B).
    """
    if why := _uneven_tokens(spec):
        return f"sd: {why}: the tokens' cosines follow no law here"
    if spec.router.kind in ("expert_choice", "sigmoid"):
        return f"sd: router = {spec.router.kind}: tokens per pair of experts vary, how much is open"
    if reading != "all" and _crowded(spec):
        return f"sd: n_experts > d_model: {spec.n_experts} router rows in R^{spec.d_model} share the tokens unevenly, how much is open"
    if width < 2:
        return "sd: one dimension, every cos^2 is 1"
    std = preactivation_std(spec.init, spec.d_model, spec.d_ff)
    if site != "pre" and (why := unreliable(spec, std)):
        return f"sd: {why}"
    cosine = 0.0 if reading == "all" else routed_cosine(spec)
    centred = spec.norm == "layernorm" and site in ("normed", "output")
    # What W_up gives has not met the activation: one floor for all of them.
    unit = ("identity", False, False) if site == "pre" else (spec.activation, spec.gated, centred)
    floor = _floor(site, width, spec.d_ff, *unit, std, spec.d_model, cosine)
    own = weight_null.null_variance(width)
    if spec.gated and site in ("hidden", "normed"):
        # Heavy tails: the exact moment of a gated vector's shares, at the tokens' common norm.
        share = gated_share_moment(spec.activation, std, width)
        own = weight_null.null_variance_general(width, share, share)
    if reading == "all":
        per_pair = float(tokens)
    elif across:
        per_pair = tokens * spec.top_k / spec.n_experts
    else:
        per_pair = tokens * spec.top_k * (spec.top_k - 1) / (spec.n_experts * (spec.n_experts - 1))
    # Pairs are chosen at random: a pair's share of the tokens has a Poisson's spread where they are few.
    return own / per_pair + floor * (1.0 if reading != "all" else 1 - 1 / per_pair)


@lru_cache(maxsize=4096)
def _floor(site: str, width: int, d_ff: int, activation: str, gated: bool, centred: bool, std: float, d_model: int, cosine: float) -> float:
    """The mean covariance of one pair's cos^2 at two tokens, from Q, the mean squared cosine of one expert's vectors at the two."""

    def alignment(rho: np.ndarray) -> np.ndarray:
        if site == "pre":
            return output_alignment(width, rho)
        vectors = _cosines(activation, gated, centred, std, d_model, cosine)
        if site == "output":
            # At finite d_ff hidden vectors meet by chance as well, as samples of d_ff correlated normals do.
            return output_alignment(width, np.sqrt(output_alignment(d_ff, vectors)))
        return 1 / width + vectors**2 * (1 - 1 / width)

    def covariance(rho: np.ndarray) -> np.ndarray:
        both = alignment(rho)
        return token_covariance(width, both, both)

    return over_cosines(covariance, d_model, cosine)


def _beyond_one(spec: LayerSpec, mean: float) -> str:
    """Why there is no null where an expansion in 1/d_ff leaves [0, 1]."""
    return (
        f"d_ff = {spec.d_ff}: too few for law L1 at norm_affine_std = {spec.norm_affine_std:g}, whose first two orders make {mean:.3g} > 1"
    )


# Routers that choose without reading the token.
BLIND_ROUTERS = ("uniform", "hash", "soft")
UPCYCLED = "init = upcycled: experts share a base, so they are not independent and no null law holds"
SHARED_APART = "no residual added to the vectors, no norm after W_down; shared experts kept apart, not added"
SMOOTH = "activation smooth on either side of 0, as two quadratures see it"
SEEN_ODD = "activation odd, as it is at 200 numbers from 0.001 to 30"
W_UP_INDEPENDENT = "W_up and W_gate independent of the tokens and of the routing"
NEAR_GAUSSIAN = "pre-activations Gaussian given the token (Gaussian W_up; otherwise up to O(1/d_model)), entries independent"
AFFINE = "gain 1 + N(0, norm_affine_std^2), bias N(0, norm_affine_std^2), entry by entry"
TOKENS_SHARE = "sd: tokens share experts, with the floor of N2's covariance; isotropic tokens spread evenly over the pairs of experts"

"""L2: the correlation of pre-activations that explains an overlap of activations, with and without LayerNorm."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator
from simgap.certify import BALL, PairSeries, enclose_root, hermite_coefficient, sign
from simgap.theory.activations import activation_of
from simgap.theory.dual_map import dual_map
from simgap.theory.floats import FLOAT
from simgap.theory.normalisation import explaining_correlation, layernorm_map, unique_above

BITS = 100

STATEMENT = Statement(
    id="L2",
    kind=EQUAL,
    title="an overlap of activations fixes the correlation of the pre-activations behind it",
    claim=(
        r"\text{MSO} = \kappa(\rho)^2 \text{ (no norm, RMSNorm) or } c(\rho)^2 \text{ (LayerNorm): for } \sqrt{\text{MSO}} \ge \kappa(0)"
        r" \text{ or } c(0)\text{ exactly one } \rho \in [0,1];\ \text{exactly one in } [-1,1] \text{ with } \kappa(\rho)^2 = \text{MSO"
        r" iff } \sqrt{\text{MSO}} > \max(\kappa(-1), -\min\kappa)\text{, for } \text{MSO} > 0,\ \min\kappa \le 0,\ \sigma(x) = \lambda x"
        r" + \text{even};\quad \text{SiLU, } s = 1,\ \text{MSO} = 0.6:\ \rho = 0.77969427778\ldots,\ \text{with LayerNorm }"
        r" 0.80713210766\ldots"
    ),
    hypotheses=(
        "the wide limits of A1 and L1, SiLU and its like: act = lambda x + an even part, not affine, lambda > 0",
        "one correlation rho common to all pairs and tokens",
        "0 <= MSO <= 1; for the iff: MSO > 0 (SiLU, s = 1, has one rho at MSO = 0 too) and min kappa <= 0, as SiLU, GELU and ReLU have"
        " at every s (where min kappa > 0 lies inside, MSO = (min kappa)^2 has one rho, and less has none)",
    ),
    box={"MSO": (0, 1), "s": (0, None)},
    premises=(
        computed("A1: kappa = sum a_j^2 rho^j / sum a_j^2"),
        computed("A2: kappa'(rho) is s^2 E act'(su) act'(sv) / E act^2 (Price)"),
        computed("L1: c = (kappa - kappa0)/(1 - kappa0)"),
    ),
    tight="SiLU, s = 10: kappa falls at -1, so that MSO just above kappa(-1)^2 has three rho; at s = 1 it rises throughout",
)


@dataclass(frozen=True)
class Law:
    inverse: Callable[..., Any] = explaining_correlation
    unique: Callable[..., Any] = unique_above


LAW = Law()
MSO = Fraction(3, 5)


def symbolic(law: Law = LAW) -> Check:
    return Check.not_applicable("a root without closed form: it is enclosed, and its uniqueness follows from signs that are certified")


def _even(x: Any) -> Any:
    """SiLU's even part, entire near the real line."""
    return x * BALL.tanh(x / 2) / 2


# Enough for a radius below 1e-20 at rho = 0.81, as what is left of E e^2 after so many coefficients is small too.
TERMS = 120


@cache
def _series(bits: int) -> tuple[PairSeries, Any]:
    """Even(rho) at s = 1 by the even coefficients alone, as the odd ones of an even function are 0, and Even(1). TERMS decides the radius;
    bits keys the cache."""

    def unwatched(analytic: bool) -> Any:
        return nullcontext()

    top = BALL.expect(lambda x: _even(x) ** 2, 1, degree=2)
    products, left = [], top
    for j in range(TERMS):
        a = hermite_coefficient(_even, BALL.number(1), j, 1, unwatched) if j % 2 == 0 else BALL.number(0)
        products.append(a * a)
        left = left - a * a
    return PairSeries(tuple(products), left.abs_upper()), top


@cache
def _roots(bits: int) -> tuple[Any, Any]:
    """rho with kappa(rho) = sqrt(MSO), and with c(rho) = sqrt(MSO), times E act^2 and Var act."""
    series, top = _series(bits)
    root, square, zero = BALL.sqrt(BALL.number(MSO)), top + BALL.number(1) / 4, series.products[0]
    ends = Fraction(3, 4), Fraction(207, 256)
    plain = enclose_root(lambda rho: series.at(rho) + rho / 4 - root * square, *ends, 90)
    layer = enclose_root(lambda rho: series.at(rho) - zero + rho / 4 - root * (square - zero), *ends, 90)
    return plain, layer


@cache
def _end_slope(std: int, bits: int) -> Any:
    """E act'(sz) act'(-sz), which has the sign of kappa'(-1)."""
    slope = activation_of("silu").slope
    return BALL.expect(lambda x: slope(x, BALL) * slope(-x, BALL), std, degree=2)


def certified(law: Law = LAW) -> Check:
    """The two roots enclosed; what decides uniqueness, by sign."""
    proof = Derivation()
    bits = flint.ctx.prec
    proof.step("on [0, 1] kappa and c rise strictly from kappa0 and 0 to 1 (A1, L1): each value in between has one rho there")
    for norm, root, digits in zip((None, "layernorm"), _roots(bits), ("0.779694277782634392948", "0.807132107664795508891"), strict=True):
        proof.ball(f"SiLU, s = 1, MSO = 3/5, norm = {norm}: rho", root)
        proof.within(f"it is {digits}", root - BALL.number(digits), "1e-21")
        root_in_floats = law.inverse(0.6, "silu", 1.0, norm)
        proof.within(f"the float route's {root_in_floats!r} agrees", root - BALL.number(Fraction(root_in_floats)), "1e-12")
    plain, layer = _roots(bits)
    proof.record("LayerNorm needs the larger correlation", sign(layer - plain, ">"))
    proof.step(
        "act = lambda x + even: all odd coefficients but a_1 are 0, so kappa'' = sum j (j-1) a_j^2 rho^(j-2) over even j is >= 0: kappa is"
        " convex on [-1, 1]"
    )
    proof.step(
        "v = sqrt(MSO) > 0 >= min kappa: right of the minimum kappa = v has one solution, being convex with kappa(1) = 1 >= v, and left of"
        " it another iff v <= kappa(-1)"
    )
    proof.step("kappa = -v has none iff -v < min kappa; so one solution in all iff v > max(kappa(-1), -min kappa)")
    proof.record("s = 1: kappa'(-1) > 0, so kappa rises on all of [-1, 1] and min kappa = kappa(-1)", sign(_end_slope(1, bits), ">"))
    proof.record("s = 10: kappa'(-1) < 0, so min kappa < kappa(-1)", sign(_end_slope(10, bits), "<"))
    product = BALL.expect(lambda x: -x * x * BALL.logistic(x) * BALL.logistic(-x), 10, degree=2)
    proof.record("s = 10: kappa(-1) < 0, as act(x) act(-x) < 0", sign(product, "<"))
    proof.step("SiLU and GELU have act(x) act(-x) < 0 for x != 0, ReLU 0: kappa(-1) <= 0, so min kappa <= 0 at every s")
    # Any numbers with min kappa < kappa(-1) < 0: overlaps between the squares have solutions on both sides of the minimum.
    end, lowest = BALL.number("-0.0024"), BALL.number("-0.0025")
    between = BALL.number("0.00245") ** 2
    proof.record(
        "with kappa(-1) = -0.0024 and min kappa = -0.0025, MSO = 0.00245^2 is not unique",
        sign(law.unique(end, lowest, ctx=BALL) - between, ">"),
    )
    proof.record("and MSO = 0.00255^2 is", sign(BALL.number("0.00255") ** 2 - law.unique(end, lowest, ctx=BALL), ">"))
    return proof.check()


ENTRIES = 1_000_000


@cache
def _draws() -> Any:
    return generator("L2").standard_normal((2, ENTRIES))


@cache
def _overlap(rho: float, norm: str | None) -> tuple[float, float]:
    """cos^2 of two activated vectors with ENTRIES entries, and its standard error from the entries."""
    u, w = _draws()
    a, b = (activation_of("silu").value(x, FLOAT) for x in (u, rho * u + np.sqrt(1 - rho * rho) * w))
    if norm == "layernorm":
        a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)) / a.size)
    cosine = float(a @ b) / a.size / size
    residual = a * b / size - cosine * (a * a / (a @ a) + b * b / (b @ b)) * a.size / 2
    return cosine**2, 2 * abs(cosine) * float(residual.std() / np.sqrt(a.size))


def _solutions(std: float, mso: float) -> int:
    """How many rho in [-1, 1] have kappa(rho)^2 = mso, by changes of sign on a grid that is dense near -1."""
    near = np.linspace(0, 1, 400) ** 3 * 2 - 1
    above = dual_map("silu", near, std) ** 2 > mso
    return int((above[1:] != above[:-1]).sum())


def numeric(law: Law = LAW) -> Check:
    """Vectors with 1e6 entries at the correlation that the law gives; how many correlations have one overlap, counted on a grid."""
    proof = Derivation()
    for norm in (None, "rmsnorm", "layernorm"):
        rho = float(law.inverse(0.6, "silu", 1.0, norm))
        proof.estimate(f"SiLU, s = 1, {norm or 'no norm'}: MSO at rho = {rho:.5f}", *_overlap(rho, norm), 0.6)
    for mso in (1e-3, 0.3):
        rho = law.inverse(mso, "silu", 1.0)
        proof.agrees(f"kappa^2 at rho = {rho:.5f}, to 1e-12 (round-off)", dual_map("silu", rho, 1.0) ** 2, mso, 1e-12)
        rho = law.inverse(mso, "silu", 1.0, "layernorm")
        proof.agrees(f"c^2 at rho = {rho:.5f}, to 1e-12 (round-off)", layernorm_map("silu", rho, 1.0) ** 2, mso, 1e-12)
    for std in (1.0, 10.0):
        values = dual_map("silu", np.linspace(0, 1, 400) ** 3 * 2 - 1, std)
        limit = float(law.unique(float(values[0]), float(values.min())))
        for factor in (0.99, 1.01):
            count = _solutions(std, factor * limit)
            proof.holds(f"SiLU, s = {std}: {factor} times the limit has {count} correlations", (count == 1) == (factor > 1))
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("rho = sqrt(MSO), as if nothing were activated", replace(LAW, inverse=lambda mso, activation, std, norm=None: mso**0.5)),
        Wrong("LayerNorm left out", replace(LAW, inverse=lambda mso, activation, std, norm=None: explaining_correlation(mso, activation,
        std))), Wrong("map(rho) = MSO, not its root", replace(LAW, inverse=lambda mso, activation, std, norm=None:
        explaining_correlation(mso**2, activation, std, norm))), Wrong("unique above kappa(-1)^2 at every s", replace(LAW, unique=lambda
        end, lowest, *, ctx=FLOAT: ctx.number(end) ** 2)), Wrong("unique above 4 min kappa^2", replace(LAW, unique=lambda end, lowest, *,
        ctx=FLOAT: 4 * ctx.number(lowest) ** 2)),
    ]  # fmt: skip

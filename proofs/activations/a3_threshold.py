"""A3: an activation with act(0) = 0 never shrinks small angles to first order; where the angles it shrinks begin."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator
from simgap.certify import BALL, enclose_root, sign
from simgap.theory.activations import Activation, activation_of
from simgap.theory.compression import compression_threshold, dual_slope, slope_excess
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

BITS = 88

STATEMENT = Statement(
    id="A3",
    kind=EQUAL,
    title="SiLU and GELU shrink large angles and widen small ones; the threshold is unique",
    claim=(
        r"\kappa'(1) = \frac{s^2\,\mathbb{E}\,\sigma'(sz)^2}{\mathbb{E}\,\sigma(sz)^2}"
        r" = 1 + \frac{s^2\,\mathbb{E}(\sigma'(x) - \sigma(x)/x)^2}{\mathbb{E}\,\sigma(x)^2} \ge 1,\ x = sz,"
        r"\ \text{with equality iff } \sigma \text{ is linear on each half-line};"
        r"\quad \kappa'(1) > 1,\ \kappa(0) > 0 \Rightarrow \text{exactly one } \rho^* \in (0,1) \text{ with } \kappa(\rho^*) = \rho^*,"
        r"\ \kappa > \rho \text{ below},\ \kappa < \rho \text{ above};\quad \rho^*(\mathrm{SiLU}, s=1) = 0.658667174743158883\ldots"
    ),
    hypotheses=(
        "pre-activations jointly Gaussian with one standard deviation s; wide limit",
        "act absolutely continuous, act and act' of at most polynomial growth, act not almost everywhere 0",
        "for kappa'(1) >= 1: act(0) = 0, act' bounded near 0 (else it may fail: softplus has kappa'(1) < 1)",
    ),
    box={"s": (0, None)},
    premises=(computed("A1: kappa is a power series with coefficients >= 0, convex on [0, 1]"), computed("A2: Price's formula")),
    tight="ReLU and the identity attain kappa'(1) = 1 at every s",
)

SOFTPLUS = Activation(
    "softplus",
    lambda x, ctx: ctx.log(1 + ctx.exp(x)),
    lambda x, ctx: ctx.logistic(x),
    lambda x, ctx: ctx.log(ctx.exp(x / 2) + ctx.exp(-x / 2)),
    Fraction(1, 2),
)


@dataclass(frozen=True)
class Law:
    """offset, subject: act(0) of the polynomial in the derivation, and the activation that is certified and simulated."""

    slope: Callable[..., Any] = dual_slope
    excess: Callable[..., Any] = slope_excess
    threshold: Callable[..., Any] = compression_threshold
    offset: int = 0
    subject: Any = "silu"


LAW = Law()
STD = sp.Symbol("s", positive=True)
B, C = sp.symbols("b c", positive=True)
X = sp.Symbol("x", real=True)


def _polynomial(offset: int) -> Activation:
    return Activation("polynomial", lambda x, ctx: offset + B * x + C * x * x, lambda x, ctx: B + 2 * C * x)


@cache
def _mean(expression: Any) -> Any:
    """E of a polynomial in x = s z."""
    density = sp.exp(-X * X / (2 * STD**2)) / (STD * sp.sqrt(2 * sp.pi))
    return sp.factor(sp.integrate(sp.expand(expression) * density, (X, -sp.oo, sp.oo)))


def symbolic(law: Law = LAW) -> Check:
    """The slope from the power series; the excess by one integration by parts, for every act with act(0) = 0."""
    proof = Derivation()
    proof.step(
        "kappa = sum a_j^2 rho^j / sum a_j^2 (A1), so kappa'(1) = sum j a_j^2 / sum a_j^2, reached from below by monotone convergence"
    )
    act = law.offset + B * X + C * X * X
    z = X / STD
    coefficients = [_mean(act * h) for h in (sp.Integer(1), z, (z * z - 1) / sp.sqrt(2))]
    series = sp.factor(sum(j * a * a for j, a in enumerate(coefficients)) / sum(a * a for a in coefficients))
    polynomial = _polynomial(law.offset)
    slope = sp.factor(law.slope(polynomial, STD, ctx=SYMBOLIC))
    proof.equal(f"act = {act}: sum j a_j^2 / sum a_j^2", series, slope)
    proof.step(
        "any act: d/dx exp(t x - t^2/2) = t exp(t x - t^2/2) gives h_j' = sqrt(j) h_{j-1}; by parts, s E act'(sz) h_{j-1}(z) = sqrt(j) a_j"
    )
    proof.step("so s^2 E act'(sz)^2 = sum_{j>=1} j a_j^2 (Parseval)")

    a = sp.Function("a")(X)
    slope_of = sp.diff(a, X)
    square = sp.expand((slope_of - a / X) ** 2)
    proof.equal("(a' - a/x)^2 = a'^2 - (a^2/x)'", sp.simplify(slope_of**2 - sp.diff(a * a / X, X)), square)
    g, density = sp.Function("g")(X), sp.exp(-X * X / (2 * STD**2))
    by_parts = sp.simplify(sp.diff(g * density, X) / density)
    proof.equal("(g p)' / p for the density p of x = sz", by_parts, sp.diff(g, X) - X * g / STD**2)
    proof.step(
        "g = a^2/x is 0 at 0, as a(0) = 0 and a' is bounded there, so either half-line gives s^2 E g' = E x g = E a^2: s^2 E (a' - a/x)^2"
        " = s^2 E a'^2 - E a^2"
    )
    derived = sp.factor(STD**2 * _mean(sp.diff(act, X) ** 2) - _mean(act * act))
    proof.equal(f"act = {act}: s^2 E act'^2 - E act^2", derived, sp.factor(STD**2 * _mean((C * X) ** 2)))
    claimed = law.excess(_polynomial(0), STD, ctx=SYMBOLIC)
    proof.equal(
        "and the law of the excess for b x + c x^2",
        sp.factor(STD**2 * _mean((C * X) ** 2) / _mean((B * X + C * X * X) ** 2)),
        sp.factor(claimed),
    )
    proof.equal("it is 0 iff (a/x)' = 0 on either side of 0: (a/x)'", sp.simplify((slope_of - a / X) / X), sp.simplify(sp.diff(a / X, X)))
    proof.equal("ReLU attains 1", sp.Integer(1), sp.simplify(law.slope("relu", STD, ctx=SYMBOLIC)))
    for name in ("silu", "gelu"):
        value = activation_of(name).value(X, SYMBOLIC)
        difference = sp.simplify((sp.diff(value, X) - value / X).subs(X, 1))
        proof.holds(f"{name}: act'(1) - act(1) = {difference} > 0, and it is analytic, so kappa'(1) > 1 at every s", bool(difference > 0))
    proof.step("g = kappa - rho is convex on [0, 1], strictly as act is not affine (A1), so it has at most two zeros; one is 1")
    proof.step(
        "kappa'(1) > 1: g < 0 just below 1; kappa(0) > 0: g > 0 at 0; so exactly one more zero rho*, g > 0 below it and g < 0 above it"
    )
    proof.step("kappa'(1) <= 1: a convex g lies above its tangent at 1, g >= (1 - rho)(1 - kappa'(1)) >= 0: no angle is widened")
    one_plus = sp.factor(law.slope(Activation("1 + x", lambda x, ctx: 1 + x, lambda x, ctx: 1 + 0 * x), STD, ctx=SYMBOLIC))
    proof.equal("act(0) = 0 is needed: act = 1 + x has a_0 = 1, a_1 = s", STD**2 / (1 + STD**2), one_plus)
    return proof.check()


@cache
def _even_series(bits: int) -> Any:
    """The series of SiLU's even part, s = 1. As many terms at twice the precision: what is left out is then the radius."""
    even = activation_of("silu").even
    up_to = Fraction(2, 3) if bits <= BITS else Fraction(2, 5)
    return BALL.pair_series(lambda x: even(x, BALL), lambda x: even(x, BALL), 1, 1, up_to) if even else None


@cache
def _threshold(bits: int) -> Any:
    """Even(rho) - rho Even(1) over the root's neighbourhood: the linear odd part drops out of kappa(rho) = rho."""
    series, even = _even_series(bits), activation_of("silu").even
    top = BALL.expect(lambda x: even(x, BALL) ** 2, 1, degree=2) if even else None
    return enclose_root(lambda rho: series.at(rho) - rho * top, Fraction(1, 2), Fraction(2, 3), 90)


@cache
def _silu_excess(std: int, bits: int) -> Any:
    """SiLU has act' - act/x = x logistic (1 - logistic), which needs no division at 0."""
    square = BALL.expect(lambda x: (x * BALL.logistic(x) * BALL.logistic(-x)) ** 2, std, degree=2)
    return std * std * square / BALL.expect(lambda x: activation_of("silu").value(x, BALL) ** 2, std, degree=2)


def certified(law: Law = LAW) -> Check:
    """The slope at 1 against the excess; rho* by bisection in balls, and that the float route returns it."""
    proof = Derivation()
    for std in (1, 2):
        slope = proof.ball(f"SiLU, s = {std}: kappa'(1)", law.slope("silu", std, ctx=BALL))
        gap = abs(slope - 1 - _silu_excess(std, flint.ctx.prec))
        proof.within("kappa'(1) - 1 is s^2 E (act' - act/x)^2 / E act^2", gap, "1e-20")
    subject = activation_of(law.subject)
    slope = proof.ball(f"{subject.name}, s = 1: kappa'(1), the subject's", law.slope(subject, 1, ctx=BALL))
    proof.record(f"{subject.name}: kappa'(1) > 1", sign(slope - 1, ">"))
    softplus = proof.ball("softplus, s = 1: kappa'(1)", dual_slope(SOFTPLUS, 1, ctx=BALL))
    proof.record("softplus, with act(0) = log 2: kappa'(1) < 1", sign(1 - softplus, ">"))
    root = proof.ball("SiLU, s = 1: rho*", _threshold(flint.ctx.prec))
    proof.within("it begins 0.658667174743158883", root - BALL.number("0.6586671747431588835"), "0.5e-18")
    root_in_floats = law.threshold("silu", 1.0)
    proof.within(f"the float route's {root_in_floats!r} agrees", root - BALL.number(Fraction(root_in_floats)), "1e-12")
    return proof.check()


PAIRS = 1_000_000


@cache
def _simulate() -> dict[str, Any]:
    x, w = generator("A3").standard_normal((2, PAIRS))
    return {"x": x, "w": w}


@cache
def _slope_ratio(subject: Any, std: int) -> tuple[float, float]:
    """mean (s act')^2 / mean act^2 over the draws, and its standard error."""
    act, x = activation_of(subject), std * _simulate()["x"]
    top, bottom = (std * act.slope(x, FLOAT)) ** 2, act.value(x, FLOAT) ** 2
    ratio = float(top.mean() / bottom.mean())
    return ratio, float((top - ratio * bottom).std() / bottom.mean() / np.sqrt(PAIRS))


def numeric(law: Law = LAW) -> Check:
    """PAIRS draws: the slope, that it exceeds 1, and that the even part's map meets its chord at rho*."""
    proof = Derivation()
    for name, std in (("silu", 2), ("gelu", 1), ("tanh", 2)):
        ratio, error = _slope_ratio(name, std)
        proof.estimate(f"{name}, s = {std}: kappa'(1)", ratio, error, float(law.slope(name, std)))
        proof.estimate(f"{name}, s = {std}: its excess", ratio - 1, error, float(law.excess(name, std)))
    ratio, error = _slope_ratio(law.subject, 1)
    proof.bounded(f"{activation_of(law.subject).name}, s = 1: kappa'(1)", ratio, error, low=1.0)
    rho = float(law.threshold("silu", 1.0))
    even = activation_of("silu").even
    if even is not None:
        x, w = _simulate().values()
        ours, other = even(x, FLOAT), even(rho * x + np.sqrt(1 - rho * rho) * w, FLOAT)
        crossing = ours * other - rho * ours * ours
        proof.estimate(f"SiLU, s = 1: Even(rho*) - rho* Even(1) at rho* = {rho:.6g}", crossing.mean(), crossing.std() / np.sqrt(PAIRS), 0.0)
    return proof.check()


def _squared_mean(activation: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    act, std = activation_of(activation), ctx.number(std)
    mean = ctx.expect(lambda x: act.slope(x, ctx), std, degree=1)
    return std * std * mean * mean / ctx.expect(lambda x: act.value(x, ctx) ** 2, std, degree=2)


def control() -> list[Wrong]:
    return [
        Wrong("kappa'(1) without s^2", replace(LAW, slope=lambda a, std=1, *, ctx=FLOAT: dual_slope(a, std, ctx=ctx) / ctx.number(std) **
        2)), Wrong("kappa'(1) = s^2 (E act')^2 / E act^2", replace(LAW, slope=_squared_mean)),
        Wrong("half the excess", replace(LAW, excess=lambda a, std=1, *, ctx=FLOAT: slope_excess(a, std, ctx=ctx) / 2), ("symbolic",
        "numeric"),
              "in balls the excess is enclosed from SiLU's own form, which needs no division at 0"),
        Wrong("rho* = 1/2, its limit for small s", replace(LAW, threshold=lambda a, std: 0.5), ("certified", "numeric"),
              "rho* is no closed form: the derivation shows that it is unique"),
        Wrong("broken hypothesis: act(0) = 1, softplus", replace(LAW, offset=1, subject=SOFTPLUS)),
    ]  # fmt: skip

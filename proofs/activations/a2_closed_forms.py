"""A2: the dual maps of identity, ReLU, erf and GELU in closed form; SiLU, for which none is known, by an enclosure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.activations import activation_of
from simgap.theory.closed_duals import erf_dual, gelu_even_dual, identity_dual, relu_even_dual
from simgap.theory.dual_map import kappa_zero
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

BITS = 88

STATEMENT = Statement(
    id="A2",
    kind=EQUAL,
    title="closed dual maps: identity, ReLU, erf and GELU; an enclosure for SiLU",
    claim=(
        r"\mathbb{E}\,(su)(sv) = s^2\rho;\quad \mathbb{E}\,|su||sv|/4 = \tfrac{s^2}{2\pi}(\sqrt{1-\rho^2} + \rho\arcsin\rho);"
        r"\quad \mathbb{E}\,\mathrm{erf}(su)\,\mathrm{erf}(sv) = \tfrac{2}{\pi}\arcsin\tfrac{2s^2\rho}{1+2s^2};"
        r"\quad \mathbb{E}\,e(su)e(sv) = \tfrac{c}{2\pi}\arcsin\tfrac{c}{1+a} + \tfrac{a^2 + c^2(1-a)/(1+a)}{2\pi\sqrt{(1+a)^2-c^2}},"
        r"\ e(x) = x(\Phi(x) - \tfrac12),\ a = s^2,\ c = a\rho."
        r"\quad \kappa_0(\mathrm{ReLU}) = 1/\pi;\ \kappa_0(\mathrm{SiLU}, s=1) = 0.1199976402\ldots"
    ),
    hypotheses=(
        "u and v standard normal, jointly Gaussian with correlation rho",
        "ReLU and GELU are given by their even parts |x|/2 and x (Phi(x) - 1/2); their odd part x/2 adds s^2 rho / 4",
    ),
    box={"rho": (-1, 1), "s": (0, None)},
    premises=(computed("A1, for the even and odd powers of rho, and for the derivative in rho of E f(su) f(sv)"),),
    tight="an equality",
)


@dataclass(frozen=True)
class Law:
    identity: Callable[..., Any] = identity_dual
    relu: Callable[..., Any] = relu_even_dual
    erf: Callable[..., Any] = erf_dual
    gelu: Callable[..., Any] = gelu_even_dual
    zero: Callable[..., Any] = kappa_zero


LAW = Law()
RHO, STD = sp.Symbol("rho", real=True), sp.Symbol("s", positive=True)
U, V, T, R = sp.symbols("u v t r", real=True)


@cache
def _price() -> bool:
    """d phi / d rho = d^2 phi / du dv for the density of (u, v)."""
    density = sp.exp(-(U * U - 2 * RHO * U * V + V * V) / (2 * (1 - RHO**2))) / (2 * sp.pi * sp.sqrt(1 - RHO**2))
    return bool(sp.simplify((sp.diff(density, RHO) - sp.diff(density, U, V)) / density) == 0)


@cache
def _polar() -> Any:
    """E |u||v| for rho = cos p, 0 < p < pi: u = r cos t, v = r cos(t - p), cos t cos(t - p) = (cos p + cos(2t - p)) / 2."""
    p, r = sp.symbols("p r", positive=True)
    primitive = sp.cos(p) * T / 2 + sp.sin(2 * T - p) / 4
    # Above 0 on (p - pi/2, pi/2), below on (pi/2, p + pi/2), and again half a turn further.
    above = primitive.subs(T, sp.pi / 2) - primitive.subs(T, p - sp.pi / 2)
    below = primitive.subs(T, p + sp.pi / 2) - primitive.subs(T, sp.pi / 2)
    radial = sp.integrate(r**3 * sp.exp(-r * r / 2), (r, 0, sp.oo))
    angle = sp.expand_trig(sp.simplify(2 * (above - below))).subs(p, sp.acos(RHO))
    return sp.simplify(radial * angle / (2 * sp.pi))


def _gaussian_moments(weight: Any) -> dict[tuple[int, int], Any]:
    """E u^i v^j exp(-weight (u^2 + v^2) / 2) for i, j in {0, 2}: the density is again Gaussian, of precision P + weight."""
    one = 1 - RHO**2
    precision = sp.Matrix([[1 / one + weight, -RHO / one], [-RHO / one, 1 / one + weight]])
    covariance = precision.inv().applyfunc(sp.factor)
    mass = 1 / sp.sqrt(sp.factor(one * precision.det()))
    square, cross = covariance[0, 0], covariance[0, 1]
    return {(0, 0): mass, (2, 0): mass * square, (0, 2): mass * square, (2, 2): mass * (square**2 + 2 * cross**2)}


@cache
def _slopes() -> tuple[Any, Any, Any]:
    """d/drho E erf erf, d^2/drho^2 E e e for GELU's even part, and E e, from Price's formula and Gaussian integrals."""
    x = sp.Symbol("x", real=True)
    erf_slope = sp.diff(sp.erf(x), x)
    moments = _gaussian_moments(2 * STD**2)
    first = STD**2 * erf_slope.subs(x, 0) ** 2 * moments[0, 0]
    even = x * sp.erf(x / sp.sqrt(2)) / 2
    curvature = sp.simplify(sp.diff(even, x, 2) * sp.exp(x * x / 2))
    p0, p2 = curvature.subs(x, 0), sp.expand(curvature).coeff(x, 2)
    moments = _gaussian_moments(STD**2)
    second = STD**4 * (p0**2 * moments[0, 0] + 2 * p0 * p2 * STD**2 * moments[2, 0] + p2**2 * STD**4 * moments[2, 2])
    # Stein: E x (Phi(x) - 1/2) = s^2 E phi(x).
    mean = STD**2 * sp.integrate(sp.exp(-(1 + STD**2) * x * x / 2) / (2 * sp.pi), (x, -sp.oo, sp.oo))
    return sp.simplify(first), sp.simplify(second), sp.simplify(mean)


def symbolic(law: Law = LAW) -> Check:
    """ReLU in polar coordinates; erf and GELU by Price's formula down to Gaussian integrals, and back from rho = 0."""
    proof = Derivation()
    proof.equal("E (su)(sv) with v = rho u + sqrt(1 - rho^2) w: s^2 rho E u^2", STD**2 * RHO, law.identity(RHO, STD, ctx=SYMBOLIC))

    proof.step("E |u||v| in polar coordinates, rho = cos p; acos(rho) = pi/2 - asin(rho)", _polar())
    derived = (STD**2 * _polar() / 4).rewrite(sp.asin)
    proof.equal("E |su||sv| / 4", sp.simplify(derived), law.relu(RHO, STD, ctx=SYMBOLIC))
    at_zero, at_one = (law.relu(sp.Integer(r), STD, ctx=SYMBOLIC) for r in (0, 1))
    proof.equal("kappa0 of ReLU: the even part's share at rho = 0", sp.simplify(at_zero / (at_one + STD**2 / 4)), 1 / sp.pi)

    proof.holds("d phi / d rho = d^2 phi / du dv for the joint density (Price)", _price())
    proof.step("so d/drho E f(su) f(sv) = s^2 E f'(su) f'(sv) after two integrations by parts, f of polynomial growth")
    erf_first, gelu_second, gelu_mean = _slopes()
    claimed = law.erf(RHO, STD, ctx=SYMBOLIC)
    _same(
        proof,
        "d/drho E erf erf = s^2 (4/pi) E exp(-s^2 (u^2 + v^2))",
        erf_first,
        sp.diff(claimed, RHO),
        (1 + 2 * STD**2) ** 2 - 4 * STD**4 * RHO**2,
    )
    proof.equal("at rho = 0: (E erf)^2 = 0, as erf is odd", sp.Integer(0), claimed.subs(RHO, 0))

    claimed = law.gelu(RHO, STD, ctx=SYMBOLIC)
    proof.step("e'' = (2 - x^2) phi(x) for e(x) = x (Phi(x) - 1/2) = x erf(x/sqrt 2)/2")
    _same(
        proof,
        "d^2/drho^2 E e(su) e(sv) = s^4 E e''(su) e''(sv)",
        gelu_second,
        sp.diff(claimed, RHO, 2),
        (1 + STD**2) ** 2 - STD**4 * RHO**2,
    )
    proof.equal("at rho = 0 the slope is s^2 (E e')^2 = 0, as e' is odd", sp.Integer(0), sp.simplify(sp.diff(claimed, RHO).subs(RHO, 0)))
    proof.equal("at rho = 0 the value is (E e)^2, E e = s^2 E phi (Stein)", sp.simplify(gelu_mean**2), sp.simplify(claimed.subs(RHO, 0)))
    proof.step(
        "rho = +-1, where u, v have no joint density: E f(su) f(sv) = sum a_j^2 rho^j with sum a_j^2 finite (A1) is continuous on [-1, 1],"
        " and so are the closed forms (GELU's root is at least sqrt(1 + 2 s^2)); hence they agree at the ends too"
    )
    return proof.check()


ROOT = sp.Symbol("Q", positive=True)


def _same(proof: Derivation, text: str, derived: Any, claimed: Any, square: Any) -> None:
    """Two rational expressions in rho, s and the one root Q = sqrt(square): equal iff their difference is 0 modulo Q^2 - square."""

    def rooted(power: Any) -> Any:
        return (sp.sqrt(sp.factor(power.base / square)) * ROOT) ** (2 * power.exp)

    def is_root(x: Any) -> bool:
        return bool(x.is_Pow and x.exp.is_Rational and x.exp.q == 2 and x.base.has(RHO))

    numerator = sp.numer(sp.together((derived - claimed).replace(is_root, rooted)))
    rest = sp.factor(sp.rem(sp.expand(numerator), sp.expand(ROOT**2 - square), ROOT))
    proof.equal(f"{text} = {derived}; derived less claimed, over a common denominator, modulo Q^2 = {square}", rest, sp.Integer(0))


PARTS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "relu": lambda x: BALL.magnitude(x) / 2,
    "erf": BALL.erf,
    "gelu": lambda x: x * BALL.erf(x / BALL.sqrt(2)) / 2,
}


# Small |rho| keeps the series short, above all for |x|, where quadrature up to the kink is slow.
CASES = (("identity", Fraction(1, 5), 2), ("relu", Fraction(-1, 16), 2), ("erf", Fraction(-1, 8), 2), ("gelu", Fraction(-1, 8), 2))


@cache
def _enclosed(bits: int) -> dict[tuple[str, Fraction, int], Any]:
    """The expectations by Hermite series; bits keys the cache."""
    return {(name, rho, std): BALL.expect_pair(PARTS[name], PARTS[name], rho, std) for name, rho, std in CASES}


def certified(law: Law = LAW) -> Check:
    """The expectations enclosed by certified quadrature, against the closed forms; kappa0 of SiLU."""
    proof = Derivation()
    for (name, rho, std), expectation in _enclosed(flint.ctx.prec).items():
        proof.ball(f"{name}, rho = {rho}, s = {std}", expectation)
        claimed = getattr(law, name)(rho, std, ctx=BALL)
        proof.within("the closed form agrees", claimed - expectation, "1e-20")
    zero = proof.ball("kappa0 of SiLU, s = 1", law.zero("silu", 1, ctx=BALL))
    proof.record("it begins 0.1199976402", sign(BALL.number("0.1199976403") - zero, ">"))
    proof.record("and is no less", sign(zero - BALL.number("0.1199976402"), ">"))
    relu = proof.ball("kappa0 of ReLU, s = 1", law.zero("relu", 1, ctx=BALL))
    proof.within("it is 1/pi", relu - 1 / BALL.pi, "1e-20")
    return proof.check()


PAIRS = 200_000


@cache
def _simulate() -> dict[tuple[str, float, int], tuple[float, float]]:
    means = {}
    parts = {name: activation_of(name).even or activation_of(name).value for name in PARTS}
    for rho, std in ((0.8, 1), (-0.5, 3)):
        u, w = generator("A2", f"{rho}").standard_normal((2, PAIRS))
        x, y = std * u, std * (rho * u + np.sqrt(1 - rho * rho) * w)
        for name, part in parts.items():
            means[name, rho, std] = mean_and_sem(part(x, FLOAT) * part(y, FLOAT))
    return means


def numeric(law: Law = LAW) -> Check:
    """PAIRS pairs for each of two correlations and scales."""
    proof = Derivation()
    for (name, rho, std), (mean, error) in _simulate().items():
        claimed = getattr(law, name)(rho, std, ctx=FLOAT)
        proof.estimate(f"{name}, rho = {rho}, s = {std}: mean of the product", mean, error, float(claimed))
    mean, error = mean_and_sem(activation_of("silu").value(generator("A2", "silu").standard_normal(PAIRS), FLOAT) / np.sqrt(SILU_SQUARE))
    proof.estimate("SiLU, s = 1: (E act)^2 / E act^2", mean**2, 2 * mean * error, float(law.zero("silu", 1)))
    return proof.check()


SILU_SQUARE = FLOAT.expect(lambda x: activation_of("silu").value(x, FLOAT) ** 2)


def _relu_without_asin(rho: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    rho, std = ctx.number(rho), ctx.number(std)
    return std * std * ctx.sqrt(1 - rho * rho) / (2 * ctx.number(ctx.pi))


def _erf_one(rho: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    rho, std = ctx.number(rho), ctx.number(std)
    return 2 / ctx.number(ctx.pi) * ctx.asin(std * std * rho / (1 + std * std))


def _gelu_bare(rho: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    rho, std = ctx.number(rho), ctx.number(std)
    a, c = std * std, std * std * rho
    return (c * ctx.asin(c / (1 + a)) + (a * a + c * c) / ctx.sqrt((1 + a) ** 2 - c * c)) / (2 * ctx.number(ctx.pi))


def _erf_half(rho: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    return erf_dual(rho, std, ctx=ctx) / 2


def _gelu_twice_asin(rho: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    a, c = ctx.number(std) ** 2, ctx.number(std) ** 2 * ctx.number(rho)
    return gelu_even_dual(rho, std, ctx=ctx) + c * ctx.asin(c / (1 + a)) / (2 * ctx.number(ctx.pi))


def control() -> list[Wrong]:
    only = "an integral that sympy does not do; SiLU's constant has no symbolic form"
    return [
        Wrong("identity: s rho", replace(LAW, identity=lambda rho, std=1, *, ctx=FLOAT: ctx.number(rho) * ctx.number(std))),
        Wrong("ReLU without rho asin rho", replace(LAW, relu=_relu_without_asin)),
        Wrong("erf with s^2 rho / (1 + s^2)", replace(LAW, erf=_erf_one)),
        Wrong("erf with 1/pi for 2/pi", replace(LAW, erf=_erf_half)),
        Wrong("GELU with c/pi for c/2pi", replace(LAW, gelu=_gelu_twice_asin)),
        Wrong("GELU with c^2 in place of c^2 (1-a)/(1+a)", replace(LAW, gelu=_gelu_bare)),
        Wrong("kappa0 = (E act)^2 / Var act", replace(LAW, zero=_over_variance), ("certified", "numeric"), only),
    ]


def _over_variance(activation: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    zero = kappa_zero(activation, std, ctx=ctx)
    return zero / (1 - zero)

"""A1: an activation turns a correlation rho of pre-activations into the cosine kappa(rho), a power series with no negative coefficient."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, cited, computed, generator, mean_and_sem
from simgap.certify import BALL
from simgap.theory.activations import Activation, activation_of
from simgap.theory.closed_duals import gelu_even_dual
from simgap.theory.dual_map import dual_map, kappa, kappa_zero
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

BITS = 96

STATEMENT = Statement(
    id="A1",
    kind=EQUAL,
    title="activations map a correlation to a cosine by a power series without negative coefficients",
    claim=(
        r"\cos(h_1, h_2) \to \kappa(\rho) = \frac{\mathbb{E}\,\sigma(su)\sigma(sv)}{\mathbb{E}\,\sigma(su)^2}"
        r" = \frac{\sum_j a_j^2 \rho^j}{\sum_j a_j^2},\ a_j = \mathbb{E}\,\sigma(sz) h_j(z);\quad"
        r" \kappa(0) = (\mathbb{E}\sigma)^2/\mathbb{E}\sigma^2,\ \kappa(1) = 1,\ |\kappa(\rho)| \le \kappa(|\rho|);"
        r"\ \text{on } [0,1] \text{ increasing unless } \sigma \text{ is constant, strictly convex unless it is affine}"
    ),
    hypotheses=(
        "u and v standard normal, jointly Gaussian with correlation rho; the pre-activations are (s u_i, s v_i), i = 1..f, independent"
        " over i",
        "act measurable, not almost everywhere 0, E act(sz)^2 finite",
        "the limit is f to infinity (almost surely)",
    ),
    box={"rho": (-1, 1), "s": (0, None)},
    premises=(
        cited("the strong law of large numbers"),
        cited("Hermite polynomials are complete in L^2 of the normal law (Szego 1939, 5.7)"),
        computed("A2, for GELU's closed form"),
    ),
    tight="an equality; kappa is not increasing on [-1, 0] in"
    " general (x^2: kappa(-1) = 1), and may be negative (SiLU: kappa(-1) = -0.4054 at s = 1)",
)


def mehler(i: int, j: int, rho: Any) -> Any:
    """E h_i(u) h_j(v) = rho^j where i = j, else 0."""
    return rho**j if i == j else 0


@dataclass(frozen=True)
class Law:
    kappa: Callable[..., Any] = kappa
    zero: Callable[..., Any] = kappa_zero
    fast: Callable[..., Any] = dual_map
    mehler: Callable[..., Any] = mehler


LAW = Law()
DEGREE = 3
T, R, X = sp.symbols("t r x", real=True)
RHO, STD = sp.Symbol("rho", real=True), sp.Symbol("s", positive=True)
C = sp.symbols("c0:3", real=True)


def _quadratic(x: Any, ctx: Any = None) -> Any:
    return C[0] + C[1] * x + C[2] * x * x


QUADRATIC = Activation("quadratic", _quadratic, lambda x, ctx: C[1] + 2 * C[2] * x)


@cache
def _joint() -> Any:
    """E exp(t u - t^2/2) exp(r v - r^2/2), from the integral of exp(t z) against the normal density."""
    one = sp.integrate(sp.exp(T * X - X * X / 2) / sp.sqrt(2 * sp.pi), (X, -sp.oo, sp.oo))
    both = one.subs(T, T + R * RHO) * one.subs(T, R * sp.sqrt(1 - RHO**2)) * sp.exp(-(T * T + R * R) / 2)
    return sp.simplify(sp.powsimp(both))


@cache
def _hermite_polynomials() -> list[Any]:
    generating = sp.series(sp.exp(T * X - T * T / 2), T, 0, DEGREE + 1).removeO()
    return [sp.expand(generating.coeff(T, j) * sp.sqrt(sp.factorial(j))) for j in range(DEGREE + 1)]


@cache
def _coefficients() -> list[Any]:
    density = sp.exp(-X * X / 2) / sp.sqrt(2 * sp.pi)
    return [sp.integrate(sp.expand(_quadratic(STD * X) * h) * density, (X, -sp.oo, sp.oo)) for h in _hermite_polynomials()[:3]]


@cache
def _kappa_of_quadratics(claimed: Callable[..., Any]) -> Any:
    return sp.factor(claimed(QUADRATIC, RHO, STD, ctx=SYMBOLIC))


def symbolic(law: Law = LAW) -> Check:
    """The moment generating function gives E h_i(u) h_j(v) = delta_ij rho^j; expanding act in h_j gives the series, and the series the
    rest."""
    proof = Derivation()
    proof.step("v = rho u + sqrt(1 - rho^2) w with w independent of u, so that t u + r v = (t + r rho) u + r sqrt(1 - rho^2) w")
    proof.equal("E exp(t u - t^2/2) exp(r v - r^2/2), two integrals against the normal density", _joint(), sp.exp(T * R * RHO))
    proof.step(
        "exp(t x - t^2/2) = sum_j t^j h_j(x) / sqrt(j!); the coefficient of t^i r^j on either side, as exp(t r rho) = sum (t r rho)^j / j!"
    )
    right = sum((T * R * RHO) ** j / sp.factorial(j) for j in range(DEGREE + 1))
    for i, j in itertools.product(range(DEGREE + 1), repeat=2):
        derived = sp.expand(right).coeff(T, i).coeff(R, j) * sp.sqrt(sp.factorial(i) * sp.factorial(j))
        proof.equal(f"E h_{i}(u) h_{j}(v)", derived, sp.sympify(law.mehler(i, j, RHO)))
    n = sp.Symbol("j", integer=True, positive=True)
    proof.equal("any j: the coefficient rho^j / j! times sqrt(j! j!)", RHO**n / sp.factorial(n) * sp.factorial(n), law.mehler(n, n, RHO))
    proof.equal("j = 1 at rho = -1/3", right.coeff(T, 1).coeff(R, 1).subs(RHO, -sp.Rational(1, 3)), law.mehler(1, 1, -sp.Rational(1, 3)))
    proof.step(
        "the h_j are orthonormal (rho = 1) and complete: act(s x) = sum_j a_j h_j(x) in L^2, and E act(su) act(sv) = sum_j a_j^2 rho^j"
    )

    coefficients = _coefficients()
    total = sum(a * a for a in coefficients)
    proof.step("act(x) = c0 + c1 x + c2 x^2 has a_0, a_1, a_2", tuple(sp.factor(a) for a in coefficients))
    series = sp.factor(sum(a * a * RHO**j for j, a in enumerate(coefficients)) / total)
    proof.equal("its series against the definition's double integral", series, _kappa_of_quadratics(law.kappa))
    proof.equal("its a_0^2 / sum a_j^2", sp.factor(coefficients[0] ** 2 / total), sp.factor(law.zero(QUADRATIC, STD, ctx=SYMBOLIC)))

    x, a = sp.Symbol("rho", positive=True), sp.Symbol("a_j", real=True)
    proof.step("any j: the derivatives of a_j^2 rho^j", tuple(sp.simplify(sp.diff(a**2 * x**n, x, k)) for k in (1, 2)))
    proof.holds(
        "they are >= 0 for 0 < rho and j >= 1", all(bool(sp.diff(a**2 * x**k, x, m).is_nonnegative) for k in (1, 2, 3, 4) for m in (1, 2))
    )
    proof.step("so on [0, 1] kappa rises unless a_j = 0 for all j >= 1 (act constant), strictly convex unless for all j >= 2 (act affine)")
    proof.step("|sum a_j^2 rho^j| <= sum a_j^2 |rho|^j; at rho = 1 it is sum a_j^2 = E act^2 (Parseval): kappa(1) = 1")
    proof.step(
        "the pairs act(s u_i), act(s v_i) are i.i.d. with finite second moments: h_1.h_2/f, |h_1|^2/f, |h_2|^2/f converge, so the cosine"
        " does"
    )
    square = series.subs({C[0]: 0, C[1]: 0})
    proof.holds(f"not increasing on [-1, 0]: x^2 has kappa = {sp.factor(square)}, 1 at rho = -1", sp.simplify(square.subs(RHO, -1)) == 1)
    return proof.check()


@cache
def _gelu_series(bits: int) -> Any:
    """Squared Hermite coefficients of GELU at s = 1, enough for |rho| <= 1/3; bits keys the cache, as balls of one precision are not
    another's."""

    def gelu(x: Any) -> Any:
        return activation_of("gelu").value(x, BALL)

    return BALL.pair_series(gelu, gelu, 1, 1, Fraction(1, 3))


@cache
def _silu_ends(bits: int) -> tuple[Any, ...]:
    silu = activation_of("silu")
    opposite = BALL.expect(lambda x: silu.value(x, BALL) * silu.value(-x, BALL), 1, degree=2)
    mean, square = BALL.expect(lambda x: silu.value(x, BALL), 1, degree=1), BALL.expect(lambda x: silu.value(x, BALL) ** 2, 1, degree=2)
    return opposite, mean, square


def certified(law: Law = LAW) -> Check:
    """Enclosures of the series for GELU against its closed form, and of SiLU's two ends."""
    proof = Derivation()
    series = _gelu_series(flint.ctx.prec)
    for rho in (Fraction(1, 3), Fraction(-1, 4)):
        x = BALL.number(rho)
        total = sum(p * law.mehler(j, j, x) for j, p in enumerate(series.products))
        # What the terms kept leave open.
        total += series.at(x) - sum(p * x**j for j, p in enumerate(series.products))
        closed = gelu_even_dual(rho, 1, ctx=BALL) + x / 4
        proof.ball(f"GELU, rho = {rho}: sum a_j^2 rho^j", total)
        proof.within(f"GELU, rho = {rho}: the series is the closed form", total - closed, "1e-20")
    opposite, mean, square = _silu_ends(flint.ctx.prec)
    end = proof.ball("SiLU, s = 1: kappa(-1) = E act(z) act(-z) / E act(z)^2", opposite / square)
    proof.within("kappa(-1) of SiLU rounds to -0.40538", end + BALL.number("0.40538"), "0.000005")
    zero = proof.ball("SiLU, s = 1: kappa(0)", law.zero("silu", 1, ctx=BALL))
    gap = abs(law.kappa("silu", 0, 1, ctx=BALL) - zero)
    proof.within("kappa(rho) at rho = 0 is the law of kappa0", gap, "1e-20")
    proof.within("kappa0 is mean^2 / square", mean * mean / square - zero, "1e-20")
    return proof.check()


ENTRIES = 400_000
POINTS = (("silu", 1, -1.0), ("relu", 2, 0.0), ("gelu_tanh", 3, -0.7), ("tanh", 2, 0.9))


@cache
def _simulate() -> dict[Any, tuple[float, float]]:
    """The cosine of two activated vectors with ENTRIES entries, and products of Hermite polynomials at rho = -1/2."""
    means: dict[Any, tuple[float, float]] = {}
    for name, std, rho in POINTS:
        random = generator("A1", f"{name} {rho}")
        u, w = random.standard_normal((2, ENTRIES))
        act = activation_of(name)
        a, b = act.value(std * u, FLOAT), act.value(std * (rho * u + np.sqrt(1 - rho * rho) * w), FLOAT)
        size = np.sqrt((a @ a) * (b @ b)) / ENTRIES
        cosine = float(a @ b / ENTRIES / size)
        # To first order the cosine is a mean over entries of this (delta method).
        residual = a * b / size - cosine * (a * a / (a @ a) + b * b / (b @ b)) * ENTRIES / 2
        means[name, std, rho] = cosine, float(residual.std() / np.sqrt(ENTRIES))
    for i, j in ((1, 1), (2, 2), (1, 3), (3, 3)):
        u, w = generator("A1", f"h{i}{j}").standard_normal((2, ENTRIES))
        means[i, j] = mean_and_sem(_hermite(i, u) * _hermite(j, -0.5 * u + np.sqrt(0.75) * w))
    return means


@cache
def _value(claimed: Callable[..., Any], name: str, rho: float, std: int) -> float:
    return float(claimed(name, rho, std))


def numeric(law: Law = LAW) -> Check:
    """Cosines of vectors with 4e5 entries against kappa, products of Hermite polynomials, and the fast route against the plain one."""
    proof = Derivation()
    for key, (mean, error) in _simulate().items():
        if len(key) == 2:
            proof.estimate(f"rho = -1/2: E h_{key[0]}(u) h_{key[1]}(v)", mean, error, float(law.mehler(*key, -0.5)))
            continue
        name, std, rho = key
        proof.estimate(f"{name}, s = {std}, rho = {rho}: cosine of activated vectors", mean, error, _value(law.kappa, name, rho, std))
        if rho == 0:
            proof.estimate(f"{name}, s = {std}: the same against kappa0", mean, error, float(law.zero(name, std)))
        fast = float(law.fast(name, rho, std))
        proof.agrees(f"{name}, s = {std}, rho = {rho}: fast route, to 1e-12 (round-off)", fast, _value(kappa, name, rho, std), 1e-12)
    return proof.check()


def _hermite(j: int, x: np.ndarray) -> np.ndarray:
    return {1: x, 2: (x * x - 1) / np.sqrt(2), 3: (x**3 - 3 * x) / np.sqrt(6)}[j]


def _by_mean_square(activation: Any, rho: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    return kappa(activation, rho, std, ctx=ctx) * (1 - kappa_zero(activation, std, ctx=ctx))


def _root_of_zero(activation: Any, std: Any = 1, *, ctx: Any = FLOAT) -> Any:
    return ctx.sqrt(kappa_zero(activation, std, ctx=ctx))


def control() -> list[Wrong]:
    return [
        Wrong("kappa(rho) (1 - kappa0): the mean left out of E act^2", replace(LAW, kappa=_by_mean_square)),
        Wrong("kappa0 = |E act| / sqrt(E act^2)", replace(LAW, zero=_root_of_zero)),
        Wrong("E h_j(u) h_j(v) = rho^(2j)", replace(LAW, mehler=lambda i, j, rho: rho ** (2 * j) if i == j else 0)),
        Wrong("E h_j(u) h_j(v) = |rho|^j", replace(LAW, mehler=lambda i, j, rho: abs(rho) ** j if i == j else 0)),
        Wrong("fast route with s^2 in place of s", replace(LAW, fast=lambda a, rho, std: dual_map(a, rho, std * std)), ("numeric",),
              "only the simulation calls the fast route, a numeric stand-in for the law"),
    ]  # fmt: skip

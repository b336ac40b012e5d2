"""A4: odd activations leave right angles right, and shrink no acute angle."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp

from proofs.statement import UPPER, Check, Derivation, Statement, Wrong, computed, generator
from simgap.certify import BALL, Verdict, positive_over
from simgap.theory.activations import activation_of
from simgap.theory.closed_duals import erf_dual
from simgap.theory.compression import odd_bound
from simgap.theory.dual_map import kappa_zero
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

BITS = 88

STATEMENT = Statement(
    id="A4",
    kind=UPPER,
    title="odd activations shrink no acute angle, and keep right angles",
    claim=r"\sigma(-x) = -\sigma(x):\quad \kappa(0) = 0,\ \kappa(-\rho) = -\kappa(\rho),\ |\kappa(\rho)| \le |\rho|",
    hypotheses=(
        "pre-activations jointly Gaussian with one standard deviation s; wide limit",
        "act odd, not almost everywhere 0, E act(sz)^2 finite",
    ),
    box={"rho": (-1, 1), "s": (0, None)},
    premises=(computed("A1: kappa = sum a_j^2 rho^j / sum a_j^2"), computed("A2: the closed form of erf")),
    tight="the identity attains |rho| everywhere; any odd act at rho = 0 and 1",
)


@dataclass(frozen=True)
class Law:
    """odd: the activations the claim is made of, by name, and the even part of the polynomial in the derivation (0 for an odd one)."""

    bound: Callable[..., Any] = odd_bound
    zero: Callable[..., Any] = kappa_zero
    odd: tuple[str, ...] = ("identity", "tanh", "erf")
    even_part: int = 0


LAW = Law()
X = sp.Symbol("x", real=True)
RHO = sp.Symbol("rho", positive=True)
B, C = sp.symbols("b c", positive=True)
DEGREE = 5


@cache
def _hermite() -> list[Any]:
    generating = sp.series(sp.exp(RHO * X - RHO * RHO / 2), RHO, 0, DEGREE + 1).removeO()
    return [sp.expand(generating.coeff(RHO, j) * sp.sqrt(sp.factorial(j))) for j in range(DEGREE + 1)]


@cache
def _mean(expression: Any) -> Any:
    return sp.integrate(sp.expand(expression) * sp.exp(-X * X / 2) / sp.sqrt(2 * sp.pi), (X, -sp.oo, sp.oo))


def symbolic(law: Law = LAW) -> Check:
    """Even coefficients vanish by x -> -x; the odd powers of rho are at most |rho| in size."""
    proof = Derivation()
    for j, h in enumerate(_hermite()):
        proof.equal(f"h_{j}(-x) is (-1)^{j} h_{j}(x)", sp.expand(h.subs(X, -X)), sp.expand((-1) ** j * h))
    proof.step("any j: exp(tx - t^2/2) keeps its value under (x, t) -> (-x, -t); so a_j = E act(sz) h_j(z) = -(-1)^j a_j is 0 for even j")
    proof.step(
        "a_0 = 0 is kappa(0) = 0; odd powers alone make kappa odd; |rho^j| <= |rho| for odd j, so |sum a_j^2 rho^j| <= |rho| sum a_j^2"
    )
    n = sp.Symbol("n", integer=True, nonnegative=True)
    proof.step("any j = 2n + 1: |rho|^j = |rho| (rho^2)^n, and (rho^2)^n <= 1", RHO * (RHO**2) ** n)
    act = law.even_part * X**2 + B * X + C * X**3
    coefficients = [_mean(act * h) for h in _hermite()[:4]]
    total = sum(a * a for a in coefficients)
    kappa = sum(a * a * RHO**j for j, a in enumerate(coefficients)) / total
    proof.equal(f"act = {act}, s = 1: kappa(0)", sp.factor(kappa.subs(RHO, 0)), sp.Integer(0))
    slack = sp.factor(law.bound(RHO, ctx=SYMBOLIC) - kappa)
    proof.equal(
        "its slack below the bound is rho (1 - rho^2) a_3^2 / sum a_j^2 >= 0",
        slack,
        sp.factor(RHO * (1 - RHO**2) * _mean(C * X**3 * _hermite()[3]) ** 2 / total),
    )
    proof.equal("c = 0, the identity, attains the bound", sp.Integer(0), sp.simplify(slack.subs(C, 0)))
    return proof.check()


@cache
def _series(name: str, bits: int) -> tuple[Any, Any]:
    """Enough coefficients for |rho| <= 1/8 at s = 2, and E act^2; bits keys the cache."""

    def value(x: Any) -> Any:
        return activation_of(name).value(x, BALL)

    return BALL.pair_series(value, value, 2, 1, Fraction(1, 8)), BALL.expect(lambda x: value(x) ** 2, 2, degree=2)


def certified(law: Law = LAW) -> Check:
    """Balls over boxes: tanh by its series, erf by its closed form at every s; the identity where the bound is attained."""
    proof = Derivation()
    for name in law.odd:
        zero = law.zero(name, 2, ctx=BALL)
        proof.within(f"{name}, s = 2: kappa(0) is 0", zero, "1e-20")
        if name in ("identity", "erf"):
            continue
        series, top = _series(name, flint.ctx.prec)
        proof.ball(f"{name}, s = 2: kappa(1/8)", series.at(BALL.number(Fraction(1, 8))) / top)
        bound = positive_over(
            lambda rho, s=series, t=top: law.bound(rho, ctx=BALL) * t - s.at(rho), [(Fraction(1, 64), Fraction(1, 8))], 500
        )
        proof.record(f"{name}, s = 2: kappa(rho) < bound for rho in [1/64, 1/8], {bound.boxes} boxes", bound.verdict)
    box = [(Fraction(1, 4), Fraction(3, 4)), (Fraction(1), Fraction(5, 4))]
    bound = positive_over(lambda rho, s: law.bound(rho, ctx=BALL) * erf_dual(1, s, ctx=BALL) - erf_dual(rho, s, ctx=BALL), box, 2000)
    proof.record(f"erf: kappa(rho) < bound for rho in [1/4, 3/4], s in [1, 5/4], {bound.boxes} boxes", bound.verdict)
    gaps = [law.bound(rho, ctx=BALL) - BALL.number(rho) for rho in (Fraction(1, 8), Fraction(1, 2))]
    attained = all(abs(gap) < BALL.number("1e-20") for gap in gaps)
    proof.record("identity: the bound is attained within 1e-20 at rho = 1/8, 1/2", Verdict.PROVED if attained else Verdict.REFUTED)
    return proof.check()


ENTRIES = 200_000
POINTS = (0.0, 0.6, -0.8)


@cache
def _simulate(name: str) -> list[tuple[float, float, float]]:
    cosines = []
    for rho in POINTS:
        u, w = generator("A4", f"{name} {rho}").standard_normal((2, ENTRIES))
        act = activation_of(name)
        a, b = act.value(2 * u, FLOAT), act.value(2 * (rho * u + np.sqrt(1 - rho * rho) * w), FLOAT)
        size = float(np.sqrt((a @ a) * (b @ b)) / ENTRIES)
        cosine = float(a @ b) / ENTRIES / size
        residual = a * b / size - cosine * (a * a / (a @ a) + b * b / (b @ b)) * ENTRIES / 2
        cosines.append((rho, cosine, float(residual.std() / np.sqrt(ENTRIES))))
    return cosines


def numeric(law: Law = LAW) -> Check:
    """Cosines of activated vectors with 2e5 entries, s = 2."""
    proof = Derivation()
    for name in law.odd:
        for rho, cosine, error in _simulate(name):
            bound = float(law.bound(rho))
            proof.bounded(f"{name}, rho = {rho}: cosine", cosine, error, -bound, bound)
            if name == "identity":
                proof.estimate(f"identity, rho = {rho}: |cosine| attains the bound", abs(cosine) if rho else cosine, error, bound)
        proof.agrees(f"{name}: the law of kappa(0), to round-off", float(law.zero(name, 2)), 0.0, 1e-15)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("|kappa| <= rho^2", replace(LAW, bound=lambda rho, *, ctx=FLOAT: ctx.number(rho) ** 2)),
        Wrong("|kappa| <= 0.98 |rho|", replace(LAW, bound=lambda rho, *, ctx=FLOAT: ctx.number("0.98") * ctx.magnitude(ctx.number(rho)))),
        Wrong(
            "|kappa| <= sqrt |rho|, not attained", replace(LAW, bound=lambda rho, *, ctx=FLOAT: ctx.sqrt(ctx.magnitude(ctx.number(rho))))
        ),
        Wrong("broken hypothesis: x + x^2 + ..., SiLU", replace(LAW, odd=("identity", "silu"), even_part=1)),
    ]

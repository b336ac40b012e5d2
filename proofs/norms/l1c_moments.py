"""L1C: cos^2 of two vectors of i.i.d. pairs of entries to first order, from their joint moments, and those of a gain and a bias."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, cited, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.wide_overlap import affine_moments, overlap_from_moments

STATEMENT = Statement(
    id="L1C",
    kind=EQUAL,
    title="the overlap of vectors of i.i.d. pairs of entries, to order 1/f, from moments; moments of a gain and bias",
    claim=(
        r"\mathbb{E}\cos^2(a, b) = \frac{p^2}{AB} + \frac1{2f}\,\mathrm{tr}\,H\Sigma + O(1/f^2),\ (p, A, B) = \mathbb{E}(a_ib_i, a_i^2,"
        r" b_i^2),\ \Sigma \text{ their covariance},\ H \text{ the Hessian of } p^2/(AB);\quad a = gx + t,\ b = g'y + t':"
        r"\ \mathbb{E}a^p b^q ="
        r" \sum_{ij}\tbinom pi\tbinom qj\,\mathbb{E}g^ig'^j\,\mathbb{E}t^{p-i}t'^{q-j}\,\mathbb{E}x^i\,\mathbb{E}y^j"
    ),
    hypotheses=(
        "the f pairs (a_i, b_i) i.i.d., with eight moments, E a^2 and E b^2 > 0",
        "gain and bias: g - 1 and t normal of standard deviation tau, independent of each other and of x and y, one for both experts or "
        "one each; x and y independent",
        "entries divided by their own vector's norm are no independent pairs: beside a shared bias that costs a term in 1/f, left out",
    ),
    box={"f": (1, None), "tau": (0, None)},
    premises=(cited("moments of smooth functions of means: the remainder of the delta method is O(1/f^2), Cramer (1946), 27.7"),),
    tight="equalities; f^2 times the simulated rest is -3 at tau = 1/2 for normal entries and a shared gain and bias",
)


@dataclass(frozen=True)
class Law:
    overlap: Callable[..., Any] = overlap_from_moments
    moments: Callable[..., Any] = affine_moments


LAW = Law()
POWERS = [(p, q) for p in range(5) for q in range(5 - p)]


@cache
def _delta() -> tuple[Any, dict[tuple[int, int], Any]]:
    """Value and half the trace of Hessian times covariance, in the moments m_pq."""
    moment = {power: sp.Symbol(f"m{power[0]}{power[1]}", positive=True) for power in POWERS}
    point = sp.symbols("P A B", positive=True)
    value = point[0] ** 2 / (point[1] * point[2])
    kinds = ((1, 1), (2, 0), (0, 2))
    covariance = sp.Matrix(
        3, 3, lambda i, j: moment[kinds[i][0] + kinds[j][0], kinds[i][1] + kinds[j][1]] - moment[kinds[i]] * moment[kinds[j]]
    )
    at = {symbol: moment[kind] for symbol, kind in zip(point, kinds, strict=True)}
    f = sp.Symbol("f", positive=True)
    return (value + (sp.hessian(value, point) * covariance).trace() / (2 * f)).subs(at), moment


@cache
def _affine(shared: bool) -> dict[tuple[int, int], Any]:
    """E (g x + t)^p (g' y + t')^q by expanding in standard normals, the entries' moments left as symbols."""
    tau = sp.Symbol("tau", positive=True)
    x, y, *normals = sp.symbols("x y z1:5")
    g, t = 1 + tau * normals[0], tau * normals[1]
    other, bias = (g, t) if shared else (1 + tau * normals[2], tau * normals[3])
    moments = {}
    for p, q in POWERS:
        total = sp.Integer(0)
        for powers, coefficient in sp.Poly(sp.expand((g * x + t) ** p * (other * y + bias) ** q), x, y, *normals).terms():
            if all(power % 2 == 0 for power in powers[2:]):
                gauss = sp.prod([sp.factorial2(power - 1) for power in powers[2:] if power])
                total += coefficient * gauss * _entry("x", powers[0]) * _entry("y", powers[1])
        moments[p, q] = sp.expand(total)
    return moments


def _entry(name: str, power: int) -> Any:
    return sp.Symbol(f"{name}{power}") if power else sp.Integer(1)


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    derived, moment = _delta()
    f, tau = sp.Symbol("f", positive=True), sp.Symbol("tau", positive=True)
    proof.step("cos^2 = P^2/(A B) of the means P, A, B of a b, a^2, b^2, whose covariance is that of one pair over f")
    claimed = law.overlap(lambda p, q: moment[p, q], f, ctx=SYMBOLIC)
    proof.equal("value at the expectations, and half the Hessian times the covariance", sp.together(derived), sp.together(claimed))
    for shared in (True, False):
        moments_of = law.moments(lambda p: _entry("x", p), tau, shared, second=lambda p: _entry("y", p), ctx=SYMBOLIC)
        for power, expected in _affine(shared).items():
            difference = sp.expand(expected - moments_of(*power))
            proof.holds(f"{'one' if shared else 'two'} gain and bias: E a^{power[0]} b^{power[1]}", difference == 0)
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("polynomial and rational laws, derived exactly; what is left is of order 1/f^2")


DRAWS, WIDTHS, TAU = 60_000, (16, 48), 0.5
# The simulated rest is -3/f^2 for a shared gain and bias.
ROOM = 6.0


@cache
def _simulate(shared: bool, f: int) -> np.ndarray:
    random = generator("L1C", f"{shared} {f}")

    def normal() -> np.ndarray:
        return random.standard_normal((DRAWS, f), np.float32)

    g, t = 1 + TAU * normal(), TAU * normal()
    other, bias = (g, t) if shared else (1 + TAU * normal(), TAU * normal())
    # Entries with a mean: x of mean 1/2, y of mean 1/4.
    a, b = g * (normal() + 0.5) + t, other * (normal() + 0.25) + bias
    return (a * b).sum(1, dtype=np.float64) ** 2 / ((a * a).sum(1, dtype=np.float64) * (b * b).sum(1, dtype=np.float64))


def _moments_of(mean: float) -> tuple[float, ...]:
    return 1.0, mean, mean**2 + 1, mean**3 + 3 * mean, mean**4 + 6 * mean**2 + 3


def numeric(law: Law = LAW) -> Check:
    """Normal entries with means, within ROOM / f^2."""
    proof = Derivation()
    x, y = _moments_of(0.5), _moments_of(0.25)
    for shared in (True, False):
        moments = law.moments(lambda p: x[p], TAU, shared, second=lambda q: y[q], ctx=FLOAT)
        for f in WIDTHS:
            text = f"{'one' if shared else 'two'} gain and bias, f = {f}: mean cos^2"
            proof.estimate(text, *mean_and_sem(_simulate(shared, f)), float(law.overlap(moments, f, ctx=FLOAT)), ROOM / f**2)
    return proof.check()


def _without(name: str) -> Callable[..., Any]:
    def overlap(moment: Callable[[int, int], Any], f: Any, *, ctx: Any) -> Any:
        p, a, b = moment(1, 1), moment(2, 0), moment(0, 2)
        parts = {
            "between": p * p * (moment(2, 2) - a * b) / (a * b) ** 2,
            "first": (moment(2, 2) - p * p) / (a * b),
            "mixed": -2 * p * ((moment(3, 1) - p * a) / a + (moment(1, 3) - p * b) / b) / (a * b),
        }
        return overlap_from_moments(moment, f, ctx=ctx) - parts[name] / ctx.number(f)

    return overlap


def _moments_with(gain: bool) -> Callable[..., Any]:
    def moments(entry: Any, tau: Any, shared: bool, second: Any = None, *, ctx: Any) -> Any:
        right = affine_moments(entry, tau, shared if gain else not shared, second, ctx=ctx)
        if not gain:
            return right
        # A gain without its bias: E t^2 left out of a's square.
        return lambda p, q: right(p, q) - (ctx.number(tau) ** 2 if (p, q) == (2, 0) else 0)

    return moments


def control() -> list[Wrong]:
    return [
        Wrong("without the covariance of a^2 and b^2", replace(LAW, overlap=_without("between")), ("symbolic",), "smaller than ROOM / f^2"),
        Wrong("without the spread of a b", replace(LAW, overlap=_without("first"))),
        Wrong("without the covariances of a b with a^2 and b^2", replace(LAW, overlap=_without("mixed"))),
        Wrong("one gain and bias taken for two, and two for one", replace(LAW, moments=_moments_with(False))),
        Wrong("no bias in a^2", replace(LAW, moments=_moments_with(True))),
    ]

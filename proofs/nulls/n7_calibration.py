"""N7: an overlap in units of its null has a ceiling that depends on the space; what is left of it after the null does not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.theory.calibrated import deviation, effective_dimension, excess, excess_ceiling, scaled_excess, scaled_floor
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="N7",
    kind=EQUAL,
    title="the excess over the null is bounded by the space and cannot be compared across spaces; the scaled excess can",
    claim=(
        r"x = a/m \in [0, 1/m],\ s = \frac{a-m}{1-m} \in \left[\frac{-m}{1-m}, 1\right];\ \text{null: } \mathbb{E}x = 1,\ \mathbb{E}s = 0;"
        r"\ \text{a share } p \text{ of identical pairs: } \mathbb{E}s = p \text{ in every space},\ \mathbb{E}x = 1 + p(1/m - 1);"
        r"\ x(a,m)/x(a,m') = m'/m;\ 1/\mathbb{E}a = N \text{ at the null } m = 1/N"
    ),
    hypotheses=(
        "a: an MSO, a mean of squared cosines, 0 <= a <= 1",
        "m: its null mean, the expectation of a for independent vectors (N1: 1/N in R^N), 0 < m < 1",
        "planted overlap: a share p of the pairs is identical, the others independent",
    ),
    box={"a": (0, 1), "m": (0, 1), "p": (0, 1)},
    premises=(computed("N1"),),
    tight="orthogonal and identical vectors attain the ends; excess 2 is cos^2 = 1 in R^2 and cos^2 = 1/500 in R^1000",
)


@dataclass(frozen=True)
class Law:
    excess: Callable[..., Any] = excess
    ceiling: Callable[..., Any] = excess_ceiling
    scaled: Callable[..., Any] = scaled_excess
    floor: Callable[..., Any] = scaled_floor
    dimension: Callable[..., Any] = effective_dimension
    z: Callable[..., Any] = deviation


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    m, p, sd = sp.symbols("m p sd", positive=True)
    a, other = sp.symbols("a m2", positive=True)
    n = sp.Symbol("N", integer=True, positive=True)
    proof.step("the scaled excess is the affine map of a that sends the null mean to 0 and identical vectors to 1: s = u + v a")
    u, v = sp.symbols("u v")
    affine = sp.solve([u + v * m, u + v - 1], [u, v])
    line = affine[u] + affine[v] * a
    proof.equal("s(a)", sp.factor(line), law.scaled(a, m, ctx=SYMBOLIC))
    proof.equal("its smallest value, at a = 0", line.subs(a, 0), law.floor(m, ctx=SYMBOLIC))
    proof.step("the excess is the linear map that sends the null mean to 1")
    linear = sp.solve(v * m - 1, v)[0] * a
    proof.equal("x(a)", linear, law.excess(a, m, ctx=SYMBOLIC))
    proof.equal("its ceiling, at a = 1", linear.subs(a, 1), law.ceiling(m, ctx=SYMBOLIC))
    t = sp.Symbol("t", positive=True)
    slopes = [sp.simplify(sp.diff(form, a).subs(m, t / (1 + t))) for form in (linear, line)]
    proof.holds(
        f"both increase with a: slopes {slopes} at m = t/(1+t), any t > 0; so the ranges end at a = 0 and a = 1",
        all(slope.is_positive for slope in slopes),
    )
    proof.step("both are affine, so E x = x(E a) and E s = s(E a); independent vectors have E a = m")
    proof.equal("null: E x", law.excess(m, m, ctx=SYMBOLIC), sp.Integer(1))
    proof.equal("null: E s", law.scaled(m, m, ctx=SYMBOLIC), sp.Integer(0))
    planted = p * 1 + (1 - p) * m
    proof.step("a share p of identical pairs", planted)
    proof.equal("E s, free of the space", p, law.scaled(planted, m, ctx=SYMBOLIC))
    proof.equal("E x, not free of it", 1 + p * (1 / m - 1), law.excess(planted, m, ctx=SYMBOLIC))
    proof.equal("one a in two spaces: ratio of excesses", other / m, law.excess(a, m, ctx=SYMBOLIC) / law.excess(a, other, ctx=SYMBOLIC))
    for width, cos2 in ((2, Fraction(1)), (1000, Fraction(1, 500))):
        proof.equal(f"R^{width}, cos^2 = {cos2}: excess", sp.Integer(2), law.excess(cos2, Fraction(1, width), ctx=SYMBOLIC))
    proof.equal("N1: independent vectors of R^N, effective dimension", n, law.dimension(1 / n, ctx=SYMBOLIC))
    proof.equal("identical vectors, effective dimension", sp.Integer(1), law.dimension(sp.Integer(1), ctx=SYMBOLIC))
    proof.equal("z of a", (a - m) / sd, law.z(a, m, sd, ctx=SYMBOLIC))
    for name, derived in (("x", (linear - 1) / (sp.diff(linear, a) * sd)), ("s", line / (sp.diff(line, a) * sd))):
        proof.equal(f"z of {name}, its sd scaled with it", sp.factor(derived), law.z(a, m, sd, ctx=SYMBOLIC))
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("affine laws, derived exactly; their ranges are the values at the ends of [0, 1]")


WIDTHS = (3, 40)
SHARE = Fraction(1, 5)
PAIRS = 60_000


@cache
def _simulate(width: int) -> tuple[np.ndarray, np.ndarray]:
    """cos^2 of independent Gaussian pairs, and of pairs of which a share is identical."""
    random = generator("N7", str(width))
    u, v = random.standard_normal((2, PAIRS, width))
    planted = np.where(random.random((PAIRS, 1)) < float(SHARE), u, v)
    return tuple((u * w).sum(1) ** 2 / ((u * u).sum(1) * (w * w).sum(1)) for w in (v, planted))


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for width in WIDTHS:
        null, planted = _simulate(width)
        m, p = 1 / width, float(SHARE)
        proof.estimate(f"R^{width}, independent: excess", *mean_and_sem(law.excess(null, m, ctx=FLOAT)), 1.0)
        proof.estimate(f"R^{width}, independent: scaled excess", *mean_and_sem(law.scaled(null, m, ctx=FLOAT)), 0.0)
        proof.estimate(f"R^{width}, a fifth identical: scaled excess", *mean_and_sem(law.scaled(planted, m, ctx=FLOAT)), p)
        claimed = 1 + p * (law.ceiling(m, ctx=FLOAT) - 1)
        proof.estimate(f"R^{width}, a fifth identical: excess", *mean_and_sem(planted / m), claimed)
        mean, sem = mean_and_sem(null)
        # The delta method: d(1/a) = -da/a^2.
        proof.estimate(f"R^{width}: 1/MSO of {PAIRS} pairs", law.dimension(mean, ctx=FLOAT), sem / mean**2, width)
        sd = float(np.sqrt(2 * (width - 1) / (width**2 * (width + 2))))
        z = law.z(null, m, sd, ctx=FLOAT)
        proof.estimate(f"R^{width}: z of one pair, squared", *mean_and_sem(z * z), 1.0)
        proof.bounded(
            f"R^{width}: the smallest scaled excess", float(law.scaled(null, m, ctx=FLOAT).min()), 0.0, low=law.floor(m, ctx=FLOAT)
        )
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("excess a/m - 1", replace(LAW, excess=lambda a, m, *, ctx: ctx.number(a) / ctx.number(m) - 1)),
        Wrong("ceiling 1/m - 1", replace(LAW, ceiling=lambda m, *, ctx: 1 / ctx.number(m) - 1)),
        Wrong("scaled excess (a - m)/m", replace(LAW, scaled=lambda a, m, *, ctx: (ctx.number(a) - ctx.number(m)) / ctx.number(m))),
        Wrong("scaled excess over 1 + m", replace(LAW, scaled=_over_one_plus)),
        Wrong("floor 0", replace(LAW, floor=lambda m, *, ctx: 0 * ctx.number(m))),
        Wrong("floor -m", replace(LAW, floor=lambda m, *, ctx: -ctx.number(m))),
        Wrong("effective dimension 1/a - 1", replace(LAW, dimension=lambda a, *, ctx: 1 / ctx.number(a) - 1)),
        Wrong("z over the variance", replace(LAW, z=lambda a, m, sd, *, ctx: deviation(a, m, ctx.number(sd) ** 2, ctx=ctx))),
    ]


def _over_one_plus(a: Any, m: Any, *, ctx: Any) -> Any:
    return (ctx.number(a) - ctx.number(m)) / (1 + ctx.number(m))

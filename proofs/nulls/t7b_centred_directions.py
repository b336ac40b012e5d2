"""T7B: experts' directions less their mean: no closed form, and an expansion that no length of a mean enters."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, cited, generator, mean_and_sem
from simgap.theory.centred_means import (
    DIRECTIONS,
    centred_directions_spread,
    directions_error,
    null_centred_directions,
    null_centred_mso,
)
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="T7B",
    kind=EQUAL,
    title="unit vectors less their mean overlap by 1/(E-1)^2 + c1/d + c2/d^2",
    claim=(
        r"\mathbb{E}\cos^2 = \tfrac1{(E-1)^2} + \tfrac{(E-2)(E^3-2E^2-E-2)}{(E-1)^4 d} + \tfrac{2(E-2)(5E^4-9E^3-7E^2-3E-2)}{E(E-1)^6d^2}"
        r" + O(d^{-3});\quad \overline{\cos^2} - \mathbb{E} \approx m(\chi^2_{E-1} - E + 1) + m'(\chi^2_{E(E-3)/2} - \tfrac{E(E-3)}2),\ "
        r"m = \tfrac4{(E-1)^5d},\ m' = \tfrac{2E}{(E-1)^3d}"
    ),
    hypotheses=(
        *DIRECTIONS,
        "what is left out: 2/d^3 of the mean at d >= 8, 3/d of the variance and 6/d of the third cumulant at E >= 4, d >= 32 (simulated)",
    ),
    box={"d": (1, None), "E": (2, None)},
    premises=(cited("moments of smooth functions of means: the remainder of the delta method, Cramer (1946), 27.7"),),
    tight="at E = 2 both vectors are opposite: 1, without spread",
)


@dataclass(frozen=True)
class Law:
    """lengths: what the simulated vectors are scaled by once they are of length 1."""

    mean: Callable[..., Any] = null_centred_directions
    spread: Callable[..., tuple[Any, Any]] = centred_directions_spread
    lengths: str = "one"


LAW = Law()
E, D = sp.symbols("E d", positive=True)
OTHERS = E - 2


@cache
def _forms() -> tuple[Any, ...]:
    """cos^2 = P^2/(A B) of two centred unit vectors, at equal products; the coefficients in (P, A, B) of the product x of two experts: of
    the pair itself, of its first or second with a third one, and of two others."""
    both = 2 / E**2
    own = (1 - 2 / E + both, both - 2 / E, both - 2 / E)
    return own, (both - 1 / E, both - 2 / E, both), (both - 1 / E, both, both - 2 / E), (both, both, both)


@cache
def _derivatives(order: int) -> dict[tuple[int, ...], Any]:
    point = sp.symbols("P A B")
    value, at = point[0] ** 2 / (point[1] * point[2]), dict(zip(point, (-1 / E, 1 - 1 / E, 1 - 1 / E), strict=True))
    return {which: sp.diff(value, *(point[i] for i in which)).subs(at) for which in itertools.product(range(3), repeat=order)}


def _binomial(n: Any, k: int) -> Any:
    return sp.prod([n - i for i in range(k)]) / sp.factorial(k)


@cache
def _mean() -> tuple[Any, Any]:
    """The coefficients of 1/d and 1/d^2: second moments of the products are 1/d, of triangles 1/d^2, of fourth order those of normals."""
    own, first, second, apart = _forms()
    counted = [(1, own), (OTHERS, first), (OTHERS, second), (_binomial(OTHERS, 2), apart)]
    triangles = [
        (OTHERS, (own, first, second)),
        (_binomial(OTHERS, 2), (first, first, apart)),
        (_binomial(OTHERS, 2), (second, second, apart)),
        (_binomial(OTHERS, 3), (apart, apart, apart)),
    ]
    two: dict[tuple[int, ...], Any] = {(a, b): sp.cancel(sum(m * v[a] * v[b] for m, v in counted)) for a in range(3) for b in range(3)}
    three = {
        abc: sum(
            m * sum(sp.prod([v[i] for v, i in zip(order, abc, strict=True)]) for order in itertools.permutations(v3)) for m, v3 in triangles
        )
        for abc in itertools.product(range(3), repeat=3)
    }
    one_over_d = sum(value * two[which] for which, value in _derivatives(2).items()) / 2
    cubic = sum(value * sp.cancel(three[which]) for which, value in _derivatives(3).items()) / 6
    quartic = sum(value * two[a, b] * two[c, e] for (a, b, c, e), value in _derivatives(4).items()) / 8
    return sp.factor(one_over_d), sp.factor(cubic + quartic)


@cache
def _eigenvalues() -> tuple[Any, Any, Any]:
    """Of the Hessian of the sum over pairs in the products of pairs, which permuting experts does not change: that of (1, .., 1), of the
    sums over one expert's products, E - 1 times, and of the rest, E (E - 3)/2 times (the Johnson scheme)."""
    own, first, second, apart = _forms()
    hessian = _derivatives(2)

    def form(v: Any, w: Any) -> Any:
        return sum(value * v[a] * w[b] for (a, b), value in hessian.items())

    # Of a product with itself, with one that shares an expert, with one that shares none: summed over the pairs whose cos^2 it is.
    same = form(own, own) + 2 * OTHERS * form(first, first) + _binomial(OTHERS, 2) * form(apart, apart)
    m, k = OTHERS - 1, OTHERS - 2
    beside = 2 * form(own, first) + form(first, second) + m * form(first, first) + 2 * m * form(first, apart)
    beside += _binomial(m, 2) * form(apart, apart)
    away = 2 * form(own, apart) + 4 * form(first, second) + 4 * k * form(first, apart) + _binomial(k, 2) * form(apart, apart)
    whole = same + 2 * OTHERS * beside + _binomial(OTHERS, 2) * away
    return tuple(sp.cancel(each) for each in (whole, same + (E - 4) * beside - (E - 3) * away, same - 2 * beside + away))


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    proof.step("products x_ef of uniform unit vectors: mean 0, uncorrelated, E x^2 = 1/d, E x_12 x_23 x_31 = 1/d^2 (law N1B)")
    proof.step("y_e = u_e - m: P = y_1'y_2, A = |y_1|^2 and B = |y_2|^2 are linear in the products; around -1/E, 1 - 1/E")
    first, second = _mean()
    derived = 1 / (E - 1) ** 2 + first / D + second / D**2
    text = f"cos^2 = P^2/(A B) to fourth order: 1/(E-1)^2 + ({first})/d + ({second})/d^2"
    proof.holds(text, sp.cancel(derived - law.mean(D, E, ctx=SYMBOLIC)) == 0)
    whole, few, many = _eigenvalues()
    proof.holds("equal products change no cosine: (1, .., 1) has the eigenvalue 0, and no term is linear", whole == 0)
    proof.step(
        "products become normal, uncorrelated, of variance 1/d: half a form in them is a sum of chi^2 of these weights over 2 P d",
        (few, many),
    )
    sizes = [(E - 1, few / (E * (E - 1) * D)), (E * (E - 3) / 2, many / (E * (E - 1) * D))]
    cumulants = [factor * sum(count * size**k for count, size in sizes) for k, factor in ((2, 2), (3, 8))]
    for name, derived, claimed in zip(("variance", "third cumulant"), cumulants, law.spread(D, E, ctx=SYMBOLIC), strict=True):
        proof.holds(f"{name} of the mean over pairs", sp.cancel(derived - claimed) == 0)
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("rational terms of an expansion, derived exactly; what is left is of order 1/d^3")


DRAWS = 400_000
CASES = ((3, 8), (4, 16), (8, 8), (8, 32))


@cache
def _simulate(lengths: str, e: int, d: int) -> np.ndarray:
    random = generator("T7B", f"{lengths} {e} {d}")
    u = random.standard_normal((DRAWS // d, e, d)) * np.exp(random.standard_normal((DRAWS // d, e, 1)))
    if lengths != "as drawn":
        u /= np.linalg.norm(u, axis=2, keepdims=True)
    if lengths == "a common part":
        u[:, :, 0] += 2 * u[:, :1, 1]
        u /= np.linalg.norm(u, axis=2, keepdims=True)
    y = u - u.mean(1, keepdims=True)
    y /= np.linalg.norm(y, axis=2, keepdims=True)
    return ((y @ y.transpose(0, 2, 1)) ** 2).sum((1, 2)) / (e * (e - 1)) - 1 / (e - 1)


def numeric(law: Law = LAW) -> Check:
    """Vectors of lognormal lengths, which their directions do not know."""
    proof = Derivation()
    for e, d in CASES:
        values, claimed = _simulate(law.lengths, e, d), float(law.mean(d, e, ctx=FLOAT))
        proof.estimate(f"E = {e}, d = {d}: mean cos^2", *mean_and_sem(values), claimed, directions_error(d))
        if e >= 4 and d >= 32:
            apart = values - values.mean()
            for name, power, claimed in zip(("variance", "third cumulant"), (2, 3), law.spread(d, e, ctx=FLOAT), strict=True):
                proof.estimate(f"E = {e}, d = {d}: {name}", *mean_and_sem(apart**power), float(claimed), 3 * (power - 1) / d * claimed)
    return proof.check()


def control() -> list[Wrong]:
    blind = "the derivation knows unit vectors only"

    def gaussian(d: Any, e: Any, *, ctx: Any) -> Any:
        if ctx is FLOAT:
            return null_centred_mso(d, e)
        rho2 = 1 / (e - 1) ** 2
        return rho2 + (1 - rho2) * (1 - 2 * rho2) / d

    def short(d: Any, e: Any, *, ctx: Any) -> Any:
        return null_centred_directions(d, e, ctx=ctx) + 1 / (2 * ctx.number(d) ** 2)

    return [
        Wrong("the law of Gaussian vectors", replace(LAW, mean=gaussian)),
        Wrong("1/(E-1)^2 + 1/d", replace(LAW, mean=lambda d, e, *, ctx: 1 / (ctx.number(e) - 1) ** 2 + 1 / ctx.number(d))),
        Wrong("c2 larger by 1/2", replace(LAW, mean=short)),
        Wrong("twice the variance", replace(LAW, spread=_twice)),
        Wrong("lengths as they are", replace(LAW, lengths="as drawn"), ways=("numeric",), why=blind),
        Wrong("a part in common that is not of all the same length", replace(LAW, lengths="a common part"), ways=("numeric",), why=blind),
    ]


def _twice(d: Any, e: Any, *, ctx: Any) -> tuple[Any, Any]:
    variance, third = centred_directions_spread(d, e, ctx=ctx)
    return 2 * variance, third

"""N1: independent vectors in R^N overlap by 1/N, and spread as their entries' fourth moments say."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from sympy.polys.domains import QQ
from sympy.polys.rings import ring

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.weight_null import null_mso, null_variance, null_variance_general

STATEMENT = Statement(
    id="N1",
    kind=EQUAL,
    title="independent vectors in R^N overlap by 1/N on average",
    claim=(
        r"\mathbb{E}\cos^2 = 1/N;\quad \mathrm{Var}\cos^2 = NAB + 3N(1/N-A)(1/N-B)/(N-1) - 1/N^2,"
        r"\ A = \mathbb{E}\tfrac1N\textstyle\sum_i(u_i/\|u\|)^4,\ B \text{ likewise of } v;"
        r"\ = 2(N-1)/(N^2(N+2)) \text{ for an isotropic side}"
    ),
    hypotheses=(
        "u and v independent and non-zero",
        "flipping signs of u's entries and exchanging entries keeps u's law: i.i.d. entries symmetric about 0 will do; v is anything",
        "second form of the variance: u isotropic; both forms: N >= 2, and then A and B lie in [1/N^2, 1/N]",
    ),
    box={"N": (1, None)},
    tight="an equality; u = signs and v an axis attain Var = 0, u and v random axes attain Var = 1/N - 1/N^2",
)


@dataclass(frozen=True)
class Law:
    mean: Callable[..., Any] = null_mso
    variance: Callable[..., Any] = null_variance
    general: Callable[..., Any] = null_variance_general


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: expand powers of sum_i a_i b_i over unit vectors a, b, and keep what sign flips and permutations leave."""
    proof = Derivation()
    proof.step("a = u/|u|, b = v/|v|: cos^2 = (sum_i a_i b_i)^2 with sum_i a_i^2 = sum_i b_i^2 = 1")
    proof.step(
        "flipping the sign of u_i keeps the law of a and turns a_i: E a_i^p a_j^q = 0 for odd p; permuting entries: E a_i^2 = 1/N for all i"
    )
    for n in (1, 2, 3, 4):
        average, count = _orbit(n, 2)
        proof.equal(
            f"N = {n}: cos^2 averaged over the {count} signs and orders of u, for every u and v",
            average,
            law.mean(sp.Integer(n), ctx=SYMBOLIC),
        )
    size, a, b = SIZE, sp.Symbol("A", positive=True), sp.Symbol("B", positive=True)
    proof.equal("any N: sum_i E a_i^2 b_i^2 = (1/N) sum_i b_i^2, and sum_i b_i^2 = 1", 1 / size, law.mean(size, ctx=SYMBOLIC))
    pair_a, pair_b = (1 / size - a) / (size - 1), (1 / size - b) / (size - 1)
    proof.step("E a_i^4 = A; sum_j a_i^2 a_j^2 = a_i^2 gives E a_i^2 a_j^2 for i != j", pair_a)
    proof.step(
        "of v only sum_i b_i^4, of mean N B, and sum_{i != j} b_i^2 b_j^2 = 1 - sum_i b_i^4 are met; over N (N-1), the latter has mean",
        pair_b,
    )
    for n in (2, 3, 4, 5):
        fourth, pairs = _patterns(n)
        proof.holds(
            f"N = {n}: (sum a_i b_i)^4 has {fourth} terms a_i^4 b_i^4 and {pairs} of a_i^2 a_j^2 b_i^2 b_j^2",
            (fourth, pairs) == (n, 3 * n * (n - 1)),
        )
    derived = _spread(size, a, b)
    proof.equal("Var cos^2 = E (sum a_i b_i)^4 - 1/N^2", derived, law.general(size, a, b, ctx=SYMBOLIC))
    for n in (2, 3):
        proof.holds(f"N = {n}: cos^4 averaged over signs and orders of u, less 1/N^2, is that at A of u and B of v", _spread_holds(n))
    gaussian = _gaussian_share()
    proof.step("Gaussian side: the direction is independent of the length, so A = E z^4 / E |z|^4", gaussian)
    for other in (b, gaussian):
        spread = sp.factor(derived.subs(a, gaussian).subs(b, other))
        proof.equal(f"Var cos^2 with A = {gaussian}, B = {other}", spread, law.variance(size, ctx=SYMBOLIC))
    return proof.check()


SIZE = sp.Symbol("N", integer=True, positive=True)


def _spread(n: Any, a: Any, b: Any) -> Any:
    """N terms of A B and 3 N (N-1) of E a_i^2 a_j^2 E b_i^2 b_j^2, less 1/N^2."""
    return n * a * b + 3 * n * (n - 1) * ((1 / n - a) / (n - 1)) * ((1 / n - b) / (n - 1)) - 1 / n**2


@cache
def _spread_holds(n: int) -> bool:
    u, v = (sp.symbols(f"{name}1:{n + 1}") for name in "uv")
    shares = (sum(x**4 for x in side) / sum(x**2 for x in side) ** 2 / n for side in (u, v))
    return sp.cancel(_orbit(n, 4)[0] - sp.Rational(1, n * n) - _spread(sp.Integer(n), *shares)) == 0


@cache
def _gaussian_share() -> Any:
    z = sp.Symbol("z", real=True)
    density = sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi)
    second, fourth = (sp.integrate(z**p * density, (z, -sp.oo, sp.oo)) for p in (2, 4))
    return sp.factor(fourth / (SIZE * fourth + SIZE * (SIZE - 1) * second**2))


@cache
def _orbit(n: int, power: int) -> tuple[Any, int]:
    """cos^power averaged over the signs and orders of u's entries, for generic u and v; and how many there are."""
    names = [f"{side}{i}" for side in "uv" for i in range(1, n + 1)]
    polynomials, *entries = ring(names, QQ)
    u, v = entries[:n], entries[n:]
    orbit = list(itertools.product(itertools.product((-1, 1), repeat=n), itertools.permutations(u)))
    total = polynomials.zero
    for signs, order in orbit:
        total += sum((s * x * y for s, x, y in zip(signs, order, v, strict=True)), polynomials.zero) ** power
    lengths = (sum((x**2 for x in u), polynomials.zero) * sum((y**2 for y in v), polynomials.zero)) ** (power // 2)
    whole, rest = divmod(total, lengths)
    return (whole.as_expr() + rest.as_expr() / lengths.as_expr()) / len(orbit), len(orbit)


@cache
def _patterns(n: int) -> tuple[int, int]:
    """How often the two surviving patterns occur among the n^4 terms of (sum_i x_i)^4."""
    terms = [tuple(sorted(term)) for term in itertools.product(range(n), repeat=4)]
    counts = [tuple(sorted(term.count(i) for i in set(term))) for term in terms]
    return counts.count((4,)), counts.count((2, 2))


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every N")


WIDTHS = (3, 8, 64)
PAIRS = 40_000


@cache
def _simulate() -> dict[tuple[str, int], np.ndarray]:
    """cos^2 of independent pairs: uniform and Rademacher u against a fixed lopsided v, Gaussian u against both."""
    cos2 = {}
    for n in WIDTHS:
        random = generator("N1", str(n))
        v = np.arange(1.0, n + 1) ** 2
        sides = {"uniform": random.uniform(-1, 1, (PAIRS, n)), "signs": random.choice([-1.0, 1.0], (PAIRS, n))}
        sides["gaussian"] = random.standard_normal((PAIRS, n))
        for name, u in sides.items():
            cos2[name, n] = (u @ v) ** 2 / ((u * u).sum(1) * (v @ v))
    return cos2


def numeric(law: Law = LAW) -> Check:
    """PAIRS pairs for each width and law of entries; v is as far from isotropic as squares of 1..N are."""
    proof = Derivation()
    for (name, n), cos2 in _simulate().items():
        proof.estimate(f"N = {n}, {name} u, fixed v: mean cos^2", *mean_and_sem(cos2), law.mean(n, ctx=FLOAT))
        v = np.arange(1.0, n + 1) ** 2
        b = float((v**4).sum() / n / (v @ v) ** 2)
        # The mean is 1/N exactly, so deviations from it need no correction for an estimated one.
        spread = mean_and_sem((cos2 - 1 / n) ** 2)
        if name == "signs":
            proof.estimate(f"N = {n}, signs: Var cos^2", *spread, law.general(n, 1 / n**2, b, ctx=FLOAT))
        if name == "gaussian":
            proof.estimate(f"N = {n}, gaussian: Var cos^2", *spread, law.variance(n, ctx=FLOAT))
            proof.estimate(f"N = {n}, gaussian: Var cos^2 by the general law", *spread, law.general(n, 3 / (n * (n + 2)), b, ctx=FLOAT))
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("E cos^2 = 1/(N+2)", replace(LAW, mean=lambda n, *, ctx: 1 / (ctx.number(n) + 2))),
        Wrong("E cos^2 = 1/(N-1)", replace(LAW, mean=lambda n, *, ctx: 1 / (ctx.number(n) - 1))),
        Wrong("E cos^2 = 2/(N+1)", replace(LAW, mean=lambda n, *, ctx: 2 / (ctx.number(n) + 1))),
        Wrong("Var = 2/(N(N+2))", replace(LAW, variance=lambda n, *, ctx: 2 / (ctx.number(n) * (ctx.number(n) + 2)))),
        Wrong("Var = 2(N-1)/(N^2(N+1))", replace(LAW, variance=_variance_with(2, 1))),
        Wrong("Var = 3(N-1)/(N^2(N+2))", replace(LAW, variance=_variance_with(3, 2))),
        Wrong("general Var with 2 in place of 3", replace(LAW, general=_general_with(pairs=2))),
        Wrong("general Var with N in place of N-1", replace(LAW, general=_general_with(less=0))),
        Wrong("general Var without 1/N^2", replace(LAW, general=_general_with(square=0))),
        Wrong("general Var with 2 N A B", replace(LAW, general=_general_with(fourth=2))),
    ]


def _variance_with(top: int, plus: int) -> Callable[..., Any]:
    return lambda n, *, ctx: top * (ctx.number(n) - 1) / (ctx.number(n) ** 2 * (ctx.number(n) + plus))


def _general_with(fourth: int = 1, pairs: int = 3, less: int = 1, square: int = 1) -> Callable[..., Any]:
    def general(n: Any, a: Any, b: Any, *, ctx: Any) -> Any:
        n = ctx.number(n)
        return fourth * n * a * b + pairs * n * (1 / n - a) * (1 / n - b) / (n - less) - square / (n * n)

    return general

"""N1: independent vectors in R^N overlap by 1/N, and spread as their entries' fourth moments say."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

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
        r"\ A = \mathbb{E}(u_1^2/\|u\|^2)^2,\ B \text{ likewise}; = 2(N-1)/(N^2(N+2)) \text{ for an isotropic side}"
    ),
    hypotheses=(
        "u and v independent and non-zero",
        "mean: the entries of u are i.i.d. and symmetric about 0; v is anything",
        "variance: both sides so, or one of them isotropic",
    ),
    box={"N": (2, None), "A": (None, None), "B": (None, None)},
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
    for n in (2, 3, 4):
        u, v = sp.symbols(f"u1:{n + 1}", positive=True), sp.symbols(f"v1:{n + 1}")
        flips = itertools.product((-1, 1), repeat=n)
        orbit = [sum(s * x * y for s, x, y in zip(signs, p, v, strict=True)) ** 2 for signs in flips for p in itertools.permutations(u)]
        average = sp.factor(sp.expand(sum(orbit)) / len(orbit) / (sum(x**2 for x in u) * sum(y**2 for y in v)))
        proof.equal(
            f"N = {n}: cos^2 averaged over the {len(orbit)} signs and orders of u, for every v",
            average,
            law.mean(sp.Integer(n), ctx=SYMBOLIC),
        )
    size, a, b = sp.Symbol("N", integer=True, positive=True), sp.Symbol("A", positive=True), sp.Symbol("B", positive=True)
    proof.equal(
        "any N: N terms a_i^2 b_i^2, each E a_i^2 = 1/N, and sum_i b_i^2 = 1", size * (1 / size) * (1 / size), law.mean(size, ctx=SYMBOLIC)
    )
    pair_a, pair_b = (1 / size - a) / (size - 1), (1 / size - b) / (size - 1)
    proof.step("E a_i^4 = A; sum_j a_i^2 a_j^2 = a_i^2 gives E a_i^2 a_j^2 for i != j", pair_a)
    for n in (2, 3, 4, 5):
        fourth, pairs = _patterns(n)
        proof.holds(
            f"N = {n}: (sum a_i b_i)^4 has {fourth} terms a_i^4 b_i^4 and {pairs} of a_i^2 a_j^2 b_i^2 b_j^2",
            (fourth, pairs) == (n, 3 * n * (n - 1)),
        )
    derived = size * a * b + 3 * size * (size - 1) * pair_a * pair_b - 1 / size**2
    proof.equal("Var cos^2 = E (sum a_i b_i)^4 - 1/N^2", sp.simplify(derived), law.general(size, a, b, ctx=SYMBOLIC))
    z = sp.Symbol("z", real=True)
    density = sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi)
    second, fourth_moment = (sp.integrate(z**p * density, (z, -sp.oo, sp.oo)) for p in (2, 4))
    norm4 = size * fourth_moment + size * (size - 1) * second**2
    gaussian = sp.simplify(fourth_moment / norm4)
    proof.step("Gaussian side: the direction is independent of the length, so A = E z^4 / E |z|^4", gaussian)
    for other in (b, gaussian):
        spread = derived.subs(a, gaussian).subs(b, other)
        proof.equal(f"Var cos^2 with A = {gaussian}, B = {other}", sp.simplify(spread), law.variance(size, ctx=SYMBOLIC))
    return proof.check()


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
    found = {}
    for n in WIDTHS:
        random = generator("N1", str(n))
        v = np.arange(1.0, n + 1) ** 2
        sides = {"uniform": random.uniform(-1, 1, (PAIRS, n)), "signs": random.choice([-1.0, 1.0], (PAIRS, n))}
        sides["gaussian"] = random.standard_normal((PAIRS, n))
        for name, u in sides.items():
            found[name, n] = (u @ v) ** 2 / ((u * u).sum(1) * (v @ v))
    return found


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
        Wrong("general Var with 2 in place of 3", replace(LAW, general=_two_for_three)),
    ]


def _two_for_three(n: Any, a: Any, b: Any, *, ctx: Any) -> Any:
    n = ctx.number(n)
    return n * a * b + 2 * n * (1 / n - a) * (1 / n - b) / (n - 1) - 1 / (n * n)

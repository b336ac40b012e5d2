"""T8: an expert's units can be renumbered without changing it, and what that alone makes of an overlap is exact for any weights."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import factorial
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, assumed, cited, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.renumbered import HYPOTHESES, mean_overlap, pair_p, sum_moments, triangle_moment
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="T8",
    kind=EQUAL,
    title="with hidden units in any order, weights overlap by their second moments' product",
    claim=r"\mathbb{E}T = S/f,\ \mathrm{Var}\,T = \frac{\mathrm{tr}\,GG' - |r|^2/f - |c|^2/f + S^2/f^2}{f-1},\ \mathbb{E}\cos^2 = "
    r"\frac{\mathrm{Var}\,T + (\mathbb{E}T)^2}{\|W\|^2\|W'\|^2}; \text{ pairs independent, } "
    r"\mathbb{E}T_{12}T_{13}T_{23} = \mathrm{tr}(G_1G_2G_3)/(f-1)^2 \text{ for centred units}",
    hypotheses=(*HYPOTHESES, "no expert's weights are all zero"),
    box={"f": (2, None)},
    premises=(
        cited("W. Hoeffding, A combinatorial central limit theorem, Ann. Math. Statist. 22 (1951)"),
        assumed("for p alone: f large, and no pair of units so large that it dominates T"),
    ),
    tight="an equality",
)


@dataclass(frozen=True)
class Law:
    """situation: "plain" is the hypothesis; the others break it, in the simulation."""

    moments: Callable[..., tuple[Any, Any]] = sum_moments
    overlap: Callable[..., Any] = mean_overlap
    triangle: Callable[..., Any] = triangle_moment
    situation: str = "plain"


LAW = Law()
Matrix = tuple[tuple[Any, ...], ...]
# Of f units each, for f = 3, 4, 5; and three of 3 units with a mean of 0.
EXACT: tuple[tuple[Matrix, Matrix], ...] = (
    (((1, 2), (3, -1), (0, 4)), ((2, 2), (-5, 1), (7, 3))),
    (((1, 0, 2), (3, -1, 1), (0, 4, -6), (2, 2, 5)), ((2, 1, 1), (-5, 1, 0), (7, 3, 2), (1, 1, -9))),
    (((1, 2), (3, -1), (0, 4), (5, 5), (-2, 7)), ((2, 2), (-5, 1), (7, 3), (0, 1), (10, -4))),
)
CENTRED: tuple[Matrix, ...] = (((1, 2), (3, -1), (-4, -1)), ((2, -2), (-5, 1), (3, 1)), ((1, 3), (1, -6), (-2, 3)))


def product(u: Iterable[Any], v: Iterable[Any]) -> Any:
    return sum(x * y for x, y in zip(u, v, strict=True))


def ordered(rows: Matrix, other: Matrix, order: Iterable[int]) -> Any:
    """T: what numbering the other's units in this order gives."""
    return sum(product(row, other[j]) for row, j in zip(rows, order, strict=True))


def sums(rows: Matrix, other: Matrix) -> tuple[Any, Any, Any, Any, int]:
    """tr(G G'), |r|^2, |c|^2, S and f, from the definitions of G, r and c."""
    grams = [[[sum(row[a] * row[b] for row in one) for b in range(len(one[0]))] for a in range(len(one[0]))] for one in (rows, other)]
    whole = [[sum(column) for column in zip(*one, strict=True)] for one in (rows, other)]
    trace = sum(product(first, second) for first, second in zip(*grams, strict=True))
    r, c = (sum(product(row, total) ** 2 for row in one) for one, total in ((rows, whole[1]), (other, whole[0])))
    return trace, r, c, product(*whole), len(rows)


def symbolic(law: Law = LAW) -> Check:
    """From the definition: averages over all orders, in fractions, and in symbols for two units."""
    proof = Derivation()
    proof.step("T = sum_i D_i,pi(i), D_ij = <w_i, w'_j>; less row means, column means and twice the mean, D's rows and columns sum to 0")
    proof.step("then E T = 0, Var T = sum D^2/f + sum over i != k, j != l of D_ij D_kl/(f (f - 1)) = sum D^2/(f - 1)")
    proof.step("sum_ij <w_i, w'_j>^2 = tr(G G')")
    names = [sp.symbols(f"{letter}1:5", real=True) for letter in "wv"]
    both = [(tuple(name[:2]), tuple(name[2:])) for name in names]
    for rows, other in (*EXACT, (both[0], both[1])):
        f = len(rows)
        values = [ordered(rows, other, order) for order in itertools.permutations(range(f))]
        mean = sp.Rational(1, factorial(f)) * sum(values)
        variance = sp.Rational(1, factorial(f)) * sum(value**2 for value in values) - mean**2
        claimed = law.moments(*sums(rows, other), ctx=SYMBOLIC)
        proof.equal(f"all {factorial(f)} orders of {f} units: E T", mean, claimed[0])
        proof.equal(f"all {factorial(f)} orders of {f} units: Var T", sp.expand(variance), sp.expand(claimed[1]))
        if f > 2:
            squares = sum(product(row, row) for row in rows) * sum(product(row, row) for row in other)
            second = sp.Rational(sum(value**2 for value in values), factorial(f) * squares)
            proof.equal(f"all {factorial(f)} orders of {f} units: E cos^2", second, law.overlap(*claimed, squares, ctx=SYMBOLIC))
    mixed, apart, around, trace = _around()
    proof.holds("three experts of 3 units in all 216 orders: E T12^2 T13^2 = E T12^2 E T13^2", mixed == apart)
    proof.equal("and E T12 T13 T23, which is not 0", sp.Rational(around), law.triangle(trace, 3, ctx=SYMBOLIC))
    return proof.check()


@cache
def _around() -> tuple[Fraction, Fraction, Fraction, int]:
    """E T12^2 T13^2, E T12^2 E T13^2, E T12 T13 T23 and tr(G1 G2 G3) of CENTRED, in orders of their own."""
    orders = list(itertools.permutations(range(3)))
    values = []
    for choice in itertools.product(orders, repeat=3):
        one, two, three = (tuple(rows[i] for i in order) for rows, order in zip(CENTRED, choice, strict=True))
        values.append(tuple(ordered(a, b, range(3)) for a, b in ((one, two), (one, three), (two, three))))

    def mean(of: Callable[[Any], int]) -> Fraction:
        return Fraction(sum(map(of, values)), len(values))

    grams = [sp.Matrix(rows).T * sp.Matrix(rows) for rows in CENTRED]
    trace = int((grams[0] * grams[1] * grams[2]).trace())
    apart = mean(lambda t: t[0] ** 2) * mean(lambda t: t[1] ** 2)
    return mean(lambda t: t[0] ** 2 * t[1] ** 2), apart, mean(lambda t: t[0] * t[1] * t[2]), trace


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly")


F, D, DRAWS = 200, 6, 40_000


@cache
def _simulate(situation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heavy-tailed weights of two experts with two large columns, and T in random orders."""
    random = generator("T8", situation)
    pair = random.standard_t(8, (2, F, D)) * [10, 5, 1, 1, 1, 1] + 4
    if situation == "a pair of units that dominates":
        pair[:, 0] *= 60
    table = pair[0] @ pair[1].T
    return pair[0], pair[1], np.array([table[np.arange(F), random.permutation(F)].sum() for _ in range(DRAWS)])


def numeric(law: Law = LAW) -> Check:
    """Orders drawn anew; p by a normal T, which is claimed to a factor of two at 0.001."""
    proof = Derivation()
    w, v, values = _simulate(law.situation)
    sum_w, sum_v = w.sum(0), v.sum(0)
    trace = float(((w.T @ w) * (v.T @ v)).sum())
    mean, variance = law.moments(
        trace, float(((w @ sum_v) ** 2).sum()), float(((v @ sum_w) ** 2).sum()), float(sum_w @ sum_v), F, ctx=FLOAT
    )
    squares = float((w**2).sum() * (v**2).sum())
    proof.estimate(f"{F} units in R^{D}, {law.situation}: E T", *mean_and_sem(values), mean)
    proof.estimate(
        f"{F} units in R^{D}, {law.situation}: E cos^2", *mean_and_sem(values**2 / squares), law.overlap(mean, variance, squares)
    )
    small = pair_p(values**2, mean, max(variance, 0.0) ** 0.5) <= 0.001
    proof.estimate("p by a normal T: how often p <= 0.001, of 0.001", *mean_and_sem(small), 0.001, 0.001)
    around, trace = _triangles()
    proof.estimate("three experts, 8 centred units: E T12 T13 T23", *mean_and_sem(around), law.triangle(trace, 8, ctx=FLOAT))
    return proof.check()


@cache
def _triangles() -> tuple[np.ndarray, float]:
    random = generator("T8", "triangles")
    rows = random.standard_normal((3, 8, 2)) * [3, 1]
    rows -= rows.mean(1, keepdims=True)
    two, three = (rows[e][random.permuted(np.tile(np.arange(8), (DRAWS, 1)), axis=1)] for e in (1, 2))
    t12, t13, t23 = ((a * b).sum((-2, -1)) for a, b in ((rows[0], two), (rows[0], three), (two, three)))
    grams = np.einsum("efi,efj->eij", rows, rows)
    return t12 * t13 * t23, float(np.trace(grams[0] @ grams[1] @ grams[2]))


def _uncentred(trace: Any, rows: Any, columns: Any, total: Any, units: Any, *, ctx: Any) -> tuple[Any, Any]:
    return sum_moments(trace, 0, 0, total, units, ctx=ctx)


def _round(mean: Any, variance: Any, squares: Any, *, ctx: Any = FLOAT) -> Any:
    return 1 / ctx.number(F * D)


def control() -> list[Wrong]:
    return [
        Wrong("the variance without -|r|^2/f - |c|^2/f", replace(LAW, moments=_uncentred)),
        Wrong("1/N: a round space", replace(LAW, overlap=_round)),
        Wrong("three pairs around a triangle are independent", replace(LAW, triangle=lambda trace, units, *, ctx: 0 * ctx.number(trace))),
        Wrong(
            "a pair of units that dominates T has a normal law",
            replace(LAW, situation="a pair of units that dominates"),
            ways=("numeric",),
            why="the derivation claims moments, and no law of T",
        ),
    ]

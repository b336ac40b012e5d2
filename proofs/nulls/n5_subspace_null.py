"""N5: a uniform subspace of rank r1 overlaps with any of rank r2 by max(r1, r2)/d, as a share of the most that the smaller allows."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.subspace_null import null_subspace_overlap, null_subspace_variance
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="N5",
    kind=EQUAL,
    title="a random subspace of rank r overlaps with any other by r/d",
    claim=(
        r"\mathbb{E}\|U_1'U_2\|_F^2/\min(r_1,r_2) = \max(r_1,r_2)/d;\quad"
        r"\mathrm{Var} = \frac{2 r_1 r_2 (d-r_1)(d-r_2)}{d^2(d-1)(d+2)\min(r_1,r_2)^2}"
    ),
    hypotheses=(
        "the span of U1 uniform on the r1-dimensional subspaces of R^d",
        "U2 independent of it, any r2-dimensional subspace",
        "U1, U2 have orthonormal columns",
        "for the variance: d >= 2",
    ),
    box={"d": (1, None), "r1": (1, None), "r2": (1, None)},
    tight="an equality; r2 = d attains overlap r2 / min with no spread",
)


@dataclass(frozen=True)
class Law:
    """The two laws, and how the simulated subspaces are drawn: a broken hypothesis changes the draw."""

    mean: Callable[..., Any] = null_subspace_overlap
    variance: Callable[..., Any] = null_subspace_variance
    draw: str = "uniform"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: the projections P_i = U_i U_i' give ||U1'U2||_F^2 = tr P1 P2, and E P1 is a multiple of I."""
    proof = Derivation()
    d, r, more = sp.symbols("d r m", integer=True, positive=True)
    left, right = (sp.Matrix(3, 2, sp.symbols(f"{name}:6")) for name in ("a", "b"))
    trace = (left * left.T * right * right.T).trace()
    proof.equal(
        "||U1'U2||_F^2 - tr U1 U1' U2 U2' for every pair of 3 x 2 matrices",
        sp.expand(sum(x**2 for x in left.T * right) - trace),
        sp.Integer(0),
    )
    proof.step("a uniform subspace keeps its law under every orthogonal map, signed permutations among them: E P1 = E G P1 G'")
    if law.draw != "uniform":
        tilted = sp.diag(1, 0, 0)
        proof.step("broken: every U1 holds the axis e1, so that E P1 >= e1 e1'", tilted)
        rank_one = sp.Integer(1) * (tilted * tilted).trace()
        proof.equal("r1 = r2 = 1, d = 3: both are e1, so the overlap", rank_one, law.mean(sp.Integer(3), sp.Integer(1), ctx=SYMBOLIC))
    for n in (2, 3, 4):
        averaged, group = _averaged(n)
        proof.holds(
            f"d = {n}: any symmetric matrix averaged over the {group} signed permutations is (its trace / d) times I",
            averaged == sp.eye(n) * sum(sp.Symbol(f"p{i}{i}") for i in range(n)) / n,
        )
    proof.step(
        "any d: the sign of axis i alone turns P_ij, i != j, so E P_ij = 0; a permutation makes all E P_ii one; tr P1 = r1: E P1 = (r1/d) I"
    )
    for first, second, smaller in ((r, r + more, r), (r + more, r, r), (r, r, r)):
        overlap = (first / d) * second
        proof.equal(
            f"r1 = {first}, r2 = {second}: E tr P1 P2 = (r1/d) tr P2, over the smaller rank",
            sp.cancel(overlap / smaller),
            law.mean(d, first, second, ctx=SYMBOLIC),
        )
    proof.step(
        "variance: turned so that U2 spans the first r2 axes, U1 = the first r1 columns of a uniform Q: tr P1 P2 = sum_{i<=r2,j<=r1} Q_ij^2"
    )
    z = sp.Symbol("z", real=True)
    density = sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi)
    square, fourth = (sp.integrate(z**p * density, (z, -sp.oo, sp.oo)) for p in (2, 4))
    length4 = d * fourth + d * (d - 1) * square**2
    same, row = sp.cancel(fourth / length4), sp.cancel(square**2 / length4)
    apart = sp.factor((1 / d - row) / (d - 1))
    proof.step("a row or column of Q is a normal vector over its length: E Q_ij^4", same)
    proof.step("E Q_ij^2 Q_il^2, and by columns E Q_ij^2 Q_kj^2", row)
    proof.step("neither shared, from Q_ij^2 sum_l Q_kl^2 = Q_ij^2, k != i", apart)
    for first, second, smaller in ((r, r + more, r), (r + more, r, r)):
        pairs = first * second
        terms = pairs * same + pairs * (second - 1) * row + pairs * (first - 1) * row + pairs * (first - 1) * (second - 1) * apart
        spread = (terms - (pairs / d) ** 2) / smaller**2
        proof.equal(
            f"r1 = {first}, r2 = {second}: E (tr P1 P2)^2 - (r1 r2/d)^2", sp.factor(spread), law.variance(d, first, second, ctx=SYMBOLIC)
        )
    return proof.check()


@cache
def _averaged(n: int) -> tuple[sp.Matrix, int]:
    """A generic symmetric matrix averaged over the signed permutations G of n axes, entry by entry of G P G'."""
    p = sp.Matrix(n, n, lambda i, j: sp.Symbol(f"p{min(i, j)}{max(i, j)}"))
    total, count = sp.zeros(n), 0
    for order in itertools.permutations(range(n)):
        for signs in itertools.product((1, -1), repeat=n):
            total += sp.Matrix(n, n, lambda i, j, o=order, s=signs: s[i] * s[j] * p[o[i], o[j]])
            count += 1
    return sp.Matrix(total / count), count


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every d and rank")


SHAPES = ((6, 2, 2), (6, 1, 4), (12, 5, 3), (5, 5, 2))
PAIRS = 20_000


@cache
def _simulate(draw: str) -> dict[tuple[int, int, int], np.ndarray]:
    """tr P1 P2: U1 from QR of Gaussians, U2 the first r2 axes (as far from uniform as a subspace can be)."""
    overlaps = {}
    for d, first, second in SHAPES:
        columns = generator("N5", f"{draw} {d} {first} {second}").standard_normal((PAIRS, d, first))
        if draw == "shared axis":
            columns[:, :, 0] = np.eye(d)[0]
        u = np.linalg.qr(columns)[0]
        overlaps[d, first, second] = (u[:, :second, :] ** 2).sum((1, 2))
    return overlaps


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for (d, first, second), trace in _simulate(law.draw).items():
        overlap = trace / min(first, second)
        mean, sem = mean_and_sem(overlap)
        claimed = law.mean(d, first, second, ctx=FLOAT)
        # The whole space: every overlap is one number, to the round-off of a QR.
        text = f"d = {d}, r1 = {first}, r2 = {second}"
        if first == d:
            proof.agrees(f"{text}: no spread, mean overlap (round-off of a QR)", mean, claimed, 1e-12)
            continue
        proof.estimate(f"{text}: mean overlap", mean, sem, claimed)
        centre = null_subspace_overlap(d, first, second)
        proof.estimate(f"{text}: its variance", *mean_and_sem((overlap - centre) ** 2), law.variance(d, first, second, ctx=FLOAT))
    return proof.check()


def control() -> list[Wrong]:
    def shifted(d: Any, first: Any, second: Any = None, *, ctx: Any) -> Any:
        return null_subspace_overlap(d, first, second, ctx=ctx) * d / (d + 1)

    def smaller(d: Any, first: Any, second: Any = None, *, ctx: Any) -> Any:
        first, second = ctx.number(first), ctx.number(first if second is None else second)
        return min(first, second) / ctx.number(d)

    def halfway(d: Any, first: Any, second: Any = None, *, ctx: Any) -> Any:
        return (ctx.number(first) + ctx.number(first if second is None else second)) / (2 * ctx.number(d))

    def rescaled(above: int, below: int) -> Callable[..., Any]:
        def variance(d: Any, first: Any, second: Any = None, *, ctx: Any) -> Any:
            d = ctx.number(d)
            return null_subspace_variance(d, first, second, ctx=ctx) * (d + above) / (d + below)

        return variance

    def over_once(d: Any, first: Any, second: Any = None, *, ctx: Any) -> Any:
        right = null_subspace_variance(d, first, second, ctx=ctx)
        return right * min(ctx.number(first), ctx.number(first if second is None else second))

    def halved(d: Any, first: Any, second: Any = None, *, ctx: Any) -> Any:
        return null_subspace_variance(d, first, second, ctx=ctx) / 2

    return [
        Wrong("max(r1, r2)/(d+1)", replace(LAW, mean=shifted)),
        Wrong("min(r1, r2)/d: divided by the larger rank", replace(LAW, mean=smaller)),
        Wrong("(r1 + r2)/(2d): divided by a mean of the ranks", replace(LAW, mean=halfway)),
        Wrong("variance with d in place of d-1 below", replace(LAW, variance=rescaled(-1, 0))),
        Wrong("variance with d+1 in place of d+2 below", replace(LAW, variance=rescaled(2, 1))),
        Wrong("variance with 1 in place of 2", replace(LAW, variance=halved)),
        Wrong("variance over min, not min^2", replace(LAW, variance=over_once)),
        Wrong("broken: the subspaces share an axis", replace(LAW, draw="shared axis")),
    ]

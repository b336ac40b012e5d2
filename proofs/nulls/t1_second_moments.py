"""T1: independent unit vectors overlap by the trace of the product of their second moments, whatever their laws."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.second_moments import HYPOTHESES, moment_overlap, null_round_mso
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="T1",
    kind=EQUAL,
    title="independent unit vectors overlap by the trace of the product of their second moments",
    claim=r"\mathbb{E}\cos^2 = \mathrm{tr}(S S'),\ S = \mathbb{E}uu';\quad \mathrm{tr}\,S^2 \ge 1/d,\text{ equal iff } S = I/d",
    hypotheses=(*HYPOTHESES, "for the bound: both have the same second moments"),
    box={"d": (1, None)},
    tight="an equality; a round space attains the bound, and nothing else does",
)


@dataclass(frozen=True)
class Law:
    """overlap: of two matrices; least: the bound in d dimensions; above: whether it lies below the overlap; draw: how pairs are drawn."""

    overlap: Callable[..., Any] = moment_overlap
    least: Callable[..., Any] = null_round_mso
    below: bool = True
    draw: str = "independent"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    u, v = sp.Matrix(sp.symbols("u1:4")), sp.Matrix(sp.symbols("v1:4"))
    square = sp.expand((u.T * v)[0] ** 2)
    proof.equal("cos^2 = tr(uu' vv') of unit vectors", square, sp.expand(law.overlap((u * u.T).tolist(), (v * v.T).tolist(), ctx=SYMBOLIC)))
    proof.step("linear in each of the two matrices, which are independent: its mean is that of the mean matrices")
    n = 3
    entries = sp.symbols("a b c x y")
    a, b, c, x, y = entries
    moments = sp.Matrix([[a, x, y], [x, b, c], [y, c, 1 - a - b]])
    rest = moments - sp.eye(n) / n
    slack = law.overlap(moments.tolist(), moments.tolist(), ctx=SYMBOLIC) - law.least(n, ctx=SYMBOLIC)
    proof.equal("d = 3, any S of trace 1: tr S^2 - 1/d = ||S - I/d||_F^2", sum(e**2 for e in rest), slack)
    proof.step("any d: ||S - I/d||^2 = tr S^2 - 2 tr S/d + 1/d, and tr S = E ||u||^2 = 1; 0 iff S = I/d")
    proof.holds("a sum of squares is at least 0, so that the bound lies below", law.below)
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a polynomial law, derived exactly")


D, SAMPLE, DRAWS = 5, 4, 40_000


@cache
def _simulate(draw: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of unit vectors of two discrete laws on fixed vectors, and the second moments of both laws, which are known exactly."""
    random = generator("T1", draw)
    support = np.exp(random.standard_normal((2, SAMPLE, D))) * np.array([3.0, 1, 1, 1, -0.3])
    support /= np.linalg.norm(support, axis=2, keepdims=True)
    chosen = random.integers(SAMPLE, size=(2, DRAWS))
    if draw == "the same place":
        chosen[1] = chosen[0]
    cosines = (support[0][chosen[0]] * support[1][chosen[1]]).sum(1) ** 2
    first, second = (np.einsum("ni,nj->ij", s, s) / SAMPLE for s in support)
    return cosines, first, second


def numeric(law: Law = LAW) -> Check:
    """Laws with a common mean and correlated coordinates: nothing is isotropic, symmetric or continuous."""
    proof = Derivation()
    cosines, first, second = _simulate(law.draw)
    proof.estimate(f"two laws in R^{D}, {law.draw}: overlap", *mean_and_sem(cosines), law.overlap(first, second, ctx=FLOAT))
    own, least = law.overlap(first, first, ctx=FLOAT), law.least(D, ctx=FLOAT)
    proof.holds("two of the first law: on its side of the bound", (own > least) == law.below)
    return proof.check()


def control() -> list[Wrong]:
    def round_space(first: Any, second: Any, *, ctx: Any) -> Any:
        return 1 / ctx.number(len(first))

    def of_traces(first: Any, second: Any, *, ctx: Any) -> Any:
        """The diagonals alone: coordinates taken for uncorrelated."""
        return sum(first[i][i] * second[i][i] for i in range(len(first)))

    blind = "the derivation takes independence as given"
    return [
        Wrong("1/d whatever the moments", replace(LAW, overlap=round_space)),
        Wrong("the diagonals alone", replace(LAW, overlap=of_traces)),
        Wrong("the bound lies above", replace(LAW, below=False)),
        Wrong(
            "1/(d-1) as the bound", replace(LAW, least=lambda d, *, ctx: 1 / (ctx.number(d) - 1)), ways=("symbolic",), why="own is larger"
        ),
        Wrong("vectors that depend on each other", replace(LAW, draw="the same place"), ways=("numeric",), why=blind),
    ]

"""N1C: weights with orthonormal rows or columns overlap by 1/N like others, and spread as a trace does."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.weight_null import haar_variance, null_variance

STATEMENT = Statement(
    id="N1C",
    kind=EQUAL,
    title="orthonormal frames overlap by 1/(n m) on average, and spread as a trace does",
    claim=(
        r"\mathbb{E}\cos^2(U, V) = \frac{1}{nm},\quad \mathbb{E}\cos^4(U, V) = \frac{3((n+1)m - 2)}{m^3 n(n-1)(n+2)};\quad"
        r"\text{at } n = m:\ 3/m^4"
    ),
    hypotheses=(
        "U and V independent n x m matrices with orthonormal columns, one of them Haar distributed",
        "n >= m >= 1, n >= 2; for orthonormal rows, transpose",
    ),
    box={"n": (2, None), "m": (1, None)},
    tight="an equality; at m = 1 it is that of Beta(1/2, (n-1)/2), law N1",
)

LAW = haar_variance
M, K = (sp.Symbol(name, positive=True, integer=True) for name in "mk")
N = M + K


def symbolic(law: Callable[..., Any] = LAW) -> Check:
    """By invariance U is the first m axes; the moments of the trace follow from those of a row and of a row at right angles to it."""
    proof = Derivation()
    proof.step("turning both by one rotation makes U the first m axes: <U, V> = t = sum_(i <= m) V_ii, and |U|^2 |V|^2 = m^2")
    proof.step("a row of V may change its sign: t^2 keeps its V_ii^2, t^4 its V_ii^4 and, three times each ordered pair, V_ii^2 V_jj^2")
    fourth, both = 3 / (N * (N + 2)), 1 / (N * (N + 2))
    proof.step("a row u of the n x n rotation is uniform on the sphere: E u_1^2 = 1/n, E u_1^4 = 3/(n(n+2)), E u_1^2 u_2^2 = 1/(n(n+2))")
    proof.equal("E (sum_i u_i^2)^2 = 1", N * fourth + N * (N - 1) * both, 1)
    proof.step("given u, another row is uniform on the sphere at right angles to it: E[V_22^2 | u] = (1 - u_2^2)/(n - 1)")
    crossed = (1 / N - both) / (N - 1)
    proof.equal("E u_1^2 (V_21^2 + the n - 1 others V_2j^2), a unit row: E u_1^2", (1 / N - fourth) / (N - 1) + (N - 1) * crossed, 1 / N)
    square = (M * fourth + 3 * M * (M - 1) * crossed) / M**4
    proof.step("E cos^4", sp.factor(square))
    variance = square - (M / N / M**2) ** 2
    proof.equal("Var cos^2, n = m + k", sp.factor(variance), sp.factor(law(N, M)))
    proof.equal("the same of rows", sp.factor(variance), sp.factor(law(M, N)))
    proof.equal("square, k = 0: E cos^4 = 3/m^4", sp.factor(variance.subs(K, 0) + M**-4), 3 / M**4)
    proof.equal("square: the law's", sp.factor(variance.subs(K, 0)), sp.factor(law(M, M)))
    proof.equal("one column: law N1's", sp.factor(variance.subs(M, 1)), sp.factor(null_variance(K + 1, ctx=SYMBOLIC)))
    return proof.check()


def certified(law: Callable[..., Any] = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every n and m")


SHAPES, DRAWS = ((2, 2), (4, 2), (5, 3)), 40_000


@cache
def _simulate(n: int, m: int) -> np.ndarray:
    """cos^2 of the first m axes and of Haar frames: QR of Gaussian matrices, with the signs that make it unique."""
    q, r = np.linalg.qr(generator("N1C", f"{n} {m}").standard_normal((DRAWS, n, m)))
    q = q * np.sign(np.einsum("sii->si", r))[:, None]
    return np.einsum("sii->s", q[:, :m]) ** 2 / m**2


def numeric(law: Callable[..., Any] = LAW) -> Check:
    proof = Derivation()
    for n, m in SHAPES:
        cos2 = _simulate(n, m)
        proof.estimate(f"n = {n}, m = {m}: mean cos^2", *mean_and_sem(cos2), 1 / (n * m))
        proof.estimate(f"n = {n}, m = {m}: variance", *mean_and_sem((cos2 - 1 / (n * m)) ** 2), float(law(n, m)))
    return proof.check()


def _with(shift: int) -> Callable[..., Any]:
    def wrong(d: Any, f: Any) -> Any:
        n, m = max(d, f), min(d, f)
        return 3 * ((n + 1) * m - shift) / (m**3 * n * (n - 1) * (n + 2)) - 1 / (n * m) ** 2

    return wrong


def control() -> list[Wrong]:
    return [
        Wrong("as isotropic vectors of n m entries spread", lambda d, f: null_variance(d * f, ctx=SYMBOLIC)),
        Wrong("(n+1) m - 1 in place of (n+1) m - 2", _with(1)),
        Wrong("(n+1) m in place of (n+1) m - 2", _with(0)),
        Wrong("n x n in place of n x m", lambda d, f: haar_variance(max(d, f), max(d, f))),
    ]

"""N1B: pairs that share isotropic vectors are uncorrelated, but triangles and squares of them are not independent: cumulants of an MSO."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.mso_law import cycle_moment, mso_cumulants, overlap_cumulants
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="N1B",
    kind=EQUAL,
    title="an MSO of isotropic vectors is skewed by its triangles: its first four cumulants",
    claim=(
        r"k_3 = (P\mu_3 + 6\binom{E}{3} c^3 D)/(P^3T^2),\quad k_4 = (P\mu_4 + 36\binom{E}{3} c\mu_3 + 72\binom{E}{4} c^4 D)/(P^4T^3),"
        r"\ c = \frac{2}{N(N+2)},\ D = \frac{(N-1)(N+2)}{2},\ P = \binom{E}{2},\ \mu_p \text{ cumulants of } \mathrm{Beta}(1/2,(N-1)/2)"
    ),
    hypotheses=(
        "v_1..v_E independent and non-zero, all of them isotropic but at most one",
        "T independent trials; MSO = mean of cos^2 over the P pairs and T trials",
    ),
    box={"N": (2, None), "E": (2, None), "T": (1, None)},
    tight="an equality; with E the law tends to a shifted chi^2 on D degrees of freedom, whose skewness sqrt(8/D) is the triangles' alone",
)


@dataclass(frozen=True)
class Law:
    overlap: Callable[..., Any] = overlap_cumulants
    cycle: Callable[..., Any] = cycle_moment
    mso: Callable[..., Any] = mso_cumulants


LAW = Law()
N, E, T = (sp.Symbol(name, integer=True, positive=True) for name in "NET")


def symbolic(law: Law = LAW) -> Check:
    """Moments of one pair from Gaussian integrals, the average over one vertex by fourth moments, and a count of the multigraphs left."""
    proof = Derivation()
    proof.step(
        "if v_1 alone is not isotropic: turning all others together keeps their law and turns v_1 against them, so v_1 may be taken so"
    )
    moments = _pair_moments(proof)
    _cycles(proof, law, moments)
    _counts(proof)
    _cumulants(proof, law, moments)
    return proof.check()


def _equal(proof: Derivation, text: str, derived: Any, claimed: Any) -> None:
    """Rational functions of N, E and T are equal iff their difference cancels to 0."""
    proof.holds(f"{text}: derived {derived}, claimed {claimed}", sp.cancel(derived - claimed) == 0)


def _pair_moments(proof: Derivation) -> list[Any]:
    raw, central = _moments()
    proof.step("length and direction of a Gaussian vector are independent: E u_1^2k = E z^2k / E |z|^2k, k = 1..4", raw[1:])
    return central


@cache
def _moments() -> tuple[list[Any], list[Any]]:
    """Moments of cos^2 = u_1^2 of a uniform unit vector u, from E z^2k = E |z|^2k E u_1^2k: raw, and about the mean."""
    z = sp.Symbol("z", real=True)
    density = sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi)
    gauss = [sp.integrate(z ** (2 * k) * density, (z, -sp.oo, sp.oo)) for k in range(5)]
    raw = []
    for k in range(5):
        # (sum_i z_i^2)^k: for each way to group the k factors by equal index, one falling factorial of N.
        norm = sum(
            sp.ff(N, len(blocks)) * sp.prod([gauss[len(block)] for block in blocks])
            for blocks in sp.utilities.iterables.multiset_partitions(list(range(k)))
        ) if k else sp.Integer(1)  # fmt: skip
        raw.append(sp.factor(gauss[k] / sp.expand(sp.expand_func(norm))))
    mean = raw[1]
    return raw, [sp.factor(sum(sp.binomial(p, j) * raw[j] * (-mean) ** (p - j) for j in range(p + 1))) for p in range(5)]


def _sphere(exponents: tuple[int, ...]) -> Any:
    """E prod u_i^a_i over the unit sphere of R^n, n = len(exponents): 0 for an odd power, else prod (a_i - 1)!! / (n (n+2) ...)."""
    if any(a % 2 for a in exponents):
        return sp.Integer(0)
    n, half = len(exponents), sum(exponents) // 2
    return sp.Rational(math.prod(math.prod(range(1, a, 2)) for a in exponents), math.prod(n + 2 * j for j in range(half)))


def _average(polynomial: Any, *vectors: tuple[Any, ...]) -> Any:
    """The expectation of a polynomial over independent uniform unit vectors, monomial by monomial."""
    for vector in vectors:
        terms = sp.Poly(polynomial, *vector).terms()
        polynomial = sum(coefficient * _sphere(exponents) for exponents, coefficient in terms)
    return sp.expand(polynomial)


def _cycles(proof: Derivation, law: Law, central: list[Any]) -> None:
    """The vertex average E[tr(A B) A] = c B, and what it makes of cycles."""
    proof.step("x_ij = cos^2(v_i, v_j) - 1/N = tr(A_i A_j) with A_i = u_i u_i' - I/N, traceless and symmetric, u_i = v_i/|v_i|")
    c = 2 / (N * (N + 2))
    for n in (2, 3, 4):
        proof.holds(f"N = {n}: E[tr(A B) A] = c B for every traceless symmetric B, c = {c.subs(N, n)}", _vertex_average_is(n, c.subs(N, n)))
    proof.step(
        "any N: E u_i u_j u_k u_l = (3 pairings of deltas) / (N (N+2)), so E (u'Bu) u u' = (2 B + I tr B) / (N (N+2)): c = 2/(N (N+2))"
    )
    for length in (2, 3, 4):
        chained = c ** (length - 1) * (1 - 1 / N)
        _equal(
            proof,
            f"cycle of {length}: c for each vertex but the first, then |A_1|^2 = 1 - 1/N",
            chained,
            law.cycle(N, length, ctx=SYMBOLIC),
        )
    for n in (2, 3):
        triangle, square, doubled = _term_by_term(n)
        proof.equal(f"N = {n}: E x_12 x_23 x_31 term by term", triangle, law.cycle(n, 3, ctx=SYMBOLIC))
        proof.equal(f"N = {n}: E x_12 x_23 x_34 x_41 term by term", square, law.cycle(n, 4, ctx=SYMBOLIC))
        proof.equal(f"N = {n}: E x_12^2 x_23 x_31 = c E x_12^3", doubled, (c * central[3]).subs(N, n))


@cache
def _vertex_average_is(n: int, c: Any) -> bool:
    u = sp.symbols(f"u1:{n + 1}")
    b = sp.Matrix(n, n, lambda i, j: sp.Symbol(f"b{min(i, j)}{max(i, j)}"))
    b[n - 1, n - 1] = -sum(b[i, i] for i in range(n - 1))
    a = sp.Matrix(u) * sp.Matrix(u).T - sp.eye(n) / n
    reading = sp.expand((a * b).trace())
    return sp.Matrix(n, n, lambda i, j: _average(sp.expand(reading * a[i, j]), tuple(u))) == (c * b).expand()


@cache
def _term_by_term(n: int) -> tuple[Any, Any, Any]:
    """The triangle, the square and the triangle with a side twice, from every monomial; turning all vectors puts the first on an axis."""
    e1 = (1,) + (0,) * (n - 1)
    p, q, r = (sp.symbols(f"{name}1:{n + 1}") for name in "pqr")
    triangle = sp.expand(_x(e1, p) * _x(p, q) * _x(q, e1))
    square = sp.expand(sp.expand(_x(e1, p) * _x(p, q)) * sp.expand(_x(q, r) * _x(r, e1)))
    doubled = sp.expand(_x(e1, p) ** 2 * _x(p, q) * _x(q, e1))
    return _average(triangle, p, q), _average(square, p, r, q), _average(doubled, q, p)


def _x(u: Any, v: Any) -> Any:
    return sum(a * b for a, b in zip(u, v, strict=True)) ** 2 - sp.Rational(1, len(u))


KINDS = ("one pair", "two pairs, each twice", "triangle", "triangle with a side twice", "square")


def _counts(proof: Derivation) -> None:
    """How many ordered products of 3 and of 4 of the x_ij have no vertex of degree 1, by kind, as polynomials in E."""
    proof.step("E[x_ij | v_i] = tr(A_i E A_j) = 0: a product in which some vertex is met by one factor only has expectation 0")
    proof.step("two pairs, each twice: E x_ij^2 x_kl^2 = v^2, with a common vertex too, since E[x_ij^2 | v_i] = v whatever v_i")
    claimed = _claimed_counts()
    proof.step("4 factors with all degrees at least 2 meet at most 4 vertices: each count is a combination of C(E,2), C(E,3), C(E,4)")
    for experts in (2, 3, 4, 5):
        for order in (3, 4):
            counts = _kinds(experts, order)
            wanted = {kind: int(count.subs(E, experts)) for (o, kind), count in claimed.items() if o == order}
            proof.holds(f"E = {experts}, products of {order}: {counts}", {k: n for k, n in wanted.items() if n} == counts)


@cache
def _claimed_counts() -> dict[tuple[int, str], Any]:
    pairs, triples, fours = (sp.ff(E, m) / sp.factorial(m) for m in (2, 3, 4))
    return {
        (3, KINDS[0]): pairs, (3, KINDS[2]): 6 * triples, (4, KINDS[0]): pairs, (4, KINDS[1]): 3 * pairs * (pairs - 1),
        (4, KINDS[3]): 36 * triples, (4, KINDS[4]): 72 * fours,
    }  # fmt: skip


@cache
def _kinds(experts: int, order: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for product in itertools.product(itertools.combinations(range(experts), 2), repeat=order):
        degrees = Counter(vertex for pair in product for vertex in pair)
        if min(degrees.values()) > 1:
            times = tuple(sorted(Counter(product).values()))
            kind = {(order,): 0, (2, 2): 1, (1, 1, 1): 2, (1, 1, 2): 3, (1, 1, 1, 1): 4}[times]
            # Distinct pairs without a leaf: three make a triangle, four a cycle of four (a triangle and a pendant has a leaf).
            counts[KINDS[kind]] += 1
    return dict(counts)


def _cumulants(proof: Derivation, law: Law, central: list[Any]) -> None:
    """The cumulants of one cos^2 and of the MSO, from central moments and counts."""
    one = (1 / N, central[2], central[3], sp.factor(central[4] - 3 * central[2] ** 2))
    names = ("mean", "variance", "third cumulant", "fourth cumulant")
    for name, derived, claimed in zip(names, one, law.overlap(N, ctx=SYMBOLIC), strict=True):
        _equal(proof, f"one pair: {name}", derived, claimed)
    proof.step("cumulants of the sum over pairs of one trial: k2 = P v, k3 the third moment, k4 = the fourth - 3 k2^2; T trials add up")
    for order, (derived, claimed) in enumerate(zip(_derived_cumulants(), law.mso(N, E, T, ctx=SYMBOLIC), strict=True), 1):
        _equal(proof, f"MSO: cumulant {order}", derived, claimed)


@cache
def _derived_cumulants() -> list[Any]:
    _, (_, _, v, mu3, fourth) = _moments()
    counts = {f"{order} {kind}": count for (order, kind), count in _claimed_counts().items()}
    pairs, c = sp.ff(E, 2) / 2, 2 / (N * (N + 2))
    triangle, square = c**2 * (1 - 1 / N), c**3 * (1 - 1 / N)
    third = counts[f"3 {KINDS[0]}"] * mu3 + counts[f"3 {KINDS[2]}"] * triangle
    moment = counts[f"4 {KINDS[0]}"] * fourth + counts[f"4 {KINDS[1]}"] * v**2
    moment += counts[f"4 {KINDS[3]}"] * c * mu3 + counts[f"4 {KINDS[4]}"] * square
    sums = (pairs / N, pairs * v, third, moment - 3 * (pairs * v) ** 2)
    return [sp.factor(sp.expand_func(total * T / (pairs * T) ** order)) for order, total in enumerate(sums, 1)]


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every N, E and T")


CELLS = ((4, 6, 1, 300_000), (3, 4, 2, 200_000))


@cache
def _simulate() -> dict[tuple[int, int, int], dict[int, tuple[float, float]]]:
    """Central moments of MSOs, with errors, of Gaussian vectors but the first, a fixed axis: one need not be isotropic."""
    moments = {}
    for n, experts, trials, count in CELLS:
        vectors = generator("N1B", f"{n} {experts}").standard_normal((count * trials, experts, n))
        vectors[:, 0] = np.eye(n)[0]
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        gram = vectors @ vectors.transpose(0, 2, 1)
        msos = ((gram * gram).sum((1, 2)) - experts) / (experts * (experts - 1))
        moments[n, experts, trials] = _moments_about(1 / n, msos.reshape(count, trials).mean(1))
    return moments


def _moments_about(mean: float, values: np.ndarray) -> dict[int, tuple[float, float]]:
    return {order: mean_and_sem((values - mean) ** order) for order in (2, 3, 4)}


@cache
def _simulate_cycles() -> tuple[int, dict[int, tuple[float, float]], np.ndarray, np.ndarray]:
    """Central moments of cos^2 of one pair, and products around three and four vectors, which averages over all pairs would hide."""
    n = 3
    vectors = generator("N1B", "cycle").standard_normal((250_000, 4, n))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    cos2 = (vectors @ vectors.transpose(0, 2, 1)) ** 2
    x = cos2 - 1 / n
    return n, _moments_about(1 / n, cos2[:, 0, 1]), x[:, 0, 1] * x[:, 1, 2] * x[:, 2, 0], x[:, 0, 1] * x[:, 1, 2] * x[:, 2, 3] * x[:, 3, 0]


def numeric(law: Law = LAW) -> Check:
    """Central moments about the exact mean 1/N (N1), which is not estimated; the fourth moment is k4 + 3 k2^2."""
    proof = Derivation()
    for (n, experts, trials), moments in _simulate().items():
        _, second, third, fourth = law.mso(n, experts, trials, ctx=FLOAT)
        for order, claimed in ((2, second), (3, third), (4, fourth + 3 * second**2)):
            text = f"N = {n}, E = {experts}, T = {trials}: central moment {order}"
            proof.estimate(text, *moments[order], claimed)
    n, moments, triangle, square = _simulate_cycles()
    _, second, third, fourth = law.overlap(n, ctx=FLOAT)
    for order, claimed in ((3, third), (4, fourth + 3 * second**2)):
        proof.estimate(f"N = {n}, one pair: central moment {order}", *moments[order], claimed)
    proof.estimate(f"N = {n}: x_12 x_23 x_31", *mean_and_sem(triangle), law.cycle(n, 3, ctx=FLOAT))
    proof.estimate(f"N = {n}: x_12 x_23 x_34 x_41", *mean_and_sem(square), law.cycle(n, 4, ctx=FLOAT))
    return proof.check()


def _mso_with(side: int, triangles: int, corners: int, squares: int, order: int = 2) -> Callable[..., Any]:
    """`mso_cumulants` with other constants: the weight of one pair, of a triangle, of one with a side twice, of a square, powers of T."""

    def mso(n: Any, e: Any, t: Any, *, ctx: Any) -> Any:
        n, e, t = ctx.number(n), ctx.number(e), ctx.number(t)
        first, v, mu3, mu4 = overlap_cumulants(n, ctx=ctx)
        pairs, triples, fours = e * (e - 1) / 2, e * (e - 1) * (e - 2) / 6, e * (e - 1) * (e - 2) * (e - 3) / 24
        c = 2 / (n * (n + 2))
        third = side * pairs * mu3 + triangles * triples * cycle_moment(n, 3, ctx=ctx)
        fourth = pairs * mu4 + corners * triples * c * mu3 + squares * fours * cycle_moment(n, 4, ctx=ctx)
        return first, v / (pairs * t), third / (pairs**3 * t**order), fourth / (pairs**4 * t**3)

    return mso


def _once_over_pairs(n: Any, e: Any, t: Any, *, ctx: Any) -> Any:
    mean, variance, third, fourth = mso_cumulants(n, e, t, ctx=ctx)
    return mean, variance * ctx.number(t), third, fourth


def _cycle_with(shift: int, over: int) -> Callable[..., Any]:
    def cycle(n: Any, length: Any, *, ctx: Any) -> Any:
        n = ctx.number(n)
        return (2 / (n * (n + shift))) ** length * (n - 1) * (n + over) / 2

    return cycle


def _overlap_with(third: int, fourth: int) -> Callable[..., Any]:
    def overlap(n: Any, *, ctx: Any) -> Any:
        n = ctx.number(n)
        mean, variance, k3, k4 = overlap_cumulants(n, ctx=ctx)
        return mean, variance, k3 * (n + 4) / (n + third), k4 * (n * n + n - fourth) / (n * n + n - 3)

    return overlap


def control() -> list[Wrong]:
    return [
        Wrong("pairs independent: no triangle and no square", replace(LAW, mso=_mso_with(1, 0, 0, 0))),
        Wrong("3 in place of 6 for a triangle", replace(LAW, mso=_mso_with(1, 3, 36, 72))),
        Wrong("a pair's own skewness left out", replace(LAW, mso=_mso_with(0, 6, 36, 72))),
        Wrong("24 in place of 36 for a triangle with a side twice", replace(LAW, mso=_mso_with(1, 6, 24, 72))),
        Wrong("24 in place of 72 for a square", replace(LAW, mso=_mso_with(1, 6, 36, 24))),
        Wrong("the third cumulant over T, not T^2", replace(LAW, mso=_mso_with(1, 6, 36, 72, order=1))),
        Wrong("the variance over P, not P T", replace(LAW, mso=_once_over_pairs)),
        Wrong("a cycle with c = 2/(N (N+1))", replace(LAW, cycle=_cycle_with(1, 2))),
        Wrong("a cycle with D = (N-1)(N+1)/2", replace(LAW, cycle=_cycle_with(2, 1))),
        Wrong("mu3 over N+3", replace(LAW, overlap=_overlap_with(3, 3))),
        Wrong("mu4 with N^2+N-4", replace(LAW, overlap=_overlap_with(4, 4))),
    ]

"""T5: in a space with large and small directions, independent vectors overlap by the sum of their shares' squares, one integral each."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Way, Wrong, cited, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.anisotropic import (
    HYPOTHESES,
    Spread,
    anisotropic_spread,
    null_anisotropic_mso,
    share_integrand,
    spectrum_bound,
    spectrum_product,
)
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="T5",
    kind=EQUAL,
    title="independent vectors of one spectrum overlap by the sum of squared shares",
    claim=r"\mathbb{E}\cos^2 = \sum_i s_i s_i',\ s_i = \int_0^\infty \frac{\lambda_i}{1+2\lambda_i t} \prod_j (1+2\lambda_j t)^{-1/2} dt,\ "
    r"\sum_i s_i = 1;\quad \sum_i s_i^2 \le \mathrm{tr}\,\Lambda^2/(\mathrm{tr}\,\Lambda)^2",
    hypotheses=(*HYPOTHESES, "for the bound and the spread: both of one spectrum"),
    box={"lambda_i": (0, None)},
    premises=(cited("Marshall, Olkin and Arnold, Inequalities (2011), 1.A and 3.C: convex sums follow majorisation"),),
    tight="an equality; equal eigenvalues, whatever the zeros beside them, attain the bound",
)
Spectrum = tuple[tuple[int, ...], tuple[int, ...]]


def _overlap(spectrum: Spectrum, other: tuple[int, ...] | None = None, *, ctx: Any) -> Any:
    """sum m s s' by sympy's or Arb's integrals, or as the library has it."""
    eigenvalues, counts = spectrum
    if ctx is FLOAT:
        return null_anisotropic_mso(eigenvalues, counts, other)
    integral = _exactly if ctx is SYMBOLIC else share_in_balls
    mine = [integral(value, (eigenvalues, counts)) for value in eigenvalues]
    theirs = mine if other is None else [integral(value, (other, counts)) for value in other]
    return sum(m * s * t for m, s, t in zip(counts, mine, theirs, strict=True))


@cache
def _exactly(eigenvalue: int, spectrum: Spectrum) -> Any:
    t = sp.Symbol("t", positive=True)
    product = spectrum_product(t, *spectrum, ctx=SYMBOLIC)
    return sp.simplify(sp.integrate(sp.simplify(share_integrand(t, eigenvalue, product, ctx=SYMBOLIC)), (t, 0, sp.oo)))


LEFT, RIGHT = 200, 400


def share_in_balls(eigenvalue: int, spectrum: Spectrum) -> Any:
    """Over t = e^x from -LEFT to RIGHT, and the ends: at most eigenvalue e^-LEFT, and with n = sum m at most
    (1/n) prod (2 lambda)^(-m/2) e^(-n RIGHT/2), since lambda t / (1 + 2 lambda t) <= 1/2 and P(t) <= prod (2 lambda t)^(-m/2)."""

    def integrand(x: Any) -> Any:
        t = BALL.exp(x)
        return t * share_integrand(t, eigenvalue, spectrum_product(t, *spectrum, ctx=BALL), ctx=BALL)

    n = sum(spectrum[1])
    logs = sum((m * BALL.log(2 * value) for value, m in zip(*spectrum, strict=True)), BALL.number(0))
    ends = eigenvalue * BALL.exp(-LEFT), BALL.exp(-(logs + n * RIGHT) / 2) / n
    return BALL.integral(integrand, -LEFT, RIGHT) + sum(BALL.number(0).union(end) for end in ends)


@dataclass(frozen=True)
class Law:
    """overlap and spread: the law. spread is that of vectors. above: whether the bound lies above. draw: how g is drawn."""

    overlap: Callable[..., Any] = _overlap
    spread: Callable[..., Spread] = anisotropic_spread
    above: bool = True
    draw: str = "normal"


LAW = Law()
ONE_OUTLIER: Spectrum = ((100, 1), (1, 7))
TWO_OUTLIERS: Spectrum = ((900, 1), (2, 30))
PRINTED = {ONE_OUTLIER: "0.5559", TWO_OUTLIERS: "0.4425"}


def symbolic(law: Law = LAW) -> Check:
    """From the definition: s_i = E y_i^2 / ||y||^2, with one over a sum as an integral over t."""
    proof = Derivation()
    proof.step("a flip of g_i's sign keeps its law: E uu' is diagonal, and E cos^2 = sum_i s_i s_i' for independent u, u'")
    proof.step("1/Q = int_0^inf e^(-tQ) dt, Q = sum_j lambda_j g_j^2; the length of g does not enter, so that g is standard normal")
    t, a, b, x, y = sp.symbols("t a b x y", positive=True)
    product = spectrum_product(t, (a, b), (1, 1), ctx=SYMBOLIC)
    rest, share = (SYMBOLIC.expect(f, 1) for f in (lambda z: sp.exp(-b * z * z * t), lambda z: a * z * z * sp.exp(-a * z * z * t)))
    proof.equal("E a g1^2 e^(-tQ)", share * rest, share_integrand(t, a, product, ctx=SYMBOLIC))
    total = sum(share_integrand(t, value, product, ctx=SYMBOLIC) for value in (a, b))
    proof.equal("sum_i of the integrands is -P'(t), so that the shares add to P(0) = 1", -sp.diff(product, t), total)
    root = sp.sqrt((1 + 2 * y**2 * t) / (1 + 2 * x**2 * t)) * x**2 / (y**2 - x**2)
    two = share_integrand(t, x**2, spectrum_product(t, (x**2, y**2), (1, 1), ctx=SYMBOLIC), ctx=SYMBOLIC)
    proof.equal("two directions: an antiderivative of the share of x^2 beside y^2", sp.diff(root, t), two)
    first = sp.factor(sp.limit(root, t, sp.oo) - root.subs(t, 0))
    proof.equal("so that it is", first, x / (x + y))
    of_two = first**2 + (1 - first) ** 2
    for big, small in ((2, 1), (3, 1)):
        claimed = law.overlap(((big**2, small**2), (1, 1)), ctx=SYMBOLIC)
        proof.equal(f"eigenvalues {big**2} and {small**2}: overlap", of_two.subs({x: big, y: small}), claimed)
    mixed = (2 * first * (1 - first)).subs({x: 2, y: 1})
    proof.equal("4, 1 against 1, 4: sum s s'", mixed, _overlap(((4, 1), (1, 1)), (1, 4), ctx=SYMBOLIC))
    proof.holds("there tr L L' / (tr L tr L') is less: no bound for two spectra", bool(mixed > sp.Rational(8, 25)))
    for n in (2, 3):
        proof.equal(f"{n} equal eigenvalues: both are 1/n", sp.Rational(1, n), law.overlap(((1,), (n,)), ctx=SYMBOLIC))
    z = sp.Symbol("z", positive=True)
    rises, falls = sp.diff(z / (1 + 2 * z * t), z), sp.diff(1 / (1 + 2 * z * t), z)
    proof.equal("s_i rises with lambda_i: the derivative of lambda/(1 + 2 lambda t) is above 0", rises, 1 / (1 + 2 * z * t) ** 2)
    proof.equal("s_i/lambda_i falls: the derivative of 1/(1 + 2 lambda t) is below 0", falls, -2 * t / (1 + 2 * z * t) ** 2)
    proof.step("so of both, largest first and adding to 1, the eigenvalues have the larger partial sums: they majorise the shares")
    gap = sp.factor(spectrum_bound((x**2, y**2), ctx=SYMBOLIC) - of_two)
    proof.equal(
        "two directions: bound less overlap", gap, 2 * x * y * (x - y) ** 2 * (x**2 + x * y + y**2) / ((x + y) ** 2 * (x**2 + y**2) ** 2)
    )
    proof.holds("which is at least 0 where the bound is claimed to lie above", bool(gap.subs({x: 2, y: 1}) > 0) == law.above)
    _spread_derived(proof)
    return proof.check()


def _spread_derived(proof: Derivation) -> None:
    """The integrands of K, and E cos^4 from it."""
    t, a, b = sp.symbols("t a b", positive=True)
    product = spectrum_product(t, (a, b), (1, 1), ctx=SYMBOLIC)
    square = SYMBOLIC.expect(lambda z: a * z * z * sp.exp(-a * z * z * t), 1)
    fourth = SYMBOLIC.expect(lambda z: (a * z * z) ** 2 * sp.exp(-a * z * z * t), 1)
    other, rest = SYMBOLIC.expect(lambda z: b * z * z * sp.exp(-b * z * z * t), 1), SYMBOLIC.expect(lambda z: sp.exp(-b * z * z * t), 1)
    proof.step("1/Q^2 = int t e^(-tQ) dt")
    proof.equal("E y_1^2 y_2^2 e^(-tQ): the integrand of K_12", square * other, a * b / ((1 + 2 * a * t) * (1 + 2 * b * t)) * product)
    proof.equal("E y_1^4 e^(-tQ): three times that of K_11", fourth * rest, 3 * a**2 / (1 + 2 * a * t) ** 2 * product)
    u, v = sp.symbols("u1:4", positive=True), sp.symbols("v1:4", positive=True)
    signs = list(itertools.product((1, -1), repeat=3))
    mean = sp.expand(sum(sp.expand(sum(s * x * y for s, x, y in zip(flip, u, v, strict=True)) ** 4) for flip in signs) / len(signs))
    pairs = sum((3 if i != j else 1) * u[i] ** 2 * u[j] ** 2 * v[i] ** 2 * v[j] ** 2 for i in range(3) for j in range(3))
    proof.equal("three directions, over all signs: cos^4", mean, sp.expand(pairs))
    proof.step("E of it: 3 sum_{i != j} K_ij^2 + sum_i (3 K_ii)^2 = 3 sum_ij K_ij^2 + 6 sum_i K_ii^2")
    proof.step(
        "given v, E cos^2(u, v) = sum s_i v_i^2: pairs that share v have its variance in common, s'Ks + 2 sum K_ii s_i^2 - (sum s_i^2)^2"
    )


def certified(law: Law = LAW) -> Check:
    """Two directions have closed shares; two spectra with outliers, their overlaps enclosed, and the bound strictly above."""
    proof = Derivation()
    for big, small in ((2, 1), (10, 1), (10**4, 1)):
        share = BALL.number(Fraction(big, big + small))
        claimed = law.overlap(((big**2, small**2), (1, 1)), ctx=BALL)
        proof.within(f"eigenvalues {big**2} and {small**2}: it is the closed form", claimed - share**2 - (1 - share) ** 2, "1e-20")
    for spectrum, printed in PRINTED.items():
        overlap = proof.ball(f"overlap of eigenvalues {spectrum[0]}, {spectrum[1]} times", law.overlap(spectrum, ctx=BALL))
        proof.within(f"to the digits printed, {printed}", overlap - BALL.number(printed), "0.00005")
        less = spectrum_bound(*spectrum, ctx=BALL) - _overlap(spectrum, ctx=BALL)
        proof.record("tr L^2/(tr L)^2 lies on the side that is claimed", sign(less if law.above else -less, ">"))
    return proof.check()


EXPERTS, DRAWS = 3, 40_000
SPECTRA = {
    "one outlier of 8": ONE_OUTLIER,
    "two of 32": TWO_OUTLIERS,
    "eigenvalues 1 to 16": (tuple(range(1, 17)), (1,) * 16),
    "9, 4 and 1": ((9, 4, 1), (1, 1, 1)),
}


@cache
def _simulate(name: str, draw: str) -> np.ndarray:
    """cos^2 of the three pairs of three vectors of each draw, (DRAWS, 3)."""
    random = generator("T5", f"{name} {draw}")
    eigenvalues, counts = SPECTRA[name]
    scales = np.sqrt(np.repeat(np.array(eigenvalues, float), counts))
    shape = (DRAWS, EXPERTS, len(scales))
    g = random.standard_normal(shape)
    if draw == "signs":
        g = np.sign(g)
    if draw == "of any length":
        g *= random.standard_t(2, (DRAWS, EXPERTS, 1))
    if draw == "a common part":
        g += random.standard_normal((DRAWS, 1, len(scales)))
    y = g * scales
    y /= np.linalg.norm(y, axis=2, keepdims=True)
    return np.stack([(y[:, i] * y[:, j]).sum(1) ** 2 for i, j in itertools.combinations(range(EXPERTS), 2)], 1)


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for name, spectrum in SPECTRA.items():
        cosines = _simulate(name, law.draw)
        overlap, spread = law.overlap(spectrum, ctx=FLOAT), law.spread(*spectrum)
        proof.estimate(f"{name}, {law.draw}: overlap", *mean_and_sem(cosines.mean(1)), overlap)
        apart = cosines - cosines.mean()
        proof.estimate(f"{name}: variance", *mean_and_sem((apart**2).mean(1)), spread.variance)
        proof.estimate(f"{name}: covariance of pairs that share a vector", *mean_and_sem(_neighbours(apart)), spread.covariance)
        bound = spectrum_bound(*spectrum)
        proof.bounded(
            f"{name}: overlap on its side of the bound", *mean_and_sem(cosines.mean(1)), **{"high" if law.above else "low": bound}
        )
    return proof.check()


def _neighbours(apart: np.ndarray) -> np.ndarray:
    """The mean product of two of three pairs, any two of which share a vector."""
    return (apart.sum(1) ** 2 - (apart**2).sum(1)) / 6


def control() -> list[Wrong]:
    def bound(spectrum: Spectrum, other: Any = None, *, ctx: Any) -> Any:
        return spectrum_bound(*spectrum, ctx=ctx)

    def round_space(spectrum: Spectrum, other: Any = None, *, ctx: Any) -> Any:
        return 1 / ctx.number(sum(spectrum[1]))

    def doubled(spectrum: Spectrum, other: Any = None, *, ctx: Any) -> Any:
        """(1 + 2 lambda t)^-1 in the product: every direction twice."""
        eigenvalues, counts = spectrum
        return 2 * _overlap((eigenvalues, tuple(2 * m for m in counts)), ctx=ctx)

    def alone(eigenvalues: Any, counts: Any) -> Spread:
        return replace(anisotropic_spread(eigenvalues, counts), covariance=0.0)

    def as_if_round(eigenvalues: Any, counts: Any) -> Spread:
        spread = anisotropic_spread(eigenvalues, counts)
        n = 1 / spread.mean
        return replace(spread, variance=2 * (n - 1) / (n * n * (n + 2)))

    simulated: tuple[Way, ...] = ("numeric",)
    blind = "the derivation and the certificate know isotropic g, and the spread in symbols only"
    return [
        Wrong("tr L^2/(tr L)^2, the overlap of mean squares", replace(LAW, overlap=bound)),
        Wrong("1/d: a round space", replace(LAW, overlap=round_space)),
        Wrong("each direction counted twice in the product", replace(LAW, overlap=doubled)),
        Wrong("the shares majorise the eigenvalues", replace(LAW, above=False)),
        Wrong("pairs that share a vector are uncorrelated, as in a round space", replace(LAW, spread=alone), ways=simulated, why=blind),
        Wrong("the variance of a round space of 1/overlap dimensions", replace(LAW, spread=as_if_round), ways=simulated, why=blind),
        Wrong("scales times signs: nothing but the signs varies", replace(LAW, draw="signs"), ways=simulated, why=blind),
        Wrong("vectors with a part in common", replace(LAW, draw="a common part"), ways=simulated, why=blind),
    ]

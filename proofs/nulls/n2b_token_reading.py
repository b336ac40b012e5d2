"""N2B: tokens share experts, so output overlaps of two tokens are correlated, and a mean over tokens keeps a spread."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from flint import arb

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.token_variance import output_alignment, token_covariance, token_mso_variance

STATEMENT = Statement(
    id="N2B",
    kind=EQUAL,
    title="output overlaps of two tokens are correlated, with a floor under the spread of a mean over tokens",
    claim=(
        r"\mathrm{Cov}(\cos^2(t),\cos^2(t')) = \frac{2(Q_1-1/d)(Q_2-1/d)}{(d+2)(d-1)},\ Q_e = \mathbb{E}\cos^2(y_e(t),y_e(t'));"
        r"\quad 1-Q(c) = (d-1)\int_0^1\frac{u^{d-1}\,du}{1+wu^2},\ w = \frac{c^2}{1-c^2},\ c = \cos(h(t),h(t'));"
        r"\quad \mathrm{Var} = \frac{1}{PT}\left[\frac{2(d-1)}{nd^2(d+2)} + (1-\tfrac1n)\overline{\mathrm{Cov}}\right]"
    ),
    hypotheses=(
        "given the hidden vectors and the routing; hidden vectors non-zero",
        "the W_down,e independent of each other, of the hidden vectors and of the routing; means E y_e y_e' / |y_e|^2 = I/d",
        "covariance: W_down of one of the two experts Gaussian or Haar (its law kept by left rotations); Q(c): W_down Gaussian",
        "variance: all W_down Gaussian; n tokens for each of P pairs of experts, in T independent trials; Cov averaged over pairs of both",
    ),
    box={"d": (2, None), "c": (-1, 1), "n": (1, None), "P": (1, None), "T": (1, None)},
    premises=(computed("N1"), computed("N1B")),
    tight="an equality; Q = 1 returns the variance of one cos^2, Q = 1/d gives uncorrelated tokens",
)


@dataclass(frozen=True)
class Law:
    """entries: what the simulated W_down of both experts are made of."""

    covariance: Callable[..., Any] = token_covariance
    alignment: Callable[..., Any] = output_alignment
    variance: Callable[..., Any] = token_mso_variance
    entries: str = "gaussian"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    _covariance(proof, law)
    _alignment(proof, law)
    _variance(proof, law)
    return proof.check()


def _equal(proof: Derivation, text: str, derived: Any, claimed: Any) -> None:
    """Rational functions are equal iff their difference cancels to 0."""
    proof.holds(f"{text}: derived {derived}, claimed {claimed}", sp.cancel(derived - claimed) == 0)


def _append(proof: Derivation, part: Derivation) -> None:
    """Steps that no form of the law enters are taken once for all of them."""
    proof.steps += part.steps
    proof.verdicts += part.verdicts


def _covariance(proof: Derivation, law: Law) -> None:
    part, kappa, (d, q1, q2) = _turned()
    _append(proof, part)
    _equal(proof, "Cov = K (Q_2 - 1/d)", kappa * (q2 - 1 / d), law.covariance(d, q1, q2, ctx=SYMBOLIC))


@cache
def _turned() -> tuple[Derivation, Any, tuple[Any, Any, Any]]:
    """E tr(A_1 B) tr(A_1' B') = K tr(B B'): the steps, K, and the symbols d, Q_1, Q_2."""
    proof = Derivation()
    d, q1, q2 = sp.Symbol("d", integer=True, positive=True), sp.Symbol("Q1", positive=True), sp.Symbol("Q2", positive=True)
    proof.step("cos^2 - 1/d = tr(A_1 A_2), A_e = u_e u_e' - I/d, u_e = y_e/|y_e| at t; the same with primes at t'")
    proof.step(
        "W_1 -> R W_1 keeps the law and turns u, u' together: u' = cos(a) u + sin(a) w, and given u and a, w is uniform on u's complement"
    )
    q = sp.Symbol("q", positive=True)
    for n in (2, 3, 4):
        u = sp.Matrix(sp.symbols(f"u1:{n + 1}"))
        line, unit = u * u.T, sp.eye(n)
        given = q * line + (1 - q) * (unit - line) / (n - 1) - unit / n
        factor = (n * q - 1) / sp.Integer(n - 1)
        proof.holds(
            f"d = {n}: E[A' | u, a] = q uu' + (1-q)(I - uu')/(d-1) - I/d = {factor} A, q = cos^2 a",
            (given - factor * (line - unit / n)).applyfunc(sp.simplify) == sp.zeros(n, n),
        )
    proof.step("the same line by line for any d: coefficients of uu' and of I agree")
    coefficient = (d * q - 1) / (d - 1)
    proof.equal("coefficient of uu'", q - (1 - q) / (d - 1), coefficient)
    proof.equal("coefficient of I", (1 - q) / (d - 1) - 1 / d, -coefficient / d)
    turned = 2 / (d * (d + 2))
    proof.step("N1B, u uniform: E tr(A B) tr(A B') = 2/(d (d+2)) tr(B B') for traceless symmetric B, B'")
    kappa = (d * q1 - 1) / (d - 1) * turned
    proof.step("so E tr(A_1 B) tr(A_1' B') = K tr(B B'), K with Q_1 = E q", sp.factor(kappa))
    proof.step("with B = A_2, B' = A_2' of the other expert, whatever its law: E tr(A_2 A_2') = E cos^2(y_2, y_2') - 1/d = Q_2 - 1/d")
    return proof, kappa, (d, q1, q2)


@cache
def _mixture() -> tuple[Any, Any]:
    """P(J = j) for J Poisson of mean theta G, G ~ Gamma(a, 1): the integral, and its ratio to (a)_j/j! (1-x)^a x^j, x = theta/(1+theta)."""
    a, g, theta = sp.symbols("a g theta", positive=True)
    j = sp.Symbol("j", integer=True, nonnegative=True)
    derived = sp.integrate(g ** (j + a - 1) * sp.exp(-(1 + theta) * g), (g, 0, sp.oo)) * theta**j / (sp.factorial(j) * sp.gamma(a))
    claimed = sp.gamma(a + j) / (sp.gamma(a) * sp.factorial(j)) * (1 + theta) ** -a * theta**j * (1 + theta) ** -j
    return derived, sp.powsimp(derived / claimed)


def _alignment(proof: Derivation, law: Law) -> None:
    _append(proof, _to_an_integral())
    w, point = sp.Symbol("w", positive=True), Fraction(3, 5)
    for d, integral in _integrals().items():
        derived = 1 - (d - 1) * integral.subs(w, sp.Rational(9, 16))
        proof.equal(f"d = {d}, c = {point}: Q(c)", derived, law.alignment(d, point, ctx=SYMBOLIC).subs(*_ASIN))


@cache
def _to_an_integral() -> Derivation:
    """From the definition of Q(c) to an integral, and the integral's recurrence."""
    proof = Derivation()
    proof.step("rows of W are N(0, I): (y_i, y'_i) i.i.d. normal with correlation c, so y' = c y + s g, s^2 = 1 - c^2, g independent of y")
    proof.step("turn y onto the first axis: 1 - cos^2 = s^2 Z / (s^2 Z + (c |y| + s g_1)^2), Z ~ chi^2_{d-1}; |y|^2 ~ chi^2_d")
    proof.step("(g_1 + c|y|/s)^2 given |y| is chi^2_{1+2J}, J Poisson of mean (x/(1-x)) |y|^2/2, x = c^2, and |y|^2/2 ~ Gamma(d/2)")
    derived, ratio = _mixture()
    proof.equal(f"P(J = j) = {derived}, over (d/2)_j/j! (1-x)^(d/2) x^j, theta = x/(1-x), a = d/2", ratio, sp.Integer(1))
    proof.step("given J, Z / (Z + chi^2_{1+2J}) ~ Beta((d-1)/2, (1+2J)/2), with mean (d-1)/(d+2J)")
    proof.step(
        "1/(d+2j) = int_0^1 t^(d+2j-1) dt and sum_j (a)_j (x t^2)^j/j! = (1 - x t^2)^-a: 1-Q = (d-1) int (1-x)^a t^(2a-1) (1 - x t^2)^-a dt"
    )
    t, x = sp.symbols("t x", positive=True)
    square = t**2 * (1 - x) / (1 - x * t**2)
    proof.equal("v^2 = t^2 (1-x)/(1 - x t^2): 1 + w v^2, w = x/(1-x)", 1 + x / (1 - x) * square, 1 / (1 - x * t**2))
    # v^(d-1) dv = (v^2)^a (v^2)^-1 d(v^2)/2 with a = d/2: the powers with a agree as they stand, the rest is compared here.
    slope = sp.factor(sp.diff(square, t))
    proof.equal("d(v^2)/dt", slope, 2 * t * (1 - x) / (1 - x * t**2) ** 2)
    proof.equal(
        "(v^2)^-1 d(v^2)/2 / (1 + w v^2) = dt/t: with (v^2)^a = (1-x)^a t^2a (1 - x t^2)^-a both integrals are one",
        slope / (2 * square) * (1 - x * t**2),
        1 / t,
    )
    u, w = sp.symbols("u w", positive=True)
    n = sp.Symbol("d", positive=True)
    proof.equal(
        "I_d = int u^(d-1)/(1+wu^2) du: w I_{d+2} = 1/d - I_d, under the integral",
        w * u ** (n + 1) / (1 + w * u**2) + u ** (n - 1) / (1 + w * u**2),
        u ** (n - 1),
    )
    c = sp.Symbol("c", positive=True)
    angle = sp.atan(c / sp.sqrt(1 - c**2))
    proof.equal("d/dc [arctan(c/sqrt(1-c^2)) - arcsin c], both 0 at c = 0", sp.simplify(sp.diff(angle, c)), sp.diff(sp.asin(c), c))
    n = sp.Symbol("d", integer=True, positive=True)
    first = sp.integrate(u ** (n - 1) - w * u ** (n + 1), (u, 0, 1))
    proof.equal("any d, small c: 1 - (d-1) int u^(d-1) (1 - c^2 u^2) du", 1 - (n - 1) * first, 1 / n + w * (n - 1) / (n + 2))
    return proof


# arcsin(3/5) = arctan(3/4), the identity above at c = 3/5.
_ASIN = (sp.asin(sp.Rational(3, 5)), sp.atan(sp.Rational(3, 4)))


@cache
def _integrals() -> dict[int, Any]:
    u, w = sp.symbols("u w", positive=True)
    return {d: sp.integrate(u ** (d - 1) / (1 + w * u**2), (u, 0, 1)) for d in (1, 2, 3, 4, 5, 6)}


def _variance(proof: Derivation, law: Law) -> None:
    d, n, pairs, trials = (sp.Symbol(name, integer=True, positive=True) for name in ("d", "n", "P", "T"))
    cov = sp.Symbol("C", positive=True)
    proof.step(
        "two pairs that share one expert or none: E tr(A_1 A_2) tr(A_1' A_3) = 0, since E A_3 = 0 given the rest; so only equal pairs count"
    )
    proof.step("one pair of experts has n variances v = 2(d-1)/(d^2 (d+2)) (N1, Gaussian side) and n(n-1) covariances, of mean C")
    v = 2 * (d - 1) / (d**2 * (d + 2))
    derived = trials * pairs * (n * v + n * (n - 1) * cov) / (trials * pairs * n) ** 2
    _equal(proof, "Var of the mean over T P n overlaps", derived, law.variance(d, n, pairs, trials, cov, ctx=SYMBOLIC))
    one = law.covariance(d, sp.Integer(1), sp.Integer(1), ctx=SYMBOLIC)
    _equal(proof, "one token twice: the covariance at Q_1 = Q_2 = 1 is the variance", v, one)


def certified(law: Law = LAW) -> Check:
    """Q(c) by the recurrence against Muirhead's hypergeometric form, which Arb evaluates on its own."""
    proof = Derivation()
    for d, point in ((2, "0.5"), (3, "0.1"), (8, "0.9"), (33, "0.5"), (64, "0.8")):
        c = BALL.number(point)
        x = c * c
        reference = 1 - (1 - x) * (d - 1) / d * x.hypgeom_2f1(arb(1), arb(1), arb(d) / 2 + 1)
        claimed = proof.ball(f"Q at d = {d}, c = {point}", law.alignment(d, point, ctx=BALL))
        for text, gap in (("below", reference - claimed), ("above", claimed - reference)):
            proof.record(f"d = {d}, c = {point}: no further {text} than 1e-20", sign(gap + BALL.number("1e-20"), ">"))
    # The covariance is a rational law, derived above; here only its ends are met by the balls of Q.
    for d in (2, 64):
        cov = law.covariance(d, 1, 1, ctx=BALL)
        exact = BALL.number(Fraction(2 * (d - 1), d * d * (d + 2)))
        proof.within(f"d = {d}: Cov at Q = 1 is Var", cov - exact, "1e-20")
    return proof.check()


DRAWS = 200_000
LAYERS = 40_000
TOKENS, EXPERTS = 3, 3
HIDDEN = {  # of two experts at two tokens
    3: (((1.0, 2.0), (2.0, 1.0)), ((3.0, 1.0), (2.0, 1.0))),
    5: (((2.0, 1.0, 0.0), (2.0, 1.5, 1.0)), ((1.0, -2.0, 0.5), (1.0, -1.0, 0.5))),
}


def _cos2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) ** 2 / ((a * a).sum(-1) * (b * b).sum(-1))


def _cosine(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@cache
def _two_tokens(d: int, entries: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """cos^2 of the two experts at t and at t', and of expert 1 with itself."""
    random = generator("N2B", f"{d} {entries}")
    outputs = []
    for tokens in HIDDEN[d]:
        shape = (DRAWS, d, len(tokens[0]))
        down = random.standard_normal(shape) if entries == "gaussian" else random.choice([-1.0, 1.0], shape)
        outputs.append([down @ np.array(h) for h in tokens])
    (a, a1), (b, b1) = outputs
    return _cos2(a, b), _cos2(a1, b1), _cos2(a, a1)


@cache
def _mixed_sides() -> tuple[np.ndarray, float, float]:
    """Expert 1 Gaussian, expert 2 of signs, d = 3: products of deviations, expert 1's cosine, and Q_2 from all 64 sign matrices."""
    d, ((h1, k1), (h2, k2)) = 3, HIDDEN[3]
    random = generator("N2B", "mixed")
    left = random.standard_normal((DRAWS, d, 2))
    right = random.choice([-1.0, 1.0], (DRAWS, d, 2))
    product = (_cos2(left @ h1, right @ h2) - 1 / d) * (_cos2(left @ k1, right @ (k2 := (1.0, 3.0))) - 1 / d)
    every = np.array(list(itertools.product((-1.0, 1.0), repeat=2 * d))).reshape(-1, d, 2)
    return product, _cosine(h1, k1), float(_cos2(every @ h2, every @ k2).mean())


@cache
def _layers() -> tuple[np.ndarray, np.ndarray]:
    """MSOs over TOKENS tokens and all pairs of EXPERTS experts with fixed rectified hidden vectors, and the experts' cosines of tokens."""
    d, f = 4, 6
    random = generator("N2B", "layers")
    hidden = np.maximum(random.standard_normal((EXPERTS, TOKENS, f)) + 1, 0.0)
    unit = hidden / np.linalg.norm(hidden, axis=2, keepdims=True)
    down = random.standard_normal((LAYERS, EXPERTS, d, f))
    y = np.einsum("sedf,etf->sted", down, hidden)
    y /= np.linalg.norm(y, axis=3, keepdims=True)
    gram = np.einsum("sted,stgd->steg", y, y) ** 2
    pairs = EXPERTS * (EXPERTS - 1)
    return (gram.sum((2, 3)) - EXPERTS).mean(1) / pairs, np.einsum("etf,euf->etu", unit, unit)


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for d, hidden in HIDDEN.items():
        here, there, own = _two_tokens(d, law.entries)
        q1, q2 = (law.alignment(d, _cosine(*tokens), ctx=FLOAT) for tokens in hidden)
        proof.estimate(f"d = {d}: E cos^2 of one expert's outputs at two tokens", *mean_and_sem(own), q1)
        # The means are 1/d exactly (N2), so nothing is estimated but the product.
        product = (here - 1 / d) * (there - 1 / d)
        proof.estimate(f"d = {d}: Cov of cos^2 at two tokens", *mean_and_sem(product), law.covariance(d, q1, q2, ctx=FLOAT))
    for c, end in ((0, 1 / 5), (1, 1), (-1, 1)):
        # The ends of c, where w is 0 or infinite: the quadrature's own error is below 1e-14.
        proof.agrees(f"d = 5, c = {c}: Q", law.alignment(5, c, ctx=FLOAT), end, 1e-13)
    product, cosine, q2 = _mixed_sides()
    claimed = law.covariance(3, law.alignment(3, cosine, ctx=FLOAT), q2, ctx=FLOAT)
    proof.estimate("d = 3: one expert's W_down Gaussian, the other's of signs", *mean_and_sem(product), claimed)
    mso, cosines = _layers()
    d, pairs = 4, EXPERTS * (EXPERTS - 1) // 2
    apart = ~np.eye(TOKENS, dtype=bool)
    q = np.array([[law.alignment(d, min(c, 1.0), ctx=FLOAT) for c in cosines[e][apart]] for e in range(EXPERTS)])
    covariances = [law.covariance(d, q[e], q[g], ctx=FLOAT).mean() for e, g in itertools.combinations(range(EXPERTS), 2)]
    claimed = law.variance(d, TOKENS, pairs, 1, float(np.mean(covariances)), ctx=FLOAT)
    text = f"d = {d}, {EXPERTS} experts, {TOKENS} tokens: Var of the mean over pairs and tokens"
    proof.estimate(text, *mean_and_sem((mso - 1 / d) ** 2), claimed)
    return proof.check()


def _covariance_with(top: int, plus: int, minus: int) -> Callable[..., Any]:
    def covariance(d: Any, q1: Any, q2: Any, *, ctx: Any) -> Any:
        d, q1, q2 = ctx.number(d), ctx.number(q1), ctx.number(q2)
        return top * (q1 - 1 / d) * (q2 - 1 / d) / ((d + plus) * (d - minus))

    return covariance


def _alignment_with(kind: str) -> Callable[..., Any]:
    def alignment(d: int, c: Any, *, ctx: Any) -> Any:
        right = output_alignment(d, c, ctx=ctx)
        c, size = ctx.number(c), ctx.number(d)
        return {"linear": c * c + (1 - c * c) / size, "over d": 1 - (1 - right) * size / (d - 1 + (d == 1))}[kind]

    return alignment


def _variance_with(kind: str) -> Callable[..., Any]:
    def variance(d: Any, n: Any, pairs: Any, trials: Any, cov: Any, *, ctx: Any) -> Any:
        n, cov, copies = ctx.number(n), ctx.number(cov), ctx.number(pairs) * ctx.number(trials)
        one = token_mso_variance(d, 1, 1, ctx=ctx)
        return {"no floor": one / n / copies, "n covariances": (one / n + cov) / copies, "floor not over pairs": one / n / copies + cov}[
            kind
        ]

    return variance


def control() -> list[Wrong]:
    exact = "a rational form: the certificate meets it only at Q = 1, where this one agrees or is not used"
    return [
        Wrong("Cov with 1 in place of 2", replace(LAW, covariance=_covariance_with(1, 2, 1))),
        Wrong("Cov over d+1", replace(LAW, covariance=_covariance_with(2, 1, 1))),
        Wrong("Cov over d, not d-1", replace(LAW, covariance=_covariance_with(2, 2, 0))),
        Wrong("Q = c^2 + (1 - c^2)/d, as if lengths did not vary", replace(LAW, alignment=_alignment_with("linear"))),
        Wrong("1 - Q with d in place of d-1", replace(LAW, alignment=_alignment_with("over d"))),
        Wrong("Var/(P T n), without the floor", replace(LAW, variance=_variance_with("no floor")), ("symbolic", "numeric"), exact),
        Wrong("Cov in place of (1 - 1/n) Cov", replace(LAW, variance=_variance_with("n covariances")), ("symbolic", "numeric"), exact),
        Wrong("the floor not over P T", replace(LAW, variance=_variance_with("floor not over pairs")), ("symbolic", "numeric"), exact),
        Wrong(
            "W_down of signs, both experts",
            replace(LAW, entries="signs"),
            ("numeric",),
            "the law is unchanged: only the simulated layer breaks it",
        ),
    ]

"""A7: gated hidden vectors act(g) u of independent experts overlap by 1/f, per token and for means over tokens, and are not Beta.

That u is symmetric given g makes the entries' signs fair coins, but 1/f needs the rows of (W_gate, W_up) exchangeable too: with unequal
rows the mean is E sum_i a_i^2 b_i^2, which N1's "equally scaled" excludes.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp
from flint import acb, arb

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.activations import Activation, activation_of
from simgap.theory.closed_duals import gelu_even_dual
from simgap.theory.floats import FLOAT
from simgap.theory.gated import excess_over_beta, gated_kappa, gated_kurtosis, gated_mso, gated_share_moment, gated_variance
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.weight_null import null_variance, null_variance_general

STATEMENT = Statement(
    id="A7",
    kind=EQUAL,
    title="gated hidden vectors overlap by 1/f on average, with a variance above Beta's",
    claim=(
        r"\mathbb{E}\cos^2 = 1/f;\quad"
        r"\mathrm{Var}\cos^2 = \tfrac{2(f-1)}{f^2(f+2)} + \tfrac{f(f+2)}{f-1}(A-\tfrac{3}{f(f+2)})(B-\tfrac{3}{f(f+2)}),"
        r"\ A = \mathbb{E}(h_1^2/\|h\|^2)^2;\quad \text{one token: } \mathrm{Var} = \tfrac{2}{f^2} + \tfrac{K^2-6K+3}{f^3} + O(1/f^4),"
        r"\ K = 3\,\mathbb{E}\phi^4/(\mathbb{E}\phi^2)^2;\quad \kappa_{\rm gated}(\rho) = \rho\,\kappa(\rho)"
    ),
    hypotheses=(
        "h = act(W_gate x) * W_up x, or its mean over any tokens; rows of (W_gate, W_up) i.i.d. over hidden units",
        "each row of W_up symmetric about 0 given W_gate's (normal and independent of it for K and kappa)",
        "the other expert independent of this one given the tokens and the routing; for the variance it satisfies the same",
        "no norm; both vectors non-zero; E act(sz)^8 finite for K",
    ),
    box={"f": (2, None), "K": (3, None), "rho": (-1, 1)},
    premises=(computed("N1"), computed("A1")),
    tight="equalities",
)


@dataclass(frozen=True)
class Law:
    mean: Callable[..., Any] = gated_mso
    excess: Callable[..., Any] = excess_over_beta
    variance: Callable[..., Any] = gated_variance
    kurtosis: Callable[..., Any] = gated_kurtosis
    kappa: Callable[..., Any] = gated_kappa
    share: Callable[..., Any] = gated_share_moment


LAW = Law()


SHIFTED = Activation("1 + x", lambda v, ctx: 1 + v, lambda v, ctx: 1 + 0 * v)


@cache
def _once(kappa: Callable[..., Any], activation: Any, rho: Any, ctx: Any, bits: int = 0) -> Any:
    """kappa(activation, rho) at s = 1, kept for the laws that do not change it."""
    return kappa(activation, rho, 1, ctx=ctx)


def symbolic(law: Law = LAW) -> Check:
    """From the definition: sign flips and permutations of the rows, then N1's fourth moments, then Gaussian moments of act(g) u."""
    proof = Derivation()
    proof.step(
        "m_i = mean_t act(<g_i, x_t>) <w_i, x_t>: flipping the row w_i turns m_i for all tokens at once and leaves the law as it was"
    )
    w, x, gate = sp.symbols("w1:3"), sp.symbols("x1:5"), sp.symbols("g1:3")
    entry = sum(gate[t] * (w[0] * x[2 * t] + w[1] * x[2 * t + 1]) for t in range(2)) / 2
    flipped = entry.subs({w[0]: -w[0], w[1]: -w[1]}, simultaneous=True)
    proof.equal("two tokens in two dimensions, any gates: m_i(-w_i)", sp.expand(flipped), sp.expand(-entry))
    for f in (2, 3):
        proof.equal(
            f"f = {f}: cos^2 over all signs and orders of m's entries, for every other vector", _orbit(f), law.mean(f, ctx=SYMBOLIC)
        )
    n, a, b, k, c = sp.symbols("f A B K c", positive=True)
    fourth = n * a * b + 3 * n * (n - 1) * (1 / n - a) / (n - 1) * (1 / n - b) / (n - 1)
    beta = 3 / (n * (n + 2))
    proof.step("E cos^4 = f A B + 3 f (f-1) E a_i^2 a_j^2 E b_i^2 b_j^2 (law N1); of Beta(1/2, (f-1)/2) it is", beta)
    proof.equal("Var cos^2 less Beta's", sp.factor(fourth - beta), sp.factor(law.excess(n, a, b, ctx=SYMBOLIC)))
    proof.step("A = (K + c/f)/f^2 + O(1/f^4): the numerator E h_1^4 times E ||h||^-4, whose relative error is O(1/f)")
    series = (fourth - 1 / n**2).subs({a: (k + c / n) / n**2, b: (k + c / n) / n**2}, simultaneous=True)
    for text, of in (("f^2 Var", lambda e: n**2 * e), ("f (f^2 Var - 2), whatever c", lambda e: n * (n**2 * e - 2))):
        proof.equal(
            f"limit of {text}",
            sp.limit(of(sp.factor(series)), n, sp.oo),
            sp.limit(of(sp.factor(law.variance(n, k, ctx=SYMBOLIC))), n, sp.oo),
        )
    z, s = sp.Symbol("z", real=True), sp.Symbol("s", positive=True)
    moment = {p: sp.integrate(z**p * sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi), (z, -sp.oo, sp.oo)) for p in (2, 4)}
    # Of ReLU's moments half the line is left.
    for name, half in (("identity", 1), ("relu", sp.Rational(1, 2))):
        ratio = (half * s**4 * moment[4]) * moment[4] / (half * s**2 * moment[2] * moment[2]) ** 2
        proof.equal(f"{name}: E act^4 E u^4 / (E act^2 E u^2)^2", ratio, sp.simplify(law.kurtosis(name, s, ctx=SYMBOLIC)))
    rho = sp.Symbol("rho", real=True)
    proof.step("two tokens: the pair (u, u') is independent of (g, g'), so E act(g) u act(g') u' = E u u' E act(g) act(g'): rho kappa(rho)")
    proof.equal(
        "act = 1 + x: E act(g) u act(g') u' / E act^2 u^2", _gated_polynomial(rho), sp.factor(_once(law.kappa, SHIFTED, rho, SYMBOLIC))
    )
    return proof.check()


@cache
def _orbit(f: int) -> Any:
    m, v = sp.symbols(f"m1:{f + 1}", positive=True), sp.symbols(f"v1:{f + 1}")
    total = sum(
        sum(s * x * y for s, x, y in zip(signs, order, v, strict=True)) ** 2
        for signs in itertools.product((-1, 1), repeat=f)
        for order in itertools.permutations(m)
    )
    return sp.factor(sp.expand(total) / (2**f * sp.factorial(f) * sum(x**2 for x in m) * sum(y**2 for y in v)))


@cache
def _gated_polynomial(rho: Any) -> Any:
    """With g' = rho g + q a and u' = rho u + q b, q^2 = 1 - rho^2, all of g, u, a, b independent."""
    g, u, a, b = sp.symbols("g u a b")
    q = sp.sqrt(1 - rho**2)
    other_g, other_u = rho * g + q * a, rho * u + q * b

    def mean(expression: Any) -> Any:
        terms = sp.Poly(sp.expand(expression), g, u, a, b).terms()
        even = ((powers, c) for powers, c in terms if all(p % 2 == 0 for p in powers))
        return sum(c * sp.prod([sp.factorial2(p - 1) for p in powers if p]) for powers, c in even)

    product = mean((1 + g) * u * (1 + other_g) * other_u)
    return sp.factor(sp.simplify(product / mean(((1 + g) * u) ** 2)))


def certified(law: Law = LAW) -> Check:
    """In balls: kurtoses against a direct integral, the variance's expansion at a large width, and the gated map."""
    proof = Derivation()
    for name in ("relu", "silu", "tanh"):
        kurtosis = proof.ball(f"K of {name} at s = 1", law.kurtosis(name, 1, ctx=BALL))
        proof.within("the direct integral over [-40, 40]", kurtosis - _direct_kurtosis(name, flint.ctx.prec), "1e-20")
        proof.record("above 3: the variance exceeds Beta's", sign(kurtosis - 3, ">"))
        width = 10**10
        scaled = arb(width) ** 3 * (law.variance(width, kurtosis, ctx=BALL) - null_variance(width, ctx=BALL))
        proof.record(
            "f^3 (Var - Beta's) = (K-3)^2 to within 3 K^3/f, f = 10^10",
            sign(3 * kurtosis**3 / width - abs(scaled - (kurtosis - 3) ** 2), ">"),
        )
    for width, a, b in ((8, "0.05", "0.08"), (64, "0.002", "0.001")):
        gap = null_variance_general(width, a, b, ctx=BALL) - null_variance(width, ctx=BALL) - law.excess(width, a, b, ctx=BALL)
        proof.within(f"f = {width}: N1's general variance less Beta's", gap, "1e-20")
        proof.within(f"f = {width}: f E cos^2 = 1", width * law.mean(width, ctx=BALL) - 1, "1e-20")
    rho = BALL.number(Fraction(1, 64))
    gelu = (gelu_even_dual(rho, 1, ctx=BALL) + rho / 4) / (gelu_even_dual(1, 1, ctx=BALL) + BALL.number(Fraction(1, 4)))
    identity = proof.ball("identity: gated kappa at 1/64", _once(law.kappa, "identity", Fraction(1, 64), BALL, flint.ctx.prec))
    proof.within("is 1/64^2", identity - rho * rho, "1e-20")
    kappa = proof.ball("GELU: gated kappa at 1/64", _once(law.kappa, "gelu", Fraction(1, 64), BALL, flint.ctx.prec))
    proof.within("is rho times GELU's closed dual map", kappa - rho * gelu, "1e-20")
    return proof.check()


@cache
def _direct_kurtosis(name: str, bits: int) -> arb:
    """Beyond 40 the integrand is below x^4 phi(x) < 10^-300; half lines meet at a kink."""
    act = activation_of(name)

    def moment(p: int) -> arb:
        def integrand(x: acb, analytic: bool) -> acb:
            # On a half line ReLU is 0 or x itself: no kink to look at.
            return act.value(x, BALL) ** p * (-x * x / 2).exp() if name != "relu" else x**p * (-x * x / 2).exp()

        ends = ((0, 40),) if name == "relu" else ((-40, 0), (0, 40))
        return sum((acb.integral(integrand, *pair).real for pair in ends), arb(0)) / (2 * arb.pi()).sqrt()

    return 3 * moment(4) / moment(2) ** 2


F, D, TOKENS, PAIRS = 12, 6, 3, 12_000
SAMPLES = 200_000


@cache
def _simulate() -> dict[str, np.ndarray]:
    """Gated SiLU experts of F units on TOKENS tokens against a lopsided fixed vector, and against each other on the first token."""
    random = generator("A7")
    tokens = random.standard_normal((TOKENS, D))
    tokens *= np.sqrt(D) / np.linalg.norm(tokens, axis=1, keepdims=True)
    fixed = np.arange(1.0, F + 1) ** 2

    def hidden() -> np.ndarray:
        gate, up = (random.standard_normal((PAIRS, F, D)) @ tokens.T / np.sqrt(D) for _ in range(2))
        return gate / (1 + np.exp(-gate)) * up

    first, second = hidden(), hidden()
    # On one token the pre-activations are simply normal.
    g, u = random.standard_normal((2, 2, SAMPLES, F))
    h = g / (1 + np.exp(-g)) * u
    cos2 = {"token": _cos2(h[0], h[1])}
    cos2["mean"] = _cos2(first.mean(axis=2), second.mean(axis=2))
    cos2["fixed"] = _cos2(first.mean(axis=2), np.broadcast_to(fixed, (PAIRS, F)))
    return cos2


def _cos2(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u * v).sum(1) ** 2 / ((u * u).sum(1) * (v * v).sum(1))


@cache
def _share(name: str, width: int) -> float:
    return gated_share_moment(name, 1.0, width)


@cache
def _entries() -> np.ndarray:
    return generator("A7", "entries").standard_normal((4, SAMPLES))


def numeric(law: Law = LAW) -> Check:
    """f = 12, s = 1: means over 3 tokens and a single token, then moments of single entries."""
    proof = Derivation()
    cos2 = _simulate()
    for name, text in (("token", "one token"), ("mean", f"means over {TOKENS} tokens"), ("fixed", "a mean against a fixed vector")):
        proof.estimate(f"f = {F}, {text}: E cos^2", *mean_and_sem(cos2[name]), law.mean(F, ctx=FLOAT))
    share = law.share("silu", 1.0, F)
    claimed = null_variance(F) + law.excess(F, share, share, ctx=FLOAT)
    # The mean is 1/f exactly, so deviations from it need no correction for an estimated one.
    proof.estimate(f"f = {F}, one token: Var cos^2", *mean_and_sem((cos2["token"] - 1 / F) ** 2), claimed)
    g, u, a, b = _entries()
    rectified = np.maximum(g, 0)
    proof.estimate("ReLU: E h^4 over (E h^2)^2 = 1/4", *mean_and_sem(4 * (rectified * u) ** 4), law.kurtosis("relu", 1, ctx=FLOAT))
    rho = 0.6
    others = (rho * g + 0.8 * a) * (rho * u + 0.8 * b)
    proof.estimate("identity, rho = 0.6: E h h'", *mean_and_sem(g * u * others), law.kappa("identity", rho, 1, ctx=FLOAT))
    other = np.maximum(rho * g + 0.8 * a, 0) * (rho * u + 0.8 * b)
    proof.estimate("ReLU, rho = 0.6: 2 E h h'", *mean_and_sem(2 * rectified * u * other), law.kappa("relu", rho, 1, ctx=FLOAT))
    width = 2**18
    for name in ("silu", "relu"):
        share, kurtosis = _share(name, width), law.kurtosis(name, 1, ctx=FLOAT)
        exact = width**3 * law.excess(width, share, share, ctx=FLOAT)
        leading = width**3 * (law.variance(width, kurtosis, ctx=FLOAT) - null_variance(width))
        proof.agrees(f"{name}: f^3 (Var - Beta's) by the exact A at f = 2^18, where O(1/f) is within 1%", leading, exact, exact / 100)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("E cos^2 = 1/(f-1), as after LayerNorm", replace(LAW, mean=lambda f, *, ctx: 1 / (ctx.number(f) - 1))),
        Wrong("Var = Beta's", replace(LAW, excess=lambda f, a, b, *, ctx: 0 * ctx.number(a))),
        Wrong("excess with N in place of N(N+2)/(N-1)", replace(LAW, excess=_plain_factor)),
        Wrong("K = E act^4/(E act^2)^2, without the 3 of u", replace(LAW, kurtosis=lambda n, s, *, ctx: gated_kurtosis(n, s, ctx=ctx) / 3)),
        Wrong("leading variance at K = 3", replace(LAW, variance=lambda f, k, *, ctx: null_variance(f, ctx=ctx))),
        Wrong("kappa of the gate alone", replace(LAW, kappa=lambda act, r, s, *, ctx: gated_kappa(act, r, s, ctx=ctx) / ctx.number(r))),
        Wrong(
            "A = K/(f(K+f-1)) at f = 12",
            replace(LAW, share=lambda name, s, f: gated_kurtosis(name, s) / (f * (gated_kurtosis(name, s) + f - 1))),
            ways=("numeric",),
            why="the exact A is a floating-point quadrature, which only the simulation reads",
        ),
    ]


def _plain_factor(f: Any, a: Any, b: Any, *, ctx: Any) -> Any:
    f = ctx.number(f)
    return excess_over_beta(f, a, b, ctx=ctx) * (f - 1) / (f + 2)

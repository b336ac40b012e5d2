"""A6: mean hidden vectors of wide experts: cos^2 = kappa0^2 / (D_1 D_2), and what tokens spread over the sphere make of D.

The law of the mean over tokens, [kappa0 / E D]^2, is not an expectation of cos^2 exactly: by Jensen's inequality E 1/D^2 is larger, by an
amount that the theorem bounds.
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

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, cited, computed, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.activations import activation_of
from simgap.theory.floats import FLOAT
from simgap.theory.mean_vectors import (
    hermite_shares,
    jensen_excess,
    leading_mean_kappa,
    mean_pair_kappa,
    mso_of_means,
    relu_sphere_kappa,
    sphere_cosine_moment,
    sphere_mean_kappa,
    sphere_remainder,
)
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="A6",
    kind=EQUAL,
    title="mean hidden vectors of wide experts overlap by kappa0^2/(D1 D2), O(1/n + 1/d) below 1",
    claim=(
        r"\cos^2(\bar h_1, \bar h_2) \to \kappa_0^2/(D_1 D_2)\ (f \to \infty),\ D_e = n^{-2}\sum_{t,t'}\kappa(\rho_{tt'});\quad"
        r"\text{the same } n \text{ uniform tokens: } 0 \le \mathbb{E}\,\kappa_0^2/D^2 - (\kappa_0/\mu)^2"
        r" \le \tfrac{2(n-1)}{n^3}\mathrm{Var}\,\kappa(\rho)\,\tfrac{2\kappa_0+\mu}{\mu^3},"
        r"\ \mu = 1/n + (1-1/n)\mathbb{E}\kappa(\rho);\quad"
        r"0 \le \mathbb{E}\kappa(\rho) - \kappa_0 - \tfrac{\kappa''(0)}{2d} \le \tfrac{3(1-c_0-c_1-c_2)}{d(d+2)};\quad"
        r"\text{ReLU: } \mathbb{E}\kappa(\rho) = \tfrac{d}{2}(\mathbb{E}|\rho|)^2"
    ),
    hypotheses=(
        "rows of W_up i.i.d. N(0, (s^2/d) I), independent between the two experts and of the tokens",
        "||x_t||^2 = d for every token; E act(sz) != 0; E act(sz)^2 finite",
        "wide: f to infinity at fixed tokens (error O(1/f) at finite f)",
        "for the law of D: tokens independent and uniform on the sphere",
    ),
    box={"n": (1, None), "d": (2, None), "f": (1, None)},
    premises=(
        cited("strong law of large numbers over the rows of W_up"),
        cited("Schur product theorem: entrywise powers of a positive semidefinite matrix are so, whence D >= kappa0"),
        computed("A1"),
        computed("A3"),
    ),
    tight="equalities; Jensen's bound is attained at n = 1, where D = 1",
)


@dataclass(frozen=True)
class Law:
    mso: Callable[..., Any] = mso_of_means
    pairs: Callable[..., Any] = mean_pair_kappa
    leading: Callable[..., Any] = leading_mean_kappa
    relu: Callable[..., Any] = relu_sphere_kappa
    excess: Callable[..., Any] = jensen_excess
    room: Callable[..., Any] = sphere_remainder


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: expectations over one row of W_up by Gaussian moments, then over tokens by integrals on the sphere."""
    proof = Derivation()
    proof.step(
        "h-bar_e,i = (1/n) sum_t act(<w_i, x_t>) are i.i.d. over the rows i; over f of them cos^2 -> (E m_1 m_2)^2 / (E m_1^2 E m_2^2)"
    )
    proof.step("act = 1 + a1 h_1 + a2 h_2 (Hermite; E act = 1 sets the scale), two tokens at each expert, of correlations r and 1/3")
    derived, zero, kappas = _two_tokens()
    both = [law.pairs(2, kappa, ctx=SYMBOLIC) for kappa in kappas]
    proof.equal("the limit of cos^2, D_e of two tokens", derived, sp.factor(law.mso(zero, *both, ctx=SYMBOLIC)))
    q, n, mu, var, dev = sp.symbols("q n mu V D", positive=True)
    for tokens in (1, 2, 3, 5):
        equal = sum(t == s for t, s in itertools.product(range(tokens), repeat=2))
        proof.equal(
            f"n = {tokens}: {equal} of {tokens**2} ordered pairs are t = t', with kappa(1) = 1, the others have mean q",
            sp.Rational(equal, tokens**2) + sp.Rational(tokens**2 - equal, tokens**2) * q,
            law.pairs(sp.Integer(tokens), q, ctx=SYMBOLIC),
        )
    proof.equal("any n", (n + n * (n - 1) * q) / n**2, law.pairs(n, q, ctx=SYMBOLIC))
    _jensen(proof, law, (q, n, mu, var, dev))
    _sphere(proof, law)
    return proof.check()


@cache
def _two_tokens() -> tuple[Any, Any, list[Any]]:
    """The limit of cos^2 from Gaussian moments over one row of each expert, and what the law takes: kappa0 and the two kappa(rho)."""
    a1, a2, z, w = sp.symbols("a1 a2 z w", positive=True)
    limit, kappas = sp.Integer(1), []
    for rho in (sp.Symbol("r", positive=True), sp.Rational(1, 3)):
        u, v = z, rho * z + sp.Symbol("q") * w
        mean = sum(1 + a1 * x + a2 * (x**2 - 1) / sp.sqrt(2) for x in (u, v)) / 2
        first, second = (_normal_mean(expression, (z, w)).subs(sp.Symbol("q"), sp.sqrt(1 - rho**2)) for expression in (mean, mean**2))
        limit = limit * first**2 / second
        kappas.append((1 + a1**2 * rho + a2**2 * rho**2) / (1 + a1**2 + a2**2))
    return sp.factor(limit), 1 / (1 + a1**2 + a2**2), kappas


def _normal_mean(expression: Any, normals: tuple[Any, ...]) -> Any:
    """E over independent standard normals of a polynomial, from E z^p = (p-1)!! for even p."""
    total = sp.Integer(0)
    for powers, coefficient in sp.Poly(sp.expand(expression), *normals).terms():
        if all(p % 2 == 0 for p in powers):
            total += coefficient * sp.prod([sp.factorial2(p - 1) for p in powers if p])
    return sp.expand(total)


def _jensen(proof: Derivation, law: Law, symbols: Any) -> None:
    q, n, mu, var, dev = symbols
    proof.equal(
        "1/D^2 = 1/mu^2 - 2(D-mu)/mu^3 + (D-mu)^2 (2D+mu)/(D^2 mu^3), and E(D-mu) = 0: E 1/D^2 >= 1/mu^2",
        sp.together(1 / dev**2 - 1 / mu**2 + 2 * (dev - mu) / mu**3),
        (dev - mu) ** 2 * (2 * dev + mu) / (dev**2 * mu**3),
    )
    proof.step("D >= kappa0, by the cited premise: D is a sum over j of c_j >= 0 times the mean of the matrix rho^j, and j = 0 gives c_0")
    slope = sp.diff((2 * dev + mu) / dev**2, dev)
    proof.holds("(2D+mu)/D^2 decreases in D, so it is at most (2 kappa0+mu)/kappa0^2", bool(sp.simplify(-slope * dev**3).is_positive))
    proof.step("given x_t, rho_tt' has one law wherever x_t lies: pairs that share a token are uncorrelated, and so are disjoint ones")
    for tokens in (2, 3, 4):
        # kappa(rho_ab) and kappa(rho_cd) are correlated only where {a, b} = {c, d}.
        ordered = list(itertools.permutations(range(tokens), 2))
        same = sum(set(one) == set(other) for one, other in itertools.product(ordered, repeat=2))
        proof.holds(f"n = {tokens}: {same} of the pairs of pairs are one pair", same == 2 * tokens * (tokens - 1))
    zero = sp.Symbol("k0", positive=True)
    spread = 2 * n * (n - 1) * var / n**4
    claimed = law.excess(zero, n, q, var, ctx=SYMBOLIC)
    mean = (n + n * (n - 1) * q) / n**2
    proof.equal("kappa0^2 Var D (2 kappa0+mu)/(kappa0^2 mu^3)", sp.factor(spread * (2 * zero + mean) / mean**3), sp.factor(claimed))


def _sphere(proof: Derivation, law: Law) -> None:
    d, r = sp.Symbol("d", positive=True), sp.Symbol("rho", positive=True)
    proof.step("cosine of two uniform points of the sphere: density (1-rho^2)^((d-3)/2) / B(1/2, (d-1)/2)")
    beta = sp.gamma(sp.Rational(1, 2)) * sp.gamma((d - 1) / 2) / sp.gamma(d / 2)
    for p in (2, 4, 6):
        integral = sp.gamma(sp.Rational(p + 1, 2)) * sp.gamma((d - 1) / 2) / sp.gamma((d + p) / 2)
        proof.equal(f"E rho^{p} = B({p + 1}/2, (d-1)/2) / B(1/2, (d-1)/2)", sp.gammasimp(integral / beta), _moment(d, p))
    c = sp.symbols("c0:5", positive=True)
    mean = sum(share * sphere_cosine_moment(d, j, ctx=SYMBOLIC) for j, share in enumerate(c))
    claimed = law.leading(c, d, ctx=SYMBOLIC)
    for order, text in ((0, "value"), (1, "coefficient of 1/d")):
        limits = [sp.limit(e if order == 0 else d * (e - c[0]), d, sp.oo) for e in (mean, claimed)]
        proof.equal(f"E kappa(rho) = sum_j c_j E rho^j as d grows: {text}", *limits)
    left = mean - c[0] - c[2] / d
    proof.equal("what is left of c_4", sp.factor(left), 3 * c[4] / (d * (d + 2)))
    proof.step("E rho^j <= E rho^4 = 3/(d(d+2)) for even j >= 4, and shares beyond c_2 sum to at most 1 - c_0 - c_1 - c_2, all >= 0")
    every = law.room((1 - c[1] - c[2] - c[4], c[1], c[2]), d, ctx=SYMBOLIC)
    proof.equal("attained where c_4 is all of them", sp.factor(left), sp.factor(every))
    power = (1 - r**2) ** ((d - 1) / 2)
    proof.equal("antiderivative of rho (1-rho^2)^((d-3)/2)", sp.simplify(sp.diff(-power / (d - 1), r)), sp.simplify(r * power / (1 - r**2)))
    magnitude = sp.gammasimp(2 / (d - 1) / beta)
    proof.step("so E |rho|", magnitude)
    proof.step("ReLU: E_w [E_x relu(<w,x>)]^2 = E ||w||^2 d (E|rho|/2)^2 with E ||w||^2 = s^2, over E relu(sz)^2 = s^2/2: (d/2)(E|rho|)^2")
    for width in (2, 3, 4, 7):
        proof.equal(f"d = {width}: E kappa(rho)", sp.simplify((d * magnitude**2 / 2).subs(d, width)), law.relu(width, ctx=SYMBOLIC))
    for width in (2, 3):
        proof.equal(f"d = {width}: the same from ReLU's arc-cosine kernel", _arc_cosine_mean(width), law.relu(width, ctx=SYMBOLIC))


@cache
def _arc_cosine_mean(width: int) -> Any:
    phi = sp.Symbol("phi", real=True)
    arc = (sp.sin(phi) + (sp.pi - phi) * sp.cos(phi)) / sp.pi
    weight = sp.sin(phi) ** (width - 2)
    return sp.simplify(sp.integrate(sp.expand(arc * weight), (phi, 0, sp.pi)) / sp.integrate(weight, (phi, 0, sp.pi)))


def _moment(d: Any, power: int) -> Any:
    return sphere_cosine_moment(d, power, ctx=SYMBOLIC)


def certified(law: Law = LAW) -> Check:
    """In balls: E kappa(rho) from the Hermite coefficients of the activation and the exact moments of rho, against the laws."""
    proof = Derivation()
    close = BALL.number("1e-20")
    for name, width in (("silu", 1024), ("relu", 1024)):
        mean, shares, kappa_small = _series_mean(name, width, flint.ctx.prec)
        proof.ball(f"{name}, d = {width}: E kappa(rho)", mean)
        left = mean - law.leading(_shares(name, flint.ctx.prec), width, ctx=BALL)
        proof.record(f"{name}: E kappa(rho) - kappa0 - kappa''(0)/(2d) > -1e-20", sign(left + close, ">"))
        bound = law.room(tuple(shares), width, ctx=BALL)
        proof.record(f"{name}: and at most 3(1-c0-c1-c2)/(d(d+2))", sign(bound - left, ">"))
        limit = law.mso(shares[0], *[law.pairs(10**40, mean, ctx=BALL)] * 2, ctx=BALL)
        proof.record(
            f"{name}: 1 - MSO at n = 10^40 is above kappa''(0)/(2 d kappa0)", sign(1 - limit - shares[2] / (width * shares[0]), ">")
        )
        proof.record(f"{name}: and below twice kappa''(0)/(d kappa0)", sign(4 * shares[2] / (width * shares[0]) - 1 + limit, ">"))
        pairs = sum((1 if t == s else kappa_small) for t, s in itertools.product(range(3), repeat=2)) / 9
        proof.within(f"{name}: three tokens at mutual rho = 1/50, D the law's", pairs - law.pairs(3, kappa_small, ctx=BALL), "1e-20")
        if name == "relu":
            proof.within("ReLU's closed form", mean - law.relu(width, ctx=BALL), "1e-20")
    return proof.check()


@cache
def _shares(name: str, bits: int) -> tuple[arb, ...]:
    return hermite_shares(name, 1, ctx=BALL)


@cache
def _series_mean(name: str, width: int, bits: int) -> tuple[arb, list[arb], arb]:
    """E kappa(rho) on the sphere, the shares c_j and kappa(1/50), from Hermite coefficients by quadrature at the precision of `bits`."""
    if name == "relu":
        return _relu_mean(width)
    act = activation_of(name)

    def value(x: Any) -> Any:
        return act.value(x, BALL)

    series = BALL.pair_series(value, value, 1, up_to=BALL.number("0.03"))
    size = BALL.expect(lambda x: value(x) ** 2, 1, degree=2)
    shares = [product / size for product in series.products]
    total = arb(0)
    for j, share in enumerate(shares):
        total += share * sphere_cosine_moment(width, j, ctx=BALL)
    # Beyond the last coefficient E rho^j only falls, and the shares left are >= 0.
    even = len(shares) + len(shares) % 2
    rest = series.rest / size * sphere_cosine_moment(width, even, ctx=BALL)
    return total + arb(0).union(rest), shares, series.at(BALL.number(Fraction(1, 50))) / size


def _relu_mean(width: int) -> tuple[arb, list[arb], arb]:
    """The same for ReLU by its arc-cosine kernel: (sin t + (pi - t) cos t)/pi at rho = cos t, density sin(t)^(d-2)."""

    def kernel(t: acb) -> acb:
        return (t.sin() + (acb.pi() - t) * t.cos()) / acb.pi()

    goal, ends = arb(2) ** -flint.ctx.prec, (0, acb.pi())
    size = acb.integral(lambda t, _: t.sin() ** (width - 2), *ends, abs_tol=goal).real
    mean = acb.integral(lambda t, _: kernel(t) * t.sin() ** (width - 2), *ends, abs_tol=goal).real / size
    pi = arb.pi()
    small = kernel(acb(BALL.number(Fraction(1, 50)).acos())).real
    return mean, [1 / pi, arb(1) / 2, 1 / (2 * pi)], small


D, N, HALF_F, TRIALS = 16, 8, 512, 200
COSINES = 60_000


@cache
def _simulate(activation: str, same: bool) -> np.ndarray:
    """cos^2 of two experts' mean hidden vectors at s = 1, extrapolated to f = infinity from f and 2f rows: what is left is O(1/f^2)."""
    random = generator("A6", f"{activation} {same}")
    act = (lambda v: np.maximum(v, 0)) if activation == "relu" else (lambda v: v / (1 + np.exp(-v)))
    cos2 = np.empty(TRIALS)
    for trial in range(TRIALS):
        tokens = random.standard_normal((2, N, D))
        tokens *= np.sqrt(D) / np.linalg.norm(tokens, axis=2, keepdims=True)
        rows = random.standard_normal((2, 2 * HALF_F, D)) / np.sqrt(D)
        u, v = (act(rows[e] @ tokens[0 if same else e].T).mean(1).reshape(2, HALF_F) for e in range(2))
        halves = (u * v).sum(1) ** 2 / ((u * u).sum(1) * (v * v).sum(1))
        whole = (u * v).sum() ** 2 / ((u * u).sum() * (v * v).sum())
        cos2[trial] = 2 * whole - halves.mean()
    return cos2


@cache
def _cosines(width: int) -> np.ndarray:
    points = generator("A6", f"cosines {width}").standard_normal((COSINES, 2, width))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    return (points[:, 0] * points[:, 1]).sum(1)


def numeric(law: Law = LAW) -> Check:
    """Finite experts of f = 512 and 1024 units extrapolated to infinite width, and ReLU's kernel on random cosines."""
    proof = Derivation()
    for name in ("relu", "silu"):
        shares, distinct = hermite_shares(name), sphere_mean_kappa(name, 1.0, D)
        mu = law.pairs(N, distinct, ctx=FLOAT)
        low = law.mso(shares[0], mu, mu, ctx=FLOAT)
        # Var kappa(rho) <= kappa'(1)^2 E rho^2, and kappa'(1) is below 1.07 for both (law A3).
        high = low + law.excess(shares[0], N, distinct, 1.07**2 / D, ctx=FLOAT)
        proof.bounded(f"{name}, d = {D}, the same {N} tokens: E cos^2", *mean_and_sem(_simulate(name, True)), low, high)
        # Of independent D_1, D_2 the excess is that of each 1/D alone, below the bound for 1/D^2.
        proof.bounded(f"{name}, d = {D}, {N} tokens each: E cos^2", *mean_and_sem(_simulate(name, False)), low, high)
    for width in (4, 16):
        rho = _cosines(width)
        kernel = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / np.pi
        # rho has mean 0, so kappa'(0) rho is noise that the mean does not need.
        sample = mean_and_sem(kernel - rho / 2)
        proof.estimate(f"ReLU, d = {width}: E kappa(rho)", *sample, law.relu(width, ctx=FLOAT))
        allowance = float(law.room(hermite_shares("relu"), width, ctx=FLOAT))
        claimed = law.leading(hermite_shares("relu"), width, ctx=FLOAT) + allowance / 2
        proof.estimate(f"ReLU, d = {width}: middle of the leading order's range", *sample, claimed, allowance / 2)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("D without the pairs t = t'", replace(LAW, pairs=lambda n, q, *, ctx: ctx.number(q))),
        Wrong("D with a diagonal of 1/(n+1)", replace(LAW, pairs=_one_token_more)),
        Wrong("kappa0/(D_1 D_2), kappa0 unsquared", replace(LAW, mso=lambda k, a, b, *, ctx: ctx.number(k) / (a * b))),
        Wrong("kappa0^2/D_1, as if one side were one vector", replace(LAW, mso=lambda k, a, b, *, ctx: ctx.number(k) ** 2 / a)),
        Wrong("kappa''(0)/d in place of kappa''(0)/(2d)", replace(LAW, leading=lambda c, d, *, ctx: c[0] + 2 * c[2] / ctx.number(d))),
        Wrong("no term in 1/d", replace(LAW, leading=lambda c, d, *, ctx: c[0])),
        Wrong(
            "ReLU: E kappa(rho) with d - 1 in place of d", replace(LAW, relu=lambda d, *, ctx: relu_sphere_kappa(d, ctx=ctx) * (d - 1) / d)
        ),
        Wrong("what is left: 1 in place of 3", replace(LAW, room=lambda c, d, *, ctx: sphere_remainder(c, d, ctx=ctx) / 3)),
        Wrong(
            "no excess of E 1/D^2",
            replace(LAW, excess=lambda k, n, q, v, *, ctx: 0 * ctx.number(q)),
            ways=("symbolic",),
            why="the excess is below what the simulation resolves, and no certificate rests on it",
        ),
    ]


def _one_token_more(n: Any, q: Any, *, ctx: Any) -> Any:
    n = ctx.number(n)
    return 1 / (n + 1) + n / (n + 1) * ctx.number(q)

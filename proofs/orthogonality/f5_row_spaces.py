"""F5: orthogonal row spaces leave kappa(0)^2 of hidden overlap; orthogonal column spaces alone leave anything from 0 to more than that.

Independence of the pre-activations needs Gaussian inputs. Isotropy is not enough: inputs of random length, x = r z, have uncorrelated
pre-activations whose shared length makes the overlap larger for an activation that is not homogeneous (a control below).
W_1W_2' = 0 makes the pre-activations of two experts independent at any ranks (which sum to at most d); the finite law and its limit are
claimed for orthonormal rows, where those of one expert are independent too.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.activations import Activation, activation_of
from simgap.theory.dual_map import kappa_zero
from simgap.theory.floats import FLOAT
from simgap.theory.row_spaces import (
    alignment_from_moments,
    complement_change,
    disjoint_units,
    mirrored_limit,
    mirrored_rows,
    orthogonal_rows_limit,
    orthogonal_rows_overlap,
)
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="F5",
    kind=EQUAL,
    title="orthogonal rows leave kappa(0)^2, orthogonal columns decide nothing",
    claim=(
        r"\text{(i) } W_eW_e' = s^2I,\ W_1W_2' = 0:\ \mathbb{E}\cos^2(h_1,h_2) = \tfrac1f + \tfrac{(fq-1)^2}{f(f-1)},\ "
        r"q = \mathbb{E}\cos^2(h,1) = \kappa_0 + c/f + O(f^{-2}) \to \kappa_0;\quad "
        r"\text{(ii) } [A;0],[0;B]:\ M = 0,\ \cos(h_1,h_2) = 0;\quad "
        r"\text{(iii) } W_2 \to (I-P)W_2:\ M = 0,\ \mathbb{E}\cos^2 = \kappa_0^2 + O(\sqrt{d/f});\quad "
        r"\text{(iv) } [V;V],[V;-V]:\ M = 0,\ \cos^2 \to ((1+\kappa(-1))/2)^2 \ge \kappa_0^2"
    ),
    hypotheses=(
        "hidden vectors non-zero; act(sz) not almost surely 0, act of at most polynomial growth; M = W_1'W_2",
        "(i) x ~ N(0, I), f >= 2, d >= 2f; moments m_p = E act(sz)^p, k0 = kappa0 = m1^2/m2;"
        " c = 1 - k0 - 2 m1(m3 - m1 m2)/m2^2 + m1^2 (m4 - m2^2)/m2^3;"
        " the error of q stays within 4/f^2 in the simulations (f = 128), not proved",
        "(ii) act(0) = 0, A and B any; both of rank d needs f >= 2d",
        "(iii) W_1, W_2 independent, i.i.d. Gaussian entries, P the projection on W_1's columns, x fixed with entries of W_e x of standard"
        " deviation s, act Lipschitz with constant Lambda, d fixed, f to infinity",
        "(iv) rows of V i.i.d. Gaussian, x fixed, f to infinity, error O(1/f), within 4/f in the simulations (f = 1024);"
        " equality iff the even part of act(sz) is constant",
    ),
    box={"f": (2, None), "s": (0, None)},
    tight="equalities; with M = 0: 0 in (ii), kappa0^2 in (iii), and in (iv) 1/4 for ReLU, against kappa0^2 = 1/pi^2",
)


@dataclass(frozen=True)
class Law:
    """inputs, tilt: the simulated situation of (i), the law of x and how far W_2's rows lean into W_1's. at_zero: act(0) of (ii)."""

    rows: Callable[..., Any] = orthogonal_rows_overlap
    alignment: Callable[..., Any] = alignment_from_moments
    limit: Callable[..., Any] = orthogonal_rows_limit
    mirrored: Callable[..., Any] = mirrored_limit
    change: Callable[..., Any] = complement_change
    inputs: str = "normal"
    tilt: float = 0.0
    at_zero: int = 0


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definitions: characteristic functions and permutations for (i), generic matrices for (ii) to (iv)."""
    proof = Derivation()
    proof.step("(i) E exp(i(a'W_1 x + b'W_2 x)) = exp(-|W_1'a + W_2'b|^2/2), x ~ N(0, I); the cross term 2 a'W_1W_2'b is 0: it factorises")
    proof.step("so W_1 x and W_2 x are independent, and W_eW_e' = s^2 I makes each f i.i.d. N(0, s^2)")
    for size in (2, 3):
        _permutations(proof, law, size)
    f, q1, q2, k = sp.symbols("f q1 q2 k", positive=True)
    proof.step(
        "(i) any f, u^ and v^ exchangeable unit vectors: E u^_i^2 = 1/f; f q = E (sum u^)^2 = 1 + f(f-1) E u^_i u^_j gives E u^_i u^_j"
    )
    off = [(f * q - 1) / (f * (f - 1)) for q in (q1, q2)]
    derived = f * (1 / f) * (1 / f) + f * (f - 1) * off[0] * off[1]
    proof.equal("(i) any f: sum_ij E u^_i u^_j E v^_i v^_j", derived, law.rows(q1, q2, f, ctx=SYMBOLIC))
    _taylor(proof, law)
    wide = sp.limit(law.rows(k, k, f, ctx=SYMBOLIC), f, sp.oo)
    proof.equal("(i) f to infinity, q -> k = kappa0 (law of large numbers; 0 <= q <= 1)", wide, k**2)
    mean, square = _half_moments()
    proof.step("E z 1{z > 0} and E z^2 1{z > 0}, integrals against the density", (mean, square))
    proof.equal("(i) ReLU: (E act)^2/E act^2, squared", wide.subs(k, mean**2 / square), law.limit("relu", ctx=SYMBOLIC))
    _columns(proof, law)
    proof.equal(
        "(iv) ReLU: e(x) = |x|/2, E e^2 = E z^2 1{z > 0}/2, (E e^2/E act^2)^2",
        (square / 2 / square) ** 2,
        law.mirrored("relu", ctx=SYMBOLIC),
    )
    return proof.check()


@cache
def _half_moments() -> tuple[Any, Any]:
    z = sp.Symbol("z", positive=True)
    density = sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi)
    return sp.integrate(z * density, (z, 0, sp.oo)), sp.integrate(z**2 * density, (z, 0, sp.oo))


def _permutations(proof: Derivation, law: Law, f: int) -> None:
    """cos^2 averaged over the orders of u, for every u and v: exchangeability; independence then replaces q_u and q_v by their means."""
    average, sums, squares = _over_orders(f)
    # The law's numerator is linear in each q: as q_e runs, so do (sum u)^2 and |u|^2, and nothing else of u and v may enter.
    (s_u, s_v), (n_u, n_v) = sp.symbols("S_u S_v", positive=True), sp.symbols("N_u N_v", positive=True)
    claimed = sp.expand(sp.cancel(law.rows(s_u**2 / (f * n_u), s_v**2 / (f * n_v), sp.Integer(f), ctx=SYMBOLIC) * n_u * n_v))
    there = claimed.subs({s_u: sums[0], s_v: sums[1], n_u: squares[0], n_v: squares[1]})
    text = f"(i) f = {f}: |u|^2 |v|^2 cos^2 averaged over the orders of u is {claimed} for every u, v, S = sum, N = |.|^2"
    proof.holds(text, sp.expand(there - average) == 0)


@cache
def _over_orders(f: int) -> tuple[Any, tuple[Any, Any], tuple[Any, Any]]:
    """(u'v)^2 averaged over the orders of u; the sums and the squared lengths of u and v."""
    u, v = sp.symbols(f"u1:{f + 1}", positive=True), sp.symbols(f"v1:{f + 1}", positive=True)
    orders = list(itertools.permutations(u))
    average = sp.expand(sum(sum(x * y for x, y in zip(order, v, strict=True)) ** 2 for order in orders)) / len(orders)
    return sp.expand(average), (sum(u), sum(v)), (sum(x * x for x in u), sum(x * x for x in v))


def _taylor(proof: Derivation, law: Law) -> None:
    """q = E a^2/b for a, b the means of f i.i.d. h and h^2: half the second derivatives at the means, times the covariances."""
    m1, m2, m3, m4, f, a, b = sp.symbols("m1 m2 m3 m4 f a b", positive=True)
    covariances = {(a, a): m2 - m1**2, (a, b): m3 - m1 * m2, (b, b): m4 - m2**2}
    proof.step("(i) q = E a^2/b; f Var a, f Cov(a, b), f Var b; third and fourth orders of the deviations are O(1/f^2)", covariances)
    ratio, at_means = a**2 / b, {a: m1, b: m2}
    q = ratio.subs(at_means)
    for (left, right), covariance in covariances.items():
        q += (1 if left == right else 2) * sp.diff(ratio, left, right).subs(at_means) * covariance / (2 * f)
    claimed = law.alignment(m1, m2, m3, m4, f, ctx=SYMBOLIC)
    # Rational functions of the moments: equal iff their difference cancels to 0.
    proof.holds(f"(i) q to order 1/f: derived {q}, claimed {claimed}", sp.cancel(q - claimed) == 0)


def _columns(proof: Derivation, law: Law) -> None:
    a, b = (np.array([[sp.Symbol(f"{name}{i}{j}") for j in range(2)] for i in range(2)]) for name in "ab")
    x = np.array(sp.symbols("x1:3"))
    act = sp.Function("act")
    w1, w2 = disjoint_units(a, b)
    proof.holds("(ii) W_1'W_2 = 0 for [A; 0] and [0; B]", all(sp.expand(entry) == 0 for entry in w1.T.dot(w2).ravel()))
    h1, h2 = ([act(entry) for entry in w.dot(x)] for w in (w1, w2))
    dot = sum(left * right for left, right in zip(h1, h2, strict=True))
    left = sp.expand(dot.subs(act(0), law.at_zero))
    proof.holds(f"(ii) act(0) = {law.at_zero}, act not known elsewhere: <h_1, h_2> = {left} is 0", left == 0)
    for f, d in ((2, 1), (3, 2)):
        onto_complement, trace = _projection(f, d)
        proof.holds(f"(iii) f = {f}, d = {d}: W_1'(I - P) = 0", onto_complement == sp.zeros(d, f))
        s = sp.Symbol("s", positive=True)
        proof.equal(f"(iii) f = {f}, d = {d}: E|P W_2 x|^2 = s^2 tr P", s**2 * trace, law.change(d, s, ctx=SYMBOLIC))
    proof.step("(iii) W_2 x ~ N(0, s^2 I) is independent of P; any f >= d: tr P = tr (W_1'W_1)^-1 W_1'W_1 = d")
    proof.step(
        "(iii) h_2' of the unprojected W_2: |h_2 - h_2'| <= Lambda |P W_2 x|, and h_1, h_2' have i.i.d. entries: overlap kappa0^2 + O(1/f)"
    )
    p, q, c = sp.symbols("p q c", positive=True)
    slack = sp.expand(4 * (p**2 + q**2 - 2 * p * q * c) - (p + q) ** 2 * (2 - 2 * c))
    proof.equal("(iii) lengths p, q, cosine c: 4|u-v|^2 - (p+q)^2 |u^-v^|^2, so |u^-v^| <= 2|u-v|/(p+q)", slack, 2 * (1 + c) * (p - q) ** 2)
    proof.step(
        "(iii) so cos(h_1, h_2) moves by at most 2 Lambda |P W_2 x|/(|h_2| + |h_2'|); |h|^2/f -> m2, cos -> kappa0, E|P W_2 x|^2 = s^2 d"
    )
    v = np.array([[sp.Symbol(f"v{i}{j}") for j in range(2)] for i in range(2)])
    w1, w2 = mirrored_rows(v)
    proof.holds("(iv) W_1'W_2 = V'V - V'V = 0", all(sp.expand(entry) == 0 for entry in w1.T.dot(w2).ravel()))
    even, odd = sp.symbols("e o", real=True)
    plus, minus = even + odd, even - odd
    parts = sp.expand(plus * plus + plus * minus), sp.expand(2 * plus**2), sp.expand(plus**2 + minus**2)
    proof.step("(iv) at act = e + o, one row and its mirror give <h_1,h_2>, |h_1|^2, |h_2|^2", parts)
    without_odd = [part.coeff(odd, 0) + part.coeff(odd, 2) * odd**2 for part in parts]
    proof.equal("(iv) E e o = 0: <h_1,h_2> leaves 2 E e^2", without_odd[0], 2 * even**2)
    proof.equal("(iv) and both squared lengths leave 2 E(e^2 + o^2) = 2 E act^2", without_odd[1], without_odd[2])
    proof.step("(iv) so cos -> E e^2/E act^2, and E act = E e: this exceeds kappa0 by Var e(sz)/E act^2 >= 0")


@cache
def _projection(f: int, d: int) -> tuple[Any, Any]:
    """W_1'(I - P) and tr P for a generic W_1."""
    w = sp.Matrix(f, d, lambda i, j: sp.Symbol(f"w{i}{j}", positive=True))
    gram = w.T * w
    projection = (w * gram.adjugate() * w.T / gram.det()).applyfunc(sp.cancel)
    return (w.T * projection - w.T).applyfunc(sp.cancel), sp.cancel(projection.trace())


@cache
def _silu_balls(bits: int) -> tuple[Any, ...]:
    """E silu(z)^p for p = 1..4 and E silu(z) silu(-z), at the precision of the caller, `bits`."""
    silu = activation_of("silu")

    def moment(p: int) -> Any:
        return BALL.expect(lambda x: silu.value(x, BALL) ** p, 1, degree=p)

    return *(moment(p) for p in (1, 2, 3, 4)), BALL.expect(lambda x: silu.value(x, BALL) * silu.value(-x, BALL), 1, degree=2)


def certified(law: Law = LAW) -> Check:
    """SiLU at s = 1: the limits in balls, the 1/f term against A5's own formula, and that (iv) exceeds (iii)."""
    proof = Derivation()
    m1, m2, m3, m4, turned = _silu_balls(flint.ctx.prec)
    k0 = proof.ball("kappa0 of SiLU, s = 1", m1 * m1 / m2)
    proof.record("kappa0 > 0", sign(k0, ">"))
    proof.within("(i) the limit is kappa0^2", law.limit("silu", ctx=BALL) - k0 * k0, "1e-20")
    v = k0**2 * ((m2**2 - m1**4) / m1**4 + (m4 - m2**2) / (2 * m2**2) - 2 * (m3 * m1 - m1**2 * m2) / (m1**2 * m2))
    b = k0 * (BALL.number("0.75") * (m4 - m2**2) / m2**2 - (m3 * m1 - m1**2 * m2) / (m1**2 * m2))
    width = 10**12
    q = law.alignment(m1, m2, m3, m4, width, ctx=BALL)
    slope = proof.ball("C of E cos^2 = kappa0^2 + C/f", 2 * k0 * b + v)
    scaled = (law.rows(q, q, width, ctx=BALL) - k0 * k0) * width
    proof.within("(i) f (E cos^2 - kappa0^2) at f = 1e12 is C + O(1/f)", scaled - slope, "1e-9")
    mirrored = proof.ball("(iv) ((1 + kappa(-1))/2)^2 of SiLU", ((1 + turned / m2) / 2) ** 2)
    proof.within("(iv) the limit is that", law.mirrored("silu", ctx=BALL) - mirrored, "1e-20")
    proof.record("(iv) exceeds kappa0^2", sign(law.mirrored("silu", ctx=BALL) - k0 * k0, ">"))
    return proof.check()


DRAWS = 20_000
# Widths of (i): small ones for the exact law; 128 for the order of q.
WIDTHS = (3, 8)
WIDE = 128


@cache
def _rows_overlap(name: str, f: int, inputs: str, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """cos^2(h_1, h_2), and cos^2(h_e, 1) of both, over inputs to one pair of W_up with orthonormal rows."""
    random = generator("F5", f"rows {name} {f}")
    d = 2 * f
    basis = np.linalg.qr(random.standard_normal((d, d)))[0]
    w1, w2 = basis[:f], tilt * basis[:f] + np.sqrt(1 - tilt**2) * basis[f:]
    x = random.standard_normal((DRAWS if f < WIDE else DRAWS // 4, d))
    if inputs == "random length":
        x *= random.choice([0.05, 8.0], (DRAWS, 1))
    h1, h2 = (activation_of(name).value(x @ w.T, FLOAT) for w in (w1, w2))
    kept = h1.any(1) & h2.any(1)
    h1, h2 = h1[kept], h2[kept]
    norms = [(h * h).sum(1) for h in (h1, h2)]
    alignments = np.stack([h.sum(1) ** 2 / (f * norm) for h, norm in zip((h1, h2), norms, strict=True)])
    return (h1 * h2).sum(1) ** 2 / (norms[0] * norms[1]), alignments


@cache
def _columns_overlap(kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """cos^2(h_1, h_2) for fresh pairs with M = 0 at one input of unit s; and |P W_2 x|^2 where there is a projection."""
    random = generator("F5", f"{kind} {name}")
    d, f, pairs = (2, 2048, 200) if kind == "projected" else (3, 1024, 200)
    x = np.zeros(d)
    x[0] = 1.0
    cos2, moved = [], []
    for _ in range(pairs):
        if kind == "mirrored":
            w1, w2 = mirrored_rows(random.standard_normal((f // 2, d)))
        else:
            w1, before = random.standard_normal((2, f, d))
            w2 = before - w1 @ np.linalg.solve(w1.T @ w1, w1.T @ before)
            moved.append((((before - w2) @ x) ** 2).sum())
        h1, h2 = (activation_of(name).value(w @ x, FLOAT) for w in (w1, w2))
        cos2.append((h1 @ h2) ** 2 / ((h1 @ h1) * (h2 @ h2)))
    return np.array(cos2), np.array(moved)


def numeric(law: Law = LAW) -> Check:
    """DRAWS inputs for (i); some inputs for (ii), where 0 is exact; 200 pairs of matrices for (iii) and (iv)."""
    proof = Derivation()
    for name, f in itertools.product(("silu", "relu"), WIDTHS):
        cos2, alignments = _rows_overlap(name, f, law.inputs, law.tilt)
        q1, q2 = alignments.mean(1)
        # q is measured on the same inputs: the standard error is that of the difference, by the slopes of the true law.
        slopes = (f * np.array([q2, q1]) - 1) / (f - 1)
        sem = mean_and_sem(cos2 - slopes @ alignments)[1]
        proof.estimate(f"(i) {name}, f = {f}: E cos^2 from the measured q", float(cos2.mean()), sem, law.rows(q1, q2, f, ctx=FLOAT))
    for name in ("silu", "relu"):
        act = activation_of(name)
        cos2, alignments = _rows_overlap(name, WIDE, "normal", 0.0)
        claimed = law.alignment(*_moments(act), WIDE, ctx=FLOAT)
        # The claim's own error O(1/f^2), taken as 4/f^2.
        proof.estimate(f"(i) {name}, f = {WIDE}: q to order 1/f", *mean_and_sem(alignments.mean(0)), claimed, 4 / WIDE**2)
        # The limit and the exact law's way to it, with q to order 1/f: an error O(1/f^2) again, that of both q.
        there = law.limit(name) + law.rows(claimed, claimed, WIDE, ctx=FLOAT) - kappa_zero(name) ** 2
        proof.estimate(f"(i) {name}, f = {WIDE}: E cos^2, its limit and the term in 1/f", *mean_and_sem(cos2), there, 8 / WIDE**2)
    _disjoint(proof, law)
    cos2, moved = _columns_overlap("projected", "relu")
    proof.estimate("(iii) |P W_2 x|^2 at d = 2, s = 1", *mean_and_sem(moved), law.change(2, 1, ctx=FLOAT))
    allowance = 2 * kappa_zero("relu") * np.sqrt(2 / (2048 * 0.5)) + 1 / 2048
    proof.estimate("(iii) ReLU, d = 2, f = 2048: E cos^2", *mean_and_sem(cos2), law.limit("relu"), float(allowance))
    for name in ("silu", "relu"):
        cos2, _ = _columns_overlap("mirrored", name)
        # The claim's own error O(1/f), taken as 4/f.
        proof.estimate(f"(iv) {name}, f = 1024: E cos^2", *mean_and_sem(cos2), law.mirrored(name), 4 / 1024)
    return proof.check()


def _moments(act: Activation) -> list[float]:
    def moment(p: int) -> float:
        return float(FLOAT.expect(lambda x: act.value(x, FLOAT) ** p))

    return [moment(p) for p in (1, 2, 3, 4)]


def _disjoint(proof: Derivation, law: Law) -> None:
    random = generator("F5", "disjoint")
    a, b, x = random.standard_normal((6, 3)), random.standard_normal((5, 3)), random.standard_normal((50, 3))
    w1, w2 = disjoint_units(a, b)
    silu = activation_of("silu")
    shifted = Activation("shifted", lambda z, ctx: silu.value(z, ctx) + law.at_zero, silu.slope)
    h1, h2 = (shifted.value(x @ w.T, FLOAT) for w in (w1, w2))
    proof.agrees("(ii) rank-3 A and B: largest |<h_1, h_2>| of 50 inputs", float(np.abs((h1 * h2).sum(1)).max()), 0, 0)


def control() -> list[Wrong]:
    def aligned(variance: Any, covariance: Any, square: Any) -> Law:
        def wrong(m1: Any, m2: Any, m3: Any, m4: Any, f: Any, *, ctx: Any) -> Any:
            var, cov, quad = (ctx.number(n) for n in (variance, covariance, square))
            size = m1 * m1 / m2
            terms = var * (1 - size) - cov * m1 * (m3 - m1 * m2) / m2**2 + quad * m1 * m1 * (m4 - m2**2) / m2**3
            return size + terms / f

        return replace(LAW, alignment=wrong)

    def rows(wrong: Callable[..., Any]) -> Law:
        return replace(LAW, rows=lambda q1, q2, f, *, ctx: wrong(q1, q2, ctx.number(f)))

    seen = "the certificate is of the constants, which stay; this breaks a hypothesis of the simulated or generic experts"
    return [
        Wrong("(i) without the 1/f", rows(lambda q1, q2, f: (f * q1 - 1) * (f * q2 - 1) / (f * (f - 1)))),
        Wrong("(i) f^2 in place of f(f-1)", rows(lambda q1, q2, f: 1 / f + (f * q1 - 1) * (f * q2 - 1) / (f * f))),
        Wrong("(i) f q in place of f q - 1", rows(lambda q1, q2, f: 1 / f + f * f * q1 * q2 / (f * (f - 1)))),
        Wrong("(i) 2/f in place of 1/f", rows(lambda q1, q2, f: 2 / f + (f * q1 - 1) * (f * q2 - 1) / (f * (f - 1)))),
        Wrong("(i) the limit is kappa0", replace(LAW, limit=kappa_zero)),
        Wrong("(i) the limit is 0: orthogonal", replace(LAW, limit=lambda act, std=1, *, ctx=FLOAT: ctx.number(0))),
        Wrong("(i) q without Var a", aligned(0, 2, 1)),
        Wrong("(i) q with 1 in place of 2", aligned(1, 1, 1)),
        Wrong("(i) q with half the last term", aligned(1, 2, "1/2")),
        Wrong("(iv) the limit is kappa0^2", replace(LAW, mirrored=orthogonal_rows_limit)),
        Wrong("(iv) the limit is 1", replace(LAW, mirrored=lambda act, std=1, *, ctx=FLOAT: ctx.number(1))),
        Wrong(
            "(iv) the cosine for its square", replace(LAW, mirrored=lambda act, std=1, *, ctx=FLOAT: ctx.sqrt(mirrored_limit(act, ctx=ctx)))
        ),
        Wrong("(iii) |P W_2 x|^2 = s^2 (d+1)", replace(LAW, change=_one_more), ("symbolic", "numeric"), "no constant of the certificate"),
        Wrong("(ii) act(0) = 1", replace(LAW, at_zero=1), ("symbolic", "numeric"), seen),
        Wrong("(i) isotropic x of random length", replace(LAW, inputs="random length"), ("numeric",), seen),
        Wrong("(i) rows that lean at a third", replace(LAW, tilt=1 / 3), ("numeric",), seen),
    ]


def _one_more(d: Any, std: Any = 1, *, ctx: Any) -> Any:
    return complement_change(d + 1, std, ctx=ctx)

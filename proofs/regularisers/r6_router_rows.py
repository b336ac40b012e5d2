"""R6: Proposition 5.1 of the coupling paper, read precisely: false for confidence as softmax mass, true at rate sqrt(iota) for alignment.

As told (second hand): near-orthogonal router rows (eps), continuity across layers (delta) and confident routing (iota) put the rows of the
next router within eps + O(delta, iota). Read as near-orthogonality of the next rows, with unit rows and an inverse temperature outside:
confident routing alone leaves any inner product in [-1, 1) possible at eps = delta = 0 and any iota, and O(iota) fails under alignment too.
The other reading, q_i within that of r_i, follows the same chain: the angle between them is at most 2 arccos(1-iota) + 2 arcsin(delta/2).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from flint import arb

from proofs.statement import UPPER, Check, Derivation, Statement, Wrong, assumed, generator
from simgap.certify import BALL, sign
from simgap.certify.boxes import positive_over
from simgap.theory.floats import FLOAT
from simgap.theory.router_rows import aligned_angle, aligned_ceiling, confidence_margin, margin_ceiling, plain_ceiling, witness_rows
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="R6",
    kind=UPPER,
    title="confident routing does not keep router rows near-orthogonal; alignment does, at the rate sqrt(iota) (one reading)",
    claim=(
        r"\text{for all } c \in [-1,1),\ \iota \in (0,1/2) \text{ there is a } \beta \text{ with } \epsilon = \delta = 0, "
        r"\text{softmax masses} \ge 1-\iota \text{ and } \langle q_1,q_2\rangle = c \text{ together};\quad"
        r" \text{margins } m: \langle q_i,q_j\rangle \le 1 - 2m^2/\|x'_i-x'_j\|^2,\ m = \log((1-\iota)/\iota)/\beta;\quad"
        r"\text{aligned: } |\langle q_i,q_j\rangle| \le \sin(\arcsin\epsilon + 4\arccos(1-\iota) + 4\arcsin(\delta/2))"
        r" \le \epsilon + 1.03(2\delta + 4\sqrt{2\iota})"
    ),
    hypotheses=(
        "rows of both routers and tokens of unit length; softmax of beta times the inner products",
        "|<r_i, r_j>| <= eps; one token x_i for each expert, ||x'_i - x_i|| <= delta",
        "confident: softmax mass 1 - iota for expert i at x_i and x'_i (the witness: two experts)",
        "aligned: <r_i, x_i> >= 1 - iota and <q_i, x'_i> >= 1 - iota; the sine where its angle is at most pi/2",
    ),
    box={"eps": (0, 1), "delta": (0, 2), "iota": (0, 1), "beta": (0, None)},
    premises=(
        assumed("the reading: Proposition 5.1 is known second hand; near-orthogonality of the next rows, unit rows, beta free"),
        assumed("the reading: confidence as softmax mass, or as alignment; the paper's own words decide which, if either"),
    ),
    tight="attained: the margin's ceiling by rows +-a(x'_i - x'_j)/D + sqrt(1-a^2) v, the sine by rows and tokens of one plane",
)


@dataclass(frozen=True)
class Law:
    margin: Callable[..., Any] = confidence_margin
    ceiling: Callable[..., Any] = margin_ceiling
    rows: Callable[..., Any] = witness_rows
    aligned: Callable[..., Any] = aligned_ceiling
    plain: Callable[..., Any] = plain_ceiling


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: the softmax of two experts, inner products of explicit rows, and chords and angles on the sphere."""
    proof = Derivation()
    _counterexample(proof, law)
    _alignment(proof, law)
    return proof.check()


def _counterexample(proof: Derivation, law: Law) -> None:
    iota, beta = sp.symbols("iota beta", positive=True)
    mass = 1 / (1 + sp.exp(-beta * law.margin(iota, beta, ctx=SYMBOLIC)))
    proof.equal("two experts, margin m: softmax mass 1/(1 + exp(-beta m))", 1 - iota, sp.simplify(mass))
    c = sp.Symbol("c", real=True)
    first, second = (sp.Matrix(row) for row in law.rows(c, ctx=SYMBOLIC))
    token = sp.Matrix([1, 0, 0]), sp.Matrix([0, 1, 0])
    proof.step("R has rows e_1, e_2 (eps = 0), tokens x_i = x'_i = e_i (delta = 0): the first layer is as confident as beta makes it")
    for text, derived, wanted in (
        ("||q_1||^2", first.dot(first), 1),
        ("||q_2||^2", second.dot(second), 1),
        ("<q_1, q_2>", first.dot(second), c),
        ("margin of x'_1", (first - second).dot(token[0]), sp.sqrt(1 - c)),
        ("margin of x'_2", (second - first).dot(token[1]), sp.sqrt(1 - c)),
    ):
        proof.equal(text, sp.simplify(derived), wanted)
    proof.step(
        "so at beta = log((1-iota)/iota)/min(1, sqrt(1-c)) all masses are at least 1 - iota, and <q_1, q_2> = c is any number below 1"
    )
    opposite = [sp.Matrix(row) for row in law.rows(sp.Integer(-1), ctx=SYMBOLIC)]
    proof.equal("at the largest margin, sqrt 2, the rows are opposite", opposite[0].dot(opposite[1]), -1)
    margin, distance, apart = sp.symbols("m D a", positive=True)
    proof.step("in general 2m <= <q_i - q_j, x'_i - x'_j> <= ||q_i - q_j|| D, and <q_i, q_j> = 1 - ||q_i - q_j||^2 / 2")
    proof.equal("so <q_i, q_j> at most", 1 - (2 * margin / distance) ** 2 / 2, law.ceiling(margin, distance, ctx=SYMBOLIC))
    proof.step("attained: q = +-a (x'_i - x'_j)/D + sqrt(1-a^2) v, v a unit vector orthogonal to both tokens; <x'_i - x'_j, x'_i> = D^2/2")
    proof.equal(
        "<q_i, q_j> at margin 2a/D D^2/2 = a D", -(apart**2) + (1 - apart**2), law.ceiling(apart * distance, distance, ctx=SYMBOLIC)
    )


def _alignment(proof: Derivation, law: Law) -> None:
    p, q, r = sp.symbols("p q r", real=True)
    gram = sp.Matrix([[1, p, q], [p, 1, r], [q, r, 1]]).det()
    proof.equal(
        "unit vectors: Gram's determinant >= 0 is |q - p r| <= sqrt((1-p^2)(1-r^2))",
        sp.expand(gram),
        sp.expand((1 - p**2) * (1 - r**2) - (q - p * r) ** 2),
    )
    proof.step("that is cos(a + b) <= q <= cos(a - b) at p = cos a, r = cos b: angles obey the triangle inequality")
    proof.step(
        "r_i, x_i, x'_i, q_i are within phi, psi, phi, cos phi = 1 - iota, chord delta: angle(q_i, q_j) >= angle(r_i, r_j) - 4 phi - 2 psi"
    )
    proof.step("angle(r_i, r_j) within arcsin eps of pi/2: |<q_i, q_j>| <= sin(arcsin eps + 4 phi + 2 psi) up to pi/2")
    eps, delta, iota = sp.symbols("eps delta iota", positive=True)
    rotation = [(1 - iota, sp.sqrt(iota * (2 - iota))), (1 - delta**2 / 2, delta * sp.sqrt(1 - delta**2 / 4))]
    near, moved, next_row = _turned((sp.Integer(1), sp.Integer(0)), rotation, 1)
    start = (eps, sp.sqrt(1 - eps**2))
    _, _, other = _turned(start, rotation, -1)
    proof.step("attained in the plane: r_i = (1, 0), r_j = (eps, sqrt(1-eps^2)); x, x', q turned from them towards each other")
    proof.equal("<r_i, x_i>", sp.expand(near[0]), 1 - iota)
    proof.equal("||x'_i - x_i||^2", sp.expand((moved[0] - near[0]) ** 2 + (moved[1] - near[1]) ** 2), delta**2)
    proof.equal("<q_i, x'_i>", sp.expand(next_row[0] * moved[0] + next_row[1] * moved[1]), 1 - iota)
    product = sp.expand(next_row[0] * other[0] + next_row[1] * other[1])
    claimed = sp.expand(law.aligned(eps, delta, iota, ctx=SYMBOLIC))
    proof.record("<q_i, q_j> is the bound: difference expands to 0", _same(product, claimed, (eps, delta, iota)))
    t = sp.Symbol("t", positive=True)
    proof.equal(
        "eps = delta = 0: bound / sqrt(iota) as iota -> 0", sp.limit(law.aligned(0, 0, t**2, ctx=SYMBOLIC) / t, t, 0), 4 * sp.sqrt(2)
    )
    proof.step("so no bound eps + O(delta) + O(iota) holds")
    proof.equal("eps = iota = 0: bound / delta as delta -> 0", sp.limit(law.aligned(0, t, 0, ctx=SYMBOLIC) / t, t, 0), 2)
    proof.step(
        "arcsin u <= 1.03 u for u <= sin(pi/8) (arcsin u / u increases), phi = 2 arcsin sqrt(iota/2), sin(arcsin eps + x) <= eps + x"
    )
    proof.step(
        "where the angle passes pi/2, shrink delta and iota until it is pi/2: the plain bound there is at least 1, and it only grows"
    )
    plain = eps + sp.Rational(103, 100) * (8 * sp.sqrt(iota / 2) + 4 * delta / 2)
    proof.equal(
        "4 phi + 2 psi = 8 arcsin sqrt(iota/2) + 4 arcsin(delta/2): plain bound",
        sp.expand(plain),
        sp.expand(law.plain(eps, delta, iota, ctx=SYMBOLIC)),
    )


def _turned(start: Any, rotation: Any, way: int) -> list[Any]:
    """The token, the moved token and the next row: `start` turned by phi, psi and phi again."""
    vectors, vector = [], start
    for cos, sin in (rotation[0], rotation[1], rotation[0]):
        vector = tuple(sp.expand(v) for v in (vector[0] * cos - way * vector[1] * sin, way * vector[0] * sin + vector[1] * cos))
        vectors.append(vector)
    return vectors


def _same(one: Any, other: Any, symbols: Any) -> Any:
    """Roots of one token apart, the expressions are polynomials: equal where they expand to the same, else compared at a rational point."""
    from simgap.certify.verdict import Verdict

    difference = sp.expand(one - other)
    if difference == 0:
        return Verdict.PROVED
    value = difference.subs(dict(zip(symbols, (sp.Rational(1, 7), sp.Rational(1, 11), sp.Rational(1, 90)), strict=True))).evalf(40)
    return Verdict.REFUTED if abs(value) > sp.Float("1e-20") else Verdict.UNDECIDED


def certified(law: Law = LAW) -> Check:
    """In balls: a witness in numbers, the sine itself, and the plain bound above it over a box."""
    proof = Derivation()
    iota, overlap = BALL.number("1e-9"), BALL.number("0.99")
    first, second = law.rows(overlap, ctx=BALL)
    beta = proof.ball("beta for <q_1, q_2> = 0.99 at iota = 1e-9", law.margin(iota, (1 - overlap).sqrt(), ctx=BALL))
    logits = [beta * row[0] for row in (first, second)]
    mass = 1 / (1 + (logits[1] - logits[0]).exp())
    proof.within("softmax mass of e_1 is 1 - 1e-9", mass - 1 + iota, "1e-20")
    product = sum((a * b for a, b in zip(first, second, strict=True)), arb(0))
    proof.within("<q_1, q_2> is 0.99", product - overlap, "1e-20")
    reached = law.ceiling((1 - overlap).sqrt(), arb(2).sqrt(), ctx=BALL)
    proof.within("no lower than the ceiling", product - reached, "1e-20")
    for eps, delta, iota in (("0.1", "0.05", "0.001"), ("0", "0.2", "0.0001"), ("0.3", "0", "0.01")):
        angle = aligned_angle(eps, delta, iota, ctx=BALL)
        proof.record(f"eps = {eps}, delta = {delta}, iota = {iota}: an angle below pi/2", sign(arb.pi() / 2 - angle, ">"))
        gap = law.aligned(eps, delta, iota, ctx=BALL) - angle.sin()
        proof.within("the bound is its sine", gap, "1e-20")
    eighth = arb.pi() / 8
    proof.record("arcsin u / u at u = sin(pi/8) is below 1.03", sign(BALL.number("1.03") - eighth / eighth.sin(), ">"))
    box = [(Fraction(0), Fraction(1, 50)), (Fraction(1, 50), Fraction(1, 20)), (Fraction(1, 500), Fraction(1, 200))]
    bound = positive_over(lambda e, d, i: law.plain(e, d, i, ctx=BALL) - law.aligned(e, d, i, ctx=BALL), box)
    proof.record(
        f"plain bound above the sine for eps <= 1/50, delta in [1/50, 1/20], iota in [1/500, 1/200] ({bound.boxes} boxes)", bound.verdict
    )
    # From above too: 1.03 loses no more than a hundredth where eps is 0 and the angle is small.
    tight = law.aligned(0, "0.0001", "1e-8", ctx=BALL) * BALL.number("1.04") - law.plain(0, "0.0001", "1e-8", ctx=BALL)
    proof.record("at eps = 0, delta = 1e-4, iota = 1e-8 the plain bound is within 4% of the sine", sign(tight, ">"))
    return proof.check()


DRAWS = 40_000


@cache
def _chains() -> tuple[np.ndarray, ...]:
    """Random routers, tokens, moved tokens and next routers of two experts in R^3, and the eps, delta, iota that they have."""
    random = generator("R6")

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    rows = unit(random.standard_normal((DRAWS, 2, 3)))
    spread = 10 ** random.uniform(-3, -0.5, (3, DRAWS, 1, 1))
    tokens = unit(rows + spread[0] * random.standard_normal(rows.shape))
    moved = unit(tokens + spread[1] * random.standard_normal(rows.shape))
    after = unit(moved + spread[2] * random.standard_normal(rows.shape))
    eps = np.abs((rows[:, 0] * rows[:, 1]).sum(-1))
    delta = np.linalg.norm(moved - tokens, axis=-1).max(-1)
    iota = 1 - np.minimum((rows * tokens).sum(-1), (after * moved).sum(-1)).min(-1)
    inner = (after[:, 0] * after[:, 1]).sum(-1)
    gap = after[:, 0] - after[:, 1]
    margin = np.minimum((gap * moved[:, 0]).sum(-1), -(gap * moved[:, 1]).sum(-1))
    distance = np.linalg.norm(moved[:, 0] - moved[:, 1], axis=-1)
    return eps, delta, iota, inner, margin, distance


def numeric(law: Law = LAW) -> Check:
    """40000 random chains of rows and tokens below the bounds, and the witnesses on them in floating point."""
    proof = Derivation()
    eps, delta, iota, inner, margin, distance = _chains()
    says = aligned_angle(eps, delta, iota, ctx=FLOAT) <= np.pi / 2
    inside = tuple(v[says] for v in (eps, delta, iota))
    for name, bound in (("sine", law.aligned(*inside, ctx=FLOAT)), ("plain", law.plain(*inside, ctx=FLOAT))):
        over = float((np.abs(inner[says]) - bound).max())
        proof.bounded(f"{says.sum()} chains: largest excess over the {name} bound", over, 0.0, high=1e-12)
    sure = margin > 0
    over = float((inner[sure] - law.ceiling(margin[sure], distance[sure], ctx=FLOAT)).max())
    proof.bounded(f"{sure.sum()} confident pairs: largest excess over the margin's ceiling", over, 0.0, high=1e-12)
    for overlap in (-1.0, 0.0, 0.9, 0.999):
        q = np.array(law.rows(overlap, ctx=FLOAT))
        gap = q[0] - q[1]
        reached = law.ceiling(gap[0], np.sqrt(2), ctx=FLOAT)
        proof.agrees(f"witness c = {overlap}: <q_1, q_2>, round-off", float(q[0] @ q[1]), overlap, 1e-14)
        proof.agrees("at its ceiling, round-off", float(q[0] @ q[1]), float(reached), 1e-14)
        beta = float(law.margin(1e-6, gap[0], ctx=FLOAT))
        mass = 1 / (1 + np.exp(-beta * gap[0]))
        proof.agrees("softmax mass at beta, round-off", float(mass), 1 - 1e-6, 1e-14)
    for e, d, i in ((0.1, 0.05, 0.001), (0.0, 0.0, 1e-6), (0.2, 0.1, 0.0)):
        turn = 2 * np.arccos(1 - i) + 2 * np.arcsin(d / 2)
        angles = turn, np.arccos(e) - turn
        overlap = float(np.cos(angles[0] - angles[1]))
        proof.agrees(
            f"plane, eps = {e}, delta = {d}, iota = {i}: <q_i, q_j>, round-off", overlap, float(law.aligned(e, d, i, ctx=FLOAT)), 1e-9
        )
    e, d, i = 0.0, 0.01, 1e-5
    proof.bounded(
        "plane, eps = 0: <q_i, q_j> over the plain bound", _plane(e, d, i) / float(law.plain(e, d, i, ctx=FLOAT)), 0.0, low=0.95, high=1.0
    )
    return proof.check()


def _plane(eps: float, delta: float, iota: float) -> float:
    return float(np.cos(np.arccos(eps) - 4 * np.arccos(1 - iota) - 4 * np.arcsin(delta / 2)))


def control() -> list[Wrong]:
    return [
        Wrong("confident routing leaves <q_i, q_j> <= 0", replace(LAW, ceiling=lambda m, d, *, ctx: 0 * ctx.number(m) * ctx.number(d))),
        Wrong("margin's ceiling 1 - m^2/D^2", replace(LAW, ceiling=lambda m, d, *, ctx: (1 + margin_ceiling(m, d, ctx=ctx)) / 2)),
        Wrong("margin of the odds without the temperature", replace(LAW, margin=lambda i, b, *, ctx: confidence_margin(i, 1, ctx=ctx))),
        Wrong("witness without its common part", replace(LAW, rows=_no_common)),
        Wrong("aligned: half the angle, as if one side moved", replace(LAW, aligned=_half)),
        Wrong("aligned: eps + 2 delta + 4 iota, linear in iota", replace(LAW, aligned=_linear)),
        Wrong("plain: eps + 2 delta + 2 sqrt(2 iota)", replace(LAW, plain=_short)),
    ]


def _no_common(c: Any, *, ctx: Any) -> Any:
    first, second = witness_rows(c, ctx=ctx)
    return (first[0], first[1], 0 * first[2]), (second[0], second[1], 0 * second[2])


def _half(eps: Any, delta: Any, iota: Any, *, ctx: Any) -> Any:
    eps, delta, iota = ctx.number(eps), ctx.number(delta), ctx.number(iota)
    near, far, still, moved = 1 - iota, ctx.sqrt(iota * (2 - iota)), ctx.sqrt(1 - delta * delta / 4), delta / 2
    cos, sin = near * still - far * moved, far * still + near * moved
    return eps * (cos * cos - sin * sin) + ctx.sqrt(1 - eps * eps) * 2 * sin * cos


def _linear(eps: Any, delta: Any, iota: Any, *, ctx: Any) -> Any:
    return ctx.number(eps) + 2 * ctx.number(delta) + 4 * ctx.number(iota)


def _short(eps: Any, delta: Any, iota: Any, *, ctx: Any) -> Any:
    return ctx.number(eps) + 2 * ctx.number(delta) + 2 * ctx.sqrt(2 * ctx.number(iota))

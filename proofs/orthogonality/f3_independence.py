"""F3: every pair of a weight overlap and an output overlap is taken by two experts, so neither value bounds the other.

Linear experts on a point mass reach every pair but those with weight overlap 1: proportional weights have proportional outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator
from simgap.theory.activations import activation_of
from simgap.theory.floats import FLOAT
from simgap.theory.independence import ExpertPair, linear_pair_with_overlaps, pair_with_overlaps
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="F3",
    kind=EQUAL,
    title="weight overlap and output overlap take every pair of values",
    claim=(
        r"\forall (a,b)\in[0,1]^2\ \exists\ W_{up,1}, W_{up,2}, W_{down,1} = uc', W_{down,2} = vc':\ \cos^2(W_{up,1},W_{up,2}) = a,\ "
        r"\cos^2(y_1,y_2) = b \text{ on every input with } c'h_1, c'h_2 \ne 0;\quad "
        r"\text{linear experts at } x = e_1: \text{ every } (a,b) \text{ with } a < 1"
    ),
    hypotheses=(
        "d >= 2, f >= 1",
        "y_e = W_down,e act(W_up,e x); any activation, any non-zero gates, any routing, any inputs",
        "tokens that leave both hidden readings c'h_e non-zero; for sums over tokens, their gated sums",
        "linear construction: y_e = W_e x, all tokens x = e_1, a < 1",
    ),
    box={"a": (0, 1), "b": (0, 1), "d": (2, None), "f": (1, None)},
    tight="the corners (0, 1) and (1, 0) are taken: orthogonal weights with identical outputs, identical W_up with orthogonal outputs",
)


@dataclass(frozen=True)
class Law:
    pair: Callable[..., ExpertPair] = pair_with_overlaps
    linear: Callable[..., Any] = linear_pair_with_overlaps


LAW = Law()


def _cos2(left: Any, right: Any) -> Any:
    return (left * right).sum() ** 2 / ((left * left).sum() * (right * right).sum())


def symbolic(law: Law = LAW) -> Check:
    """From the definition of cos^2 on flattened weights and on outputs of any hidden vectors at all: symbols stand for act(W_up x)."""
    proof = Derivation()
    a, b = sp.symbols("a b", positive=True)
    for d, f in ((2, 1), (2, 2), (3, 3)):
        pair = law.pair(a, b, d, f, ctx=SYMBOLIC)
        proof.equal(f"d = {d}, f = {f}: cos^2 of the flattened W_up", _cos2(pair.W_up1, pair.W_up2), a)
        h1, h2 = (np.array(sp.symbols(f"{name}1:{f + 1}", positive=True)) for name in "hk")
        y1, y2 = pair.W_down1.dot(h1), pair.W_down2.dot(h2)
        proof.equal(f"d = {d}, f = {f}: cos^2 of the outputs of any hidden vectors h, k", sp.factor(_cos2(y1, y2)), b)
        ranks = [sp.Matrix(w).rank() for w in (pair.W_down1, pair.W_down2)]
        proof.holds(f"d = {d}, f = {f}: each W_down has rank one and its expert writes along one direction", ranks == [1, 1])
    proof.step(
        "any d, f: y_1 = (c'h_1) u and y_2 = (c'h_2) v; gates and sums over tokens only change the two numbers, so cos^2 = cos^2(u, v)"
    )
    f, first, second = sp.symbols("f r1 r2", positive=True)
    u_norm, v_norm, dot = 1, b + (1 - b), sp.sqrt(b)
    proof.equal("any d, f: cos^2 of the outputs", (first * second * dot) ** 2 / (first**2 * u_norm * second**2 * v_norm), b)
    proof.equal("any d, f: W_up = r p' and r q': cos^2 = (|r|^2 p'q)^2/(|r|^4 |p|^2 |q|^2), |r|^2 = f", (f * sp.sqrt(a)) ** 2 / (f * f), a)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pair = law.pair(*corner, 2, 2, ctx=SYMBOLIC)
        outputs = _cos2(pair.W_down1.dot(np.array([1, 1])), pair.W_down2.dot(np.array([1, 1])))
        overlaps = (sp.simplify(_cos2(pair.W_up1, pair.W_up2)), sp.simplify(outputs))
        proof.holds(f"overlaps {corner} are taken, found {overlaps}", overlaps == corner)
    p, q = sp.symbols("p q", positive=True)
    for d in (2, 3):
        w1, w2 = law.linear(p**2, q**2, d, ctx=SYMBOLIC)
        proof.equal(f"d = {d}, linear: cos^2 of the flattened W, a = p^2", sp.simplify(_cos2(w1, w2)), p**2)
        proof.equal(f"d = {d}, linear: cos^2 of the outputs at e_1, b = q^2", sp.simplify(_cos2(w1[:, 0], w2[:, 0])), q**2)
    gap = (1 - p) * (1 - p + q)
    edges = [sp.expand(gap.subs(p, 0) - (1 + q)), sp.expand(sp.diff(gap, p) + (1 - p + q) + (1 - p))]
    proof.holds("linear: (1-p)(1-p+q) falls in p on [0, 1] from 1 + q <= 2 to 0, so that k in [-1, 1] and W_2 is real", edges == [0, 0])
    proof.step("linear, a = 1: equality in Cauchy-Schwarz makes W_2 a multiple of W_1, so b = 1: no linear pair has a = 1, b < 1")
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("an algebraic construction, exact for every a and b")


TOKENS = 300
GRID = (0.0, 0.01, 0.5, 0.9, 1.0)
ACTIVATIONS = ("identity", "relu", "silu", "tanh")
D_MODEL, D_FF = 6, 4


@cache
def _inputs() -> dict[str, np.ndarray]:
    random = generator("F3")
    shape = (TOKENS, D_MODEL)
    two = random.uniform(1, 2, (2, D_MODEL))[random.integers(0, 2, TOKENS)]
    return {"normal": random.standard_normal(shape), "Cauchy": random.standard_cauchy(shape), "two tokens": two}


def numeric(law: Law = LAW) -> Check:
    """Through the experts, for each activation, input law and pair of overlaps: the token that differs most from the claim."""
    proof = Derivation()
    for name in ACTIVATIONS:
        act = activation_of(name)
        for inputs, x in _inputs().items():
            measured = [_measured(law.pair(a, b, D_MODEL, D_FF), x, act) for a in GRID for b in GRID]
            wanted = [(a, b) for a in GRID for b in GRID]
            weight = max(abs(m[0] - a) for m, (a, _) in zip(measured, wanted, strict=True))
            output = max(np.abs(m[1] - b).max(initial=0.0) for m, (_, b) in zip(measured, wanted, strict=True))
            fewest = min(m[1].size for m in measured)
            proof.holds(f"{name}, {inputs}: at least {fewest} of {TOKENS} tokens have outputs", fewest > TOKENS // 4)
            # 24 products a matrix: round-off under 1e-14. Readings may cancel to a thousandth of their terms, and lose three digits.
            proof.agrees(f"{name}, {inputs}: largest error of the weight overlap on the grid", weight, 0, 1e-14)
            proof.agrees(f"{name}, {inputs}: largest error of the output overlap", output, 0, 1e-11)
    weights, outputs = [], []
    for a in GRID[:-1]:
        for b in GRID:
            w1, w2 = law.linear(a, b, D_MODEL)
            weights.append(abs(_cos2(w1, w2) - a))
            outputs.append(abs(_cos2(w1[:, 0], w2[:, 0]) - b))
    # 1/(1 - sqrt(a)) and sums of 36 products: a few hundred units in the last place.
    proof.agrees("linear: largest error of the weight overlap on the grid", max(weights), 0, 1e-13)
    proof.agrees("linear: largest error of the output overlap at e_1", max(outputs), 0, 1e-13)
    return proof.check()


def _measured(pair: ExpertPair, x: np.ndarray, act: Any) -> tuple[float, np.ndarray]:
    h1, h2 = act.value(x @ pair.W_up1.T, FLOAT), act.value(x @ pair.W_up2.T, FLOAT)
    y1, y2 = h1 @ pair.W_down1.T, h2 @ pair.W_down2.T
    kept = np.ones(len(x), bool)
    for h, w, y in ((h1, pair.W_down1, y1), (h2, pair.W_down2, y2)):
        kept &= np.linalg.norm(y, axis=1) > 1e-3 * np.linalg.norm(np.abs(h) @ np.abs(w.T), axis=1)
    y1, y2 = y1[kept], y2[kept]
    return _cos2(pair.W_up1, pair.W_up2), (y1 * y2).sum(1) ** 2 / ((y1 * y1).sum(1) * (y2 * y2).sum(1))


def control() -> list[Wrong]:
    return [
        Wrong("a is the cosine, not its square", replace(LAW, pair=lambda a, b, d, f, **ctx: pair_with_overlaps(a * a, b, d, f, **ctx))),
        Wrong("b is the cosine, not its square", replace(LAW, pair=lambda a, b, d, f, **ctx: pair_with_overlaps(a, b * b, d, f, **ctx))),
        Wrong("W_down of rank two will do", replace(LAW, pair=_rank_two)),
        Wrong("linear: a is the cosine", replace(LAW, linear=lambda a, b, d, **ctx: linear_pair_with_overlaps(a * a, b, d, **ctx))),
        Wrong("linear: b is the cosine", replace(LAW, linear=lambda a, b, d, **ctx: linear_pair_with_overlaps(a, b * b, d, **ctx))),
        Wrong("linear: t twice as long", replace(LAW, linear=_longer)),
    ]


def _rank_two(a: Any, b: Any, d: int, f: int, **ctx: Any) -> ExpertPair:
    pair = pair_with_overlaps(a, b, d, f, **ctx)
    more = pair.W_down2.copy()
    more[-1, -1] = more[-1, -1] + 1
    return pair._replace(W_down2=more)


def _longer(a: Any, b: Any, d: int, **ctx: Any) -> tuple[Any, Any]:
    first, second = linear_pair_with_overlaps(a, b, d, **ctx)
    first[:, 1], second[:, 1] = 2 * first[:, 1], 2 * second[:, 1]
    return first, second

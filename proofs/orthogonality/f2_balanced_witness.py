"""F2: two linear experts with weight overlap 0 and about twice the activation overlap of independent ones; 1 on some inputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.orthogonality.f1_trace_form import gaussian_moment, sphere_average
from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.trace_form import balanced_mso, balanced_overlap, balanced_witness

STATEMENT = Statement(
    id="F2",
    kind=EQUAL,
    title="weights that are orthogonal, outputs that are not",
    claim=(
        r"W_1 = I,\ W_2 = \mathrm{diag}(+1..,-1..):\ \langle W_1,W_2\rangle_F = 0;\quad "
        r"\mathbb{E}\cos^2(W_1x,W_2x) = 2/(d+2);\quad \cos^2(W_1e_1,W_2e_1) = 1"
    ),
    hypotheses=(
        "d even, half of W_2's signs +1",
        "linear experts y = W x",
        "x isotropic (its direction uniform on the sphere) and non-zero",
    ),
    box={"d": (2, None)},
    tight="an equality; cos^2 is 1 at e_1 and 0 at e_1 + e_d",
)


@dataclass(frozen=True)
class Law:
    pair: Callable[..., Any] = balanced_witness
    mso: Callable[..., Any] = balanced_mso
    overlap: Callable[..., Any] = balanced_overlap


LAW = Law()


def _cos2(w1: Any, w2: Any, x: Any) -> Any:
    y1, y2 = w1.dot(x), w2.dot(x)
    return (y1 * y2).sum() ** 2 / ((y1 * y1).sum() * (y2 * y2).sum())


def symbolic(law: Law = LAW) -> Check:
    """From the definition of cos^2 with generic x; averages by exact moments of the sphere; every even d by counting signs."""
    proof = Derivation()
    for size in (2, 4, 6):
        w1, w2 = (np.array([[sp.Integer(int(entry)) for entry in row] for row in w]) for w in law.pair(size))
        proof.equal(f"d = {size}: <W_1, W_2>_F", (w1 * w2).sum(), 0)
        x = np.array(sp.symbols(f"x1:{size + 1}", positive=True))
        cos2 = _cos2(w1, w2, x)
        same = sp.cancel(cos2 - law.overlap(x)) == 0
        proof.holds(f"d = {size}: cos^2 of W_1 x and W_2 x = {cos2}, claimed {law.overlap(x)}", same)
        at_axis = {v: int(i == 0) for i, v in enumerate(x)}
        proof.equal(f"d = {size}: cos^2 at x = e_1", cos2.subs(at_axis), 1)
        at_both = {v: int(i in (0, size - 1)) for i, v in enumerate(x)}
        proof.equal(f"d = {size}: cos^2 at x = e_1 + e_d", cos2.subs(at_both), 0)
        # |W_1 x| = |W_2 x| = 1 on the sphere, so that cos^2 is the squared form there.
        lengths = [sp.expand((w.dot(x) ** 2).sum() - (x * x).sum()) for w in (w1, w2)]
        proof.holds(f"d = {size}: |W_1 x| = |W_2 x| = |x|", lengths == [0, 0])
        form = sp.expand((w1.dot(x) * w2.dot(x)).sum() ** 2)
        proof.equal(f"d = {size}: E (x'W_1'W_2 x)^2 on the sphere", sphere_average(form, list(x)), law.mso(size, ctx=SYMBOLIC))
    d = sp.Symbol("d", integer=True, positive=True)
    second, fourth = gaussian_moment(2), gaussian_moment(4)
    length4 = d * fourth + d * (d - 1) * second**2
    proof.step("any even d: (sum e_i x_i^2)^2 has d squares e_i^2 = 1 and pairs with sum_{i != j} e_i e_j = (sum e_i)^2 - d = -d")
    proof.equal("any even d: E cos^2", sp.factor((d * fourth - d * second**2) / length4), law.mso(d, ctx=SYMBOLIC))
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every even d")


DRAWS = 100_000
SIZES = (2, 8)


@cache
def _inputs(d: int) -> np.ndarray:
    """Isotropic directions of heavy-tailed length: cos^2 does not feel the length."""
    random = generator("F2", str(d))
    x = random.standard_normal((DRAWS, d))
    return x * np.exp(random.standard_normal((DRAWS, 1)))


def numeric(law: Law = LAW) -> Check:
    """DRAWS inputs through both experts."""
    proof = Derivation()
    for d in SIZES:
        w1, w2 = law.pair(d)
        weight = (w1 * w2).sum() ** 2 / ((w1 * w1).sum() * (w2 * w2).sum())
        proof.agrees(f"d = {d}: weight overlap, of small whole numbers", weight, 0, 0)
        x = _inputs(d)
        y1, y2 = x @ w1.T, x @ w2.T
        cos2 = (y1 * y2).sum(1) ** 2 / ((y1 * y1).sum(1) * (y2 * y2).sum(1))
        proof.estimate(f"d = {d}: mean cos^2", *mean_and_sem(cos2), law.mso(d, ctx=FLOAT))
        # A cosine of d terms, squared: round-off under 1e-14.
        worst = int(np.abs(cos2 - law.overlap(x)).argmax())
        proof.agrees(f"d = {d}: cos^2 at the input that differs most", cos2[worst], law.overlap(x)[worst], 1e-13)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("E cos^2 = 2/(d+1)", replace(LAW, mso=lambda d, *, ctx: 2 / (ctx.number(d) + 1))),
        Wrong("E cos^2 = 3/(d+2)", replace(LAW, mso=lambda d, *, ctx: 3 / (ctx.number(d) + 2))),
        Wrong("E cos^2 = 1/d, the null", replace(LAW, mso=lambda d, *, ctx: 1 / ctx.number(d))),
        Wrong("E cos^2 = 0, as the weights say", replace(LAW, mso=lambda d, *, ctx: ctx.number(0))),
        Wrong("cos^4 for cos^2 at each x", replace(LAW, overlap=lambda x: balanced_overlap(x) ** 2)),
        Wrong("one sign too many is still orthogonal", replace(LAW, pair=_unbalanced)),
    ]


def _unbalanced(d: int) -> tuple[np.ndarray, np.ndarray]:
    return np.eye(d), np.diag(np.repeat([1.0, -1.0], (d // 2 + 1, d // 2 - 1)))

"""T9: matrices whose second moments are those of rows times those of columns overlap by the product of both shares."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, cited, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.separable import HYPOTHESES, direction_spread, separable_error, separable_mso, separable_variance
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="T9",
    kind=EQUAL,
    title="matrices with separable second moments overlap by tr(R R') tr(C C') over traces",
    claim=(
        r"\frac{\mathbb{E}\langle W,W'\rangle^2}{\mathbb{E}|W|^2\,\mathbb{E}|W'|^2} ="
        r" \frac{\mathrm{tr}(RR')\,\mathrm{tr}(CC')}{\mathrm{tr}R\,\mathrm{tr}R'\,\mathrm{tr}C\,\mathrm{tr}C'};\ \text{Gaussian:}\ "
        r"\mathbb{E}\cos^2 = s_2 - 4(s_3 - s_2^2) + \dots,\ \mathrm{Var}\,\overline{\cos^2} ="
        r" \tfrac1P[2s_2^2 + (4E-2)(s_4 - 2s_2s_3 + s_2^3)]"
        r" + \dots,\ s_k = \frac{\mathrm{tr}R^k\,\mathrm{tr}C^k}{(\mathrm{tr}R\,\mathrm{tr}C)^k}"
    ),
    hypotheses=HYPOTHESES,
    box={"N": (2, None), "E": (2, None)},
    premises=(cited("moments of smooth functions of means: the remainder of the delta method, Cramer (1946), 27.7"),),
    tight="the ratio is an equality; equal scales give 1/N and 2/(P N^2)",
)


@dataclass(frozen=True)
class Law:
    """situation: "plain" is the hypothesis; the others break it, in the simulation."""

    mean: Callable[..., Any] = separable_mso
    error: Callable[..., Any] = separable_error
    direction: Callable[..., Any] = direction_spread
    variance: Callable[..., Any] = separable_variance
    situation: str = "plain"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    rows, others = (sp.Matrix(2, 2, lambda i, j, s=side: sp.Symbol(f"{s}{min(i, j)}{max(i, j)}")) for side in ("r", "q"))
    columns, further = (sp.Matrix(3, 3, lambda i, j, s=side: sp.Symbol(f"{s}{min(i, j)}{max(i, j)}")) for side in ("c", "k"))
    proof.step("E <W, W'>^2 = sum E W_a W_b E W'_a W'_b over entries a, b = tr(S S'), S = R x C; E |W|^2 = tr S")
    whole, other = sp.kronecker_product(rows, columns), sp.kronecker_product(others, further)
    share = sp.expand((whole * other).trace()) / (sp.expand(whole.trace()) * sp.expand(other.trace()))
    parts = [(a * b).trace() / (a.trace() * b.trace()) for a, b in ((rows, others), (columns, further))]
    proof.holds("2 x 3, any R, C, R', C': tr(S S') / (tr S tr S')", sp.cancel(share - law.mean(*parts, ctx=SYMBOLIC)) == 0)
    p = sp.symbols("p1:4", positive=True)
    p = (*p[:2], 1 - p[0] - p[1])
    s = [sum(x**k for x in p) for k in range(5)]
    proof.step("Gaussian, in the axes of S: shares p_i g_i^2 / sum_j p_j g_j^2 of means p_i - 2 p_i^2 + 2 p_i s_2, by the delta method")
    means = [x - 2 * x**2 + 2 * x * s[2] for x in p]
    # Of the product of two such, the first order: twice p times the shift.
    shifted = s[2] + 2 * sum(x * (mean - x) for x, mean in zip(p, means, strict=True))
    claimed = s[2] - law.error(s[2], s[3], ctx=SYMBOLIC)
    proof.holds("sum of squared means, to first order: s_2 - 4 (s_3 - s_2^2)", sp.expand(shifted - claimed) == 0)
    e = sp.Symbol("E", positive=True)
    spread = 2 * sum(x**2 * (x - s[2]) ** 2 for x in p)
    proof.step("given u, cos^2 has mean u'Su/|u|^2, of variance 2 tr((S^2 - s_2 S)^2) = V around s_2; cos^4 three times its square's mean")
    pair = 3 * (s[2] ** 2 + spread) - s[2] ** 2
    derived = (pair + 2 * (e - 2) * spread) / (e * (e - 1) / 2)
    claimed = law.variance(s[2], law.direction(*s[2:], ctx=SYMBOLIC), e, ctx=SYMBOLIC)
    proof.holds("Var of the mean: [3 (s_2^2 + V) - s_2^2 + 2 (E-2) V]/P", sp.cancel(derived - claimed) == 0)
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("traces and first orders of an expansion, derived exactly")


DRAWS, EXPERTS, ROWS, COLUMNS = 6_000, 4, 32, 32
SCALES = np.exp(0.4 * np.sin(np.arange(ROWS))), np.arange(1.0, COLUMNS + 1) ** -0.2


@cache
def _simulate(situation: str) -> np.ndarray:
    """The mean over pairs, of EXPERTS matrices."""
    random, msos = generator("T9", situation), []
    turn = np.linalg.qr(random.standard_normal((ROWS, ROWS)))[0]
    half = np.add.outer(np.arange(ROWS) // 16, np.arange(COLUMNS) // 16) % 2 == 0
    for _ in range(DRAWS // 500):
        w = random.standard_normal((500, EXPERTS, ROWS, COLUMNS), np.float32).astype(np.float64)
        if situation == "a block-diagonal support":
            w *= half
        else:
            w = turn @ (w * SCALES[0][:, None] * SCALES[1])
        if situation == "a common mean":
            w += 0.3
        w = w.reshape(500, EXPERTS, -1)
        w /= np.linalg.norm(w, axis=2, keepdims=True)
        msos.append((((w @ w.transpose(0, 2, 1)) ** 2).sum((1, 2)) - EXPERTS) / (EXPERTS * (EXPERTS - 1)))
    return np.concatenate(msos)


def numeric(law: Law = LAW) -> Check:
    """Rows of scales that a turn hides, columns of a power law; within what the leading order leaves out, of its own size once more."""
    proof = Derivation()
    scales = [np.ones(ROWS), np.ones(COLUMNS)] if law.situation == "a block-diagonal support" else [side**2 for side in SCALES]
    powers = [[float((side**k).sum() / side.sum() ** k) for side in scales] for k in (2, 3, 4)]
    s2, s3, s4 = (row * column for row, column in powers)
    mean, error = float(law.mean(*powers[0], ctx=FLOAT)), float(law.error(s2, s3, ctx=FLOAT))
    values = _simulate(law.situation)
    proof.estimate(f"{EXPERTS} experts, {law.situation}: mean cos^2", *mean_and_sem(values), mean - error, error / 4)
    spread = float(law.variance(s2, law.direction(s2, s3, s4, ctx=FLOAT), EXPERTS, ctx=FLOAT))
    proof.estimate(f"{EXPERTS} experts, {law.situation}: variance", *mean_and_sem((values - mean) ** 2), spread, 0.05 * spread)
    return proof.check()


def control() -> list[Wrong]:
    blind = "the derivation knows separable second moments only"
    return [
        Wrong("1/N", replace(LAW, mean=lambda rows, columns, *, ctx: 1 / ctx.number(ROWS * COLUMNS))),
        Wrong("rows alone", replace(LAW, mean=lambda rows, columns, *, ctx: ctx.number(rows) / COLUMNS)),
        Wrong("twice the variance", replace(LAW, variance=lambda *s, ctx: 2 * separable_variance(*s, ctx=ctx))),
        Wrong("2 s_2^2 alone", replace(LAW, direction=_none), ("symbolic",), "smaller than what the simulation is allowed"),
        Wrong("4 s_3", replace(LAW, error=lambda second, third, *, ctx: 4 * ctx.number(third)), ("symbolic",), "of the order allowed for"),
        Wrong("a block-diagonal support", replace(LAW, situation="a block-diagonal support"), ways=("numeric",), why=blind),
        Wrong("a common mean", replace(LAW, situation="a common mean"), ways=("numeric",), why=blind),
    ]


def _none(second: Any, third: Any, fourth: Any, *, ctx: Any) -> Any:
    return 0 * ctx.number(second)

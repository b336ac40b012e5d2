"""T7: experts' means less their common mean are not independent: their correlation is -1/(E-1), and that has an overlap of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from flint import arb

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.certify import BALL
from simgap.theory.centred_means import GAUSSIAN, centred_correlation, null_centred_mso
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.token_variance import output_alignment

STATEMENT = Statement(
    id="T7",
    kind=EQUAL,
    title="centred Gaussian vectors overlap as their correlation -1/(E-1) says",
    claim=(
        r"\mathbb{E}\cos^2 = 1 - (1-\rho^2)\tfrac{d-1}{d}\,{}_2F_1(1, 1; \tfrac d2+1; \rho^2),\ \rho = -\tfrac1{E-1};\ \text{variances}"
        r"\ s_e\text{ of sum } S:\ \rho = \frac{S/E^2 - (s+s')/E}{\sqrt{(s(1-2/E)+S/E^2)(s'(1-2/E)+S/E^2)}}"
    ),
    hypotheses=(*GAUSSIAN, "first form: all of equal variance; second: of any fixed variances, not all 0"),
    box={"d": (1, None), "E": (2, None)},
    premises=(computed("N2B"),),
    tight="an equality; at E = 2 the two are opposite and overlap by 1",
)
# Numbers at d = 64 lose some 180 bits to a recurrence.
BITS = 384


@dataclass(frozen=True)
class Law:
    """situation: "plain" is the hypothesis, "a common mean" is no breach of it; the others are, in the simulation."""

    mean: Callable[..., Any] = null_centred_mso
    correlation: Callable[..., Any] = centred_correlation
    situation: str = "plain"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    e, s, r, total = sp.symbols("E s r S", positive=True)
    proof.step("y_e = z_e - m, m the mean of all: z_e enters y_e by 1 - 1/E, the other E - 1 by -1/E; a common mean enters none")
    variances = [one * (1 - 1 / e) ** 2 + (total - one) / e**2 for one in (s, r)]
    covariance = -(s + r) * (1 - 1 / e) / e + (total - s - r) / e**2
    claimed = law.correlation(e, s, r, total, ctx=SYMBOLIC)
    proof.holds("any variances: rho^2", sp.cancel(covariance**2 / (variances[0] * variances[1]) - claimed**2) == 0)
    # The root is positive.
    proof.equal(
        "its sign at E = 5, s = r = 1, S = 5",
        sp.sign(covariance.subs({e: 5, s: 1, r: 1, total: 5})),
        sp.sign(law.correlation(5, ctx=SYMBOLIC)),
    )
    equal = {s: 1, r: 1, total: e}
    rho = sp.cancel((covariance / variances[0]).subs(equal))
    proof.equal("equal variances", rho, law.correlation(e, ctx=SYMBOLIC))
    proof.step("coordinates are i.i.d. pairs of this correlation, as those of W h, W h' with cosine rho are: E cos^2 = Q(rho) of law N2B")
    u = sp.Symbol("u", positive=True)
    for d, experts in ((1, 4), (2, 3), (3, 3)):
        c2 = rho.subs(e, experts) ** 2
        value = 1 - (d - 1) * sp.integrate(u ** (d - 1) / (1 + c2 / (1 - c2) * u**2), (u, 0, 1))
        proof.equal(f"d = {d}, E = {experts}: 1 - (d-1) int u^(d-1)/(1 + w u^2) du", value, law.mean(d, experts, ctx=SYMBOLIC))
    proof.equal("E = 2: y_1 = -y_2", sp.Integer(1), law.mean(7, 2, ctx=SYMBOLIC))
    return proof.check()


def certified(law: Law = LAW) -> Check:
    """By the hypergeometric series itself, which shares nothing with the recurrence that the law is written in."""
    proof = Derivation()
    for d, experts in ((64, 8), (8, 3), (5, 4), (128, 3)):
        mean = proof.ball(f"E cos^2, d = {d}, E = {experts}", law.mean(d, experts, ctx=BALL))
        c2 = arb(1) / (experts - 1) ** 2
        series = c2.hypgeom_2f1(1, 1, arb(d) / 2 + 1)
        proof.within(f"d = {d}, E = {experts}: less the series", mean - (1 - (1 - c2) * (d - 1) / d * series), "1e-40")
    return proof.check()


DRAWS = 40_000
CASES = (("eight experts", 64, (1,) * 8), ("three", 8, (1,) * 3), ("unequal", 8, (9, 1, 4, 1)))


@cache
def _simulate(situation: str, d: int, variances: tuple[int, ...]) -> tuple[float, float]:
    """Mean and error of the mean over pairs; unequal variances broken by the situation are those of one vector of ten times the length."""
    random, count = generator("T7", f"{situation} {d} {variances}"), DRAWS * 3 // len(variances)
    z = random.standard_normal((count, len(variances), d)) * np.sqrt(variances)[:, None]
    if situation == "a common mean":
        z += 3 * random.standard_normal((count, 1, d))
    if situation == "uniform on the sphere":
        z /= np.linalg.norm(z, axis=2, keepdims=True)
    if situation == "one vector ten times as long":
        z[:, 0] *= 10
    if situation == "an outlier coordinate":
        z[..., 0] *= 5
    y = z - z.mean(1, keepdims=True)
    y /= np.linalg.norm(y, axis=2, keepdims=True)
    e = len(variances)
    return mean_and_sem(((y @ y.transpose(0, 2, 1)) ** 2).sum((1, 2)) / (e * (e - 1)) - 1 / (e - 1))


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for situation in ("plain", "a common mean") if law.situation == "plain" else (law.situation,):
        for name, d, variances in CASES:
            e, total = len(variances), sum(variances)
            if len(set(variances)) == 1:
                claimed = float(law.mean(d, e, ctx=FLOAT))
            else:
                pairs = [(s, r) for i, s in enumerate(variances) for r in variances[:i]]
                claimed = float(np.mean([output_alignment(d, law.correlation(e, s, r, total, ctx=FLOAT)) for s, r in pairs]))
            proof.estimate(f"{name}, d = {d}, {situation}: mean cos^2", *_simulate(situation, d, variances), claimed)
    return proof.check()


def control() -> list[Wrong]:
    blind = "derivation and certificate know the hypothesis only"

    def over_e(experts: Any, own: Any = 1, other: Any = 1, total: Any = None, *, ctx: Any) -> Any:
        return centred_correlation(ctx.number(experts) + 1, own, other, total, ctx=ctx)

    def independent(d: Any, experts: Any, *, ctx: Any) -> Any:
        return 1 / ctx.number(d)

    return [
        Wrong("1/d: as if centred vectors were independent", replace(LAW, mean=independent)),
        Wrong("rho^2 alone", replace(LAW, mean=lambda d, e, *, ctx: 1 / (ctx.number(e) - 1) ** 2)),
        Wrong("rho = -1/E", replace(LAW, mean=lambda d, e, *, ctx: null_centred_mso(d, e + 1, ctx=ctx))),
        Wrong("correlations of one more expert", replace(LAW, correlation=over_e), ("symbolic", "numeric"), "the number is of the mean"),
        *(
            Wrong(situation, replace(LAW, situation=situation), ways=("numeric",), why=blind)
            for situation in ("uniform on the sphere", "one vector ten times as long", "an outlier coordinate")
        ),
    ]

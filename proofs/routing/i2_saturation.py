"""I2: two routings that know nothing of each other's tokens share the experts that both prefer."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import factorial
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.routing_chance import SATURATION_HYPOTHESES, null_saturation
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="I2",
    kind=EQUAL,
    title="two routings share sum pi pi'/k of a token's experts by chance, k/E only where loads are equal",
    claim=r"\mathbb{E}\,\frac1n\sum_t |S_t \cap S'_{\sigma(t)}|/|S_t| = \sum_e s_e\pi'_e,\quad s_e = \frac1n\sum_{t: e \in S_t} 1/|S_t|,\ "
    r"\pi'_e = \frac1n\#\{t: e \in S'_t\}",
    hypotheses=SATURATION_HYPOTHESES,
    box={"E": (1, None)},
    tight="an equality; k/E where either routing has equal loads",
)


@dataclass(frozen=True)
class Law:
    """situation: "apart" is the hypothesis; "tokens that both read" breaks it, in the simulation."""

    share: Callable[..., Any] = null_saturation
    situation: str = "apart"


LAW = Law()
EXPERTS = 4
ONE, OTHER = ({0, 1}, {0}, {0, 2}, {1, 3}, {0}), ({0, 1}, {0, 3}, {1, 0}, {2, 0}, {0, 1})


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    proof.step("sigma(t) is any token, each as likely: P(e in S'_sigma(t)) = pi'_e for each t")
    proof.step("E |S_t n S'_sigma(t)|/|S_t| = sum_{e in S_t} pi'_e/|S_t|, and on average over t that is sum_e s_e pi'_e")
    n = len(ONE)
    total = sum(
        Fraction(len(own & OTHER[u]), len(own)) for order in itertools.permutations(range(n)) for own, u in zip(ONE, order, strict=True)
    )
    shares = [sp.Rational(sum(Fraction(e in own, len(own)) for own in ONE) / n) for e in range(EXPERTS)]
    inclusion = [sp.Rational(sum(e in own for own in OTHER), n) for e in range(EXPERTS)]
    proof.equal(
        "all 120 orders of 5 tokens with one or two experts",
        sp.Rational(total / n / factorial(n)),
        law.share(shares, inclusion, ctx=SYMBOLIC),
    )
    a, k = sp.symbols("a k", positive=True)
    even = law.share([a, 1 - a, sp.Integer(0)], [k / 3] * 3, ctx=SYMBOLIC)
    proof.equal("of equal loads on one side it is k/E", sp.simplify(even), k / 3)
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly")


TOKENS, PAIRS, N, K = 500, 400, 8, 2


@cache
def _simulate(situation: str) -> tuple[np.ndarray, np.ndarray]:
    """What pairs of routings share, less what their own loads say, and that. Both prefer later experts."""
    random = generator("I2", situation)
    shared, shares = np.empty(PAIRS), np.empty((PAIRS, 2, N))
    for at in range(PAIRS):
        common = random.gumbel(size=(TOKENS, N)) if situation != "apart" else 0.0
        sides = [np.argsort(random.gumbel(size=(TOKENS, N)) + common + np.linspace(0, 2, N), 1)[:, -K:] for _ in range(2)]
        shared[at] = (sides[0][:, :, None] == sides[1][:, None, :]).any(2).mean()
        shares[at] = [np.bincount(side.ravel(), minlength=N) / TOKENS for side in sides]
    return shared, shares


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    shared, loads = _simulate(law.situation)
    claimed = np.array([law.share((one / K).tolist(), other.tolist(), ctx=FLOAT) for one, other in loads])
    proof.estimate(f"{N} experts, {K} to a token, {law.situation}: share less the law's", *mean_and_sem(shared - claimed), 0.0)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong(
            "k/E whatever the loads", replace(LAW, share=lambda shares, inclusion, *, ctx: sum(inclusion, ctx.number(0)) / len(inclusion))
        ),
        Wrong("sum s s': shares on both sides", replace(LAW, share=_shares_of_both)),
        Wrong(
            "both routers read the tokens",
            replace(LAW, situation="tokens that both read"),
            ways=("numeric",),
            why="the derivation claims a mean over orders",
        ),
    ]


def _shares_of_both(shares: Any, inclusion: Any, *, ctx: Any) -> Any:
    return null_saturation(shares, inclusion, ctx=ctx) / sum(inclusion, ctx.number(0))

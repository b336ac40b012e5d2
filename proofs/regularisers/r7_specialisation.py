"""R7: one precise form of "weak specialisation implies high-probability decisive routing", and where it stops.

The statement of the coupling paper's Theorem 3.1 is unknown: whether it is true is not decided here. What is missing is its definition of
weak specialisation (of the router, of the experts' outputs, or of the pair) and of decisive. Proved: two forms in which a specialised
router is decisive, with constants that are attained, their converse, and a form in which it need not be.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import UPPER, Check, Derivation, Statement, Wrong, assumed, generator
from simgap.theory.floats import FLOAT
from simgap.theory.specialisation import indecision_bound, information_shortfall, shortfall_bound, tied_mass
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="R7",
    kind=UPPER,
    title="concentrated routers are mostly decisive, informative choices need not be (the paper's statement is unknown)",
    claim=(
        r"\mathbb{E}M \ge 1-\eta \Rightarrow P(M \le 1-\delta) \le \eta/\delta;\quad"
        r"P(M < 1-\delta) \le \tau \Rightarrow 1-\mathbb{E}M \le \delta + \tau(1-k/E-\delta);\quad"
        r"I(x;J) \ge \log E - \eta,\ J \sim p(x) \Rightarrow 1 - \mathbb{E}M \le 1-e^{-\eta};\quad"
        r"I(x;\arg\max p) = \log E \text{ with } M = ke^g/(ke^g+E-k) \to k/E"
    ),
    hypotheses=(
        "p(x) a probability vector over E experts, M the mass of its k largest, 1 <= k <= E, x of any law",
        "first form: weak specialisation is a mean top-k mass of at least 1 - eta; delta > 0",
        "third: weak specialisation is I(x; J) within eta nats of log E, J drawn from p(x) itself",
        "last: specialisation is that the chosen expert is a function of x, all equally often (k = 1)",
    ),
    box={"eta": (0, None), "delta": (0, 1), "tau": (0, 1), "E": (2, None), "k": (1, None), "g": (0, None)},
    premises=(assumed("the readings: of the paper's Theorem 3.1 the title alone is known, so nothing here proves or refutes it"),),
    tight="attained where delta <= 1 - k/E: M in {1 - delta, 1}; M in {k/E, 1 - delta}; p uniform on m experts, eta = log m",
)


@dataclass(frozen=True)
class Law:
    markov: Callable[..., Any] = indecision_bound
    converse: Callable[..., Any] = shortfall_bound
    information: Callable[..., Any] = information_shortfall
    tied: Callable[..., Any] = tied_mass


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """Each bound by an inequality between the indicator and the mass, and each attained by a law of two values."""
    proof = Derivation()
    eta, delta, tau, experts, k, q = sp.symbols("eta delta tau E k q", positive=True)
    proof.step("1 - M >= delta 1{1 - M >= delta}; in expectation eta >= delta P(M <= 1 - delta)")
    over = sp.Symbol("u", positive=True)
    gap = law.markov(delta + over, delta, ctx=SYMBOLIC) - 1
    proof.equal("the bound at one token of 1 - M = delta + u, u >= 0, exceeds the indicator by", over / delta, sp.simplify(gap))
    proof.equal("and is linear in eta, so that this holds in the mean", 0, sp.diff(law.markov(eta, delta, ctx=SYMBOLIC), eta, 2))
    worst = sp.solve(q * delta - eta, q)[0]
    proof.equal("attained by 1 - M = delta with probability q, else 0, where q delta = eta", worst, law.markov(eta, delta, ctx=SYMBOLIC))
    proof.step("1 - M <= delta where M >= 1 - delta, else at most 1 - k/E: the k largest of E are at least their mean")
    for failure, worst in ((0, delta), (1, 1 - k / experts)):
        proof.equal(f"the bound at one token, tau = {failure}", worst, sp.simplify(law.converse(failure, delta, experts, k, ctx=SYMBOLIC)))
    proof.equal("linear in tau", 0, sp.simplify(sp.diff(law.converse(tau, delta, experts, k, ctx=SYMBOLIC), tau, 2)))
    spread = (1 - tau) * delta + tau * (1 - k / experts)
    proof.equal("attained by these two values", sp.expand(spread), sp.expand(law.converse(tau, delta, experts, k, ctx=SYMBOLIC)))
    _information(proof, law)
    gap = sp.Symbol("g", positive=True)
    logits = k * sp.exp(gap) / (k * sp.exp(gap) + (experts - k) * sp.exp(0))
    claimed = law.tied(gap, experts, k, ctx=SYMBOLIC)
    proof.equal("softmax of k logits g and E - k logits 0: mass of the k", sp.simplify(logits), sp.simplify(claimed))
    proof.equal("as g -> 0", sp.limit(logits, gap, 0), sp.limit(claimed, gap, 0))
    proof.step("k = 1: let expert i be the choice on the i-th of E equally likely parts of the tokens: the choice is a function of x, so")
    for number in (2, 5):
        chosen = -sum(sp.Rational(1, number) * sp.log(sp.Rational(1, number)) for _ in range(number))
        proof.equal(f"E = {number}: I(x; choice) = H(choice)", sp.simplify(chosen), sp.log(number))
    proof.step("while M = tied(g, E, 1) on every token: at any level delta < 1 - 1/E a small g leaves P(M >= 1 - delta) = 0")
    return proof.check()


def _information(proof: Derivation, law: Law) -> None:
    proof.step("I(x; J) = H(E p) - E H(p) <= log E - E H(p), so E H(p) <= eta")
    proof.step("H(p) = sum_i p_i (-log p_i) >= -log max p, as each -log p_i is: M >= max p >= exp(-H(p))")
    u, h = sp.symbols("u h", real=True)
    tangent = sp.exp(-h) - sp.exp(-h) * (u - h)
    curve = sp.diff(sp.exp(-u) - tangent, u, 2)
    proof.holds("exp(-u) is convex: above its tangent at h = E H(p)", bool(curve.is_positive))
    proof.equal("the tangent's mean over u = H(p) is exp(-h) >= exp(-eta)", sp.simplify(tangent.subs(u, h)), sp.exp(-h))
    for number, size in ((4, 2), (6, 3), (5, 5)):
        # p uniform on `size` neighbours of a ring of experts, every rotation equally often: the mean of p is uniform.
        rows = [[sp.Rational(1, size) if (j - i) % number < size else sp.Integer(0) for j in range(number)] for i in range(number)]
        entropy = [-sum(p * sp.log(p) for p in row if p) for row in rows]
        mean = [sum(row[j] for row in rows) / number for j in range(number)]
        information = sp.simplify(-sum(p * sp.log(p) for p in mean) - sum(entropy) / number)
        shortfall = 1 - sum(max(row) for row in rows) / sp.Integer(number)
        deficit = sp.simplify(sp.log(number) - information)
        proof.equal(
            f"attained: E = {number}, uniform on {size}, eta = {deficit}: 1 - E M",
            shortfall,
            sp.simplify(law.information(deficit, ctx=SYMBOLIC)),
        )


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("elementary inequalities and closed forms, derived and attained in symbols for every parameter")


TOKENS, ROUTERS = 400, 300


@cache
def _routers() -> list[np.ndarray]:
    """Softmax routers (tokens, E) from soft to sharp, some with the choice spread evenly."""
    random = generator("R7")
    routers = []
    for index in range(ROUTERS):
        experts = int(random.integers(2, 9))
        logits = 10 ** random.uniform(-1, 2) * random.standard_normal((TOKENS, experts))
        if index % 2:
            logits[np.arange(TOKENS), np.arange(TOKENS) % experts] += 10 ** random.uniform(0, 1.5)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        routers.append(p / p.sum(axis=1, keepdims=True))
    return routers


def _entropy(p: np.ndarray) -> Any:
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)


def numeric(law: Law = LAW) -> Check:
    """300 random routers on 400 tokens, whose empirical law is a law of x: no bound may be passed; then the witnesses in numbers."""
    proof = Derivation()
    over = dict.fromkeys(("markov", "converse", "information"), -math.inf)
    for p in _routers():
        experts = p.shape[1]
        for k, delta in itertools.product({1, experts // 2}, (0.02, 0.1, 0.4)):
            mass = np.sort(p, axis=1)[:, -k:].sum(axis=1)
            eta = 1 - mass.mean()
            over["markov"] = max(over["markov"], float((mass <= 1 - delta).mean() - law.markov(eta, delta, ctx=FLOAT)))
            if delta <= 1 - k / experts:
                failure = (mass < 1 - delta).mean()
                over["converse"] = max(over["converse"], float(eta - law.converse(failure, delta, experts, k, ctx=FLOAT)))
            deficit = math.log(experts) - _entropy(p.mean(axis=0)) + _entropy(p).mean()
            over["information"] = max(over["information"], float(eta - law.information(deficit, ctx=FLOAT)))
    for name, worst in over.items():
        proof.bounded(f"{ROUTERS} routers: largest excess over the {name} bound", worst, 0.0, high=1e-9)
    # The witnesses, as masses of 1000 equally likely tokens: E = 8, k = 2.
    masses = np.where(np.arange(1000) < 100, 0.8, 1.0)
    bound = float(law.markov(1 - masses.mean(), 0.2, ctx=FLOAT))
    proof.agrees("M = 0.8 on a tenth: P(M <= 0.8), round-off", float((masses <= 0.8).mean()), bound, 1e-12)
    masses = np.where(np.arange(1000) < 100, 0.25, 0.9)
    proof.agrees(
        "M = 1/4 on a tenth, else 0.9: 1 - E M, round-off", 1 - float(masses.mean()), float(law.converse(0.1, 0.1, 8, 2, ctx=FLOAT)), 1e-12
    )
    proof.agrees("p uniform on 2 of 8: 1 - E M, round-off", 0.5, float(law.information(math.log(2), ctx=FLOAT)), 1e-12)
    for gap, experts, k in ((0.01, 8, 1), (1.0, 8, 2)):
        logits = np.where(np.arange(experts) < k, gap, 0.0)
        mass = float(np.exp(logits[:k]).sum() / np.exp(logits).sum())
        proof.agrees(
            f"softmax of {k} logits {gap} and {experts - k} zeros, round-off", mass, float(law.tied(gap, experts, k, ctx=FLOAT)), 1e-12
        )
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("P(M <= 1 - delta) <= eta", replace(LAW, markov=lambda eta, delta, *, ctx: ctx.number(eta) + 0 * ctx.number(delta))),
        Wrong(
            "P(M <= 1 - delta) <= eta/(2 delta)", replace(LAW, markov=lambda eta, delta, *, ctx: indecision_bound(eta, delta, ctx=ctx) / 2)
        ),
        Wrong("1 - E M <= delta", replace(LAW, converse=lambda tau, delta, n, k, *, ctx: ctx.number(delta) + 0 * ctx.number(tau))),
        Wrong("a floor of 0 for M in place of k/E", replace(LAW, converse=_no_floor)),
        Wrong("1 - E M <= eta/2", replace(LAW, information=lambda eta, *, ctx: ctx.number(eta) / 2)),
        Wrong("1 - E M <= 1 - exp(-eta/2)", replace(LAW, information=lambda eta, *, ctx: 1 - ctx.exp(-ctx.number(eta) / 2))),
        Wrong("an informative choice has mass 1", replace(LAW, tied=lambda g, n, k, *, ctx: 1 + 0 * ctx.number(g))),
        Wrong("M = k e^g/(e^g + E - 1)", replace(LAW, tied=lambda g, n, k, *, ctx: k * tied_mass(g, n, 1, ctx=ctx))),
    ]


def _no_floor(tau: Any, delta: Any, n: Any, k: Any, *, ctx: Any) -> Any:
    return ctx.number(delta) + ctx.number(tau) * (1 - ctx.number(delta))

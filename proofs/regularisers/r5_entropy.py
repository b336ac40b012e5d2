"""R5: a router whose k largest probabilities hold all but eps of the mass has little entropy left, and this is the most."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import UPPER, Check, Derivation, Statement, Wrong, generator
from simgap.certify import BALL, positive_over, sign
from simgap.theory.entropy_bound import entropy_bound, split_entropy
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="R5",
    kind=UPPER,
    title="concentration on k experts caps the entropy of a router",
    claim=(
        r"\textstyle\sum_{\text{top }k} p_i \ge 1-\varepsilon \implies H(p) \le h(\varepsilon') + (1-\varepsilon')\log k"
        r" + \varepsilon'\log(E-k),\quad \varepsilon' = \min(\varepsilon, 1-k/E)"
    ),
    hypotheses=("p a distribution over E experts", "its k largest probabilities sum to at least 1 - eps", "entropy in nats, 0 log 0 = 0"),
    box={"eps": (0, 1), "k": (1, None), "E": (1, None)},
    tight="mass (1-eps')/k on each of k experts, eps'/(E-k) on each other; eps = 0: log k, even over k; k = E: log E, even over all",
)


@dataclass(frozen=True)
class Law:
    """bound: the claimed maximum, capped. split: its expression below the cap."""

    bound: Callable[..., Any] = entropy_bound
    split: Callable[..., Any] = split_entropy


LAW = Law()

# (eps, k, E): below the cap 1 - k/E, above it, at either end, and with nothing outside the top.
CASES = (("1/10", 2, 8), ("3/10", 1, 4), ("9/10", 2, 8), ("1/2", 3, 3), ("0", 3, 8), ("0", 1, 4))


def symbolic(law: Law = LAW) -> Check:
    """Grouping of the entropy, log x <= x - 1, and the sign of the slope in the mass outside the top."""
    proof = Derivation()
    for size, top in ((3, 1), (4, 2), (5, 2)):
        p = sp.symbols(f"p1:{size + 1}", positive=True)
        mass, rest = sum(p[:top]), sum(p[top:])
        entropy = -sum(x * sp.log(x) for x in p)
        grouped = (
            -mass * sp.log(mass)
            - rest * sp.log(rest)
            - sum(x * sp.log(x / mass) for x in p[:top])
            - sum(x * sp.log(x / rest) for x in p[top:])
        )
        proof.equal(
            f"E = {size}, k = {top}: -sum p log p - [m log(1/m) + r log(1/r) + m H(top/m) + r H(rest/r)], m, r the masses of top and rest",
            sp.simplify(sp.expand(sp.expand_log(entropy - grouped))),
            sp.Integer(0),
        )
    x, e = sp.symbols("x e", positive=True)
    gap = x - 1 - sp.log(x)
    proof.equal("x - 1 - log x: its slope, of the sign of x - 1, so that 0 at x = 1 is the least", sp.diff(gap, x), (x - 1) / x)
    proof.equal("x - 1 - log x at x = 1", gap.subs(x, 1), sp.Integer(0))
    for count in (2, 3, 4):
        q = [*sp.symbols(f"q1:{count}", positive=True)]
        q.append(1 - sum(q))
        bounded = sum(share * (1 / (count * share) - 1) for share in q)
        proof.equal(
            f"Gibbs, {count} shares: H(q) - log {count} = sum q log(1/({count} q)) <= sum q (1/({count} q) - 1), with sum q = 1",
            sp.simplify(bounded),
            sp.Integer(0),
        )
    proof.step("any count n: the n terms are 1/n - q each, and a share of 0 adds 0 to H and 1/n to the bound: H(q) <= log n")
    k, others = sp.symbols("k m", integer=True, positive=True)
    size = k + others
    most = -e * sp.log(e) - (1 - e) * sp.log(1 - e) + (1 - e) * sp.log(k) + e * sp.log(others)
    proof.equal(
        "H(p) <= h(e) + (1-e) log k + e log(E-k), E - k = m, for p with mass e outside its top k", most, law.split(e, k, size, ctx=SYMBOLIC)
    )
    slope = sp.diff(most, e)
    odds = (1 - e) * others / (e * k)
    proof.equal(
        "its slope in e is log of the odds (1-e) m / (e k)", sp.expand(sp.expand_log(slope - sp.log(odds), force=True)), sp.Integer(0)
    )
    proof.equal("odds - 1, of the sign of (1 - k/E) - e", sp.cancel(odds - 1), sp.cancel(((1 - k / size) - e) * size / (e * k)))
    proof.step(
        "the top k hold at least k/E of the mass, so e <= 1 - k/E; there the bound rises in e, and e <= eps gives it at min(eps, 1 - k/E)"
    )
    inside, outside = (1 - e) / k, e / others
    entropy = -k * inside * sp.log(inside) - others * outside * sp.log(outside)
    proof.equal(
        "tight: k times (1-e)/k and m times e/m have this entropy",
        sp.expand(sp.expand_log(entropy, force=True)),
        sp.expand(sp.expand_log(law.split(e, k, size, ctx=SYMBOLIC), force=True)),
    )
    proof.equal(
        "where the even share inside is at least that outside iff e <= 1 - k/E: their difference",
        sp.cancel(inside - outside),
        sp.cancel(((1 - k / size) - e) * size / (k * others)),
    )
    capped = sp.expand_log(most.subs(e, others / size), force=True)
    proof.equal(
        "at the cap e = 1 - k/E the distribution is even",
        sp.simplify(sp.expand(sp.expand_log(sp.simplify(capped), force=True))),
        sp.log(size),
    )
    for eps, top, experts in CASES:
        shares = [sp.Rational(share) for share in attaining(Fraction(eps), top, experts)]
        entropy = -sum(share * sp.log(share) for share in shares if share)
        proof.equal(
            f"eps = {eps}, k = {top}, E = {experts}",
            sp.expand(sp.expand_log(entropy)),
            sp.expand(sp.expand_log(law.bound(eps, top, experts, ctx=SYMBOLIC))),
        )
    return proof.check()


def attaining(eps: Fraction, top: int, experts: int) -> list[Fraction]:
    """The distribution that attains the bound."""
    e = min(eps, 1 - Fraction(top, experts))
    return [(1 - e) / top] * top + [e / (experts - top) if experts > top else e] * (experts - top)


def certified(law: Law = LAW) -> Check:
    """The attained entropies against the claim, and the claim over a box of distributions of 3 experts."""
    proof = Derivation()
    tiny = BALL.number("1e-20")
    for eps, top, experts in CASES:
        shares = [BALL.number(share) for share in attaining(Fraction(eps), top, experts) if share]
        entropy = BALL.number(0) - sum(share * BALL.log(share) for share in shares)
        proof.ball(f"entropy attained at eps = {eps}, k = {top}, E = {experts}", entropy)
        claimed = law.bound(eps, top, experts, ctx=BALL)
        for text, gap in (("a bound: not below what is attained by 1e-20", claimed - entropy), ("tight: nor above", entropy - claimed)):
            proof.record(text, sign(gap + tiny, ">"))
    claimed = law.bound("1/10", 1, 3, ctx=BALL)

    def slack(a: Any, b: Any) -> Any:
        return claimed + BALL.number("1e-3") + sum(share * share.log() for share in (1 - a - b, a, b))

    box = ((Fraction(1, 1000), Fraction(1, 20)), (Fraction(1, 1000), Fraction(1, 20)))
    bound = positive_over(slack, box)
    proof.record(
        f"p = (1-a-b, a, b), a and b in [1/1000, 1/20], eps = 1/10: H(p) <= the bound + 1/1000, in {bound.boxes} boxes", bound.verdict
    )
    return proof.check()


DRAWS = 20_000
# Of an entropy of at most log 8: a sum of 8 rounded terms and the pow of the draws stay far below.
ROUND_OFF = 1e-12


@cache
def _draws(experts: int) -> np.ndarray:
    """Distributions from nearly even to nearly one-hot, sorted down."""
    random = generator("R5", str(experts))
    weights = random.standard_exponential((DRAWS, experts)) ** random.uniform(0, 8, (DRAWS, 1))
    return -np.sort(-weights / weights.sum(1, keepdims=True), axis=1)


@cache
def _climb(eps: str, top: int, experts: int) -> float:
    """The largest entropy by a solver that knows nothing of the answer, on distributions sorted down with the top's mass constrained."""
    from scipy.optimize import minimize

    start = _draws(experts)[0] * 0 + np.linspace(2, 1, experts)
    start[:top] += 100
    ordered = [{"type": "ineq", "fun": lambda p, i=i: p[i] - p[i + 1]} for i in range(experts - 1)]
    optimum = minimize(
        lambda p: float(np.sum(p * np.log(p))),
        start / start.sum(),
        jac=lambda p: np.log(p) + 1,
        bounds=[(1e-12, 1)] * experts,
        constraints=[
            *ordered,
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "ineq", "fun": lambda p: p[:top].sum() - 1 + float(Fraction(eps))},
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    return -float(optimum.fun)


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for experts, top in ((8, 2), (4, 1), (3, 3), (5, 3)):
        p = _draws(experts)
        entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)
        outside = 1 - p[:, :top].sum(1)
        for eps in ("1/20", "1/5", "7/10", "99/100"):
            allowed = entropy[outside <= float(Fraction(eps))]
            slack = float(law.bound(eps, top, experts, ctx=FLOAT) - allowed.max())
            proof.bounded(f"E = {experts}, k = {top}, eps = {eps}: least room among {allowed.size} draws", slack, ROUND_OFF, low=0.0)
    for eps, top, experts in (("1/10", 2, 8), ("3/10", 1, 4), ("9/10", 2, 8)):
        # SLSQP ends within sqrt(ftol) = 1e-7 of the maximiser, where the constraint's slope is at most log(odds) < 4.
        claimed = float(law.bound(eps, top, experts, ctx=FLOAT))
        proof.agrees(f"E = {experts}, k = {top}, eps = {eps}: maximised (the solver's 1e-6)", _climb(eps, top, experts), claimed, 1e-6)
    return proof.check()


def control() -> list[Wrong]:
    def wrong(change: Callable[..., Any]) -> Law:
        """The same change below the cap in both forms."""

        def split(eps: Any, k: Any, n: Any, *, ctx: Any) -> Any:
            return split_entropy(eps, k, n, ctx=ctx) + change(ctx.number(eps), ctx.number(k), ctx.number(n), ctx)

        def bound(eps: Any, k: Any, n: Any, *, ctx: Any) -> Any:
            if 0 < Fraction(eps) < 1 - Fraction(k, n):
                return split(eps, k, n, ctx=ctx)
            return entropy_bound(eps, k, n, ctx=ctx)

        return Law(bound, split)

    def uncapped(eps: Any, k: Any, n: Any, *, ctx: Any) -> Any:
        return split_entropy(eps, k, n, ctx=ctx) if 0 < Fraction(eps) < 1 and k < n else entropy_bound(eps, k, n, ctx=ctx)

    def zero_top(eps: Any, k: Any, n: Any, *, ctx: Any) -> Any:
        return ctx.log(ctx.number(n)) if k == n or Fraction(eps) == 0 else entropy_bound(eps, k, n, ctx=ctx)

    return [
        Wrong("log(k - 1) in place of log k", wrong(lambda e, k, n, ctx: (1 - e) * (ctx.log(k - 1) - ctx.log(k)) if k != 1 else k * 0)),
        Wrong("log(k + 1) in place of log k", wrong(lambda e, k, n, ctx: (1 - e) * (ctx.log(k + 1) - ctx.log(k)))),
        Wrong("log(E) in place of log(E - k)", wrong(lambda e, k, n, ctx: e * (ctx.log(n) - ctx.log(n - k)))),
        Wrong("without h(eps)", wrong(lambda e, k, n, ctx: e * ctx.log(e) + (1 - e) * ctx.log(1 - e))),
        Wrong("half of h: -eps log eps alone", wrong(lambda e, k, n, ctx: (1 - e) * ctx.log(1 - e))),
        Wrong("eps not capped at 1 - k/E", replace(LAW, bound=uncapped)),
        Wrong("log E at eps = 0", replace(LAW, bound=zero_top), ("symbolic", "certified"), "a bound too high at the single point eps = 0"),
    ]

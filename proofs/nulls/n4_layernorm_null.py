"""N4: LayerNorm takes the mean that an activation gives to all hidden units, and with it one dimension."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from sympy.polys.domains import QQ
from sympy.polys.rings import ring

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.layernorm_null import null_layernorm_mso
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="N4",
    kind=EQUAL,
    title="LayerNormed hidden vectors of independent experts overlap by 1/(f-1)",
    claim=r"\mathbb{E}\cos^2(\mathrm{LN}(h_1), \mathrm{LN}(h_2)) = 1/(f-1), \text{ and of } \sum_t a_t\mathrm{LN}(h_e(t))",
    hypotheses=(
        "LayerNorm with unit gain and zero bias, any eps >= 0",
        "given expert 2's vectors, the tokens and the routing, a permutation of expert 1's hidden units, of all its tokens together, keeps "
        "their law: rows of (W_up, W_gate) i.i.d. or Haar, one activation for all units, a router that does not tell the units apart; "
        "expert 2 is anything",
        "both normed vectors (or means of them) non-zero",
    ),
    box={"f": (2, None)},
    tight="an equality, attained order by order: at f = 2 every overlap is 1",
)


@dataclass(frozen=True)
class Law:
    """situation: "plain" is the hypothesis; the others break it, in the symbols and in the simulation."""

    mean: Callable[..., Any] = null_layernorm_mso
    situation: str = "plain"


LAW = Law()
GAIN = (3, 1, 1, 1, 1, 1)
BIAS = (2, 0, 0, -1, 0, 0)


def symbolic(law: Law = LAW) -> Check:
    """From the definition: the average of cos^2 over the orders of one side's entries, both sides centred."""
    proof = Derivation()
    proof.step("LN(h) = (h - mean h)/sqrt(var h + eps): a permutation of units commutes with it and with sums over tokens")
    proof.step("so a = sum_t a_t LN(h_1(t)) has exchangeable entries that sum to 0, and b of expert 2 sums to 0; b fixed from here on")
    for n in (2, 3, 4):
        proof.equal(
            f"f = {n}: cos^2 averaged over the orders of a, {law.situation}, for any a and b", _average(n, law.situation), _claim(law, n)
        )
    f, a2, b2 = sp.Symbol("f", integer=True, positive=True), sp.Symbol("A", positive=True), sp.Symbol("B", positive=True)
    proof.step(
        "any f, A = |a|^2, B = |b|^2: E a_p(i)^2 = A/f; sum_i a_i = 0 gives sum_{i != j} a_i a_j = -A, so E a_p(i) a_p(j) = -A/(f(f-1))"
    )
    proof.step("likewise sum_{i != j} b_i b_j = -B; E (sum_i a_p(i) b_i)^2 = (A/f) B + (-A/(f(f-1))) (-B)")
    second, cross = a2 / f, -a2 / (f * (f - 1))
    proof.equal("divided by A B", sp.simplify((second * b2 - cross * b2) / (a2 * b2)), law.mean(f, ctx=SYMBOLIC))
    return proof.check()


def _claim(law: Law, n: int) -> Any:
    return law.mean(sp.Integer(n), ctx=SYMBOLIC)


@cache
def _average(n: int, situation: str) -> Any:
    """cos^2 of centred vectors, averaged over the n! orders of one."""
    if situation == "plain":
        return _plain_average(n)
    a, b = sp.symbols(f"a1:{n + 1}"), sp.symbols(f"b1:{n + 1}")

    def normed(values: Any) -> list[Any]:
        if situation == "unequal means":
            values = [v + s for v, s in zip(values, BIAS, strict=False)]
        mean = sum(values) / n if situation != "RMSNorm" else sp.Integer(0)
        centred = [v - mean for v in values]
        if situation == "a shared gain":
            return [g * v for g, v in zip(GAIN, centred, strict=False)]
        return [v + s for v, s in zip(centred, BIAS, strict=False)] if situation == "a shared bias" else centred

    # Enough to refute: one rational point, far from any symmetry.
    point = {x: sp.Integer(k) for x, k in zip(a + b, (1, 5, 2, 9, 3, 1, 7, 4)[: 2 * n], strict=True)}
    a, b = (tuple(x.subs(point) for x in side) for side in (a, b))
    right = normed(b)
    total = 0
    for order in itertools.permutations(a):
        left = normed(order)
        term = sum(x * y for x, y in zip(left, right, strict=True)) ** 2
        # Gain, bias and unequal means make a's length depend on its order.
        total += term / sum(x * x for x in left)
    return sp.factor(total / sp.factorial(n) / sum(y * y for y in right))


def _plain_average(n: int) -> Any:
    """The same for generic entries of both, as polynomials: a's length is common to all orders."""
    polynomials, *entries = ring([f"{side}{i}" for side in "ab" for i in range(1, n + 1)], QQ)
    a, b = ([n * x - sum(side, polynomials.zero) for x in side] for side in (entries[:n], entries[n:]))
    orders = list(itertools.permutations(a))
    total = sum((_dot(order, b, polynomials.zero) ** 2 for order in orders), polynomials.zero)
    lengths = _dot(a, a, polynomials.zero) * _dot(b, b, polynomials.zero)
    whole, rest = divmod(total, lengths)
    return (whole.as_expr() + rest.as_expr() / lengths.as_expr()) / len(orders)


def _dot(left: Any, right: Any, zero: Any) -> Any:
    return sum((x * y for x, y in zip(left, right, strict=True)), zero)


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every f")


F, D, N_TOKENS, DRAWS = 6, 3, 4, 20_000


@cache
def _simulate(situation: str) -> dict[str, np.ndarray]:
    """cos^2 of two experts: expert 1 softplus with exponential W_up (neither symmetric nor centred), expert 2 a fixed ramp or another of
    the kind; at one token, and of means over tokens that a router picks by x and by expert 2."""
    random = generator("N4", situation)
    x = random.standard_normal((DRAWS, N_TOKENS, D)) + 1
    up = random.exponential(size=(DRAWS, 2, F, D)) - 0.5
    pre = np.einsum("sefd,snd->senf", up, x)
    hidden = np.logaddexp(0, pre)
    if situation == "unequal means":
        hidden = hidden + 2 * np.array(BIAS)
    mean = hidden.mean(3, keepdims=True) if situation != "RMSNorm" else 0.0
    normed = (hidden - mean) / np.sqrt((hidden - mean).var(3, keepdims=True) + 1e-5)
    if situation == "a shared gain":
        normed = normed * GAIN
    if situation == "a shared bias":
        normed = normed + BIAS
    ramp = np.arange(F) ** 2.0 - (np.arange(F) ** 2.0).mean()
    weights = (pre[:, 1].sum(2) > np.median(pre[:, 1].sum(2), axis=1)[:, None]) * (1 + x[..., 0] ** 2)
    means = np.einsum("sn,senf->sef", weights, normed)
    return {
        "one token": _cos2(normed[:, 0, 0], normed[:, 1, 0]),
        "one token, against a fixed ramp": _cos2(normed[:, 0, 0], ramp),
        "weighted means over routed tokens": _cos2(means[:, 0], means[:, 1]),
    }


def _cos2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) ** 2 / ((a * a).sum(-1) * (b * b).sum(-1))


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for reading, cos2 in _simulate(law.situation).items():
        proof.estimate(f"f = {F}, {law.situation}, {reading}: mean cos^2", *mean_and_sem(cos2), law.mean(F, ctx=FLOAT))
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("1/f: the lost dimension forgotten", replace(LAW, mean=lambda f, *, ctx: 1 / ctx.number(f))),
        Wrong("1/(f+1)", replace(LAW, mean=lambda f, *, ctx: 1 / (ctx.number(f) + 1))),
        Wrong("2/(f-1)", replace(LAW, mean=lambda f, *, ctx: 2 / (ctx.number(f) - 1))),
        Wrong("hidden units of unequal means, shared by the experts", replace(LAW, situation="unequal means")),
        Wrong("a gain shared by the experts", replace(LAW, situation="a shared gain")),
        Wrong("a bias shared by the experts", replace(LAW, situation="a shared bias")),
        Wrong("RMSNorm: no centring", replace(LAW, situation="RMSNorm")),
    ]

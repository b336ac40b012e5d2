"""I1: what expert and label seem to say of each other where they say nothing, by the number of tokens alone."""

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
from simgap.theory.routing_chance import BIAS_HYPOTHESES, information_bias
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="I1",
    kind=EQUAL,
    title="labels that say nothing of the experts seem to say (E - k)(D - l)/(2 n k l) nats",
    claim=r"\mathbb{E}\hat I = \frac{(E-k)(D-l)}{2nkl} + O(n^{-2}),\quad \mathbb{E}\chi^2 = \frac{n}{n-1}(E-k)(D-l) \text{ exactly}, "
    r"\chi^2 = \sum (N_{ed} - \bar N_{ed})^2/\bar N_{ed},\ \bar N_{ed} = N_e M_d/n",
    hypotheses=BIAS_HYPOTHESES,
    box={"n": (2, None), "k": (1, None), "l": (1, None)},
    tight="the chi-square is an equality at any n; the information to leading order",
)


@dataclass(frozen=True)
class Law:
    """situation: "tokens" is the hypothesis; "documents" breaks it, in the simulation."""

    bias: Callable[..., Any] = information_bias
    situation: str = "tokens"


LAW = Law()
# Experts and labels of 6 tokens, two or one to each.
EXPERTS = ((0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (0, 1))
SINGLE, DOUBLE = ((0,), (0,), (0,), (1,), (1,), (2,)), ((0, 1), (1, 2), (0, 2), (0, 1), (1, 2), (0, 1))


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    u = sp.Symbol("u")
    series = sp.series((1 + u) * sp.log(1 + u), u, 0, 3).removeO()
    proof.equal("(1 + u) log(1 + u), N_ed = (1 + u) times its mean: to second order", series, u + u**2 / 2)
    proof.step(
        "means are products of margins, which no order changes: sum of mean times u is 0, and I = chi^2/(2 N) to leading order, N = n k l"
    )
    n, k, each, first, second, third, label = sp.symbols("n k l N1 N2 N3 M1", positive=True)
    variance = _variance(first, label, n)
    proof.equal(
        "Var N_ed of N_e and M_d of n tokens, in any order",
        sp.factor(variance),
        sp.factor(first * (n - first) * label * (n - label) / (n**2 * (n - 1))),
    )
    loads, labels = (first, second, third, n * k - first - second - third), (label, n * each - label)
    total = sum(_variance(a, b, n) * n / (a * b) for a in loads for b in labels)
    claimed = law.bias(4, k, 2, n * k * each, each, ctx=SYMBOLIC) * 2 * n * k * each * n / (n - 1)
    proof.equal("4 experts of any loads, 2 labels of any: sum of variance over mean", sp.simplify(total - claimed), 0)
    for labels_of, count in ((SINGLE, 3), (DOUBLE, 3)):
        each_of = len(labels_of[0])
        pairs = 6 * 2 * each_of
        exact = law.bias(4, 2, count, pairs, each_of, ctx=SYMBOLIC) * 2 * pairs * sp.Rational(6, 5)
        proof.equal(
            f"all 720 orders of 6 tokens, {each_of} labels to each: E chi^2", sp.Rational(_over_orders(labels_of)), sp.nsimplify(exact)
        )
    return proof.check()


def _variance(load: Any, label: Any, n: Any) -> Any:
    """Of how many of `load` tokens get one of `label` labels: from E X and E X (X - 1)."""
    mean = load * label / n
    return sp.together(load * (load - 1) * label * (label - 1) / (n * (n - 1)) + mean - mean**2)


@cache
def _over_orders(labels: tuple[tuple[int, ...], ...]) -> Fraction:
    n = len(EXPERTS)
    loads = [sum(e in token for token in EXPERTS) for e in range(4)]
    sizes = [sum(d in token for token in labels) for d in range(3)]
    total = Fraction(0)
    for order in itertools.permutations(range(n)):
        for e, d in itertools.product(range(4), range(3)):
            met, mean = sum(e in EXPERTS[t] and d in labels[order[t]] for t in range(n)), Fraction(loads[e] * sizes[d], n)
            total += (met - mean) ** 2 / mean
    return total / factorial(n)


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly")


TOKENS, TABLES = 2000, 500
SHAPES = ((6, 2, 3, 1), (5, 1, 4, 1), (6, 3, 5, 2))


@cache
def _simulate(situation: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Plug-in information of tables of tokens whose experts and labels have unequal loads. documents: ten tokens each are alike."""
    random, (experts, k, count, each) = generator("I1", f"{situation} {shape}"), shape
    values = np.empty(TABLES)
    repeats = 10 if situation == "documents" else 1
    for at in range(TABLES):
        sides = [
            np.argsort(random.gumbel(size=(TOKENS // repeats, size)) + slope * np.linspace(-1, 1, size), 1)[:, :of].repeat(repeats, 0)
            for size, of, slope in ((experts, k, 0.4), (count, each, 0.2))
        ]
        number = (sides[0][:, :, None] * count + sides[1][:, None, :]).ravel()
        p = np.bincount(number, minlength=experts * count).reshape(experts, count) / len(number)
        values[at] = (p * np.log(np.where(p > 0, p, 1) / (p.sum(1, keepdims=True) * p.sum(0)))).sum()
    return values


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for shape in SHAPES:
        experts, k, count, each = shape
        claimed = law.bias(experts, k, count, TOKENS * k * each, each, ctx=FLOAT)
        # Terms of the next order are those of a cell's own count, 1/(12 x mean) each.
        error = experts * count * experts * count / (6 * (TOKENS * k * each) ** 2)
        text = f"E = {experts}, k = {k}, D = {count}, l = {each}: plug-in information of {TOKENS} {law.situation}"
        proof.estimate(text, *mean_and_sem(_simulate(law.situation, shape)), claimed, error)
    return proof.check()


def _miller_madow(n_experts: Any, top_k: Any, n_labels: Any, pairs: Any, labels_each: Any = 1, *, ctx: Any) -> Any:
    return information_bias(n_experts, 1, n_labels, pairs, 1, ctx=ctx)


def _all_cells(n_experts: Any, top_k: Any, n_labels: Any, pairs: Any, labels_each: Any = 1, *, ctx: Any) -> Any:
    return information_bias(n_experts, 0, n_labels, pairs, 0, ctx=ctx)


def _whole(n_experts: Any, top_k: Any, n_labels: Any, pairs: Any, labels_each: Any = 1, *, ctx: Any) -> Any:
    return 2 * information_bias(n_experts, top_k, n_labels, pairs, labels_each, ctx=ctx)


def control() -> list[Wrong]:
    return [
        Wrong("Miller and Madow's (E - 1)(D - 1), as if a token's experts were drawn apart", replace(LAW, bias=_miller_madow)),
        Wrong("E D: every cell is free", replace(LAW, bias=_all_cells)),
        Wrong("without the half", replace(LAW, bias=_whole)),
        Wrong(
            "tokens of a document are alike",
            replace(LAW, situation="documents"),
            ways=("numeric",),
            why="the derivation claims moments of tokens in any order",
        ),
    ]

"""T3: how far what meeting adds strays for independent experts: a degenerate U-statistic over experts, and skewed."""

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.nulls._situations import Law, broken, polynomial
from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.theory.other_tokens import gain_cumulants

STATEMENT = Statement(
    id="T3",
    kind=EQUAL,
    title="gains of pairs of independent experts are uncorrelated, and skewed around triangles",
    claim=r"\kappa_2 = \mathbb{E}\tfrac12\sum A_{ef}^2,\quad \kappa_3 = \mathbb{E}(\tfrac12\sum A_{ef}^3 + \operatorname{tr}A^3)",
    hypotheses=(
        "the gain of a pair is <x_e, x_f> plus noise of its own, x the expert's second moments less their mean",
        "x independent over experts, of mean 0; noise independent, symmetric",
    ),
    box={"E": (2, None)},
    premises=(computed("T2"),),
    tight="an equality",
)
LAYERS, E, NOISE = 15_000, 6, 0.5
SPECTRUM = np.array([1.0, 0.3, 0.1])

LAW = Law(gain_cumulants, "plain")
certified = polynomial


def symbolic(law: Law = LAW) -> Check:
    """From the definition, over all values of x that a law of three points gives, skewed: moments of the sum, and of the estimates."""
    proof = Derivation()
    proof.step("x of an expert that is in one gain of a product alone averages 0: what is left are squares, cubes and triangles")
    p, q = sp.symbols("p q", positive=True)
    points = ((p, q / (p + q)), (-q, p / (p + q)))
    for experts in (3, 4):
        moments: list[Any] = [0, 0, 0]
        estimates: list[Any] = [0, 0]
        for drawn in itertools.product(points, repeat=experts):
            chance = sp.prod(each[1] for each in drawn)
            table = np.array([[0 if i == j else drawn[i][0] * drawn[j][0] for j in range(experts)] for i in range(experts)], object)
            mean, second, third = law.of(table)
            moments = [total + chance * mean**power for total, power in zip(moments, (1, 2, 3), strict=True)]
            estimates = [total + chance * value for total, value in zip(estimates, (second, third), strict=True)]
        proof.equal(f"{experts} experts: the mean", sp.simplify(moments[0]), 0)
        for name, moment, estimate in zip(("second", "third"), moments[1:], estimates, strict=True):
            proof.equal(f"{experts} experts: the {name} cumulant", sp.simplify(moment), sp.simplify(estimate))
    return proof.check()


@cache
def _tables(situation: str) -> np.ndarray:
    random = generator("T3", situation)
    x = random.gamma(4, size=(LAYERS, E, 3)) / 2 - 2
    if situation == "experts that are alike":
        x = x + 0.3
    table = np.einsum("lei,i,lfi->lef", x, SPECTRUM, x)
    noise = np.triu(NOISE * random.standard_normal((LAYERS, E, E)), 1)
    table = table + noise + noise.transpose(0, 2, 1)
    table[:, np.arange(E), np.arange(E)] = 0
    return table


def numeric(law: Law = LAW) -> Check:
    """Skewed experts in a space of three directions, with noise: it is the difference that has to average 0."""
    proof = Derivation()
    cumulants = np.array([law.of(table) for table in _tables(law.situation)])
    mean, second, third = cumulants.T
    proof.estimate(f"{E} experts, {law.situation}: the mean", *mean_and_sem(mean), 0.0)
    proof.estimate("second cumulant, less the estimate", *mean_and_sem(mean**2 - second), 0.0)
    proof.estimate("third cumulant, less the estimate", *mean_and_sem(mean**3 - third), 0.0)
    return proof.check()


def _pairs_alone(table: Any) -> tuple[Any, Any, Any]:
    mean, second, _ = gain_cumulants(table)
    return mean, second, (np.asarray(table) ** 3).sum() / 2


def _twice(table: Any) -> tuple[Any, Any, Any]:
    mean, second, third = gain_cumulants(table)
    return mean, 2 * second, third


def control() -> list[Wrong]:
    return [
        Wrong("no triangles: a normal law", replace(LAW, of=_pairs_alone)),
        Wrong("each pair counted twice", replace(LAW, of=_twice)),
        *broken(LAW, "the derivation knows x of mean 0", ("experts that are alike",)),
    ]

"""S2: in untrained experts the overlap of weights says nothing of the overlap of outputs, on average; that is not independence."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.correlation import null_weight_output_covariance
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="S2",
    kind=EQUAL,
    title="at initialisation weight and output overlap are uncorrelated, though not always independent",
    claim=(
        r"\mathbb{E}[\text{output MSO}\mid W_{up}] = 1/d \Rightarrow \mathrm{Cov}(\text{weight MSO}, \text{output MSO}) = 0;\quad"
        r"\text{independent for Gaussian } W_{down} \text{ and one vector an expert};\quad"
        r"\text{Rademacher } W_{up}, W_{down}, d = f = 2, \mathrm{ReLU}, x = e_1: \mathrm{Cov}(w, o^2) = 134/14641"
    ),
    hypotheses=(
        "entries of each W_down i.i.d. and symmetric about 0, independent of the other experts', of every W_up, the tokens and the routing",
        "the weight overlap w is that of W_up, of any law; the output overlap o of any outputs of the two experts, as in N2",
        "both defined: a pair with a zero vector is left out",
        "independence: W_down Gaussian, and o that of one token's, or one mean, output of each expert; for an MSO, of all "
        "pairs of a trial: how many of them dead hidden vectors leave depends on W_up, and moves the spread",
    ),
    box={"d": (1, None), "f": (1, None)},
    tight="an equality; the counterexample to independence is exact",
)


@dataclass(frozen=True)
class Law:
    """covariance: of w and o. dependence: Cov(w, o^2) in the example. gaussian: the same for Gaussian W_down. down: their draw."""

    covariance: Callable[..., Any] = null_weight_output_covariance
    dependence: Fraction = Fraction(134, 14641)
    gaussian: Fraction = Fraction(0)
    down: str = "independent"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """Given everything but one W_down, its rows may be flipped and exchanged; then total covariance, and one exact example."""
    proof = Derivation()
    claimed = law.covariance(ctx=SYMBOLIC)
    rows = sp.Matrix(2, 3, sp.symbols("a1:7"))
    hidden = sp.Matrix(sp.symbols("h1:4"))
    flip = sp.diag(1, -1)
    proof.equal(
        "(S W) h - S (W h) for a flip S of a row: flips and exchanges of W_down's rows pass to its output",
        (flip * rows * hidden - flip * (rows * hidden)).norm(),
        sp.Integer(0),
    )
    for d in (2, 3):
        y, other = sp.symbols(f"y1:{d + 1}"), sp.symbols(f"v1:{d + 1}")
        group = [(signs, order) for signs in itertools.product((1, -1), repeat=d) for order in itertools.permutations(range(d))]
        total = sum(sum(s * y[i] * v for s, i, v in zip(signs, order, other, strict=True)) ** 2 for signs, order in group)
        average = sp.factor(sp.expand(total) / len(group)) / (sum(a * a for a in y) * sum(b * b for b in other))
        proof.equal(
            f"d = {d}: cos^2 averaged over the {len(group)} flips and orders, for every output y and every other v",
            sp.cancel(average),
            sp.Rational(1, d),
        )
    proof.step(
        "any d: cross terms turn with one sign, squares exchange: E[o | W_up, tokens, routing, other W_down] = 1/d on the defined pairs"
    )
    d = sp.Symbol("d", positive=True)
    w, weight = sp.symbols("w1:4"), sp.symbols("p1:3", positive=True)
    chances = (*weight, 1 - sum(weight))
    mean = sum(p * x for p, x in zip(chances, w, strict=True))
    product = sum(p * x * (1 / d) for p, x in zip(chances, w, strict=True))
    proof.equal("E[w E[o | W_up]] - E w E o, for w of any (three) values", sp.expand(product - mean / d), claimed)
    first, second = _example(law.down)
    proof.equal(f"the example, all {16**4} cases, {law.down} W_down: Cov(w, o)", sp.Rational(first), claimed)
    proof.equal("and Cov(w, o^2): not 0, so not independent", sp.Rational(second), sp.Rational(law.dependence))
    t, h = sp.symbols("t1:3", real=True), sp.symbols("h1:4", real=True)
    a, s = sp.Symbol("a", real=True), sp.Symbol("s", positive=True)
    u = sp.Symbol("u", real=True)
    one = sp.simplify(sp.integrate(sp.exp(sp.I * u * a) * sp.exp(-a * a / (2 * s * s)) / (s * sp.sqrt(2 * sp.pi)), (a, -sp.oo, sp.oo)))
    proof.equal("Gaussian W_down: E exp(i u A) of an entry", one, sp.exp(-(u**2) * s**2 / 2))
    joint = sp.prod([one.subs(u, x * y) for x in t for y in h])
    length2 = sum(x * x for x in t) * sum(y * y for y in h)
    proof.equal(
        "E exp(i t'y) given h depends on |t| |h| alone: y / |y| is uniform whatever h is, so o is independent of W_up",
        sp.expand(sp.log(joint / sp.exp(-(s**2) * length2 / 2)).expand(force=True)),
        sp.Integer(0),
    )
    length, angle = sp.symbols("L theta", positive=True)
    given = sp.integrate(((length * sp.cos(angle)) ** 2 / length**2) ** 2, (angle, 0, 2 * sp.pi)) / (2 * sp.pi)
    proof.step("in the example, y = L (cos theta, sin theta) with L from |h| and theta uniform: E[o^2 | h]", given)
    proof.equal("so Cov(w, o^2) = (E[o^2 | h], a constant) Cov(w, 1): its slope in |h|", sp.diff(given, length), sp.Rational(law.gaussian))
    return proof.check()


def _outputs(hidden: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """W h over all sign matrices W of two rows."""
    readings = [sum(s * x for s, x in zip(signs, hidden, strict=True)) for signs in itertools.product((-1, 1), repeat=2)]
    return ((a, b) for a in readings for b in readings)


@cache
def _overlaps(first: tuple[int, ...], second: tuple[int, ...], down: str) -> Counter:
    """The law of o for two hidden vectors, in counts; undefined overlaps left out."""
    counts: Counter = Counter()
    outputs = list(_outputs(first)), list(_outputs(second))
    pairs = zip(*outputs, strict=True) if down == "tied" else itertools.product(*outputs)
    for y, v in pairs:
        lengths = (y[0] ** 2 + y[1] ** 2) * (v[0] ** 2 + v[1] ** 2)
        if lengths:
            counts[Fraction((y[0] * v[0] + y[1] * v[1]) ** 2, lengths)] += 1 if down != "tied" else 16
    return counts


@cache
def _example(down: str) -> tuple[Fraction, Fraction]:
    """Cov(w, o) and Cov(w, o^2): W_up and W_down Rademacher, d = f = 2, ReLU, x = e1, so that h is the first column of W_up, rectified."""
    counts: Counter = Counter()
    for up in itertools.product((-1, 1), repeat=4):
        for other in itertools.product((-1, 1), repeat=4):
            w = Fraction(sum(a * b for a, b in zip(up, other, strict=True)) ** 2, 16)
            hidden = [tuple(max(x, 0) for x in matrix[:2]) for matrix in (up, other)]
            for o, count in _overlaps(hidden[0], hidden[1], down).items():
                counts[w, o] += count
    total = sum(counts.values())

    def mean(power_w: int, power_o: int) -> Fraction:
        return sum((w**power_w * o**power_o * count for (w, o), count in counts.items()), Fraction(0)) / total

    return mean(1, 1) - mean(1, 0) * mean(0, 1), mean(1, 2) - mean(1, 0) * mean(0, 2)


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("expectations over finite groups and one finite example, all exact")


DRAWS = 200_000
WIDE = 40_000


@cache
def _small(down: str, entries: str) -> tuple[np.ndarray, np.ndarray]:
    """w and o of the example, with signs or normals in W_down; undefined pairs left out."""
    random = generator("S2", f"small {down} {entries}")
    up = random.choice([-1.0, 1.0], (2, DRAWS, 2, 2))
    draw = random.standard_normal if entries == "gaussian" else lambda size: random.choice([-1.0, 1.0], size)
    matrices = draw((2, DRAWS, 2, 2))
    if down == "tied":
        matrices[1] = matrices[0]
    hidden = np.maximum(up[..., 0], 0)
    return _overlap(up, np.einsum("enij,enj->eni", matrices, hidden))


@cache
def _large(down: str) -> tuple[np.ndarray, np.ndarray]:
    """d = 4, f = 8: experts whose W_up share a part of random size, uniform W_down, ReLU, a Gaussian token."""
    random = generator("S2", f"large {down}")
    share = random.uniform(0, 1, (WIDE, 1, 1))
    common = random.standard_normal((WIDE, 8, 4))
    up = share * common + (1 - share) * random.standard_normal((2, WIDE, 8, 4))
    matrices = random.uniform(-1, 1, (2, WIDE, 4, 8))
    if down == "tied":
        matrices[1] = matrices[0]
    hidden = np.maximum(np.einsum("enij,nj->eni", up, random.standard_normal((WIDE, 4))), 0)
    return _overlap(up, np.einsum("enij,enj->eni", matrices, hidden))


def _overlap(up: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = up.reshape(2, up.shape[1], -1)
    pairs = []
    for first, second in (weights, outputs):
        lengths = (first**2).sum(1) * (second**2).sum(1)
        pairs.append(((first * second).sum(1) ** 2, lengths))
    defined = (pairs[0][1] > 0) & (pairs[1][1] > 0)
    w, o = (top[defined] / below[defined] for top, below in pairs)
    return w, o


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    claimed = float(law.covariance(ctx=FLOAT))
    for name, (w, o) in (("the example", _small(law.down, "signs")), ("d = 4, f = 8, uniform W_down, related W_up", _large(law.down))):
        # Centring w by its sample mean moves a covariance by O(1/draws) of itself.
        proof.estimate(f"{name}: Cov(w, o)", *mean_and_sem((w - w.mean()) * (o - o.mean())), claimed)
    w, o = _small(law.down, "signs")
    proof.estimate("the example: Cov(w, o^2)", *mean_and_sem((w - w.mean()) * (o**2 - (o**2).mean())), float(law.dependence))
    w, o = _small("independent", "gaussian")
    proof.estimate(
        "the example with Gaussian W_down: Cov(w, o^2)", *mean_and_sem((w - w.mean()) * (o**2 - (o**2).mean())), float(law.gaussian)
    )
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("Cov(w, o) = E w E o = 1/8 at d = f = 2: not centred", replace(LAW, covariance=lambda *, ctx: ctx.number(Fraction(1, 8)))),
        Wrong("Cov(w, o) = 1/100", replace(LAW, covariance=lambda *, ctx: ctx.number(Fraction(1, 100)))),
        Wrong("independent under Rademacher W_down too", replace(LAW, dependence=Fraction(0))),
        Wrong("dependent under Gaussian W_down as under Rademacher", replace(LAW, gaussian=LAW.dependence)),
        Wrong("broken: the experts share one W_down", replace(LAW, down="tied")),
    ]

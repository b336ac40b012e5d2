"""T10: a pair of experts is judged by its place among all pairs, for errors over tokens do not test independence."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.nulls._situations import broken
from proofs.statement import UPPER, Check, Derivation, Statement, Wrong, cited, computed, generator, mean_and_sem
from simgap.certify import BALL
from simgap.theory.floats import FLOAT
from simgap.theory.single_pairs import HYPOTHESES, WIDER, harmonic, place_p
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="T10",
    kind=UPPER,
    title="of independent experts no pair stands out of all pairs more often than its adjusted p says",
    claim=r"P(X > \rho M) = \prod_{i=k-j+1}^{k} \tfrac{i}{i+\rho} \text{ of exponential } X, M \text{ the } j\text{-th of } k;\quad"
    r" P(\min_i \tilde p_i \le q) \le q;\quad \mathbb{E} D_{ef} = 0,\ \mathrm{Var}\,D_{ef} \not\to 0 \text{ as } n \to \infty",
    hypotheses=(
        *HYPOTHESES,
        "for the adjusted p alone: every p valid, P(p <= a) <= a",
        "for a pair's own p under signs: law T0's, over all choices of them",
    ),
    box={"pairs": (10, None)},
    premises=(
        computed("T2"),
        cited("Benjamini and Yekutieli, Ann. Statist. 29 (2001), theorem 1.3"),
        cited("A. Renyi (1953): order statistics"),
    ),
    tight="the place of exponential scores is exact; some dependence of valid p's attains q",
)


@dataclass(frozen=True)
class Law:
    """place: p of a score from a ratio of excesses. adjust: what a level is divided by. judge: of what p is made. situation: how gains of
    pairs come about."""

    place: Callable[..., Any] = place_p
    adjust: Callable[..., Any] = harmonic
    judge: str = "places"
    situation: str = "weights"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    rho = sp.Symbol("rho", positive=True)
    proof.step("X exponential of mean 1: P(X > rho M) = E e^(-rho M), M the j-th of k, by its density")
    for j, k in ((1, 2), (2, 4), (3, 5)):
        proof.equal(f"j = {j}, k = {k}", _exceeds(rho, j, k), law.place(rho, j, k, ctx=SYMBOLIC))
    for m in (2, 3, 5):
        worst = _worst(m, law.adjust(m, ctx=SYMBOLIC))
        proof.equal(
            f"{m} valid p's that depend on each other in the worst way: some is adjusted to at most q = 1/100", worst, sp.Rational(1, 100)
        )
    proof.step(
        "and never more: P <= sum_i sum_k P(p_i in (t_{k-1}, t_k])/k, t_k = k q/(m H), by parts at most m sum_k (t_k - t_{k-1})/k = q"
    )
    mean, square, held = _two_functions()
    proof.equal("experts that are functions on two kinds of token: E D over them", mean, 0)
    proof.holds(f"E D^2 = {square} on any number of tokens", square == sp.Rational(1, 16))
    proof.holds(
        f"so that errors over tokens {'do not ' * (law.judge != 'errors')}test independence", (held == 0) == (law.judge == "errors")
    )
    values = sorted(sum(s * a for s, a in zip(signs, (3, 2, 1, 1), strict=True)) ** 2 for signs in itertools.product((1, -1), repeat=4))
    ps = [Fraction(sum(other >= value for other in values), len(values)) for value in values]
    proof.holds(
        "a pair's own p over all signs of four coordinates: at most a with a chance of at most a, and at least 2/2^4",
        all(Fraction(sum(p <= a for p in ps), len(ps)) <= a for a in ps) and min(ps) >= Fraction(2, 16),
    )
    return proof.check()


@cache
def _exceeds(rho: Any, j: int, k: int) -> Any:
    """int e^(-rho m) k!/((j-1)!(k-j)!) (1 - e^-m)^(j-1) e^(-(k-j+1) m) dm, power by power of e^-m."""
    factor = sp.Rational(math.factorial(k), math.factorial(j - 1) * math.factorial(k - j))
    return sp.factor(factor * sum((-1) ** i * sp.binomial(j - 1, i) / (rho + k - j + 1 + i) for i in range(j)))


def _worst(m: int, divisor: Any) -> Any:
    """With chances of their own some k of m p's, any as likely as others, lie in (t_{k-1}, t_k], t_k = k q/(m divisor), and the others at
    1: as often as each p there still is uniform. Then k are at most t_k, and the steps find them."""
    width = sp.Rational(1, 100) / (m * divisor)
    return sum(width * m / sp.Integer(k) for k in range(1, m + 1))


def _two_functions() -> tuple[Any, Any, Any]:
    """Two kinds of token, each half of them; an expert says one of two axes on each. E D, E D^2, and the least D^2 that is not 0 of two
    experts that are held, whose error over tokens is none."""
    experts = list(itertools.product((0, 1), repeat=2))
    gains = []
    for e, f in itertools.product(experts, repeat=2):
        same = sp.Rational(sum(a == b for a, b in zip(e, f, strict=True)), 2)
        gains.append(same - sp.Rational(sum(a == b for a, b in itertools.product(e, f)), 4))
    return sum(gains) / 16, sum(gain**2 for gain in gains) / 16, max(gain**2 for gain in gains)


def certified(law: Law = LAW) -> Check:
    """Of many pairs whose scores are squares of normal ones: the p of their places is above their tail, from 2 to 50, where it is 1e-12."""
    proof = Derivation()
    tail = lambda x: 1 - BALL.erf(BALL.sqrt(BALL.number(x) / 2))  # noqa: E731
    start, middle = "0.45493642311957", "1.32330369693147"
    proof.within("the median", tail(start) - BALL.number(Fraction(1, 2)), "1e-13")
    proof.within("the upper quartile", tail(middle) - BALL.number(Fraction(1, 4)), "1e-13")
    excess = (BALL.number(middle) - BALL.number(start)) * BALL.number(str(WIDER))
    edges = [Fraction(n, 20) for n in range(40, 1001)]
    lower = [(BALL.number(x) - BALL.number(start)) / excess for x in edges]
    # Both fall: the tail at the left end of a piece is held against p at its right end.
    without_end = [BALL.exp(-ratio * BALL.log(2)) / 2 for ratio in lower]
    proof.step("sum 1/i over the larger half of k is below log 2: prod i/(i + rho) is above 2^-rho, to which it falls with k")
    above = all((p - tail(left)).lower() > 0 for left, p in zip(edges, without_end[1:], strict=False))
    proof.holds("of pairs without number, p is above the tail on every piece", above)
    places = [law.place(ratio, 200, 400, ctx=BALL) / 2 for ratio in lower[::40]]
    proof.holds("of 800 it is larger", all((place - p).lower() > 0 for place, p in zip(places, without_end[::40], strict=True)))
    proof.ball("p at 50", without_end[-1])
    return proof.check()


E, D, LAYERS = 8, 64, 4000
LEVELS = (0.05, 0.01)


@cache
def _gains(situation: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each layer and pair of E experts: what it overlaps by over chance, and the error of that over tokens, of another layer if none."""
    random = generator("T10", situation)
    left, right = np.triu_indices(E, 1)
    if situation in ("weights", "a pair of copies"):
        units = random.standard_normal((LAYERS, E, D))
        if situation == "a pair of copies":
            units[:, 1] = units[:, 0] + 0.1 * units[:, 1]
        units /= np.linalg.norm(units, axis=-1, keepdims=True)
        return np.einsum("lpd,lpd->lp", units[:, left], units[:, right]) ** 2, np.full((LAYERS, len(left)), np.nan)
    if situation == "one skewed direction is all that experts stray by":
        x = random.standard_normal((LAYERS, E)) ** 2 - 1
        return x[:, left] * x[:, right], np.full((LAYERS, len(left)), np.nan)
    return _on_tokens(random, 3 if situation == "three tokens, one coordinate 100 times as large" else 200)


def _on_tokens(random: np.random.Generator, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear experts of 8 coordinates, one 100 times as large, on a pair's own tokens; other tokens are the next ones around."""
    layers, pairs = LAYERS // (40 if tokens > 3 else 4), list(itertools.combinations(range(E), 2))
    weights = random.standard_normal((layers, E, 8, 8)) * np.array([100.0 if tokens == 3 else 1.0, *[1.0] * 7])[:, None]
    gains, errors = np.empty((2, layers, len(pairs)))
    for at, (e, f) in enumerate(pairs):
        x = random.standard_normal((layers, tokens, 8))
        u, v = (np.einsum("lij,ltj->lti", weights[:, g], x) for g in (e, f))
        u, v = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (u, v))
        each = (u * v).sum(-1) ** 2 - (u * np.roll(v, 1, 1)).sum(-1) ** 2
        gains[:, at], errors[:, at] = each.mean(1), each.std(1) / tokens**0.5
    return gains, errors


def _any(ps: np.ndarray, level: float, divisor: float) -> np.ndarray:
    """Whether a row's steps find something."""
    steps = level * np.arange(1, ps.shape[1] + 1) / (ps.shape[1] * divisor)
    return (np.sort(ps, 1) <= steps).any(1)


def _places(scores: np.ndarray, law: Law) -> np.ndarray:
    """Half of the scores begin the tail, and half of those their median: by their excess over that, times WIDER."""
    ordered, last = np.sort(scores, 1), scores.shape[1] - 1
    start, middle = round(last / 2), round(last * 3 / 4)
    begin, excess = ordered[:, [start]], WIDER * (ordered[:, [middle]] - ordered[:, [start]])
    p = law.place(np.maximum(scores - begin, 0) / excess, middle - start, last - start, ctx=FLOAT) / 2
    return np.where(scores > begin, p, 1.0)


def numeric(law: Law = LAW) -> Check:
    """Experts that one vector stands for; and p of one more exponential score, which is uniform."""
    proof = Derivation()
    gains, errors = _gains("many tokens" if law.judge == "errors" else law.situation)
    ps = np.vectorize(lambda z: math.erfc(z / 2**0.5) / 2)(gains / errors) if law.judge == "errors" else _places(gains, law)
    divisor = float(law.adjust(gains.shape[1], ctx=FLOAT))
    for level in LEVELS:
        # At no finding at all the error is that of the level itself.
        mean, sem = mean_and_sem(_any(ps, level, divisor))
        sem = max(sem, (level * (1 - level) / len(ps)) ** 0.5)
        proof.bounded(f"{E} experts, {law.situation}, by {law.judge}: some pair stands out at {level}", mean, sem, high=level)
    drawn = generator("T10", "exponential").exponential(size=(100_000, 15))
    others = np.sort(drawn[:, :14], 1)
    small = np.asarray(law.place(drawn[:, 14] / others[:, 6], 7, 14, ctx=FLOAT)) <= 0.01
    proof.estimate("a score against the seventh of 14 others: p <= 0.01", *mean_and_sem(small), 0.01)
    return proof.check()


def _known(ratio: Any, first: int, count: int, *, ctx: Any) -> Any:
    """As if a few scores knew the median of their law."""
    return ctx.exp(-ctx.number(ratio) * ctx.log(ctx.number(2)))


def control() -> list[Wrong]:
    return [
        Wrong(
            "an exponential by the median of few scores",
            replace(LAW, place=_known),
        ),
        Wrong(
            "Benjamini and Hochberg's steps, however p's depend",
            replace(LAW, adjust=lambda count, *, ctx: ctx.number(1)),
            ("symbolic",),
            "pairs are far from the worst dependence",
        ),
        Wrong("errors over tokens", replace(LAW, judge="errors"), ("symbolic", "numeric"), "the number is of places"),
        *broken(
            LAW,
            "the derivation takes p's as valid, and the number is of squares of normal scores",
            (
                "a pair of copies",
                "one skewed direction is all that experts stray by",
                "three tokens, one coordinate 100 times as large",
            ),
        ),
    ]

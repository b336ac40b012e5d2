"""T6: given the sizes of entries, overlaps spread as N1 says with the vectors' own moments, token by token and pair by pair."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.exchangeable_spread import HYPOTHESES, blocks_moments, centred_overlap_covariance, overlap_covariance
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.weight_null import null_variance

STATEMENT = Statement(
    id="T6",
    kind=EQUAL,
    title="given the sizes of entries, overlaps spread by the vectors' own fourth moments",
    claim=(
        r"\mathbb{E}\cos^2 = \tfrac1N,\ \mathrm{Cov}(\cos^2(t), \cos^2(t')) = \tfrac{ab}N + \tfrac{(1-a)(1-b) + 2(g-a)(h-b)}{N(N-1)} -"
        r" \tfrac1{N^2},\ a = \sum_i u_i^2u_i'^2,\ g = (u'u)^2,\ b, h \text{ of the other expert};\ t = t':\ NAB +"
        r" \tfrac{3N(1/N-A)(1/N-B)}{N-1} - \tfrac1{N^2},\ A = \tfrac1N\sum_iu_i^4;\ \text{pairs that share an expert are uncorrelated}"
    ),
    hypotheses=(*HYPOTHESES, "after LayerNorm, mean 1/(N-1): orders alone, each vector summing to 0", "no vector is zero; N >= 2, or 4"),
    box={"N": (2, None)},
    tight="equalities for any sizes; u of equal sizes gives Var = 0, two axes 1/N - 1/N^2, with a mass of 1 - 1/N at exactly 0",
)


@dataclass(frozen=True)
class Law:
    """situation: "plain" is the hypothesis; the other breaks it, in the simulation."""

    signed: Callable[..., Any] = overlap_covariance
    centred: Callable[..., Any] = centred_overlap_covariance
    blocks: Callable[..., tuple[Any, Any]] = blocks_moments
    situation: str = "plain"


LAW = Law()
N = sp.Symbol("N", positive=True)


def _partitions(items: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    if not items:
        yield ()
        return
    for rest in _partitions(items[1:]):
        yield ((items[0],), *rest)
        for i, block in enumerate(rest):
            yield (*rest[:i], (items[0], *block), *rest[i + 1 :])


def _distinct(blocks: tuple[tuple[int, ...], ...], power: Callable[[tuple[int, ...]], Any]) -> Any:
    """The sum over distinct indices, one to a block, of products of entries, from power sums: Moebius inversion over coarser partitions."""
    total = 0
    for merged in _partitions(tuple(range(len(blocks)))):
        sign = sp.prod([(-1) ** (len(part) - 1) * sp.factorial(len(part) - 1) for part in merged])
        total += sign * sp.prod([power(tuple(sorted(sum((blocks[i] for i in part), ())))) for part in merged])
    return total


@cache
def _derived(signs: bool) -> tuple[Any, tuple[Any, ...]]:
    """Cov(cos^2(t), cos^2(t')) averaged over orders of b's entries, and over its signs or for vectors that sum to 0, for any N."""
    symbols = sp.symbols("a b gamma eta", positive=True)

    def power(shared: Any, product: Any, name: str) -> Callable[[tuple[int, ...]], Any]:
        def of(places: tuple[int, ...]) -> Any:
            # Places 0 and 1 are u's, 2 and 3 those of u on the other token; a power sum that is met by none is left as a symbol.
            first = sum(place < 2 for place in places)
            kind = first, len(places) - first
            if len(places) == 1:
                return 0
            return {(2, 0): 1, (0, 2): 1, (1, 1): product, (2, 2): shared}.get(kind, sp.Symbol(f"{name}{kind[0]}{kind[1]}"))

        return of

    of_u, of_v = power(symbols[0], symbols[2], "u"), power(symbols[1], symbols[3], "v")
    second = 0
    for blocks in _partitions((0, 1, 2, 3)):
        # A fair sign leaves even powers alone.
        if signs and any(len(block) % 2 for block in blocks):
            continue
        second += _distinct(blocks, of_u) * _distinct(blocks, of_v) / sp.prod([N - i for i in range(len(blocks))])
    return sp.expand(second) - (1 / N**2 if signs else 1 / (N - 1) ** 2), symbols


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    proof.step("v's entries in a uniform order: an average of prod v_pi(i) over distinct i is a sum over distinct indices, over (N)_k")
    proof.step(
        "cos^2(t) cos^2(t') has four factors; which of them share an index: 15 partitions, of which signs leave those of even blocks"
    )
    for signs, form, name in ((True, law.signed, "signs and orders"), (False, law.centred, "orders, sums of 0")):
        derived, (a, b, gamma, eta) = _derived(signs)
        claimed = form(N, a, b, gamma**2, eta**2, ctx=SYMBOLIC)
        proof.holds(f"any N, {name}: the covariance of two tokens", sp.cancel(derived - claimed) == 0)
        proof.holds(f"N = 4, {name}: by every one of them, at rational unit vectors", _enumerated(signs) == _at_rational(form, signs))
    a, b = sp.symbols("A B", positive=True)
    n1 = N * a * b + 3 * N * (1 / N - a) * (1 / N - b) / (N - 1) - 1 / N**2
    proof.holds("one token, a = N A: the variance of law N1", sp.cancel(law.signed(N, N * a, N * b, ctx=SYMBOLIC) - n1) == 0)
    proof.step("three experts: given u, E cos^2(u, w) = 1/N for any u, so pairs that share an expert are uncorrelated")
    _blocks(proof, law)
    return proof.check()


def _blocks(proof: Derivation, law: Law) -> None:
    """cos = sum_r x_r with independent fair signs of the x_r: of (sum x_r)^4 stay x_r^4 and 6 x_r^2 x_q^2."""
    for count in (1, 2, 3):
        n, s, t, f, g = (sp.symbols(f"{name}1:{count + 1}", positive=True) for name in ("N", "s", "t", "f", "g"))
        seconds = [x * y / size for size, x, y in zip(n, s, t, strict=True)]
        # A block's own fourth moment is that of unit vectors times (s t)^2.
        fourths = [
            (x * y) ** 2 * (overlap_covariance(size, p / x**2, q / y**2, ctx=SYMBOLIC) + 1 / size**2)
            for size, x, y, p, q in zip(n, s, t, f, g, strict=True)
        ]
        mean = sum(seconds)
        variance = sum(fourths) + 6 * sum(x * y for x, y in itertools.combinations(seconds, 2)) - mean**2
        pairs = list(zip(s, t, strict=True)), list(zip(f, g, strict=True))
        for name, derived, claimed in zip(("mean", "variance"), (mean, variance), law.blocks(n, *pairs, ctx=SYMBOLIC), strict=True):
            proof.holds(f"{count} blocks: {name}", sp.cancel(derived - claimed) == 0)


# On two tokens, of two experts: any, and such that sum to 0.
VECTORS = {
    True: ([[1, 1, 1, 1], [1, 5, 1, 3]], [[3, 1, 5, 1], [1, 7, 5, 5]]),
    False: ([[1, 1, -1, -1], [5, -3, -3, 1]], [[1, 1, 1, -3], [7, -1, -5, -1]]),
}


def _cos2(u: Any, v: Any) -> Fraction:
    dot = sum(x * y for x, y in zip(u, v, strict=True))
    return Fraction(dot * dot, sum(x * x for x in u) * sum(y * y for y in v))


@cache
def _enumerated(signs: bool) -> Fraction:
    u, v = VECTORS[signs]
    flips = list(itertools.product((1, -1), repeat=4)) if signs else [(1,) * 4]
    products, sums = Fraction(0), [Fraction(0)] * 2
    moves = list(itertools.product(flips, itertools.permutations(range(4))))
    for flip, order in moves:
        values = [_cos2(u[t], [flip[i] * v[t][i] for i in order]) for t in (0, 1)]
        products += values[0] * values[1]
        sums = [total + value for total, value in zip(sums, values, strict=True)]
    return products / len(moves) - sums[0] * sums[1] / len(moves) ** 2


def _at_rational(form: Callable[..., Any], signs: bool) -> Fraction:
    u, v = VECTORS[signs]
    return form(Fraction(4), _shared(*u), _shared(*v), _cos2(*u), _cos2(*v), ctx=FLOAT)


def _shared(x: list[int], y: list[int]) -> Fraction:
    return Fraction(sum(p * p * q * q for p, q in zip(x, y, strict=True)), sum(p * p for p in x) * sum(q * q for q in y))


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("rational laws, derived exactly for every N")


DRAWS, WIDTH = 30_000, 24


@cache
def _simulate(kind: str) -> np.ndarray:
    """Unit vectors of two experts on two tokens, (draws, expert, token, WIDTH)."""
    random = generator("T6", kind)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal((DRAWS, *shape))

    if kind in ("SwiGLU", "SiLU, LayerNormed"):
        x = normal(1, 3, 2)
        x[..., 1] = 0.8 * x[..., 0] + 0.6 * x[..., 1]
        gate, up = ((normal(2, WIDTH, 3) @ x) for _ in range(2))
        h = gate / (1 + np.exp(-gate))
        h = h * up if kind == "SwiGLU" else h - h.mean(2, keepdims=True)
        h = h.transpose(0, 1, 3, 2)
    else:
        h = random.standard_t(2, (DRAWS, 2, 1, WIDTH)) + 0.5 * normal(2, 2, WIDTH)
        if kind == "mostly zeros":
            h = h * random.permuted(np.broadcast_to(np.arange(WIDTH) < 3, (DRAWS, 2, 1, WIDTH)), axis=3)
        if kind == "large on the same coordinates":
            h[..., :4] *= 10
    return h / np.linalg.norm(h, axis=3, keepdims=True)


def numeric(law: Law = LAW) -> Check:
    """The law is of the sizes of each draw, so it is the difference that has to average 0."""
    proof = Derivation()
    kinds = ("SwiGLU", "heavy tails", "mostly zeros", "SiLU, LayerNormed") if law.situation == "plain" else (law.situation,)
    for kind in kinds:
        units, normed = _simulate(kind), kind.endswith("LayerNormed")
        mean, form = (1 / (WIDTH - 1), law.centred) if normed else (1 / WIDTH, law.signed)
        apart = (units[:, 0] * units[:, 1]).sum(2) ** 2 - mean
        proof.estimate(f"{kind}: mean cos^2, less the law's", *mean_and_sem(apart[:, 0]), 0.0)
        for name, (t, other) in (("variance", (0, 0)), ("covariance of two tokens", (0, 1))):
            shared = (units[:, :, t] ** 2 * units[:, :, other] ** 2).sum(2)
            own = (units[:, :, t] * units[:, :, other]).sum(2) ** 2
            claimed = form(WIDTH, *shared.T, *own.T, ctx=FLOAT)
            proof.estimate(f"{kind}: {name}, less the law's", *mean_and_sem(apart[:, t] * apart[:, other] - claimed), 0.0)
    return proof.check()


def control() -> list[Wrong]:
    blind = "the derivation knows the hypothesis only"

    def round_space(n: Any, a: Any, b: Any, own: Any = 1, other: Any = 1, *, ctx: Any) -> Any:
        return null_variance(n, ctx=ctx) + 0 * a * b

    def apart(n: Any, a: Any, b: Any, own: Any = 1, other: Any = 1, *, ctx: Any) -> Any:
        """Tokens of which only sizes are alike."""
        n, a, b = (ctx.number(each) for each in (n, a, b))
        return overlap_covariance(n, a, b, own, other, ctx=ctx) - 2 * (own - a) * (other - b) / (n * (n - 1))

    def signed(n: Any, a: Any, b: Any, own: Any = 1, other: Any = 1, *, ctx: Any) -> Any:
        n = ctx.number(n)
        return overlap_covariance(n, a, b, own, other, ctx=ctx) + 1 / n**2 - 1 / (n - 1) ** 2

    def alone(widths: Any, shares: Any, fourths: Any, *, ctx: Any) -> tuple[Any, Any]:
        mean, variance = blocks_moments(widths, shares, fourths, ctx=ctx)
        return mean, variance - mean * mean + sum((s * t / n) ** 2 for n, (s, t) in zip(widths, shares, strict=True))

    return [
        Wrong("the variance of a round space", replace(LAW, signed=round_space)),
        Wrong("without g and h: as if tokens shared no vector", replace(LAW, signed=apart)),
        Wrong("LayerNormed vectors by the law of signs", replace(LAW, centred=signed)),
        Wrong("blocks one by one", replace(LAW, blocks=alone), ("symbolic",), "of blocks the derivation alone speaks"),
        *(Wrong(kind, replace(LAW, situation=kind), ways=("numeric",), why=blind) for kind in ("large on the same coordinates",)),
    ]

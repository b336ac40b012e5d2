"""T0: given the sizes of their entries, vectors with fair signs overlap by sum_i u_i^2 v_i^2, in a space of any scales."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.sign_flips import HYPOTHESES, pair_cumulants, triangle_cumulant
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="T0",
    kind=EQUAL,
    title="with fair signs, vectors of any scales overlap by the products of their shares",
    claim=r"\mathbb{E}\cos^2 = p = \sum_i u_i^2 v_i^2,\ \mathrm{Var} = 2(p^2 - q),\ \kappa_3 = 8(p^3 - 3pq + 2r) \text{ a pair, and } "
    r"24(t^2 - s) \text{ a triangle}",
    hypotheses=(*HYPOTHESES, "no vector is zero"),
    box={"N": (1, None)},
    tight="an equality; at N = 1 every overlap is 1 and nothing varies",
)


@dataclass(frozen=True)
class Law:
    """situation: "plain" is the hypothesis; the others break it, in the simulation."""

    pair: Callable[..., tuple[Any, Any, Any]] = pair_cumulants
    triangle: Callable[..., Any] = triangle_cumulant
    situation: str = "plain"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: averages over every choice of signs, for any entries."""
    proof = Derivation()
    proof.step("a flip of u's and v's signs by s and s' gives (sum_i e_i a_i)^2, a_i = u_i v_i, e = s s' fair; lengths stay")
    proof.step("any N: E e_i e_j = 0 for i != j, so the mean is sum a_i^2; squares and cubes over pairs and triangles of indices likewise")
    for n in (1, 2, 3):
        a = sp.symbols(f"a1:{n + 1}", real=True)
        claimed = law.pair(*(sum(x**power for x in a) for power in (2, 4, 6)), ctx=SYMBOLIC)
        for name, derived, said in zip(("mean", "variance", "third cumulant"), _pair(a), claimed, strict=True):
            proof.equal(f"N = {n}, a pair: {name}", derived, sp.expand(said))
    proof.step("pairs that share one vector are independent: given it, the other's signs are fair. Three around a triangle are not")
    for n in (1, 2):
        u, v, w = (sp.symbols(f"{name}1:{n + 1}", real=True) for name in "uvw")
        products = [x * y * z for x, y, z in zip(u, v, w, strict=True)]
        claimed = law.triangle(sum(x**2 for x in products), sum(x**4 for x in products), ctx=SYMBOLIC)
        proof.equal(f"N = {n}, a triangle: 6 E x_12 x_13 x_23", _triangle(u, v, w), sp.expand(claimed))
    return proof.check()


@cache
def _pair(a: tuple[Any, ...]) -> tuple[Any, ...]:
    values = [sp.expand(sum(s * x for s, x in zip(signs, a, strict=True)) ** 2) for signs in itertools.product((1, -1), repeat=len(a))]
    mean = sp.expand(sum(values) / len(values))
    return mean, *(sp.expand(sum((value - mean) ** power for value in values) / len(values)) for power in (2, 3))


@cache
def _triangle(u: tuple[Any, ...], v: tuple[Any, ...], w: tuple[Any, ...]) -> Any:
    """u's signs may stay: only products of two enter."""
    choices = list(itertools.product((1, -1), repeat=len(u)))
    total = 0
    for second, third in itertools.product(choices, repeat=2):
        flipped = u, tuple(map(sp.Mul, second, v)), tuple(map(sp.Mul, third, w))
        centred = 1
        for one, other in itertools.combinations(flipped, 2):
            products = [x * y for x, y in zip(one, other, strict=True)]
            centred *= sum(products) ** 2 - sum(x**2 for x in products)
        total += centred
    return sp.expand(6 * total / len(choices) ** 2)


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a polynomial law, derived exactly")


N, F, DRAWS = 6, 4, 40_000
SCALES = np.array([10.0, 6.0, 1.0, 1.0, 0.5, 0.1])


@cache
def _simulate(situation: str) -> np.ndarray:
    """Outputs of three ReLU experts on one token of each draw, whose rows of W_down have scales that experts share and others of their
    own, (draws, 3, N)."""
    random = generator("T0", situation)
    x = random.standard_normal((DRAWS, 3))
    hidden = np.maximum(np.einsum("sefd,sd->sef", random.standard_normal((DRAWS, 3, F, 3)), x), 0) + 0.1
    down = random.standard_t(3, (DRAWS, 3, N, F)) * np.exp(0.5 * random.standard_normal((DRAWS, 3, N, 1)))
    y = np.einsum("senf,sef->sen", down, hidden) * SCALES
    if situation == "a shared bias":
        y = y + 5 * random.standard_normal((DRAWS, 1, N))
    if situation == "a rotated space":
        y = y @ np.linalg.qr(random.standard_normal((N, N)))[0]
    return y / np.linalg.norm(y, axis=2, keepdims=True)


def numeric(law: Law = LAW) -> Check:
    """Trained-like outputs: the law is of the sizes of each draw, so it is the difference that has to average 0."""
    proof = Derivation()
    units = _simulate(law.situation)
    pairs = [units[:, i] * units[:, j] for i, j in itertools.combinations(range(3), 2)]
    total = sum(a.sum(1) ** 2 for a in pairs)
    powers = [[(a**power).sum(1) for power in (2, 4, 6)] for a in pairs]
    mean, variance, third = (sum(parts) for parts in zip(*(law.pair(*each, ctx=FLOAT) for each in powers), strict=True))
    around = units.prod(1)
    third = third + law.triangle((around**2).sum(1), (around**4).sum(1), ctx=FLOAT)
    apart = total - mean
    for name, values in (("mean", apart), ("variance", apart**2 - variance), ("third cumulant", apart**3 - third)):
        proof.estimate(f"three experts in R^{N}, {law.situation}: {name}, less the law's", *mean_and_sem(values), 0.0)
    return proof.check()


def _round(p: Any, q: Any, r: Any, *, ctx: Any) -> tuple[Any, Any, Any]:
    return 1 / ctx.number(N), *pair_cumulants(p, q, r, ctx=ctx)[1:]


def _loose(p: Any, q: Any, r: Any, *, ctx: Any) -> tuple[Any, Any, Any]:
    mean, _, third = pair_cumulants(p, q, r, ctx=ctx)
    return mean, 2 * mean**2, third


def control() -> list[Wrong]:
    blind = "the derivation knows fair signs only"
    return [
        Wrong("1/N: a round space", replace(LAW, pair=_round)),
        Wrong("variance 2 p^2: no coordinate is large", replace(LAW, pair=_loose)),
        Wrong("signs drawn for each pair: no triangle", replace(LAW, triangle=lambda t, s, *, ctx: 0 * ctx.number(t))),
        Wrong("a bias that experts share", replace(LAW, situation="a shared bias"), ways=("numeric",), why=blind),
        Wrong("large directions that are no coordinates", replace(LAW, situation="a rotated space"), ways=("numeric",), why=blind),
    ]

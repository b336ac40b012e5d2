"""T2B: other tokens of the same stratum leave of a gain what second moments vary by within strata; what they vary by between, they take."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from typing import Any

import numpy as np
import sympy as sp

from proofs.nulls._situations import broken
from proofs.statement import EQUAL, Check, Derivation, Statement, Way, Wrong, computed, generator, mean_and_sem
from simgap.certify import BALL
from simgap.theory.floats import FLOAT
from simgap.theory.other_tokens import HYPOTHESES, bias_gain, bias_share, meeting_gain, stratified_gain

STATEMENT = Statement(
    id="T2B",
    kind=EQUAL,
    title="other tokens of the same stratum leave of a gain what second moments vary by within strata",
    claim=r"\mathbb{E}(L_3 - L_2) = \sum_c \tfrac{n_c}{n} \tfrac1{n_c-1} \sum_{t \in c} \lVert S(t) - \bar S_c\rVert_F^2;\quad \text{one"
    r" stratum and a common bias: } \tfrac d{d-1} \mathrm{Var}_t\, a(t),\ a = \mathbb{E} \langle u, b/|b| \rangle^2",
    hypotheses=(
        HYPOTHESES[0],
        "experts drawn alike",
        "strata say something of a token, and nothing of the two vectors that are compared",
        "every stratum counts by the tokens on which the pair meets there, on a token and on others; a token alone there drops out",
        "for the bias: in all directions about it an expert's vectors are alike; of y = b + s g, g Gaussian, a is bias_share",
    ),
    box={"d": (2, None), "n": (2, None)},
    premises=(computed("T2"),),
    tight="0 where S(t) is the same on all tokens of a stratum, whatever it is in others",
)


@dataclass(frozen=True)
class Law:
    """others: which tokens a token is held against, and what counts a stratum. situation: how the experts of the simulation are made."""

    of: Callable[..., Any] = stratified_gain
    bias: Callable[..., Any] = bias_gain
    share: Callable[..., Any] = bias_share
    others: str = "of its stratum"
    situation: str = "a bias and a size to each stratum"


LAW = Law()


def gain(squares: Any, strata: tuple[int, ...], others: str) -> Any:
    """L3 - L2 from <u_t, u'_s>^2 of the tokens t and s, (..., n, n): of every token with each other one of its stratum."""
    labels = (0,) * len(strata) if others == "any" else strata
    parts = [[t for t, own in enumerate(labels) if own == label] for label in sorted(set(labels))]
    parts = [part for part in parts if len(part) > 1]
    kept = [t for part in parts for t in part]
    same = sum(squares[..., t, t] for t in kept) / len(kept)
    apart = [sum(squares[..., t, s] for t, s in itertools.permutations(part, 2)) / (len(part) * (len(part) - 1)) for part in parts]
    weights = [len(part) * (len(part) - 1 if others == "by pairs of tokens" else 1) for part in parts]
    return same - sum(weight * each for weight, each in zip(weights, apart, strict=True)) / sum(weights)


def symbolic(law: Law = LAW) -> Check:
    """From the definition: E <u_t, u'_s>^2 = tr S(t) S(s) of independent experts, for any second moments."""
    proof = Derivation()
    for strata in ((0, 0, 1, 1, 1), (0, 1, 1, 2, 2)):
        moments = [sp.Matrix(2, 2, lambda i, j, t=t: sp.Symbol(f"s{t}_{min(i, j)}{max(i, j)}", real=True)) for t in range(len(strata))]
        arrays = [np.array(moment.tolist(), object) for moment in moments]
        squares = np.array([[(one * other).trace() for other in moments] for one in moments], object)
        proof.equal(f"strata {strata}: L3 - L2", sp.expand(gain(squares, strata, law.others)), sp.expand(law.of(arrays, strata)))
    means = [(sum(arrays[i:j], 0 * arrays[0]) / (j - i)) for i, j in ((0, 2), (2, 5))]
    within = sum(sp.Rational(n, 5) * meeting_gain(part) for n, part in ((2, arrays[:2]), (3, arrays[2:])))
    between = meeting_gain([means[0]] * 2 + [means[1]] * 3)
    proof.equal("2 and 3 tokens, drawn: T2's gain is that within strata and that of their means", meeting_gain(arrays), within + between)
    for d in (2, 3):
        squares, shares = _two_sizes(d)
        proof.equal(f"d = {d}, a common bias, two sizes, no strata", gain(squares, (0,) * 4, "any"), law.bias(shares, sp.Integer(d)))
        proof.equal(f"d = {d}, and the sizes as strata: none", gain(squares, (0, 0, 1, 1), law.others), 0)
    return proof.check()


SIZES = (2, 2, Fraction(1, 2), Fraction(1, 2))


@cache
def _two_sizes(d: int) -> tuple[np.ndarray, list[Any]]:
    """y = b + s z, b = (1, 0, ..), z any of the 2 d signed axes, s of four tokens: E <u_t, u'_s>^2 over all choices, and shares along b."""
    units = []
    for size in SIZES:
        of_token = []
        for axis, sign in itertools.product(range(d), (1, -1)):
            y = [sp.Integer(i == 0) + (sign * sp.Rational(size) if i == axis else 0) for i in range(d)]
            of_token.append((y, sum(x * x for x in y)))
        units.append(of_token)
    squares = np.empty((4, 4), object)
    for t, s in itertools.product(range(4), repeat=2):
        values = [sum(a * b for a, b in zip(u, v, strict=True)) ** 2 / (n * m) for (u, n), (v, m) in itertools.product(units[t], units[s])]
        squares[t, s] = sum(values) / len(values)
    return squares, [sum(u[0] ** 2 / n for u, n in of_token) / len(of_token) for of_token in units]


def certified(law: Law = LAW) -> Check:
    """Of y = b + s g: with 1/Q = int e^(-tQ) dt, E y_1^2 e^(-tQ) from the normal integral of (r + z)^2 e^(-t (r + z)^2), z normal; over x =
    1/(1 + 2 t) from 0 to 1, the others give x^((d - 1)/2)."""
    proof = Derivation()
    for width, ratio in ((4, 1), (3, 2), (8, 3)):
        claimed = proof.ball(f"share along a bias {ratio} times as large, d = {width}", law.share(width, ratio, ctx=BALL))
        # What is left out near 0 is below 1e-60.
        proof.within(
            "it is the integral", BALL.integral(partial(_along, width=width, ratio=ratio), Fraction(1, 10**60), 1) - claimed, "1e-20"
        )
    large, small = (law.share(4, ratio, ctx=BALL) for ratio in (1, 3))
    bias = proof.ball("d = 4, two tokens whose sizes are as 3 to 1", law.bias([large, small], 4))
    proof.within(
        "which is 2/3 of the square of what the shares differ by", bias - BALL.number(Fraction(2, 3)) * (large - small) ** 2, "1e-20"
    )
    return proof.check()


def _along(x: Any, width: int, ratio: int) -> Any:
    """E (r + z)^2 e^(-t (r + z)^2) (1 + 2 t)^(-(d - 1)/2) dt/dx: with x = 1/(1 + 2 t), r + z under that weight is normal about r x of
    variance x, and the weight is sqrt(x) e^(-r^2 (1 - x)/2)."""
    power = x ** (width // 2) * (BALL.sqrt(x) if width % 2 else 1)
    return power * (x + ratio**2 * x * x) * BALL.exp(-(ratio**2) * (1 - x) / 2) / (2 * x * x)


PAIRS, D, F = 20_000, 4, 5
STRATA = (0, 0, 0, 1, 1, 2)
METRIC, OF_STRATUM, BIAS = np.array([5.0, 1.0, 1.0, 1.0]), np.array([0.3, 1.0, 3.0]), np.array([1.0, 1.0, 0.0, 0.0])


@cache
def _squares(situation: str) -> np.ndarray:
    """<u_t, u'_s>^2 of independent experts on fixed tokens, (PAIRS, n, n)."""
    random = generator("T2B", situation)
    n = len(STRATA)
    hidden = random.standard_normal((n, F))
    size = OF_STRATUM[list(STRATA)]
    if situation == "sizes that vary within a stratum":
        size = size * np.array([0.3, 1, 3, 0.3, 3, 1])
    hidden *= (size / np.linalg.norm(hidden, axis=1))[:, None]
    y = np.einsum("pidf,tf->pitd", random.standard_normal((PAIRS, 2, D, F)), hidden)
    if situation == "one bias":
        y = y + BIAS
    elif situation == "strata by the sizes of both vectors":
        return _sorted_by_both(y, random)
    else:
        y = (y + random.standard_normal((3, D))[list(STRATA)]) * METRIC
    if situation == "a residual":
        y = y + 3 * random.standard_normal((n, D))
    u = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.einsum("ptd,psd->pts", u[:, 0], u[:, 1]) ** 2


def _sorted_by_both(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Every vector has a size of its own, and a pair's tokens are numbered so that those where the left is the larger come first."""
    sizes = random.choice(OF_STRATUM, y.shape[:3])
    y = y / np.linalg.norm(y, axis=-1, keepdims=True) * sizes[..., None] + BIAS
    order = np.argsort(sizes[:, 0] - sizes[:, 1], axis=1)
    u = np.take_along_axis(y / np.linalg.norm(y, axis=-1, keepdims=True), order[:, None, :, None], 2)
    return np.einsum("ptd,psd->pts", u[:, 0], u[:, 1]) ** 2


def numeric(law: Law = LAW) -> Check:
    """Experts of Gaussian weights in a space that is not round: strata have biases and sizes of their own, and the gain is 0."""
    proof = Derivation()
    gains = gain(_squares(law.situation), STRATA, law.others)
    proof.estimate(f"{law.situation}, others {law.others}: L3 - L2", *mean_and_sem(gains), 0.0)
    shares = [law.share(D, float(np.linalg.norm(BIAS) / size), ctx=FLOAT) for size in OF_STRATUM[list(STRATA)]]
    plain = gain(_squares("one bias"), (0,) * len(STRATA), "any")
    proof.estimate("one bias, three sizes, no strata: L3 - L2", *mean_and_sem(plain), law.bias(shares, D))
    return proof.check()


def _drawn(moments: Any, strata: Any) -> Any:
    """The variance over tokens that are drawn, not over these."""
    members = [[m for m, own in zip(moments, strata, strict=True) if own == c] for c in set(strata)]
    return sum(len(each) * meeting_gain(each) for each in members if len(each) > 1) / sum(len(each) for each in members if len(each) > 1)


def control() -> list[Wrong]:
    seen: tuple[Way, ...] = ("symbolic", "numeric")
    why = "the number is of one stratum"

    def along_alone(shares: Any, width: Any) -> Any:
        return bias_gain(shares, width) * (width - 1) / width

    def of_means(width: Any, ratio: Any, *, ctx: Any) -> Any:
        square = ctx.number(ratio) ** 2
        return (square + 1) / (square + width)

    return [
        Wrong("any other tokens", replace(LAW, others="any"), seen, why),
        Wrong("strata counted by their pairs of tokens", replace(LAW, others="by pairs of tokens"), seen, why),
        Wrong(
            "the variance over drawn tokens",
            replace(LAW, of=_drawn),
            ways=("symbolic",),
            why="what is simulated and enclosed has the same S(t) on all tokens of a stratum",
        ),
        Wrong("the bias direction alone", replace(LAW, bias=along_alone)),
        Wrong(
            "|b|^2 over the mean of |y|^2",
            replace(LAW, share=of_means),
            ways=("certified", "numeric"),
            why="the derivation takes any shares",
        ),
        *broken(
            LAW,
            "the derivation takes its hypotheses as given",
            ("sizes that vary within a stratum", "a residual", "strata by the sizes of both vectors"),
        ),
    ]

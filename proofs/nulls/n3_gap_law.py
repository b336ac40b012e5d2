"""N3: the gap of untrained experts is a difference of two dimensions, and their ratio on average more than the ratio of averages."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.gap_law import null_gap, null_ratio, null_ratio_floor
from simgap.theory.mso_law import mso_cumulants
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="N3",
    kind=EQUAL,
    title="untrained experts have a gap of 1/d - 1/(d f) and a ratio of means f; the mean ratio is larger",
    claim=(
        r"\mathbb{E}(a - w) = 1/d - 1/(df);\quad \mathbb{E}a/\mathbb{E}w = f;\quad \mathbb{E}(a/w) = \tfrac1d\,\mathbb{E}(1/w)"
        r" \ge f\left(1 + \frac{c^2}{1+gc}\right) \ge f,\ a, w \text{ activation and weight MSO},\ c, g \text{ relative sd, skewness of } w"
    ),
    hypotheses=(
        "w: the overlap of flattened W_up of shape (f, d), i.i.d. entries symmetric about 0, averaged over pairs of experts and trials",
        "a: output overlaps under N2, of tokens or of means: given W_up, the tokens and the routing, the W_down are independent of each "
        "other with i.i.d. entries symmetric about 0, so that E[a | W_up] = 1/d",
        "every trial has a defined output pair: leaving out trials whose hidden vectors are zero would choose among the W_up, and move E w",
        "ratio: w > 0; the last inequality is strict unless w is constant",
    ),
    box={"d": (1, None), "f": (1, None)},
    premises=(computed("N1"), computed("N2"), computed("N1B")),
    tight="the bound is E a/w to third order in c; E a/w is infinite for one or two independent pairs of Gaussian W_up",
)


@dataclass(frozen=True)
class Law:
    """situation: "plain" is the hypothesis; in "W_down = W_up'" the outputs know the weights; "dead trials left out" has rectifying
    experts, and drops what they leave undefined."""

    gap: Callable[..., Any] = null_gap
    ratio: Callable[..., Any] = null_ratio
    floor: Callable[..., Any] = null_ratio_floor
    situation: str = "plain"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    d, f = sp.symbols("d f", integer=True, positive=True)
    proof.step("N1 for vectors of d f entries: E w = 1/(d f); N2: E a = E E[a | W_up, tokens, routing] = 1/d")
    proof.equal("E (a - w)", 1 / d - 1 / (d * f), law.gap(d, f, ctx=SYMBOLIC))
    proof.equal("E a / E w", (1 / d) / (1 / (d * f)), law.ratio(f, ctx=SYMBOLIC))
    for size in ((3, 1), (1, 3)):
        _check_enumeration(proof, law, *size)
    _floor(proof, law, d, f)
    return proof.check()


def _check_enumeration(proof: Derivation, law: Law, d: int, f: int) -> None:
    pairs = _enumerated(d, f, law.situation)
    mean_a, mean_w = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    ratio, inverse = sum(a / w for a, w in pairs) / len(pairs), sum(1 / w for _, w in pairs) / len(pairs)
    text = f"d = {d}, f = {f}, {law.situation}, all {len(pairs)} layers of two experts with weights of signs"
    proof.equal(f"{text}: E (a - w)", sp.Rational(mean_a - mean_w), law.gap(sp.Integer(d), sp.Integer(f), ctx=SYMBOLIC))
    proof.equal(f"{text}: E a / E w", sp.Rational(mean_a / mean_w), law.ratio(sp.Integer(f), ctx=SYMBOLIC))
    proof.equal(f"{text}: E a/w = (1/d) E 1/w", sp.Rational(ratio), sp.Rational(inverse / d))
    v, k3 = (sp.Rational(sum((w - mean_w) ** p for _, w in pairs) / len(pairs)) for p in (2, 3))
    m = sp.Rational(mean_w)
    floor = sp.simplify(law.floor(sp.Integer(f), sp.sqrt(v) / m, k3 / v ** sp.Rational(3, 2), ctx=SYMBOLIC))
    proof.holds(f"{text}: E a/w = {ratio} >= {floor}", sp.Rational(ratio) >= floor)


@cache
def _enumerated(d: int, f: int, situation: str) -> list[tuple[Fraction, Fraction]]:
    """(a, w) of every layer: identity experts on the token (2^0, 2^1, ...), which leaves no hidden vector and no output zero; or rectifying
    ones, which do."""
    rectified = situation == "dead trials left out"
    x = [2**i for i in range(d)]
    signs = list(itertools.product((-1, 1), repeat=d * f))
    overlaps = []
    for up1, up2 in itertools.product(signs, repeat=2):
        w = Fraction(sum(p * q for p, q in zip(up1, up2, strict=True)) ** 2, (d * f) ** 2)
        downs = [(up1, up2)] if situation == "W_down = W_up'" else itertools.product(signs, repeat=2)
        for downs12 in downs:
            y1, y2 = (_output(up, down, x, f, rectified) for up, down in zip((up1, up2), downs12, strict=True))
            norms = sum(p * p for p in y1) * sum(q * q for q in y2)
            if not norms:
                continue
            overlaps.append((Fraction(sum(p * q for p, q in zip(y1, y2, strict=True)) ** 2, norms), w))
    return overlaps


def _output(up: Any, down: Any, x: list[int], f: int, rectified: bool) -> list[int]:
    """y = W_down W_up x; W_up has rows of d entries, W_down columns of d entries, so that W_down = W_up' is the same tuple."""
    d = len(x)
    hidden = [sum(up[i * d + j] * x[j] for j in range(d)) for i in range(f)]
    if rectified:
        hidden = [max(h, 0) for h in hidden]
    return [sum(down[i * d + j] * hidden[i] for i in range(f)) for j in range(d)]


def _floor(proof: Derivation, law: Law, d: Any, f: Any) -> None:
    w, m, v, k3 = sp.symbols("w m v k3", positive=True)
    proof.step("E a/w = E[E[a | W_up]/w] = (1/d) E 1/w, m = E w = 1/(d f)")
    proof.equal(
        "1/w as the tangent at m and a rest, so E 1/w = 1/m + E[(w-m)^2/w]/m^2", 2 / m - w / m**2 + (w - m) ** 2 / (w * m**2), 1 / w
    )
    proof.step("Cauchy-Schwarz: (E (w-m)^2)^2 <= E[(w-m)^2/w] E[w (w-m)^2], v = Var w, k3 = E (w-m)^3")
    proof.equal("w (w-m)^2 = (w-m)^3 + m (w-m)^2, of mean k3 + m v", (w - m) ** 3 + m * (w - m) ** 2, w * (w - m) ** 2)
    bound = (1 / m + v**2 / (k3 + m * v) / m**2) / d
    claimed = law.floor(f, sp.sqrt(v) / m, k3 / v ** sp.Rational(3, 2), ctx=SYMBOLIC)
    proof.equal("(1/d) E 1/w is at least", sp.factor(bound.subs(m, 1 / (d * f))), sp.simplify(claimed.subs(m, 1 / (d * f))))
    c, g = sp.symbols("c g", positive=True)
    series = sp.series(law.floor(f, c, g, ctx=SYMBOLIC), c, 0, 4).removeO()
    proof.equal("to third order (1/d) E 1/w = f (1 + c^2 - g c^3), 1/w expanded about m", f * (1 + c**2 - g * c**3), sp.expand(series))
    proof.step("M independent pairs of isotropic W_up: P(cos^2 < t) >= K sqrt t, so P(1/w > s) >= (K/sqrt s)^M, not integrable for M <= 2")


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("rational laws, derived exactly for every d and f")


D, F, EXPERTS, LAYERS = 3, 4, 5, 40_000


@cache
def _simulate(situation: str) -> tuple[np.ndarray, np.ndarray]:
    """Activation and weight MSO: leaky ReLU experts, whose hidden vectors are never zero, Gaussian W_up, W_down of signs, one token."""
    random = generator("N3", situation)
    up = random.standard_normal((LAYERS, EXPERTS, F, D))
    down = random.choice([-1.0, 1.0], (LAYERS, EXPERTS, F, D)) if situation == "plain" else up
    pre = up @ np.array([1.0, 2.0, -1.0])
    hidden = np.where(pre > 0, pre, 0.1 * pre)
    y = np.einsum("sefd,sef->sed", down, hidden)
    return _mso(y), _mso(up.reshape(LAYERS, EXPERTS, -1))


def _mso(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    gram = unit @ unit.transpose(0, 2, 1)
    return ((gram * gram).sum((1, 2)) - EXPERTS) / (EXPERTS * (EXPERTS - 1))


def numeric(law: Law = LAW) -> Check:
    """10 pairs, so that 1/w has a variance. The bound takes the weight MSO's relative sd and skewness from N1B."""
    proof = Derivation()
    a, w = _simulate(law.situation)
    text = f"d = {D}, f = {F}, {EXPERTS} experts, {law.situation}"
    proof.estimate(f"{text}: gap", *mean_and_sem(a - w), law.gap(D, F, ctx=FLOAT))
    # E (a - f w) = 0 says E a / E w = f without a ratio of estimates.
    proof.estimate(f"{text}: a - f w", *mean_and_sem(a - law.ratio(F, ctx=FLOAT) * w), 0.0)
    proof.estimate(f"{text}: (a - 1/d)/w", *mean_and_sem((a - 1 / D) / w), 0.0)
    mean, variance, third, _ = mso_cumulants(D * F, EXPERTS)
    floor = law.floor(F, variance**0.5 / mean, third / variance**1.5, ctx=FLOAT)
    proof.bounded(f"{text}: a/w", *mean_and_sem(a / w), low=floor)
    return proof.check()


def control() -> list[Wrong]:
    unseen = "a weaker bound is a true one: only the derivation tells them apart"
    return [
        Wrong("gap 1/d", replace(LAW, gap=lambda d, f, *, ctx: 1 / ctx.number(d))),
        Wrong("gap 1/d - 1/f", replace(LAW, gap=lambda d, f, *, ctx: 1 / ctx.number(d) - 1 / ctx.number(f))),
        Wrong("gap 1/d + 1/(d f)", replace(LAW, gap=lambda d, f, *, ctx: 1 / ctx.number(d) + 1 / (ctx.number(d) * ctx.number(f)))),
        Wrong("ratio f - 1", replace(LAW, ratio=lambda f, *, ctx: ctx.number(f) - 1)),
        Wrong("bound with 2 c^2", replace(LAW, floor=lambda f, c, g, *, ctx: ctx.number(f) * (1 + 2 * c * c / (1 + g * c)))),
        Wrong(
            "bound with 2 g c",
            replace(LAW, floor=lambda f, c, g, *, ctx: ctx.number(f) * (1 + c * c / (1 + 2 * g * c))),
            ("symbolic",),
            unseen,
        ),
        Wrong(
            "trials of dead experts left out",
            replace(LAW, situation="dead trials left out"),
            ("symbolic",),
            "the simulated experts are never dead: five of them with four units each would seldom be",
        ),
        Wrong("W_down = W_up': the outputs know the weights", replace(LAW, situation="W_down = W_up'")),
    ]

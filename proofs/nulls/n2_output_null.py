"""N2: outputs of untrained experts overlap by 1/d: independent sign-symmetric W_down forget everything that went in."""

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
from simgap.theory.layernorm_null import null_layernorm_mso
from simgap.theory.output_null import null_output_mso
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="N2",
    kind=EQUAL,
    title="outputs of untrained experts overlap by 1/d, whatever goes in",
    claim=r"\mathbb{E}\cos^2(y_1, y_2) = 1/d,\ y_e = W_{\mathrm{down},e}\bar h_e;\quad \mathbb{E}\cos^2 = 1/(d-1) \text{ after LayerNorm}",
    hypotheses=(
        "entries of W_down of one of the two experts i.i.d. and symmetric about 0, given all else: the other expert's W_down, the hidden "
        "vectors, the router and whom it routes where (which may depend on tokens, W_up and the other weights)",
        "y_e: an output of a token, or a mean or any weighted sum of outputs over the tokens routed to e; y_1, y_2 non-zero",
        "nothing added to y_e (no residual, no shared expert), no norm after W_down; or, for 1/(d-1), LayerNorm with unit gain and zero "
        "bias (with any eps), d >= 2, y_1 and y_2 not constant",
    ),
    box={"d": (1, None)},
    premises=(computed("N1"), computed("N4")),
    tight="an equality; a router that reads W_down, a residual, a shared expert added or tied W_down break it",
)


@dataclass(frozen=True)
class Law:
    """situation: what the layer does, enumerated and simulated; "plain" is the hypothesis, the others break it."""

    mean: Callable[..., Any] = null_output_mso
    normed: Callable[..., Any] = null_layernorm_mso
    situation: str = "plain"


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: W_down forms rows that may be flipped and permuted; the whole of it enumerated for small sign matrices."""
    proof = Derivation()
    proof.step("sum_t a_t W h_t = W (sum_t a_t h_t): a mean of outputs is the output of a mean hidden vector h")
    for d, f in ((2, 2), (3, 2)):
        matrix, h = sp.Matrix(d, f, sp.symbols(f"w:{d * f}")), sp.Matrix(sp.symbols(f"h:{f}"))
        turns = _signed_permutations(d)
        same = all(((turn * matrix) * h).expand() == (turn * (matrix * h)).expand() for turn in turns)
        proof.holds(f"d = {d}: S W is as likely as W and has output S y, for all {len(turns)} signed permutations S of the rows", same)
        average = _orbit_average(d)
        proof.equal(f"d = {d}: cos^2(S y, y_2) averaged over S, for any y and y_2", average, law.mean(sp.Integer(d), ctx=SYMBOLIC))
    size = sp.Symbol("d", integer=True, positive=True)
    proof.step("so given all else y_1 is sign-symmetric and exchangeable, and y_2 is anything: N1 in R^d")
    proof.equal("any d: N1 with N = d", 1 / size, law.mean(size, ctx=SYMBOLIC))
    proof.equal("LayerNorm: its input y_1 is exchangeable, N4 with f = d", 1 / (size - 1), law.normed(size, ctx=SYMBOLIC))
    for d, normed in ((2, False), (3, False), (3, True)):
        mean, defined = _enumerated(d, law.situation, normed)
        claimed = (law.normed if normed else law.mean)(sp.Integer(d), ctx=SYMBOLIC)
        text = f"d = {d}, {'after LayerNorm' if normed else 'plain'}, {law.situation}: all sign matrices, {defined} defined pairs, exactly"
        proof.equal(text, sp.Rational(mean.numerator, mean.denominator), claimed)
    return proof.check()


@cache
def _signed_permutations(d: int) -> list[Any]:
    turns = itertools.product(itertools.permutations(range(d)), itertools.product((1, -1), repeat=d))
    return [sp.Matrix(d, d, lambda i, j, p=order, s=flips: s[i] * (p[i] == j)) for order, flips in turns]


@cache
def _orbit_average(d: int) -> Any:
    y, other = sp.Matrix(sp.symbols(f"y:{d}")), sp.Matrix(sp.symbols(f"z:{d}"))
    turns = _signed_permutations(d)
    total = sum(((turn * y).T * other)[0] ** 2 for turn in turns)
    return sp.factor(sp.expand(total) / len(turns) / ((y.T * y)[0] * (other.T * other)[0]))


# Hidden vectors of the two experts at two tokens: far from 0, with a common mean, as after a rectifier; signs leave no output zero.
TOKENS = (((3, 1), (4, 2)), ((5, 2), (3, 2)))
# What is added to both outputs: a token of a residual, the output of a shared expert.
ADDED = {"residual": (2, 1, 1), "shared expert": (0, 3, -2)}


@cache
def _enumerated(d: int, situation: str, normed: bool) -> tuple[Fraction, int]:
    """The mean of cos^2 over all pairs of sign matrices (d, 2) whose overlap is defined, and how many are."""
    matrices = [tuple(zip(*[iter(entries)] * 2, strict=True)) for entries in itertools.product((-1, 1), repeat=2 * d)]
    total, defined = Fraction(0), 0
    for left, right in itertools.product(matrices, repeat=2):
        y = _outputs(left, left if situation == "tied" else right, situation, d)
        if normed:
            y = [[d * a - sum(v) for a in v] for v in y]
        norms = [sum(a * a for a in v) for v in y]
        if all(norms):
            total += Fraction(sum(a * b for a, b in zip(*y, strict=True)) ** 2, norms[0] * norms[1])
            defined += 1
    return total / defined, defined


def _outputs(left: Any, right: Any, situation: str, d: int) -> list[list[int]]:
    """Both experts' output sums over the tokens that a router gives them, in whole numbers."""
    sums = []
    for matrix, tokens in zip((left, right), TOKENS, strict=True):
        outputs = [[sum(w * a for w, a in zip(row, h, strict=True)) for row in matrix] for h in tokens]
        if situation == "reads W_down":
            # A router that gives an expert the tokens whose outputs lean to the first axis, as one trained on outputs might.
            outputs = [y if d * y[0] ** 2 > sum(a * a for a in y) else [0] * d for y in outputs]
        if situation in ADDED:
            outputs = [[a + r for a, r in zip(y, ADDED[situation], strict=False)] for y in outputs]
        sums.append([sum(column) for column in zip(*outputs, strict=True)])
    return sums


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every d")


D, F, EXPERTS, N_TOKENS, TRIALS = 4, 5, 4, 12, 4000


@cache
def _layers(situation: str) -> dict[str, np.ndarray]:
    """MSOs of small MoE layers, a mean per trial: SiLU experts with uniform W_up, W_down of signs, top-2 of a router that reads tokens and
    W_up. Token by token over co-activated experts; of means over routed tokens; a linear expert's; after LayerNorm."""
    random = generator("N2", situation)
    x = random.standard_normal((TRIALS, N_TOKENS, D)) + 0.5
    up = random.uniform(-1, 1, (TRIALS, EXPERTS, F, D))
    down = random.choice([-1.0, 1.0], (TRIALS, EXPERTS, D, F))
    if situation == "tied":
        down[:, 1:] = down[:, :1]
    pre = np.einsum("sefd,snd->senf", up, x)
    hidden = pre / (1 + np.exp(-pre))
    y, linear = np.einsum("sedf,senf->send", down, hidden), np.einsum("sedf,senf->send", down, pre)
    scores = (pre**2).sum(3)  # the router knows x and W_up
    if situation == "reads W_down":
        scores = y[..., 0] ** 2 / (y * y).sum(3)
    if situation in ("residual", "shared expert"):
        addend = x if situation == "residual" else np.tanh(x) * 3
        y, linear = y + addend[:, None], linear + addend[:, None]
    routed = scores >= np.sort(scores, axis=1)[:, -2][:, None]
    co_active = routed[:, :, None] & routed[:, None] & ~np.eye(EXPERTS, dtype=bool)[None, :, :, None]
    weights = routed / np.maximum(routed.sum(2), 1)[..., None]
    centred = y - y.mean(3, keepdims=True)
    msos = {"token": _over(y, co_active), "linear experts, token": _over(linear, co_active), "after LayerNorm": _over(centred, co_active)}
    means = np.einsum("sen,send->sed", weights, y)[:, :, None]
    reached = routed.any(2)
    msos["mean"] = _over(means, (reached[:, :, None] & reached[:, None] & ~np.eye(EXPERTS, dtype=bool))[..., None])
    return msos


def _over(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The mean of cos^2 over the marked (e, g, token) pairs of vectors (s, e, token, d), one value per trial with any pair."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=3, keepdims=True), 1e-300)
    cos2 = np.einsum("send,sgnd->segn", unit, unit) ** 2
    count = pairs.sum((1, 2, 3))
    return ((cos2 * pairs).sum((1, 2, 3)) / np.maximum(count, 1))[count > 0]


def numeric(law: Law = LAW) -> Check:
    """TRIALS layers; trials are independent, pairs within one need not be."""
    proof = Derivation()
    for reading, values in _layers(law.situation).items():
        claimed = (law.normed if reading == "after LayerNorm" else law.mean)(D, ctx=FLOAT)
        proof.estimate(f"d = {D}, f = {F}, {law.situation}, {reading}: MSO", *mean_and_sem(values), claimed)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("1/(d+1)", replace(LAW, mean=lambda d, *, ctx: 1 / (ctx.number(d) + 1))),
        Wrong("1/(d-1) without a norm", replace(LAW, mean=null_layernorm_mso)),
        Wrong("2/(d+1)", replace(LAW, mean=lambda d, *, ctx: 2 / (ctx.number(d) + 1))),
        Wrong("1/d after LayerNorm too", replace(LAW, normed=lambda d, *, ctx: 1 / ctx.number(d))),
        Wrong("a router that reads W_down", replace(LAW, situation="reads W_down")),
        Wrong("a residual added", replace(LAW, situation="residual")),
        Wrong("a shared expert added", replace(LAW, situation="shared expert")),
        Wrong("tied W_down", replace(LAW, situation="tied")),
    ]

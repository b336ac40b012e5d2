"""L1: LayerNorm after an activation removes the common mean, and with it overlap; RMSNorm turns nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator
from simgap.certify import BALL, positive_over, sign
from simgap.theory.activations import activation_of
from simgap.theory.dual_map import dual_map, kappa_zero
from simgap.theory.floats import FLOAT
from simgap.theory.normalisation import layernorm_cosine, layernorm_map, raises_overlap_below
from simgap.theory.symbols import SYMBOLIC

BITS = 88

STATEMENT = Statement(
    id="L1",
    kind=EQUAL,
    title="LayerNorm after an activation takes away the common mean; RMSNorm changes no angle",
    claim=(
        r"c(\rho) = \frac{\kappa(\rho) - \kappa_0}{1 - \kappa_0} = \frac{\sum_{j\ge1} a_j^2\rho^j}{\sum_{j\ge1} a_j^2};"
        r"\quad c(0) = 0,\ |c(\rho)| \le |\rho|,\ c \le \kappa;\quad c^2 > \kappa^2 \iff \kappa(\rho) < \frac{\kappa_0}{2-\kappa_0};"
        r"\quad \text{RMSNorm: } \cos \text{ unchanged at every } f"
    ),
    hypotheses=(
        "pre-activations jointly Gaussian with correlation rho and one standard deviation s, entry by entry independent; d_ff to infinity",
        "act not constant, E act(sz)^2 finite",
        "for where the overlap is raised: kappa0 > 0 (else c = kappa, and LayerNorm raises none)",
        "unit gain, zero bias (L1B: with them), the norm's epsilon nil",
    ),
    box={"rho": (-1, 1), "s": (0, None)},
    premises=(computed("A1: kappa = sum a_j^2 rho^j / sum a_j^2, and the convergence of means"),),
    tight="c = rho for the identity; c^2 rises from 0 to 1/(pi - 1)^2 = 0.218 for ReLU at rho = -1",
)


@dataclass(frozen=True)
class Law:
    """bias: of mean square bias^2, added to both normed vectors in derivation and simulation: 0 under the hypotheses."""

    cosine: Callable[..., Any] = layernorm_cosine
    raises: Callable[..., Any] = raises_overlap_below
    fast: Callable[..., Any] = layernorm_map
    bias: Fraction = Fraction(0)


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """Centred vectors entry by entry, then the wide limit, then the power series."""
    proof = Derivation()
    a, b = sp.symbols("a1:4"), sp.symbols("b1:4")
    means = [sum(x) / sp.Integer(3) for x in (a, b)]
    centred = sum((x - means[0]) * (y - means[1]) for x, y in zip(a, b, strict=True)) / 3
    proof.equal(
        "f = 3: mean of centred products",
        sp.expand(centred),
        sp.expand(sum(x * y for x, y in zip(a, b, strict=True)) / 3 - means[0] * means[1]),
    )
    proof.step(
        "any f: mean (a - mean a)(b - mean b) = mean ab - mean a mean b, and means converge (A1): to kappa m2, m1, m1; m1^2 = kappa0 m2"
    )
    kappa, zero = sp.Symbol("kappa", real=True), sp.Symbol("kappa0", positive=True)
    m2 = sp.Symbol("m2", positive=True)
    bias = sp.Rational(law.bias) ** 2
    limit = ((kappa * m2 - zero * m2) / (m2 - zero * m2) + bias) / (1 + bias)
    proof.equal("cosine of the normed vectors", sp.simplify(limit), law.cosine(kappa, zero, ctx=SYMBOLIC))

    rho, p = sp.Symbol("rho", real=True), sp.symbols("p0:4", positive=True)
    series = sum(q * rho**j for j, q in enumerate(p)) / sum(p)
    without = sum(q * rho**j for j, q in enumerate(p) if j) / sum(p[1:])
    proof.equal(
        "kappa = sum p_j rho^j / sum p_j, p_j = a_j^2, j < 4: c", sp.simplify(without), law.cosine(series, p[0] / sum(p), ctx=SYMBOLIC)
    )
    proof.step("any length alike: the term j = 0 is kappa0; so |c| <= sum_{j>=1} p_j |rho|^j / sum_{j>=1} p_j <= |rho|, and c(0) = 0")
    claimed = law.cosine(kappa, zero, ctx=SYMBOLIC)
    proof.equal("kappa - c = kappa0 (1 - kappa) / (1 - kappa0), never below 0", zero * (1 - kappa) / (1 - zero), kappa - claimed)
    proof.step(
        "so c^2 - kappa^2 = (c - kappa)(c + kappa) > 0 iff c + kappa < 0 (kappa < 1, kappa0 > 0); c + kappa rises with kappa and is 0 at"
    )
    proof.equal("kappa", sp.solve((kappa - zero) / (1 - zero) + kappa, kappa)[0], law.raises(zero, ctx=SYMBOLIC))
    proof.equal("kappa0 > 0 is needed: at kappa0 = 0 (act odd) the law gives c", kappa, law.cosine(kappa, 0, ctx=SYMBOLIC))
    proof.equal(
        "ReLU at rho = -1, kappa = 0, kappa0 = 1/pi: c^2", 1 / (sp.pi - 1) ** 2, sp.simplify(law.cosine(0, 1 / sp.pi, ctx=SYMBOLIC) ** 2)
    )
    r, t = sp.symbols("r t", positive=True)
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    size = sp.sqrt(sum(x * x for x in a)) * sp.sqrt(sum(y * y for y in b))
    scaled = (
        sum(x / r * y / t for x, y in zip(a, b, strict=True))
        / sp.sqrt(sum(x * x for x in a) / r**2)
        / sp.sqrt(sum(y * y for y in b) / t**2)
    )
    proof.equal("RMSNorm divides either vector by a positive number r, t; f = 3: cosine", sp.simplify(scaled / (dot / size)), sp.Integer(1))
    return proof.check()


@cache
def _silu(bits: int) -> tuple[Any, Any, Any]:
    """Series of SiLU for |rho| <= 1/8 at s = 1, its mean and mean square; bits keys the cache."""

    def value(x: Any) -> Any:
        return activation_of("silu").value(x, BALL)

    return (
        BALL.pair_series(value, value, 1, 1, Fraction(1, 8)),
        BALL.expect(value, 1, degree=1),
        BALL.expect(lambda x: value(x) ** 2, 1, degree=2),
    )


def certified(law: Law = LAW) -> Check:
    """SiLU at s = 1: the law against covariances, and |c| < |rho| and c < kappa over boxes of rho; ReLU's constant."""
    proof = Derivation()
    series, mean, square = _silu(flint.ctx.prec)
    zero = mean * mean / square
    bias = BALL.number(law.bias) ** 2
    for rho in (Fraction(1, 8), Fraction(-1, 8)):
        kappa = series.at(BALL.number(rho)) / square
        cosine = proof.ball(f"SiLU, s = 1: c({rho})", law.cosine(kappa, zero, ctx=BALL))
        covariance = (series.at(BALL.number(rho)) - mean * mean) / (square - mean * mean)
        gap = abs(cosine - (covariance + bias) / (1 + bias))
        proof.within("it is covariance over variance", gap, "1e-20")
    for side in (1, -1):
        box = [(Fraction(1, 64), Fraction(1, 8))]

        def slack(rho: Any, side: int = side) -> Any:
            return rho - side * law.cosine(series.at(side * rho) / square, zero, ctx=BALL)

        bound = positive_over(slack, box, 500)
        proof.record(f"|c| < |rho| for {'' if side > 0 else '-'}rho in [1/64, 1/8], {bound.boxes} boxes", bound.verdict)
    bound = positive_over(
        lambda rho: series.at(rho) / square - law.cosine(series.at(rho) / square, zero, ctx=BALL), [(Fraction(-1, 8), Fraction(1, 8))], 500
    )
    proof.record(f"c < kappa for rho in [-1/8, 1/8], {bound.boxes} boxes", bound.verdict)
    relu = proof.ball("ReLU at rho = -1: c^2", law.cosine(0, 1 / BALL.pi, ctx=BALL) ** 2)
    proof.within("it rounds to 0.218", relu - BALL.number("0.218"), "0.0005")
    edge = law.raises(zero, ctx=BALL)
    for text, shift, more in (("below", "-0.001", ">"), ("above", "0.001", "<")):
        kappa = edge + BALL.number(shift)
        proof.record(
            f"SiLU: a kappa 0.001 {text} the edge has c^2 {more} kappa^2", sign(((kappa - zero) / (1 - zero)) ** 2 - kappa**2, more)
        )
    return proof.check()


ENTRIES = 300_000
POINTS = (("silu", 1, 0.0), ("silu", 2, 0.6), ("relu", 1, -1.0), ("gelu", 1, -0.3))


def _cosine(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Cosine, and its standard error from the entries to first order."""
    size = float(np.sqrt((a @ a) * (b @ b)) / a.size)
    cosine = float(a @ b) / a.size / size
    residual = a * b / size - cosine * (a * a / (a @ a) + b * b / (b @ b)) * a.size / 2
    return cosine, float(residual.std() / np.sqrt(a.size))


@cache
def _simulate(bias: float) -> dict[tuple[str, int, float], tuple[tuple[float, float], ...]]:
    """Cosines of the activated, the LayerNormed and the RMSNormed vectors."""
    cosines = {}
    for name, std, rho in POINTS:
        u, w, extra = generator("L1", f"{name} {rho}").standard_normal((3, ENTRIES))
        act = activation_of(name)
        a, b = act.value(std * u, FLOAT), act.value(std * (rho * u + np.sqrt(1 - rho * rho) * w), FLOAT)
        layer = [(h - h.mean()) / h.std() + bias * extra for h in (a, b)]
        root = [h / np.sqrt((h * h).mean()) for h in (a, b)]
        cosines[name, std, rho] = tuple(_cosine(*pair) for pair in ((a, b), layer, root))
    return cosines


def numeric(law: Law = LAW) -> Check:
    """Vectors with 3e5 entries; centring by the sample's own mean moves a cosine by O(1/f), far below the standard error."""
    proof = Derivation()
    for (name, std, rho), (plain, layer, root) in _simulate(float(law.bias)).items():
        kappa, zero = dual_map(name, rho, std), float(kappa_zero(name, std))
        proof.estimate(f"{name}, s = {std}, rho = {rho}: cosine after LayerNorm", *layer, float(law.cosine(kappa, zero)))
        proof.agrees("  the fast route, to 1e-12 (round-off)", float(law.fast(name, rho, std)), (kappa - zero) / (1 - zero), 1e-12)
        proof.agrees("  RMSNorm keeps the cosine, to 1e-12 (round-off)", root[0], plain[0], 1e-12)
        proof.bounded("  c <= kappa", layer[0] - plain[0], layer[1] + plain[1], high=0.0)
        edge, raised = float(law.raises(zero)), layer[0] ** 2 > plain[0] ** 2
        proof.holds(f"  cos^2 is {'raised' if raised else 'lowered'}: kappa = {kappa:.4f}, edge {edge:.4f}", raised == (kappa < edge))
    zero = float(kappa_zero("relu", 1))
    low, high = -0.9, 0.9
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if dual_map("relu", middle, 1.0) < float(law.raises(zero)) else (low, middle)
    u, w = generator("L1", "edge").standard_normal((2, ENTRIES))
    a, b = (np.maximum(x, 0) for x in (u, low * u + np.sqrt(1 - low * low) * w))
    plain, layer = _cosine(a, b), _cosine(a - a.mean(), b - b.mean())
    proof.estimate(f"ReLU at the edge, rho = {low:.4f}: kappa + c", plain[0] + layer[0], plain[1] + layer[1], 0.0)
    return proof.check()


def control() -> list[Wrong]:
    fast = "only the simulation calls the fast route"
    return [
        Wrong("c = kappa - kappa0", replace(LAW, cosine=lambda k, z, *, ctx=FLOAT: ctx.number(k) - ctx.number(z))),
        Wrong(
            "c = (kappa - kappa0^2) / (1 - kappa0^2)",
            replace(LAW, cosine=lambda k, z, *, ctx=FLOAT: layernorm_cosine(k, ctx.number(z) ** 2, ctx=ctx)),
        ),
        Wrong("raised below kappa0", replace(LAW, raises=lambda z, *, ctx=FLOAT: ctx.number(z))),
        Wrong("raised below kappa0 / 2", replace(LAW, raises=lambda z, *, ctx=FLOAT: ctx.number(z) / 2)),
        Wrong("fast route: kappa", replace(LAW, fast=dual_map), ("numeric",), fast),
        Wrong("broken hypothesis: a shared bias of mean square 1/4", replace(LAW, bias=Fraction(1, 2))),
    ]

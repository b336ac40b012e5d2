"""L1B: what a learned gain and bias after the norm do to angles: a gain nothing, a shared bias brings vectors together, and when."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.theory.activations import activation_of
from simgap.theory.affine import affine_token_cosine, learned_affine_cosine, per_expert_mso, unequal_units_cosine
from simgap.theory.dual_map import kappa_zero
from simgap.theory.finite_width import exchangeable_mso
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="L1B",
    kind=EQUAL,
    title="a shared bias after the norm is a common component; a gain alone turns nothing; per-expert ones shrink cosines",
    claim=(
        r"\text{shared: } c' = \frac{(1+t^2)c + v^2}{1+t^2+v^2};\quad \text{per expert: } c' = \frac{c}{1+t^2+v^2};"
        r"\quad \text{LayerNorm, independent experts, } t = v = \tau:\ c' = \frac{\tau^2}{1+2\tau^2} \text{ shared},"
        r"\ 0 \text{ per expert, where }"
        r"\mathbb{E}\cos^2 = \frac{1}{f} + \frac{1}{(1+t^2+v^2)^2 f^2} + o(1/f^2);"
        r"\quad \text{given } g, b:\ c' - c = (1-c)\frac{B}{G+B},\ B = 2\mu\langle gb\rangle + \langle b^2\rangle,\ G = \langle g^2\rangle;"
        r"\quad \text{LayerNorm on units of means } m_i \text{ shared by the experts: } c = \frac{\mathrm{Var}(m) + r}{\mathrm{Var}(m) + N}"
    ),
    hypotheses=(
        "wide limit; the units (a_i, a'_i) of the normed vectors i.i.d. of mean square 1, mean mu each, cosine c; independent of gain and"
        " bias",
        "drawn: gains i.i.d. of mean 1 and variance t^2, biases i.i.d. of mean 0 and variance v^2, independent of each other",
        "for the terms in 1/f: entries, gains and biases have all moments (any simulated allowance there, 2/f^3, is observed, not proved)",
        "given: any gain and bias shared by both, whose averages over units <.> converge, max_i g_i^2 = o(f), max_i b_i^2 = o(f),"
        " G + B > 0",
        "unequal units: unit i of both has mean m_i; N and r are the mean over units of its variance and of the experts' covariance,"
        " averages converge",
    ),
    box={"t": (0, None), "v": (0, None), "c": (-1, 1), "mu": (-1, 1)},
    premises=(
        computed("A5: the exact form for exchangeable vectors"),
        computed("L1: c = 0 for independent experts after LayerNorm, where mu = 0"),
    ),
    tight="equalities; c = 1 stays 1 under a shared gain and bias, and no other c does if B > 0",
)


@dataclass(frozen=True)
class Law:
    """bias_mean: the biases' mean in derivation and simulation: 0 under the hypotheses."""

    drawn: Callable[..., Any] = affine_token_cosine
    given: Callable[..., Any] = learned_affine_cosine
    unequal: Callable[..., Any] = unequal_units_cosine
    per_expert: Callable[..., Any] = per_expert_mso
    bias_mean: int = 0


LAW = Law()
C, MU = sp.symbols("c mu", real=True)
T, V, G, K, B = sp.symbols("t v G K B", positive=True)
NAMES = sp.symbols("g1 g2 b1 b2 a1 a2")


def _mean(expression: Any, shared: bool, bias_mean: int, given: bool = False) -> Any:
    """Expectation of a polynomial of degree 2 in each unit's gain, bias and two normed entries."""
    g1, g2, b1, b2 = NAMES[:4]
    if shared or given:
        expression = expression.subs({g2: g1, b2: b1})
    total = sp.Integer(0)
    for powers, coefficient in sp.Poly(sp.expand(expression), *NAMES).terms():
        gains, biases, entries = powers[0:2], powers[2:4], powers[4:6]
        if given:
            outer = {(2, 0): G, (1, 1): K, (0, 2): B}[gains[0], biases[0]]
        else:
            outer = sp.Integer(1)
            for p, q in zip(gains, biases, strict=True):
                outer *= {0: 1, 1: 1, 2: 1 + T**2}[p] * {0: 1, 1: bias_mean, 2: V**2 + bias_mean**2}[q]
        total += coefficient * outer * {(0, 0): 1, (1, 0): MU, (0, 1): MU, (1, 1): C, (2, 0): 1, (0, 2): 1}[entries]
    return total


@cache
def _cosine(shared: bool, bias_mean: int, given: bool = False) -> Any:
    g1, g2, b1, b2, a1, a2 = NAMES
    y, z = g1 * a1 + b1, g2 * a2 + b2
    top, left, right = (_mean(w, shared, bias_mean, given) for w in (y * z, y * y, z * z))
    if sp.expand(left - right) != 0:
        raise ValueError("the two vectors should be alike")
    return sp.factor(top / left)


def symbolic(law: Law = LAW) -> Check:
    """Second moments of a unit, monomial by monomial; the cosine of long vectors is their ratio."""
    proof = Derivation()
    proof.step("means over units converge (A1), so the cosine of g a + b and g' a' + b' tends to E yz / sqrt(E y^2 E z^2) of one unit")
    for shared in (True, False):
        text = "shared" if shared else "per expert"
        proof.equal(
            f"{text}: moments E g = 1, E g^2 = 1 + t^2, E b^2 = v^2",
            _cosine(shared, law.bias_mean),
            law.drawn(C, T, V, shared, ctx=SYMBOLIC),
        )
    given = _cosine(True, 0, True)
    claimed = law.given(C, MU, G, K, B, ctx=SYMBOLIC)
    proof.equal("given g, b: averages G = <g^2>, K = <g b>, B = <b^2>", given, claimed)
    proof.equal("a gain alone: c' at b = 0", sp.simplify(given.subs({K: 0, B: 0})), C)
    proof.equal("c' - c after LayerNorm, mu = 0", sp.factor(given.subs(MU, 0) - C), sp.factor(law.given(C, 0, G, K, B, ctx=SYMBOLIC) - C))
    first, second, n, r = sp.symbols("m1 m2 N r", positive=True)
    proof.step("unequal units: mean h = <m>, mean h^2 = <m^2> + N, mean h h' = <m^2> + r; centring takes <m>^2 from either")
    variance = second - first**2
    centred = (second + r - first * first) / (second + n - first * first)
    proof.equal("unequal units: cosine after LayerNorm", centred, law.unequal(variance, n, r, ctx=SYMBOLIC))
    tau, f = sp.Symbol("tau", positive=True), sp.Symbol("f", positive=True)
    shared_zero = _cosine(True, law.bias_mean).subs({C: 0, T: tau, V: tau})
    proof.equal("LayerNorm, independent experts, t = v = tau, shared", sp.simplify(shared_zero), law.drawn(0, tau, tau, True, ctx=SYMBOLIC))
    proof.equal("that is", tau**2 / (1 + 2 * tau**2), law.drawn(0, tau, tau, True, ctx=SYMBOLIC))
    # Per expert under LayerNorm the entries are exchangeable: A5 needs the share of the all-ones vector.
    proof.step(
        "per expert, LayerNorm: sum_i a_i = 0, so sum_i y_i = sum (g_i - 1) a_i + sum b_i, of variance f (t^2 + v^2), and |y|^2 is about"
        " f (1 + t^2 + v^2): f c_e -> (t^2 + v^2)/(1 + t^2 + v^2), in the mean as moments bound (sum y_i)^2 / |y|^2 uniformly"
    )
    share = (T**2 + V**2) / (1 + T**2 + V**2) / f
    rest = sp.limit(sp.simplify(exchangeable_mso(f, share, share, ctx=SYMBOLIC) - 1 / f) * f**2, f, sp.oo)
    claimed = sp.simplify((law.per_expert(f, T, V, ctx=SYMBOLIC) - 1 / f) * f**2)
    proof.equal("f^2 (E cos^2 - 1/f) by A5, f to infinity", sp.factor(rest), claimed)
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("rational laws, derived exactly")


ENTRIES = 300_000
SPREADS = ((0.5, 0.5), (1.0, 0.3))


def _measured(y: np.ndarray, z: np.ndarray) -> tuple[float, float]:
    size = float(np.sqrt((y @ y) * (z @ z)) / y.size)
    cosine = float(y @ z) / y.size / size
    residual = y * z / size - cosine * (y * y / (y @ y) + z * z / (z @ z)) * y.size / 2
    return cosine, float(residual.std() / np.sqrt(y.size))


@cache
def _simulate(bias_mean: int) -> tuple[dict[Any, tuple[float, float]], dict[Any, tuple[float, float]]]:
    """Independent experts' ReLU vectors after LayerNorm or RMSNorm, then gain and bias."""
    random = generator("L1B")
    drawn, given = {}, {}
    h = activation_of("relu").value(random.standard_normal((2, ENTRIES)), FLOAT)
    normed = {
        "layernorm": [(x - x.mean()) / x.std() for x in h],
        "rmsnorm": [x / np.sqrt((x * x).mean()) for x in h],
    }
    for (norm, (a, b)), (t, v), shared in itertools.product(normed.items(), SPREADS, (True, False)):
        gain, bias = 1 + t * random.standard_normal((2, ENTRIES)), bias_mean + v * random.standard_normal((2, ENTRIES))
        other = 0 if shared else 1
        drawn[norm, t, v, shared] = _measured(gain[0] * a + bias[0], gain[other] * b + bias[other])
    gain = random.uniform(0.5, 2, ENTRIES)
    bias = 0.4 * gain + 0.2 * random.standard_normal(ENTRIES)
    for norm, (a, b) in normed.items():
        for sign in (1, -1):
            moments = tuple(float(x.mean()) for x in (gain * gain, sign * gain * bias, bias * bias))
            given[norm, moments] = _measured(gain * a + sign * bias, gain * b + sign * bias)
    return drawn, given


@cache
def _unequal() -> tuple[tuple[float, float], float, float]:
    """Independent experts' ReLU vectors whose units have standard deviations 1 and 9 by turns, after LayerNorm; Var(m) and N."""
    random = generator("L1B", "unequal")
    std = np.tile([1.0, 9.0], ENTRIES // 2)
    a, b = activation_of("relu").value(std * random.standard_normal((2, ENTRIES)), FLOAT)
    # E relu(sz) = s / sqrt(2 pi), Var = s^2 (1 - 1/pi) / 2.
    return _measured(a - a.mean(), b - b.mean()), 16 / (2 * np.pi), 41 * (1 - 1 / np.pi) / 2


NARROW, PAIRS, BATCH = 32, 400_000, 20_000


@cache
def _narrow() -> tuple[float, float]:
    """E cos^2 at f = 32 of independent experts' ReLU vectors after LayerNorm, each with a gain and a bias of spread 1/2 of its own."""
    random = generator("L1B", "narrow")
    cos2 = []
    for _ in range(PAIRS // BATCH):
        h = activation_of("relu").value(random.standard_normal((2, BATCH, NARROW)), FLOAT)
        h -= h.mean(-1, keepdims=True)
        h /= np.sqrt((h * h).mean(-1, keepdims=True))
        y = (1 + random.standard_normal(h.shape) / 2) * h + random.standard_normal(h.shape) / 2
        products = [np.einsum("bf,bf->b", *(y[i] for i in pair)) for pair in ((0, 1), (0, 0), (1, 1))]
        cos2.append(products[0] ** 2 / (products[1] * products[2]))
    return mean_and_sem(np.concatenate(cos2))


def numeric(law: Law = LAW) -> Check:
    """Vectors with 3e5 entries, drawn and given gains and biases."""
    proof = Derivation()
    drawn, given = _simulate(law.bias_mean)
    zero = float(kappa_zero("relu"))
    for (norm, t, v, shared), (mean, error) in drawn.items():
        before = zero if norm == "rmsnorm" else 0.0
        text = f"{norm}, t = {t}, v = {v}, {'shared' if shared else 'per expert'}: cosine"
        proof.estimate(text, mean, error, float(law.drawn(before, t, v, shared)))
    claimed = float(law.per_expert(NARROW, 0.5, 0.5))
    proof.estimate(f"per expert, LayerNorm, t = v = 0.5, f = {NARROW}: mean cos^2", *_narrow(), claimed, allowance=2 / NARROW**3)
    (mean, error), profile, spread = _unequal()
    proof.estimate("ReLU units of std 1 and 9 by turns, LayerNorm: cosine", mean, error, float(law.unequal(profile, spread)))
    for (norm, moments), (mean, error) in given.items():
        before, mu = (zero, np.sqrt(zero)) if norm == "rmsnorm" else (0.0, 0.0)
        text = f"{norm}, given <g^2> = {moments[0]:.3f}, <g b> = {moments[1]:.3f}, <b^2> = {moments[2]:.3f}: cosine"
        proof.estimate(text, mean, error, float(law.given(before, mu, *moments)))
    return proof.check()


def _no_gain_variance(c: Any, t: Any, v: Any, shared: bool, *, ctx: Any = FLOAT) -> Any:
    return affine_token_cosine(c, 0, v, shared, ctx=ctx)


def _always_shared(c: Any, t: Any, v: Any, shared: bool, *, ctx: Any = FLOAT) -> Any:
    return affine_token_cosine(c, t, v, True, ctx=ctx)


def _no_shrinking(f: Any, t: Any, v: Any, *, ctx: Any = FLOAT) -> Any:
    return per_expert_mso(f, 0, 0, ctx=ctx)


def _no_cross(c: Any, mu: Any, g: Any, k: Any, b: Any, *, ctx: Any = FLOAT) -> Any:
    return learned_affine_cosine(c, 0, g, k, b, ctx=ctx)


def _single_cross(c: Any, mu: Any, g: Any, k: Any, b: Any, *, ctx: Any = FLOAT) -> Any:
    return learned_affine_cosine(c, ctx.number(mu) / 2, g, k, b, ctx=ctx)


def control() -> list[Wrong]:
    return [
        Wrong("shared tau^2 / (1 + tau^2): the gain's variance left out", replace(LAW, drawn=_no_gain_variance)),
        Wrong("per expert as if shared", replace(LAW, drawn=_always_shared)),
        Wrong("per expert E cos^2 = 1/f + 1/f^2, as without gain and bias", replace(LAW, per_expert=_no_shrinking)),
        Wrong("given: without 2 mu <g b>", replace(LAW, given=_no_cross)),
        Wrong("given: mu <g b> once", replace(LAW, given=_single_cross)),
        Wrong("unequal units: Var(m) / N", replace(LAW, unequal=lambda m, n, r=0, *, ctx=FLOAT: (ctx.number(m) + r) / ctx.number(n))),
        Wrong("unequal units: 0, as if of one mean", replace(LAW, unequal=lambda m, n, r=0, *, ctx=FLOAT: ctx.number(r) / ctx.number(n))),
        Wrong("broken hypothesis: biases of mean 1", replace(LAW, bias_mean=1)),
    ]

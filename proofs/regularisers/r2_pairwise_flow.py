"""R2: descent on the experts' overlaps lowers weight MSO monotonically, to 0 exactly where the start is linearly independent.

The floor for dependent starts is Welch's; identical starts are its case r = 1. The flow can rest above it: of experts a, a, b the first
two stay identical, so MSO ends at 1/3 and not at the floor 1/4. Other overlaps are taken from elsewhere: outputs stay at 1/d
(N2: W_down is not touched, and the new W_up is a function of the old), and E (x'Mx)^2 of a pair loses, to leading order, the vanishing
share that F4 computes (F4 projects one of the two; here both turn). Under a task: R2B.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.output_null import null_output_mso
from simgap.theory.pairwise_flow import gram_velocity, log_det_rate, loss_bound, pair_mso, rank_floor
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="R2",
    kind=EQUAL,
    title="without a task, descent on the pairwise overlaps takes weight MSO down to 0, or to the floor of its rank",
    claim=(
        r"R = \sum_{i<j}\langle w_i,w_j\rangle^2:\ \dot G = 2(DG + GD) - 4G^2,\ D = \mathrm{diag}(G^2);\quad"
        r"\dot R \le 0;\quad \frac{d}{dt}\log\det G = 8R,\text{ so } R(t) \le -\log\det G(0)/(8t);\quad"
        r"E = 2:\ \cos^2 = c_0/(c_0+(1-c_0)e^{8t});\quad \mathrm{MSO}(t) \ge (E-r)/(r(E-1)),\ r = \mathrm{rank}\,G(0);"
        r"\quad \text{so } \mathrm{MSO} \to 0 \iff r = E;\quad \mathbb{E}\,\text{output MSO} = 1/d\ \forall t"
    ),
    hypotheses=(
        "E >= 2 unit vectors follow dw_i/dt = -P_i dR/dw_i, P_i the projection off w_i, and no other loss",
        "output MSO: W_down as in N2, and the w_i are the flattened W_up",
    ),
    box={"E": (2, None), "t": (0, None), "c_0": (0, 1), "r": (1, None)},
    premises=(
        computed("N2: E output MSO = 1/d for every W_up"),
        computed("F4: the share of E (x'Mx)^2 that orthogonal weights remove (no part of this proof)"),
    ),
    tight="equalities; the bound in the limit of nearly parallel pairs, the floor by three vectors of a plane at 120 degrees",
)


@dataclass(frozen=True)
class Law:
    """penalised: which losses move the vectors, the hypothesis' or a broken one."""

    velocity: Callable[..., Any] = gram_velocity
    rate: Callable[..., Any] = log_det_rate
    pair: Callable[..., Any] = pair_mso
    bound: Callable[..., Any] = loss_bound
    floor: Callable[..., Any] = rank_floor
    output: Callable[..., Any] = null_output_mso
    penalised: str = "up"


LAW = Law()
BOTH = "up and down"


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    for text, right in _descents():
        proof.holds(text, right)
    for experts in (2, 3):
        gram, loss, adjugate = _generic(experts)
        flow = 2 * (_sizes(gram) * gram + gram * _sizes(gram)) - 4 * gram**2
        proof.holds(f"E = {experts}: that is the law's dG/dt", _zero(flow - law.velocity(gram)))
        rate = sp.expand((adjugate * law.velocity(gram)).trace())
        determinant = (gram * adjugate)[0, 0]
        proof.holds(
            f"E = {experts}: det G tr G^-1 dG/dt = {sp.factor(rate / (loss * determinant))} R det G, as polynomials in g_ij",
            _zero(rate - law.rate(loss, ctx=SYMBOLIC) * determinant),
        )
    trace, square = sp.symbols("trG trD", real=True)
    loss = sp.Symbol("R", nonnegative=True)
    rate = 2 * (square + square) - 4 * trace
    experts = sp.Symbol("E", integer=True, positive=True)
    proof.equal(
        "any E: tr G^-1 dG/dt = 2 tr (G^-1 D G + D) - 4 tr G = 4 tr D - 4E, and tr D = tr G^2 = E + 2R",
        sp.expand(rate.subs({trace: experts, square: experts + 2 * loss})),
        law.rate(loss, ctx=SYMBOLIC),
    )
    start, t = sp.Symbol("L", real=True), sp.Symbol("t", positive=True)
    proof.step("R falls, so t R(t) <= int_0^t R = (log det G(t) - L)/8 with L = log det G(0), and det G(t) <= prod g_ii = 1 (Hadamard)")
    proof.equal("r = E: R(t) is at most", (0 - start) / (8 * t), law.bound(start, t, ctx=SYMBOLIC))
    proof.step("so R -> 0 where det G(0) > 0")
    c, c0, time = sp.symbols("c c0 t", positive=True)
    g = sp.Symbol("g", real=True)
    single = law.velocity(sp.Matrix([[1, g], [g, 1]]))[0, 1]
    proof.equal("E = 2: d g^2/dt = 2 g dg/dt is, with c = g^2,", -8 * c * (1 - c), sp.expand(2 * g * single).subs(g, sp.sqrt(c)))
    odds = c / (1 - c)
    proof.holds("the odds q = c/(1 - c) have dq/dt = -8 q", _zero(sp.diff(odds, c) * (-8 * c * (1 - c)) + 8 * odds))
    fallen = odds.subs(c, c0) * sp.exp(-8 * time)
    proof.equal("so q = q0 e^{-8t} and c = q/(1 + q)", sp.simplify(fallen / (1 + fallen)), law.pair(c0, time, ctx=SYMBOLIC))
    proof.equal("c0 = 1, where q has no value and dc/dt = 0", 1, law.pair(sp.Integer(1), time, ctx=SYMBOLIC))
    proof.step("each w_i moves within the span of all, by a smooth linear flow W(t) = A(t) W(0), A invertible: the rank r stays")
    rank = sp.Symbol("r", integer=True, positive=True)
    proof.step("Cauchy-Schwarz on the r non-zero eigenvalues of G: tr G^2 >= (tr G)^2/r = E^2/r, so 2R >= E^2/r - E")
    proof.equal(
        "over E (E - 1)/2 pairs: MSO is at least",
        sp.factor((experts**2 / rank - experts) / 2 / (experts * (experts - 1) / 2)),
        law.floor(experts, rank, ctx=SYMBOLIC),
    )
    third = sp.Matrix(3, 3, lambda i, j: 1 if i == j else -sp.Rational(1, 2))
    proof.equal("attained by three vectors at 120 degrees, rank 2: MSO", sp.Rational(1, 4), law.floor(3, 2, ctx=SYMBOLIC))
    proof.holds("where the flow rests", law.velocity(third) == sp.zeros(3, 3) and third.rank() == 2)
    if law.penalised == BOTH:
        proof.step("W_down under the same penalty: two pairs of columns that started independent no longer are")
        before, after = sp.Rational(1, 2), law.pair(sp.Rational(1, 2), sp.oo, ctx=SYMBOLIC)
        proof.equal("d = 2, f = 1, one unit column each: E output cos^2 = 1/d before, and in the end", after, law.output(2, ctx=SYMBOLIC))
        proof.step("before", before)
    d = sp.Symbol("d", positive=True)
    proof.equal("N2, given any W_up and hidden vectors: E output MSO", 1 / d, law.output(d, ctx=SYMBOLIC))
    return proof.check()


@cache
def _descents() -> list[tuple[str, bool]]:
    """From dR/dw_i to dG/dt: polynomial identities in the vectors' coordinates, then in their inner products."""
    checks = []
    for experts in (2, 3):
        w = sp.Matrix(experts, 3, sp.symbols(f"w:{experts * 3}", real=True))
        gram = w * w.T
        loss = sum(gram[i, j] ** 2 for i in range(experts) for j in range(i))
        slope = w.applyfunc(lambda entry, loss=loss: sp.diff(loss, entry))
        down = sp.Matrix.vstack(*((slope[i, :] * w[i, :].T)[0] * w[i, :] - slope[i, :] for i in range(experts)))
        checks.append((
            f"E = {experts}, R^3: dw_i/dt = -(dR/dw_i - <dR/dw_i, w_i> w_i) is -2 sum_(j != i) g_ij (w_j - g_ij w_i), entry by entry",
            _zero(down - _mix(gram) * w),
        ))  # fmt: skip
    for experts in (2, 3, 4):
        gram, _, _ = _generic(experts)
        mix = _mix(gram)
        checks.append((
            f"E = {experts}: dW/dt = M W gives dG/dt = M G + G M' = 2 (DG + GD) - 4 G^2 where g_ii = 1",
            _zero(mix * gram + gram * mix.T - 2 * (_sizes(gram) * gram + gram * _sizes(gram)) + 4 * gram**2),
        ))  # fmt: skip
        loss_rate = sum(2 * gram[i, j] * (mix * gram + gram * mix.T)[i, j] for i in range(experts) for j in range(i))
        checks.append((f"E = {experts}: dR/dt = -sum_i |dw_i/dt|^2 <= 0", _zero(loss_rate + (mix * gram * mix.T).trace())))
    return checks


def _mix(gram: sp.Matrix) -> sp.Matrix:
    """M of dW/dt = M W: -2 g_ij off the diagonal, 2 sum_(j != i) g_ij^2 on it."""
    off = gram - sp.diag(*gram.diagonal())
    return -2 * off + 2 * sp.diag(*((off * off)[i, i] for i in range(gram.rows)))


def _sizes(gram: sp.Matrix) -> sp.Matrix:
    return sp.diag(*(gram**2).diagonal())


@cache
def _generic(experts: int) -> tuple[sp.Matrix, Any, sp.Matrix]:
    gram = sp.Matrix(experts, experts, lambda i, j: 1 if i == j else sp.Symbol(f"g{min(i, j)}{max(i, j)}", real=True))
    return gram, sum(gram[i, j] ** 2 for i in range(experts) for j in range(i)), gram.adjugate().expand()


def _zero(part: Any) -> bool:
    entries = part if isinstance(part, sp.MatrixBase) else [part]
    return all(sp.expand(sp.numer(sp.together(entry))) == 0 for entry in entries)


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("polynomial identities in the inner products, and one logistic curve: derived exactly")


def _velocity(w: np.ndarray) -> np.ndarray:
    gram = w @ w.swapaxes(-1, -2)
    slope = 2 * (gram * (1 - np.eye(w.shape[-2]))) @ w
    return (slope * w).sum(-1, keepdims=True) * w - slope


def _flow(w: np.ndarray, time: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The unit vectors after `time`, by Runge-Kutta steps that end on the spheres, and the integral of R by Simpson's rule (steps even)."""
    step, losses = time / steps, [_loss(w)]
    for _ in range(steps):
        k1 = _velocity(w)
        k2 = _velocity(w + step / 2 * k1)
        k3 = _velocity(w + step / 2 * k2)
        w = _units(w + step / 6 * (k1 + 2 * k2 + 2 * k3 + _velocity(w + step * k3)))
        losses.append(_loss(w))
    weights = np.tile([2.0, 4.0], steps // 2 + 1)[: steps + 1]
    weights[[0, -1]] = 1
    return w, np.tensordot(weights, np.array(losses), 1) * step / 3


def _loss(w: np.ndarray) -> np.ndarray:
    gram = w @ w.swapaxes(-1, -2)
    return ((gram**2).sum((-2, -1)) - (gram.diagonal(axis1=-2, axis2=-1) ** 2).sum(-1)) / 2


def _units(w: np.ndarray) -> np.ndarray:
    return w / np.linalg.norm(w, axis=-1, keepdims=True)


@cache
def _runs() -> dict[str, Any]:
    """Four random experts in R^6 at three times; nearly parallel pairs; starts of rank 1 and 2; the outputs of a flowed expert layer."""
    random = generator("R2")
    runs: dict[str, Any] = {}
    start = _units(random.standard_normal((4, 6)))
    for time in (0.1, 0.5, 2.0):
        runs[f"t = {time}"] = (time, start, *_flow(start, time, 200))
    close = np.array([[1.0, 0.0], [np.sqrt(1 - 1e-8), 1e-4]])
    # -log det G(0) = 18.4, and at 8t = 16 the pair is still nearly parallel.
    runs["close"] = (2.0, close, *_flow(close, 2.0, 800))
    plane = _units(random.standard_normal((3, 2)))
    runs["plane"] = _flow(plane, 20.0, 1000)[0]
    same = np.tile(_units(random.standard_normal((1, 5))), (3, 1))
    runs["same"] = _flow(same, 20.0, 1000)[0]
    pairs = _units(random.standard_normal((3, 2, 4)))
    runs["pairs"] = (pairs, _flow(pairs, 0.3, 100)[0])
    return runs


@cache
def _outputs(penalised: str) -> np.ndarray:
    """cos^2 of two experts' outputs on one token, d = 3, f = 2, ReLU, after the flow took their W_up (and W_down) apart; 20,000 layers."""
    random = generator("R2", penalised)
    layers, d, f = 20_000, 3, 2
    up = random.standard_normal((layers, 2, f * d))
    down = random.standard_normal((layers, 2, d * f))
    up = _flow(_units(up), 0.25, 10)[0].reshape(layers, 2, f, d)
    if penalised == BOTH:
        down = _flow(_units(down), 1.0, 20)[0]
    hidden = np.maximum(up @ random.standard_normal(d), 0)
    y = (down.reshape(layers, 2, d, f) @ hidden[..., None])[..., 0]
    size = (y**2).sum(-1)
    live = (size > 0).all(-1)
    return (y[live, 0] * y[live, 1]).sum(-1) ** 2 / size[live].prod(-1)


def numeric(law: Law = LAW) -> Check:
    """The flow of the vectors themselves by Runge-Kutta: errors below 1e-7 at these steps."""
    proof = Derivation()
    runs = _runs()
    for name in ("t = 0.1", "t = 0.5", "t = 2.0", "close"):
        time, start, end, total = runs[name]
        before, after = (float(np.linalg.slogdet(w @ w.T)[1]) for w in (start, end))
        proof.agrees(f"{name}: log det G(t) - log det G(0)", after - before, float(law.rate(total, ctx=FLOAT)), 1e-6)
        loss, bound = float(_loss(end)), law.bound(before, time, ctx=FLOAT)
        proof.bounded(f"{name}: R(t), from {float(_loss(start)):.4f}", loss, 1e-9, low=0, high=bound)
    losses = [float(_loss(runs[name][2])) for name in ("t = 0.1", "t = 0.5", "t = 2.0")]
    proof.bounded("R falls from t = 0.1 to 0.5", losses[1] - losses[0], 0, high=0)
    proof.bounded("and from 0.5 to 2", losses[2] - losses[1], 0, high=0)
    start, end = runs["t = 0.5"][1], runs["t = 0.5"][2]
    small = 1e-4
    slope = (_flow(start, small, 2)[0] @ _flow(start, small, 2)[0].T - start @ start.T) / small
    proof.bounded("dG/dt at the start, largest error", float(np.abs(slope - law.velocity(start @ start.T)).max()), 0, high=100 * small)
    for w0, w in zip(*runs["pairs"], strict=True):
        c0, c = (float((pair[0] @ pair[1]) ** 2) for pair in (w0, w))
        proof.agrees(f"a pair at cos^2 = {c0:.4f}, t = 0.3", c, float(law.pair(c0, 0.3, ctx=FLOAT)), 1e-7)
    proof.agrees("three vectors of a plane, t = 20: MSO", float(_loss(runs["plane"])) / 3, float(law.floor(3, 2, ctx=FLOAT)), 1e-6)
    proof.agrees("identical starts, t = 20: MSO", float(_loss(runs["same"])) / 3, float(law.floor(3, 1, ctx=FLOAT)), 1e-6)
    proof.agrees("independent starts, t = 2: MSO", float(_loss(runs["t = 2.0"][2])) / 6, float(law.floor(4, 4, ctx=FLOAT)), 1e-4)
    proof.estimate(f"{law.penalised} penalised: output cos^2", *mean_and_sem(_outputs(law.penalised)), float(law.output(3, ctx=FLOAT)))
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("d log det G/dt = 4 R", replace(LAW, rate=lambda loss, *, ctx: 4 * ctx.number(loss))),
        Wrong("dG/dt = 2 (DG + GD) - 2 G^2", replace(LAW, velocity=lambda gram: gram_velocity(gram) + 2 * gram @ gram)),
        Wrong("half the flow's speed", replace(LAW, velocity=lambda gram: gram_velocity(gram) / 2)),
        Wrong("pair: e^{4t}", replace(LAW, pair=lambda c0, t, *, ctx: pair_mso(c0, ctx.number(t) / 2, ctx=ctx))),
        Wrong("R(t) <= -log det G(0)/(16 t)", replace(LAW, bound=lambda start, t, *, ctx: loss_bound(start, t, ctx=ctx) / 2)),
        Wrong("MSO falls to 0 whatever the rank", replace(LAW, floor=lambda e, r, *, ctx: ctx.number(0))),
        Wrong("floor (E - r)/(E - 1)", replace(LAW, floor=lambda e, r, *, ctx: rank_floor(e, r, ctx=ctx) * ctx.number(r))),
        Wrong("output MSO 1/(d + 1)", replace(LAW, output=lambda d, *, ctx: 1 / (ctx.number(d) + 1))),
        Wrong("broken hypothesis: W_down is penalised too", replace(LAW, penalised=BOTH)),
    ]

"""R2B: under a task, more of a penalty means no more of what it penalises; the three ways in which weight MSO can rise all the same.

Along exact minimisers, along a branch of non-degenerate minima, and under the stationary law of noisy descent alike, R does not increase
with lambda. So where the penalty is the measured MSO itself, a rise shows a switch of basins or an unfinished descent. The examples:
(a) w_1 = (1, 0) and w_2 = (x, y): the convex quadratic task [5 (x-1)^2 - 4 (x-1)(y-1) + (y-1)^2]/2 with the penalty <w_1, w_2>^2 = x^2;
(b) one cosine c = z/5 in [-1, 1]: a task with dT/dz = (z - 2)(z - 1)(z + 4) and the penalty z^2 = 25 c^2;
(c) one cosine c: the task (c - 1/2)^2/2 and the penalty c^2, by gradient flow from c = -1/2 until t = log 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import UPPER, Check, Derivation, Statement, Wrong, generator
from simgap.theory.floats import FLOAT
from simgap.theory.pairwise_flow import gibbs_slope, penalty_slope
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="R2B",
    kind=UPPER,
    title="under a task, a stronger penalty does not raise what it penalises, unless the basin changes or time is short",
    claim=(
        r"x_\lambda \in \arg\min T + \lambda R:\ a < b \Rightarrow R(x_b) \le R(x_a),\ T(x_b) \ge T(x_a);\quad"
        r"\text{branch: } dR/d\lambda = -\nabla R' H^{-1} \nabla R \le 0;\quad"
        r"p \propto e^{-(T+\lambda R)/\tau}:\ d\,\mathbb{E}R/d\lambda = -\mathrm{Var} R/\tau \le 0;\quad"
        r"\text{(a) raw products: } \langle w_1,w_2\rangle^2 = (1+2\lambda)^{-2} \text{ falls, } \cos^2 = 1/(1+(1-2\lambda)^2)"
        r"\text{ rises from } 1/2 \text{ to } 1 \text{ on } [0,1/2];\quad"
        r"\text{(b) basin: } 4/25 \to 9/25 \text{ at } \lambda = 10/3;\quad"
        r"\text{(c) time: } c = \tfrac12[1/m - (1+1/m)2^{-m}],\ m = 1+2\lambda:"
        r"\text{ MSO } 0 \text{ at } \lambda = 0, > 0 \text{ at every } \lambda > 0"
    ),
    hypotheses=(
        "minimisers: exact and global, of T + lambda R at 0 <= a < b, T and R any functions that have them",
        "branch: T and R twice continuously differentiable, grad (T + lambda R) = 0 and its Hessian H positive definite",
        "stationary law: T + lambda R grows fast enough that R has a variance, uniformly near lambda",
        "examples: as in the head of the file; in (b) descent from any c with 1/5 < c <= 1",
    ),
    box={"lambda": (0, None)},
    tight="equality where grad R = 0 or R is constant; (a), (b), (c) show that no hypothesis can go",
)


def raw_example(strength: Any, *, ctx: Any = FLOAT) -> tuple[Any, Any]:
    """(a) <w_1, w_2>^2 and cos^2 at the minimiser."""
    strength = ctx.number(strength)
    return (1 + 2 * strength) ** -2, 1 / (1 + (1 - 2 * strength) ** 2)


def time_example(strength: Any, *, ctx: Any = FLOAT) -> Any:
    """(c) the cosine at t = log 2."""
    m = 1 + 2 * ctx.number(strength)
    return (1 / m - (1 + 1 / m) * ctx.number(2) ** (-m)) / 2


@dataclass(frozen=True)
class Law:
    """direction: the sign with which R moves as lambda rises, where `reached` says what is compared: exact minimisers, or what an example
    reaches that breaks this hypothesis. basin: MSO in (b) at lambda = 0 and 10/3."""

    direction: int = -1
    slope: Callable[..., Any] = penalty_slope
    gibbs: Callable[..., Any] = gibbs_slope
    raw: Callable[..., Any] = raw_example
    basin: tuple[Fraction, Fraction] = (Fraction(4, 25), Fraction(9, 25))
    time: Callable[..., Any] = time_example
    reached: str = "exact minimisers"


LAW = Law()
NORMALISED, LOCAL, EARLY = "normalised MSO, raw penalty", "minima from one start", "states at one time"
STRONG = Fraction(10, 3)


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    _monotone(proof, law)
    _raw(proof, law)
    _basin(proof, law)
    _time(proof, law)
    return proof.check()


def _monotone(proof: Derivation, law: Law) -> None:
    a, ta, tb, ra, rb, gap = sp.symbols("a Ta Tb Ra Rb gap", real=True)
    b = a + gap
    first, second = (tb + a * rb) - (ta + a * ra), (ta + b * ra) - (tb + b * rb)
    proof.step("x_a is minimal at a, x_b at b = a + gap: T_b + a R_b - T_a - a R_a >= 0 and T_a + b R_a - T_b - b R_b >= 0")
    proof.equal("their sum, >= 0 with gap > 0, is", sp.factor(first + second), gap * (rb - ra) * law.direction)
    proof.holds("and then T_b - T_a >= a (R_a - R_b) >= 0 for a >= 0", sp.expand(first - (tb - ta - a * (ra - rb))) == 0)
    if law.reached != "exact minimisers":
        for text, values in _sequences()[law.reached]:
            falls = all(y * law.direction >= x * law.direction for x, y in pairwise(values))
            proof.holds(f"{law.reached}, {text}: {values} move with the sign {law.direction}", falls)
    gradient, step, rate = _branch()
    proof.equal("differentiating grad T + lambda grad R = 0 along x(lambda): dR/dlambda", rate, sp.factor(law.slope(gradient, step)))
    proof.holds("H = LL' (Cholesky): g'H^-1 g = |L^-1 g|^2 >= 0", _square(gradient))
    strength, heat = sp.symbols("lambda tau", positive=True)
    tasks, losses = sp.symbols("T1:4"), sp.symbols("R1:4")
    weights = [sp.exp(-(t + strength * r) / heat) for t, r in zip(tasks, losses, strict=True)]
    mean, mean2 = (sum(r**p * w for r, w in zip(losses, weights, strict=True)) / sum(weights) for p in (1, 2))
    shares = sp.symbols("w1:4", positive=True)
    # The derivative is taken of the exponentials; then each is one positive symbol.
    short = dict(zip(weights, shares, strict=True))
    proof.equal(
        "p ~ exp(-(T + lambda R)/tau) on three states: d E R/dlambda",
        sp.factor(sp.diff(mean, strength).subs(short)),
        sp.factor(law.gibbs((mean2 - mean**2).subs(short), heat, ctx=SYMBOLIC)),
    )
    proof.step("any states: d log p/dlambda = -(R - E R)/tau, so d E R/dlambda = -E R (R - E R)/tau")


@cache
def _square(gradient: tuple[Any, ...]) -> bool:
    l11, l21, l22 = sp.symbols("l11 l21 l22", positive=True)
    lower, g = sp.Matrix([[l11, 0], [l21, l22]]), sp.Matrix(gradient)
    root = lower.inv() * g
    return sp.simplify((g.T * (lower * lower.T).inv() * g - root.T * root)[0]) == 0


@cache
def _branch() -> tuple[tuple[Any, ...], tuple[Any, ...], Any]:
    """grad R, H^-1 grad R and dR/dlambda in two dimensions, from two undefined functions."""
    strength, x, y = sp.symbols("lambda x y", real=True)
    task, loss = sp.Function("T")(x, y), sp.Function("R")(x, y)
    stationary = [sp.diff(task + strength * loss, v) for v in (x, y)]
    speeds = sp.symbols("dx dy")
    moved = [sp.diff(s, strength) + sum(sp.diff(s, v) * speed for v, speed in zip((x, y), speeds, strict=True)) for s in stationary]
    solved = sp.solve(moved, speeds, dict=True)[0]
    rate = sum(sp.diff(loss, v) * solved[speed] for v, speed in zip((x, y), speeds, strict=True))
    hessian = sp.hessian(task + strength * loss, (x, y))
    gradient = sp.Matrix([sp.diff(loss, v) for v in (x, y)])
    step = hessian.adjugate() * gradient / hessian.det()
    names = {sp.diff(loss, x): sp.Symbol("Rx"), sp.diff(loss, y): sp.Symbol("Ry")}
    names |= {sp.diff(f, u, v): sp.Symbol(f"{f.func}{u}{v}") for f in (task, loss) for u in (x, y) for v in (x, y)}
    return tuple(gradient.subs(names)), tuple(step.subs(names)), sp.factor(rate.subs(names))


def _raw(proof: Derivation, law: Law) -> None:
    x, y, strength = sp.symbols("x y lambda", real=True)
    total = _raw_task(x, y) + strength * x**2
    hessian = sp.hessian(total, (x, y))
    proof.holds(
        f"(a) the Hessian {hessian.tolist()} has corner 1 > 0 and determinant 1 + 2 lambda > 0",
        hessian[1, 1] == 1 and sp.expand(hessian.det()) == 1 + 2 * strength,
    )
    at = {x: 1 / (1 + 2 * strength), y: (1 - 2 * strength) / (1 + 2 * strength)}
    proof.holds(f"the gradient is 0 at {at}", all(sp.simplify(sp.diff(total, v).subs(at)) == 0 for v in (x, y)))
    raw, cos2 = law.raw(strength, ctx=SYMBOLIC)
    proof.equal("(a) <w_1, w_2>^2 = x^2", sp.simplify(at[x] ** 2), raw)
    proof.equal("(a) cos^2 = x^2/(x^2 + y^2)", sp.simplify(at[x] ** 2 / (at[x] ** 2 + at[y] ** 2)), cos2)
    values = [sp.simplify((at[x] ** 2 / (at[x] ** 2 + at[y] ** 2)).subs(strength, v)) for v in (0, sp.Rational(1, 4), sp.Rational(1, 2))]
    proof.holds(
        f"(a) at lambda = 0, 1/4, 1/2: cos^2 = {values}, rising as (1 - 2 lambda)^2 falls",
        values == [sp.Rational(1, 2), sp.Rational(4, 5), 1],
    )


def _raw_task(x: Any, y: Any) -> Any:
    return (5 * (x - 1) ** 2 - 4 * (x - 1) * (y - 1) + (y - 1) ** 2) / 2


def _basin(proof: Derivation, law: Law) -> None:
    z = sp.Symbol("z", real=True)
    force = sp.expand((z - 2) * (z - 1) * (z + 4))
    proof.holds("(b) lambda = 0: descent from 1 < z <= 5 ends at z = 2, as dT/dz has the sign of z - 2 there", _only_root(force, z, 1, 2))
    strong = sp.factor(force + 2 * z * sp.Rational(10, 3))
    proof.step("(b) lambda = 10/3: d(T + lambda z^2)/dz", strong)
    rest = sp.cancel(strong / (z + 3))
    proof.holds("z = -3 is its one zero: the other factor has no real one", sp.discriminant(rest, z) < 0 and sp.degree(rest, z) == 2)
    ends = (sp.Rational(2, 5) ** 2, sp.Rational(-3, 5) ** 2)
    for name, end, claimed in zip(("0", "10/3"), ends, law.basin, strict=True):
        proof.equal(f"(b) lambda = {name}: MSO = c^2 = (z/5)^2", end, SYMBOLIC.number(claimed))
    height = sp.integrate(force, (z, 2, -4))
    proof.holds(
        f"(b) the exact minimiser at lambda = 0 is the other well, z = -4, lower by {-height}: its c^2 = 16/25 falls to 9/25", height < 0
    )


def _only_root(force: Any, z: Any, low: int, root: int) -> bool:
    """Whether the force is below 0 on (low, root) and above it beyond: a cubic with these zeros and its third at or below low."""
    zeros = sorted(sp.roots(force, z))
    return zeros[-2:] == [low, root] and sp.LC(force, z) > 0


def _time(proof: Derivation, law: Law) -> None:
    t, strength = sp.symbols("t lambda", positive=True)
    path, right = _solution(t, strength)
    proof.holds(f"(c) dc/dt = -(c - 1/2) - 2 lambda c, c(0) = -1/2: solved by c = {path}", right)
    at = path.subs(t, sp.log(2))
    proof.equal("(c) at t = log 2", at, law.time(strength, ctx=SYMBOLIC))
    proof.equal("(c) lambda = 0", 0, law.time(0, ctx=SYMBOLIC))
    proof.equal("(c) lambda = 1: MSO = c^2", sp.Rational(1, 144), law.time(1, ctx=SYMBOLIC) ** 2)
    m = sp.Symbol("m", positive=True)
    bend = sp.diff(2**m - m - 1, m, 2)
    proof.holds(
        f"(c) c > 0 iff 2^m > m + 1: convex ({bend} > 0), with zeros at m = 0 and 1, so true for every m = 1 + 2 lambda > 1",
        bend == 2**m * sp.log(2) ** 2 and all((2**m - m - 1).subs(m, zero) == 0 for zero in (0, 1)),
    )


@cache
def _solution(t: Any, strength: Any) -> tuple[Any, bool]:
    m = 1 + 2 * strength
    path = 1 / (2 * m) - (1 + 1 / m) / 2 * sp.exp(-m * t)
    slope = sp.diff(path, t) + (path - sp.Rational(1, 2)) + 2 * strength * path
    return path, sp.simplify(slope) == 0 and sp.simplify(path.subs(t, 0)) == -sp.Rational(1, 2)


@cache
def _sequences() -> dict[str, list[tuple[str, list[Any]]]]:
    """What each example reaches as lambda rises: exact."""
    half = sp.Rational(1, 2)
    return {
        NORMALISED: [("lambda = 0, 1/2", [half, sp.Integer(1)])],
        LOCAL: [("lambda = 0, 10/3", [sp.Rational(4, 25), sp.Rational(9, 25)])],
        EARLY: [("lambda = 0, 1", [sp.Integer(0), sp.Rational(1, 144)])],
    }


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("two inequalities, implicit differentiation, and examples in rational numbers")


STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)


@cache
def _minimisers() -> list[np.ndarray]:
    """R at the exact minimiser over each of 500 finite sets of states, at STRENGTHS."""
    random = generator("R2B", "finite")
    losses = []
    for _ in range(500):
        task, loss = random.exponential(1, 40), random.uniform(0, 1, 40)
        losses.append(np.array([loss[np.argmin(task + strength * loss)] for strength in STRENGTHS]))
    return losses


@cache
def _descents() -> dict[str, list[float]]:
    """The examples by descent: raw and normalised overlap at lambda = 0, 0.2, 0.5; (b)'s two ends; (c)'s cosines at lambda = 0, 1."""
    ends: dict[str, list[float]] = {"raw": [], "cos2": [], "basin": [], "time": []}
    for strength in (0.0, 0.2, 0.5):
        x = y = 1.0
        for _ in range(4000):
            slope = (5 * (x - 1) - 2 * (y - 1) + 2 * strength * x, -2 * (x - 1) + (y - 1))
            x, y = x - 0.1 * slope[0], y - 0.1 * slope[1]
        ends["raw"].append(x * x)
        ends["cos2"].append(x * x / (x * x + y * y))
    for strength in (0.0, float(STRONG)):
        z = 1.5
        for _ in range(4000):
            z -= 0.01 * ((z - 2) * (z - 1) * (z + 4) + 2 * strength * z)
        ends["basin"].append((z / 5) ** 2)
    for strength in (0.0, 1.0):
        c, steps = -0.5, 2000
        for _ in range(steps):
            # The midpoint rule: error of order steps^-2.
            middle = c - np.log(2) / (2 * steps) * (c - 0.5 + 2 * strength * c)
            c -= np.log(2) / steps * (middle - 0.5 + 2 * strength * middle)
        ends["time"].append(c)
    return ends


def _task(angles: np.ndarray) -> float:
    """A task for three unit vectors of a plane: it wants them at angles 0, 0.3 and 0.8, with a quartic wall."""
    return float((((angles - np.array([0.0, 0.3, 0.8])) ** 2).sum()) * 2 + ((angles - 0.2) ** 4).sum())


def _overlap(angles: np.ndarray) -> float:
    return float(sum(np.cos(angles[i] - angles[j]) ** 2 for i in range(3) for j in range(i)))


def _derivatives(f: Callable[[np.ndarray], float], at: np.ndarray, h: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian by central differences, error O(h^2)."""
    e = h * np.eye(at.size)
    gradient = np.array([f(at + u) - f(at - u) for u in e]) / (2 * h)
    hessian = np.array([[f(at + u + v) - f(at + u - v) - f(at - u + v) + f(at - u - v) for u in e] for v in e]) / (4 * h * h)
    return gradient, hessian


@cache
def _on_branch(strength: float) -> tuple[np.ndarray, float]:
    """The minimiser of task + strength R that Newton's steps from the task's own reach, and R there."""
    at = np.array([0.0, 0.3, 0.8])
    for _ in range(20):
        gradient, hessian = _derivatives(lambda x: _task(x) + strength * _overlap(x), at)
        at = at - np.linalg.solve(hessian, gradient)
    return at, _overlap(at)


def numeric(law: Law = LAW) -> Check:
    """Finite sets searched whole, Newton's method on a task for three vectors, sums over states, and the examples by descent."""
    proof = Derivation()
    runs = _descents()
    reached: dict[str, Sequence[Any]] = {
        "exact minimisers": _minimisers(), NORMALISED: [runs["cos2"]], LOCAL: [runs["basin"]], EARLY: [[c * c for c in runs["time"]]],
    }  # fmt: skip
    # The examples by descent are right to 1e-6.
    worst = max(float((-law.direction * np.diff(values)).max()) for values in reached[law.reached])
    proof.bounded(f"{law.reached}: largest move of R against the sign {law.direction}, as lambda rises", worst, 0, high=1e-6)
    for strength in (0.2, 0.5):
        at, _ = _on_branch(strength)
        gradient, _ = _derivatives(_overlap, at)
        hessian = _derivatives(_task, at)[1] + strength * _derivatives(_overlap, at)[1]
        slope = (_on_branch(strength + 1e-3)[1] - _on_branch(strength - 1e-3)[1]) / 2e-3
        proof.agrees(
            f"three vectors, lambda = {strength}: dR/dlambda", slope, float(law.slope(gradient, np.linalg.solve(hessian, gradient))), 1e-4
        )
    random = generator("R2B", "states")
    task, loss, heat = random.exponential(1, 200), random.uniform(0, 1, 200), 0.3

    def mean(strength: float, power: int = 1) -> float:
        weights = np.exp(-(task + strength * loss) / heat)
        return float((weights * loss**power).sum() / weights.sum())

    slope = (mean(1.001) - mean(0.999)) / 2e-3
    proof.agrees(
        "200 states, lambda = 1, tau = 0.3: d E R/dlambda", slope, float(law.gibbs(mean(1, 2) - mean(1) ** 2, heat, ctx=FLOAT)), 1e-5
    )
    for strength, raw, cos2 in zip((0.0, 0.2, 0.5), runs["raw"], runs["cos2"], strict=True):
        claimed = law.raw(strength, ctx=FLOAT)
        proof.agrees(f"(a) lambda = {strength}: raw product squared", raw, claimed[0], 1e-6)
        proof.agrees(f"(a) lambda = {strength}: cos^2", cos2, claimed[1], 1e-6)
    for end, claim in zip(runs["basin"], law.basin, strict=True):
        proof.agrees("(b) MSO from c = 0.3", end, float(claim), 1e-6)
    for strength, end in zip((0.0, 1.0), runs["time"], strict=True):
        proof.agrees(f"(c) lambda = {strength}: c at log 2", end, law.time(strength, ctx=FLOAT), 1e-6)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("R rises with lambda", replace(LAW, direction=1)),
        Wrong("dR/dlambda = -g'H^-1 g/2", replace(LAW, slope=lambda g, s: penalty_slope(g, s) / 2)),
        Wrong("dR/dlambda = -|g|^2", replace(LAW, slope=lambda g, s: penalty_slope(g, g))),
        Wrong("d E R/dlambda = -Var R", replace(LAW, gibbs=lambda variance, heat, *, ctx: gibbs_slope(variance, 1, ctx=ctx))),
        Wrong("(a) cos^2 falls with the raw product", replace(LAW, raw=_swapped)),
        Wrong("(b) the basin stays", replace(LAW, basin=(Fraction(4, 25), Fraction(4, 25)))),
        Wrong("(c) t in place of log 2 (t = 1/2)", replace(LAW, time=_earlier)),
        Wrong("broken hypothesis: normalised MSO is measured, raw products penalised", replace(LAW, reached=NORMALISED)),
        Wrong("broken hypothesis: local minima from one start", replace(LAW, reached=LOCAL)),
        Wrong("broken hypothesis: finite time", replace(LAW, reached=EARLY)),
    ]


def _swapped(strength: Any, *, ctx: Any) -> tuple[Any, Any]:
    raw, _ = raw_example(strength, ctx=ctx)
    return raw, 1 / (1 + (1 + 2 * ctx.number(strength)) ** 2)


def _earlier(strength: Any, *, ctx: Any) -> Any:
    m = 1 + 2 * ctx.number(strength)
    return (1 / m - (1 + 1 / m) * ctx.exp(-m / 2)) / 2

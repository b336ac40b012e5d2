"""S1: a correlation and its p give away the number of points; points that share seeds are fewer than they look."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.certify import BALL, Verdict, enclose_root, sign
from simgap.stats import student_p
from simgap.theory.correlation import correlation_t, critical_correlation, degrees_of_freedom, false_positive_rate
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="S1",
    kind=EQUAL,
    title="a correlation and its p give away the number of points",
    claim=(
        r"r\sqrt{(n-2)/(1-r^2)} \sim t_{n-2};\quad (r,p) = (-0.112, 0.596) \Rightarrow n = 25;\ (-0.293, 0.523) \Rightarrow n = 7;\quad"
        r"m \text{ seeds} \times c \text{ copies}: \mathbb{P}(\text{reject}) = p_m(r_{mc}) = 0.4355 \text{ at } m = 10, c = 5, 0.05"
    ),
    hypotheses=(
        "the two sides independent of each other",
        "one side n i.i.d. normal entries, the other anything but constant",
        "implied n: p is two-sided, r and p are correctly rounded to 3 decimals, r^2 < 1",
        "copies: the c conditions of a seed give the same point; partly clustered points: both sides normal, equally correlated in a seed",
    ),
    box={"n": (3, None)},
    tight="an equality",
)


@dataclass(frozen=True)
class Law:
    """t and its degrees of freedom, the rate at which clustered points reject, and the data that the simulation draws."""

    t: Callable[..., Any] = correlation_t
    dof: Callable[..., Any] = degrees_of_freedom
    rate: Callable[..., float] = false_positive_rate
    sides: str = "one normal"


LAW = Law()

# Reported (|r|, p) and the one n behind them.
REPORTED = (("0.112", "0.596", 25), ("0.293", "0.523", 7))
LAST = 200
SEEDS, CONDITIONS, LEVEL = 10, 5, Fraction(1, 20)


def symbolic(law: Law = LAW) -> Check:
    """Centre, rotate, and read off Student's definition: a normal over the root of an independent mean square."""
    proof = Derivation()
    for count in (3, 4, 5):
        x, y = (sp.Matrix(sp.symbols(f"{name}1:{count + 1}")) for name in ("x", "y"))
        basis = _helmert(count)
        ones = sp.ones(count, 1)
        centred = (x - ones * sum(x) / count).dot(y - ones * sum(y) / count)
        rotated = (basis * x).dot(basis * y)
        proof.holds(
            f"n = {count}: n - 1 orthonormal rows H with H 1 = 0",
            basis * basis.T == sp.eye(count - 1) and basis * ones == sp.zeros(count - 1, 1),
        )
        proof.equal(
            f"n = {count}: sum (x - mean)(y - mean) - (Hx)'(Hy); so r is the cosine of Hx and Hy",
            sp.expand(centred - rotated),
            sp.Integer(0),
        )
    proof.step(
        "x i.i.d. normal (mean and scale drop out of r): Hx is standard normal in R^(n-1); turned so that Hy, any fixed vector, is axis 1"
    )
    n, q = sp.Symbol("v", integer=True, positive=True) + 2, sp.Symbol("q", positive=True)
    g, t = sp.symbols("g t", real=True)
    r = g / sp.sqrt(g**2 + q)
    proof.step("r = g / sqrt(g^2 + q): g normal, q the sum of the v = n - 2 other squares, independent of g")
    derived = g / sp.sqrt(q / (n - 2))
    proof.equal(
        "the law's t^2 at that r: Student's ratio g / sqrt(q / (n - 2)), squared",
        sp.simplify(derived**2),
        sp.simplify(law.t(r, n, ctx=SYMBOLIC) ** 2),
    )
    proof.holds("and of g's sign", all(law.t(sp.Rational(s, 2), sp.Integer(5), ctx=SYMBOLIC) * s > 0 for s in (-1, 1)))
    proof.equal("degrees of freedom: squares in q", n - 2, law.dof(n, ctx=SYMBOLIC))
    m, a = sp.symbols("m a", positive=True)
    chi = q ** (m / 2 - 1) * sp.exp(-q / 2) / (2 ** (m / 2) * sp.gamma(m / 2))
    joint = sp.exp(-(t**2) * q / (2 * m)) / sp.sqrt(2 * sp.pi) * sp.sqrt(q / m) * chi
    rate = sp.integrate(q ** (m / 2 - sp.Rational(1, 2)) * sp.exp(-a * q), (q, 0, sp.oo))
    constant = sp.simplify(joint / (q ** (m / 2 - sp.Rational(1, 2)) * sp.exp(-q * (1 + t**2 / m) / 2)))
    student = constant * rate.subs(a, (1 + t**2 / m) / 2)
    density = sp.gamma((m + 1) / 2) / (sp.sqrt(sp.pi * m) * sp.gamma(m / 2)) * (1 + t**2 / m) ** (-(m + 1) / 2)
    proof.equal(
        "density of g / sqrt(q/m), q chi-square of m: int phi(t sqrt(q/m)) sqrt(q/m) chi(q) dq over Student's, m = 3",
        sp.simplify((student / density).subs(m, 3)),
        sp.Integer(1),
    )
    proof.equal("and for every m", sp.simplify(sp.powsimp(sp.expand_log(sp.log(student / density), force=True))), sp.Integer(0))
    rho = sp.Symbol("rho", positive=True)
    for count in (4, 5, 8):
        size = sp.Integer(count)
        there = law.t(rho, size, ctx=SYMBOLIC)
        pulled = density.subs(m, law.dof(size, ctx=SYMBOLIC)).subs(t, there) * sp.diff(there, rho)
        ratio = pulled / ((1 - rho**2) ** sp.Rational(count - 4, 2) / sp.beta(sp.Rational(1, 2), sp.Rational(count - 2, 2)))
        value = sp.simplify(ratio.subs(rho, sp.Rational(3, 5)).rewrite(sp.gamma))
        proof.equal(
            f"n = {count}: Student's density pulled back to r = 3/5, over that of Beta(1/2, (n-2)/2) for r^2 (law N1 in R^(n-1))",
            value,
            sp.Integer(1),
        )
    size = sp.Symbol("N", positive=True)
    likelihood = (1 - rho**2) ** ((size + 1 - 4) / 2) / (1 - rho**2) ** ((size - 4) / 2)
    proof.equal(
        "densities of r at n + 1 over n, up to a constant: it falls in |r|, so p at a fixed r falls in n",
        sp.simplify(likelihood),
        sp.sqrt(1 - rho**2),
    )
    proof.step(
        "c copies of each of m points: every sum is c times that of the m points, so r is theirs, and |r| > r_mc has probability p_m(r_mc)"
    )
    w = sp.Symbol("w", positive=True)
    for seeds, copies in ((2, 3), (3, 2)):
        covariance = sp.diag(*[(1 - w) * sp.eye(copies) + w * sp.ones(copies)] * seeds)
        means = sp.diag(*[sp.ones(copies) / copies] * seeds)
        overall = sp.ones(seeds * copies) / (seeds * copies)
        between, within = means - overall, sp.eye(seeds * copies) - means
        proof.holds(
            f"{seeds} seeds x {copies}: the centred space is a part between seeds, of m - 1 dimensions and variance 1 + (c-1) w each, "
            "and one within, of m (c-1) dimensions and variance 1 - w",
            sp.simplify(covariance * between - (1 + (copies - 1) * w) * between) == sp.zeros(seeds * copies)
            and sp.simplify(covariance * within - (1 - w) * within) == sp.zeros(seeds * copies)
            and (between.trace(), within.trace()) == (seeds - 1, seeds * (copies - 1)),
        )
    proof.step(
        "each part isotropic: r = sqrt(B1 B2) C_between + sqrt((1-B1)(1-B2)) C_within, four independent variables that the rate integrates"
    )
    if law.sides != "one normal":
        axis = [sp.Rational(3 * (i == 0) - 1) for i in range(3)]
        hits = sum(1 for j in range(3) if _squared_cosine(axis, [sp.Rational(3 * (i == j) - 1) for i in range(3)]) == 1)
        proof.equal("broken: both sides one spike among n = 3: P(r^2 = 1), where Student's law has 0", sp.Rational(hits, 3), sp.Integer(0))
    return proof.check()


def _helmert(count: int) -> sp.Matrix:
    rows = [[1] * i + [-i] + [0] * (count - i - 1) for i in range(1, count)]
    return sp.Matrix([[sp.Integer(x) / sp.sqrt(sum(y * y for y in row)) for x in row] for row in rows])


def _squared_cosine(x: list[Any], y: list[Any]) -> Any:
    return sum(a * b for a, b in zip(x, y, strict=True)) ** 2 / (sum(a * a for a in x) * sum(b * b for b in y))


def _p(law: Law, r: Any, n: int) -> Any:
    """The ball of the two-sided p: I_{v/(v+t^2)}(v/2, 1/2), the Student tail, for a ball r."""
    t, dof = law.t(r, n, ctx=BALL), law.dof(n, ctx=BALL)
    return (dof / (dof + t * t)).beta_lower(dof / 2, BALL.number(1) / 2, 1)


def certified(law: Law = LAW) -> Check:
    """Every n of 3..LAST excluded or kept by balls at the corners of the rounding box; beyond, p falls in n (see symbolic)."""
    proof = Derivation()
    half = Fraction(1, 2000)
    for r, p, expected in REPORTED:
        ends = [BALL.number(Fraction(r) + side * half) for side in (-1, 1)]
        low, high = (BALL.number(Fraction(p) + side * half) for side in (-1, 1))
        kept, undecided = [], []
        for n in range(3, LAST + 1):
            most, least = (_p(law, end, n) for end in ends)
            if most < low:
                break
            if least <= high and most >= low:
                kept.append(n)
            elif not (least > high or most < low):
                undecided.append(n)
        proof.ball(f"p at |r| = {r}, n = {expected}", _p(law, BALL.number(r), expected))
        proof.record(
            f"|r| = {r}, p = {p} to 3 decimals: n in {kept}, undecided {undecided}, none from {n} on (there p < {float(low):.5g})",
            Verdict.UNDECIDED if undecided or not most < low else Verdict.PROVED if kept == [expected] else Verdict.REFUTED,
        )
    total = SEEDS * CONDITIONS
    # A root to the working precision: each step halves a bracket of 1/5.
    critical = enclose_root(lambda r: BALL.number(LEVEL) - _p(law, r, total), Fraction(1, 5), Fraction(2, 5), 600)
    rate = proof.ball(f"true rate of {SEEDS} seeds x {CONDITIONS} copies at {LEVEL}", _p(law, critical, SEEDS))
    proof.record("it rounds to 0.44: above 0.435", sign(rate - BALL.number("0.435"), ">"))
    proof.record("and below 0.445", sign(rate - BALL.number("0.445"), "<"))
    claimed = BALL.number(Fraction(law.rate(SEEDS, CONDITIONS, float(LEVEL), 1.0)))
    proof.within("the law's float agrees", rate - claimed, "1e-12")
    return proof.check()


DRAWS = 40_000
SIZES = (4, 10)
CLUSTERED = ((10, 5, 1.0), (10, 5, 0.5), (3, 4, 0.7))


@cache
def _correlations(n: int, sides: str) -> np.ndarray:
    random = generator("S1", f"{n} {sides}")
    if sides == "one normal":
        return _pearson(random.standard_normal((DRAWS, n)), np.broadcast_to(np.arange(1.0, n + 1) ** 3, (DRAWS, n)))
    spikes = np.zeros((2, DRAWS, n))
    for side in spikes:
        side[np.arange(DRAWS), random.integers(0, n, DRAWS)] = 1
    return _pearson(spikes[0], spikes[1])


@cache
def _clustered(seeds: int, conditions: int, within: float) -> np.ndarray:
    random = generator("S1", f"clustered {seeds} {conditions} {within}")
    sides = []
    for _ in range(2):
        own = random.standard_normal((DRAWS, seeds, conditions))
        shared = random.standard_normal((DRAWS, seeds, 1))
        sides.append((within**0.5 * shared + (1 - within) ** 0.5 * own).reshape(DRAWS, -1))
    return _pearson(*sides)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def numeric(law: Law = LAW) -> Check:
    proof = Derivation()
    for n in SIZES:
        r = np.clip(_correlations(n, law.sides), -1 + 1e-15, 1 - 1e-15)
        t, dof = law.t(r, n, ctx=FLOAT), law.dof(n, ctx=FLOAT)
        for level in (0.05, 0.5):
            edge = _edge(level, dof)
            proof.estimate(f"n = {n}, x normal, y = cubes of 1..n: share of p < {level}", *mean_and_sem(np.abs(t) > edge), level)
    total = SEEDS * CONDITIONS
    for seeds, conditions, within in CLUSTERED:
        edge = critical_correlation(seeds * conditions, float(LEVEL))
        rejected = np.abs(_clustered(seeds, conditions, within)) > edge
        claimed = law.rate(seeds, conditions, float(LEVEL), within)
        proof.estimate(f"{seeds} seeds x {conditions}, correlated by {within}: share called correlated", *mean_and_sem(rejected), claimed)
    # scipy's Student tail against bisection of the one above, at the critical value of 50 points.
    edge = critical_correlation(total, float(LEVEL))
    proof.agrees(
        "p at the critical |r| of 50 points (round-off)",
        student_p(float(law.t(edge, total, ctx=FLOAT)), law.dof(total, ctx=FLOAT)),
        float(LEVEL),
        1e-12,
    )
    return proof.check()


def _edge(level: float, dof: Any) -> float:
    from scipy.special import stdtrit

    return -float(stdtrit(float(dof), level / 2))


def control() -> list[Wrong]:
    def with_centre_kept(r: Any, n: Any, *, ctx: Any) -> Any:
        return correlation_t(r, ctx.number(n) + 1, ctx=ctx)

    def without_root(r: Any, n: Any, *, ctx: Any) -> Any:
        return ctx.number(r) * ctx.sqrt(ctx.number(n) - 2)

    def at_face_value(seeds: int, conditions: int, level: float, within: float) -> float:
        return level

    def one_copy_less(seeds: int, conditions: int, level: float, within: float) -> float:
        return false_positive_rate(seeds, conditions - 1, level, within)

    blind = "the rate is the law's float, compared with balls and draws"
    return [
        Wrong("n - 1 degrees of freedom", replace(LAW, dof=lambda n, *, ctx: ctx.number(n) - 1)),
        Wrong("t with n - 1 under the root", replace(LAW, t=with_centre_kept)),
        Wrong("t = r sqrt(n - 2)", replace(LAW, t=without_root)),
        Wrong("points that share seeds counted as independent", replace(LAW, rate=at_face_value), ("certified", "numeric"), blind),
        Wrong("the rate for one copy less", replace(LAW, rate=one_copy_less), ("certified", "numeric"), blind),
        Wrong(
            "broken: both sides a single spike",
            replace(LAW, sides="spikes"),
            ("symbolic", "numeric"),
            "the certificate evaluates p, and draws no data",
        ),
    ]

"""R1: the per-expert Gram loss moves singular values only, and leaves the mean overlap of independent experts where it is.

The mean is exact at every time because the flow commutes with orthogonal matrices on either side, so signed permutations of rows and
columns, which do not change the law of i.i.d. symmetric entries, pass through it. (Flips of rows kill E w_ij w_kl for i != k only, flips of
columns the rest.) The variance does move; so does the overlap of experts that share structure, shown for a shared spike.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.gram_flow import gram_flow_singular, shared_spike_cosine, two_by_two_variance, unsquared_speed
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.weight_null import null_weight_mso

STATEMENT = Statement(
    id="R1",
    kind=EQUAL,
    title="a per-expert Gram loss cannot move the mean weight overlap of untrained experts",
    claim=(
        r"\dot W = -W(W'W - I):\ s(t)^2 = s_0^2 e^{2t}/(1 + s_0^2(e^{2t}-1)),\text{ singular vectors stay};\quad"
        r"\|W'W-I\|_F:\ dt/d\tau = 2/\|W'W-I\|_F;\quad"
        r"\mathbb{E}\cos^2(W_1(t),W_2(t)) = 1/(df)\ \forall t;\quad"
        r"2\times 2:\ \mathrm{Var}\cos^2 = (5-6D+9D^2)/64,\ D = \mathbb{E}(2s_1s_2/(s_1^2+s_2^2))^2,"
        r"\ \text{from } 1/16 \text{ strictly up to } 1/8;"
        r"\quad \text{shared spike } W_e = \theta uv' + \sigma G_e:\ \cos \text{ strictly falls from } \theta^2/(\theta^2+d\sigma^2)"
        r"\text{ to } \theta^2/((\theta^2+\sigma^2)d)"
    ),
    hypotheses=(
        "each expert follows the gradient flow of ||W'W - I||_F^2 / 4 (or of ||W'W - I||_F) on its own f x d matrix, and no other loss",
        "mean: W_1 and W_2 start independent, one of them with i.i.d. entries symmetric about 0 (the other may be anything), both non-zero",
        "variance: f = d = 2 and Gaussian entries of one scale",
        "shared spike: theta, sigma > 0, d >= 2, |u| = |v| = 1, G_e'G_e = I, G_1'G_2 = 0, G_e'u = 0 (exact); "
        "or entries of G_e i.i.d. of mean 0, variance 1/f and finite fourth moment, d fixed, f -> infinity",
    ),
    box={"s_0": (0, None), "t": (0, None), "d": (1, None), "f": (1, None)},
    tight="equalities; theta^2 = 4, sigma^2 = 1/4, d = 2, f = 5 takes cos^2 from 64/81 to 64/289",
)


@dataclass(frozen=True)
class Law:
    """situation: what the second claim is asked of, its hypotheses or a broken one."""

    singular: Callable[..., Any] = gram_flow_singular
    speed: Callable[..., Any] = unsquared_speed
    mean: Callable[..., Any] = null_weight_mso
    variance: Callable[..., Any] = two_by_two_variance
    spike: Callable[..., Any] = shared_spike_cosine
    situation: str = "independent, symmetric"


LAW = Law()
SHARED, ONE_SIGNED = "shared spike", "entries of one sign"


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    _flow(proof, law)
    _null(proof, law)
    _variance(proof, law)
    _spike(proof, law)
    return proof.check()


def _flow(proof: Derivation, law: Law) -> None:
    for text, right in _gradients():
        proof.holds(text, right)
    sigma, u, ut, v, vt = sp.symbols("S U U' V V'", commutative=False)
    w = u * sigma * vt
    moved = _reduced(w - w * v * sigma * ut * w, (ut * u, vt * v))
    proof.holds(
        f"W = U S V', any shape, U'U = V'V = I: the velocity is {moved} = U (S - S^3) V', diagonal between U and V', which stay",
        sp.expand(moved - u * (sigma - sigma**3) * vt) == 0,
    )
    s1, s2 = sp.symbols("s1 s2", positive=True)
    s, s0, t = sp.symbols("s s0 t", positive=True)
    odds = s**2 / (1 - s**2)
    proof.holds("ds/dt = -s (s^2 - 1): q = s^2/(1 - s^2) has dq/dt = 2 q", _zero(sp.diff(odds, s) * (-s * (s**2 - 1)) - 2 * odds))
    grown = odds.subs(s, s0) * sp.exp(2 * t)
    proof.equal("so q = q0 e^{2t} and s^2 = q/(1 + q)", sp.simplify(grown / (1 + grown)), law.singular(s0, t, ctx=SYMBOLIC) ** 2)
    proof.equal("q has no value at s0 = 1, where ds/dt = 0", 1, law.singular(sp.Integer(1), t, ctx=SYMBOLIC))
    norm = sp.sqrt(sum((x**2 - 1) ** 2 for x in (s1, s2)))
    proof.equal(
        "unsquared norm: dW/dtau = (2/||W'W - I||) dW/dt, the same direction, so the same orbit at the speed dt/dtau",
        2 / norm,
        law.speed((s1, s2), ctx=SYMBOLIC),
    )


def _null(proof: Derivation, law: Law) -> None:
    w, wt, u, ut, v, vt = sp.symbols("W W' U U' V V'", commutative=False)
    turned = u * w * v
    velocity = _reduced(turned - turned * (vt * wt * ut) * turned, (ut * u, v * vt))
    proof.holds(
        f"U and V orthogonal: the velocity at U W V is {velocity} = U (W - W W'W) V, U and V times that at W",
        sp.expand(velocity - u * (w - w * wt * w) * v) == 0,
    )
    proof.step(
        "the flow's solutions are unique, so W(t) from U W V is U W(t) V; the same for every step of descent, and for the unsquared norm"
    )
    proof.step("i.i.d. symmetric entries: U W V has the law of W for signed permutations U, V, hence U W(t) V that of W(t)")
    proof.step(
        "W_1(t) and W_2(t) are independent: cos^2 = sum a_m a_n b_m b_n over entries m, n of A = W_1(t)/|W_1(t)| and B: it needs E a_m a_n"
    )
    if law.situation == SHARED:
        theta2, sigma2 = sp.Integer(4), sp.Rational(1, 4)
        first, second = _design(sp.sqrt(theta2), sp.sqrt(sigma2))
        cos2 = (first.T * second).trace() ** 2 / ((first.T * first).trace() * (second.T * second).trace())
        proof.equal("W_1 and W_2 with a spike in common, f = 5, d = 2, t = 0: cos^2", cos2, law.mean(2, 5, ctx=SYMBOLIC))
        return
    for f, d in ((2, 2), (2, 3), (3, 3)):
        average, size = _averaged(f, d, signed=law.situation != ONE_SIGNED)
        claimed = law.mean(d, f, ctx=SYMBOLIC)
        # average[m, n, p, q] / size is the coefficient of w_p w_q in the mean of (g w)_m (g w)_n: delta_mn delta_pq / (d f).
        eye = np.eye(f * d, dtype=int)
        right = np.array_equal(average * int(claimed.q), size * int(claimed.p) * np.einsum("mn,pq->mnpq", eye, eye))
        proof.holds(f"{f} x {d}: averaged over the group of {size}, a_m a_n is delta_mn |A|^2 times {claimed}, for every A", right)
    f, d = sp.symbols("f d", positive=True)
    proof.equal("any f, d: E a_m a_n = delta_mn/(d f), as sum a_m^2 = 1; sum_m b_m^2 = 1", 1 / (d * f), law.mean(d, f, ctx=SYMBOLIC))


def _variance(proof: Derivation, law: Law) -> None:
    """2 x 2: a matrix is a conformal part z and an anticonformal part w, complex numbers; rotations turn their phases."""
    z1, z2, w1, w2 = sp.symbols("z1 z2 w1 w2", real=True)
    m = sp.Matrix([[z1 + w1, w2 - z2], [w2 + z2, z1 - w1]])
    conformal, whole = z1**2 + z2**2, (m.T * m).trace() / 2
    proof.holds(
        "|M|^2 = 2 |z|^2 + 2 |w|^2 and det M = |z|^2 - |w|^2", _zero(m.det() - (2 * conformal - whole), whole - conformal - w1**2 - w2**2)
    )
    proof.step(
        "p = |z|^2/(|z|^2 + |w|^2): (2p - 1)^2 = (2 det M/|M|^2)^2 = (2 s1 s2/(s1^2 + s2^2))^2; a reflection exchanges z and w: E p = 1/2"
    )
    c, n = sp.symbols("c n", real=True)
    turn = sp.Matrix([[c, -n], [n, c]])
    parts = [(m[0, 0] + m[1, 1] + sp.I * (m[1, 0] - m[0, 1])) / 2 for m in (turn * m, m * turn)]
    parts += [(m[0, 0] - m[1, 1] + sp.I * (m[1, 0] + m[0, 1])) / 2 for m in (turn * m, m * turn)]
    z, w, phase = z1 + sp.I * z2, w1 + sp.I * w2, c + sp.I * n
    turned = zip(parts, (z * phase, z * phase, w * phase, w * (c - sp.I * n)), strict=True)
    proof.holds("a rotation by x of the rows turns z and w by x, one of the columns z by x and w by -x", _zero(*(a - b for a, b in turned)))
    proof.step("so both phases are uniform and independent, whatever p: cos = sqrt(pq) cos x + sqrt((1-p)(1-q)) cos y, x and y uniform")
    p, big_d, variance = _from_phases()
    proof.equal("E p^2 = (1 + D)/4; Var cos^2 = E cos^4 - (1/4)^2", variance, law.variance(big_d, ctx=SYMBOLIC))
    share = sp.integrate((2 * p - 1) ** 2, (p, 0, 1))
    proof.equal(
        "Gaussian entries: |z|^2 and |w|^2 are equal exponentials, p uniform, D = 1/3: Var",
        sp.Rational(1, 16),
        law.variance(share, ctx=SYMBOLIC),
    )
    proof.equal("t -> infinity: s1 = s2 = 1, D = 1: Var", sp.Rational(1, 8), law.variance(sp.Integer(1), ctx=SYMBOLIC))
    s1, s2, k = sp.symbols("s1 s2 k", positive=True)
    ratio = (s2**2 * (1 + s1**2 * k)) / (s1**2 * (1 + s2**2 * k))
    rise = sp.diff(ratio, k)
    expected = s2**2 * (s1**2 - s2**2) / (s1**2 * (1 + s2**2 * k) ** 2)
    proof.holds(f"k = e^{{2t}} - 1: d/dk (s2/s1)^2 = {expected} > 0 for s1 > s2 > 0", _zero(rise - expected))
    r = sp.Symbol("r", positive=True)
    gain = sp.diff(4 * r / (1 + r) ** 2, r)
    proof.holds(
        "(2 s1 s2/(s1^2 + s2^2))^2 = 4 r/(1 + r)^2, r = (s2/s1)^2 < 1, has slope 4 (1 - r)/(1 + r)^3 > 0: D rises",
        _zero(gain - 4 * (1 - r) / (1 + r) ** 3),
    )
    slope = sp.factor(sp.diff(variance, big_d))
    proof.holds(f"dVar/dD = {slope} > 0 for D > 1/3: the variance rises strictly", _zero(slope - sp.Rational(3, 32) * (3 * big_d - 1)))


def _spike(proof: Derivation, law: Law) -> None:
    theta, sigma, d, k, x = sp.symbols("theta sigma d k x", positive=True)
    first, second = _design(theta, sigma)
    v = sp.Matrix([sp.Rational(3, 5), sp.Rational(4, 5)])
    spike, common = theta**2 * v * v.T, theta**2 * v * v.T + sigma**2 * sp.eye(2)
    same = all(_zero(w.T * w - common) for w in (first, second))
    proof.holds(
        "d = 2, f = 5: W_1'W_1 = W_2'W_2 = C = theta^2 vv' + sigma^2 I and W_1'W_2 = theta^2 vv'", same and _zero(first.T * second - spike)
    )
    proof.step("as s(t) = e^t s/sqrt(1 + k s^2), k = e^{2t} - 1: W(t) = e^t W (I + kC)^{-1/2}")
    proof.step("so <W_1(t), W_2(t)> = e^{2t} tr (I + kC)^{-1} theta^2 vv' and |W_e(t)|^2 = e^{2t} tr (I + kC)^{-1} C; x = e^{-2t}")
    # The adjugate is the inverse times a determinant, which cancels.
    inverse = (sp.eye(2) + k * common).adjugate()
    cosine = sp.cancel(((inverse * spike).trace() / (inverse * common).trace()).subs(k, 1 / x - 1))
    proof.equal("d = 2: their ratio", cosine, sp.cancel(law.spike(theta, sigma, 2, -sp.log(x) / 2, ctx=SYMBOLIC)))
    a, b = theta**2, sigma**2
    along, across = (a + b) / (1 + k * (a + b)), b / (1 + k * b)
    general = sp.cancel(a / (1 + k * (a + b)) / (along + (d - 1) * across))
    proof.equal(
        "any d: C has eigenvalues theta^2 + sigma^2 along v and sigma^2, d - 1 times, across",
        sp.cancel(general.subs(k, 1 / x - 1)),
        sp.cancel(law.spike(theta, sigma, d, -sp.log(x) / 2, ctx=SYMBOLIC)),
    )
    low, high = sp.fraction(general)
    fall = sp.factor(sp.diff(low, k) * high - low * sp.diff(high, k))
    proof.holds(f"d cos/dk = {fall} over a square: it falls strictly for d >= 2", _zero(fall + (d - 1) * a**2 * b))
    proof.step(
        "i.i.d. noise: G_e'G_e, G_1'G_2, G_e'u are means over f rows, of I, 0, 0, with variances O(1/f): C and theta^2 vv' are limits"
    )
    start = law.spike(2, Fraction(1, 2), 2, 0, ctx=SYMBOLIC) ** 2
    end = sp.limit(general.subs({theta: 2, sigma: sp.Rational(1, 2), d: 2}), k, sp.oo) ** 2
    proof.equal("theta = 2, sigma = 1/2, d = 2: cos^2 starts at", sp.Rational(64, 81), start)
    proof.equal("and ends at", end, law.spike(2, Fraction(1, 2), 2, sp.oo, ctx=SYMBOLIC) ** 2)


@cache
def _gradients() -> list[tuple[str, bool]]:
    checks = []
    for f, d in ((3, 2), (2, 3)):
        w = sp.Matrix(f, d, sp.symbols(f"w:{f * d}", real=True))
        excess = w.T * w - sp.eye(d)
        square = (excess * excess).trace()
        slope = w.applyfunc(lambda entry, square=square: sp.diff(square / 4, entry))
        unsquared = w.applyfunc(lambda entry, square=square: sp.diff(sp.sqrt(square), entry) * sp.sqrt(square))
        checks += [
            (f"{f} x {d}: the gradient of ||W'W - I||^2/4 is W (W'W - I), entry by entry", _zero(slope - w * excess)),
            (f"{f} x {d}: the gradient of ||W'W - I|| is 2 W (W'W - I) / ||W'W - I||", _zero(unsquared - 2 * w * excess)),
        ]
    return checks


@cache
def _from_phases() -> tuple[Any, Any, Any]:
    """p, D, and E cos^4 - 1/16 by integrals over both phases."""
    p, q, x, y, big_d = sp.symbols("p q x y D", positive=True)
    cos4 = sp.expand((sp.sqrt(p * q) * sp.cos(x) + sp.sqrt((1 - p) * (1 - q)) * sp.cos(y)) ** 4)
    over = sp.integrate(sp.integrate(cos4, (x, 0, 2 * sp.pi)), (y, 0, 2 * sp.pi)) / (4 * sp.pi**2)
    moment = (sp.Integer(1), sp.Rational(1, 2), (1 + big_d) / 4)
    mean4 = sum(c * moment[i] * moment[j] for (i, j), c in sp.Poly(sp.expand(over), p, q).terms())
    return p, big_d, sp.expand(mean4 - sp.Rational(1, 16))


def _design(theta: Any, sigma: Any) -> tuple[sp.Matrix, sp.Matrix]:
    """The smallest pair of experts whose noise is exactly what random noise becomes for many rows: f = 5, d = 2."""
    spike, eye, zero = theta * sp.Matrix([[sp.Rational(3, 5), sp.Rational(4, 5)]]), sigma * sp.eye(2), sp.zeros(2, 2)
    return sp.Matrix.vstack(spike, eye, zero), sp.Matrix.vstack(spike, zero, eye)


def _reduced(expression: Any, units: tuple[Any, ...]) -> Any:
    """A product of matrices with each of `units` put to I."""
    expression = sp.expand(expression)
    for unit in units:
        expression = sp.expand(expression.subs(unit, 1))
    return expression


def _zero(*parts: Any) -> bool:
    """Whether rational functions (or matrices of them) are identically 0."""
    entries = [entry for part in parts for entry in (part if isinstance(part, sp.MatrixBase) else [part])]
    return all(sp.expand(sp.numer(sp.together(entry))) == 0 for entry in entries)


@cache
def _averaged(f: int, d: int, signed: bool) -> tuple[np.ndarray, int]:
    """Sum over the (signed) permutations of rows and columns of g (x) g on f x d matrices, and how many they are."""
    rows, columns = _permutations(f, signed), _permutations(d, signed)
    # The sum factors: g = R (x) C.
    left, right = (np.einsum("gmp,gnq->mnpq", side, side) for side in (rows, columns))
    total = np.einsum("abcd,mnpq->ambncpdq", left, right).reshape((f * d,) * 4)
    return total, len(rows) * len(columns)


def _permutations(n: int, signed: bool) -> np.ndarray:
    signs = itertools.product((-1, 1), repeat=n) if signed else [(1,) * n]
    return np.array([np.diag(flip)[list(order)] for flip in signs for order in itertools.permutations(range(n))])


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("rational functions of s0, theta, sigma and e^{2t}, derived exactly")


PAIRS = 6_000
STEP = 0.05


def _velocity(w: np.ndarray) -> np.ndarray:
    return w - w @ (w.swapaxes(-1, -2) @ w)


def _runge_kutta(w: np.ndarray, steps: int, step: float = STEP, velocity: Callable[[np.ndarray], np.ndarray] = _velocity) -> np.ndarray:
    for _ in range(steps):
        k1 = velocity(w)
        k2 = velocity(w + step / 2 * k1)
        k3 = velocity(w + step / 2 * k2)
        w = w + step / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(w + step * k3))
    return w


def _cosine(w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
    return (w1 * w2).sum((-2, -1)) / np.sqrt((w1 * w1).sum((-2, -1)) * (w2 * w2).sum((-2, -1)))


@cache
def _overlaps(situation: str) -> dict[str, np.ndarray]:
    """cos^2 of PAIRS pairs of 3 x 2 matrices at three times of the flow, and after descent on the unsquared norm."""
    random = generator("R1", situation)
    shape = (PAIRS, 3, 2)
    draws = [random.uniform(0 if situation == ONE_SIGNED else -1, 1, shape) for _ in range(2)]
    if situation == SHARED:
        spike = np.sqrt(2 / 3) * random.choice([-1.0, 1.0], (PAIRS, 3, 1)) * random.choice([-1.0, 1.0], (PAIRS, 1, 2))
        draws = [spike + draw / 4 for draw in draws]
    pairs = {"t = 0": draws}
    pairs["t = 1/2"] = [_runge_kutta(w, 10) for w in draws]
    pairs["t = 1"] = [_runge_kutta(w, 10) for w in pairs["t = 1/2"]]
    eye = np.eye(2)
    for _ in range(20):
        excess = [w.swapaxes(-1, -2) @ w - eye for w in draws]
        draws = [w - 0.05 * 2 * w @ x / np.linalg.norm(x, axis=(-2, -1), keepdims=True) for w, x in zip(draws, excess, strict=True)]
    pairs["20 steps on the unsquared norm"] = draws
    return {when: _cosine(*pair) ** 2 for when, pair in pairs.items()}


@cache
def _gaussian_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """cos^2 of 2 x 2 Gaussian pairs along the flow and at its end, and their roundness."""
    w = generator("R1", "2 x 2").standard_normal((2, 2 * PAIRS, 2, 2))
    ends = np.linalg.svd(w)
    pairs = {"t = 0": w, "t = 1/2": _runge_kutta(w, 10), "t = infinity": ends[0] @ ends[2]}
    return {when: (_cosine(*pair) ** 2, ((2 * np.linalg.det(pair) / (pair**2).sum((-2, -1))) ** 2).ravel()) for when, pair in pairs.items()}


@cache
def _spiked(f: int, draws: int) -> np.ndarray:
    """cos of Gaussian experts with a shared spike, theta = 2, sigma = 1/2, d = 2, at t = 1/2."""
    random = generator("R1", f"spike {f}")
    w = random.standard_normal((2, draws, f, 2)) / (2 * np.sqrt(f))
    w[:, :, 0, 0] += 2
    return _cosine(*_runge_kutta(w, 10))


def numeric(law: Law = LAW) -> Check:
    """The flow by Runge-Kutta, its error below 1e-6 at these steps; draws of fixed size."""
    proof = Derivation()
    random = generator("R1", "one matrix")
    w = random.standard_normal((4, 3))
    s0 = np.linalg.svd(w, compute_uv=False)
    for s, before in zip(np.linalg.svd(_runge_kutta(w, 200, 0.005), compute_uv=False), s0, strict=True):
        proof.agrees(f"4 x 3, s0 = {before:.3f}, t = 1", s, law.singular(before, 1, ctx=FLOAT), 1e-6)

    def unsquared(w: np.ndarray) -> np.ndarray:
        # The last entry of the state is the time t of the squared loss, by the law's speed.
        matrix, excess = w[:4], w[:4].T @ w[:4] - np.eye(3)
        clock = np.full((1, 3), law.speed(np.linalg.svd(matrix, compute_uv=False), ctx=FLOAT))
        return np.vstack([-2 * matrix @ excess / np.linalg.norm(excess), clock])

    state = _runge_kutta(np.vstack([w, np.zeros((1, 3))]), 200, 0.001, unsquared)
    for s, before in zip(np.linalg.svd(state[:4], compute_uv=False), s0, strict=True):
        proof.agrees(f"unsquared norm, s0 = {before:.3f}, tau = 0.2", s, law.singular(before, state[4, 0], ctx=FLOAT), 1e-6)
    for when, cos2 in _overlaps(law.situation).items():
        proof.estimate(f"3 x 2, {law.situation}, {when}: mean cos^2", *mean_and_sem(cos2), float(law.mean(2, 3, ctx=FLOAT)))
    for when, (cos2, round_) in _gaussian_pairs().items():
        spread, sem = mean_and_sem((cos2 - 0.25) ** 2)
        d, d_sem = mean_and_sem(round_)
        # The measured D has an error of its own: |dVar/dD| <= 3/16.
        proof.estimate(f"2 x 2, {when}, D = {d:.3f}: Var cos^2", spread, sem + 3 / 16 * d_sem, law.variance(d, ctx=FLOAT))
    few, many = mean_and_sem(_spiked(50, 3_000)), mean_and_sem(_spiked(200, 1_500))
    proof.step(
        "a smooth function of means over f rows: its mean differs from the limit by c/f + O(1/f^2), and (4 m(200) - m(50))/3 by O(1/f^2)"
    )
    proof.estimate(
        "shared spike, t = 1/2: cos extrapolated to many rows",
        (4 * many[0] - few[0]) / 3,
        float(np.hypot(4 * many[1], few[1])) / 3,
        law.spike(2, 0.5, 2, 0.5, ctx=FLOAT),
    )
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("t in place of 2t", replace(LAW, singular=lambda s0, t, *, ctx: gram_flow_singular(s0, ctx.number(t) / 2, ctx=ctx))),
        Wrong("time change 1/||W'W - I||", replace(LAW, speed=lambda s, *, ctx: unsquared_speed(s, ctx=ctx) / 2)),
        Wrong("E cos^2 = 1/(d f - 1)", replace(LAW, mean=lambda d, f, *, ctx: 1 / (ctx.number(d) * ctx.number(f) - 1))),
        Wrong("Var = (6 - 6D + 8D^2)/64", replace(LAW, variance=lambda d, *, ctx: (6 - 6 * ctx.number(d) + 8 * ctx.number(d) ** 2) / 64)),
        Wrong("the variance stays at 1/16", replace(LAW, variance=lambda d, *, ctx: ctx.number(1) / 16)),
        Wrong(
            "spike law with d in place of d - 1",
            replace(LAW, spike=lambda a, b, d, t, *, ctx: shared_spike_cosine(a, b, d + 1, t, ctx=ctx)),
        ),
        Wrong(
            "the overlap of a shared spike stays", replace(LAW, spike=lambda a, b, d, t, *, ctx: shared_spike_cosine(a, b, d, 0, ctx=ctx))
        ),
        Wrong("broken hypothesis: experts share a spike", replace(LAW, situation=SHARED)),
        Wrong("broken hypothesis: entries of one sign", replace(LAW, situation=ONE_SIGNED)),
    ]

"""F1: <W_1, W_2>_F is d times the mean of x' W_1' W_2 x on the sphere; the spread is free, and only S = 0 makes it vanish."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.trace_form import form_mean, form_variance, symmetric_norm, symmetric_part

STATEMENT = Statement(
    id="F1",
    kind=EQUAL,
    title="a Frobenius inner product fixes only the mean of x'Mx",
    claim=(
        r"\langle W_1,W_2\rangle_F = \mathrm{tr} M;\quad \mathbb{E}\,x'Mx = \mathrm{tr} M/d;\quad "
        r"\mathrm{Var}\,x'Mx = \tfrac{2}{d(d+2)}\left(\|S\|_F^2 - (\mathrm{tr} S)^2/d\right);\quad x'Mx = 0\ \forall x \iff S = 0"
    ),
    hypotheses=("x uniform on the unit sphere of R^d", "W_1, W_2 fixed real matrices of one shape (f, d); M = W_1'W_2, S = (M+M')/2"),
    box={"d": (1, None)},
    tight="an equality; S = I attains Var = 0, a traceless S attains mean 0 with Var > 0",
)


@dataclass(frozen=True)
class Law:
    """vanishing: the numbers that are all 0 iff x'Mx is 0 for every x."""

    mean: Callable[..., Any] = form_mean
    variance: Callable[..., Any] = form_variance
    norm: Callable[..., Any] = symmetric_norm
    vanishing: Callable[..., Any] = symmetric_part


LAW = Law()


@cache
def gaussian_moment(power: int) -> Any:
    """E z^power, by the integral against the density."""
    z = sp.Symbol("z", real=True)
    return sp.integrate(z**power * sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi), (z, -sp.oo, sp.oo))


def gaussian_average(polynomial: Any, z: Sequence[Any]) -> Any:
    """E of a polynomial in independent standard normals, term by term."""
    terms = sp.Poly(polynomial, *z).terms()
    return sp.expand(sum(coefficient * sp.prod([gaussian_moment(p) for p in powers]) for powers, coefficient in terms))


def sphere_average(polynomial: Any, x: Sequence[Any]) -> Any:
    """E of a homogeneous polynomial on the unit sphere: z = |z| x with |z| and x independent, so E p(x) = E p(z) / E |z|^degree."""
    degree = sp.Poly(polynomial, *x).total_degree()
    return sp.expand(gaussian_average(polynomial, x) / gaussian_average(sum(v * v for v in x) ** (degree // 2), x))


def symbolic(law: Law = LAW) -> Check:
    """From the definition: generic entries expanded, their monomials averaged over the sphere; then every d by its three pairings."""
    proof = Derivation()
    proof.step(
        "z standard normal in R^d: z = |z| x, length and direction independent; Gaussian moments", [gaussian_moment(p) for p in range(5)]
    )
    for d in (1, 2, 3, 4):
        _generic_entries(proof, law, d)
    d, t, norm = sp.Symbol("d", positive=True, integer=True), sp.Symbol("t", real=True), sp.Symbol("s2", positive=True)
    second, fourth = gaussian_moment(2), gaussian_moment(4)
    lengths = d * second, d * fourth + d * (d - 1) * second**2
    proof.step("any d: E |z|^2 and E |z|^4", lengths)
    proof.step("odd powers of any z_i average to 0, so E x_i x_j = delta_ij E|x|^2/d and x_i x_j x_k x_l needs its indices paired")
    proof.equal("E z_i^4 is three times E z_i^2 z_j^2, one for each pairing of i, i, i, i", fourth, 3 * second**2)
    c = sp.simplify(second**2 / lengths[1])
    proof.step("so E x_i x_j x_k x_l = c (d_ij d_kl + d_ik d_jl + d_il d_jk) for all indices, c", c)
    for size in (2, 3):
        _pairings(proof, size)
    proof.step(
        "each pairing sums its own indices, so at any d the three sum M_ij M_kl to t^2 + ||M||^2 + tr M^2, and the last two are 2 ||S||^2"
    )
    proof.equal("any d: E x'Mx = t E x_1^2", t * second / lengths[0], law.mean(t, d, ctx=SYMBOLIC))
    spread = c * (t**2 + 2 * norm) - (t / d) ** 2
    proof.equal("any d: Var x'Mx = c (t^2 + 2 ||S||^2) - (t/d)^2", sp.factor(spread), law.variance(norm, t, d, ctx=SYMBOLIC))
    return proof.check()


def _generic_entries(proof: Derivation, law: Law, d: int) -> None:
    x = sp.symbols(f"x1:{d + 1}", real=True)
    m = np.array([[sp.Symbol(f"m{i}{j}", real=True) for j in range(d)] for i in range(d)])
    w1, w2 = (np.array([[sp.Symbol(f"{name}{i}{j}") for j in range(d)] for i in range(2)]) for name in "ab")
    product = w1.T.dot(w2)
    proof.holds(f"d = {d}: <W_1, W_2>_F = tr W_1'W_2", sp.expand((w1 * w2).sum() - np.trace(product)) == 0)
    form, mean, spread = _averages(d)
    proof.equal(f"d = {d}: the mean of x'Mx", mean, law.mean(np.trace(m), sp.Integer(d), ctx=SYMBOLIC))
    claimed = sp.expand(law.variance(law.norm(m), np.trace(m), sp.Integer(d), ctx=SYMBOLIC))
    # Polynomials in the entries: expanded, they are equal iff they are the same.
    text = f"derived {spread}, claimed {claimed}" if d < 3 else f"{len(spread.args)} terms, those claimed"
    proof.holds(f"d = {d}: Var x'Mx = E (x'Mx)^2 - (E x'Mx)^2, {text}", spread == claimed)
    numbers = list(np.atleast_1d(law.vanishing(m)).ravel())
    coefficients = sp.Poly(form, *x).coeffs()
    unknowns = list(m.ravel())
    when_numbers_vanish = sp.solve(numbers, unknowns, dict=True)[0]
    proof.holds(f"d = {d}: where S = 0 the form is the zero polynomial in x", sp.expand(form.subs(when_numbers_vanish)) == 0)
    when_form_vanishes = sp.solve(coefficients, unknowns, dict=True)[0]
    left = [sp.expand(number.subs(when_form_vanishes)) for number in numbers]
    proof.holds(f"d = {d}: where every coefficient of the form is 0, S = 0", all(number == 0 for number in left))


@cache
def _averages(d: int) -> tuple[Any, Any, Any]:
    """x'Mx in generic entries, and its mean and variance over the sphere."""
    x = sp.symbols(f"x1:{d + 1}", real=True)
    form = sp.expand(sum(x[i] * sp.Symbol(f"m{i}{j}", real=True) * x[j] for i in range(d) for j in range(d)))
    mean = sphere_average(form, x)
    return form, mean, sp.expand(sphere_average(sp.expand(form**2), x) - mean**2)


def _pairings(proof: Derivation, d: int) -> None:
    """The three pairings, summed index by index over generic entries."""
    m = [[sp.Symbol(f"m{i}{j}") for j in range(d)] for i in range(d)]
    total = sum(
        m[i][j] * m[k][n] * ((i == j) * (k == n) + (i == k) * (j == n) + (i == n) * (j == k))
        for i, j, k, n in itertools.product(range(d), repeat=4)
    )
    matrix = sp.Matrix(m)
    s = (matrix + matrix.T) / 2
    claimed = matrix.trace() ** 2 + 2 * sum(entry**2 for entry in s)
    proof.holds(f"d = {d}: sum of M_ij M_kl over the three pairings is t^2 + 2 ||S||^2", sp.expand(total - claimed) == 0)


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every d")


DRAWS = 100_000
SIZES = (3, 8)


@cache
def _simulate() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each d a fixed lopsided M with trace and antisymmetric part, and x'Mx at uniform points of the sphere."""
    forms = {}
    for d in SIZES:
        random = generator("F1", str(d))
        x = random.standard_normal((DRAWS, d))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        m = random.standard_normal((d, d)) + np.diag(np.arange(d))
        forms[d] = m, np.einsum("ni,ij,nj->n", x, m, x)
    return forms


def numeric(law: Law = LAW) -> Check:
    """DRAWS points of the sphere for each d; and the form's vanishing for one matrix of each kind."""
    proof = Derivation()
    for d, (m, form) in _simulate().items():
        trace = float(np.trace(m))
        proof.estimate(f"d = {d}: mean of x'Mx", *mean_and_sem(form), law.mean(trace, d, ctx=FLOAT))
        # The mean is estimated: 1/DRAWS of a correction, under the standard error.
        spread = mean_and_sem((form - form.mean()) ** 2)
        proof.estimate(f"d = {d}: variance of x'Mx", *spread, law.variance(float(law.norm(m)), trace, d, ctx=FLOAT))
    random = generator("F1", "kinds")
    b, x = random.standard_normal((4, 4)), random.standard_normal((50, 4))
    traceless = b + b.T - np.eye(4) * np.trace(b) / 2
    for name, matrix in (("antisymmetric", b - b.T), ("symmetric and traceless", traceless), ("any", b)):
        largest = np.abs(np.einsum("ni,ij,nj->n", x, matrix, x)).max()
        predicted = np.abs(law.vanishing(matrix)).max()
        # Round-off of 16 products is under 1e-13; what does not vanish is of order 1.
        proof.agrees(f"{name} M: does x'Mx vanish at 50 points", float(largest < 1e-12), float(predicted < 1e-12), 0)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong("E x'Mx = tr M/(d+1)", replace(LAW, mean=lambda t, d, *, ctx: ctx.number(t) / (ctx.number(d) + 1))),
        Wrong("E x'Mx = tr M", replace(LAW, mean=lambda t, d, *, ctx: ctx.number(t))),
        Wrong("Var with 1 in place of 2", replace(LAW, variance=lambda n, t, d, *, ctx: form_variance(n, t, d, ctx=ctx) / 2)),
        Wrong(
            "Var with d+1 in place of d+2",
            replace(LAW, variance=lambda n, t, d, *, ctx: form_variance(n, t, d, ctx=ctx) * (d + 2) / (d + 1)),
        ),
        Wrong("Var with d-1 in place of the d outside", replace(LAW, variance=_one_less)),
        Wrong("Var without (tr S)^2/d", replace(LAW, variance=lambda n, t, d, *, ctx: form_variance(n, 0, d, ctx=ctx))),
        Wrong("Var with (tr S)^2/(d+1)", replace(LAW, variance=_trace_over_more)),
        Wrong("Var with ||M||_F for ||S||_F", replace(LAW, norm=lambda m: (np.asarray(m) ** 2).sum())),
        Wrong("x'Mx = 0 for all x iff tr M = 0", replace(LAW, vanishing=lambda m: np.trace(np.asarray(m)))),
        Wrong("x'Mx = 0 for all x iff M = 0", replace(LAW, vanishing=np.asarray)),
    ]


def _one_less(norm: Any, trace: Any, d: Any, *, ctx: Any) -> Any:
    # At d = 1, where the true value is 0, the wrong one must not divide by 0.
    return form_variance(norm, trace, d, ctx=ctx) if d == 1 else form_variance(norm, trace, d, ctx=ctx) * d / (d - 1)


def _trace_over_more(norm: Any, trace: Any, d: Any, *, ctx: Any) -> Any:
    return 2 * (norm - trace * trace / (ctx.number(d) + 1)) / (ctx.number(d) * (ctx.number(d) + 2))

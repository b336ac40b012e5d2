"""The longer algebra of N6: what symmetry leaves of a Jacobian's second moments, the share along x to first order in 1/f, shared W_up.

Rational functions are elements of sympy's fields, whose equality is decided exactly, without simplification.
"""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import sympy as sp
from sympy.polys.domains import QQ
from sympy.polys.fields import field

from proofs.statement import Derivation
from simgap.theory.jacobian_null import SlopeMoments


@cache
def symmetry_leaves_two_shares(n: int) -> bool:
    """J_ri J_sj averaged over signed permutations of the rows, and of the columns but the first (x's): is it 0 but for r = s, i = j,
    and there even over the rows and over the columns that the group mixes?"""
    group = [
        (rows, (0, *columns), row_signs, (1, *column_signs))
        for rows in itertools.permutations(range(n))
        for columns in itertools.permutations(range(1, n))
        for row_signs in itertools.product((1, -1), repeat=n)
        for column_signs in itertools.product((1, -1), repeat=n - 1)
    ]
    for (r, i), (s, k) in itertools.product(itertools.product(range(n), repeat=2), repeat=2):
        # How often each product of two entries of J stands in the average, by their rows and columns.
        counts: dict[Any, int] = {}
        for rows, order, by_row, by_column in group:
            indices = tuple(sorted(((rows[r], order[i]), (rows[s], order[k]))))
            counts[indices] = counts.get(indices, 0) + by_row[r] * by_column[i] * by_row[s] * by_column[k]
        left = {indices: count for indices, count in counts.items() if count}
        expected = {}
        if (r, i) == (s, k):
            mixed = (0,) if i == 0 else tuple(range(1, n))
            expected = {((row, column),) * 2: len(group) // (n * len(mixed)) for row in range(n) for column in mixed}
        if left != expected:
            return False
    return True


@cache
def _row_integrals() -> tuple[tuple[str, Any, Any], ...]:
    """Of one entry x ~ N(0, sigma^2) of a row, moved by m; k = 1/(1 + 2 t sigma^2). The square is completed, and checked."""
    x, t, s = sp.symbols("x t sigma", positive=True)
    m = sp.Symbol("m", real=True)
    k = 1 / (1 + 2 * t * s**2)
    centre = -2 * t * s**2 * k * m
    exponent = t * (x + m) ** 2 + x**2 / (2 * s**2)
    return (
        (
            "t (x + m)^2 + x^2/(2 sigma^2), less t k m^2, is (x - centre)^2 / (2 sigma^2 k)",
            sp.cancel(exponent - t * k * m**2 - (x - centre) ** 2 / (2 * s**2 * k)),
            sp.Integer(0),
        ),
        # The normal of variance sigma^2 k about the centre has sqrt(k) times the mass of that of variance sigma^2.
        (
            "so E (x + m)^2 exp(-t (x + m)^2) over E exp(-t (x + m)^2) = sqrt(k) exp(-t k m^2) is (centre + m)^2 + sigma^2 k",
            sp.cancel((centre + m) ** 2 + s**2 * k),
            sp.cancel(s**2 * k + (m * k) ** 2),
        ),
    )


def first_order(proof: Derivation, terms: Callable[..., Any]) -> None:
    """alpha = E phi(sum_i A_i v_i'), phi(J) = |J x|^2 / |J|^2, v_i = D_i (z_i, g_i), E D^2 = 1: the Gaussian limit, and its correction."""
    _, u, q, c, b, a4, kappa, d, z2, g2 = field("u,q,c,b,a4,kappa,d,z2,g2", QQ)
    moments = SlopeMoments(q, c, b, a4)
    y = u / (1 + u)
    h = 1 / (1 + (q - 1) * y)
    along, across = 1 / (1 + u * q), 1 / (1 + u)
    first, second = terms(y, d, moments, kappa)
    proof.step("J / sqrt f -> a Gaussian matrix G by the central limit theorem: i.i.d. rows, variance q along x and 1 across, phi bounded")
    proof.step(
        "phi = int |J x|^2 exp(-t |J|^2) dt; u = 2t, k = 1/(1+uq) along x and 1/(1+u) across; each entry on its own, sigma^2 = q or 1"
    )
    for text, derived, claimed in _row_integrals():
        proof.equal(text, derived, claimed)
    proof.step("e = 0: E phi(G) = (d/2) int q k_x k_x^(d/2) k^(d(d-1)/2) du, d rows")
    proof.holds("y = u/(1+u), h = 1/(1+(q-1)y): k = 1 - y", across == 1 - y)
    proof.holds("k_x = (1-y) h", along == (1 - y) * h)
    proof.step("so k_x^(d/2) k^(d(d-1)/2) du = h^(d/2) (1-y)^(d^2/2-2) dy, and (1-y)^(d^2/2-1) dy = (2/d^2) exp(-T) dT: (d/2)(2/d^2) = 1/d")
    proof.holds(f"q k_x / (1-y) is the law's first term: {first.as_expr()}", q * along / (1 - y) == first)
    proof.step("Edgeworth, odd cumulants 0 as A -> -A: alpha_1 = (1/24) E d^4 phi(G) on the fourth cumulant of A v': moment less pairs")
    proof.step("the pairs give 3 times 4 times the second derivative in e of E phi(sqrt(1 + e) G), and phi ignores scale: they give 0")
    proof.step("G and phi ignore rotations of the rows: A v' may be |A| v' in row 1, and E |A|^4 = d (E A^4 - 1) + d^2, E A^4 = 3 + kappa")
    length4 = d * (3 + kappa - 1) + d * d
    size = along * z2 + across * g2

    def fourth(constant: Any, quadratic: Any) -> Any:
        """d^4/de^4 at 0 of (constant + quadratic e^2) exp(-(u/2) size e^2), from its terms in e^4."""
        half = u * size / 2
        return 24 * (constant * half**2 / 2 - quadratic * half)

    proof.step("row 1 moved by e v, |v|^2 by parts z2 = D^2 z^2 and g2 = D^2 |g|^2: the factor exp(-(u/2)(k_x z2 + k g2) e^2)")
    moved = fourth(q * along, along**2 * z2) + (d - 1) * fourth(q * along, 0 * u)
    proof.step("|J x|^2 from row 1 itself, or from the d - 1 others", moved.as_expr())
    # int dt = (1/2) int du, and (1/d)(d^2/2) = d/2 stands before the average: the rest is over d and the (1-y) of the measure.
    derived = _averaged(length4 * moved / 24 / d / (1 - y), z2, g2, {(2, 0): a4, (1, 1): (d - 1) * b, (0, 2): (d * d - 1) * c})
    proof.step("averaged over v: E D^4 z^4 = a4, E D^4 z^2 |g|^2 = (d-1) b, E D^4 |g|^4 = (d-1)(d+1) c")
    proof.holds(f"E |A|^4 / 24 times that is the law's second term: {second.as_expr()}", derived == second)
    for n in (2, 4):
        # Polynomials in y at q = 1: E y^p (1-y)^r for y of density (d^2/2)(1-y)^(d^2/2-1).
        v = sp.Symbol("v")
        flat = terms(v, sp.Integer(n), SlopeMoments(sp.Integer(1), sp.Integer(2), sp.Integer(2), sp.Integer(6)), sp.Integer(-1))
        half = sp.Rational(n * n, 2)
        means = [sum(a * half * sp.beta(p + 1, half).rewrite(sp.gamma) for (p,), a in sp.Poly(term, v).terms()) / n for term in flat]
        proof.holds(
            f"consistency, d = {n}, ReLU (q = 1; 2, 2, 6), kappa = -1: share 1/d and no term in 1/f: {means}",
            means == [sp.Rational(1, n), 0],
        )


def _averaged(expression: Any, z2: Any, g2: Any, means: dict[tuple[int, int], Any]) -> Any:
    """A quadratic form in z2 and g2 with those products replaced by their means."""
    values = {at: expression.evaluate([(z2, at[0]), (g2, at[1])]) for at in ((1, 0), (0, 1), (1, 1))}
    lift = {at: z2.field.from_expr(value.as_expr()) for at, value in values.items()}
    cross = lift[1, 1] - lift[1, 0] - lift[0, 1]
    return lift[1, 0] * means[2, 0] + cross * means[1, 1] + lift[0, 1] * means[0, 2]


@cache
def _given_up() -> tuple[Any, Any]:
    """d = f = 2: E <J1, J2>^2 - d tr S^2 and E |J|^2 - d tr S over independent centred W_down of unit variance, S = B'B, B = D W_up."""
    up = sp.Matrix(2, 2, sp.symbols("b1:5"))
    first, second = (sp.Matrix(2, 2, sp.symbols(f"{name}1:5")) for name in ("p", "q"))
    gram = up.T * up
    inner = sp.Poly(sp.expand((first * up * up.T * second.T).trace()), *first, *second)
    length = sp.Poly(sp.expand(sum(x**2 for x in first * up)), *first)
    # Products of two different entries have mean 0, squares mean 1.
    squares = sum(coefficient**2 for coefficient in inner.coeffs())
    kept = sum(coefficient for powers, coefficient in length.terms() if all(p % 2 == 0 for p in powers))
    return sp.expand(squares - 2 * (gram * gram).trace()), sp.expand(kept - 2 * gram.trace())


def shared_moments(proof: Derivation, shared: Callable[..., Any]) -> None:
    """Experts that share W_up: second moments of W_down, then fourth of the rows of D W_up."""
    inner, length = _given_up()
    proof.equal("shared W_up, d = f = 2: E <J1,J2>^2 - d tr S^2 given B = D W_up, S = B'B", inner, sp.Integer(0))
    proof.equal("E |J|^2 - d tr S", length, sp.Integer(0))
    _, d, x, phi, q, c, b, a4 = field("d,x,phi,q,c,b,a4", QQ)
    moments = SlopeMoments(q, c, b, a4)
    f = phi * d
    own = a4 + 2 * (d - 1) * b + (d - 1) * (d + 1) * c
    proof.step("S = sum_i D_i^2 w_i w_i', E D^2 = 1: own terms E D^4 (z^2 + |g|^2)^2, E |g|^2 = d-1, E |g|^4 = (d-1)(d+1)", own.as_expr())
    square, trace2 = f * own + f * (f - 1) * (q**2 + (d - 1)), f * own + f * (f - 1) * (q + (d - 1)) ** 2
    proof.holds("f = phi d: d E tr S^2 / (d^2 E (tr S)^2) is the law", square / (d * trace2) == shared(d, f, moments))
    wide = shared(1 / x, phi / x, moments) / x**2
    limit = wide.numer.evaluate(1, 0).as_expr() / wide.denom.evaluate(1, 0).as_expr()
    proof.equal("d^2 times it, d = 1/x to infinity: 1 + (d/f) E D^4", (1 + c / phi).as_expr(), limit)

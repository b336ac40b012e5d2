"""Certified Gaussian expectations: quadrature with a proved error on a segment, and a lemma for the tails.

Tail lemma. Let |f(x)| <= (2 + 2|x|)^p and s, L > 0. For t >= L, (1 + s t)^p <= (1 + s L)^p exp(p s (t - L) / (1 + s L)), since log(1 + s t)
is concave, and exp(-t^2/2) <= exp(-L^2/2 - L (t - L)). So with c = L - p s / (1 + s L) > 0,

    | E f(s z) 1{|z| > L} | <= 2 (2 + 2 s L)^p exp(-L^2/2) / (c sqrt(2 pi)).

A Hermite coefficient has a factor h_j(z) more, |h_j(z)| <= 1.0865 exp(z^2/4) (Cramer; Abramowitz and Stegun 22.14.17): the same steps with
z^2/4 in place of z^2/2 give 1.0865 times as much, with c = L/2 - p s / (1 + s L) > 0.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import flint
from flint import acb, acb_poly, arb, arb_poly, fmpz_poly

Function = Callable[[Any], Any]
Watch = Callable[[bool], AbstractContextManager[None]]

CRAMER = "1.0865"  # Cramer's constant is 1.086435...
MAX_TERMS = 2000
# Bits that the quadrature and the series may lose against the working precision.
SLACK = 16


def gaussian_expectation(f: Function, std: arb, degree: int, watch: Watch) -> arb:
    """A ball around E f(std z), for |f(x)| <= (2 + 2|x|)^degree. f takes acb and is analytic on either side of 0; std is above 0."""
    return _expectation(f, std, degree, watch, None)


def hermite_coefficient(f: Function, std: arb, index: int, degree: int, watch: Watch) -> arb:
    """A ball around a_j = E f(std z) h_j(z), h_j the orthonormal Hermite polynomial of the normal law, for |f(x)| <= (2 + 2|x|)^degree."""
    return _expectation(f, std, degree, watch, index)


@dataclass(frozen=True)
class PairSeries:
    """E f(su) g(sv) as a function of rho = corr(u, v): sum_j products[j] rho^j over j < J (Mehler), and by Cauchy-Schwarz at most
    |rho|^J `rest` beyond, rest = sqrt((E f^2 - sum_{j<J} a_j^2) (E g^2 - sum_{j<J} b_j^2))."""

    products: tuple[arb, ...]
    rest: arb

    def at(self, rho: arb) -> arb:
        """A ball that holds the value at every rho in the ball, |rho| <= 1."""
        if not abs(rho) <= 1:
            raise ValueError(f"rho: expected a ball within [-1, 1], got {rho}")
        return arb_poly(list(self.products))(rho) + _around_zero(abs(rho) ** len(self.products) * self.rest)


def pair_series(f: Function, g: Function, std: arb, degree: int, watch: Watch, rho: arb | int = 1) -> PairSeries:
    """The series for f and g with |f(x)|, |g(x)| <= (2 + 2|x|)^degree, long enough that at `rho` the rest is lost in the working precision,
    or until round-off hides how fast it falls; the balls are right whatever its length."""
    left_f = gaussian_expectation(lambda x: f(x) ** 2, std, 2 * degree, watch)
    left_g = left_f if f is g else gaussian_expectation(lambda x: g(x) ** 2, std, 2 * degree, watch)
    goal = (left_f * left_g).sqrt() * arb(2) ** (SLACK - flint.ctx.prec)
    products: list[arb] = []
    while True:
        rest = (left_f.abs_upper() * left_g.abs_upper()).sqrt()
        stuck = left_f.rad() > abs(left_f.mid()) or left_g.rad() > abs(left_g.mid())
        if abs(arb(rho)) ** len(products) * rest < goal or stuck or len(products) == MAX_TERMS:
            return PairSeries(tuple(products), rest)
        a = hermite_coefficient(f, std, len(products), degree, watch)
        b = a if f is g else hermite_coefficient(g, std, len(products), degree, watch)
        products.append(a * b)
        left_f, left_g = left_f - a * a, left_g - b * b


def _expectation(f: Function, std: arb, degree: int, watch: Watch, index: int | None) -> arb:
    if not std > 0:
        raise ValueError(f"std: expected a ball above 0, got {std}")
    quarter = 2 if index is None else 4
    # exp(-L^2 / quarter) under 2^-prec, and c > 0 because degree s / (1 + s L) < degree / L.
    reach = math.isqrt(math.ceil(quarter * math.log(2) * (flint.ctx.prec + SLACK) + quarter * degree)) + 2
    c = arb(2 * reach) / quarter - degree * std / (1 + std * reach)
    tail = 2 * (2 + 2 * std * reach) ** degree * (-arb(reach * reach) / quarter).exp() / c
    if index is not None:
        tail *= arb(CRAMER)

    # He_index has whole coefficients and norm sqrt(index!), which the quadrature's absolute goal follows.
    norm, hermite = (arb(1), None) if index is None else (arb.fac_ui(index).sqrt(), acb_poly(_hermite(index)))

    def integrand(z: acb, analytic: bool) -> acb:
        with watch(analytic):
            value = f(std * z) * (-z * z / 2).exp()
        return value if hermite is None else value * hermite(z)

    # Halves meet at 0, where an activation may have its kink.
    goal = arb(2) ** -flint.ctx.prec * norm
    left, right = (acb.integral(integrand, *ends, abs_tol=goal).real for ends in ((-reach, 0), (0, reach)))
    return ((left + right) / norm + _around_zero(tail)) / (2 * arb.pi()).sqrt()


@cache
def _hermite(index: int) -> fmpz_poly:
    """The probabilists' He_index: He_{j+1} = x He_j - j He_{j-1}."""
    if index < 2:
        return fmpz_poly([1] if index == 0 else [0, 1])
    return fmpz_poly([0, 1]) * _hermite(index - 1) - (index - 1) * _hermite(index - 2)


def _around_zero(bound: arb) -> arb:
    """The ball [-bound, bound]."""
    return arb(0, bound.abs_upper())

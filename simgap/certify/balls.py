"""Laws in balls: every number a midpoint and a radius that surely holds the truth (Arb, through python-flint)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import flint
from flint import acb, arb, fmpq

from simgap.certify.quadrature import PairSeries, gaussian_expectation, pair_series


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Ball arithmetic at `bits` bits inside the block. The precision is the process's own: one thread at a time."""
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        yield
    finally:
        flint.ctx.prec = before


class Balls:
    """The ball context. Functions take real balls, and inside an integral complex ones; `analytic` is set while an integral asks for
    an enclosure that is only valid where the integrand is analytic, so that |x| at 0 and the cuts of sqrt, log and asin are refused there:
    an integral across a cut would be wrong, not wide. Powers of a complex ball have to be whole, for ** has a cut that nobody watches."""

    def __init__(self) -> None:
        self.analytic = False

    @property
    def pi(self) -> Any:
        return arb.pi()

    def number(self, value: Any) -> Any:
        """Exact for ints, Fractions and decimal text, up to the rounding of the division; ValueError for a float, which is not one."""
        if isinstance(value, float):
            raise ValueError(f"value: a float is not the number it is meant to be; expected an int, a Fraction or text, got {value!r}")
        if isinstance(value, str):
            value = Fraction(value)
        if isinstance(value, Fraction):
            return arb(fmpq(value.numerator, value.denominator))
        return value if isinstance(value, arb | acb) else arb(value)

    def sqrt(self, x: Any) -> Any:
        return x.sqrt(analytic=self.analytic) if isinstance(x, acb) else self.number(x).sqrt()

    def exp(self, x: Any) -> Any:
        return self.number(x).exp()

    def log(self, x: Any) -> Any:
        return x.log(analytic=self.analytic) if isinstance(x, acb) else self.number(x).log()

    def log1p(self, x: Any) -> Any:
        return self.log(1 + x)

    def erf(self, x: Any) -> Any:
        return self.number(x).erf()

    def tanh(self, x: Any) -> Any:
        return self.number(x).tanh()

    def logistic(self, x: Any) -> Any:
        return 1 / (1 + (-self.number(x)).exp())

    def asin(self, x: Any) -> Any:
        if isinstance(x, acb) and self.analytic and x.imag.contains(0) and not abs(x.real) < 1:
            return acb(arb("nan"))
        return self.number(x).asin()

    def magnitude(self, x: Any) -> Any:
        return x.real_abs(analytic=self.analytic) if isinstance(x, acb) else abs(self.number(x))

    def positive_part(self, x: Any) -> Any:
        return (x + self.magnitude(x)) / 2

    def step(self, x: Any) -> Any:
        if isinstance(x, acb):
            return x.real_heaviside(analytic=self.analytic)
        return (1 + self.number(x).sgn()) / 2

    def expect(self, f: Callable[[Any], Any], std: Any = 1, degree: int = 2) -> Any:
        """A ball that holds E f(std z); |f(x)| <= (2 + 2|x|)^degree is taken on trust (each law states it of its own integrand)."""
        return gaussian_expectation(f, self.number(std), degree, self._watch)

    def expect_pair(self, f: Callable[[Any], Any], g: Callable[[Any], Any], rho: Any, std: Any = 1, degree: int = 1) -> Any:
        """A ball that holds E f(std u) g(std v), from Hermite coefficients and what they leave of E f^2 and E g^2."""
        rho = self.number(rho)
        return pair_series(f, g, self.number(std), degree, self._watch, rho).at(rho)

    def pair_series(self, f: Callable[[Any], Any], g: Callable[[Any], Any], std: Any = 1, degree: int = 1, up_to: Any = 1) -> PairSeries:
        """`expect_pair` for every rho at once, from one set of Hermite coefficients: as narrow as the precision for |rho| <= up_to."""
        return pair_series(f, g, self.number(std), degree, self._watch, self.number(up_to))

    def integral(self, f: Callable[[Any], Any], low: Any, high: Any) -> Any:
        """A ball that holds the integral of f over [low, high]; f takes complex balls and is real on the real line."""

        def integrand(x: Any, analytic: bool) -> Any:
            with self._watch(analytic):
                return f(x)

        return acb.integral(integrand, self.number(low), self.number(high)).real

    @contextmanager
    def _watch(self, analytic: bool) -> Iterator[None]:
        before, self.analytic = self.analytic, analytic
        try:
            yield
        finally:
            self.analytic = before


BALL = Balls()

"""Laws in symbols: sympy's exact numbers and expressions."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy as sp


class Symbols:
    """The symbolic context. Decimal strings are exact rationals; expectations are integrals that sympy must be able to do."""

    pi = sp.pi

    def number(self, value: Any) -> Any:
        if isinstance(value, float):
            raise ValueError(f"value: a float is not the number it is meant to be; expected an int, a Fraction or text, got {value!r}")
        return sp.Rational(Fraction(value)) if isinstance(value, str | Fraction) else sp.sympify(value)

    def sqrt(self, x: Any) -> Any:
        return sp.sqrt(x)

    def exp(self, x: Any) -> Any:
        return sp.exp(x)

    def log(self, x: Any) -> Any:
        return sp.log(x)

    def log1p(self, x: Any) -> Any:
        return sp.log(1 + x)

    def erf(self, x: Any) -> Any:
        return sp.erf(x)

    def tanh(self, x: Any) -> Any:
        return sp.tanh(x)

    def logistic(self, x: Any) -> Any:
        return 1 / (1 + sp.exp(-x))

    def asin(self, x: Any) -> Any:
        return sp.asin(x)

    def magnitude(self, x: Any) -> Any:
        return sp.Abs(x)

    def positive_part(self, x: Any) -> Any:
        return sp.Max(x, 0)

    def step(self, x: Any) -> Any:
        return sp.Heaviside(x)

    def expect(self, f: Callable[[Any], Any], std: Any = 1, degree: int = 2) -> Any:
        """E f(std z), either side of 0 on its own; the integral itself, unevaluated, where sympy knows no closed form."""
        z = sp.Symbol("z", positive=True)
        density = sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi)
        return sp.integrate(sp.expand((f(std * z) + f(-std * z)) * density), (z, 0, sp.oo))

    def expect_pair(self, f: Callable[[Any], Any], g: Callable[[Any], Any], rho: Any, std: Any = 1, degree: int = 1) -> Any:
        """E f(std u) g(std v), as the iterated integral over u and v = rho u + sqrt(1 - rho^2) w."""
        u, w = sp.symbols("u w", real=True)
        v = rho * u + sp.sqrt(1 - rho**2) * w
        density = sp.exp(-(u * u + w * w) / 2) / (2 * sp.pi)
        return sp.integrate(sp.integrate(sp.expand(f(std * u) * g(std * v) * density), (w, -sp.oo, sp.oo)), (u, -sp.oo, sp.oo))


SYMBOLIC = Symbols()

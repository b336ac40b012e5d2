"""Copy this file into a folder of proofs/, name it after its id (n8_my_law.py), and replace every line: here, E z^2 = s^2 for a normal."""

from collections.abc import Callable
from functools import cache
from typing import Any

import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.certify import BALL
from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="TEMPLATE",
    kind=EQUAL,
    title="the second moment of a normal is its variance",
    claim=r"\mathbb{E}(sz)^2 = s^2",
    hypotheses=("z standard normal",),
    box={"s": (0, None)},
    tight="an equality",
)


# In a real theorem the law lives in simgap/theory, written once.
def second_moment(std: Any, *, ctx: Context) -> Any:
    return ctx.number(std) ** 2


LAW = second_moment


def symbolic(law: Callable[..., Any] = LAW) -> Check:
    """From the definition, never from the law: here the integral against the density."""
    proof = Derivation()
    z, s = sp.Symbol("z", real=True), sp.Symbol("s", positive=True)
    integral = sp.integrate((s * z) ** 2 * sp.exp(-z * z / 2) / sp.sqrt(2 * sp.pi), (z, -sp.oo, sp.oo))
    proof.equal("int (sz)^2 phi(z) dz", integral, law(s, ctx=SYMBOLIC))
    return proof.check()


def certified(law: Callable[..., Any] = LAW) -> Check:
    """In balls, at the precision of the caller: enclosures noted by `ball` are compared with those at twice the precision."""
    proof = Derivation()
    for std in (1, 3):
        moment = proof.ball(f"E (sz)^2 at s = {std}", BALL.expect(lambda x: x * x, std, degree=2))
        # A ball around 0 proves no equality, so this part only bounds the difference.
        proof.within(f"s = {std}: it is the law's", moment - law(std, ctx=BALL), "1e-20")
    return proof.check()


@cache
def _simulate() -> Any:
    return 3 * generator("TEMPLATE").standard_normal(100_000)


def numeric(law: Callable[..., Any] = LAW) -> Check:
    """A simulation of fixed size: it agrees within 5 standard errors, or refutes."""
    proof = Derivation()
    proof.estimate("s = 3: mean of (sz)^2", *mean_and_sem(_simulate() ** 2), law(3, ctx=FLOAT))
    return proof.check()


def control() -> list[Wrong]:
    """The smallest plausible wrong forms: each must be refuted by every way that applies."""
    return [Wrong("E (sz)^2 = s^2 + s/10", lambda std, *, ctx: ctx.number(std) ** 2 + ctx.number(std) / 10)]

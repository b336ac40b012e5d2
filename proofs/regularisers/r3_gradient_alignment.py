"""R3: on one token, cos of the gradients of two experts' W_down is cos of what enters them, up to the sign of the gates.

So a penalty on cos^2 of the hidden vectors, token by token, is one on cos^2 of the per-token gradients; of a batch's gradients it is not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator
from simgap.certify.verdict import Verdict
from simgap.theory.floats import FLOAT
from simgap.theory.gradient_alignment import gradient_cosine
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="R3",
    kind=EQUAL,
    title="gradients of two experts' W_down align as their hidden vectors do",
    claim=r"\cos\left(\partial L/\partial W_{down,e},\ \partial L/\partial W_{down,v}\right) = \mathrm{sign}(g_e g_v)\,\cos(h_e, h_v)",
    hypotheses=(
        "y = r + sum_e g_e W_down,e h_e, the W_down untied; r, the gates and the hidden vectors do not depend on them",
        "L differentiable, a function of the W_down only through one token's y; dL/dy != 0",
        "g_e, g_v, h_e, h_v all non-zero",
    ),
    box={"g_e": (None, None), "g_v": (None, None)},
    tight="an equality",
)


@dataclass(frozen=True)
class Law:
    """tokens: how many share the loss; the claim is for one. For more, the hidden vectors that it names are sums over the tokens."""

    cosine: Callable[..., Any] = gradient_cosine
    tokens: int = 1


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: y differentiated by every entry of both matrices, the chain rule, and the Frobenius cosine; four gate signs."""
    proof = Derivation()
    for d, f in ((1, 2), (2, 2)):
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            gates = sp.symbols("g_e g_v", positive=True)
            slopes = [sp.symbols(f"L{t}_1:{d + 1}", positive=True) for t in range(law.tokens)]
            hidden = [[sp.symbols(f"{name}{t}_1:{f + 1}", positive=True) for t in range(law.tokens)] for name in ("h", "k")]
            gradients = _gradients([s * g for s, g in zip(signs, gates, strict=True)], slopes, hidden, d, f)
            if signs == (1, 1):
                proof.step(f"d = {d}, f = {f}: sum_i L_i dy_i/dW_e and sum_i L_i dy_i/dW_v, L_i = dL/dy_i", gradients)
            h, k = (sp.Matrix([sum(parts) for parts in zip(*vectors, strict=True)]) for vectors in hidden)
            claimed = law.cosine(signs[0] * gates[0], signs[1] * gates[1], _cosine(h, k), ctx=SYMBOLIC)
            derived = _cosine(*gradients)
            proof.record(
                f"d = {d}, f = {f}, signs {signs}: cosine of the gradients: derived {derived}, claimed {claimed}", _same(derived, claimed)
            )
    a, b, length, left, right, dot = sp.symbols("a b D2 H2 K2 hk", positive=True)
    proof.step("any d, f: the gradients are g_e D h_e' and g_v D h_v', D = dL/dy, and <D h', D k'>_F = |D|^2 h'k at any size")
    derived = a * b * length * dot / (sp.sqrt(a**2 * length * left) * sp.sqrt(b**2 * length * right))
    proof.equal("any d, f, positive gates", derived, law.cosine(a, b, dot / sp.sqrt(left * right), ctx=SYMBOLIC))
    proof.equal("any d, f, one negative gate", -derived, law.cosine(-a, b, dot / sp.sqrt(left * right), ctx=SYMBOLIC))
    return proof.check()


def _gradients(gates: Any, slopes: Any, hidden: Any, d: int, f: int) -> list[Any]:
    """dL/dW_e and dL/dW_v by differentiating each token's y entry by entry; another expert and a residual are there and drop out."""
    weights = [sp.Matrix(d, f, lambda i, j, name=name: sp.Symbol(f"{name}{i}{j}")) for name in "WVU"]
    gradients = [sp.zeros(d, f), sp.zeros(d, f)]
    for t, slope in enumerate(slopes):
        y = sp.Matrix(sp.symbols(f"r1:{d + 1}")) + weights[2] * sp.ones(f, 1)
        for gate, weight, vectors in zip(gates, weights[:2], hidden, strict=True):
            y += gate * weight * sp.Matrix(vectors[t])
        for at, weight in enumerate(weights[:2]):
            gradients[at] += weight.applyfunc(
                lambda entry, y=y, slope=slope: sum(s * sp.diff(part, entry) for s, part in zip(slope, y, strict=True))
            )
    return gradients


def _same(derived: Any, claimed: Any) -> Verdict:
    """PROVED where the two cancel term by term, in the factored form that both have; REFUTED by a rational point."""
    difference = derived - claimed
    if difference == 0:
        return Verdict.PROVED
    point = {symbol: sp.Rational(7 + 3 * i, 2) for i, symbol in enumerate(sorted(difference.free_symbols, key=str))}
    return Verdict.REFUTED if abs(difference.evalf(40, subs=point)) > sp.Float("1e-20") else Verdict.UNDECIDED


def _cosine(left: Any, right: Any) -> Any:
    dot = sum(x * y for x, y in zip(left, right, strict=True))
    norms = (sp.factor(sum(x * x for x in side)) for side in (left, right))
    return sp.factor(dot) / sp.sqrt(sp.Mul(*norms))


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("an algebraic identity, exact for every gate and vector")


D_MODEL, D_FF, EXPERTS, CASES = 5, 7, 4, 6


@cache
def _backpropagated(tokens: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Gates, hidden vectors summed over the tokens, and W_down gradients of small mixtures in float64, by autograd: gates of both signs, a
    hidden layer with SiLU and a norm, a residual, and after y a softplus head with a norm and a cross entropy."""
    import torch

    mixtures = []
    for case in range(CASES):
        random = generator("R3", f"{tokens} {case}")

        def draw(*shape: int, random: np.random.Generator = random) -> Any:
            return torch.from_numpy(random.standard_normal(shape))

        x = draw(tokens, D_MODEL)
        w_up, w_down, head = draw(EXPERTS, D_FF, D_MODEL), draw(EXPERTS, D_MODEL, D_FF).requires_grad_(), draw(9, D_MODEL)
        # One gate an expert, so that a batch differs from a token by its sum alone.
        gates = draw(EXPERTS)
        hidden = torch.nn.functional.layer_norm(torch.nn.functional.silu(torch.einsum("efd,td->etf", w_up, x)), (D_FF,))
        y = x + torch.einsum("e,edf,etf->td", gates, w_down, hidden)
        logits = torch.nn.functional.softplus(torch.nn.functional.layer_norm(y, (D_MODEL,))) @ head.T
        torch.nn.functional.cross_entropy(logits, torch.arange(tokens)).backward()
        mixtures.append((gates.numpy(), hidden.sum(1).numpy(), w_down.grad.numpy()))
    return mixtures


def numeric(law: Law = LAW) -> Check:
    """Autograd through a small mixture, every pair of experts: the pair that differs most from the claim."""
    proof = Derivation()
    for case, (gates, hidden, gradients) in enumerate(_backpropagated(law.tokens)):
        pairs = [(e, v) for e in range(EXPERTS) for v in range(e)]
        measured = np.array([_cos(gradients[e].ravel(), gradients[v].ravel()) for e, v in pairs])
        claimed = np.array([law.cosine(gates[e], gates[v], _cos(hidden[e], hidden[v]), ctx=FLOAT) for e, v in pairs])
        worst = int(np.abs(measured - claimed).argmax())
        # A cosine of 35 products in float64: round-off under 1e-14.
        text = f"case {case}, gates {gates[pairs[worst][0]]:.2f} and {gates[pairs[worst][1]]:.2f}: cosine of the gradients"
        proof.agrees(text, measured[worst], claimed[worst], 1e-13)
    return proof.check()


def _cos(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def control() -> list[Wrong]:
    return [
        Wrong("without the sign of the gates", replace(LAW, cosine=lambda a, b, c, *, ctx: ctx.number(c))),
        Wrong("with the sign of one gate", replace(LAW, cosine=lambda a, b, c, *, ctx: a / ctx.magnitude(a) * c)),
        Wrong("cos^2 of the hidden vectors", replace(LAW, cosine=lambda a, b, c, *, ctx: gradient_cosine(a, b, c * c, ctx=ctx))),
        Wrong("times the gates", replace(LAW, cosine=lambda a, b, c, *, ctx: a * b * c)),
        Wrong("two tokens in one loss", replace(LAW, tokens=2)),
    ]

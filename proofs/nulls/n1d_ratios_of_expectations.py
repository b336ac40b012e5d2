"""N1D: shares of entries and matrices of unequal scale, by a ratio of expectations: exact for signs and normals, else to order 1/N."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, cited, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.weight_null import null_all_weights_mso, share_moment

STATEMENT = Statement(
    id="N1D",
    kind=EQUAL,
    title="norms replaced by their means: the share moment of i.i.d. entries, and the overlap of matrices of unequal scale",
    claim=(
        r"\mathbb{E}\Big(\frac{u_1^2}{\|u\|^2}\Big)^2 = \frac{\kappa}{N(\kappa + N - 1)}(1 + O(1/N)),\ \kappa = \frac{\mathbb{E}u^4}"
        r"{(\mathbb{E}u^2)^2},\ \text{exactly for signs and normals};\quad \mathbb{E}\cos^2 = \frac{\sum_i n_i v_i^2}{(\sum_i n_i v_i)^2}"
        r"(1 + O(1/N)),\ \text{exactly for equal } v_i"
    ),
    hypotheses=(
        "shares: N i.i.d. entries, symmetric about 0, with eight moments, never all 0",
        "matrices: two independent vectors of N = sum n_i independent entries symmetric about 0, n_i of them of variance v_i",
        "O(1/N): the v_i and the shares n_i / N fixed as N grows (simulated within 4/N and 1/N, observed and not proved)",
    ),
    box={"N": (2, None), "kappa": (1, None)},
    premises=(cited("a ratio of means of N terms differs from the ratio of expectations by O(1/N): Cramer (1946), 27.7"),),
    tight="equalities for signs (kappa = 1) and normals (kappa = 3), and for one variance",
)


@dataclass(frozen=True)
class Law:
    share: Callable[..., Any] = share_moment
    matrices: Callable[..., Any] = null_all_weights_mso


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    n, kappa, v = sp.symbols("N kappa v", positive=True)
    proof.step("E |u|^4 = N E u^4 + N (N - 1) (E u^2)^2, with E u^2 = v and E u^4 = kappa v^2")
    ratio = kappa * v**2 / (n * kappa * v**2 + n * (n - 1) * v**2)
    proof.equal("E u_1^4 / E |u|^4", sp.simplify(ratio), law.share(n, kappa, ctx=SYMBOLIC))
    proof.equal("signs: u_1^2/|u|^2 = 1/N always", 1 / n**2, law.share(n, 1, ctx=SYMBOLIC))
    proof.step("normals: direction and length are independent, so E u_1^4 = E |u|^4 E (u_1/|u|)^4 and the ratio is exact")
    proof.equal("normals: 3/(N (N + 2))", 3 / (n * (n + 2)), law.share(n, 3, ctx=SYMBOLIC))
    proof.step("matrices: E <W, W'>^2 = sum over entries of v^2, as signs are independent; E |W|^2 = sum of v, of either")
    n1, n2, v1, v2 = sp.symbols("n1 n2 v1 v2", positive=True)
    for sizes, variances in (((n1,), (v1,)), ((n1, n2), (v1, v2)), ((n1, n2, n1), (v1, v2, v1))):
        pairs = list(zip(sizes, variances, strict=True))
        numerator, norm = sum(count * var * var for count, var in pairs), sum(count * var for count, var in pairs)
        proof.equal(f"{len(sizes)} matrices: E <W, W'>^2 / (E |W|^2)^2", numerator / norm**2, law.matrices(sizes, variances))
    proof.equal("equal variances: 1/N, exactly by N1", 1 / (n1 + n2), sp.simplify(law.matrices((n1, n2), (v1, v1))))
    d, f = sp.symbols("d f", positive=True)
    kaiming = (d**2 + f**2) / ((d + f) ** 2 * d * f)
    proof.equal("Kaiming W_up and W_down: variances in the ratio f : d", kaiming, sp.simplify(law.matrices((d * f, d * f), (f, d))))
    return proof.check()


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("rational laws, derived exactly; what is left is of order 1/N")


DRAWS = 60_000
KURTOSIS = {"signs": 1.0, "uniform": 9 / 5, "normal": 3.0, "Laplace": 6.0}
SIZES, VARIANCES = (48, 96), (3.0, 1.0)


@cache
def _shares(name: str, n: int) -> np.ndarray:
    random = generator("N1D", f"{name} {n}")
    draw = {
        "signs": lambda: random.choice([-1.0, 1.0], (DRAWS, n)),
        "uniform": lambda: random.uniform(-1, 1, (DRAWS, n)),
        "normal": lambda: random.standard_normal((DRAWS, n)),
        "Laplace": lambda: random.laplace(size=(DRAWS, n)),
    }[name]()
    square = draw * draw
    # Every entry's share has one law.
    return (square**2).mean(1) / square.sum(1) ** 2


@cache
def _matrices() -> np.ndarray:
    random = generator("N1D", "matrices")
    scale = np.sqrt(np.repeat(VARIANCES, SIZES))
    u, v = random.standard_normal((2, DRAWS, sum(SIZES))) * scale
    return (u * v).sum(1) ** 2 / ((u * u).sum(1) * (v * v).sum(1))


def numeric(law: Law = LAW) -> Check:
    """Exact forms are allowed nothing, the others 4/N of the law for shares and 1/N for matrices."""
    proof = Derivation()
    for name, kappa in KURTOSIS.items():
        for n in (8, 32):
            claimed = float(law.share(n, kappa, ctx=FLOAT))
            room = 0.0 if name in ("signs", "normal") else 4 * claimed / n
            mean, error = mean_and_sem(_shares(name, n))
            # Signs leave nothing to chance but round-off.
            proof.estimate(f"{name}, N = {n}: share moment", mean, max(error, 1e-15), claimed, room)
    claimed = law.matrices(SIZES, VARIANCES)
    proof.estimate(f"matrices of {SIZES} entries, variances {VARIANCES}", *mean_and_sem(_matrices()), claimed, claimed / sum(SIZES))
    return proof.check()


def _share_with(other: int) -> Callable[..., Any]:
    def share(n: Any, kappa: Any, *, ctx: Any = FLOAT) -> Any:
        n, kappa = ctx.number(n), ctx.number(kappa)
        return kappa / (n * (kappa + n - other))

    return share


def control() -> list[Wrong]:
    return [
        Wrong("kappa + N in place of kappa + N - 1", replace(LAW, share=_share_with(0))),
        Wrong("kappa / N^2", replace(LAW, share=lambda n, kappa, *, ctx=FLOAT: ctx.number(kappa) / ctx.number(n) ** 2)),
        Wrong("matrices: 1/N", replace(LAW, matrices=lambda n, v: 1 / sum(n))),
        Wrong(
            "matrices: variances not squared",
            replace(
                LAW,
                matrices=lambda n, v: sum(a * b for a, b in zip(n, v, strict=True)) / sum(a * b for a, b in zip(n, v, strict=True)) ** 2,
            ),
        ),
    ]

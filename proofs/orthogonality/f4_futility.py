"""F4: making two independent weight matrices orthogonal removes a share between 1/d and 3/(d+2) of their squared pre-activation product.

The share is of E (x'Mx)^2, a ratio of expectations, with W_2' = W_2 - (<W_1,W_2>/||W_1||^2) W_1 not rescaled; rescaled to unit norm, it is
smaller yet, by the second law. The (tr M)^2 term alone is 1/(d+2) of it; the rest of the share is what the projection takes from S.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.floats import FLOAT
from simgap.theory.futility import futility_share, trace_share, unit_norm_futility_share
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="F4",
    kind=EQUAL,
    title="orthogonal weights buy a vanishing share of the overlap",
    claim=(
        r"W_2' = W_2 - \tfrac{\langle W_1,W_2\rangle}{\|W_1\|^2}W_1:\quad "
        r"1 - \frac{\mathbb{E}(x'W_1'W_2'x)^2}{\mathbb{E}(x'W_1'W_2x)^2} = \frac{f+2}{fd+2}"
        r" = \frac{1}{d+2}\left[1 + \frac{2(f+d+1)}{fd+2}\right] \in (1/d,\ 3/(d+2)],\quad "
        r"\frac{\mathbb{E}(\mathrm{tr} M)^2}{\mathbb{E}(x'Mx)^2} = \frac{1}{d+2};\quad "
        r"\text{unit norms: } 1 - (1-\text{share})\,\tfrac{fd}{fd-1}"
    ),
    hypotheses=(
        "W_1, W_2 independent, (f, d), entries i.i.d. N(0, 1); other scales cancel",
        "x ~ N(0, I), or any isotropic x with E||x||^4 finite, independent of them",
        "trace share: x ~ N(0, I)",
        "unit norms: both matrices divided by their Frobenius norms, before and after; f d >= 2",
        "bounds: d >= 2 for the lower one, which is strict",
    ),
    box={"d": (1, None), "f": (1, None)},
    tight="an equality; f = 1 attains 3/(d+2), f to infinity attains 1/d, d = 1 has share 1",
)


@dataclass(frozen=True)
class Law:
    share: Callable[..., Any] = futility_share
    trace: Callable[..., Any] = trace_share
    unit: Callable[..., Any] = unit_norm_futility_share


LAW = Law()
D, F = sp.symbols("d f", positive=True, integer=True)
# A product of entries W^e_{a i}: (e, a, i) with summation labels a (rows) and i (columns).
Word = Sequence[tuple[int, str, str]]


def gaussian_trace(word: Word) -> Any:
    """E of the word summed over its labels, for independent standard normal (f, d) matrices, as a polynomial in f and d (Isserlis).

    E is the sum over pairings of the factors, each with a factor of the same matrix; a pair sets its row labels equal and its column labels
    equal, and each label left free runs over f rows or d columns.
    """
    total = sp.Integer(0)
    for pairing in _pairings(list(range(len(word)))):
        if all(word[s][0] == word[t][0] for s, t in pairing):
            rows = _classes({r for _, r, _ in word}, [(word[s][1], word[t][1]) for s, t in pairing])
            columns = _classes({c for _, _, c in word}, [(word[s][2], word[t][2]) for s, t in pairing])
            total += F**rows * D**columns
    return sp.expand(total)


def _pairings(items: list[int]) -> Iterator[list[tuple[int, int]]]:
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for at, other in enumerate(rest):
        for tail in _pairings(rest[:at] + rest[at + 1 :]):
            yield [(first, other), *tail]


def _classes(labels: set[str], equalities: list[tuple[str, str]]) -> int:
    """How many labels stay free once these are set equal."""
    name = {label: label for label in labels}
    for left, right in equalities:
        old, new = name[left], name[right]
        name = {label: new if current == old else current for label, current in name.items()}
    return len(set(name.values()))


# T = tr W_1'W_2, n = ||W_1||^2, M = W_1'W_2, G = W_1'W_1, written out in entries.
T_SQUARED: Word = [(1, "a", "i"), (2, "a", "i"), (1, "b", "j"), (2, "b", "j")]
M_NORM: Word = [(1, "a", "i"), (2, "a", "j"), (1, "b", "i"), (2, "b", "j")]
M_SQUARED_TRACE: Word = [(1, "a", "i"), (2, "a", "j"), (1, "b", "j"), (2, "b", "i")]
G_NORM: Word = [(1, "a", "i"), (1, "a", "j"), (1, "b", "i"), (1, "b", "j")]
# T <M, G>: <M, G> = sum W1_bj W2_bk W1_cj W1_ck.
T_CROSS: Word = [(1, "a", "i"), (2, "a", "i"), (1, "b", "j"), (2, "b", "k"), (1, "c", "j"), (1, "c", "k")]
T_SQUARED_G_NORM: Word = [*T_SQUARED, (1, "p", "q"), (1, "p", "r"), (1, "s", "q"), (1, "s", "r")]


@cache
def _expectations() -> dict[str, Any]:
    """Exact expectations for every d and f."""
    length = {k: gaussian_trace([(1, f"{label}{i}", f"{label}{i}") for i in range(k) for label in ("u", "u")]) for k in (1, 2, 3)}
    words = {"T^2": T_SQUARED, "||M||^2": M_NORM, "tr M^2": M_SQUARED_TRACE, "||G||^2": G_NORM}
    expectations = {name: gaussian_trace(word) for name, word in words.items()}
    # p(W_1)/n^k, p of degree 2m: direction and length of W_1 are independent, so it is E p times E n^(m-k) / E n^m.
    expectations["T<M,G>/n"] = gaussian_trace(T_CROSS) * length[1] / length[2]
    expectations["T^2||G||^2/n^2"] = gaussian_trace(T_SQUARED_G_NORM) * length[1] / length[3]
    expectations["||G||^2/n^2"] = expectations["||G||^2"] / length[2]
    expectations["n"] = length[1]
    expectations["n^2"] = length[2]
    return {name: sp.factor(value) for name, value in expectations.items()}


def symbolic(law: Law = LAW) -> Check:
    """From the definition: Isserlis' theorem on the entries of both matrices, for every d and f at once."""
    proof = Derivation()
    _identity_over_x(proof)
    e = _expectations()
    for name, value in e.items():
        proof.step(f"E {name}, pairings counted", value)
    proof.equal("the pairings of W_1 give E n^2 as the chi-square law of f d degrees does", e["n^2"], F * D * (F * D + 2))
    before = sp.factor(e["T^2"] + e["||M||^2"] + e["tr M^2"])
    proof.step("E (x'Mx)^2 = E T^2 + E ||M||^2 + E tr M^2", before)
    proof.equal("share of (tr M)^2", sp.cancel(e["T^2"] / before), law.trace(D, ctx=SYMBOLIC))
    proof.step("M' = M - (T/n) G has tr M' = 0, and 2||S'||^2 = 2||S||^2 - 4 (T/n) <M,G> + 2 (T/n)^2 ||G||^2 as G is symmetric")
    after = sp.factor(e["||M||^2"] + e["tr M^2"] - 4 * e["T<M,G>/n"] + 2 * e["T^2||G||^2/n^2"])
    proof.step("E (x'M'x)^2", after)
    share = sp.cancel(1 - after / before)
    proof.equal("share removed, any d and f", share, law.share(D, F, ctx=SYMBOLIC))
    apart = sp.cancel((after + e["T^2"] - before) / -before)
    proof.equal("of which S gives, beside the 1/(d+2) of the trace", apart, 2 * (F + D + 1) / ((F * D + 2) * (D + 2)))
    proof.step("isotropic x: (x'Mx)^2 has degree 4 in x, so another law of |x| multiplies both expectations by one number")
    _bounds(proof, law)
    proof.step("unit norms, before: direction and length of each matrix are independent, so divide by E n for each")
    unit_before = before / e["n"] ** 2
    proof.step("after: given W_1, W_2' is a standard normal in the f d - 1 dimensions orthogonal to it, so divide by f d - 1 and then by n")
    given = [_given_w1(proof, *size) for size in ((1, 2), (2, 2), (2, 1))]
    proof.holds("E[(x'M'x)^2 | W_1] = (d+1) n - 2 ||G||^2/n at these sizes; any size: the two words with W_2 paired", all(given))
    unit_after = ((D + 1) - 2 * e["||G||^2/n^2"]) / (F * D - 1)
    proof.equal("the same expectation over W_1 too: E T<M,G>/n = E T^2||G||^2/n^2", e["T<M,G>/n"], e["T^2||G||^2/n^2"])
    proof.equal("and E T<M,G>/n = E ||G||^2/n = E ||G||^2/n^2 E n, direction and length apart", e["T<M,G>/n"], e["||G||^2/n^2"] * e["n"])
    proof.equal("share removed at unit norms", sp.cancel(1 - unit_after / unit_before), law.unit(D, F, ctx=SYMBOLIC))
    return proof.check()


def _identity_over_x(proof: Derivation) -> None:
    """E (x'Mx)^2 = (tr M)^2 + ||M||^2 + tr M^2 for x ~ N(0, I): Isserlis once more, here on generic entries."""
    m = sp.Matrix(3, 3, lambda i, j: sp.Symbol(f"m{i}{j}"))
    total = sum(
        m[i, j] * m[k, n] * ((i == j) * (k == n) + (i == k) * (j == n) + (i == n) * (j == k))
        for i in range(3)
        for j in range(3)
        for k in range(3)
        for n in range(3)
    )
    claimed = m.trace() ** 2 + sum(entry**2 for entry in m) + (m * m).trace()
    proof.holds("E_x (x'Mx)^2 = (tr M)^2 + ||M||^2 + tr M^2, the three pairings of x_i x_j x_k x_l", sp.expand(total - claimed) == 0)


def _given_w1(proof: Derivation, f: int, d: int) -> bool:
    """E over W_2 of ||M'||^2 + tr M'^2 in generic entries of W_1, against (d+1) n - 2 ||G||^2/n."""
    w1 = sp.Matrix(f, d, lambda a, i: sp.Symbol(f"u{a}{i}"))
    w2 = sp.Matrix(f, d, lambda a, i: sp.Symbol(f"v{a}{i}"))
    n, g = sum(entry**2 for entry in w1), w1.T * w1
    projected = n * w2 - sum(x * y for x, y in zip(w1, w2, strict=True)) * w1
    m = w1.T * projected
    form = sp.Poly(sp.expand(sum(entry**2 for entry in m) + (m * m).trace()), *list(w2))
    average = sum(coefficient for powers, coefficient in form.terms() if max(powers) == 2)
    return sp.expand(average - n * ((d + 1) * n**2 - 2 * sum(entry**2 for entry in g))) == 0


def _bounds(proof: Derivation, law: Law) -> None:
    """d = 2 + s and f = 1 + t: differences whose coefficients are all positive are positive."""
    s, t = sp.symbols("s t", nonnegative=True)
    share = law.share(2 + s, 1 + t, ctx=SYMBOLIC)
    above = sp.fraction(sp.cancel(share - 1 / (2 + s)))
    below = sp.fraction(sp.cancel(3 / (4 + s) - share))
    positive = [all(c > 0 for c in sp.Poly(part, s, t).coeffs()) for part in above]
    proof.holds(f"share - 1/d at d = 2 + s, f = 1 + t is {above[0]} over {above[1]}: positive terms only", all(positive))
    nonnegative = [all(c > 0 for c in sp.Poly(part, s, t).coeffs()) for part in below]
    proof.holds(f"3/(d+2) - share is {below[0]} over {below[1]}: no negative term", all(nonnegative))
    proof.equal("f = 1 attains the upper bound", law.share(D, sp.Integer(1), ctx=SYMBOLIC), 3 / (D + 2))
    proof.equal("f to infinity attains the lower one", sp.limit(law.share(D, F, ctx=SYMBOLIC), F, sp.oo), 1 / D)
    proof.equal("d = 1: the projection removes all of it", law.share(sp.Integer(1), F, ctx=SYMBOLIC), 1)


def certified(law: Law = LAW) -> Check:
    return Check.not_applicable("a rational law, derived exactly for every d and f")


DRAWS = 60_000
SIZES = ((2, 2), (3, 2), (4, 8))


@cache
def _simulate() -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """For each (d, f): (x'Mx)^2 and (x'M'x)^2 with one x a pair, raw and at unit norms, and (tr M)^2."""
    draws = {}
    for d, f in SIZES:
        random = generator("F4", f"{d} {f}")
        w1, w2 = random.standard_normal((2, DRAWS, f, d))
        x = random.standard_normal((DRAWS, d))
        dot, norm = (w1 * w2).sum((1, 2)), (w1 * w1).sum((1, 2))
        projected = w2 - (dot / norm)[:, None, None] * w1
        y1 = np.einsum("nfd,nd->nf", w1, x)
        before, after = ((y1 * np.einsum("nfd,nd->nf", w, x)).sum(1) ** 2 for w in (w2, projected))
        norms = [norm * (w * w).sum((1, 2)) for w in (w2, projected)]
        draws[d, f] = {
            "before": before, "after": after, "trace": dot**2, "unit before": before / norms[0], "unit after": after / norms[1],
        }  # fmt: skip
    return draws


def numeric(law: Law = LAW) -> Check:
    """DRAWS pairs for each size, one x each: ratios of means, their standard errors from residuals."""
    proof = Derivation()
    for (d, f), drawn in _simulate().items():
        wanted = {
            ("after", "before", "share removed"): law.share(d, f, ctx=FLOAT),
            ("unit after", "unit before", "share removed at unit norms"): law.unit(d, f, ctx=FLOAT),
        }
        for (top, bottom, text), claimed in wanted.items():
            ratio, sem = _ratio(drawn[top], drawn[bottom])
            proof.estimate(f"d = {d}, f = {f}: {text}", 1 - ratio, sem, claimed)
        proof.estimate(f"d = {d}, f = {f}: share of (tr M)^2", *_ratio(drawn["trace"], drawn["before"]), law.trace(d, ctx=FLOAT))
    return proof.check()


def _ratio(top: np.ndarray, bottom: np.ndarray) -> tuple[float, float]:
    """A ratio of means and its standard error, to leading order in 1/DRAWS."""
    ratio = float(top.mean() / bottom.mean())
    return ratio, mean_and_sem(top - ratio * bottom)[1] / float(bottom.mean())


def control() -> list[Wrong]:
    def share(wrong: Callable[..., Any]) -> Law:
        return replace(LAW, share=lambda d, f, *, ctx: wrong(ctx.number(d), ctx.number(f)))

    return [
        Wrong("share removed = 1/(d+2), the trace term alone", share(lambda d, f: 1 / (d + 2))),
        Wrong("share removed = 1/d", share(lambda d, f: 1 / d)),
        Wrong("share removed = (f+1)/(f d+2)", share(lambda d, f: (f + 1) / (f * d + 2))),
        Wrong("share removed = (f+2)/(f d+1)", share(lambda d, f: (f + 2) / (f * d + 1))),
        Wrong("share removed = (f+2)/(f d+3)", share(lambda d, f: (f + 2) / (f * d + 3))),
        Wrong("the whole of it", share(lambda d, f: d / d)),
        Wrong("(tr M)^2 is 1/(d+1) of it", replace(LAW, trace=lambda d, *, ctx: 1 / (ctx.number(d) + 1))),
        Wrong("at unit norms the same share", replace(LAW, unit=futility_share)),
    ]

"""T4: whitened by other experts, independent ones overlap on a token as on others; what is left of their space is not quite round."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.nulls._situations import broken
from proofs.nulls.t5_anisotropic import share_in_balls
from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, computed, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.anisotropic import anisotropic_shares, null_anisotropic_mso
from simgap.theory.other_tokens import meeting_gain
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.whitened import HYPOTHESES, null_whitened_mso, whitened_spectrum

STATEMENT = Statement(
    id="T4",
    kind=EQUAL,
    title="whitened by other experts, meeting adds what mapped second moments vary by; their chance level is not 1/d",
    claim=r"A \perp (u, u'): \mathbb{E}(L_3 - L_2) = \mathbb{E}\lVert S^A(t) - \bar S^A\rVert_F^2,\ S^A = \mathbb{E}\tfrac{Auu'A'}{|Au|^2};"
    r"\quad A = (S + \tfrac rd I)^{-1/2},\ u \propto \Lambda^{1/2}g: L_2 = \textstyle\sum s_i^2 \text{ of } \lambda_i/(s_i + r/d)",
    hypotheses=(
        *HYPOTHESES[:2],
        "of L3 - L2: experts drawn alike; it is 0 where the law of u is the same on all tokens, for which the second moment of u does not "
        "suffice, and then the map may see one of the two",
        "of L2: law T5's, and others without number",
    ),
    box={"d": (2, None), "r": (0, None)},
    premises=(computed("T2"), computed("T5")),
    tight="0 where directions have one law on all tokens, at any ridge; equal eigenvalues have L2 = 1/d",
)


@dataclass(frozen=True)
class Law:
    """gain: of the second moments before and after the map. spectrum: what whitening leaves. by: whose vectors it is made from. pairs: what
    gains of pairs that share an expert are. scales: whether scaling a direction changes it. situation: how experts are made."""

    gain: Callable[..., Any] = lambda before, after: meeting_gain(after)
    spectrum: Callable[..., Any] = whitened_spectrum
    by: str = "others"
    pairs: str = "correlated"
    scales: str = "seen"
    situation: str = "independent"


LAW = Law()
Vector = tuple[Any, Any]
# Directions in the plane whose coordinates, lengths and moments are rational.
DIRECTIONS: tuple[Vector, ...] = ((Fraction(1), Fraction(0)), (Fraction(0), Fraction(1)), (Fraction(3, 5), Fraction(4, 5)))
RIDGE = Fraction(1, 10)
# How often each token comes.
REPEATED = (2, 1, 1)


def moment(vectors: Any, weights: Any, ridge: Any) -> tuple[Any, Any, Any]:
    """xx, xy and yy of S + r/2 I of the unit vectors."""
    total = sum(weights)
    parts = [(w * x * x, w * x * y, w * y * y, x * x + y * y) for w, (x, y) in zip(weights, vectors, strict=True)]
    xx, xy, yy = (sum(part[i] / (part[3] * total) for part in parts) for i in range(3))
    return xx + ridge / 2, xy, yy + ridge / 2


def whitened_cos2(u: Vector, v: Vector, s: tuple[Any, Any, Any]) -> Any:
    """Of S^(-1/2) u and S^(-1/2) v, by their inner products u'S^-1 v."""

    def product(a: Vector, b: Vector) -> Any:
        return s[2] * a[0] * b[0] - s[1] * (a[0] * b[1] + a[1] * b[0]) + s[0] * a[1] * b[1]

    return product(u, v) ** 2 / (product(u, u) * product(v, v))


def gain(first: Any, second: Any, s: tuple[Any, Any, Any], counts: tuple[int, ...]) -> Any:
    """L3 - L2 of two experts whose tokens come so often, all other tokens being other ones."""
    total, n = sum(counts), range(len(counts))
    table = {(t, o): whitened_cos2(first[t], second[o], s) for t in n for o in n}
    apart = sum(counts[t] * (counts[o] - (t == o)) * table[t, o] for t in n for o in n)
    return sum(counts[t] * table[t, t] for t in n) / total - apart / (total * (total - 1))


def symbolic(law: Law = LAW) -> Check:
    """From the definition, in the plane: averages over all that each expert may say on each token."""
    proof = Derivation()
    proof.step("given the other experts A is fixed, and the pair is as independent as before: T2 holds of Au")
    before, after, derived = _laws_of_one_moment()
    proof.equal("two tokens of one S(t) and two laws, two maps: L3 - L2", derived, law.gain(before, after))
    for by in (law.by, "one of the two"):
        proof.holds(f"three experts of one law on four tokens, three of them equal, whitened by {by}: L3 - L2 = 0", _mean_gain(by) == 0)
    proof.step("for the law of one of the two is the same on all tokens given the other and A")
    fixed, made = _covariances()
    proof.holds("given what an expert says, gains of two of its pairs: uncorrelated under a fixed map", fixed == 0)
    proof.holds(f"and {law.pairs} where the third expert makes it: {float(made):.2g}", (made != 0) == (law.pairs == "correlated"))
    p, q = sp.symbols("p q", positive=True)
    shares = [p**2 / (p**2 + q**2), q**2 / (p**2 + q**2)]
    proof.step("eigenvalues p^4, q^4 have the shares p^2, q^2 over their sum (T5): whitened p^2, q^2 times one factor, and shares p, q")
    roots = [sp.sqrt(value) for value in law.spectrum([p**4, q**4], shares, 0, 2, ctx=SYMBOLIC)]
    left = (p**2 + q**2) / (p + q) ** 2
    proof.equal("no ridge: L2", left, sum((root / sum(roots)) ** 2 for root in roots))
    proof.holds(f"a direction's scale is {law.scales} after whitening", (sp.diff(left, p) != 0) == (law.scales == "seen"))
    turned, moved = _unseen()
    proof.step("an overlap is made of u'S^-1 v, which lengths of u and v leave alone; so does what leaves S^-1 alone")
    proof.holds("a turn of the space, with any ridge", turned)
    proof.holds("any linear map, without ridge, if S were of vectors as long as they are", moved)
    return proof.check()


@cache
def _laws_of_one_moment() -> tuple[list[Any], list[Any], Any]:
    """On one token along either axis, on the other along either diagonal; means over two maps of S, S^A, and what is overlapped by."""
    says = [[(1, 0), (0, 1)], [(1, 1), (1, -1)]]
    before = [np.array([[sp.Rational(1, 2), 0], [0, sp.Rational(1, 2)]], object)] * 2
    maps = [sp.Matrix([[1, 0], [0, 2]]), sp.Matrix([[1, 1], [0, 3]])]
    gains, mapped = [], []
    for each in maps:
        units = [[each * sp.Matrix(y) for y in of_token] for of_token in says]
        mapped.append([sum((u * u.T / u.dot(u) for u in token), sp.zeros(2)) / 2 for token in units])
        table = [[sum(u.dot(v) ** 2 / (u.dot(u) * v.dot(v)) for u in one for v in other) / 4 for other in units] for one in units]
        gains.append((table[0][0] + table[1][1]) / 2 - sum(map(sum, table)) / 4)
    # Two maps at once are a space of both, side by side: gains add.
    after = [np.array(sp.diag(mapped[0][t], mapped[1][t]).tolist(), object) for t in (0, 1)]
    return before, after, sum(gains)


@cache
def _mean_gain(by: str) -> Fraction:
    """Over all that three experts say on two tokens, one of which comes three times."""
    counts, choices = (3, 1), list(itertools.product(DIRECTIONS, repeat=2))
    total = Fraction(0)
    for e, f in itertools.product(choices, repeat=2):
        made_from = {"others": choices, "one of the two": [e], "the pair": [e + f]}[by]
        total += sum(gain(e, f, moment(vectors, counts * (len(vectors) // 2), RIDGE), counts) for vectors in made_from)
    return total


@cache
def _covariances() -> tuple[Fraction, Fraction]:
    """E D_ef D_eg given what e says, over all that f and g say on REPEATED tokens: by one fixed map; D_ef by g's map and D_eg by f's."""
    choices, e = list(itertools.product(DIRECTIONS, repeat=len(REPEATED))), DIRECTIONS
    # [g][f]: D_ef by g's map.
    table = [[gain(e, f, moment(g, REPEATED, RIDGE), REPEATED) for f in choices] for g in choices]
    pairs = list(itertools.product(range(len(choices)), repeat=2))
    fixed, made = sum(table[1][f] * table[1][g] for f, g in pairs), sum(table[g][f] * table[f][g] for f, g in pairs)
    return Fraction(fixed) / len(pairs), Fraction(made) / len(pairs)


@cache
def _unseen() -> tuple[bool, bool]:
    """Whether M'(S of moved vectors)^-1 M is S^-1: M a turn, with any ridge; and any M, S of vectors as long as they are, without."""
    r, (a, b, c, k, m) = sp.Symbol("r", positive=True), sp.symbols("a b c k m", positive=True)
    s, found = sp.Matrix([[a, b], [b, c]]), []
    for change, ridge in ((sp.Matrix([[3, -4], [4, 3]]) / 5, r), (sp.Matrix([[1, m], [0, k]]), 0)):
        both = change.T * (change * s * change.T + ridge * sp.eye(2)).inv() * change * (s + ridge * sp.eye(2))
        found.append(both.applyfunc(sp.cancel) == sp.eye(2))
    return found[0], found[1]


SPECTRUM, THOUSANDTH = ((100, 1), (1, 7)), Fraction(1, 1000)


def certified(law: Law = LAW) -> Check:
    """One direction ten times as large as seven others: the shares, and those of what whitening leaves."""
    proof = Derivation()
    eigenvalues, counts = SPECTRUM
    shares = [share_in_balls(value, SPECTRUM) for value in eigenvalues]
    left = law.spectrum(eigenvalues, shares, THOUSANDTH, 8, ctx=BALL)
    of_left = [share_in_balls(value, (tuple(left), counts)) for value in left]
    overlap = proof.ball(
        "L2 of eigenvalues 100 and seven times 1, whitened, r = 0.001", sum(n * s * s for n, s in zip(counts, of_left, strict=True))
    )
    proof.within("to the digits printed, 0.16865", overlap - BALL.number("0.16865"), "0.000005")
    proof.record("it is above 1/d", sign(overlap - BALL.number(Fraction(1, 8)), ">"))
    return proof.check()


LAYERS, EXPERTS, D, TOKENS, VECTORS = 40, 8, 16, 60, 200_000


@cache
def _layers(situation: str) -> np.ndarray:
    """Unit outputs of linear experts, half of whose tokens are one, (LAYERS, EXPERTS, TOKENS, D)."""
    random = generator("T4", situation)
    x = random.standard_normal((LAYERS, TOKENS, D))
    x[:, : TOKENS // 2] = x[:, :1]
    weights = random.standard_normal((LAYERS, EXPERTS, D, D))
    weights[..., :2, :] *= 10
    if situation == "copies of both among the others":
        weights[:, EXPERTS // 2 :] = weights[:, : EXPERTS // 2]
    y = np.einsum("ledf,lnf->lend", weights, x)
    if situation == "a residual":
        y = y + 2 * D**0.5 * random.standard_normal((LAYERS, 1, TOKENS, D))
    return y / np.linalg.norm(y, axis=-1, keepdims=True)


@cache
def _overlaps(situation: str, by: str) -> tuple[np.ndarray, np.ndarray]:
    """L3 - L2 and L2 of each layer, means over pairs; copies are among the others alone."""
    found = []
    for units in _layers(situation):
        moments = np.einsum("end,enf->edf", units, units) / TOKENS
        of_pairs = []
        for e, f in itertools.combinations(range(EXPERTS), 2):
            if situation == "copies of both among the others" and f >= EXPERTS // 2:
                continue
            of = [g for g in range(EXPERTS) if (g in (e, f)) == (by == "the pair")]
            factor = np.linalg.cholesky(moments[of].mean(0) + 0.001 / D * np.eye(D))
            left, right = (np.linalg.solve(factor, units[g].T) for g in (e, f))
            table = ((left / np.linalg.norm(left, axis=0)).T @ (right / np.linalg.norm(right, axis=0))) ** 2
            same = np.trace(table)
            apart = (table.sum() - same) / (TOKENS * (TOKENS - 1))
            of_pairs.append((same / TOKENS - apart, apart))
        found.append(np.mean(of_pairs, 0))
    gains, apart = np.array(found).T
    return gains, apart


def numeric(law: Law = LAW) -> Check:
    """Half of the tokens repeat one, beside two large coordinates: where whitening by the same vectors fails."""
    proof = Derivation()
    proof.estimate(f"{law.situation}, whitened by {law.by}: L3 - L2", *mean_and_sem(_overlaps(law.situation, law.by)[0]), 0.0)
    eigenvalues, counts = SPECTRUM
    left = law.spectrum(eigenvalues, anisotropic_shares(eigenvalues, counts).tolist(), 0.1, 8)
    proof.estimate("eigenvalues 100 and seven times 1, r = 0.1: L2", *_chance(), null_anisotropic_mso(left, counts))
    mean, sem = mean_and_sem(_overlaps("independent", "others")[1])
    limit = null_whitened_mso([100, 1], [2, D - 2])
    proof.holds(f"six others leave more than without number, {limit:.4f}: {mean:.4f} +- {sem:.2g}", mean - 5 * sem > limit)
    return proof.check()


@cache
def _chance() -> tuple[float, float]:
    random = generator("T4", "chance")
    y = random.standard_normal((3, VECTORS, 8)) * [10, 1, 1, 1, 1, 1, 1, 1]
    u = y / np.linalg.norm(y, axis=-1, keepdims=True)
    factor = np.linalg.cholesky(u[2].T @ u[2] / VECTORS + 0.1 / 8 * np.eye(8))
    left, right = (np.linalg.solve(factor, each.T) for each in u[:2])
    return mean_and_sem((left * right).sum(0) ** 2 / ((left**2).sum(0) * (right**2).sum(0)))


def control() -> list[Wrong]:
    def round_space(eigenvalues: Any, shares: Any, ridge: Any, width: Any, *, ctx: Any = None) -> Any:
        return [1 + 0 * value for value in shares]

    return [
        Wrong(
            "whitened by the pair itself", replace(LAW, by="the pair"), ("symbolic", "numeric"), "the number is of others without number"
        ),
        Wrong("the chance level is 1/d", replace(LAW, spectrum=round_space)),
        Wrong(
            "second moments before the map decide",
            replace(LAW, gain=lambda before, after: meeting_gain(before)),
            ("symbolic",),
            "directions have one law on all tokens in what is simulated",
        ),
        Wrong(
            "T3 as it is: pairs that share an expert are uncorrelated",
            replace(LAW, pairs="uncorrelated"),
            ("symbolic",),
            "too small to see: a sixtieth of the variance",
        ),
        Wrong("whatever the scales of directions", replace(LAW, scales="not seen"), ("symbolic",), "the others hold one spectrum"),
        *broken(LAW, "the derivation takes independence as given", ("a residual", "copies of both among the others")),
    ]

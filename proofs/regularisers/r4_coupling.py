"""R4: the coupling loss knows how confident routers are, not where they send tokens; a loss of paths aggregates over tokens first.

Both readings are means over tokens of a term without a favourite label, so relabelling experts per token and layer changes nothing. More is
true: a mean over tokens of per-token terms that no relabelling of all tokens at once changes has, on single tokens, no labels, so no
relabelling token by token changes it. A preference among paths needs a term that sees several tokens (or a label chosen in advance).

What the invariance does not imply: that training leaves paths alone. Routers share weights across tokens, and relabelling one token is no
symmetry of those. The flip is an example: two tokens at equal confidence, on different experts; descent on L_1 moves the second token
to the first one's expert where their inputs' inner product is 3, and never where it is -3, though both starts have the same shares.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.statement import EQUAL, Check, Derivation, Statement, Way, Wrong, generator
from simgap.certify import BALL, positive_over
from simgap.theory.coupling import balanced_path_range, mass_coupling, mass_gradient, path_coupling, product_coupling
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="R4",
    kind=EQUAL,
    title="the coupling loss expresses no preference among paths; it sharpens, and couples confidences",
    claim=(
        r"L_1 = -\tfrac1n\sum_t a_t b_t,\ a_t = \sum_{topk} s^l,\ b_t = \sum_{topk} s^{l+1};"
        r"\ L_2 = -\tfrac1n\sum_t \sum_{topk}(s^l_i s^{l+1}_j):\quad"
        r"L(P_t s^l_t, Q_t s^{l+1}_t) = L(s^l_t, s^{l+1}_t)\ \forall P_t, Q_t;\ L_1 \le L_2;\quad"
        r"\partial(nL_1)/\partial z_i = -b s_i(1_{i\in topk} - a);\quad \partial^2 L_1/\partial a_t\partial b_t = -1/n;\quad"
        r"L_3 = -\sum_{ij}(\tfrac1n\sum_t s_i s'_j)^2 \in [-1/E, -1/E^2] \text{ at balanced loads, each end attained}"
    ),
    hypotheses=(
        "s^l_t, s^{l+1}_t: shares of E experts, non-negative, of sum 1; 1 <= k <= E; P_t, Q_t permutations, any for each token and layer",
        "gradient and sharpening: logits free for each token and layer, no tie at the edge of the top k, k < E (at k = E nothing moves)",
        "range of L_3: the mean share of each expert is 1/E in both layers",
        "flip: z_t = w.x_t decides between two experts, w by gradient flow on L_1 (k = 1), the next layer's masses held at 1",
    ),
    box={"E": (2, None), "k": (1, None), "n": (1, None)},
    tight="equalities; L_3's ends by E disjoint paths and by uniform joint shares",
)


@dataclass(frozen=True)
class Law:
    """covariance: the share of Cov(a, b) in mean(ab) - mean a mean b. overlap: <x_1, x_2> of the flip."""

    masses: Callable[..., Any] = mass_coupling
    products: Callable[..., Any] = product_coupling
    paths: Callable[..., Any] = path_coupling
    span: Callable[..., Any] = balanced_path_range
    gradient: Callable[..., Any] = mass_gradient
    covariance: int = 1
    overlap: int = 3


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    proof = Derivation()
    _invariance(proof, law)
    _sharpening(proof, law)
    _paths(proof, law)
    return proof.check()


def _invariance(proof: Derivation, law: Law) -> None:
    proof.step(
        "a token's term of L_1 is the largest of sum_{i in A, j in B} s_i s'_j over k-sets A, B; of L_2, of sum over k-sets of pairs"
    )
    for text, right in _sets():
        proof.holds(text, right)
    s, s_next = _exact("generic")
    for k in (1, 2, 3):
        for name, loss, terms in (("L_1", law.masses, _mass_term), ("L_2", law.products, _product_term)):
            derived = -sum(terms(a, b, k) for a, b in zip(s, s_next, strict=True)) / len(s)
            proof.holds(f"k = {k}: {name} of three tokens in rationals is {derived}, by all k-sets", loss(s, s_next, k) == derived)
            orders = [np.array(order) for order in itertools.permutations(range(3))]
            values = {
                loss(np.vstack([s[:1, p], s[1:]]), np.vstack([s_next[:1], s_next[1:2, q], s_next[2:]]), k) for p in orders for q in orders
            }
            proof.holds(
                f"k = {k}: {name} takes one value over the 36 relabellings of token 1 in one layer and token 2 in the next",
                len(values) == 1,
            )
        proof.holds(
            f"k = {k}: L_1 <= L_2, as the k largest products lie within A x B of the k largest shares",
            law.masses(s, s_next, k) <= law.products(s, s_next, k),
        )


@cache
def _sets() -> list[tuple[str, bool]]:
    """E = 3, symbols: the sets of sums that the maxima range over are the same after any relabelling."""
    s, t = sp.symbols("s1:4", positive=True), sp.symbols("t1:4", positive=True)
    checks = []
    for k in (1, 2, 3):
        for name, sums in (("L_1", _mass_sums), ("L_2", _product_sums)):
            before = set(sums(s, t, k))
            orders = list(itertools.permutations(range(3)))
            same = all(set(sums([s[i] for i in p], [t[j] for j in q], k)) == before for p in orders for q in orders)
            checks.append(
                (f"k = {k}: the {len(before)} sums of {name} are one set under all {len(orders) ** 2} relabellings of s and s'", same)
            )
    return checks


def _mass_sums(s: Any, t: Any, k: int) -> list[Any]:
    return [
        sp.expand(sum(s[i] for i in a) * sum(t[j] for j in b))
        for a in itertools.combinations(range(len(s)), k)
        for b in itertools.combinations(range(len(t)), k)
    ]


def _product_sums(s: Any, t: Any, k: int) -> list[Any]:
    pairs = list(itertools.product(range(len(s)), range(len(t))))
    return [sp.Add(*(s[i] * t[j] for i, j in chosen)) for chosen in itertools.combinations(pairs, k)]


def _mass_term(a: Any, b: Any, k: int) -> Any:
    return max(
        sum(a[i] for i in x) * sum(b[j] for j in y)
        for x in itertools.combinations(range(3), k)
        for y in itertools.combinations(range(3), k)
    )


def _product_term(a: Any, b: Any, k: int) -> Any:
    return max(sum(a[i] * b[j] for i, j in chosen) for chosen in itertools.combinations(list(itertools.product(range(3), repeat=2)), k))


def _exact(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Shares of three tokens and three experts in fractions; or one-hot shares along given paths of two experts."""
    if name == "generic":
        rows = [[(5, 3, 2), (7, 2, 1), (1, 4, 5)], [(6, 1, 3), (2, 3, 5), (4, 5, 1)]]
        s, t = (np.array([[Fraction(x, 10) for x in row] for row in layer], dtype=object) for layer in rows)
        return s, t
    paths = {"two paths": [(0, 0), (0, 0), (1, 1), (1, 1)], "all paths": [(0, 0), (0, 1), (1, 0), (1, 1)]}[name]
    s, t = (np.array([[Fraction(int(e == path[layer])) for e in (0, 1)] for path in paths], dtype=object) for layer in (0, 1))
    return s, t


def _sharpening(proof: Derivation, law: Law) -> None:
    b = sp.Symbol("b", positive=True)
    for experts, k in ((3, 1), (3, 2), (4, 2)):
        z, derived = _slopes(experts, k)
        w = sp.symbols(f"w1:{experts + 1}", positive=True)
        general = [sp.together(x.subs({y: sp.log(v) for y, v in zip(z, w, strict=True)})) for x in derived]
        mass = sum(w[:k]) / sum(w)
        right = all(sp.cancel(x - w[i] / sum(w) * (int(i < k) - mass)) == 0 for i, x in enumerate(general))
        proof.holds(f"E = {experts}, k = {k}, any logits: da/dz_i = s_i (1[i in top k] - a)", right)
        # At a point in decreasing order, so that the top k are the first.
        at = {x: sp.log(experts + 2 - i) for i, x in enumerate(z)}
        weights = [sp.Integer(experts + 2 - i) for i in range(experts)]
        s = np.array([w / sum(weights) for w in weights], dtype=object)
        for i, slope in enumerate(law.gradient(s, b, k)):
            proof.equal(f"E = {experts}, k = {k}, shares {list(s)}: d(-ab)/dz_{i + 1}", sp.simplify(-b * derived[i].subs(at)), slope)
    proof.step("any E and k, as ds_j/dz_i = s_j (1[i = j] - s_i): d(-ab)/dz_i = -b s_i (1 - a) on the top k and +b s_i a off it")
    proof.step("0 < a < 1: descent raises the top k's logits and lowers the others'; da/dt = b sum_i s_i^2 (1[i in top k] - a)^2 > 0")
    proof.step(
        "within the top k the push b s_i (1 - a) is largest for the largest share: the first expert's lead over each other never falls"
    )
    proof.step("L_2: d/dz_i = -s_i (q_i - M), q_i the sum of s'_j over the chosen (i, j), M = sum_i s_i q_i <= max q_i")
    proof.step("(i, j) chosen means (1, j) chosen, so q_1 >= q_i, and s_1 >= s_i: the first expert's lead never falls there either")
    for text, right in _product_slopes():
        proof.holds(text, right)
    n = sp.Integer(2)
    a1, a2, b1, b2 = sp.symbols("a1 a2 b1 b2", positive=True)
    loss = -(a1 * b1 + a2 * b2) / n
    proof.holds(
        "d^2 L_1/da_t db_t = -1/n: confidence in one layer raises the reward of confidence in the next", sp.diff(loss, a1, b1) == -1 / n
    )
    means = (a1 + a2) / n * (b1 + b2) / n
    covariance = sum((a - (a1 + a2) / n) * (b - (b1 + b2) / n) for a, b in ((a1, b1), (a2, b2))) / n
    proof.equal("mean(ab) - mean a mean b, two tokens", sp.expand(-loss - means), sp.expand(law.covariance * covariance))
    swapped = -(a1 * b2 + a2 * b1) / n
    proof.equal(
        "pairing a1 with b1 in place of b2 changes L_1 by -(a1 - a2)(b1 - b2)/n", sp.factor(loss - swapped), -(a1 - a2) * (b1 - b2) / n
    )


@cache
def _slopes(experts: int, k: int) -> tuple[Any, list[Any]]:
    """The derivatives of the mass of the first k shares in the logits."""
    z = sp.symbols(f"z1:{experts + 1}", real=True)
    mass = sum(sp.exp(x) for x in z[:k]) / sum(sp.exp(x) for x in z)
    return z, [sp.diff(mass, x) for x in z]


@cache
def _product_slopes() -> list[tuple[str, bool]]:
    """For every k, three experts and shares in order: descent on reading 2 never lowers the lead of the first expert."""
    z = sp.symbols("z1:4", real=True)
    total = sum(sp.exp(x) for x in z)
    s = [sp.exp(x) / total for x in z]
    checks = []
    for weights, others in (((5, 3, 2), (6, 3, 1)), ((5, 4, 1), (4, 4, 2)), ((7, 2, 1), (5, 3, 2))):
        t = [sp.Rational(x, 10) for x in others]
        at = {x: sp.log(w) for x, w in zip(z, weights, strict=True)}
        for k in (1, 2, 3, 4):
            pairs = sorted(itertools.product(range(3), repeat=2), key=lambda p: (-weights[p[0]] * others[p[1]], p))[:k]
            loss = -sum(s[i] * t[j] for i, j in pairs)
            push = [sp.simplify(-sp.diff(loss, x).subs(at)) for x in z]
            mean = sum(sp.Rational(weights[i], 10) * t[j] for i, j in pairs)
            formula = [sp.Rational(weights[i], 10) * (sum(t[j] for m, j in pairs if m == i) - mean) for i in range(3)]
            right = push == formula and push[0] > 0 and all(push[0] >= p for p in push)
            checks.append((f"L_2, k = {k}, s ~ {weights}, s' ~ {others}: descent pushes z by {push}", right))
    return checks


def _paths(proof: Derivation, law: Law) -> None:
    two, every = _exact("two paths"), _exact("all paths")
    for name, loss in (("L_1", law.masses), ("L_2", law.products)):
        values = loss(*two, 1), loss(*every, 1)
        proof.holds(
            f"one-hot routing along two paths or along all four, loads 1/2: {name} = {values[0]} and {values[1]}", values[0] == values[1]
        )
    low, high = law.span(2, ctx=SYMBOLIC)
    for name, config, claimed in (("two paths", two, low), ("all four", every, high)):
        proof.equal(f"L_3 along {name}", SYMBOLIC.number(law.paths(*config)), claimed)
    joint = [[Fraction(sum(a[i] * b[j] for a, b in zip(*_exact("generic"), strict=True)), 3) for j in range(3)] for i in range(3)]
    derived = -sum(p * p for row in joint for p in row)
    proof.holds(f"L_3 of the three tokens in rationals is {derived}", law.paths(*_exact("generic")) == derived)
    e = sp.Symbol("E", positive=True)
    proof.step(
        "p_ij = mean_t s_i s'_j >= 0 with row sums 1/E: p_ij <= 1/E, so sum p^2 <= sum p/E = 1/E, equality iff every p_ij is 0 or 1/E"
    )
    proof.step(
        "then p is a permutation over E, and each token's experts in both layers lie in it together: one-hot, along E disjoint paths"
    )
    proof.equal("L_3 >= ", -(1 / e), law.span(e, ctx=SYMBOLIC)[0])
    proof.step("sum (p_ij - 1/E^2)^2 = sum p^2 - 2/E^2 + E^2/E^4 >= 0, equality iff p is uniform")
    proof.equal("L_3 <= ", sp.expand(-(2 / e**2 - e**2 / e**4)), law.span(e, ctx=SYMBOLIC)[1])
    for experts in (3, 4):
        # Powers of a cycle: E disjoint paths; their average over all powers is uniform.
        cycle = np.array([[Fraction(int(j == (i + 1) % experts)) for j in range(experts)] for i in range(experts)], dtype=object)
        eye = np.array([[Fraction(int(i == j)) for j in range(experts)] for i in range(experts)], dtype=object)
        powers = [eye]
        for _ in range(experts - 1):
            powers.append(powers[-1] @ cycle)
        low, high = law.span(experts, ctx=SYMBOLIC)
        proof.equal(f"E = {experts}: attained by E disjoint paths", SYMBOLIC.number(law.paths(eye, cycle)), low)
        proof.equal("and by all E^2 paths alike", SYMBOLIC.number(law.paths(np.vstack([eye] * experts), np.vstack(powers))), high)


EDGE = Fraction(1, 10)


def certified(law: Law = LAW) -> Check:
    """The flip. z_1 = w.x_1 starts at 1/10, z_2 = w.x_2 at -1/10; with the Gram table K of the inputs, K_11 = 5, K_22 = 2, gradient flow
    on L_1 (n = 2, b = 1) is, in units of time, dz_1 = K_11 g(z_1) - K_12 g(z_2), dz_2 = K_12 g(z_1) - K_22 g(z_2) while z_1 > 0 > z_2,
    with g(z) = e^z/(1 + e^z)^2 the slope of the top share."""
    proof = Derivation()
    k11, k12, k22 = BALL.number(5), BALL.number(law.overlap), BALL.number(2)

    def g(z: Any) -> Any:
        return BALL.logistic(z) * BALL.logistic(-z)

    box = [(Fraction(0), Fraction(1, 2)), (-EDGE, Fraction(0))]
    rise = positive_over(lambda x, y: k12 * g(x) - k22 * g(y), box)
    proof.record("z_1 in [0, 1/2], z_2 in [-1/10, 0]: dz_2/dt > 0", rise.verdict)
    slow = positive_over(lambda x, y: 3 * (k12 * g(x) - k22 * g(y)) - (k11 * g(x) - k12 * g(y)), box)
    proof.record("and dz_1/dt < 3 dz_2/dt: z_1 gains at most 3/10 while z_2 climbs 1/10, so it stays below 1/2", slow.verdict)
    forward = positive_over(lambda x, y: k11 * g(x) - k12 * g(y), box)
    proof.record(
        "and dz_1/dt > 0, so z_1 stays above 0: the flow leaves the box through z_2 = 0, where the token changes its expert",
        forward.verdict,
    )
    proof.step("K_12 = -3 from the same shares: dz_2/dt = -3 g(z_1) - 2 g(z_2) < 0 and dz_1/dt > 0, as g > 0: no flip, ever")
    proof.step(
        "both starts have the same shares, so the same L_1 and L_2: the inputs' inner product decides, seen by the shared weights alone"
    )
    return proof.check()


@cache
def _draws() -> tuple[np.ndarray, np.ndarray]:
    random = generator("R4")
    return random.dirichlet(np.full(6, 0.4), 400), random.dirichlet(np.full(6, 0.4), 400)


@cache
def _flip(overlap: int) -> float:
    """w's flow from z = (1/10, -1/10), by Euler steps on the weights themselves: z_2 in the end."""
    x = np.array([[np.sqrt(5), 0.0], [overlap / np.sqrt(5), np.sqrt(2 - overlap**2 / 5)]])
    w = np.linalg.solve(x, [0.1, -0.1])
    for _ in range(2000):
        z = x @ w
        share = 1 / (1 + np.exp(-np.abs(z)))
        w = w + 0.01 * (np.sign(z) * share * (1 - share)) @ x
    return float((x @ w)[1])


def numeric(law: Law = LAW) -> Check:
    """400 tokens, six experts; losses to round-off (1e-12), gradients by central differences (1e-7)."""
    proof = Derivation()
    s, s_next = _draws()
    random = generator("R4", "relabelling")
    mixed = random.permuted(s, axis=1), random.permuted(s_next, axis=1)
    for k in (1, 2, 4):
        for name, loss in (("L_1", law.masses), ("L_2", law.products)):
            proof.agrees(f"k = {k}: {name} after relabelling every token in both layers", loss(*mixed, k), loss(s, s_next, k), 1e-12)
        a, b = (np.partition(x, -k, axis=1)[:, -k:].sum(1) for x in (s, s_next))
        joint = float(((a - a.mean()) * (b - b.mean())).mean())
        proof.agrees(
            f"k = {k}: -L_1 is mean a mean b + Cov(a, b)",
            -law.masses(s, s_next, k),
            float(a.mean() * b.mean()) + law.covariance * joint,
            1e-12,
        )
        pairs = np.sort((s[:, :, None] * s_next[:, None]).reshape(400, -1), axis=1)[:, -k:].sum(1).mean()
        proof.agrees(f"k = {k}: -L_2 is the mean of the k largest products", -law.products(s, s_next, k), float(pairs), 1e-12)
        logits, mass, h = np.log(s[0]), float(b[0]), 1e-5
        for i in range(6):
            ends = []
            for sign in (1, -1):
                moved = logits.copy()
                moved[i] += sign * h
                shares = np.exp(moved) / np.exp(moved).sum()
                ends.append(-mass * float(np.sort(shares)[-k:].sum()))
            proof.agrees(f"k = {k}: slope in logit {i + 1}", (ends[0] - ends[1]) / (2 * h), float(law.gradient(s[0], mass, k)[i]), 1e-7)
    joint_shares = np.einsum("ti,tj->ij", s, s_next) / 400
    proof.agrees("L_3 by its definition", law.paths(s, s_next), -float((joint_shares**2).sum()), 1e-12)
    eye = np.eye(8)
    proof.agrees(
        "L_3 along 8 disjoint paths", law.paths(np.tile(eye, (8, 1)), np.tile(np.roll(eye, 3, 1), (8, 1))), law.span(8, ctx=FLOAT)[0], 1e-12
    )
    every = np.repeat(eye, 8, axis=0), np.tile(eye, (8, 1))
    proof.agrees("L_3 along all 64", law.paths(*every), law.span(8, ctx=FLOAT)[1], 1e-12)
    proof.bounded(f"flip, <x_1, x_2> = {law.overlap}: z_2 in the end", _flip(law.overlap), 0, low=0)
    proof.bounded("no flip, <x_1, x_2> = -3: z_2 in the end", _flip(-3), 0, high=0)
    return proof.check()


def control() -> list[Wrong]:
    certificate = "the certificate is of the flip alone"
    others: tuple[Way, ...] = ("symbolic", "numeric")
    return [
        Wrong("L_1 with the other layer's mass on the same experts", replace(LAW, masses=_same_experts), others, certificate),
        Wrong("L_2 over equal labels only", replace(LAW, products=_same_labels), others, certificate),
        Wrong("L_3 squares before it aggregates", replace(LAW, paths=_squared_first), others, certificate),
        Wrong(
            "L_3 at most -1/(2 E^2)",
            replace(LAW, span=lambda e, *, ctx: (-1 / ctx.number(e), -1 / (2 * ctx.number(e) ** 2))),
            others,
            certificate,
        ),
        Wrong("L_3 at least -2/E", replace(LAW, span=lambda e, *, ctx: (-2 / ctx.number(e), -1 / ctx.number(e) ** 2)), others, certificate),
        Wrong("gradient without the share", replace(LAW, gradient=lambda s, b, k: mass_gradient(s, b, k) / s), others, certificate),
        Wrong("gradient flattens", replace(LAW, gradient=lambda s, b, k: -mass_gradient(s, b, k)), others, certificate),
        Wrong("mean(ab) = mean a mean b", replace(LAW, covariance=0), others, certificate),
        Wrong("flip at <x_1, x_2> = 1", replace(LAW, overlap=1), ("certified", "numeric"), "the flip is certified, not derived"),
    ]


def _same_experts(s: Any, s_next: Any, k: int) -> Any:
    top = np.argsort(-s, axis=1, kind="stable")[:, :k]
    return -(np.take_along_axis(s, top, 1).sum(1) * np.take_along_axis(s_next, top, 1).sum(1)).sum() / len(s)


def _same_labels(s: Any, s_next: Any, k: int) -> Any:
    return -np.sort(s * s_next, axis=1)[:, s.shape[1] - k :].sum() / len(s)


def _squared_first(s: Any, s_next: Any) -> Any:
    return -((s[:, :, None] * s_next[:, None, :]) ** 2).sum() / len(s)

"""A6b: tokens that share an expert share a direction, and that lowers the overlap of mean hidden vectors further.

With it A6's E D = 1/n + (1 - 1/n) q holds for routed tokens, q = kappa0 + kappa'(0) b + kappa''(0)/(2d) + O(1/d^2). What is proved with
an explicit error is orthonormal router rows and tokens uniform on the sphere. For entries N(0, 1/d) the Gram matrix G of the router's rows
is I + O(d^-1/2) with E G = I, and the moments of the selected logits are smooth in G, so that the mean over routers moves b by O(1/d^2);
the constant of that term is not known, only simulated. A uniform or hash router selects independently of the token: b = 0.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import flint
import numpy as np
import sympy as sp
from flint import arb

from proofs.statement import RATE, Check, Derivation, Statement, Wrong, assumed, computed, generator, mean_and_sem
from simgap.certify import BALL, sign
from simgap.theory.floats import FLOAT
from simgap.theory.mean_vectors import (
    cosine_of_logits,
    hermite_shares,
    leading_mean_kappa,
    logit_spread,
    mean_pair_kappa,
    mso_of_means,
    relu_sphere_kappa,
    remainder_of_moments,
    routed_mean_cosine,
    selected_logit_mean,
    selected_logit_moment,
    selection_probability,
    sphere_mean_magnitude,
    sphere_routed_cosine,
)
from simgap.theory.symbols import SYMBOLIC

STATEMENT = Statement(
    id="A6B",
    kind=RATE,
    title="tokens routed to one expert share a direction of squared length b = mu^2 E/((E-1) d)",
    claim=(
        r"\mu = \tfrac{E}{k}\,\mathbb{E}[z\,P(\mathrm{Bin}(E-1, 1-\Phi(z)) < k)],\quad"
        r"\|\mathbb{E}[x|e]\|^2/d = \mu^2 E/((E-1)d(1+\sigma^2));\quad"
        r"|\mathbb{E}\kappa(\rho) - \kappa_0 - \kappa'(0)\,\mathbb{E}\rho - \kappa''(0)/(2d)| \le R = O(1/d^2),"
        r"\ \mathbb{E}\rho = \tfrac{\pi d}{2}(\mathbb{E}|\rho_0|)^2 b;\quad"
        r"\text{entries } N(0, 1/d): \text{the same to } O(1/d^2), \text{ and } \mathrm{MSO} = \kappa_0^2/(1/n+(1-1/n)q)^2"
    ),
    hypotheses=(
        "b: Gaussian tokens, orthonormal router rows, top-k of the logits plus independent noise N(0, sigma^2)",
        "R: tokens independent and uniform on the sphere, orthonormal router rows, no noise, E <= d (Delta = 0 at E = 2)",
        "entries N(0, 1/d): E and k fixed as d grows (at E = 8, k = 2, d = 32 simulated: E kappa within 1/d^2, MSO within 4/d^2)",
        "MSO: the hypotheses of A6, n tokens at each expert; error O(1/f + 1/d^2 + 1/(n d))",
    ),
    box={"E": (2, None), "k": (1, None), "d": (2, None), "sigma": (0, None)},
    premises=(
        computed("A1"),
        computed("A6"),
        assumed("entries N(0, 1/d): the moments of the selected logits are smooth in the rows' Gram matrix; simulated, not derived"),
    ),
    tight="equality in b; E = 2, k = 1 halves the space, b = 2/(pi d)",
)


@dataclass(frozen=True)
class Law:
    weight: Callable[..., Any] = selection_probability
    mean: Callable[..., Any] = selected_logit_mean
    cosine: Callable[..., Any] = cosine_of_logits
    sphere: Callable[..., Any] = sphere_routed_cosine
    spread: Callable[..., Any] = logit_spread
    leading: Callable[..., Any] = leading_mean_kappa
    remainder: Callable[..., Any] = remainder_of_moments


LAW = Law()


def symbolic(law: Law = LAW) -> Check:
    """From the definition: who is selected by enumeration, then the moments of <x, x'> over the logits and the rest of the space."""
    proof = Derivation()
    p = sp.Symbol("p", positive=True)
    for experts, k in ((2, 1), (3, 1), (3, 2), (4, 2), (5, 3)):
        proof.equal(
            f"E = {experts}, k = {k}: fewer than k of the others above, enumerated",
            _enumerated(p, experts, k),
            sp.expand(law.weight(p, experts, k, ctx=SYMBOLIC)),
        )
    _means(proof, law)
    _spread(proof, law)
    _moments(proof, law)
    return proof.check()


def _enumerated(p: Any, experts: int, k: int) -> Any:
    above = itertools.product((0, 1), repeat=experts - 1)
    return sp.expand(sum(sp.prod([1 - p if a else p for a in others]) for others in above if sum(others) < k))


def _means(proof: Derivation, law: Law) -> None:
    experts, mu, d, noise = sp.symbols("E mu d sigma", positive=True)
    proof.step(
        "rows orthonormal: x = sum_j l_j r_j + y, logits l_j independent N(0, 1), y normal, independent of them and of the selection"
    )
    proof.step(
        "selection depends on the differences l_i - l_j alone; sum_j l_j is uncorrelated with them, so independent: E[sum_j l_j | e] = 0"
    )
    other = sp.solve(mu + (experts - 1) * sp.Symbol("nu"), sp.Symbol("nu"))[0]
    proof.step("the others are exchangeable: E[l_j | e]", other)
    squared = mu**2 + (experts - 1) * other**2
    proof.step(
        "with noise, t_j = l_j + sigma w_j has variance 1 + sigma^2: E[l_j | t_j] = t_j / (1 + sigma^2), so all means / sqrt(1 + sigma^2)"
    )
    shrink = sp.sqrt(1 + noise**2) / (1 + noise**2)
    proof.equal("b = ||E[x | e]||^2 / d", sp.factor(squared * shrink**2 / d), law.cosine(mu, d, experts, noise, ctx=SYMBOLIC))
    z = sp.Symbol("z", positive=True)
    half = sp.integrate(z * sp.sqrt(2 / sp.pi) * sp.exp(-z * z / 2), (z, 0, sp.oo))
    proof.step("E = 2, k = 1: the expert takes the half space <x, r_1 - r_2> > 0, E[x | e] of length E|z|", half)
    mean = sp.simplify(law.mean(2, 1, ctx=SYMBOLIC))
    proof.equal("its own logit, half of that along r_1 - r_2 of length sqrt 2", half / sp.sqrt(2), mean)
    proof.equal("so b", half**2 / d, law.cosine(mean, d, 2, 0, ctx=SYMBOLIC))


def _spread(proof: Derivation, law: Law) -> None:
    experts, square = sp.symbols("E alpha", positive=True)
    other, cross, rest = sp.symbols("beta gamma eta")
    proof.step("M = E[l l' | e]: alpha at (e, e), beta at (j, j), gamma at (e, j), eta at (i, j)")
    proof.step("trace E, since sum_e 1{e selected} = k and E ||l||^2 = E; rows sum to E[l_i sum_j l_j | e] = E mean(l)^2 E = 1")
    solved = sp.solve(
        [square + (experts - 1) * other - experts, square + (experts - 1) * cross - 1, cross + other + (experts - 2) * rest - 1],
        [other, cross, rest],
        dict=True,
    )[0]
    proof.step("so beta, gamma, eta", tuple(sp.factor(solved[s]) for s in (other, cross, rest)))
    norm = (square - 1) ** 2 + (experts - 1) * ((other - 1) ** 2 + 2 * cross**2) + (experts - 1) * (experts - 2) * rest**2
    proof.equal("||M - I||_F^2", sp.factor(norm.subs(solved)), sp.factor(law.spread(square, experts, ctx=SYMBOLIC)))


def _moments(proof: Derivation, law: Law) -> None:
    d, experts, first, spread = sp.symbols("d E T1 Delta", positive=True)
    c = sp.symbols("c0:5", positive=True)
    rest, length = d - experts, experts * (experts + 2)
    t, w = sp.symbols("t w")
    proof.step("<g, g'> = t + w, t = <l, l'>, w = <y, y'> symmetric and independent of t; m = d - E dimensions of y")
    moments = {w**2: rest, w**4: 3 * rest * (rest + 2)}
    proof.step("given y', w ~ N(0, ||y'||^2): E w^2 = m, E w^4 = 3 E ||y'||^4 = 3 m (m + 2)")
    third, fourth = (sp.expand((t + w) ** j) for j in (3, 4))
    third = third.subs({w**3: 0}).coeff(w, 0) + third.coeff(w, 2) * moments[w**2]
    fourth = fourth.coeff(w, 0) + fourth.coeff(w, 2) * moments[w**2] + fourth.coeff(w, 4) * moments[w**4]
    proof.step("E <g, g'>^3 and E <g, g'>^4 given t", (third, fourth))
    proof.step("E t = T1; E t^2 = ||M||_F^2 = E + Delta, as tr(M - I) = 0")
    proof.step(
        "|E t^3| <= (E[||l||^3 | e])^2 <= (E(E+2))^(3/2), E t^4 <= (E[||l||^4 | e])^2 = (E(E+2))^2, again since sum_e 1{e selected} = k"
    )
    proof.step(
        "a normal's length is independent of its direction: E rho^j = E <g, g'>^j / (E ||g||^j)^2, E ||g||^4 = d(d+2), E ||g||^3 >= d^(3/2)"
    )
    for width in (2, 3, 6):
        # E ||g|| of d standard normals, from the density r^(d-1) exp(-r^2/2) of their length.
        length_mean = sp.sqrt(2) * sp.gamma(sp.Rational(width + 1, 2)) / sp.gamma(sp.Rational(width, 2))
        proof.equal(
            f"E = 2, k = 1, d = {width}, where T1 = 2/pi: E rho = T1/(E ||g||)^2",
            sp.simplify(2 / sp.pi / length_mean**2),
            sp.simplify(law.sphere(width, 2, 1, ctx=SYMBOLIC)),
        )
    bounds = [(t**4, length**2), (t**3, length ** sp.Rational(3, 2)), (t**2, experts + spread), (t, first)]
    third, fourth = third.subs(bounds), fourth.subs(bounds)
    second = (experts + spread + rest) / d**2
    left = c[2] * (second - 1 / d) + c[3] * third / d**3 + c[4] * fourth / (d * (d + 2)) ** 2
    proof.step("E kappa(rho) = sum_j c_j E rho^j, |E rho^j| <= E rho^4 for j >= 4, whose shares sum to c4 = 1 - c0 - c1 - c2 - c3")
    shares = (1 - c[1] - c[2] - c[3] - c[4], *c[1:4])
    # At a few numbers of experts, where the square root of E(E+2) is a number.
    for number in (3, 8):
        claimed = law.remainder(shares, d, sp.Integer(number), first, spread, ctx=SYMBOLIC)
        proof.equal(f"E = {number}: bound on what is left", sp.expand(left.subs(experts, number)), sp.expand(claimed))
    b = sp.Symbol("b", positive=True)
    proof.equal("the leading order", c[0] + c[1] * b + c[2] / d, law.leading(c, d, b, ctx=SYMBOLIC))
    orders = [sp.limit(d**2 * left.subs(experts, 8), d, sp.oo), c[2] * spread + 3 * c[3] * first + 3 * c[4]]
    proof.equal("the bound is O(1/d^2), its coefficient at E = 8", *orders)


def certified(law: Law = LAW) -> Check:
    """In balls: mu against the closed forms of normal order statistics, and the bound's size."""
    proof = Derivation()

    def same(text: str, one: Any, other: Any) -> None:
        proof.within(text, one - other, "1e-20")

    pi, root, bits = arb.pi(), arb.pi().sqrt(), flint.ctx.prec
    fourth = 6 * arb(2).sqrt().atan() / (pi * root)
    known = {
        (2, 1): 1 / root,
        (3, 1): 3 / (2 * root),
        (4, 1): fourth,
        (5, 1): 5 / (4 * root) + 15 * (arb(1) / 3).asin() / (2 * pi * root),
        # The largest of a random three of four is the largest of all with chance 3/4, else the second: second = 4 M_3 - 3 M_4.
        (4, 2): (4 * 3 / (2 * root) - 2 * fourth) / 2,
    }
    for (experts, k), value in known.items():
        same(f"mu at E = {experts}, k = {k}: {value.str(12)}", _mu(law.mean, experts, k, bits), value)
        same("and from the probability of being selected", _moment(law.weight, experts, k, 1, bits), value)
    mu = proof.ball("mu at E = 8, k = 2", _mu(law.mean, 8, 2, bits))
    same("E = 8: the top 2 and the bottom 6 sum to 0", 2 * mu, 6 * _mu(law.mean, 8, 6, bits))
    square = proof.ball("E[l_e^2 | e] at E = 8, k = 2", _moment(selection_probability, 8, 2, 2, bits))
    lower = _moment(selection_probability, 8, 6, 2, bits)
    same("E = 8: the squares of the top 2 and the bottom 6 sum to 8", 2 * square + 6 * lower, arb(8))
    same("the law's own second moment", selected_logit_moment(8, 2, 2, ctx=BALL), square)
    same("E = 3, k = 1: ||M - I||_F^2 entry by entry", _spread_of_three(bits), law.spread(_moment(law.weight, 3, 1, 2, bits), 3, ctx=BALL))
    # Half spaces: E = 2, k = 1, where T1 = 2/pi, and 1/pi with noise of the logits' size.
    for noise, value in ((0, 2 / pi), (1, 1 / pi)):
        same(f"E = 2, k = 1, noise {noise}: b d", law.cosine(_mu(law.mean, 2, 1, bits), 1, 2, noise, ctx=BALL), value)
    _half_sphere(proof, law, (1 / pi, arb(1) / 2, 1 / (2 * pi), arb(0)))
    return proof.check()


@cache
def _mu(mean: Callable[..., Any], experts: int, k: int, bits: int) -> arb:
    return mean(experts, k, ctx=BALL)


@cache
def _moment(weight: Callable[..., Any], experts: int, k: int, power: int, bits: int) -> arb:
    root = arb(2).sqrt()
    return BALL.expect(lambda z: z**power * weight((1 + BALL.erf(z / root)) / 2, experts, k, ctx=BALL), 1, degree=2) * experts / k


@cache
def _spread_of_three(bits: int) -> arb:
    """E = 3, k = 1: given the largest logit z, the others are normals below z, of mean -phi/Phi and second moment 1 - z phi/Phi."""
    root, size = arb(2).sqrt(), (2 * arb.pi()).sqrt()

    def below(z: Any) -> Any:
        return (1 + BALL.erf(z / root)) / 2

    def density(z: Any) -> Any:
        return BALL.exp(-z * z / 2) / size

    own = 3 * BALL.expect(lambda z: z * z * below(z) ** 2, 1, degree=2)
    other = 3 * BALL.expect(lambda z: (below(z) - z * density(z)) * below(z), 1, degree=2)
    cross = -3 * BALL.expect(lambda z: z * density(z) * below(z), 1, degree=1)
    rest = 3 * BALL.expect(lambda z: density(z) ** 2, 1, degree=1)
    return (own - 1) * (own - 1) + 2 * (other - 1) * (other - 1) + 4 * cross * cross + 2 * rest * rest


def _half_sphere(proof: Derivation, law: Law, shares: tuple[arb, ...]) -> None:
    """ReLU on a half sphere, exactly: rho/2 is the odd part of kappa, and x -> -x turns no even moment."""
    for share, value in zip(hermite_shares("relu", 1, ctx=BALL), shares, strict=True):
        proof.within("ReLU's c_j are 1/pi, 1/2, 1/(2 pi), 0", share - value, "1e-20")
    for width in (16, 128):
        cosine = sphere_mean_magnitude(width, ctx=BALL) ** 2
        gap = law.sphere(width, 2, 1, ctx=BALL) - cosine
        proof.within(f"d = {width}: E rho on a half sphere is (E |rho_0|)^2", gap, "1e-20")
        exact = proof.ball(f"d = {width}: E kappa(rho) on a half sphere", relu_sphere_kappa(width, ctx=BALL) + cosine / 2)
        left = exact - law.leading(shares, width, cosine, ctx=BALL)
        bound = law.remainder(shares, width, 2, 2 / arb.pi(), arb(0), ctx=BALL)
        proof.record("no further from the leading order than the bound", sign(bound - abs(left), ">"))
        proof.record("which is below 1/(4 d^2)", sign(1 / (4 * arb(width) ** 2) - bound, ">"))


D, BATCH, BATCHES, ROUTERS = 32, 128, 300, 120
E, K = 8, 2
PAIRS = 40_000


def _kernel(rho: np.ndarray) -> np.ndarray:
    rho = np.clip(rho, -1, 1)
    return (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / np.pi


@cache
def _orthonormal(noise: float) -> dict[str, np.ndarray]:
    """Batches of tokens that expert 0 took, router rows the first E axes: its logit, rho of Gaussian and kappa(rho) of sphere tokens."""
    random = generator("A6b", f"orthonormal {noise}")
    averages: dict[str, list[float]] = {"logit": [], "square": [], "spread": [], "rho": [], "kappa": []}
    for _ in range(BATCHES):
        x = random.standard_normal((BATCH * E // K * 2, D))
        scores = x[:, :E] + noise * random.standard_normal((len(x), E))
        # Expert 0 is selected where fewer than K others score higher.
        x = x[(scores > scores[:, :1]).sum(axis=1) < K][:BATCH]
        n = len(x)
        averages["logit"].append(x[:, 0].mean())
        averages["square"].append((x[:, 0] ** 2).mean())
        logits = (x[:, :E] @ x[:, :E].T) ** 2
        averages["spread"].append((logits.sum() - np.trace(logits)) / (n * (n - 1)) - E)
        gram = x @ x.T / D
        averages["rho"].append((gram.sum() - np.trace(gram)) / (n * (n - 1)))
        length = np.sqrt(np.diagonal(gram))
        kernel = _kernel(gram / np.outer(length, length))
        averages["kappa"].append((kernel.sum() - n) / (n * (n - 1)))
    return {name: np.array(values) for name, values in averages.items()}


@cache
def _half_spheres() -> np.ndarray:
    """rho of pairs of tokens uniform on half of the sphere in R^4: what expert 1 of 2 takes, up to a rotation."""
    points = generator("A6b", "half spheres").standard_normal((PAIRS, 2, 4))
    points[:, :, 0] = np.abs(points[:, :, 0])
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    return (points[:, 0] * points[:, 1]).sum(axis=1)


@cache
def _random_routers() -> dict[str, np.ndarray]:
    """ReLU, tokens uniform on the sphere, router entries N(0, 1/D): mean kappa(rho) within experts, and the mean MSO at f = infinity."""
    random = generator("A6b", "random")
    averages: dict[str, list[float]] = {"kappa": [], "mso": []}
    for _ in range(ROUTERS):
        x = random.standard_normal((BATCH * E // K, D))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        chosen = np.argpartition(-(x @ random.standard_normal((D, E))), K - 1, axis=1)[:, :K]
        within, squares = [], []
        for e in range(E):
            tokens = x[(chosen == e).any(axis=1)]
            n = len(tokens)
            kernel = _kernel(tokens @ tokens.T)
            within.append((kernel.sum() - n) / (n * (n - 1)))
            squares.append(kernel.mean())
        inverse = 1 / np.array(squares)
        averages["kappa"].append(np.mean(within))
        averages["mso"].append((inverse.sum() ** 2 - (inverse**2).sum()) / (E * (E - 1) * np.pi**2))
    return {name: np.array(values) for name, values in averages.items()}


def numeric(law: Law = LAW) -> Check:
    """Orthonormal rows at d = 32 with nothing but the proved bound as allowance, then random rows with the stated 1/d^2."""
    proof = Derivation()
    mu, square = law.mean(E, K, ctx=FLOAT), selected_logit_moment(E, K, 2)
    shares = hermite_shares("relu")
    for noise in (0, 1):
        averages = _orthonormal(noise)
        proof.estimate(f"noise {noise}: mean logit of the expert", *mean_and_sem(averages["logit"]), mu / (1 + noise**2) ** 0.5)
        proof.estimate(f"noise {noise}: b of Gaussian tokens", *mean_and_sem(averages["rho"]), law.cosine(mu, D, E, noise, ctx=FLOAT))
    averages = _orthonormal(0)
    proof.estimate("||M - I||_F^2", *mean_and_sem(averages["spread"]), law.spread(square, E, ctx=FLOAT))
    weighted = E / K * FLOAT.expect(lambda z: z * z * law.weight((1 + FLOAT.erf(z / 2**0.5)) / 2, E, K, ctx=FLOAT))
    proof.estimate("mean squared logit of the expert", *mean_and_sem(averages["square"]), weighted)
    proof.estimate("two experts, d = 4, tokens on the sphere: E rho", *mean_and_sem(_half_spheres()), law.sphere(4, 2, 1, ctx=FLOAT))
    cosine = law.sphere(D, E, K, ctx=FLOAT) / cosine_of_logits(selected_logit_mean(E, K), D, E) * law.cosine(mu, D, E, 0, ctx=FLOAT)
    leading = law.leading(shares, D, cosine, ctx=FLOAT)
    bound = law.remainder(shares, D, E, law.cosine(mu, 1, E, 0, ctx=FLOAT), law.spread(square, E, ctx=FLOAT), ctx=FLOAT)
    proof.estimate("ReLU, tokens on the sphere: E kappa(rho)", *mean_and_sem(averages["kappa"]), leading, allowance=float(bound))
    averages = _random_routers()
    leading = law.leading(shares, D, law.cosine(mu, D, E, 0, ctx=FLOAT), ctx=FLOAT)
    proof.estimate("router entries N(0, 1/d): E kappa(rho)", *mean_and_sem(averages["kappa"]), leading, allowance=1 / D**2)
    shared = mean_pair_kappa(BATCH, leading)
    claimed, allowance = mso_of_means(shares[0], shared, shared), 4 / D**2
    proof.estimate("router entries N(0, 1/d): MSO", *mean_and_sem(averages["mso"]), claimed, allowance=allowance)
    return proof.check()


def control() -> list[Wrong]:
    return [
        Wrong(
            "selected where at most k others lie above",
            replace(LAW, weight=lambda p, n, k, *, ctx: selection_probability(p, n, k + 1, ctx=ctx)),
        ),
        Wrong("mu of the top k + 1", replace(LAW, mean=lambda n, k, *, ctx: selected_logit_mean(n, min(k + 1, n), ctx=ctx))),
        Wrong("b = mu^2/d, the others' logits forgotten", replace(LAW, cosine=_own_logit)),
        Wrong("b whatever the noise", replace(LAW, cosine=lambda mu, d, n, s, *, ctx: cosine_of_logits(mu, d, n, ctx=ctx))),
        Wrong("b = 0, as for a uniform router", replace(LAW, cosine=lambda mu, d, n, s, *, ctx: cosine_of_logits(0, d, n, s, ctx=ctx))),
        Wrong("E rho = b on the sphere too", replace(LAW, sphere=routed_mean_cosine)),
        Wrong("no b in E kappa(rho)", replace(LAW, leading=lambda c, d, b, *, ctx: leading_mean_kappa(c, d, ctx=ctx))),
        Wrong(
            "kappa''(0)/d in E kappa(rho)", replace(LAW, leading=lambda c, d, b, *, ctx: leading_mean_kappa(c, d, b, ctx=ctx) + c[2] / d)
        ),
        Wrong("Delta = (alpha - 1)^2, the expert's own entry alone", replace(LAW, spread=lambda a, n, *, ctx: (ctx.number(a) - 1) ** 2)),
        Wrong(
            "fourth moment of <y, y'> 3 m^2",
            replace(LAW, remainder=_fourth),
            ways=("symbolic",),
            why="another bound of the same order: only the derivation tells that it is not the one derived",
        ),
    ]


def _own_logit(mu: Any, d: Any, n: Any, noise: Any, *, ctx: Any) -> Any:
    return cosine_of_logits(mu, d, n, noise, ctx=ctx) * (ctx.number(n) - 1) / n


def _fourth(shares: Any, d: Any, n: Any, first: Any, spread: Any, *, ctx: Any) -> Any:
    rest = ctx.number(d) - n
    lost = (1 - shares[0] - shares[1] - shares[2] - shares[3]) * 6 * rest / (d * (ctx.number(d) + 2)) ** 2
    return remainder_of_moments(shares, d, n, first, spread, ctx=ctx) - lost

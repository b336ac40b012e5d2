"""Gaussian expectations by routes of their own, for the tests of the laws: Gauss-Hermite, and for wide normals what is left of a kinked
function's smooth sibling, integrated where it lives."""

import math

import numpy as np
from scipy.special import erf, expit

ACT = {
    "identity": lambda x: x,
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
    "erf": erf,
}
SATURATING = ("tanh", "erf")

# Points of the plane: exact to round-off for functions analytic beside the real line at s <= 1.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(160)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def narrow_pair(f, rho, std):
    """E f(su) f(sv), the even and the odd part of f on their own, so that neither hides the other's digits."""
    x = std * NODES
    v = std * (rho * NODES[:, None] + math.sqrt((1 - rho) * (1 + rho)) * NODES)
    total = 0.0
    for sign in (1, -1):
        part = (f(x) + sign * f(-x)) / 2
        total += WEIGHTS @ (part[:, None] * (f(v) + sign * f(-v)) / 2) @ WEIGHTS
    return float(total)


REACH = 45.0
POINTS, SHARES = np.polynomial.legendre.leggauss(400)


def _segment(low, high):
    """Gauss-Legendre on segments, one a row."""
    low, high = np.asarray(low, float)[..., None], np.asarray(high, float)[..., None]
    half = (high - low) / 2
    return low + half * (1 + POINTS), half * SHARES


def wide_pair(name, rho, std):
    """E f(su) f(sv) for s >> 1: f = base + rest, base(x) = relu(x) or sign(x) with its known moments, rest within REACH of 0."""
    f = ACT[name]
    base = np.sign if name in SATURATING else ACT["relu"]
    spread = std * math.sqrt((1 - rho) * (1 + rho))

    def rest(x):
        return f(x) - base(x)

    def density(x, scale):
        return np.exp(-((x / scale) ** 2) / 2) / (scale * math.sqrt(2 * math.pi))

    if spread == 0:
        total = 0.0
        for x, w in (_segment(-REACH, 0), _segment(0, REACH)):
            y = rho * x
            total += float(w @ ((f(x) * f(y) - base(x) * base(y)) * density(x, std)))
        return total + _base_pair(name, rho, std)
    total = _base_pair(name, rho, std)
    for x, w in (_segment(-REACH, 0), _segment(0, REACH)):
        mean = rho * x
        if name in SATURATING:
            inner = erf(mean / spread / math.sqrt(2))
        else:
            inner = mean * (1 + erf(mean / spread / math.sqrt(2))) / 2 + spread * np.exp(-((mean / spread) ** 2) / 2) / math.sqrt(
                2 * math.pi
            )
        inner = 2 * inner
        for low, high in ((-REACH, 0.0), (0.0, REACH)):
            y, share = _segment(np.clip(mean - 12 * spread, low, high), np.clip(mean + 12 * spread, low, high))
            inner = inner + (share * rest(y) * density(y - mean[:, None], spread)).sum(1)
        total += float(w @ (rest(x) * density(x, std) * inner))
    return total


def _base_pair(name, rho, std):
    """Sheppard's 2 asin(rho) / pi for signs; Cho and Saul's kernel for ReLU."""
    if name in SATURATING:
        return 2 * math.asin(rho) / math.pi
    angle = math.acos(rho)
    return std**2 * (math.sin(angle) + (math.pi - angle) * rho) / (2 * math.pi)


def hermite_pair(name, rho, std):
    """sum_{j<4} a_j^2 rho^j: for |rho| so small that a quadrature of the plane would lose an odd function's first term to round-off."""
    f, z = ACT[name], NODES
    polynomials = (lambda z: 1 + 0 * z, lambda z: z, lambda z: (z * z - 1) / math.sqrt(2), lambda z: (z**3 - 3 * z) / math.sqrt(6))
    if std <= 1:
        even, odd = (f(std * z) + f(-std * z)) / 2, (f(std * z) - f(-std * z)) / 2
        coefficients = [WEIGHTS @ ((odd if j % 2 else even) * h(z)) for j, h in enumerate(polynomials)]
    else:
        root = math.sqrt(2 / math.pi)
        signs, relu = (0, root, 0, -root / math.sqrt(6)), (std * root / 2, std / 2, std / (2 * math.sqrt(math.pi)), 0)
        coefficients = list(signs if name in SATURATING else relu)
        base = np.sign if name in SATURATING else ACT["relu"]
        for x, w in (_segment(-REACH, 0), _segment(0, REACH)):
            weight = w * np.exp(-((x / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
            coefficients = [a + weight @ ((f(x) - base(x)) * h(x / std)) for a, h in zip(coefficients, polynomials, strict=True)]
    return float(sum(a * a * rho**j for j, a in enumerate(coefficients)))


def pair(name, rho, std):
    """E f(su) f(sv) for any of the activations."""
    if name == "identity":
        return std**2 * rho
    if name == "relu":
        return _base_pair(name, rho, std)
    if abs(rho) < 1e-4:
        return hermite_pair(name, rho, std)
    return narrow_pair(ACT[name], rho, std) if std <= 1 else wide_pair(name, rho, std)

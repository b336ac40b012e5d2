"""The oracle: every quantity from its definition, in float64, by plain loops. It never sees the package that it judges."""

import math

import numpy as np

LAYERNORM_EPS = 1e-5
RMSNORM_EPS = 1e-6


def cos2(u, v):
    """Squared cosine <u, v>^2 / (|u|^2 |v|^2); nan where either vector is zero or not finite."""
    u = [float(a) for a in u]
    v = [float(b) for b in v]
    if len(u) != len(v):
        raise ValueError(f"vectors of {len(u)} and {len(v)} entries")
    if not all(math.isfinite(a) for a in u + v):
        return math.nan
    largest_u = max((abs(a) for a in u), default=0.0)
    largest_v = max((abs(b) for b in v), default=0.0)
    if largest_u == 0 or largest_v == 0:
        return math.nan
    # A cosine forgets lengths, so each vector is first brought to a largest entry of one: no square overflows or vanishes.
    u = [a / largest_u for a in u]
    v = [b / largest_v for b in v]
    dot = math.fsum(a * b for a, b in zip(u, v, strict=True))
    return dot / math.fsum(a * a for a in u) * (dot / math.fsum(b * b for b in v))


def pair_overlaps(vectors):
    """{(i, j): cos^2} over i < j of vectors (E, N)."""
    return {(i, j): cos2(vectors[i], vectors[j]) for i in range(len(vectors)) for j in range(i + 1, len(vectors))}


def sign_null(vectors):
    """Mean and variance of `mean_overlap` when every vector's entries have fair signs of their own: over the pairs where it is defined,
    sum_i u_i^2 v_i^2 and 2 ((sum_i u_i^2 v_i^2)^2 - sum_i u_i^4 v_i^4), u and v unit vectors. Pairs are uncorrelated."""
    units = []
    for v in vectors:
        v = [float(a) for a in v]
        largest = max((abs(a) for a in v), default=0.0)
        if largest > 0:
            scaled = [a / largest for a in v]
            norm2 = math.fsum(a * a for a in scaled)
            units.append([a * a / norm2 for a in scaled])
    means, variances = [], []
    for i in range(len(units)):
        for j in range(i + 1, len(units)):
            shares = [a * b for a, b in zip(units[i], units[j], strict=True)]
            means.append(math.fsum(shares))
            variances.append(2 * (math.fsum(shares) ** 2 - math.fsum(share * share for share in shares)))
    return math.fsum(means) / len(means), math.fsum(variances) / len(means) ** 2


def mean_overlap(vectors):
    """Mean of cos^2 over the pairs where it is defined, and how many those are; nan and 0 where none is."""
    defined = [c for c in pair_overlaps(vectors).values() if not math.isnan(c)]
    return (math.fsum(defined) / len(defined) if defined else math.nan), len(defined)


def token_overlap(vectors, present=None):
    """For vectors (n, k, width): each token's mean cos^2 over its defined pairs (nan if none), and how many those are."""
    means, counts = [], []
    for t in range(len(vectors)):
        here = [vectors[t][slot] for slot in range(len(vectors[t])) if present is None or present[t][slot]]
        mean, count = mean_overlap(here)
        means.append(mean)
        counts.append(count)
    return means, counts


ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, 0.0),
    "gelu": lambda z: z * 0.5 * math.erfc(-z / math.sqrt(2)),
    "gelu_tanh": lambda z: 0.5 * z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z: z / (1 + math.exp(-z)) if z >= 0 else z * math.exp(z) / (1 + math.exp(z)),
    "tanh": math.tanh,
    "erf": math.erf,
}


def matvec(W, x):
    return [math.fsum(float(w) * float(a) for w, a in zip(row, x, strict=True)) for row in W]


def normalise(hidden, norm, gain, bias):
    """LayerNorm (biased variance) or RMSNorm of one vector, then gain and bias."""
    f = len(hidden)
    if norm == "layernorm":
        centre = math.fsum(hidden) / f
        scale = math.sqrt(math.fsum((h - centre) ** 2 for h in hidden) / f + LAYERNORM_EPS)
    elif norm == "rmsnorm":
        centre = 0.0
        scale = math.sqrt(math.fsum(h * h for h in hidden) / f + RMSNORM_EPS)
    else:
        raise ValueError(f"norm must be 'none', 'layernorm' or 'rmsnorm', not {norm!r}")
    gain = [1.0] * f if gain is None else gain
    bias = [0.0] * f if bias is None else bias
    return [float(g) * (h - centre) / scale + float(b) for h, g, b in zip(hidden, gain, bias, strict=True)]


def expert_forward(x, W_up, W_down, activation, W_gate=None, norm="none", gain=None, bias=None):
    """One expert on one token: {"pre", "hidden", "normed" (unless norm is "none"), "output"}, each a float64 vector.

    pre = W_gate x if gated, else W_up x; hidden = act(pre), times W_up x if gated; output = W_down of the last.
    """
    act = ACTIVATIONS[activation]
    up = matvec(W_up, x)
    pre = up if W_gate is None else matvec(W_gate, x)
    hidden = [act(z) for z in pre] if W_gate is None else [act(z) * u for z, u in zip(pre, up, strict=True)]
    sites = {"pre": pre, "hidden": hidden}
    if norm != "none":
        sites["normed"] = normalise(hidden, norm, gain, bias)
    sites["output"] = matvec(W_down, sites.get("normed", hidden))
    return {site: np.array(vector, dtype=np.float64) for site, vector in sites.items()}


def mean_vectors(vectors, indices):
    """Each expert's mean over the tokens that chose it, (E, width), nan if none: vectors (n, E, width), indices (n, k) with -1 for none."""
    n_tokens, n_experts, width = np.shape(vectors)
    means = np.full((n_experts, width), math.nan)
    for expert in range(n_experts):
        reached = [t for t in range(n_tokens) if any(int(chosen) == expert for chosen in indices[t])]
        for axis in range(width):
            if reached:
                means[expert, axis] = math.fsum(float(vectors[t][expert][axis]) for t in reached) / len(reached)
    return means

"""The persistence tables as a careful person writes them in NumPy: loops over trials and experts, one BLAS call each, all in float32."""

import numpy as np

from simgap import LayerSpec


def relu_layer(
    spec: LayerSpec, tokens: int, generator: np.random.Generator, strength: float, steps: int, rate: float
) -> tuple[float, float]:
    """(weight MSO of W_up, MSO of mean outputs) of one trial: draw, regularise, route, run each expert on its own tokens, compare."""
    d, f, experts = spec.d_model, spec.d_ff, spec.n_experts
    up = [generator.standard_normal((f, d), dtype=np.float32) * np.float32(np.sqrt(2 / d)) for _ in range(experts)]
    down = [generator.standard_normal((d, f), dtype=np.float32) * np.float32(np.sqrt(2 / f)) for _ in range(experts)]
    if strength:
        up = [descend(w, strength * rate, steps) for w in up]
    x = generator.standard_normal((tokens, d), dtype=np.float32)
    router = generator.standard_normal((experts, d), dtype=np.float32) / np.float32(np.sqrt(d))
    chosen = np.argpartition(x @ router.T, experts - spec.top_k, axis=1)[:, experts - spec.top_k :]
    means = []
    for e in range(experts):
        mine = x[(chosen == e).any(axis=1)]
        hidden = np.maximum(mine @ up[e].T, 0)
        means.append((hidden @ down[e].T).mean(axis=0))
    return overlap([w.ravel() for w in up]), overlap(means)


def descend(weight: np.ndarray, step: float, steps: int) -> np.ndarray:
    """Plain gradient descent on ||W'W - I||_F."""
    eye = np.eye(weight.shape[1], dtype=weight.dtype)
    for _ in range(steps):
        excess = weight.T @ weight - eye
        weight = weight - np.float32(2 * step / np.linalg.norm(excess)) * (weight @ excess)
    return weight


def overlap(vectors: list[np.ndarray]) -> float:
    """Mean squared cosine over pairs, as equation (1) of the paper has it."""
    total, pairs = 0.0, 0
    for i, u in enumerate(vectors):
        for v in vectors[:i]:
            total += float(u @ v) ** 2 / (float(u @ u) * float(v @ v))
            pairs += 1
    return total / pairs

"""R4: three losses that couple the routers of adjacent layers: two that know no paths, and one that does."""

from typing import Any

import numpy as np

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

ID = "R4"
HYPOTHESES = (
    "s and s_next: the router's shares of the same tokens in two adjacent layers, each row non-negative with sum 1",
    "gradients: each token's logits are free; no tie at the edge of the top k",
)


def mass_coupling(s: Any, s_next: Any, k: int) -> Any:
    """- mean over tokens of (sum of the k largest s)(sum of the k largest s_next): the coupling loss in its first reading (law R4).

    s, s_next: (tokens, E), floats or an object array of exact numbers; 1 <= k <= E. In [-1, -(k/E)^2]; of layers with E
    and E' experts, [-1, -k^2/(E E')]. ValueError for other shapes.
    """
    s, s_next = _checked(s, s_next, k)
    return -(_largest(s, k).sum(-1) * _largest(s_next, k).sum(-1)).sum() / len(s)


def product_coupling(s: Any, s_next: Any, k: int) -> Any:
    """- mean over tokens of the sum of the k largest of the E x E products s_i s_next_j: the loss in its second reading (law R4).

    Arguments as in `mass_coupling`, which is never larger: the k largest products lie among the k x k of the first reading.
    """
    s, s_next = _checked(s, s_next, k)
    products = (s[:, :, None] * s_next[:, None, :]).reshape(len(s), -1)
    return -_largest(products, k).sum() / len(s)


def path_coupling(s: Any, s_next: Any) -> Any:
    """- sum_ij (mean over tokens of s_i s_next_j)^2: aggregated over tokens before it squares, so that it prefers paths (law R4).

    Shapes as in `mass_coupling`. ValueError for other shapes.
    """
    s, s_next = _checked(s, s_next, 1)
    return -((s.T @ s_next / len(s)) ** 2).sum()


def balanced_path_range(experts: Any, *, ctx: Context = FLOAT) -> tuple[Any, Any]:
    """(-1/E, -1/E^2): the ends of `path_coupling` where both layers' mean shares are 1/E each (law R4).

    The lower is attained by one-hot routing along E disjoint paths alone, the upper by joint shares 1/E^2 alone. experts: E >= 1.
    """
    e = ctx.number(experts)
    return -1 / e, -1 / (e * e)


def mass_gradient(s: Any, mass_next: Any, k: int) -> Any:
    """The gradient of `mass_coupling` with respect to a token's own logits, times the number of tokens: -b s_i (1[i in top k] - a).

    s: (E,) shares, a their top-k mass; mass_next: b, the top-k mass of the other layer. Negative on the top k, positive off it: descent
    sharpens (law R4). Nothing moves at k = E. ValueError for k outside 1..E.
    """
    if not 1 <= k <= len(s):
        raise ValueError(f"k: expected 1 to {len(s)} experts, got {k}")
    order = np.argsort(-np.asarray(s), kind="stable")
    chosen = np.zeros(len(s), dtype=int)
    chosen[order[:k]] = 1
    mass = (s * chosen).sum()
    return -mass_next * s * (chosen - mass)


def _checked(s: Any, s_next: Any, k: int) -> tuple[Any, Any]:
    s, s_next = np.asarray(s), np.asarray(s_next)
    if s.ndim != 2 or s_next.ndim != 2 or len(s) != len(s_next) or not len(s):
        raise ValueError(f"s, s_next: expected (tokens, experts) arrays of the same tokens, got {s.shape} and {s_next.shape}")
    if not 1 <= k <= min(s.shape[1], s_next.shape[1]):
        raise ValueError(f"k: expected 1 to {min(s.shape[1], s_next.shape[1])} experts, got {k}")
    return s, s_next


def _largest(values: Any, k: int) -> Any:
    return np.sort(values, axis=-1)[:, values.shape[1] - k :]

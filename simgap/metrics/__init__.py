"""The bare numbers: overlaps of arrays and tensors, without a null. `simgap.weight_mso` and its kin put the null beside them."""

from simgap.metrics.mean_vectors import means_by_routing, sums_by_expert
from simgap.metrics.pair_overlap import between, cos2_of_gram, gram, pair_cos2, weight_grams
from simgap.metrics.routing import counts, dropped_tokens, load
from simgap.metrics.token_overlap import token_cos2, token_cos2_torch, undefined_vectors

__all__ = [
    "between",
    "cos2_of_gram",
    "counts",
    "dropped_tokens",
    "gram",
    "load",
    "means_by_routing",
    "pair_cos2",
    "sums_by_expert",
    "token_cos2",
    "token_cos2_torch",
    "undefined_vectors",
    "weight_grams",
]

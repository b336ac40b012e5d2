"""The bare numbers: overlaps of arrays and tensors, without a null. `simgap.weight_mso` and its kin put the null beside them."""

from simgap.metrics.mean_vectors import add_sums, means_by_routing
from simgap.metrics.pair_overlap import between, cos2_of_gram, gram, gram_of_pieces, pair_cos2, total, waves
from simgap.metrics.pair_tables import cross_gram, over_pairs, over_tables
from simgap.metrics.routing import counts, dropped_tokens, load
from simgap.metrics.sign_flips import flipped_overlaps, flipped_token_overlaps, size_sums
from simgap.metrics.sketches import Signs
from simgap.metrics.token_overlap import Moments, TokenOverlap, token_cos2, token_cos2_torch, token_overlap, undefined_vectors
from simgap.metrics.token_pairs import Elsewhere, TokenPairs, elsewhere

__all__ = [
    "add_sums",
    "between",
    "cos2_of_gram",
    "counts",
    "cross_gram",
    "dropped_tokens",
    "elsewhere",
    "Elsewhere",
    "flipped_overlaps",
    "flipped_token_overlaps",
    "gram",
    "gram_of_pieces",
    "load",
    "means_by_routing",
    "Moments",
    "over_pairs",
    "over_tables",
    "pair_cos2",
    "Signs",
    "size_sums",
    "token_cos2",
    "token_cos2_torch",
    "token_overlap",
    "TokenOverlap",
    "TokenPairs",
    "total",
    "undefined_vectors",
    "waves",
]

"""Overlaps of arrays and tensors: the bare numbers that metrics and a user's own arrays are reduced to."""

from simgap.overlaps.lengths import lengths_at
from simgap.overlaps.mean_vectors import add_sums, is_centred, means_by_routing
from simgap.overlaps.one_expert import common_mean, entries_of, own_of
from simgap.overlaps.other_tokens import OtherTokens, other_tokens, size_order
from simgap.overlaps.pair_overlap import between, cos2_of_gram, cos_of_gram, gram, gram_of_pieces, pair_cos2, total, waves
from simgap.overlaps.pair_tables import cross_gram, over_pairs, over_tables
from simgap.overlaps.renumbered import OrderSums, order_sums, units_first
from simgap.overlaps.sign_flips import flipped_overlaps, flipped_token_overlaps, size_sums
from simgap.overlaps.sketches import Signs, Sketches
from simgap.overlaps.token_overlap import Moments, TokenOverlap, token_cos2, token_cos2_torch, token_overlap, undefined_vectors
from simgap.overlaps.token_pairs import TokenPairs
from simgap.overlaps.whitened import Whitening

__all__ = [
    "add_sums",
    "between",
    "common_mean",
    "cos2_of_gram",
    "cos_of_gram",
    "cross_gram",
    "entries_of",
    "flipped_overlaps",
    "flipped_token_overlaps",
    "gram",
    "gram_of_pieces",
    "is_centred",
    "lengths_at",
    "means_by_routing",
    "Moments",
    "order_sums",
    "OrderSums",
    "over_pairs",
    "over_tables",
    "other_tokens",
    "OtherTokens",
    "own_of",
    "pair_cos2",
    "Signs",
    "size_order",
    "Sketches",
    "size_sums",
    "token_cos2",
    "token_cos2_torch",
    "token_overlap",
    "TokenOverlap",
    "TokenPairs",
    "total",
    "undefined_vectors",
    "units_first",
    "waves",
    "Whitening",
]

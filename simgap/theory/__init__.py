"""The laws, one to a file, each written once for floats, symbols and balls: nulls of overlap, what activations and norms do to angles, what
regularisers can do. `predict` puts them together; `proofs/` proves them.
"""

from types import FunctionType

from simgap.theory.activations import Activation
from simgap.theory.anisotropic import anisotropic_shares, anisotropic_spread, null_anisotropic_mso
from simgap.theory.centred_means import null_centred_directions, null_centred_mso
from simgap.theory.compression import compression_threshold, dual_slope
from simgap.theory.correlation import correlation_t, false_positive_rate, implied_n, pearson_p
from simgap.theory.dual_map import dual_map, kappa, kappa_zero
from simgap.theory.entropy_bound import entropy_bound
from simgap.theory.finite_width import hidden_token_mso
from simgap.theory.floats import FLOAT
from simgap.theory.futility import futility_share
from simgap.theory.gap_law import null_gap, null_ratio
from simgap.theory.gated import gated_variance
from simgap.theory.gram_flow import gram_flow_singular
from simgap.theory.independence import pair_with_overlaps
from simgap.theory.jacobian_null import null_jacobian_alignment
from simgap.theory.layernorm_null import null_layernorm_mso
from simgap.theory.mean_vectors import mean_hidden_mso, routed_mean_cosine
from simgap.theory.mso_law import mso_distribution, mso_interval, mso_p, overlap_distribution
from simgap.theory.normalisation import explaining_correlation, layernorm_map
from simgap.theory.output_null import null_output_mso
from simgap.theory.public import public
from simgap.theory.routing_chance import information_bias, null_saturation
from simgap.theory.subspace_null import null_subspace_edge, null_subspace_overlap
from simgap.theory.token_variance import null_token_sd, output_alignment
from simgap.theory.weight_null import null_all_weights_mso, null_mso, null_variance, null_weight_mso

__all__ = [
    # nulls
    "null_mso",
    "null_variance",
    "null_weight_mso",
    "null_all_weights_mso",
    "null_output_mso",
    "null_gap",
    "null_ratio",
    "null_layernorm_mso",
    "null_subspace_overlap",
    "null_subspace_edge",
    "null_jacobian_alignment",
    "null_token_sd",
    "null_anisotropic_mso",
    "anisotropic_shares",
    "anisotropic_spread",
    "null_centred_mso",
    "null_centred_directions",
    "overlap_distribution",
    "mso_distribution",
    "mso_interval",
    "mso_p",
    # activations and norms
    "Activation",
    "dual_map",
    "dual_slope",
    "kappa",
    "kappa_zero",
    "compression_threshold",
    "hidden_token_mso",
    "mean_hidden_mso",
    "routed_mean_cosine",
    "gated_variance",
    "output_alignment",
    "layernorm_map",
    "explaining_correlation",
    # regularisers and routers
    "futility_share",
    "pair_with_overlaps",
    "gram_flow_singular",
    "entropy_bound",
    "information_bias",
    "null_saturation",
    # correlations
    "pearson_p",
    "implied_n",
    "correlation_t",
    "false_positive_rate",
    # arithmetic
    "FLOAT",
]

# As users call them.
for _name in __all__:
    if isinstance(_law := globals()[_name], FunctionType):
        globals()[_name] = public(_law)
        # Where another process finds it by name.
        globals()[_name].__module__ = __name__

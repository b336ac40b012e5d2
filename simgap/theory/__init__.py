"""The laws, one to a file: what overlap means nothing. Plain arithmetic, so that floats, fractions and symbols go through alike."""

from simgap.theory.gap_law import null_gap, null_ratio
from simgap.theory.layernorm_null import null_layernorm_mso
from simgap.theory.output_null import null_output_mso
from simgap.theory.weight_null import null_all_weights_mso, null_mso, null_variance, null_weight_mso

__all__ = [
    "null_all_weights_mso",
    "null_gap",
    "null_layernorm_mso",
    "null_mso",
    "null_output_mso",
    "null_ratio",
    "null_variance",
    "null_weight_mso",
]

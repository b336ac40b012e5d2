"""Laws I1 and I2: what a routing shares by chance with the labels of its tokens, and with another routing."""

from typing import Any

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT

BIAS_ID, SATURATION_ID = "I1", "I2"
BIAS_HYPOTHESES = (
    "labels put on tokens in any order, each as likely: tokens are independent",
    "k different experts, l different labels to a token",
    "every expert and label in use is expected together on many tokens",
)
SATURATION_HYPOTHESES = ("one routing put on tokens in any order, each as likely: tokens are independent",)


def information_bias(n_experts: Any, top_k: Any, n_labels: Any, pairs: Any, labels_each: Any = 1, *, ctx: Context = FLOAT) -> Any:
    """(E - k)(D - l) / (2 N) nats: what the plug-in mutual information of expert and label is on average where they are independent, to
    leading order (law I1).

    A token counts once for each of its k experts with each of its l labels, N = n k l times in all. Miller and Madow have (E - 1)(D - 1)
    for N independent pairs; a token's experts are different ones, so that a table of them strays less. Of the table's chi-square
    2 N x information the mean is exactly (E - k)(D - l) n/(n - 1), whatever the loads. n_experts, n_labels: those in use. Where tokens have
    different numbers of them, k is the mean over assignments, sum k_t^2 / sum k_t, and l likewise.

    >>> information_bias(16, 4, 4, 4000 * 4)
    0.001125
    """
    experts, k, labels, each = ctx.number(n_experts), ctx.number(top_k), ctx.number(n_labels), ctx.number(labels_each)
    return (experts - k) * (labels - each) / (2 * ctx.number(pairs))


def null_saturation(shares: Any, inclusion: Any, *, ctx: Context = FLOAT) -> Any:
    """sum_e s_e pi_e, exactly: the share of a token's experts that another routing gives it too, on average where the two know nothing of
    each other's tokens (law I2).

    shares: of a token's experts how many are e, on average; sums to 1, and is pi/k where each token has k of them. inclusion: the share of
    tokens that the other routing gives e. k/E where loads are equal, and more where both prefer the same experts.

    Raises ValueError where they are not of as many experts.

    >>> null_saturation([0.25] * 4, [0.5] * 4)
    0.5
    """
    if len(shares) != len(inclusion):
        raise ValueError(f"shares, inclusion: expected as many experts in both, got {len(shares)} and {len(inclusion)}")
    return sum((ctx.number(share) * ctx.number(other) for share, other in zip(shares, inclusion, strict=True)), ctx.number(0))

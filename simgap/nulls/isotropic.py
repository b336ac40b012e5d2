"""Overlaps beside those of a round space: mean 1/width (laws N1, N2, N4), a user's own spread by the sizes of their entries (law T6)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.sources import Work
from simgap.specs import LayerSpec, RunSpec, SpaceSpec
from simgap.theory import centred_means, gap_law, layernorm_null, output_null, weight_null
from simgap.theory import exchangeable_spread as spread

SUPPOSES = "independent experts in a round space"
# Laws of orders alone need four places.
LEAST_CENTRED = 4
# What is held against a round space, and the laws of it: others are of vectors that share a mean.
METRICS = ("weight_mso", "activation_mso", "gap", "ratio", "centred_mso")
LAWS = (weight_null.ID, output_null.ID, layernorm_null.ID, "A7", gap_law.ID, centred_means.DIRECTIONS_ID)
SHARED_MEAN = "null = isotropic: these vectors share a mean, and no round space has such; null='law' has theirs"


def of_layer(spec: LayerSpec, run: RunSpec, quantity: Quantity, observed: tuple[Quantity, ...]) -> Prediction:
    """The null of one quantity of a simulated layer, as if no direction were larger than another and experts shared nothing: laws N1 to N4,
    A7 and T7B."""
    from simgap.nulls import null_of

    if quantity.metric not in METRICS:
        return Prediction.missing("null = isotropic: of overlaps alone")
    alone = "kaiming_normal" if spec.init == "upcycled" else spec.init
    prediction = null_of(replace(spec, space=SpaceSpec(), init=alone), run, quantity)
    if prediction.mean is not None and prediction.law not in LAWS:
        return Prediction.missing(SHARED_MEAN)
    return replace(prediction, supposes=SUPPOSES)


def isotropic(source: Any, observed: tuple[Quantity, ...], work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """The null of each overlap of weights, means and tokens, and of centred means, among the observed quantities."""
    of = {"weight_mso": _of_weights, "mean": _of_means, "token": _of_tokens, "centred_mso": _of_centred}
    asked = {q: of.get(q.reading if q.metric == "activation_mso" else q.metric) for q in observed}
    return {q: function(source, q, work) for q, function in asked.items() if function}


def _of_weights(source: Any, quantity: Quantity, work: Work) -> Prediction:
    """Entries of one matrix are alike; matrices side by side may have scales of their own."""
    from simgap.overlaps.fourth_powers import fourth_powers

    matrices = source.weights.matrices
    chosen = [matrices[quantity.site]] if quantity.site in matrices else list(matrices.values())
    largest, squares, fourths = np.stack([fourth_powers(matrix, work.task_map) for matrix in chosen], 1)
    defined = largest.any(0)
    # All of an expert's matrices on one scale, which no cosine sees.
    scale = largest[:, defined] / largest[:, defined].max(0)
    squares, fourths = squares[:, defined] * scale**2, fourths[:, defined] * scale**4
    widths, lengths = [matrix.shape[1] for matrix in chosen], squares.sum(0)
    shares, fourths = squares / lengths, fourths / lengths**2

    def of_others(e: int) -> tuple[Any, Any]:
        both = [[(one[e], one[e + 1 :]) for one in table] for table in (shares, fourths)]
        return spread.blocks_moments(widths, *both)

    return _of_pairs(len(lengths), of_others)


def _of_means(source: Any, quantity: Quantity, work: Work) -> Prediction:
    from simgap.nulls.mean_overlap import means_of
    from simgap.overlaps.fourth_powers import fourth_powers

    if why := _refused(source):
        return Prediction.missing(why)
    if isinstance(means := means_of(source, work), str):
        return Prediction.missing(f"no law: {means}")
    _, squares, fourths = fourth_powers(means, work.task_map)
    a = fourths[squares > 0] / squares[squares > 0] ** 2
    mean, covariance = _round(source)
    return _of_pairs(len(a), lambda e: (np.full(len(a) - e - 1, mean), covariance(a[e], a[e + 1 :])), quantity.site)


def _of_tokens(source: Any, quantity: Quantity, work: Work) -> Prediction:
    from simgap.overlaps import TokenPairs
    from simgap.overlaps.fourth_powers import nonzero, token_variance

    if why := _refused(source):
        return Prediction.missing(why)
    named = source.indices[0].cpu().numpy()
    pairs = TokenPairs.of(named, (named >= 0) & nonzero(source.vectors), source.spec.n_experts)
    if not len(pairs.tokens):
        return Prediction.missing("no token has two non-zero vectors")
    mean, covariance = _round(source)
    variance = token_variance(source.vectors, pairs, covariance, work.task_map)
    return _prediction(mean, variance, len(pairs.tokens), quantity.site)


def _of_centred(source: Any, quantity: Quantity, work: Work) -> Prediction:
    """Directions less their mean have no sizes left to be given: law T7B."""
    from simgap.nulls.centred_overlap import of_directions
    from simgap.nulls.mean_overlap import means_of

    if (why := _refused(source)) or isinstance(means := means_of(source, work), str):
        return Prediction.missing(why or f"no law: {means}")
    return of_directions(means.shape[1], len(means), 1, centred_means.DIRECTIONS, supposes=SUPPOSES)


def _refused(source: Any) -> str:
    if source.one_signed:
        return f"no law: {source.one_signed}"
    least = LEAST_CENTRED if source.site == "normed" else 2
    return f"null = isotropic: in fewer than {least} dimensions nothing varies" if source.vectors.shape[-1] < least else ""


def _round(source: Any) -> tuple[float, Callable[..., Any]]:
    """The mean, and the covariance of two tokens, at the site of these vectors."""
    width = source.vectors.shape[-1]
    if source.site == "normed":
        return 1 / (width - 1), lambda *shared: spread.centred_overlap_covariance(width, *shared)
    return 1 / width, lambda *shared: spread.overlap_covariance(width, *shared)


def _of_pairs(experts: int, of_others: Callable[[int], tuple[Any, Any]], site: str = "") -> Prediction:
    """Of one vector to an expert; of_others: means and variances of the pairs of one with those after it."""
    if experts < 2:
        return Prediction.missing("fewer than 2 experts have a non-zero vector")
    sums = np.array([[values.sum() for values in of_others(e)] for e in range(experts - 1)])
    pairs = experts * (experts - 1) // 2
    mean, variance = sums.sum(0).tolist()
    return _prediction(mean / pairs, variance, pairs, site)


def _prediction(mean: float, variance: float, pairs: int, site: str) -> Prediction:
    hypotheses = spread.CENTRED if site == "normed" else spread.HYPOTHESES
    return Prediction(mean, spread.sd_of_sum(variance, pairs), "exact", "exact", spread.ID, hypotheses, supposes=SUPPOSES)

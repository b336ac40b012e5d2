"""A user's own weights beside independent ones whose rows and columns have the same scales or correlations: law T9."""

import math
from typing import Any

import numpy as np

from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.sources import Work
from simgap.theory import separable as laws

SUPPOSES = "independent matrices with second moments of rows and columns like these"


def separable(source: Any, observed: tuple[Quantity, ...], work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """The null of each overlap of weights among the observed quantities."""
    return {quantity: _of_weights(source, quantity, work) for quantity in observed if quantity.metric == "weight_mso"}


def _of_weights(source: Any, quantity: Quantity, work: Work) -> Prediction:
    """Of one matrix, or of several side by side, which are independent of each other and have the shares of each expert's length."""
    from simgap.overlaps.second_moments import lengths, second_moments

    whole = source.weights.whole
    chosen = [whole[quantity.site]] if quantity.site in whole else list(whole.values())
    largest, squares = (np.stack(each) for each in zip(*(lengths(matrix, work.task_map) for matrix in chosen), strict=True))
    # Where one of several matrices is zero, no share of its own is known.
    defined = (largest > 0).all(0)
    if np.any((largest > 0).any(0) & ~defined):
        return Prediction.missing("null = separable: one of an expert's matrices is zero")
    if (experts := int(defined.sum())) < 2:
        return Prediction.missing("fewer than 2 experts have a non-zero vector")
    # On one scale for all of an expert's matrices, which no cosine sees.
    sizes = squares[:, defined] * (largest[:, defined] / largest[:, defined].max(0)) ** 2
    shares = sizes / sizes.sum(0)
    mean, powers = np.zeros((experts, experts)), np.zeros(2)
    for matrix, share in zip(chosen, shares, strict=True):
        kept = matrix if defined.all() else matrix[np.flatnonzero(defined).tolist()]
        rows, columns = (second_moments(side, work.task_map) for side in (kept, kept.mT))
        mean += np.outer(share, share) * laws.separable_mso(rows.alike, columns.alike)
        powers += share.mean() ** np.array([2, 3]) * np.array(rows.powers) * np.array(columns.powers)
    pairs = mean[np.triu_indices(experts, 1)]
    # Given the second moments of both, what directions of single experts do is in the null itself.
    variance = float(laws.separable_variance(pairs, 0, 2).sum())
    # Eigenvalues of a mean over experts are spread by chance too: the error is said larger than it is.
    error = laws.separable_error(*powers[:2].tolist())
    order, sd = "O(tr S^3/(tr S)^3)", math.sqrt(variance) / len(pairs)
    hypotheses = (
        *laws.HYPOTHESES,
        "R and C are those of the experts' own matrices; where few rows or columns rule, they follow the overlap",
    )
    return Prediction(float(pairs.mean()), sd, "leading", "leading", laws.ID, hypotheses, order=order, error=error, supposes=SUPPOSES)

"""A user's own overlaps on tokens beside those of the same pairs of experts on other tokens: laws T2 and T3."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.sources import Work
from simgap.stats import LEAST_P
from simgap.theory.other_tokens import FEWEST_EXPERTS, HYPOTHESES, ID, SPREAD_ID, gain_cumulants

# Tables of all pairs of so many take some 100 MB, and seconds.
MOST_EXPERTS = 2048


class Labels(NamedTuple):
    """Of each token: its document, None for each its own, and its stratum, None for one."""

    documents: Int[np.ndarray, " n"] | None = None
    strata: Int[np.ndarray, " n"] | None = None

    @property
    def supposes(self) -> str:
        documents = "each its own document" if self.documents is None else "of other documents"
        return f"independent experts, on other tokens of like size, {documents}"


NO_LABELS = Labels()


class Elsewhere(NamedTuple):
    """The same pairs of experts on other tokens of like size: what `of_gains` judges, and how to look again, at the pairs, their order by
    size and the lengths of the vectors."""

    found: Any
    pairs: Any
    order: Float[np.ndarray, " m"]
    lengths: Float[np.ndarray, "n k"]


def elsewhere(
    vectors: Any,
    experts: Int[np.ndarray, "n k"],
    exists: Bool[np.ndarray, "n k"],
    count: int,
    labels: Labels,
    work: Any,
    lengths: Float[np.ndarray, "n k"] | None = None,
) -> Elsewhere | str:
    """Or why there are no other tokens. experts: from 0 to count - 1. lengths: of the vectors that exist, where they are known."""
    from simgap.overlaps import TokenPairs, lengths_at, other_tokens, size_order
    from simgap.overlaps.other_tokens import SAMPLED

    documents = labels.documents
    if len(exists) == 1:
        return "there is one token"
    if count > MOST_EXPERTS:
        return f"more than {MOST_EXPERTS} experts, whose pairs are not held in one table"
    if documents is not None and (documents == documents[0]).all():
        return "all tokens are of one document"
    pairs = TokenPairs.of(experts, exists, count, max(2, SAMPLED // vectors.shape[-1]), counted=True)
    if lengths is None:
        lengths = lengths_at(vectors, np.unique(pairs.tokens), exists, work)
    order = size_order(lengths, pairs)
    found = other_tokens(vectors, pairs, documents, order, labels.strata, work, lengths)
    if not len(found.count):
        return f"no pair of experts meets on two tokens of different documents{'' if labels.strata is None else ' and one stratum'}"
    return Elsewhere(found, pairs, order, lengths)


def of_gains(found: Any, labels: Labels) -> Prediction:
    """The null of the overlap of all pairs that have other tokens."""
    met = len(np.unique(found.named))
    if met < FEWEST_EXPERTS:
        return Prediction.missing(f"{met} experts meet, and fewer than {FEWEST_EXPERTS} say nothing of how experts stray")
    # numpy would multiply by as many threads as the process has, and their number would show in the last bits.
    table = torch.tensor(found.table())
    _, variance, third = (float(value) for value in gain_cumulants(table.numpy(), (table @ table).numpy()))
    sd = math.sqrt(variance)
    skew = third / sd**3 if sd else None
    hypotheses = (*HYPOTHESES, f"sd: law {SPREAD_ID}")
    mean = found.over_pairs(found.other)
    return Prediction(mean, sd, "measured", "measured", ID, hypotheses, error=None, skew=skew, supposes=labels.supposes)


def other_token(source: Any, observed: tuple[Quantity, ...], work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """The null of each overlap of vectors on a token among the observed quantities."""
    asked = [q for q in observed if q.metric == "activation_mso" and q.reading == "token"]
    if not asked:
        return {}
    experts = source.indices[0].cpu().numpy()
    found = elsewhere(source.vectors, np.maximum(experts, 0), experts >= 0, source.spec.n_experts, source.labels, work.task_map)
    null = Prediction.missing(f"null = other_token: {found}") if isinstance(found, str) else of_gains(found.found, source.labels)
    return dict.fromkeys(asked, null)


def sizes_do_more(alike: Any, plain: Any) -> bool:
    """Whether tokens of unequal size add more than is left beyond others of like size: sizes are known up to an error, so that what they
    explain is not all that they do. plain: the same pairs on any other tokens."""
    return bool(alike.over_pairs(alike.other) - plain.over_pairs(plain.other) > alike.over_pairs(alike.gains))


def judged(found: Any, null: Prediction) -> tuple[float, float, float]:
    """The mean gain over pairs, its z, and the p of its upper tail by Pearson's type III."""
    from simgap.theory.sign_flips import upper_p

    gain = found.over_pairs(found.gains)
    z = gain / null.sd if null.sd else 0.0
    return gain, z, max(float(upper_p(z, 0.0, 1.0, null.skew or 0.0)), LEAST_P) if null.sd else 1.0

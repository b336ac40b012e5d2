"""Labels that say nothing of the routing: those of a user's own arrays, put on other tokens document by document.

Tokens of a document are alike, so a document's labels move as one sequence: each document gets those of another, in their order, over again
where it is longer. So the labels of a document stay with a document of tokens, and a document that has one label still has one. (To cut
one long sequence of all labels at other places, by a circular shift or by blocks end to end, would split most documents between two tokens'
documents, whose loads stray less than those of whole ones.) Simulated layers: untrained ones of the same spec.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Int

from simgap.metrics.information import GATE_MARGIN, QUANTITIES, SATURATION, chance_of_saturation, label_of, of_routing
from simgap.nulls import simulated
from simgap.nulls.exchange import draws_of_size
from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.seeding import stream
from simgap.selection import metrics
from simgap.specs import LayerSpec, RunSpec
from simgap.theory.routing_chance import SATURATION_ID, null_saturation

# Layers that differ in anything have other nulls, if only by their seed.
WHOLE_SPEC = True
LEAST_DRAWS, MOST_DRAWS = 99, 999
# Documents, or tokens, that have orders enough for a law of what lies beyond all draws: 10! is above a million.
FEWEST_UNITS = 10
DOCUMENTS = "whole documents are exchangeable, whatever their lengths; one that gets the labels of a shorter one has them over again"
TOKENS = "each token is its own document: tokens of one text are not independent, and documents= says which they are"


def null(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    if quantity not in QUANTITIES:
        return Prediction.missing(f"no law: none is written for {quantity}")
    metric = metrics()["information"]
    if why := metric.missing(spec, quantity):
        return Prediction.missing(why)
    return simulated.of_layer(spec, run, quantity, tuple(q for q in QUANTITIES if not metric.missing(spec, q)))


def of_arrays(source: Any, quantity: Quantity, work: Any) -> Prediction:
    if quantity == GATE_MARGIN:
        return Prediction.missing("no law: scores are in a router's own units, and those of an untrained one are not known")
    indices, labels = source.indices[0].cpu().numpy(), source.token_labels[label_of(quantity)][0]
    documents = None if source.labels.documents is None else np.unique(source.labels.documents, return_inverse=True)[1].reshape(-1)
    if len(indices) == 1:
        return Prediction.missing("there is one token")
    if documents is not None and not documents.any():
        return Prediction.missing("all tokens are of one document")
    count = draws_of_size(indices.size * labels.shape[1], 0, LEAST_DRAWS, MOST_DRAWS)

    orders = (reordered(len(indices), documents, number) for number in range(count))
    values = np.array([of_routing(quantity, indices, labels[order]) for order in orders])
    sd = float(values.std(ddof=1))
    mean = float(values.mean())
    if math.isnan(mean):
        return Prediction.missing("on other tokens these labels have no such value")
    # What round-off moves, and labels on other tokens do not.
    if not sd > 1e-12:
        return Prediction.missing("labels on other tokens change nothing here")
    units = len(indices) if documents is None else int(documents.max()) + 1
    skew = float(((values - mean) ** 3).mean()) / sd**3 if units >= FEWEST_UNITS else None
    whose = "each its own document" if documents is None else "by whole documents"
    hypotheses = (TOKENS if documents is None else DOCUMENTS, f"{count} orders")
    supposes = f"labels on other tokens, {whose},"
    spread = sd * math.sqrt(1 + 1 / count)
    if quantity == SATURATION and documents is None:
        mean = float(null_saturation(*(part.tolist() for part in chance_of_saturation(indices, labels))))
        return Prediction(mean, spread, "exact", "simulated", SATURATION_ID, hypotheses, skew=skew, supposes=supposes, draws=values)
    return Prediction(mean, spread, "simulated", "simulated", "other labels", hypotheses, skew=skew, supposes=supposes, draws=values)


def reordered(tokens: int, documents: Int[np.ndarray, " n"] | None, number: int) -> Int[np.ndarray, " n"]:
    """The token whose labels each token gets in one draw of many: any other, or that of the same place in another document, counted over
    again where that is shorter. documents: from 0."""
    generator = stream(0, "permutation", trial=number, block=3)
    if documents is None:
        return generator.permutation(tokens)
    by_document = np.argsort(documents, kind="stable")
    lengths = np.bincount(documents)
    starts = np.cumsum(lengths) - lengths
    place = np.empty(tokens, np.int64)
    place[by_document] = np.arange(tokens) - np.repeat(starts, lengths)
    other = generator.permutation(len(lengths))[documents]
    return by_document[starts[other] + place % lengths[other]]

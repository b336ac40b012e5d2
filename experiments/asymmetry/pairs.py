"""Every similarity of each pair of experts of a layer, and what it costs to put one in the place of the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap import Weights
from simgap.metrics import cka
from simgap.metrics.ablation import replaced
from simgap.metrics.similarity import matched
from simgap.metrics.subspace import RANK
from simgap.moe import Layer
from simgap.overlaps import gram
from simgap.overlaps.jacobians import inner_products, slopes
from simgap.overlaps.subspaces import Rows, distances, principal_angles
from simgap.seeding import stream

# Tokens on which Jacobians and Gram matrices of tokens are compared.
JACOBIANS, GRAMS = 64, 512
LIKENESS, OF_PAIR = "replaceable", "replaceable, of the pair"


@dataclass(frozen=True)
class Related:
    """Changes the routed experts of a layer so that pairs differ: expert e takes the share c_e of its weights' variance from the last one,
    c_e from 0 to `most`, so that two of them correlate by sqrt(c_e c_e'). reordered: each then has its hidden units in an order of its own,
    which changes nothing that it computes. apart: the shares of W_down are the same in another order, so that two experts that read alike
    write more or less alike."""

    most: float = 0.9
    reordered: bool = False
    apart: bool = False

    def __call__(self, weights: Weights) -> Weights:
        count, units = weights.up.shape[1:3]
        shares = torch.linspace(0, self.most, count - 1).to(weights.up)
        orders = [[torch.from_numpy(stream(0, "permutation", t, e, 4).permutation(units)) for e in range(count)] for t in weights.trials]

        others = shares[torch.from_numpy(stream(0, "permutation", block=5).permutation(count - 1))] if self.apart else shares

        def changed(matrix: Float[Tensor, "s E f d"], of: Float[Tensor, " e"]) -> Float[Tensor, "s E f d"]:
            share, new = of[:, None, None], matrix.clone()
            new[:, :-1] = share.sqrt() * matrix[:, -1:] + (1 - share).sqrt() * matrix[:, :-1]
            if not self.reordered:
                return new
            return torch.stack([torch.stack([new[t, e, order] for e, order in enumerate(own)]) for t, own in enumerate(orders)])

        gate = None if weights.gate is None else changed(weights.gate, shares)
        return replace(weights, up=changed(weights.up, shares), gate=gate, down=changed(weights.down.mT, others).mT)


def of_pairs(layer: Layer) -> dict[str, Float[np.ndarray, " P"]]:
    """By name, each similarity of every pair of the experts of one trial, and LIKENESS, what they are to predict: less the relative error
    of the output where one stands in for the other (metric `ablation`), the mean of both ways. OF_PAIR: the same less a part of each
    expert's own, by least squares, since one with large gates is dear to replace by any. NaN for a pair that has none."""
    experts, (block,) = range(layer.spec.n_experts), layer.blocks(("output",), every=True, tokens=layer.tokens)
    if block.every is None or layer.router is None:
        raise ValueError("layer: expected every expert on every token, and a router with rows")
    outputs, indices, gates = block.rows["output"][0][block.every[0]].double(), block.indices[0], block.gates[0]
    units = [torch.cat([matrix.double() for matrix in layer.weights.units(0, e)], 1) for e in experts]
    active = torch.stack([(indices == e).any(1) for e in experts], 1)
    direction = outputs / torch.linalg.vector_norm(outputs, dim=-1, keepdim=True)
    cosines, both = direction @ direction.mT, (active[:, :, None] & active[:, None, :]).double()
    errors = replaced(outputs, gates, indices)
    grams = [cka.centred(outputs[:GRAMS, e].numpy()) for e in experts]
    tables = {
        "weights, flattened": _cosines([unit.flatten() for unit in units]),
        "weights, mean unit": _cosines([unit.mean(0) for unit in units]),
        "weights, units matched": _table(experts, lambda i, j: matched(units[i], units[j])),
        "W_up, squared (MSO)": _cosines([layer.weights.units(0, e)[0].double().flatten() for e in experts]) ** 2,
        "router rows": _cosines(list(layer.router[0].double())),
        "mean outputs": _cosines([outputs[active[:, e], e].mean(0) for e in experts]),
        "outputs, squared (MSO)": ((cosines**2 * both).sum(0) / both.sum(0)).numpy(),
        "outputs": cosines.mean(0).numpy(),
        "CKA of outputs": _table(experts, lambda i, j: cka.alignment(grams[i], grams[j])[1]),
        "output subspaces": _subspaces(outputs, layer),
        "Jacobians": _jacobians(layer),
        LIKENESS: -(errors + errors.T) / 2,
    }
    at = np.triu_indices(len(experts), 1)
    found = {name: np.asarray(table)[at] for name, table in tables.items()}
    return found | {OF_PAIR: beyond_experts(found[LIKENESS], len(experts))}


def beyond_experts(values: Float[np.ndarray, " P"], experts: int) -> Float[np.ndarray, " P"]:
    """What is left of values of pairs, a_i + a_j fitted to those that are there."""
    i, j = np.triu_indices(experts, 1)
    own, there = np.eye(experts)[i] + np.eye(experts)[j], ~np.isnan(values)
    left: Float[np.ndarray, " P"] = values - own @ np.linalg.lstsq(own[there], values[there], rcond=None)[0]
    return left


def _table(experts: range, of_pair: Callable[[int, int], float]) -> Float[np.ndarray, "E E"]:
    """Of each pair, above the diagonal."""
    return np.array([[of_pair(i, j) if i < j else np.nan for j in experts] for i in experts])


def _cosines(rows: Sequence[Float[Tensor, " N"]]) -> Float[np.ndarray, "E E"]:
    products = gram(torch.stack(list(rows))[None])[0].numpy()
    size = np.sqrt(products.diagonal())
    cosines: Float[np.ndarray, "E E"] = products / (size[:, None] * size)
    return cosines


def _subspaces(outputs: Float[Tensor, "n E d"], layer: Layer) -> Float[np.ndarray, "E E"]:
    """Mean cos^2 of the angles between the leading components of experts' own outputs, weighted by their gates (metric `subspace`)."""
    bases = []
    for e in range(outputs.shape[1]):
        token, slot = (layer.indices[0] == e).nonzero(as_tuple=True)
        rows = Rows(outputs.shape[2])
        rows.add(outputs[token, e], layer.gates[0, token, slot])
        components = rows.components()
        bases.append(None if components is None or len(components.values) < RANK else components.vectors[:, :RANK])

    def of_pair(i: int, j: int) -> float:
        one, other = bases[i], bases[j]
        return np.nan if one is None or other is None else distances(principal_angles(one, other))["overlap"]

    return _table(range(len(bases)), of_pair)


def _jacobians(layer: Layer) -> Float[np.ndarray, "E E"]:
    """Mean cosine over the first tokens (metric `jacobian`)."""
    experts = [layer.experts(0, e) for e in range(layer.spec.n_experts)]
    at = [slopes(expert, layer.x[0, :JACOBIANS]) for expert in experts]
    size = [inner_products(expert, expert, own, own).sqrt() for expert, own in zip(experts, at, strict=True)]

    def of_pair(i: int, j: int) -> float:
        return float((inner_products(experts[i], experts[j], at[i], at[j]) / (size[i] * size[j])).mean())

    return _table(range(len(experts)), of_pair)

"""How alike are experts, as practitioners compute it? Cosines, signed, of what stands for an expert; they do not agree with each other.

expert_cos, mean over pairs of experts, in [-1, 1]: "flattened", all weights of one beside all of the other, entry by entry; blind to the
order of hidden units. "neuron_averaged", the mean hidden unit: its rows of W_up (and W_gate) and its column of W_down, one after the other.
"neuron_matched", the mean cosine of units that are paired to make it largest, up to 1,024 units of one expert against all of the other:
with a sample of both sides the partners are lost. "mean_output", the mean outputs over each expert's own tokens. "router_rows".

router_share: |V'r|^2 / |r|^2 of an expert's router row in the span of its 8 leading right singular vectors of W_up (of W_gate where gated),
mean over experts. saliency_reliability: correlation over experts of a saliency on one half of the tokens with that on the other: "reap",
the mean of gate times size of the output (arXiv 2510.13999), "ean", the sum of sizes. Below it, a ranking of experts is noise.
"""

import functools
import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.metrics.cka import lowest, order
from simgap.quantities import ROUTED, Quantity
from simgap.sources import Block, Needs, Source, Work
from simgap.specs import LayerSpec
from simgap.sums import Values

ORDER, DEFAULT, SIDES, RANGE = 8, False, (ROUTED,), (-1.0, 1.0)
OF_WEIGHTS, COS = ("flattened", "neuron_averaged", "neuron_matched"), "expert_cos"
MEAN_OUTPUT, ROUTER_ROWS, ROUTER_SHARE = Quantity(COS, "mean_output"), Quantity(COS, "router_rows"), Quantity("router_share")
RELIABILITIES = tuple(Quantity("saliency_reliability", name) for name in ("reap", "ean"))
QUANTITIES = (*(Quantity(COS, name) for name in OF_WEIGHTS), MEAN_OUTPUT, ROUTER_ROWS, ROUTER_SHARE, *RELIABILITIES)
# Units of one expert that are matched with all of the other; right singular vectors that a router row is held against.
MATCHED, RANK = 1024, 8


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    if quantity in (ROUTER_ROWS, ROUTER_SHARE) and spec.router.kind in ("uniform", "hash"):
        return f"router = {spec.router.kind}: it has no rows"
    if quantity == ROUTER_SHARE and min(spec.d_ff, spec.d_model - 1) < RANK:
        return f"router_share: of d_ff of at least {RANK} and d_model beyond it"
    if quantity in RELIABILITIES and spec.n_experts < 4:
        return "a correlation over experts: of at least 4"
    return ""


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    outputs = MEAN_OUTPUT in asked or any(quantity in RELIABILITIES for quantity in asked)
    weights = ROUTER_SHARE in asked or any(quantity.reading in OF_WEIGHTS for quantity in asked)
    unit = (3 if spec.gated else 2) * spec.d_model
    matched = min(MATCHED, spec.d_ff) * spec.d_ff if Quantity(COS, "neuron_matched") in asked else 0
    means = spec.n_experts * (spec.d_model * outputs + unit * weights)
    return Needs(
        ("output",) if outputs else (),
        routing=outputs,
        weights=weights,
        router=ROUTER_ROWS in asked or ROUTER_SHARE in asked,
        bytes=8 * (means + 3 * matched + 2 * spec.d_ff * unit * weights),
    )


@dataclass(frozen=True)
class State:
    """sums: of each trial's outputs by expert; sizes: by trial, half of the tokens and expert, the sums of gate times size, of sizes, and
    how many."""

    source: Source
    asked: tuple[Quantity, ...]
    work: Work
    sums: list[Any] = field(default_factory=list)
    sizes: list[Float[np.ndarray, "2 E 3"]] = field(default_factory=list)

    def add(self, block: Block) -> None:
        import torch

        from simgap.overlaps import add_sums

        experts, rows = self.source.spec.n_experts, block.rows["output"]
        half = order(block.first + np.arange(block.indices.shape[1])) >> 16 & 1
        for t in range(len(self.source.trials)):
            if len(self.sums) <= t:
                self.sums.append(torch.zeros(experts, rows.shape[-1], dtype=torch.float64, device=rows.device))
                self.sizes.append(np.zeros((2, experts, 3)))
            token, slot = (block.indices[t] >= 0).nonzero(as_tuple=True)
            owner, outputs = block.indices[t, token, slot], rows[t][block.index[t, token, slot]]
            if MEAN_OUTPUT in self.asked:
                add_sums(outputs, owner, self.sums[t])
            size = torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float64).cpu().numpy()
            each = np.stack([size * block.gates[t, token, slot].double().cpu().numpy(), size, np.ones(len(size))], 1)
            np.add.at(self.sizes[t], (half[token.cpu().numpy()], owner.cpu().numpy()), each)

    def finish(self) -> dict[Quantity, Values]:
        values = {quantity: Values.empty(len(self.source.trials)) for quantity in self.asked}
        for t in range(len(self.source.trials)):
            for quantity in self.asked:
                values[quantity].put(t, self._of(quantity, t), ("an expert without tokens or direction",))
        return values

    def _of(self, quantity: Quantity, t: int) -> Float[np.ndarray, " m"]:
        """A value to each pair, or expert, or one; NaN where there is none."""
        import torch

        from simgap.overlaps import cos_of_gram

        if quantity.reading == "neuron_matched":
            pairs = list(combinations(range(self.source.spec.n_experts), 2))
            return np.array(list(self.work.task_map(lambda pair: matched(*(self._units(t, e) for e in pair)), pairs)))
        if quantity.reading == "flattened":
            return cos_of_gram(self._products(t))
        if quantity.reading == "neuron_averaged":
            return _cosines(torch.stack([self._units(t, e).mean(0) for e in range(self.source.spec.n_experts)]))
        if quantity == MEAN_OUTPUT:
            return _cosines(self.sums[t])
        if quantity == ROUTER_ROWS:
            return _cosines(_rows(self.source)[t])
        if quantity == ROUTER_SHARE:
            rows = _rows(self.source)[t]
            return np.array(list(self.work.task_map(lambda e: share(rows[e], self._inner(t, e)), range(len(rows)))))
        return np.array([reliability(self.sizes[t], quantity.reading)])

    def _units(self, t: int, e: int) -> Any:
        """Everything of each hidden unit in one row, in float64."""
        import torch

        return torch.cat([matrix.double() for matrix in self.source.weights.units(t, e)], 1)

    def _inner(self, t: int, e: int) -> Any:
        """What the activation reads: W_gate where there is one."""
        units = dict(zip(self.source.weights.roles, self.source.weights.units(t, e), strict=True))
        return units["gate"] if "gate" in units else units["up"]

    def _products(self, t: int) -> Float[np.ndarray, "E E"]:
        """Inner products of all weights of each two experts."""
        import torch

        from simgap.overlaps import gram

        units = [self.source.weights.units(t, e) for e in range(self.source.spec.n_experts)]
        by_role = (gram(torch.stack([each.reshape(-1) for each in role])[None], self.work.task_map)[0] for role in zip(*units, strict=True))
        products: Float[np.ndarray, "E E"] = functools.reduce(torch.add, by_role).cpu().numpy()
        return products


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    return State(source, asked, work)


def matched(one: Float[Any, "f m"], other: Float[Any, "g m"]) -> float:
    """Mean cosine of the units of two experts that are paired to make it largest: of one expert at most MATCHED, those whose numbers have
    the lowest hashes, each with another of all units of the other. NaN where no unit has a direction."""
    import torch
    from scipy.optimize import linear_sum_assignment

    from simgap.batch_invariant import matmul

    some = lowest(len(one), MATCHED)
    sizes = [torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in (one[some], other)]
    if not all(bool((size > 0).any()) for size in sizes):
        return math.nan
    units = [rows / size.clamp(min=torch.finfo(torch.float64).tiny) for rows, size in zip((one[some], other), sizes, strict=True)]
    cosines = matmul(units[0][None], units[1].mT[None])[0].cpu().numpy()
    return float(cosines[linear_sum_assignment(cosines, maximize=True)].mean())


def share(row: Float[Any, " d"], matrix: Float[Any, "f d"], rank: int = RANK) -> float:
    """|V'r|^2 / |r|^2, V the leading right singular vectors of the matrix: Beta(rank/2, (d - rank)/2) of an isotropic row. NaN where either
    is 0."""
    import torch

    wide = matrix.double()
    _, values, vectors = torch.linalg.svd(wide, full_matrices=False) if len(wide) < wide.shape[1] else _by_gram(wide)
    size = float(row.double().square().sum())
    if not size > 0 or not float(values[0]) > 0:
        return math.nan
    return float((vectors[:rank] @ row.double()).square().sum()) / size


def _by_gram(matrix: Float[Any, "f d"]) -> tuple[None, Any, Any]:
    """Singular values and right vectors of a tall matrix."""
    import torch

    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    return None, values.flip(0).clamp(min=0).sqrt(), vectors.flip(1).mT


def reliability(sizes: Float[np.ndarray, "2 E 3"], name: str) -> float:
    """Correlation over experts of the saliency in one half of the tokens and in the other; NaN below 4 experts with tokens in both."""
    with np.errstate(invalid="ignore", divide="ignore"):
        saliency = sizes[..., 0] / sizes[..., 2] if name == "reap" else sizes[..., 1]
    one, other = saliency[:, (sizes[..., 2] > 0).all(0)]
    if len(one) < 4 or not np.ptp(one) or not np.ptp(other):
        return math.nan
    # Squares of any saliencies stay within float64.
    one, other = ((each - each.mean()) / np.ptp(each) for each in (one, other))
    return float((one * other).sum() / math.sqrt(float((one**2).sum()) * float((other**2).sum())))


def _rows(source: Source) -> Float[Any, "s E d"]:
    if source.router is None:
        raise ValueError("router: this source has no rows of one")
    return source.router


def _cosines(vectors: Float[Any, "E d"]) -> Float[np.ndarray, " P"]:
    """Of every pair."""
    from simgap.overlaps import cos_of_gram, gram

    return cos_of_gram(gram(vectors[None])[0].cpu().numpy())

"""Do two experts change a token's output alike? Overlap of their Jacobians J_e(x) = dE_e(x)/dx, the gate not differentiated.

jacobian_cos: <J_i, J_j> / (|J_i| |J_j|), Frobenius, in [-1, 1]; jacobian_mso: its square. Reading "token": two experts that the router gave
a token, at that token; "all": every pair at every token; "mean": of the means of gate times Jacobian over an expert's own tokens (two
readings of arXiv 2605.16349, which names neither). No Jacobian is formed where a matrix to a pair of experts costs less. A pair one of
whose Jacobians is 0, as of a dead ReLU expert, has none.

jacobian_spectrum: of the singular values s_1 >= s_2 >= ... of an expert's mean Jacobian, a mean over experts: leading (s_1), stable_rank
(sum s^2 / s_1^2), effective_rank (exp of the entropy of s^2 / sum s^2), decay (s_10 / s_1, or of the last where there are fewer).

At most 8,192 tokens of a trial, those whose numbers have the lowest hashes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from simgap.metrics.cka import lowest
from simgap.metrics.routing import tokens_shared
from simgap.quantities import ROUTED, Quantity
from simgap.sources import Block, ExpertMaps, Needs, Source, Work
from simgap.specs import LayerSpec
from simgap.sums import Values

ORDER, DEFAULT, SIDES, RANGE = 6, False, (ROUTED,), (-float(1 << 40), float(1 << 40))
READ, SPECTRUM = ("token", "all", "mean"), ("leading", "stable_rank", "effective_rank", "decay")
QUANTITIES = (
    *(Quantity(kind, reading) for kind in ("jacobian_cos", "jacobian_mso") for reading in READ),
    *(Quantity("jacobian_spectrum", name) for name in SPECTRUM),
)
MOST_TOKENS = 8192
# Numbers in the slopes of all experts that are held together, and in Jacobians of a few tokens.
SLOPES, JACOBIANS = 1 << 27, 1 << 25
# Singular values that "decay" reaches to; d_model from which they alone are computed, not all.
TENTH, LARGE = 10, 1024


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    if quantity.reading == "effective_rank" and spec.d_model > LARGE:
        return f"an effective rank takes all singular values: of d_model at most {LARGE}"
    return ""


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    d, f, matrices = spec.d_model, spec.d_ff, 2 if spec.gated else 1
    readings = {quantity.reading for quantity in asked}
    tokens = MOST_TOKENS * (d + 2 * spec.n_experts)
    slopes = (
        min(SLOPES, MOST_TOKENS * (spec.n_experts if "all" in readings else spec.top_k) * matrices * f)
        if readings & {"token", "all"}
        else 0
    )
    # One pair: its two experts, and rows of its matrix; and an expert's mean with what adds up to it.
    pair = 2 * (matrices + 1) * f * d + 2 * min(f, 2048) * f + f * d
    means = spec.n_experts * d * d if "mean" in readings else 0
    return Needs(routing=True, inputs=True, experts=True, bytes=4 * (tokens + slopes + pair + means) + 4 * JACOBIANS)


@dataclass(frozen=True)
class State:
    """tokens: the numbers of those that are looked at, ascending. kept: their x, experts and gates, in pieces."""

    source: Source
    asked: tuple[Quantity, ...]
    work: Work
    tokens: Int[np.ndarray, " m"]
    kept: list[tuple[Any, Any, Any]] = field(default_factory=list)

    def add(self, block: Block) -> None:
        own = self.tokens[(self.tokens >= block.first) & (self.tokens < block.first + block.indices.shape[1])] - block.first
        if len(own):
            self.kept.append(tuple(part[:, own] for part in (block.x, block.indices, block.gates)))

    def finish(self) -> dict[Quantity, Values]:
        import torch

        values = {quantity: Values.empty(len(self.source.trials)) for quantity in self.asked}
        readings = {quantity.reading for quantity in self.asked}
        x, indices, gates = (torch.cat(parts, 1) for parts in zip(*self.kept, strict=True))
        self.kept.clear()
        for t in range(len(self.source.trials)):
            trial = _Trial(self.source, t, self.work, x[t], indices[t].cpu().numpy(), gates[t])
            for reading in READ:
                if reading in readings:
                    cos = trial.cosines_of_means() if reading == "mean" else trial.cosines(reading == "all")
                    for kind, power in (("jacobian_cos", 1), ("jacobian_mso", 2)):
                        if (quantity := Quantity(kind, reading)) in values:
                            values[quantity].put(t, cos**power, ("a Jacobian of a pair is 0",))
            if readings & set(SPECTRUM):
                spectra = trial.spectra()
                for at, name in enumerate(SPECTRUM):
                    if (quantity := Quantity("jacobian_spectrum", name)) in values:
                        values[quantity].put(t, spectra[:, at], ("an expert without tokens or slope",))
        return values


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    return State(source, asked, work, lowest(source.tokens, MOST_TOKENS))


@dataclass(frozen=True)
class _Trial:
    source: Source
    t: int
    work: Work
    x: Float[Any, "m d"]
    indices: Int[np.ndarray, "m k"]
    gates: Float[Any, "m k"]

    def expert(self, e: int) -> ExpertMaps:
        experts: Callable[[int, int], ExpertMaps] | None = self.source.experts
        if experts is None:
            raise ValueError("experts: this source has vectors and no functions")
        return experts(self.t, e)

    def cosines(self, every: bool) -> Float[np.ndarray, " _"]:
        """Of all pairs of experts on a token: of those that it is routed to, or of `every` one; NaN where a Jacobian is 0."""
        from simgap.overlaps.jacobians import cheapest

        spec, (m, k) = self.source.spec, self.indices.shape
        active = np.full(m, spec.n_experts) if every else (self.indices >= 0).sum(1)
        meetings, rows = int((active * (active - 1) // 2).sum()), int(active.sum())
        matrices, at_once = 2 if spec.gated else 1, spec.n_experts if every else k
        taken = [np.arange(m) if every else np.flatnonzero((self.indices == e).any(1)) for e in range(spec.n_experts)]
        shared = 1 if every else tokens_shared(self.indices[None], spec.n_experts)[0]
        met = int(np.count_nonzero(np.triu(np.broadcast_to(shared, (spec.n_experts, spec.n_experts)), 1)))
        form = cheapest(met, spec.n_experts, meetings, rows, spec.d_ff, spec.d_model, matrices)
        most = (
            SLOPES // (at_once * matrices * spec.d_ff)
            if form == "pairs"
            else JACOBIANS // (max(2, at_once) * spec.d_model * max(spec.d_model, spec.d_ff))
        )
        parts: list[Float[np.ndarray, " _"]] = []
        for first in range(0, m, max(1, most)):
            here = [own[(own >= first) & (own < first + max(1, most))] for own in taken]
            parts.extend(self._by_pairs(here) if form == "pairs" else self._by_tokens(here))
        return np.concatenate(parts) if parts else np.empty(0)

    def _by_pairs(self, taken: list[Int[np.ndarray, " _"]]) -> Iterator[Float[np.ndarray, " _"]]:
        """A matrix to each pair of experts that meet on these tokens."""
        from simgap.overlaps.jacobians import inner_products, slopes

        def looked_at(e: int) -> tuple[Any, Any]:
            at = slopes(self.expert(e), self.x[taken[e]])
            return at, inner_products(self.expert(e), self.expert(e), at, at).sqrt()

        looked = dict(zip(some := [e for e, own in enumerate(taken) if len(own)], self.work.task_map(looked_at, some), strict=True))

        def of_pair(pair: tuple[int, int]) -> Float[np.ndarray, " _"]:
            i, j = pair
            _, at_i, at_j = np.intersect1d(taken[i], taken[j], assume_unique=True, return_indices=True)
            if not len(at_i):
                return np.empty(0)
            (slopes_i, size_i), (slopes_j, size_j) = looked[i], looked[j]
            at = (own if len(shared) == len(own.scale) else own.of(shared) for own, shared in ((slopes_i, at_i), (slopes_j, at_j)))
            value = inner_products(self.expert(i), self.expert(j), *at)
            return _cosines(value, size_i[at_i] * size_j[at_j])

        yield from self.work.task_map(of_pair, list(combinations(some, 2)))

    def _by_tokens(self, taken: list[Int[np.ndarray, " _"]]) -> Iterator[Float[np.ndarray, " _"]]:
        """The Jacobians of these few tokens."""
        import torch

        from simgap.overlaps.jacobians import jacobians, slopes

        some = [e for e, own in enumerate(taken) if len(own)]
        of = {e: jacobians(self.expert(e), slopes(self.expert(e), self.x[taken[e]])).flatten(1) for e in some}
        size = {e: torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64) for e, rows in of.items()}
        for i, j in combinations(some, 2):
            _, at_i, at_j = np.intersect1d(taken[i], taken[j], assume_unique=True, return_indices=True)
            if len(at_i):
                value = (of[i][at_i] * of[j][at_j]).sum(-1, dtype=torch.float64)
                yield _cosines(value, size[i][at_i] * size[j][at_j])

    def mean_part(self, e: int) -> tuple[ExpertMaps, Any] | None:
        """An expert, and the matrix A of which B' A is its mean Jacobian, up to the sum of its gates; None where no token reaches it
        with a gate above 0."""
        from simgap.overlaps.jacobians import mean_parts, slopes

        expert, (at, slot) = self.expert(e), np.nonzero(self.indices == e)
        gates = self.gates[at, slot].sum()
        if not gates > 0:
            return None
        most = max(1, SLOPES // (4 * len(expert.outer)))
        pieces = [(at[first : first + most], slot[first : first + most]) for first in range(0, len(at), most)]
        parts = (mean_parts(expert, slopes(expert, self.x[rows]), self.gates[rows, slots]) for rows, slots in pieces)
        total = next(parts)
        for part in parts:
            total += part
        return expert, total / gates

    def cosines_of_means(self) -> Float[np.ndarray, " _"]:
        """Of every pair of experts; NaN where one has no token or no slope."""
        import torch

        from simgap.batch_invariant import matmul
        from simgap.overlaps import cos_of_gram, gram

        def mean(e: int) -> Any:
            part = self.mean_part(e)
            return self.x.new_zeros(self.x.shape[1] ** 2) if part is None else matmul(part[0].outer.mT[None], part[1][None]).flatten()

        products = gram(torch.stack(list(self.work.task_map(mean, range(self.source.spec.n_experts))))[None], self.work.task_map)[0]
        return cos_of_gram(products.cpu().numpy())

    def spectra(self) -> Float[np.ndarray, "E 4"]:
        """leading, stable_rank, effective_rank and decay of each expert's mean Jacobian; NaN where there is none."""
        from simgap.overlaps.jacobians import singular_values

        def of_expert(e: int) -> list[float]:
            part = self.mean_part(e)
            values, square = (np.zeros(1), 0.0) if part is None else singular_values(part[0].outer, part[1], TENTH, LARGE)
            if not values[0] > 0:
                return [math.nan] * len(SPECTRUM)
            share = values**2 / square
            entropy = -float((share * np.log(np.where(share > 0, share, 1.0))).sum())
            whole = len(values) == self.source.spec.d_model
            return [
                values[0],
                square / values[0] ** 2,
                math.exp(entropy) if whole else math.nan,
                values[min(TENTH, len(values)) - 1] / values[0],
            ]

        return np.array(list(self.work.task_map(of_expert, range(self.source.spec.n_experts))))


def _cosines(products: Any, sizes: Any) -> Float[np.ndarray, " m"]:
    """NaN where a size is 0."""
    value, size = products.cpu().numpy(), sizes.cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, np.clip(value / size, -1.0, 1.0), np.nan)

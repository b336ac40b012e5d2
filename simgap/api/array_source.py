"""A user's own arrays as a Source: what the experts gave on the tokens that reached them, and what their matrices are."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.api.array_tokens import NOTHING, Tokens
from simgap.moe.experts import activation_function
from simgap.nulls.other_token import NO_LABELS, Labels
from simgap.overlaps import units_first
from simgap.overlaps.memory import flattened
from simgap.seeding import derived, stream
from simgap.sources import Block, ExpertMaps, counts
from simgap.specs import LayerSpec
from simgap.threads import Map


@dataclass(frozen=True)
class ArrayWeights:
    """whole: of each role, every expert's: "up" and "gate" (E, d_ff, d_model), "down" (E, d_model, d_ff)."""

    whole: dict[str, Float[Tensor, "E _ _"]]
    trials: tuple[int, ...] = (0,)
    hidden_blocks: int = 1

    @cached_property
    def matrices(self) -> dict[str, Float[Tensor, "E _"]]:
        """Of each role, every expert's flattened, all in one order."""
        return {role: flattened(matrix) for role, matrix in self.whole.items()}

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.whole)

    def by_unit(self, kind: str) -> list[Float[Tensor, "E f _"]]:
        """The matrix of a role, or all of them, a row to a hidden unit."""
        return [units_first(self.whole[role], 2 if role == "down" else 1) for role in (self.roles if kind == "all" else (kind,))]

    def units(self, t: int, e: int) -> list[Float[Tensor, "f d"]]:
        return [(self.whole[role][e].mT if role == "down" else self.whole[role][e]) for role in self.roles]

    def pieces(self, role: str, block: int, rows: range, columns: range) -> tuple[Iterator[Float[Tensor, "1 E m"]], range, range]:
        flat = self.matrices[role][None]
        if rows == columns:
            return iter([flat[:, rows.start : rows.stop]]), range(len(rows)), range(len(rows))
        experts = torch.tensor([*rows, *columns], device=flat.device)
        return iter([flat[:, experts]]), range(len(rows)), range(len(rows), len(experts))


@dataclass(frozen=True)
class ArraySource:
    """One trial. vectors (n, k, width) at a site, or None; indices (1, n, k), whose each is, -1 for none: such a vector is never read.

    spec: the sizes of the layer, and nothing else of it that is true. one_signed: why signs say nothing of these vectors, if they are
    rectified.
    """

    spec: LayerSpec
    indices: Int[Tensor, "1 n k"]
    site: str = ""
    vectors: Float[Tensor, "n k width"] | None = None
    weights: ArrayWeights = field(default_factory=lambda: ArrayWeights({}))
    one_signed: str = ""
    labels: Labels = NO_LABELS
    trials: tuple[int, ...] = (0,)
    given: Tokens = NOTHING
    token_labels: dict[str, Int[np.ndarray, "1 n _"]] = field(default_factory=dict)
    # Outputs are given, or there are none.
    output_of_means: None = None

    @property
    def router(self) -> Float[Tensor, "1 E d"] | None:
        return None if self.given.router is None else self.given.router[None]

    @property
    def experts(self) -> Callable[[int, int], ExpertMaps] | None:
        """Of experts without a norm, of which the activation and the tokens are known, in the dtype of the tokens."""
        known = self.given.activation and self.given.x is not None and {"up", "down"} <= set(self.weights.roles)
        return self._expert if known else None

    def _expert(self, t: int, e: int) -> ExpertMaps:
        units = dict(zip(self.weights.roles, (matrix.to(self.given.x) for matrix in self.weights.units(t, e)), strict=True))
        inner = (units["gate"], units["up"]) if "gate" in units else (units["up"],)
        return ExpertMaps(inner, units["down"], activation_function(self.given.activation))

    @property
    def tokens(self) -> int:
        return self.indices.shape[1]

    @cached_property
    def taken(self) -> Int[np.ndarray, "1 E"]:
        return counts(self.indices, self.spec.n_experts)

    def blocks(self, sites: Collection[str], every: bool, task_map: Map, tokens: int) -> Iterator[Block]:
        for first in range(0, self.tokens, tokens):
            part = self.indices[:, first : first + tokens]
            _, n, k = part.shape
            given = self.given.of(slice(first, first + tokens))
            x = torch.empty(1, n, 0) if given.x is None else given.x[None]
            # All weigh alike where nothing says how much.
            gates = (part >= 0).to(torch.float32) if given.gates is None else given.gates[None]
            index = torch.arange(n * k, device=part.device).view(1, n, k).masked_fill(part < 0, -1)
            rows = {}
            if self.vectors is not None:
                rows[self.site] = _plain(self.vectors[first : first + tokens]).reshape(1, n * k, -1)
            scores = None if given.scores is None else given.scores[None]
            yield Block(first, x, part, gates, rows, part.reshape(1, n * k), index, None, scores)

    @cached_property
    def content(self) -> int:
        """A seed that belongs to the vectors: to which of their entries are larger than the one before, which no padding, layout, format or
        common factor changes. 0 without vectors."""
        if self.vectors is None:
            return 0
        held = self.vectors[self.indices[0].to(self.vectors.device) >= 0].flatten()
        rises = np.packbits((held[1:] > held[:-1]).cpu().numpy())
        return derived(0, f"vectors {hashlib.blake2b(rises.tobytes()).hexdigest()}")

    def permuted(self, number: int) -> "ArraySource":
        """Each expert's vectors on other tokens of its own, in the order of one draw of many; other vectors are put in other orders."""
        if self.vectors is None:
            return self
        owner, rows = self.indices.reshape(-1).cpu().numpy(), self.vectors.reshape(-1, self.vectors.shape[-1])
        order, by_owner = np.arange(len(owner)), np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[by_owner], np.arange(self.spec.n_experts + 1))
        for expert in np.flatnonzero(np.diff(ends)).tolist():
            own = by_owner[ends[expert] : ends[expert + 1]]
            order[own] = stream(self.content, "permutation", trial=number, expert=expert).permutation(own)
        return replace(self, vectors=rows[torch.from_numpy(order).to(rows.device)].view_as(self.vectors))

    def regrouped(self, number: int) -> "ArraySource":
        """All vectors dealt to experts anew, as many to each as it has; other vectors are dealt in other orders."""
        if self.vectors is None:
            return self
        rows, kept = self.vectors.reshape(-1, self.vectors.shape[-1]), np.flatnonzero(self.indices.reshape(-1).cpu().numpy() >= 0)
        order = np.arange(len(rows))
        order[kept] = stream(self.content, "permutation", trial=number, block=2).permutation(kept)
        return replace(self, vectors=rows[torch.from_numpy(order).to(rows.device)].view_as(self.vectors))


def _plain(vectors: Float[Tensor, "n k width"]) -> Float[Tensor, "n k width"]:
    """As numpy can hold them."""
    return vectors if vectors.dtype in (torch.float32, torch.float64) else vectors.float()

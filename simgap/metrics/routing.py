"""What the router did: how evenly it uses the experts, which of them it uses together, and the tokens that go without.

load_entropy: H = -sum_e p_e log p_e in nats, 0 to log E, p_e an expert's share of all assignments. effective_experts: exp H, 1 to E.
max_violation: the largest load over the mean one, less 1, 0 to E - 1 (MaxVio). max_coactivation: the largest share, over ordered pairs of
experts, of one expert's tokens that also go to the other, 0 to 1; on average over partners it is (k - 1)/(E - 1) whatever the router does.
dropped_tokens: the share of tokens that no expert took, 0 to 1. A trial is one value; one without an assignment, or without two experts on
any token, has none.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from simgap.quantities import ROUTED, Quantity
from simgap.sources import Block, Needs, Source, Work, counts
from simgap.specs import LayerSpec
from simgap.sums import Values

# Of one value: no number of experts is larger.
ORDER, DEFAULT, SIDES, RANGE = 4, False, (ROUTED,), (0.0, float(1 << 32))
LOAD_ENTROPY, EFFECTIVE_EXPERTS, MAX_VIOLATION, MAX_COACTIVATION, DROPPED_TOKENS = QUANTITIES = tuple(
    Quantity("routing", name) for name in ("load_entropy", "effective_experts", "max_violation", "max_coactivation", "dropped_tokens")
)


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    return ""


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    # Loads are known without a look at the tokens.
    coactivation = MAX_COACTIVATION in asked
    return Needs(routing=coactivation, bytes=3 * 8 * spec.n_experts**2 if coactivation else 0)


@dataclass(frozen=True)
class State:
    """met: the tokens that two experts share, in each trial; None where nobody asks."""

    source: Source
    asked: tuple[Quantity, ...]
    met: Int[np.ndarray, "s E E"] | None

    def add(self, block: Block) -> None:
        if self.met is not None:
            np.add(self.met, tokens_shared(block.indices.cpu().numpy(), self.source.spec.n_experts), out=self.met)

    def finish(self) -> dict[Quantity, Values]:
        taken = self.source.taken
        values = dict(zip(QUANTITIES, load_statistics(taken), strict=False))
        if self.met is not None:
            values[MAX_COACTIVATION] = largest_coactivation(self.met, taken)
        values[DROPPED_TOKENS] = dropped_tokens(self.source.indices) / self.source.tokens
        return {quantity: Values.of(values[quantity]) for quantity in self.asked}


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    shape = (len(source.trials), source.spec.n_experts, source.spec.n_experts)
    return State(source, asked, np.zeros(shape, np.int64) if MAX_COACTIVATION in asked else None)


def load_statistics(taken: Int[np.ndarray, "s E"]) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Entropy of the loads in nats, effective experts, and MaxVio; NaN where nothing was assigned."""
    total = taken.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = taken / total
        entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
        return entropy, np.exp(entropy), share.max(1) * taken.shape[1] - 1


def tokens_shared(indices: Int[np.ndarray, "s n k"], n_experts: int) -> Int[np.ndarray, "s E E"]:
    """How many tokens two experts have in common; -1 stands for no expert, and an expert has none with itself."""
    s, _, k = indices.shape
    met = np.zeros((s, n_experts * n_experts), np.int64)
    for i, j in ((i, j) for i in range(k) for j in range(k) if i != j):
        both = (indices[..., i] >= 0) & (indices[..., j] >= 0)
        for t in range(s):
            pairs = indices[t, both[t], i] * n_experts + indices[t, both[t], j]
            met[t] += np.bincount(pairs, minlength=n_experts * n_experts)
    return met.reshape(s, n_experts, n_experts)


def largest_coactivation(met: Int[np.ndarray, "s E E"], taken: Int[np.ndarray, "s E"]) -> Float[np.ndarray, " s"]:
    """The largest share of an expert's tokens that another expert has too; NaN where no token has two experts."""
    shares = met / np.maximum(taken, 1)[:, :, None]
    return np.where(met.any((1, 2)), shares.max((1, 2)), np.nan)


def load(indices: Int[Any, "s n k"], n_experts: int) -> Float[np.ndarray, "s E"]:
    """Share of the token-expert assignments that each expert takes; 1 / n_experts when balanced. Each trial
    sums to 1, or to 0 where no expert takes any."""
    taken = counts(indices, n_experts)
    return taken / np.maximum(taken.sum(1, keepdims=True), 1)


def dropped_tokens(indices: Int[Any, "s n k"]) -> Int[np.ndarray, " s"]:
    """Tokens that no expert took."""
    return (indices.cpu().numpy() < 0).all(-1).sum(-1)

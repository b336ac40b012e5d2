"""What does a layer's output lose when an expert is taken away? The outcome that every similarity of experts should predict.

ablation_error: |y' - y|^2 / |y|^2 of a token's gated sum y = sum_k g_k E_k(x) over its routed experts, token by token, averaged over the
tokens that an expert takes; a value to an expert. ablation_error_all_tokens: over all tokens that have an output, on which an expert that
is not theirs costs nothing. Readings, of what becomes of the expert on each of its tokens:

"zeroed": its term is left out, and gates stay. "routed_around": its slot goes to the next best expert by the router's scores, and the
gates are those that the router gives this choice. "swapped": its term is that of the expert of the nearest load, drawn where several are,
at the same gate.

Of k orthogonal terms of one size zeroing one costs 1/k, of k that agree 1/k^2, of terms that cancel more than 1/k. A token whose y is 0
has no error. Shared experts and a residual stream are not in y.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from simgap.quantities import ROUTED, Quantity
from simgap.seeding import stream
from simgap.sources import TOKEN_BLOCK, Block, Needs, Source, Work
from simgap.specs import LayerSpec
from simgap.sums import Values

# An error has no largest value: y may be as small as it likes.
ORDER, DEFAULT, SIDES, RANGE = 9, False, (ROUTED,), (0.0, float(1 << 40))
ZEROED, AROUND, SWAPPED = READ = ("zeroed", "routed_around", "swapped")
OWN, ALL = "ablation_error", "ablation_error_all_tokens"
QUANTITIES = tuple(Quantity(of, reading) for of in (OWN, ALL) for reading in READ)


def missing(spec: LayerSpec, quantity: Quantity) -> str:
    if quantity.reading != AROUND:
        return ""
    if spec.router.kind in ("uniform", "hash"):
        return f"router = {spec.router.kind}: it has no scores, and no next best expert"
    if spec.router.kind == "expert_choice":
        return "router = expert_choice: experts choose tokens, and no slot is left that another could take"
    return "top_k = n_experts: no expert is left that could take a slot" if spec.top_k == spec.n_experts else ""


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    every = any(quantity.reading != ZEROED for quantity in asked)
    # Outputs and changes of a block of tokens in float64, and sums.
    around = any(quantity.reading == AROUND for quantity in asked)
    return Needs(("output",), every, routing=True, scores=around, bytes=8 * (4 * TOKEN_BLOCK * spec.d_model + 9 * spec.n_experts))


class Mixture(NamedTuple):
    """Tokens and what their experts gave: indices, gates (n, k), which experts, -1 for none, and their weights; index (n, k), the row of
    each among rows (R, d); every (n, E), the row of each expert; scores, logits (n, E) as of a Block."""

    indices: Int[Any, "n k"]
    gates: Float[Any, "n k"]
    rows: Float[Any, "R d"]
    index: Int[Any, "n k"]
    every: Int[Any, "n E"] | None = None
    scores: Float[Any, "n E"] | None = None
    logits: Float[Any, "n E"] | None = None

    def sizes(self) -> Float[Any, " n"]:
        """|y|^2 of each token."""
        terms = (self._term(self.gates[:, slot], self.index[:, slot]) for slot in range(self.indices.shape[1]))
        total = next(terms)
        for term in terms:
            total += term
        return _squares(total)

    def own(self, e: int) -> tuple[Int[Any, " m"], Int[Any, " m"]]:
        """The tokens that an expert takes, and its slot on each."""
        token, slot = (self.indices == e).nonzero(as_tuple=True)
        return token, slot

    def zeroed(self, e: int) -> Float[Any, " m"]:
        """|y' - y|^2 on each of its tokens."""
        token, slot = self.own(e)
        return _squares(self._term(self.gates[token, slot], self.index[token, slot]))

    def replaced(self, e: int, other: int) -> Float[Any, " m"]:
        """The same where another expert stands in for it."""
        token, slot = self.own(e)
        gates, row = self.gates[token, slot], self._every[token, other]
        return _squares(self._term(gates, row) - self._term(gates, self.index[token, slot]))

    def routed_around(self, e: int) -> Float[Any, " m"]:
        """The same where the next best expert takes its slot; NaN where the router has no scores."""
        import torch

        if self.scores is None or self.logits is None:
            raise ValueError("scores: this router has none")
        token, slot = self.own(e)
        experts, old = self.indices[token], self.gates[token]
        taken = torch.zeros_like(self.scores[token], dtype=torch.bool)
        # A slot without an expert marks this one, which is not free either.
        taken.scatter_(1, torch.where(experts < 0, e, experts), True)
        best = self.scores[token].masked_fill(taken, -math.inf).argmax(1)
        after = experts.scatter(1, slot[:, None], best[:, None])
        logits = self.logits[token].gather(1, after.clamp(min=0)).masked_fill(after < 0, -math.inf)
        new, change = torch.softmax(logits, 1), None
        for at in range(experts.shape[1]):
            row = self._every[token].gather(1, after[:, at : at + 1].clamp(min=0))[:, 0]
            moved = self._term(new[:, at], row) - self._term(old[:, at], self.index[token, at])
            change = moved if change is None else change + moved
        return _squares(change)

    @property
    def _every(self) -> Int[Any, "n E"]:
        if self.every is None:
            raise ValueError("every: expected every expert's output on every token")
        return self.every

    def _term(self, gates: Float[Any, " m"], row: Int[Any, " m"]) -> Float[Any, "m d"]:
        """Gate times vector, in float64; 0 for a slot without an expert, whatever the row holds that stands there."""
        return (self.rows[row.clamp(min=0)].double() * gates.double()[:, None]).masked_fill((row < 0)[:, None], 0.0)


def _squares(rows: Float[Any, "m d"]) -> Float[Any, " m"]:
    import torch

    return torch.linalg.vector_norm(rows, dim=-1).square()


@dataclass(frozen=True)
class State:
    """sums: by reading, trial and expert, of errors; counts (s, E): of tokens that have one; outputs (s,): tokens that have an output."""

    source: Source
    asked: tuple[Quantity, ...]
    work: Work
    others: list[list[int]]
    sums: dict[str, Float[np.ndarray, "s E"]]
    counts: Int[np.ndarray, "s E"]
    outputs: Int[np.ndarray, " s"]
    readings: tuple[str, ...] = field(default=READ)

    def add(self, block: Block) -> None:
        for t, trial in enumerate(self.source.trials):
            tables = (None if table is None else table[t] for table in (block.every, block.scores, block.logits))
            mixture = Mixture(
                block.indices[t], block.gates[t], block.rows["output"][t], block.index[t, :, : block.indices.shape[-1]], *tables
            )
            size = mixture.sizes()
            if not bool(size.isfinite().all()):
                raise ValueError(f"output vectors that are not finite: trial {trial}")
            self.outputs[t] += int((size > 0).sum())
            experts = range(self.source.spec.n_experts)
            of_expert = functools.partial(self._errors, mixture, size, t)
            for e, errors in zip(experts, self.work.task_map(of_expert, experts), strict=True):
                for reading, of_tokens in errors.items():
                    # Token after token, so that the sum does not depend on how tokens are cut into blocks.
                    self.sums[reading][t, e] = np.add.accumulate(np.concatenate([self.sums[reading][t, [e]], of_tokens]))[-1]
                self.counts[t, e] += len(of_tokens)

    def _errors(self, mixture: Mixture, size: Float[Any, " n"], t: int, e: int) -> dict[str, Float[np.ndarray, " m"]]:
        """By reading, of the tokens of an expert that have an output."""
        of = {
            ZEROED: mixture.zeroed,
            AROUND: mixture.routed_around,
            SWAPPED: lambda e: mixture.replaced(e, self.others[t][e]),
        }
        own = size[mixture.own(e)[0]]
        return {reading: (of[reading](e)[own > 0] / own[own > 0]).cpu().numpy() for reading in self.readings}

    def finish(self) -> dict[Quantity, Values]:
        values = {quantity: Values.empty(len(self.source.trials)) for quantity in self.asked}
        for quantity, of in values.items():
            for t in range(len(self.source.trials)):
                tokens = self.counts[t] if quantity.metric == OWN else np.full(self.counts.shape[1], self.outputs[t])
                with np.errstate(invalid="ignore", divide="ignore"):
                    each = self.sums[quantity.reading][t] / tokens
                of.put(t, each, ("an expert without a token that has an output",))
        return values


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    shape, readings = source.taken.shape, tuple(name for name in READ if any(quantity.reading == name for quantity in asked))
    others = [swapped_with(loads, trial) for loads, trial in zip(source.taken, source.trials, strict=True)]
    sums = {reading: np.zeros(shape) for reading in readings}
    return State(source, asked, work, others, sums, np.zeros(shape, np.int64), np.zeros(shape[0], np.int64), readings)


def swapped_with(loads: Sequence[int] | Int[np.ndarray, " E"], trial: int = 0) -> list[int]:
    """For each expert another one, of the nearest load, drawn where several are as near."""
    table, chosen = np.asarray(loads), []
    for e, load in enumerate(table):
        away = np.abs(table - load)
        away[e] = away.max() + 1
        chosen.append(int(stream(0, "swap", trial=trial, expert=e).choice(np.flatnonzero(away == away.min()))))
    return chosen


def zeroed(outputs: Float[Any, "n k d"], gates: Float[Any, "n k"], indices: Int[Any, "n k"], n_experts: int) -> Float[np.ndarray, " E"]:
    """Mean relative error of each expert's tokens without its term; NaN for an expert without tokens.

    outputs: what the experts of each token gave; indices: which they are, -1 for none.

    >>> import torch
    >>> from simgap.metrics.ablation import zeroed
    >>> zeroed(torch.eye(2)[None], torch.tensor([[0.5, 0.5]]), torch.tensor([[0, 1]]), 2)
    array([0.5, 0.5])
    """
    n, k, d = outputs.shape
    mixture = Mixture(indices, gates, outputs.reshape(n * k, d), _numbered(n, k, outputs).masked_fill(indices < 0, -1))
    return np.array([_mean(mixture, e, mixture.zeroed(e)) for e in range(n_experts)])


def routed_around(
    every: Float[Any, "n E d"],
    gates: Float[Any, "n k"],
    indices: Int[Any, "n k"],
    scores: Float[Any, "n E"],
    logits: Float[Any, "n E"],
) -> Float[np.ndarray, " E"]:
    """The same where its slot goes to the next best by scores, at gates that are the softmax of logits over the experts of a token.

    every: the output of each expert on each token.
    """
    mixture = _dense(every, gates, indices)._replace(scores=scores, logits=logits)
    return np.array([_mean(mixture, e, mixture.routed_around(e)) for e in range(every.shape[1])])


def replaced(every: Float[Any, "n E d"], gates: Float[Any, "n k"], indices: Int[Any, "n k"]) -> Float[np.ndarray, "E E"]:
    """The same where another expert stands in, at the same gate: a row to an expert, a column to the one in its place. O(n k E d)."""
    mixture, experts = _dense(every, gates, indices), range(every.shape[1])
    return np.array([[_mean(mixture, e, mixture.replaced(e, other)) for other in experts] for e in experts])


def _dense(every: Float[Any, "n E d"], gates: Float[Any, "n k"], indices: Int[Any, "n k"]) -> Mixture:
    n, experts, d = every.shape
    table = _numbered(n, experts, every)
    index = table.gather(1, indices.clamp(min=0)).masked_fill(indices < 0, -1)
    return Mixture(indices, gates, every.reshape(n * experts, d), index, table)


def _numbered(n: int, m: int, like: Any) -> Int[Any, "n m"]:
    import torch

    return torch.arange(n * m, device=like.device).view(n, m)


def _mean(mixture: Mixture, e: int, change: Float[Any, " m"]) -> float:
    size = mixture.sizes()[mixture.own(e)[0]]
    return float((change[size > 0] / size[size > 0]).mean()) if bool((size > 0).any()) else math.nan

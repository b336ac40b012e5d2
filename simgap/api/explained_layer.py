"""Why the outputs of a simulated layer overlap as they do: the ladder of the vectors that a measurement saw on its first trial."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simgap import machine
from simgap.api.explained import explain
from simgap.api.explanation import Explanation
from simgap.api.plan import kept_vectors_bytes, most_slots
from simgap.checks import format_bytes
from simgap.moe import budget_bytes
from simgap.overlaps.memory import AT_ONCE
from simgap.overlaps.other_tokens import SAMPLED
from simgap.overlaps.whitened import WIDEST
from simgap.sources import Block
from simgap.specs import LayerSpec, RunSpec
from simgap.theory.other_tokens import FEWEST_EXPERTS

SITE = "output"
# Of the ladder: for each number that is looked at at a time, for each pair of vectors, and for each entry of a second moment.
OF_NUMBER, OF_PAIR, OF_MOMENT = 48, 500, 48


@dataclass(frozen=True)
class KeptVectors:
    """The outputs of the routed experts on the tokens of a source's first trial, kept block by block as they are measured."""

    sites: tuple[str, ...] = (SITE,)
    vectors: list[Tensor] = field(default_factory=list)
    indices: list[Tensor] = field(default_factory=list)

    def add(self, block: Block) -> None:
        routed = block.indices[0]
        rows = block.index[0, :, : routed.shape[-1]]
        # A vector that is not there is never read.
        self.vectors.append(block.rows[SITE][0][rows.clamp(min=0)].cpu())
        self.indices.append(routed.cpu())


def check_explained(explained: Any, spec: LayerSpec, run: RunSpec) -> None:
    """ValueError for what is neither True nor False, and for a layer or a run whose outputs have no ladder."""
    if not isinstance(explained, bool):
        raise ValueError(f"explain: expected True or False, got {explained!r}")
    if not explained:
        return
    if spec.top_k == 1 and spec.router.kind != "expert_choice":
        raise ValueError(
            "explain: expected top_k >= 2, since experts are held against each other where they meet on a token, got top_k = 1"
        )
    if spec.n_experts < FEWEST_EXPERTS:
        raise ValueError(f"explain: expected n_experts >= {FEWEST_EXPERTS}, since experts are the sample, got {spec.n_experts}")
    if run.tokens <= spec.inputs.document_tokens:
        of_one = f"{run.tokens} tokens and inputs.document_tokens = {spec.inputs.document_tokens}"
        raise ValueError(f"explain: expected tokens of two documents or more to hold against each other, got {of_one}")
    needed, budget = kept_vectors_bytes(spec, run) + _ladder_bytes(spec, run), budget_bytes(run, machine.memory())
    if needed > budget:
        size = f"{run.tokens} tokens in {spec.d_model} dimensions"
        raise ValueError(f"explain: the ladder of {size} needs some {format_bytes(needed)}, the budget is {format_bytes(budget)}")


def _ladder_bytes(spec: LayerSpec, run: RunSpec) -> int:
    slots, width = most_slots(spec), spec.d_model
    pairs = min(run.tokens * slots * (slots - 1) // 2, max(2, SAMPLED // width))
    moment = width * width if width <= WIDEST else 0
    return OF_NUMBER * min(AT_ONCE, run.tokens * slots * width) + OF_PAIR * pairs + OF_MOMENT * moment


def explained_layer(spec: LayerSpec, run: RunSpec, kept: KeptVectors) -> Explanation:
    """`explain` of what was kept, tokens in documents as the spec has them. Raises ValueError where these vectors have no ladder."""
    documents = np.arange(run.tokens) // spec.inputs.document_tokens
    try:
        explanation = explain(torch.cat(kept.vectors), torch.cat(kept.indices), documents=documents)
    except ValueError as error:
        raise ValueError(f"explain: {error}") from None
    of_documents = f", in documents of {spec.inputs.document_tokens}" if spec.inputs.document_tokens > 1 else ""
    of = f"of trial 0: the outputs of its routed experts on {run.tokens} tokens{of_documents}"
    return replace(explanation, notes=(of, *explanation.notes))

"""How the trials of a batch are cut to fit the memory budget, before anything is drawn: a function of the layer's shape, the run, what is
asked and the machine."""

import functools
from dataclasses import dataclass

import torch

from simgap import machine
from simgap.checks import format_bytes
from simgap.moe import budget_bytes, group_bytes, group_count, group_numbers, group_size, kept_bytes, stream_bytes, task_bytes
from simgap.moe.budget import cuts
from simgap.quantities import Quantity
from simgap.selection import Selection, select
from simgap.sources import TOKEN_BLOCK, Needs
from simgap.specs import LayerSpec, RunSpec

DEFAULT = select()


@dataclass(frozen=True)
class Plan:
    """quantities: what there is in the layer of those that are observed, and what they look at, `needs`.

    groups: how many there are of trials that are computed together; streamed: one to a trial, whose weights are drawn as they are used.
    at_once: groups that fit side by side. threads: those that fit on one group. tokens: to a block of a held group; None where that depends
    on its routing. budget: bytes for the groups, beside what is `kept` of all trials; tight: they have little room. numbers: in the largest
    arrays of all trials.
    """

    quantities: tuple[Quantity, ...]
    needs: Needs
    groups: int
    streamed: bool
    at_once: int
    threads: int
    tokens: int | None
    budget: int
    kept: int
    tight: bool
    numbers: int


# Asked at every measurement, and a part of a small layer's time. What the machine has now is a part of the question.
@functools.lru_cache(maxsize=256)
def plan_of(specs: tuple[LayerSpec, ...], run: RunSpec, selection: Selection, prepared: bool, machine_bytes: int) -> Plan:
    """The plan for `run.trials` trials of layers of one batch key. specs: one for each cost that some of them have.

    Raises ValueError for a device that is absent, and where one trial, or what is kept of all, does not fit.
    """
    check_device(run.device)
    spec, budget = specs[0], budget_bytes(run, machine_bytes)
    quantities, needs = selection.of(spec), selection.needs(spec)
    one_trial = needs.bytes + max(group_bytes(each, run, 1, needs.sites, needs.every) for each in specs)
    whole = next(filter(None, (why_whole(each, prepared) for each in specs)), "")
    kept = kept_of(spec, run, selection)
    streamed = False
    if one_trial + kept > budget and not whole:
        least, beside = least_streamed(spec, run, needs), kept_of(spec, run, selection, streamed=True)
        streamed = least + beside < one_trial + kept
        one_trial, kept = (least, beside) if streamed else (one_trial, kept)
    check_memory(spec, run, budget, one_trial, kept, whole)
    budget -= kept
    groups = run.trials if streamed else group_count(spec, run, needs.every, budget // one_trial)
    largest = -(-run.trials // groups)
    at_once = 1 if streamed else budget // (one_trial * largest)
    tokens = TOKEN_BLOCK if needs.every and not streamed else None
    if tokens is None and not streamed:
        # Where even a router that sends all tokens to one expert leaves room for the usual blocks, nobody has to ask it.
        usual = min(run.tokens, TOKEN_BLOCK)
        most = max(group_bytes(each, run, largest, needs.sites, False, usual, usual) for each in specs)
        tokens = usual if most + needs.bytes * largest <= budget // min(at_once, groups) else None
    return Plan(
        quantities=quantities,
        needs=needs,
        groups=groups,
        streamed=streamed,
        at_once=at_once,
        # The first has what is a group's own.
        threads=1 if streamed else 1 + (budget - one_trial * largest) // task_bytes(spec, run, largest, needs.every),
        tokens=tokens,
        budget=budget,
        kept=kept,
        # What is freed must be there for what comes next where the budget has room for little else.
        tight=streamed or 2 * one_trial * largest > budget,
        numbers=group_numbers(spec, run, needs.every) * run.trials,
    )


def memory_needed(spec: LayerSpec, run: RunSpec, selection: Selection = DEFAULT, prepared: bool = False) -> tuple[int, int]:
    """Bytes of one trial held whole, and the least that will do where its weights can be streamed. Raises ValueError where the budget or
    the machine has less than that."""
    needs, kept, whole = selection.needs(spec), kept_of(spec, run, selection), why_whole(spec, prepared)
    held = group_bytes(spec, run, 1, needs.sites, needs.every) + needs.bytes
    if not whole:
        least, beside = least_streamed(spec, run, needs), kept_of(spec, run, selection, streamed=True)
    if whole or held + kept <= least + beside:
        least, beside = held, kept
    check_memory(spec, run, budget_bytes(run, machine.memory()), least, beside, whole)
    return held + kept, least + beside


def kept_of(spec: LayerSpec, run: RunSpec, selection: Selection, streamed: bool = False) -> int:
    """Bytes that are kept of all trials of a run."""
    group = 1 if streamed else group_size(spec, run, selection.needs(spec).every)
    of_trials = kept_bytes(spec, run.trials, len(selection.of(spec)) * (2 if spec.n_shared_experts else 1), group)
    return of_trials + len(selection.kept) * kept_vectors_bytes(spec, run)


def kept_vectors_bytes(spec: LayerSpec, run: RunSpec) -> int:
    """Bytes of one trial's output vectors and their routing, twice: block by block, and whole."""
    return 2 * run.tokens * most_slots(spec) * (spec.d_model * (8 if run.dtype == "float64" else 4) + 8)


def most_slots(spec: LayerSpec) -> int:
    """The most experts that a token of a layer may have."""
    return spec.n_experts if spec.router.kind == "expert_choice" else spec.top_k


def why_whole(spec: LayerSpec, prepared: bool = False) -> str:
    """Why a layer's weights must all be held at once; nothing where they can be streamed."""
    if spec.init == "orthogonal":
        return "orthogonal weights are drawn whole and not streamed"
    if spec.space.rotated:
        return "weights of a rotated space are drawn whole and not streamed"
    return "prepared weights are held and not streamed" if prepared else ""


def least_streamed(spec: LayerSpec, run: RunSpec, needs: Needs) -> int:
    """The least bytes that a streamed trial could do with, were its router to load all experts alike."""
    *_, tokens = cuts(run.tokens)
    longest = -(-tokens * spec.top_k // spec.n_experts)
    return needs.bytes + stream_bytes(spec, run, needs.sites, needs.every, tokens, longest, 1)


def check_device(device: str) -> None:
    """ValueError where torch has no such device."""
    kind, _, number = device.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r} asked for, but torch {torch.__version__} sees no CUDA device here; use device = 'cpu'")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device: {device!r} asked for, but there are {torch.cuda.device_count()} CUDA devices")


def check_memory(spec: LayerSpec, run: RunSpec, budget: int, needed: int, kept: int = 0, why: str = "") -> None:
    """ValueError where so many bytes do not fit the budget, or the machine, beside what is `kept` of all trials, and why less would not
    do."""
    if needed + kept <= budget:
        return
    limit = f"the {'machine has' if budget < run.memory_bytes else 'budget is'} {format_bytes(budget)}"
    if needed <= budget < 2 * kept:
        raise ValueError(f"trials: what is kept of {run.trials} trials needs {format_bytes(kept)}, {limit}")
    size = f"{spec.parameters:.3g} parameters, {run.tokens} tokens, {run.dtype}"
    needs = f"memory: one trial of this layer ({size}) needs {'' if why else 'at least '}{format_bytes(needed + kept)}"
    raise ValueError(f"{needs}, {limit}{f'; {why}' if why else ''}")

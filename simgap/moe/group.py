"""A group: layers of one shape that the same tensor operations compute, each of a spec, a seed and a trial of its own."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from simgap.specs import LayerSpec


class Draw(NamedTuple):
    """One trial: the layer and the tokens of a spec that the streams of a seed and a trial number make."""

    spec: LayerSpec
    seed: int
    trial: int


def draws_of(spec: LayerSpec, seed: int, trials: Iterable[int]) -> list[Draw]:
    """A group of trials of one spec and one seed."""
    return [Draw(spec, seed, trial) for trial in trials]


def shape(spec: LayerSpec) -> tuple[Hashable, ...]:
    """What all draws of a group share: the fields that decide the shape of an array, and those that decide which arrays there are.

    Of the others (activation, init, router, inputs, affine_std and the like) each draw has its own; a stage reads those it needs by
    `kinds`, and any draw's spec will do for what is shared.
    """
    affine, bias = spec.norm_affine != "none", spec.space.bias > 0
    return spec.d_model, spec.d_ff, spec.n_experts, spec.top_k, spec.n_shared_experts, spec.gated, spec.norm, affine, bias


def kinds(draws: Sequence[Draw], reads: Callable[[LayerSpec], Hashable]) -> list[list[int]]:
    """The indices of a group's draws, a list for each value that a stage reads of their specs: what it does once for all of them."""
    indices: dict[Hashable, list[int]] = {}
    for at, draw in enumerate(draws):
        indices.setdefault(reads(draw.spec), []).append(at)
    return list(indices.values())


def runs(draws: Sequence[Draw], reads: Callable[[LayerSpec], Hashable]) -> list[range]:
    """The same for a stage that works in place: stretches of neighbours for which it reads one value."""
    stretches, start = [], 0
    for _, run in groupby(draws, lambda draw: reads(draw.spec)):
        stop = start + len(list(run))
        stretches.append(range(start, stop))
        start = stop
    return stretches

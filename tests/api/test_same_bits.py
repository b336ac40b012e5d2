"""A trial's values do not depend on the memory budget, the trials and layers beside, their order, or the number of threads: random odd
layers, measured in every way that there is.

Marked `bits`: some of them are repeated under other instruction sets and library modes (`make bits`), and 200 by `make test-slow`.
"""

import dataclasses
import random
from typing import Any, get_args

import pytest
import torch

import simgap as sg
from simgap.api.batch import Request, measure_batch
from simgap.api.plan import memory_needed
from simgap.quantities import READINGS, SITES
from simgap.selection import select
from simgap.specs import ACTIVATIONS, AFFINES, AUTOREGRESSIVE, INITS, InputKind, RouterKind, Scaled
from simgap.training import RegulariseGram, RegularisePairs

# Odd sizes, whole vectors and their neighbours; a few beyond the terms of one product.
WIDTHS = (1, 2, 3, 5, 8, 9, 12, 15, 16, 17, 31, 33, 48, 63, 65, 100, 127, 129)
HIDDEN = (*WIDTHS, 255, 257, 300, 515, 1030)
# Layers that differed one way or another (29 of 200 did) where products and decompositions were left to the library as they came.
QUICK = (13, 18, 47, 59, 62, 93, 119, 168, 185, 189, 192)


def odd_layer(seed: int) -> tuple[sg.LayerSpec, sg.RunSpec, dict[str, Any]]:
    """A layer, a run and what is asked of it, all of it drawn."""
    r = random.Random(seed)  # noqa: S311 - a fixed mix
    norm = r.choice(["none", "none", "layernorm", "rmsnorm"])
    n_experts = r.choice([2, 3, 5, 8])
    router = r.choice(get_args(RouterKind))
    spec = sg.LayerSpec(
        d_model=r.choice(WIDTHS),
        d_ff=r.choice(HIDDEN[2:] if norm == "layernorm" else HIDDEN),
        n_experts=n_experts,
        top_k=n_experts if router == "soft" else r.randint(1, min(3, n_experts)),
        n_shared_experts=r.choice([0, 0, 1, 2]),
        activation=r.choice(ACTIVATIONS),
        gated=r.random() < 0.4,
        norm=norm,
        norm_affine="none" if norm == "none" else r.choice(AFFINES),
        init=r.choice(INITS),
        router=sg.RouterSpec(router, temperature=r.choice([0.5, 1.0]), capacity=r.choice([0.3, 1.0])),
        inputs=sg.InputSpec(r.choice([kind for kind in get_args(InputKind) if kind != "file"]), mean=r.choice([0, 0, 2])),
    )
    # By numbers of their own, so that the rest of each layer is what it was.
    own = random.Random(f"space {seed}")  # noqa: S311 - a fixed mix
    uneven = own.choice(["round", "powerlaw", "lognormal"])
    rotated, bias = uneven != "round" and own.random() < 0.4, own.choice([0.0, 0.0, 0.5])
    space = sg.SpaceSpec(uneven, own.choice(get_args(Scaled)), rotated=rotated, bias=bias)
    inputs = dataclasses.replace(spec.inputs, massive=own.choice([0.0, 0.0, 0.1]))
    if inputs.kind in AUTOREGRESSIVE and own.random() < 0.5:
        inputs = dataclasses.replace(inputs, document_tokens=5, document_correlation=0.7)
    spec = dataclasses.replace(spec, space=space, inputs=inputs)
    run = sg.RunSpec(tokens=r.choice([1, 7, 17, 40, 64, 150]), trials=r.randint(1, 4), seed=seed, dtype=r.choice(["float32", "float64"]))
    asked = r.choice([{}, {}, {"readings": ("mean",), "sites": ("output",)}, {"readings": ("token", "mean")}, {"readings": READINGS[:1]}])
    return spec, run, asked


def trials_of(spec: sg.LayerSpec, run: sg.RunSpec, asked: dict, **changed: Any) -> dict[tuple[str, ...], bytes]:
    """The bits of the first trials, overlap by overlap; gap and ratio are made of these, the ratio of all trials."""
    gap = sg.measure(spec, **run.to_dict() | changed, **asked)
    both = [(side, path, value) for side, found in (("", gap), ("shared", gap.shared)) if found for path, value in found.items()]
    return {(side, *path): value.values[: run.trials].tobytes() for side, path, value in both if path[0] not in ("gap", "ratio")}


def differences(seed: int, torch_threads) -> list[str]:
    """The ways of measuring one layer that give other bits than measuring it plainly."""
    spec, run, asked = odd_layer(seed)
    held, least = memory_needed(spec, run, select(**asked))
    torch_threads(1)
    plain = trials_of(spec, run, asked)
    ways = {"one trial a group": {"memory": held}, "more trials": {"trials": run.trials + 2}, "threads": {}}
    if least < held:
        ways["streamed"] = {"memory": least}
    found = []
    for way, changed in ways.items():
        torch_threads(2 if way == "threads" else 1)
        other = trials_of(spec, run, asked, **changed)
        found += [f"{way}: {' '.join(filter(None, path))}" for path in plain if other[path] != plain[path]]
    return found + [f"beside others: {name}" for name in beside_others(spec, run, asked)]


def beside_others(spec: sg.LayerSpec, run: sg.RunSpec, asked: dict) -> list[str]:
    """The quantities that have other bits where layers of other seeds are measured by the same call, in another order."""
    requests = [
        Request(spec, sg.RunSpec(**run.to_dict() | {"seed": seed, "trials": trials})) for seed, trials in ((run.seed, 2), (99, 3), (98, 1))
    ]
    alone = [measure_batch([request], select(**asked))[0] for request in requests]
    beside = measure_batch(requests[::-1], select(**asked))[::-1]
    return [
        str(quantity)
        for one, other in zip(alone, beside, strict=True)
        for row, quantity in enumerate(one.quantities)
        if one.total[row].tobytes() != other.total[row].tobytes()
    ]


@pytest.mark.parametrize(
    "seed",
    [
        *(pytest.param(seed, marks=pytest.mark.bits) for seed in QUICK),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(200) if seed not in QUICK),
    ],
)
def test_however_it_is_measured_it_has_the_same_bits(torch_threads, seed):
    assert not differences(seed, torch_threads)


def test_the_layers_drawn_leave_nothing_out():
    specs = [odd_layer(seed)[0] for seed in range(200)]
    assert {spec.init for spec in specs} == set(INITS)
    assert {spec.activation for spec in specs} == set(ACTIVATIONS)
    assert {spec.router.kind for spec in specs} == set(get_args(RouterKind))
    assert {spec.norm for spec in specs} == {"none", "layernorm", "rmsnorm"}
    assert len({(spec.d_model % 16 == 0, spec.d_ff % 16 == 0) for spec in specs}) == 4
    assert set(SITES) == {"pre", "hidden", "normed", "output"}


def test_a_measurement_that_differs_is_seen(torch_threads, monkeypatch):
    """The comparison is not blind: one number of one trial, moved by a unit in its last place in the second measurement, is named."""
    calls, measure = iter(range(100)), sg.measure

    def moved(spec, **options):
        gap = measure(spec, **options)
        if next(calls) == 1:
            gap.weight_mso["up"].values[0] *= 1 + 2**-51
        return gap

    monkeypatch.setattr(sg, "measure", moved, raising=False)
    assert differences(0, torch_threads) == ["one trial a group: weight_mso up"]


@pytest.mark.bits
@pytest.mark.parametrize("prepare", [RegulariseGram(0.5, steps=3), RegularisePairs(0.5, steps=3), RegulariseGram(0.5, steps=3, plain=True)])
def test_a_descent_has_the_same_bits_beside_other_trials(prepare):
    for d_model, d_ff in ((9, 33), (33, 9), (17, 1030)):
        spec = sg.LayerSpec(d_model=d_model, d_ff=d_ff, n_experts=3)
        run = sg.RunSpec(tokens=20, trials=2)
        plain = trials_of(spec, run, {"prepare": prepare})
        assert trials_of(spec, run, {"prepare": prepare}, trials=5) == plain
        assert trials_of(spec, run, {"prepare": prepare}, memory=memory_needed(spec, run)[0]) == plain


@pytest.mark.bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_array_has_the_same_bits_wherever_its_vectors_begin(dtype):
    generator = torch.Generator().manual_seed(7)
    routing = torch.randint(5, (40, 3), generator=generator)
    for width in (7, 33, 1030):
        vectors = torch.randn(40, 3, width, generator=generator).to(dtype)
        weights = vectors.reshape(10, -1)
        expected = sg.token_mso(vectors), sg.mean_mso(vectors, routing), sg.weight_mso(weights)
        for before, after in ((1, 0), (3, 2), (8, 5)):
            around = torch.nn.functional.pad(vectors, (before, after))[..., before : before + width]
            flat = torch.nn.functional.pad(weights, (before, after))[:, before : before + weights.shape[1]]
            assert (sg.token_mso(around), sg.mean_mso(around, routing), sg.weight_mso(flat)) == expected, width

"""Values that are kept: what 200 small layers and 40 sets of arrays gave when they were recorded, they give today.

The oracles in tests/reference.py say that an overlap is right on the layers that it is given; this says that nothing moved, over all
options at once. A machine's libraries may sum and round in other orders, and so may other versions of them: no bit is compared.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.seeding import derived, stream

FILE = Path(__file__).with_name("values.json")
LAYERS, ARRAYS = 200, 40
# SSE2 instead of AVX-512, in torch, MKL and numba, moves values of layers by up to 2e-14 of themselves in float64 and 2.1e-6 in float32. Of
# arrays, of which many are float32 or bfloat16, it moves a p of 6e-12 by 4e-7. A value that moved by 1e-4 is found in all.
CLOSE = {"float64": 1e-6, "float32": 2e-5, "arrays": 1e-5}
# Not those of specs.py, so that an option more moves no case.
AXES = {
    "d_model": (8, 12, 16, 24, 33, 48, 64),
    "d_ff": (8, 15, 24, 40, 64, 96),
    "n_experts": (2, 3, 4, 5, 6, 8, 12),
    "top_k": (1, 2, 2, 3, 4),
    "n_shared_experts": (0, 0, 1, 2),
    "activation": ("identity", "relu", "gelu", "gelu_tanh", "silu", "tanh", "erf"),
    "gated": (False, True),
    "norm": ("none", "layernorm", "rmsnorm"),
    "norm_affine": ("none", "per_expert", "shared"),
    "init": ("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal", "upcycled"),
    "router": ("linear", "noisy", "sigmoid", "uniform", "hash", "expert_choice", "soft"),
    "inputs": ("gaussian", "sphere", "powerlaw", "clusters", "student"),
}


def drawn(case: int, name: str, options: tuple):
    """One of the options, by a hash, which no version of a library moves."""
    return options[derived(case, f"values {name}") % len(options)]


def layer(case: int) -> tuple[sg.LayerSpec, str]:
    fields = {name: drawn(case, name, options) for name, options in AXES.items()}
    fields["top_k"] = fields["n_experts"] if fields["router"] == "soft" else min(fields["top_k"], fields["n_experts"])
    if fields["norm"] == "none":
        fields["norm_affine"] = "none"
    return sg.LayerSpec(**fields), drawn(case, "dtype", ("float32", "float64"))


def of_layer(case: int) -> dict[str, float | None]:
    spec, dtype = layer(case)
    metrics = ["weight_overlap", "mean_overlap", "vector_overlap", "gap", "routing"]
    measured = sg.measure(spec, metrics=metrics, tokens=64, trials=2, seed=case, dtype=dtype)
    return {str(quantity): value.mean for quantity, value in measured.values.items()}


def of_arrays(case: int) -> dict[str, float | None]:
    generator = stream(case, "test")
    experts, k, width = drawn(case, "E", (3, 4, 6, 9)), drawn(case, "k", (2, 2, 3)), drawn(case, "width", (5, 16, 33, 64))
    # What all share does not lean towards (1, ..., 1), which would be taken for that of rectified vectors.
    shared = generator.standard_normal((8, width))
    shared -= shared.mean(1, keepdims=True)
    h = generator.standard_normal((drawn(case, "n", (40, 100, 300)), k, width)) + 0.3 * shared[0]
    weights = generator.standard_normal((experts, width, 7)) + 0.2 * shared[1:].T
    routing = generator.random((len(h), experts)).argsort(1)[:, :k]
    routing[generator.random(routing.shape) < drawn(case, "padding", (0.0, 0.2))] = -1
    kind = drawn(case, "kind", ("output", "normed"))
    h, weights = (each.astype(drawn(case, "dtype", (np.float32, np.float64))) for each in (h, weights))
    if drawn(case, "format", (False, False, True)):
        h = torch.from_numpy(h).bfloat16()
    found = {
        "weight_mso": sg.weight_mso(weights),
        "mean_mso": sg.mean_mso(h, routing, kind),
        "token_mso": sg.token_mso(h, kind, routing=routing),
    }
    return {f"{name} {field}": getattr(one, field) for name, one in found.items() for field in ("mean", "sem", "null", "null_sd", "z", "p")}


CASES = {f"layer {case}": (of_layer, case) for case in range(LAYERS)} | {f"arrays {case}": (of_arrays, case) for case in range(ARRAYS)}


@functools.cache
def of_case(name: str) -> dict[str, float | None]:
    function, case = CASES[name]
    return function(case)


def record() -> None:
    """Write what is kept anew: `python -c "from tests.api.test_values import record; record()"`, when values are meant to move."""
    names: list[list[str]] = []
    lines = []
    for case in CASES:
        values = of_case(case)
        if list(values) not in names:
            names.append(list(values))
        lines.append(json.dumps([case, names.index(list(values)), list(values.values())]))
    FILE.write_text("[\n" + ",\n".join([json.dumps(names), *lines]) + "\n]\n")


@pytest.fixture(scope="module")
def kept():
    names, *cases = json.loads(FILE.read_text())
    return {case: dict(zip(names[kind], values, strict=True)) for case, kind, values in cases}


def close_of(case: str) -> float:
    group, number = case.split()
    return CLOSE[layer(int(number))[1] if group == "layer" else group]


def moved(kept) -> list[str]:
    """The values that are others now, or are there no more."""
    return [
        f"{case} {name}: {of_case(case).get(name)} now, {value} kept"
        for case, values in kept.items()
        for name, value in values.items()
        if of_case(case).get(name) != (None if value is None else pytest.approx(value, rel=close_of(case), abs=0))
    ]


def part(kept, third):
    return {case: values for case, values in kept.items() if int(case.split()[1]) % 3 == third}


@pytest.mark.parametrize("third", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_no_value_has_moved(kept, third):
    assert list(kept) == list(CASES)
    assert moved(part(kept, third)) == []


def test_a_value_that_moved_would_be_found(kept):
    """Each kept value, moved by 1e-4 of itself."""
    numbers = [(case, name, value) for case, values in part(kept, 0).items() for name, value in values.items() if value]
    assert len(numbers) > 1500
    assert [(case, name) for case, name, value in numbers if not moved({case: {name: value * (1 + 1e-4)}})] == []


def test_the_cases_have_every_option():
    specs = [layer(case)[0] for case in range(LAYERS)]
    for name, options in AXES.items():
        there = {getattr(spec, name).kind if name in ("router", "inputs") else getattr(spec, name) for spec in specs}
        assert there >= set(options), name

"""What predict and calibrate find once for many cells of a sweep: never another cell's number, and never twice."""

import dataclasses
import pkgutil
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import simgap as sg
from simgap import theory
from simgap.api import calibration
from simgap.api.predicted import read_by_laws
from simgap.nulls import sites
from simgap.stats import Estimate
from simgap.sweeps.fields import NAMES, build
from simgap.theory import angular, finite_width, mso_law

# Tokens of one norm: law A5 is one integral then, not one for each of 16 norms.
SPEC = sg.LayerSpec(d_model=5, d_ff=7, n_experts=4, n_shared_experts=1, norm="layernorm", norm_affine="shared", inputs="sphere")
NEIGHBOURS = {
    "itself": {},
    "square": {"d_model": 7},
    "wider": {"d_model": 64},
    "more hidden units": {"d_ff": 8},
    "more experts": {"n_experts": 5},
    "top 3": {"top_k": 3},
    "another activation": {"activation": "gelu_tanh"},
    "linear": {"activation": "identity", "norm": "none", "norm_affine": "none"},
    "gated": {"gated": True},
    "rmsnorm": {"norm": "rmsnorm"},
    "no norm": {"norm": "none", "norm_affine": "none"},
    "no gain": {"norm_affine": "none"},
    "a gain each": {"norm_affine": "per_expert"},
    "a smaller gain": {"norm_affine_std": 0.05},
    "another std": {"init": "xavier_normal"},
    "a noisy router": {"router": sg.RouterSpec(kind="noisy", noise=0.5)},
    "a blind router": {"router": "hash"},
    "tokens of many norms": {"inputs": "gaussian"},
    "a common mean": {"inputs": sg.InputSpec(kind="sphere", mean=0.5)},
    "massive tokens": {"inputs": sg.InputSpec(kind="sphere", massive=0.1)},
    "documents": {"inputs": sg.InputSpec(kind="sphere", document_tokens=4, document_correlation=0.5)},
    "outliers": {"space": sg.SpaceSpec(outliers=1)},
    "larger outliers": {"space": sg.SpaceSpec(outliers=1, scale=20.0)},
    "outliers of inputs": {"space": sg.SpaceSpec(outliers=1, scaled="inputs")},
    "a power law": {"space": "powerlaw"},
    "a common bias": {"space": sg.SpaceSpec(bias=1.0)},
}


def forget():
    """Every cache of the laws and of the predictions emptied."""
    rooms = [sites, calibration, *(import_module(f"simgap.theory.{found.name}") for found in pkgutil.iter_modules(theory.__path__))]
    caches = [value for room in rooms for value in vars(room).values() if hasattr(value, "cache_clear")]
    assert len(caches) > 10
    for cache in caches:
        cache.cache_clear()


def said(spec, **chosen):
    predicted = sg.predict(spec, **chosen)
    sides = [predicted, predicted.shared] if predicted.shared else [predicted]
    return {(gap is predicted, path): repr(value) for gap in sides for path, value in gap.items()}


def test_no_layer_gets_its_neighbours_numbers():
    """Layers that differ from the first by one change, predicted after it and then each as the first: equal to the bit."""
    specs = {name: dataclasses.replace(SPEC, **changes) for name, changes in NEIGHBOURS.items()}
    forget()
    together = {name: said(spec) for name, spec in specs.items()}
    for name, spec in specs.items():
        forget()
        assert said(spec) == together[name], name
    assert len({str(found) for found in together.values()}) == len(specs)


@pytest.mark.parametrize(
    "changes", [{}, {"gated": True, "d_model": 7}, {"activation": "identity", "d_model": 7, "norm": "none", "norm_affine": "none"}], ids=str
)
def test_no_site_gets_its_neighbours_number(changes):
    """Each site and reading as the first of its layer, and among the others. Widths are equal where the layer is square."""
    spec = dataclasses.replace(SPEC, **changes)
    together = said(spec)
    for site in ("pre", "hidden", "normed", "output"):
        for reading in ("mean", "token", "all"):
            forget()
            alone = said(spec, sites=(site,), readings=(reading,), weights=())
            assert {path: together[path] for path in alone} == alone, (site, reading)


def counting(monkeypatch, module, name):
    """The module's function, which notes its calls in the list returned."""
    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: calls.append(given) or function(*given))
    return calls


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"router": sg.RouterSpec(temperature=0.5)}, (False, False)),
        ({"inputs": sg.InputSpec(kind="clusters", separation=0.25)}, (False, False)),
        ({"n_experts": 5}, (True, False)),
        ({"d_ff": 13}, (False, True)),
        ({"d_model": 9}, (True, True)),
    ],
    ids=str,
)
def test_what_a_change_asks_for_again(monkeypatch, changes, found):
    """The dual map's series, summed at new cosines, and law A5's integral."""
    spec = sg.LayerSpec(d_model=8, d_ff=12, n_experts=4)
    forget()
    sg.predict(spec)
    calls = counting(monkeypatch, angular, "_clenshaw"), counting(monkeypatch, finite_width, "_ones_share")
    sg.predict(dataclasses.replace(spec, **changes), trials=3, tokens=77)
    assert tuple(bool(noted) for noted in calls) == found


def measured(predicted, seed):
    """Estimates of every predicted overlap, a tenth of its mean about it."""
    generator, trials = np.random.default_rng(seed), predicted.run.trials
    pairs = predicted.spec.n_experts * (predicted.spec.n_experts - 1) // 2

    def draw(path, null, _):
        if null.mean is None:
            return Estimate.missing(null.why)
        return Estimate.of(null.mean * (1 + generator.standard_normal(trials) / 10), np.full(trials, pairs))

    return predicted.combine(predicted, draw)


def test_null_laws_are_built_once(monkeypatch):
    predicted = sg.predict(sg.LayerSpec(d_model=8, d_ff=12, n_experts=4))
    forget()
    calls = counting(monkeypatch, mso_law, "pearson_law")
    first = sg.calibrate(measured(predicted, 1), predicted)
    laws = len(calls)
    assert laws >= 2
    second = sg.calibrate(measured(predicted, 2), predicted)
    assert len(calls) == laws
    assert second.weight_mso["up"].p != first.weight_mso["up"].p
    forget()
    assert sg.calibrate(measured(predicted, 2), predicted).as_dict() == second.as_dict()
    assert len(calls) == 2 * laws


def test_calibrating_loads_no_scipy_stats():
    """It takes longer to import than thousands of calibrations; its special functions are enough."""
    script = (
        "import sys; from tests.api.test_remembered import measured; import simgap as sg; "
        "before = 'scipy.stats' in sys.modules; p = sg.predict(sg.LayerSpec(d_model=8, d_ff=12, n_experts=4)); "
        "found = sg.calibrate(measured(p, 1), p); print(before, 'scipy.stats' in sys.modules, found.weight_mso['up'].p > 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "False False True\n"


# Two values or more of every field, those at which a law stops among them.
VALUES = {
    "d_model": [3, 8],
    "d_ff": [1, 7],
    "n_experts": [3, 5],
    "top_k": [1, 2, 3],
    "n_shared_experts": [0, 1],
    "activation": ["silu", "tanh", "identity"],
    "gated": [False, True],
    "norm": ["none", "rmsnorm", "layernorm"],
    "norm_affine": ["none", "shared"],
    "norm_affine_std": [0.1, 0.2],
    "init": ["kaiming_normal", "xavier_uniform", "orthogonal", "upcycled"],
    "init_correlation": [0.1, 0.9],
    "router.kind": ["linear", "noisy", "sigmoid", "uniform", "hash", "expert_choice", "soft"],
    "router.temperature": [0.5, 1.0, 2.0],
    "router.noise": [0.0, 0.5, 1.0],
    "router.bias": [0.0, 0.1, 0.2],
    "router.capacity": [0.5, 1.0],
    "inputs.kind": ["gaussian", "sphere", "powerlaw", "clusters", "student", "file"],
    "inputs.alpha": [0.5, 1.0],
    "inputs.n_clusters": [2, 8],
    "inputs.separation": [0.2, 0.5],
    "inputs.dof": [3.0, 5.0, 6.0],
    "inputs.mean": [0.0, 0.5],
    "inputs.path": ["", "a.safetensors", "b.safetensors"],
    "inputs.tensor": ["", "x"],
    "inputs.massive": [0.0, 0.0, 0.1],
    "inputs.massive_scale": [10.0, 100.0],
    "inputs.document_tokens": [1, 4],
    "inputs.document_correlation": [0.0, 0.0, 0.5],
    "space.kind": ["round", "round", "powerlaw", "lognormal"],
    "space.scaled": ["outputs", "inputs", "both"],
    "space.alpha": [0.5, 1.0],
    "space.spread": [0.5, 1.0],
    "space.outliers": [0, 0, 2],
    "space.scale": [5.0, 10.0],
    "space.rotated": [False, False, True],
    "space.bias": [0.0, 0.0, 0.5, 1.0],
}
# Of each thing that the laws read, two layers that differ in nothing else that they read.
READ = [
    ({}, {"d_model": 9}),
    ({}, {"d_ff": 8}),
    ({}, {"n_experts": 5}),
    ({}, {"top_k": 3}),
    ({}, {"n_shared_experts": 2}),
    ({}, {"activation": "gelu"}),
    ({}, {"gated": True}),
    ({}, {"init": "xavier_normal"}),
    ({}, {"norm": "rmsnorm"}),
    ({}, {"norm_affine": "per_expert"}),
    ({}, {"norm_affine_std": 0.2}),
    ({}, {"router": "hash"}),
    ({"router": sg.RouterSpec("noisy", noise=0.5)}, {"router": sg.RouterSpec("noisy", noise=0.5, temperature=2.0)}),
    ({"router": sg.RouterSpec("sigmoid", bias=0.0)}, {"router": sg.RouterSpec("sigmoid", bias=0.1)}),
    ({}, {"inputs": "gaussian"}),
    ({}, {"inputs": sg.InputSpec("sphere", mean=0.5)}),
    ({"inputs": sg.InputSpec("powerlaw", alpha=1.0)}, {"inputs": sg.InputSpec("powerlaw", alpha=0.5)}),
    ({"inputs": sg.InputSpec("student", dof=5.0)}, {"inputs": sg.InputSpec("student", dof=6.0)}),
    ({}, {"inputs": sg.InputSpec("sphere", massive=0.1)}),
    (
        {"inputs": sg.InputSpec("sphere", document_tokens=4)},
        {"inputs": sg.InputSpec("sphere", document_tokens=4, document_correlation=0.5)},
    ),
    ({}, {"space": "powerlaw"}),
    ({}, {"space": sg.SpaceSpec(bias=0.5)}),
]


def built(values):
    try:
        return build(values)
    except ValueError:
        assume(False)
        raise


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}),
    st.lists(st.sampled_from([(name, value) for name, values in VALUES.items() for value in values]), min_size=1, max_size=4),
)
def test_layers_that_the_laws_read_alike_are_predicted_alike(values, changes):
    assert set(VALUES) == set(NAMES), "a new field varies too"
    values = values | ({} if values["inputs.kind"] == "file" else {"inputs.path": "", "inputs.tensor": ""})
    one, other = built(values), built(values | dict(changes))
    if read_by_laws(one) == read_by_laws(other):
        chosen = {"trials": 2, "tokens": 12, "sites": ("pre", "normed", "output")}
        assert said(one, **chosen) == said(other, **chosen)


@pytest.mark.parametrize("at, pair", list(enumerate(READ)), ids=lambda value: str(value)[:60])
def test_all_that_is_read_changes_a_prediction(at, pair):
    """Without any one of the things read, two layers that are predicted otherwise would be taken for one."""
    one, other = (dataclasses.replace(SPEC, **changes) for changes in pair)
    differ = [a != b for a, b in zip(read_by_laws(one), read_by_laws(other), strict=True)]
    assert [place for place, differs in enumerate(differ) if differs] == [at]
    assert len(READ) == len(differ)
    assert said(one) != said(other)


@pytest.mark.parametrize(
    "one, other",
    [
        ({}, {"router": sg.RouterSpec(temperature=0.5, noise=0.3, bias=0.3, capacity=0.5)}),
        ({}, {"inputs": sg.InputSpec("sphere", alpha=0.5, n_clusters=3, separation=0.1, dof=9.0)}),
        ({}, {"init_correlation": 0.1}),
        ({}, {"space": sg.SpaceSpec(scaled="both", alpha=2.0, spread=2.0, scale=2.0)}),
        ({"space": sg.SpaceSpec(bias=0.5)}, {"space": sg.SpaceSpec(bias=1.0)}),
        ({}, {"inputs": sg.InputSpec("sphere", massive_scale=3.0, document_tokens=7)}),
        ({"router": "sigmoid"}, {"router": sg.RouterSpec("sigmoid", bias=0.3)}),
        ({"inputs": sg.InputSpec("file", path="a.npy")}, {"inputs": sg.InputSpec("file", path="b.npy")}),
    ],
    ids=str,
)
def test_what_no_law_reads_does_not_part_layers(one, other):
    one, other = (dataclasses.replace(SPEC, **changes) for changes in (one, other))
    assert one != other
    assert read_by_laws(one) == read_by_laws(other)

"""What predict and calibrate find once for many cells of a sweep: never another cell's number, and never twice."""

import dataclasses
import pkgutil
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

import simgap as sg
from simgap import theory
from simgap.gap import predicted_sites
from simgap.stats import Estimate
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
}


def forget():
    """Every cache of the laws and of the predictions emptied."""
    rooms = [predicted_sites, *(import_module(f"simgap.theory.{found.name}") for found in pkgutil.iter_modules(theory.__path__))]
    caches = [value for room in rooms for value in vars(room).values() if hasattr(value, "cache_clear")]
    assert len(caches) > 10
    for cache in caches:
        cache.cache_clear()


def said(spec, **chosen):
    predicted = sg.predict(spec, **chosen)
    return {(gap is predicted, path): repr(value) for gap in (predicted, predicted.shared) for path, value in gap.items()}


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
        "import sys; from tests.gap.test_remembered import measured; import simgap as sg; "
        "before = 'scipy.stats' in sys.modules; p = sg.predict(sg.LayerSpec(d_model=8, d_ff=12, n_experts=4)); "
        "found = sg.calibrate(measured(p, 1), p); print(before, 'scipy.stats' in sys.modules, found.weight_mso['up'].p > 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "False False True\n"

"""The Jacobian metric on layers whose experts are differentiated one token at a time."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import simgap as sg
from simgap.metrics import jacobian as subject
from simgap.moe import draws_of, open_inputs, simulate

SPEC = sg.LayerSpec(d_model=6, d_ff=10, n_experts=4, top_k=2, activation="silu")
RUN = sg.RunSpec(tokens=30, trials=2, seed=3, dtype="float64")
METRIC = {"metrics": "jacobian"}


def layer_of(spec, run=RUN):
    draws = draws_of(spec, run.seed, range(run.trials))
    return simulate(draws, run, open_inputs(draws))


def expected(spec, run=RUN, t=0):
    """Cosines of all pairs on all tokens (E, E, n), and mean Jacobians (E, d, d)."""
    layer = layer_of(spec, run)
    w, x = layer.weights, layer.x[t]

    def function(e):
        def of(v):
            hidden = F.silu((w.gate if spec.gated else w.up)[t, e] @ v) * ((w.up[t, e] @ v) if spec.gated else 1)
            if spec.norm == "layernorm":
                hidden = F.layer_norm(hidden, hidden.shape, *(() if w.gain is None else (w.gain[t, e], w.bias[t, e])), 1e-5)
            return w.down[t, e] @ hidden

        return of

    each = torch.stack([torch.func.vmap(torch.func.jacrev(function(e)))(x) for e in range(spec.n_experts)])
    unit = each.flatten(2) / each.flatten(2).norm(dim=-1, keepdim=True)
    gates = torch.zeros(spec.n_experts, len(x), dtype=torch.float64)
    gates.scatter_(0, layer.indices[t].T, layer.gates[t].T)
    means = torch.einsum("en,enab->eab", gates / gates.sum(1, keepdim=True), each)
    return torch.einsum("ena,fna->efn", unit, unit), means, layer.indices[t]


@pytest.mark.parametrize("more", [{}, {"gated": True}, {"norm": "layernorm", "gated": True, "norm_affine": "per_expert"}])
def test_against_each_expert_differentiated(more):
    spec = dataclasses.replace(SPEC, **more)
    gap = sg.measure(spec, tokens=RUN.tokens, trials=1, seed=3, dtype="float64", **METRIC)
    cos, means, indices = expected(spec)
    pairs = list(combinations(range(spec.n_experts), 2))
    every = np.array([cos[i, j].numpy() for i, j in pairs])
    met = np.array([float(cos[a, b, t]) for t, (a, b) in enumerate(indices.tolist())])
    flat = means.flatten(1) / means.flatten(1).norm(dim=1, keepdim=True)
    mean = np.array([float(flat[i] @ flat[j]) for i, j in pairs])
    for reading, values in (("all", every), ("token", met), ("mean", mean)):
        assert gap[f"jacobian_cos {reading}"].mean == pytest.approx(values.mean(), abs=1e-10)
        assert gap[f"jacobian_mso {reading}"].mean == pytest.approx((values**2).mean(), rel=1e-9)
        assert gap[f"jacobian_mso {reading}"].pairs == values.size
    singular = np.linalg.svd(means.numpy(), compute_uv=False)
    share = singular**2 / (singular**2).sum(1, keepdims=True)
    spectrum = {
        "leading": singular[:, 0],
        "stable_rank": 1 / share[:, 0],
        "effective_rank": np.exp(-(share * np.log(share)).sum(1)),
        "decay": singular[:, -1] / singular[:, 0],
    }
    for name, values in spectrum.items():
        assert gap[f"jacobian_spectrum {name}"].mean == pytest.approx(values.mean(), rel=1e-8)


def test_both_forms_and_any_number_of_tokens_at_a_time_agree(monkeypatch):
    spec = dataclasses.replace(SPEC, gated=True, norm="rmsnorm")
    whole = sg.measure(spec, tokens=30, trials=2, dtype="float64", **METRIC)
    import simgap.overlaps.jacobians as forms

    for form, numbers in (("pairs", 2 * 20 * 7), ("tokens", 2 * 60 * 3), ("tokens", 1 << 20)):
        monkeypatch.setattr(forms, "cheapest", lambda *counts, form=form: form)
        monkeypatch.setattr(subject, "SLOPES", numbers)
        monkeypatch.setattr(subject, "JACOBIANS", numbers)
        parts = sg.measure(spec, tokens=30, trials=2, dtype="float64", **METRIC)
        for quantity in subject.QUANTITIES:
            assert parts[str(quantity)].mean == pytest.approx(whole[str(quantity)].mean, rel=1e-9, abs=1e-12), quantity
            assert parts[str(quantity)].pairs == whole[str(quantity)].pairs


def test_the_same_bits_in_any_company():
    """In float32, where any other order of a sum shows: of more trials beside, in less memory, of streamed weights."""
    few = sg.measure(SPEC, tokens=40, trials=1, **METRIC)
    more = sg.measure(SPEC, tokens=40, trials=3, **METRIC)
    for text in map(str, subject.QUANTITIES):
        assert few[text].values[0] == more[text].values[0], text


def test_a_dead_expert_has_no_jacobian():
    """W_up 0 under ReLU: its pairs are counted as skipped, never as 0."""

    def dead(weights):
        up = weights.up.clone()
        up[:, 0] = 0
        return dataclasses.replace(weights, up=up)

    gap = sg.measure(dataclasses.replace(SPEC, activation="relu"), tokens=40, trials=2, prepare=dead, **METRIC)
    assert gap["jacobian_cos mean"].pairs == 2 * 3
    assert gap["jacobian_cos mean"].dropped == 2 * 3
    assert "Jacobian" in gap["jacobian_cos mean"].dropped_at
    assert gap["jacobian_spectrum leading"].dropped == 2


def test_identical_experts_and_their_twins():
    """Copies are at 1 in every reading; a copy whose output is negated at -1; its square does not see that."""

    def copied(weights, sign=1.0):
        up, down = weights.up.clone(), weights.down.clone()
        up[:], down[:] = up[:, :1], down[:, :1]
        down[:, 1] *= sign
        return dataclasses.replace(weights, up=up, down=down)

    spec = dataclasses.replace(SPEC, n_experts=2, top_k=2, router=sg.RouterSpec(kind="uniform"))
    for sign in (1.0, -1.0):
        gap = sg.measure(spec, tokens=20, trials=1, dtype="float64", prepare=lambda w, sign=sign: copied(w, sign), **METRIC)
        for reading in subject.READ:
            assert gap[f"jacobian_cos {reading}"].mean == pytest.approx(sign, abs=1e-9)
            assert gap[f"jacobian_mso {reading}"].mean == pytest.approx(1, abs=1e-9)


def test_law_of_linear_and_relu_experts():
    """1/d^2 within 5 errors, and the wrong law, 1/d, by far not (law N6)."""
    spec = sg.LayerSpec(d_model=8, d_ff=12, n_experts=6, top_k=2, activation="relu")
    gap = sg.measure(spec, tokens=4, trials=100, quantities="jacobian_mso all")
    estimate, null = gap["jacobian_mso all"], sg.predict(spec, tokens=4, trials=100, quantities="jacobian_mso all")["jacobian_mso all"]
    assert (null.mean, null.kind, null.law) == (1 / 64, "exact", "N6")
    assert abs(estimate.mean - null.mean) < 5 * estimate.sem
    assert abs(estimate.mean - 1 / 8) > 50 * estimate.sem


def test_spectrum_beyond_all_singular_values_has_no_effective_rank():
    spec = sg.LayerSpec(d_model=subject.LARGE + 1, d_ff=2, n_experts=2, top_k=1)
    assert "effective rank" in subject.missing(spec, sg.metrics.jacobian.QUANTITIES[-2])


@pytest.mark.parametrize("gated", [False, True])
def test_of_a_users_own_experts(gated):
    """The matrices, tokens and routing of a simulated layer, given as arrays: the same numbers."""
    spec = dataclasses.replace(SPEC, gated=gated)
    measured, layer = sg.measure(spec, tokens=30, trials=1, seed=3, dtype="float64", **METRIC), layer_of(spec)
    weights = {role: getattr(layer.weights, role)[0].numpy() for role in layer.weights.roles}
    routing, gates, inputs = layer.indices[0].numpy(), layer.gates[0].numpy(), layer.x[0].numpy()
    own = sg.measure_arrays(routing=routing, weights=weights, inputs=inputs, gates=gates, activation="silu", **METRIC)
    for quantity in subject.QUANTITIES:
        assert own[str(quantity)].mean == pytest.approx(measured[str(quantity)].mean, rel=1e-9, abs=1e-12), quantity
    with pytest.raises(ValueError, match="it needs weights up and down, the activation and inputs"):
        sg.measure_arrays(routing=routing, weights=weights, gates=gates, **METRIC)


def test_a_cosine_around_zero_has_no_ratio_to_its_null():
    """A null that draws cannot tell from 0 is no denominator; that of squares is one. Names are shown as they are asked for."""
    gap = sg.measure(SPEC, tokens=30, trials=3, quantities=["jacobian_cos token", "jacobian_mso token"])
    rows = sg.calibrate(gap)
    assert rows["jacobian_cos token"].excess is None
    assert rows["jacobian_mso token"].excess > 0
    assert "jacobian_mso token" in str(gap)

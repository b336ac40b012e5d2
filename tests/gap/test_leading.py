"""Where predictions are of leading order they are off at small dimensions and right at large ones, as their order says; exact ones are
right at all.

Sample sizes fixed beforehand; the line is 5 standard errors of the measured mean over trials.
"""

import math

import numpy as np
import pytest

import simgap as sg
from simgap.stats import moment_matched_p
from simgap.theory.finite_width import hidden_token_mso
from simgap.theory.mso_law import mso_p

SIGMA = 5


def both(spec: sg.LayerSpec, site: str, reading: str, tokens: int, trials: int, seed: int = 1) -> tuple[sg.Gap, sg.Gap]:
    chosen = {"tokens": tokens, "trials": trials, "sites": (site,), "readings": (reading,), "weights": ("up",)}
    measured, predicted = sg.measure(spec, seed=seed, **chosen), sg.predict(spec, **chosen)
    return measured.activation_mso[reading][site], predicted.activation_mso[reading][site]


def soft(**change) -> sg.LayerSpec:
    """Every expert on every token: the most pairs for the work."""
    return sg.LayerSpec(**{"d_model": 64, "n_experts": 8, "top_k": 8, "router": "soft"} | change)


@pytest.mark.parametrize("activation, norm", [("relu", "none"), ("silu", "none"), ("gelu", "rmsnorm")])
@pytest.mark.parametrize("inputs", ["sphere", "gaussian"])
def test_hidden_overlap_on_a_token_is_exact_where_first_order_is_not(activation, norm, inputs):
    """Law A5 at f = 4: the prediction is met, kappa0^2 + C/f beyond doubt not."""
    spec = soft(d_model=8, d_ff=4, activation=activation, norm=norm, inputs=inputs)
    measured, predicted = both(spec, "hidden", "all", 64, 1500)
    assert (predicted.kind, predicted.law) == ("exact", "A5")
    assert abs(measured.mean - predicted.mean) < SIGMA * measured.sem
    assert abs(measured.mean - hidden_token_mso(activation, 4, math.sqrt(2))) > SIGMA * measured.sem


def test_other_inits_and_tokens_are_right_to_their_order():
    """Uniform W_up, O(1/d): beyond doubt at d = 4, and at d = 64 at most a sixteenth of that (plus 5 standard errors)."""
    rest, sem = {}, {}
    for d in (4, 64):
        measured, predicted = both(soft(d_model=d, d_ff=32, activation="relu", init="kaiming_uniform"), "hidden", "all", 32, 600)
        assert (predicted.kind, predicted.order) == ("leading", "O(1/d_model)")
        rest[d], sem[d] = measured.mean - predicted.mean, measured.sem
    assert abs(rest[4]) > SIGMA * sem[4]
    assert abs(rest[64]) < abs(rest[4]) / 16 + SIGMA * sem[64]


@pytest.mark.parametrize("router, top_k", [("linear", 2), ("uniform", 2)])
def test_means_of_rectified_vectors_are_right_at_large_widths(router, top_k):
    """Law A6, error O(1/d + 1/f): plain at d = 4, f = 16; at d = 128, f = 512 at most a sixteenth of that."""
    rest = {}
    for d, trials in ((4, 400), (128, 60)):
        spec = sg.LayerSpec(d_model=d, d_ff=4 * d, n_experts=4, top_k=top_k, activation="silu", router=router)
        measured, predicted = both(spec, "hidden", "mean", 128, trials)
        assert (predicted.kind, predicted.law) == ("leading", "A6")
        rest[d] = (measured.mean - predicted.mean, measured.sem)
    assert abs(rest[4][0]) > SIGMA * rest[4][1]
    assert abs(rest[128][0]) < abs(rest[4][0]) / 16 + SIGMA * rest[128][1]


def test_a_router_gives_tokens_of_an_expert_a_common_direction():
    """The routed share of law A6: at d = 128 a prediction without it, that of a uniform router, is beyond doubt wrong for a linear one."""
    spec = sg.LayerSpec(d_model=128, d_ff=512, n_experts=8, top_k=1, activation="relu")
    measured, predicted = both(spec, "hidden", "mean", 512, 40)
    blind = sg.predict(sg.LayerSpec(**{**spec.to_dict(), "router": "uniform", "inputs": "gaussian"}), tokens=512, trials=40)
    assert abs(measured.mean - predicted.mean) < SIGMA * measured.sem + 0.002
    assert abs(measured.mean - blind.activation_mso["mean"]["hidden"].mean) > SIGMA * measured.sem + 0.01


@pytest.mark.parametrize(
    "norm, affine, gated",
    [("layernorm", "shared", False), ("layernorm", "per_expert", False), ("rmsnorm", "shared", False), ("rmsnorm", "shared", True)],
)
def test_gains_and_biases_are_right_at_large_widths(norm, affine, gated):
    """Law L1 with the first order in 1/f; a shared bias is seen, since the prediction per expert would be refused."""
    change = {
        "activation": "silu",
        "norm": norm,
        "norm_affine": affine,
        "norm_affine_std": 0.5,
        "gated": gated,
        "d_ff": 1024,
        "n_experts": 4,
        "top_k": 4,
    }
    measured, predicted = both(soft(**change), "normed", "all", 16, 60)
    other = sg.predict(soft(**change | {"norm_affine": {"shared": "per_expert", "per_expert": "shared"}[affine]}))
    assert (predicted.kind, predicted.law) == ("leading", "L1")
    room = 20 / 1024 * predicted.mean
    assert abs(measured.mean - predicted.mean) < SIGMA * measured.sem + room
    assert abs(measured.mean - other.activation_mso["all"]["normed"].mean) > SIGMA * measured.sem + room


@pytest.mark.parametrize("d, f", [(2, 3), (3, 2), (5, 4)])
def test_exact_predictions_are_exact_at_the_smallest_widths(d, f):
    """Where leading orders are far off: a norm with bias, a gate, an odd activation; every mean that says "exact" is met."""
    checked = 0
    for change in ({"activation": "tanh"}, {"gated": True, "norm": "rmsnorm"}, {"norm": "layernorm", "activation": "gelu"}):
        spec = sg.LayerSpec(d_model=d, d_ff=f, n_experts=6, top_k=2, **change)
        # A LayerNormed vector of two entries is (1, -1) up to its sign: nothing is left to chance.
        measured, predicted = sg.measure(spec, tokens=8, trials=2000, seed=3), sg.predict(spec, tokens=8, trials=2000)
        for (path, m), (_, p) in zip(measured.items(), predicted.items(), strict=True):
            if p.kind == "exact" and path[0] == "activation_mso" and m.sem:
                assert abs(m.mean - p.mean) < SIGMA * m.sem, (change, path)
                checked += 1
    assert checked > 15


@pytest.mark.parametrize("site, gated", [("output", False), ("pre", False), ("output", True)])
def test_the_spread_over_tokens_has_its_floor(site, gated):
    """sd over 400 trials, known to 3.5%: predicted within 5 of those, where independent tokens would give a fraction of it."""
    spec = soft(d_model=16, d_ff=128, activation="relu", n_experts=4, top_k=4, gated=gated)
    measured, predicted = both(spec, site, "all", 256, 400)
    found = measured.values.std(ddof=1) / math.sqrt(400)
    assert abs(found / predicted.sd - 1) < SIGMA / math.sqrt(800)
    if gated:
        # Gated vectors of different tokens are nearly orthogonal: hardly any floor is left to see.
        return
    width = 16 if site == "output" else 128
    independent = math.sqrt(2 * (width - 1) / (width**2 * (width + 2)) / (6 * 400 * 256))
    assert found / independent - 1 > SIGMA / math.sqrt(800)


def test_p_of_experts_that_outnumber_dimensions():
    """64 vectors in R^4: of 20,000 nulls about 200 lie below 0.01 and 20 below 0.001, with binomial errors; two moments let through 6
    times as many."""
    draws = 20_000
    vectors = np.random.default_rng(0).standard_normal((draws, 64, 4))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    means = ((np.einsum("sei,sej->sij", vectors, vectors) ** 2).sum((1, 2)) / 64**2 * 64 - 1) / 63
    found = sg.weight_mso(vectors[0])
    assert found.mean == pytest.approx(means[0], rel=1e-12)
    assert found.p == pytest.approx(mso_p(means[0], 4, 2016, 1, 64), rel=1e-6)
    for p, expected in ((mso_p(means, 4, 2016, 1, 64), True), (np.array([moment_matched_p(m, 0.25, found.null_sd) for m in means]), False)):
        below = (p < 0.001).sum()
        assert bool(abs(below - 0.001 * draws) < SIGMA * math.sqrt(0.001 * draws)) is expected
        if expected:
            assert abs((p < 0.01).sum() - 0.01 * draws) < SIGMA * math.sqrt(0.01 * draws)

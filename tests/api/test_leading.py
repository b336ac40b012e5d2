"""Where predictions are of leading order they are off at small dimensions and right at large ones, as their order says; exact ones are
right at all.

Sample sizes fixed beforehand; the line is 5 standard errors of the measured mean over trials.
"""

import dataclasses
import math

import numpy as np
import pytest

import simgap as sg
from simgap.api.calibration import compare
from simgap.stats import Estimate, moment_matched_p
from simgap.theory.dual_map import dual_map
from simgap.theory.finite_width import hidden_token_mso
from simgap.theory.mso_law import mso_p
from simgap.theory.normalisation import layernorm_map
from simgap.theory.preactivations import over_cosines, preactivation_std
from simgap.theory.token_variance import null_token_sd, output_alignment
from simgap.theory.weight_null import null_variance

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
    blind = sg.predict(dataclasses.replace(spec, router="uniform"), tokens=512, trials=40)
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


@pytest.mark.parametrize("norm, gated", [("layernorm", False), ("layernorm", True), ("rmsnorm", True)])
def test_a_gain_and_bias_without_spread_change_nothing(norm, gated):
    """norm_affine_std = 0 is no affine at all: laws N4 and A7, not those of a rectified vector."""
    spec = sg.LayerSpec(d_model=16, d_ff=24, gated=gated, norm=norm, norm_affine="shared", norm_affine_std=0.0)
    plain = dataclasses.replace(spec, norm_affine="none")
    for reading in ("mean", "token", "all"):
        found = sg.predict(spec).activation_mso[reading]["normed"]
        assert found == sg.predict(plain).activation_mso[reading]["normed"]
        assert found.kind == "exact"
        assert found.mean == pytest.approx(1 / 23 if norm == "layernorm" else 1 / 24, rel=1e-14)


@pytest.mark.parametrize("change", [{}, {"activation": "relu"}, {"norm": "rmsnorm", "norm_affine": "shared"}, {"router": "sigmoid"}])
def test_one_hidden_unit_leaves_nothing_to_chance(change):
    """At d_ff = 1 every cos^2 is 1, measured and predicted, where expansions in 1/d_ff give anything."""
    chosen = {"tokens": 8, "trials": 3, "sites": ("pre", "hidden", "normed")}
    spec = sg.LayerSpec(d_model=4, d_ff=1, n_experts=4, **change)
    measured, predicted = sg.measure(spec, seed=1, **chosen), sg.predict(spec, **chosen)
    for (path, m), (_, p) in zip(measured.items(), predicted.items(), strict=True):
        if path[0] == "activation_mso" and m.mean is not None:
            assert m.mean == pytest.approx(1, abs=1e-6), path
            assert (p.mean, p.kind) == (1, "exact"), path


def test_orders_that_leave_their_range_are_no_predictions():
    """At the smallest widths: an overlap above 1, a cosine of tokens above 1, an error above 1 for norms of no finite spread."""
    wild = sg.LayerSpec(d_model=5, d_ff=2, activation="silu", norm="rmsnorm", norm_affine="shared", norm_affine_std=10.0)
    assert sg.predict(wild).activation_mso["all"]["normed"].why.startswith("d_ff = 2: too few for law L1 at norm_affine_std = 10")
    crowded = sg.predict(sg.LayerSpec(d_model=1, d_ff=8, n_experts=64))
    assert crowded.activation_mso["mean"]["hidden"].why.startswith("n_experts > d_model: law A6 needs a router of nearly orthogonal rows")
    assert crowded.activation_mso["token"]["pre"].sd is None
    assert any("share the tokens unevenly" in h for h in crowded.activation_mso["token"]["pre"].hypotheses)
    heavy = sg.LayerSpec(d_model=4, d_ff=8, inputs=sg.InputSpec(kind="student", dof=4.01))
    assert "spread too far for law A5 (effective dimension 0.013 < 1)" in sg.predict(heavy).activation_mso["all"]["hidden"].why


@pytest.mark.parametrize("gated", [False, True])
def test_every_leading_mean_says_its_order(gated):
    spec = sg.LayerSpec(gated=gated, norm="rmsnorm", norm_affine="shared", n_shared_experts=1)
    for path, value in [*sg.predict(spec).items(), *sg.predict(spec).shared.items()]:
        assert (value.kind == "leading") == bool(value.order), path


AFFINE = [{"norm": norm, "norm_affine": affine} for norm in ("layernorm", "rmsnorm") for affine in ("shared", "per_expert")]
ERRORS = [
    *(("normed", "all", change | {"d_ff": f, "norm_affine_std": std}) for change in AFFINE for f in (8, 32) for std in (0.1, 0.5, 1.0)),
    *(("normed", "all", change | {"d_ff": 32, "gated": True, "norm_affine_std": 0.5}) for change in AFFINE),
    *(("hidden", "all", {"d_model": 4, "d_ff": f, "activation": "relu", "init": "kaiming_uniform"}) for f in (8, 64)),
    ("hidden", "all", {"d_model": 16, "d_ff": 32, "inputs": sg.InputSpec("student", dof=5.0)}),
    *(("hidden", "mean", {"d_model": d, "d_ff": 4 * d, "router": "linear", "top_k": 2}) for d in (4, 32)),
]


@pytest.mark.parametrize("site, reading, change", ERRORS)
def test_the_error_of_a_leading_mean_holds_what_simulation_finds(site, reading, change):
    spec = sg.LayerSpec(**{"d_model": 16, "n_experts": 4, "top_k": 4, "router": "soft"} | change)
    measured, predicted = both(spec, site, reading, 16, 200)
    assert (predicted.kind, 0 < predicted.error < 1) == ("leading", True)
    assert abs(measured.mean - predicted.mean) < predicted.error + SIGMA * measured.sem


def tied(weights):
    """Experts with a common part: what no error of a law explains."""
    return dataclasses.replace(weights, up=weights.up + weights.up[:, :1])


@pytest.mark.parametrize("affine", ["shared", "per_expert"])
def test_a_deviation_within_the_law_s_own_error_is_not_called_one(affine):
    """LayerNorm with a gain at d_ff = 8: far from its law in standard errors, and not beyond the law's order; experts that share a part
    are."""
    spec = soft(d_model=16, d_ff=8, norm="layernorm", norm_affine=affine)
    chosen = {"tokens": 64, "sites": ("normed",), "readings": ("all",), "weights": ()}
    predicted = sg.predict(spec, trials=400, **chosen)
    said = {}
    for name, prepare in (("untrained", None), ("tied", tied)):
        measured = sg.measure(spec, trials=400, seed=1, prepare=prepare, **chosen)
        said[name] = sg.calibrate(measured, predicted).activation_mso["all"]["normed"]
        assert said[name].z > 8
        assert said[name].p < 1e-10
        assert said[name].null_error == predicted.activation_mso["all"]["normed"].error
    assert str(said["untrained"]).endswith(f": within the null's own error, {said['untrained'].null_error:.2g}")
    assert "more than independent, sign-symmetric" in str(said["tied"])
    exact = said["untrained"]._replace(null_error=0.0)
    assert "more than independent, sign-symmetric" in str(exact)


def test_a_deviation_just_beyond_the_error_is_none_yet():
    """What counts is what is left beyond the error: 3 standard errors are not enough, 4 are."""
    leading = sg.Prediction(0.1, 0.001, "leading", "leading", "A5", error=0.02)
    for beyond, within in ((0.003, True), (0.004, False), (-0.003, True)):
        found = compare(Estimate(0.12 + beyond, None, 1, 0), leading)
        assert str(found).endswith("within the null's own error, 0.02") is within


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


@pytest.mark.parametrize("change", [{"activation": "tanh"}, {"activation": "silu", "norm": "layernorm"}])
def test_the_floor_of_narrow_hidden_vectors(change):
    """Outputs at d = 32, d_ff = 16: hidden vectors of two tokens meet by chance too, and the wide limit of their cosine gives half the sd.
    Over 400 trials sd is known to 3.5%, and the line is 5 of those."""
    spec = soft(d_model=32, d_ff=16, n_experts=4, top_k=4, **change)
    measured, predicted = both(spec, "output", "all", 2048, 400)
    found = measured.values.std(ddof=1) / math.sqrt(400)
    assert abs(found / predicted.sd - 1) < SIGMA / math.sqrt(800)
    std = preactivation_std(spec.init, 32, 16)
    wide = layernorm_map if spec.norm == "layernorm" else dual_map
    shared = over_cosines(lambda rho: (output_alignment(32, wide(spec.activation, rho, std)) - 1 / 32) ** 2, 32)
    assert found / null_token_sd(32, 6, 400, 2048, 2 * shared / (34 * 31)) - 1 > SIGMA / math.sqrt(800)


def test_p_of_experts_that_outnumber_dimensions():
    """64 vectors in R^4: of 20,000 nulls about 200 lie below 0.01 and 20 below 0.001, with binomial errors; two moments let through 6
    times as many."""
    draws = 20_000
    vectors = np.random.default_rng(0).standard_normal((draws, 64, 4))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    means = ((np.einsum("sei,sej->sij", vectors, vectors) ** 2).sum((1, 2)) / 64**2 * 64 - 1) / 63
    sd = math.sqrt(null_variance(4) / 2016)
    for p, expected in ((mso_p(means, 4, 2016, 1, 64), True), (np.array([moment_matched_p(m, 0.25, sd) for m in means]), False)):
        below = (p < 0.001).sum()
        assert bool(abs(below - 0.001 * draws) < SIGMA * math.sqrt(0.001 * draws)) is expected
        if expected:
            assert abs((p < 0.01).sum() - 0.01 * draws) < SIGMA * math.sqrt(0.01 * draws)

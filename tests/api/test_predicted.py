"""predict: every number by hand in fractions, every failing hypothesis with its reason, and the spreads that no other test measures."""

import dataclasses
import json
import math
from fractions import Fraction as Q

import numpy as np
import pytest
from scipy import integrate

import simgap as sg
from simgap.specs import ACTIVATIONS
from simgap.stats import student_p
from simgap.theory.preactivations import over_cosines
from simgap.theory.token_variance import output_alignment

FIVE_SIGMA = math.erfc(5 / math.sqrt(2))
TRIALS = 5
# path: (mean, kind, variance of one pair or None, its kind, law)
BETA = {n: Q(2 * (n - 1), n * n * (n + 2)) for n in (3, 4, 5, 6, 24, 45)}  # isotropic: Var cos^2
# Uniform entries, N = 15: A = B = (9/5) / (N (9/5 + N - 1)), and law N1's general variance.
SHARE = Q(9, 5) / (15 * (Q(9, 5) + 14))
UNIFORM_15 = 15 * SHARE**2 + 45 * (Q(1, 15) - SHARE) ** 2 / 14 - Q(1, 225)
# Haar, n = 6, m = 4.
HAAR_24 = Q(3 * (7 * 4 - 2), 4**3 * 6 * 5 * 8) - Q(1, 576)


def isotropic(dimension: Q) -> Q:
    return 2 * (dimension - 1) / (dimension**2 * (dimension + 2))


# A rectified normal h: 1/|h|^2 = int exp(-t |h|^2) dt gives E h_1 h_2 / |h|^2 from E h exp(-t h^2) = 1 / (sqrt(2 pi) (1 + 2t)) and
# E exp(-t h^2) = (1 + (1 + 2t)^-1/2) / 2; dead vectors, 2^-6 of them, are left out. d_ff = 6, at any std.
PAIR = integrate.quad(lambda t: (1 / (1 + 2 * t)) ** 2 / (2 * math.pi) * ((1 + (1 + 2 * t) ** -0.5) / 2) ** 4, 0, math.inf)[0]
RECTIFIED_6 = 1 / 6 + 30 * (PAIR / (1 - 2**-6)) ** 2
K0 = 1 / math.pi

PLAIN = sg.LayerSpec(d_model=4, d_ff=6, n_experts=3, activation="relu")
GATED = sg.LayerSpec(d_model=3, d_ff=5, n_experts=3, gated=True, norm="layernorm", init="xavier_uniform")
ORTHOGONAL = sg.LayerSpec(d_model=6, d_ff=4, n_experts=3, activation="tanh", norm="rmsnorm", init="orthogonal")
ALL_PLAIN = Q(16 + 36, 100 * 24)
BY_HAND = {
    "plain": (
        PLAIN,
        {
            "up": (Q(1, 24), "exact", BETA[24], "exact", "N1"),
            "gate": None,
            "down": (Q(1, 24), "exact", BETA[24], "exact", "N1"),
            "all": (ALL_PLAIN, "leading", isotropic(1 / ALL_PLAIN), "leading", "N1"),
            "pre": (Q(1, 6), "exact", BETA[6], "exact", "N1"),
            "hidden": (RECTIFIED_6, "exact", None, None, "A5"),
            "normed": None,
            "output": (Q(1, 4), "exact", BETA[4], "exact", "N2"),
            "gap": (Q(5, 24), "exact", BETA[4] + BETA[24], "exact", "N3"),
            "ratio": (Q(6), "leading", 36 * (BETA[4] * 16 + BETA[24] * 576), "leading", "N3"),
        },
    ),
    "gated, layernorm, uniform": (
        GATED,
        {
            **dict.fromkeys(("up", "gate", "down"), (Q(1, 15), "exact", UNIFORM_15, "leading", "N1")),
            "all": (Q(1, 45), "exact", BETA[45], "leading", "N1"),
            "pre": (Q(1, 5), "exact", BETA[5], "leading", "N1"),
            "hidden": (Q(1, 5), "exact", BETA[5], "leading", "A7"),
            "normed": (Q(1, 4), "exact", BETA[4], "leading", "N4"),
            "output": (Q(1, 3), "exact", BETA[3], "leading", "N2"),
            "gap": (Q(4, 15), "exact", BETA[3] + UNIFORM_15, "leading", "N3"),
            "ratio": (Q(5), "leading", 25 * (BETA[3] * 9 + UNIFORM_15 * 225), "leading", "N3"),
        },
    ),
    "orthogonal, tanh, rmsnorm": (
        ORTHOGONAL,
        {
            "up": (Q(1, 24), "exact", HAAR_24, "exact", "N1"),
            "gate": None,
            "down": (Q(1, 24), "exact", HAAR_24, "exact", "N1"),
            "all": (Q(1, 48), "exact", isotropic(Q(48)), "leading", "N1"),
            "pre": (Q(1, 4), "exact", BETA[4], "exact", "N1"),
            "hidden": (Q(1, 4), "exact", BETA[4], "leading", "N1"),
            "normed": (Q(1, 4), "exact", BETA[4], "leading", "N1"),
            "output": (Q(1, 6), "exact", BETA[6], "exact", "N2"),
            "gap": (Q(1, 8), "exact", BETA[6] + HAAR_24, "exact", "N3"),
            "ratio": (Q(4), "leading", 16 * (BETA[6] * 36 + HAAR_24 * 576), "leading", "N3"),
        },
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_quantity_by_hand(name):
    """sd is the root of one pair's variance over 3 pairs x 5 trials, except over tokens, which share experts. Means of rectified vectors
    have a law of their own (A6)."""
    spec, expected = BY_HAND[name]
    seen = set()
    for path, value in sg.predict(spec, tokens=9, trials=TRIALS).items():
        seen.add(path[-1])
        if expected[path[-1]] is None:
            assert (value.mean, value.sd, value.kind, value.sd_kind, value.law) == (None,) * 5, path
            assert value.why, path
            continue
        mean, kind, variance, sd_kind, law = expected[path[-1]]
        over_tokens = path[0] == "activation_mso" and path[1] in ("token", "all")
        if law == "A5" and not over_tokens:
            order = "O(1/d_model + 1/d_ff + (n_experts/(tokens*top_k))^2)"
            assert (value.kind, value.law, value.order, value.sd) == ("leading", "A6", order, None), path
            assert K0**2 < value.mean < 1, path
            continue
        assert value.mean == pytest.approx(float(mean), rel=1e-9 if law == "A5" else 1e-14), path
        assert (value.kind, value.law, value.pairs, value.why) == (kind, law, 0 if over_tokens else 15, ""), path
        orders = {"all": "O(1/(d_model*d_ff)^2)", "ratio": "O(d_ff/(pairs*trials))"}
        assert value.order == (orders[path[-1]] if kind == "leading" else ""), path
        assert value.hypotheses, path
        if variance is None:
            assert (value.sd, value.sd_kind) == (None, None), path
        elif over_tokens:
            assert value.sd_kind == "leading", path
            assert value.sd < math.sqrt(variance / 15), path
        else:
            assert value.sd == pytest.approx(math.sqrt(variance / 15), rel=1e-12), path
            assert value.sd_kind == sd_kind, path
    assert seen == set(expected)


def predicted(**change) -> sg.Gap:
    return sg.predict(sg.LayerSpec(**{"d_model": 6, "d_ff": 8, "n_experts": 4} | change), tokens=9, trials=2)


def test_upcycled_experts_have_no_null():
    for path, value in predicted(init="upcycled", gated=True, norm="layernorm").items():
        assert value.mean is None, path
        assert value.why == "init = upcycled: experts share a base, so they are not independent and no null law holds"


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("affine", ["per_expert", "shared"])
def test_a_learned_gain_changes_the_normed_null_and_leaves_the_outputs(norm, affine):
    """Law L1: a shared bias of spread t gives vectors of independent experts the cosine t^2 / (1 + 2 t^2), in the wide limit."""
    gap = predicted(norm=norm, norm_affine=affine, norm_affine_std=0.5, gated=True, d_ff=10**6)
    for reading, sites in gap.activation_mso.items():
        assert (sites["normed"].law, sites["normed"].kind) == ("L1", "leading")
        assert sites["normed"].order.startswith("O(")
        if reading != "mean":
            assert sites["normed"].mean == pytest.approx((0.25 / 1.5) ** 2 if affine == "shared" else 1e-6, rel=1e-3)
        assert (sites["hidden"].mean, sites["output"].mean) == (1e-6, 1 / 6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hidden_vectors_are_sign_symmetric_by_an_odd_activation_or_a_gate(activation):
    odd = activation in ("identity", "tanh", "erf")
    for gated, norm in ((False, "rmsnorm"), (True, "rmsnorm"), (False, "layernorm"), (True, "layernorm")):
        for reading, sites in predicted(activation=activation, gated=gated, norm=norm, d_ff=64).activation_mso.items():
            hidden, normed = sites["hidden"], sites["normed"]
            if odd or gated:
                assert (hidden.mean, hidden.kind, hidden.law) == (1 / 64, "exact", "A7" if gated else "N1")
            else:
                assert (hidden.kind, hidden.law) == (("leading", "A6") if reading == "mean" else ("exact", "A5"))
                assert hidden.mean > 1 / 64
            # RMSNorm changes no angle on a token; over means it only evens out the tokens' norms.
            assert (normed.mean, normed.law) == ((1 / 63, "N4") if norm == "layernorm" else (hidden.mean, hidden.law))
            assert sites["output"].mean == 1 / 6


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"inputs": sg.InputSpec("student", dof=3.0)}, "squared norms have no variance"),
        ({"inputs": sg.InputSpec("powerlaw")}, "law A6 needs isotropic tokens"),
        ({"inputs": sg.InputSpec("sphere", mean=0.5)}, "inputs = sphere, with a mean: law A6 needs isotropic tokens"),
        ({"router": "expert_choice"}, "the common direction of its tokens follows no law here"),
        ({"router": "sigmoid"}, "the common direction of its tokens follows no law here"),
    ],
)
def test_rectified_vectors_without_a_law_say_why(change, reason):
    hidden = predicted(**change).activation_mso["mean"]["hidden"]
    heavy = "no variance" in reason
    if heavy:
        hidden = predicted(**change).activation_mso["token"]["hidden"]
    assert hidden.mean is None
    assert reason in hidden.why


@pytest.mark.parametrize(
    "change, order",
    [
        ({}, ""),
        ({"inputs": "clusters", "init": "xavier_normal"}, ""),
        ({"init": "kaiming_uniform"}, "O(1/d_model)"),
        ({"router": "expert_choice", "init": "orthogonal"}, "O(1/d_model)"),
        ({"inputs": sg.InputSpec("sphere", mean=1.0)}, "O(1/D^2), D = 12 the effective dimension of the tokens' norms"),
        ({"inputs": sg.InputSpec("powerlaw", alpha=0.0)}, "O(1/D^2), D = 6 the effective dimension of the tokens' norms"),
        ({"inputs": sg.InputSpec("student", dof=7.0)}, "O(1/D^2), D = 3 the effective dimension of the tokens' norms"),
    ],
)
def test_hidden_overlap_on_a_token_is_exact_for_gaussian_weights_and_tokens(change, order):
    """Effective dimensions by hand, d = 6: 2 (1 + m^2)^2 d / (4 m^2) on a sphere; (sum l)^2 / sum l^2; 2 d / (kurtosis - 1), kurtosis 5 at
    7 degrees of freedom."""
    hidden = predicted(**change).activation_mso["token"]["hidden"]
    assert (hidden.law, hidden.kind, hidden.order) == ("A5", "leading" if order else "exact", order)
    mean = predicted(**change).activation_mso["mean"]["pre"]
    assert (mean.mean, mean.order) == (1 / 8, "")


def test_only_a_linear_site_has_an_exact_spread():
    mean = predicted(activation="identity").activation_mso["mean"]
    assert mean["hidden"].sd_kind == "exact"
    assert mean["hidden"].isotropic
    for change in ({"activation": "identity", "gated": True}, {"activation": "tanh"}):
        hidden = predicted(**change).activation_mso["mean"]["hidden"]
        assert (hidden.sd_kind, hidden.isotropic) == ("leading", False)
        assert any("kurtosis" in h for h in hidden.hypotheses)
    assert predicted().activation_mso["mean"]["hidden"].sd is None


def test_one_expert_to_a_token_leaves_no_token_reading():
    gap = predicted(top_k=1)
    for site, value in gap.activation_mso["token"].items():
        assert (value.mean, value.why) == (None, "top_k = 1: no token meets two experts"), site
    assert gap.activation_mso["all"]["output"].mean == gap.activation_mso["mean"]["output"].mean == 1 / 6
    assert predicted(top_k=1, router="expert_choice").activation_mso["token"]["output"].mean == 1 / 6


def test_what_a_layer_lacks_says_so():
    gap = predicted()
    assert (gap.weight_mso["gate"].mean, gap.weight_mso["gate"].why) == (None, "gated = false: there is no W_gate")
    for reading in gap.activation_mso.values():
        assert (reading["normed"].mean, reading["normed"].why) == (None, "norm = none: there is no normed site")
    assert gap.shared is None
    assert gap.routing == {}


def test_one_dimension_leaves_nothing_to_chance():
    gap = predicted(d_model=1, d_ff=1, activation="identity")
    assert (gap.weight_mso["up"].mean, gap.weight_mso["up"].sd) == (1, 0)
    assert (gap.gap.mean, gap.gap.sd, gap.ratio.mean, gap.ratio.sd) == (0, 0, 1, 0)


def test_pairs_of_routed_and_shared_experts():
    gap = sg.predict(sg.LayerSpec(d_model=6, d_ff=8, n_experts=4, n_shared_experts=2), tokens=9, trials=3)
    assert gap.gap.pairs == 6 * 3
    assert gap.shared.gap.pairs == 4 * 2 * 3
    assert gap.shared.shared is None
    for (path, routed), (_, across) in zip(gap.items(), gap.shared.items(), strict=True):
        if routed.law == "A6":
            # A shared expert's mean is over all tokens: more of them, and no common direction.
            assert across.mean > routed.mean, path
        else:
            assert across.mean == routed.mean, path
        if routed.sd is not None and path != ("ratio",) and path[1:2] not in (("token",), ("all",)):
            assert across.sd == pytest.approx(routed.sd * math.sqrt(18 / 24), rel=1e-13), path
    assert any("shared experts kept apart" in h for h in gap.activation_mso["mean"]["output"].hypotheses)


def test_only_what_was_asked_for():
    gap = sg.predict(PLAIN, sites=("output", "pre"), readings=("token",), weights=("down",))
    assert (list(gap.weight_mso), list(gap.activation_mso)) == (["down"], ["token"])
    assert list(gap.activation_mso["token"]) == ["pre", "output"]


@pytest.mark.parametrize("name", BY_HAND)
def test_as_dict_is_json_without_nan(name):
    plain = sg.predict(dataclasses.replace(BY_HAND[name][0], n_shared_experts=1)).as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain) == {"weight_mso", "activation_mso", "gap", "ratio", "shared", "quantities"}
    assert plain["quantities"]["shared gap"] == plain["shared"]["gap"]
    assert plain["quantities"]["weight_mso up"] == plain["weight_mso"]["up"]
    assert plain["weight_mso"]["up"]["kind"] == "exact"
    assert ("why" in plain["weight_mso"]["gate"]) == (plain["weight_mso"]["gate"]["mean"] is None)


# Sample size fixed beforehand: 32 experts (496 pairs) and 40 trials leave 1% of the null, and 5 sigma is the line. To a mean of leading
# order its own error is granted: norms replaced by their means shift it by less than 1 / (d f), relative.
WIDE = sg.LayerSpec(d_model=8, d_ff=40, n_experts=32)
INITS = ["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal"]
ONE_VARIANCE, KAIMING = 1 / 640, (64 + 1600) / (48**2 * 320)


def agrees(measured, law: float, granted: float = 0.0) -> bool:
    beyond = max(0.0, abs(measured.mean - law) - granted * law)
    return student_p(beyond / measured.sem, measured.trials - 1) > FIVE_SIGMA


@pytest.mark.parametrize("init", INITS)
def test_all_weights_together(init):
    """d^2 + f^2 over (d + f)^2 d f for Kaiming, whose W_up and W_down differ in scale; 1/(2 d f) for the rest. Each fails the other's."""
    spec = dataclasses.replace(WIDE, init=init)
    chosen = {"tokens": 1, "trials": 40, "sites": (), "readings": ()}
    measured, null = sg.measure(spec, seed=4, **chosen).weight_mso, sg.predict(spec, **chosen).weight_mso
    kaiming = init.startswith("kaiming")
    right, wrong = (KAIMING, ONE_VARIANCE) if kaiming else (ONE_VARIANCE, KAIMING)
    granted = 1 / 320 if kaiming else 0.0
    assert null["all"].mean == pytest.approx(right, rel=1e-14)
    assert null["all"].kind == ("leading" if kaiming else "exact")
    assert agrees(measured["all"], right, granted)
    assert not agrees(measured["all"], wrong, 1 / 320)
    for kind in ("up", "down"):
        assert measured[kind].sem < 0.02 * null[kind].mean
        assert agrees(measured[kind], null[kind].mean)
        assert not agrees(measured[kind], 1.15 * null[kind].mean)


# Sample size fixed beforehand: 3000 layers of 4 experts; the spread over them against the predicted sd of one, in units of the standard
# error of a sample variance, sqrt((m4 - m2^2) / n). Share moments of uniform entries are ratios of expectations: 1/N of the variance is
# granted.
LAYERS = 3000


@pytest.mark.parametrize(
    "init, d, f, granted, twin",
    [
        ("orthogonal", 2, 2, 0.0, "kaiming_normal"),
        ("orthogonal", 4, 2, 0.0, None),
        ("orthogonal", 3, 5, 0.0, None),
        ("kaiming_uniform", 2, 2, 1 / 4, None),
        ("xavier_uniform", 4, 3, 1 / 12, None),
        ("kaiming_uniform", 6, 8, 1 / 48, None),
        ("kaiming_normal", 2, 2, 0.0, "orthogonal"),
    ],
)
def test_spread_of_weight_overlap_over_layers(init, d, f, granted, twin):
    """The twins: a spread a third too wide fails for every init, and of 2 x 2 matrices Haar's and the Gaussian's fail for each other."""
    spec = sg.LayerSpec(d_model=d, d_ff=f, n_experts=4, init=init)
    chosen = {"tokens": 1, "sites": (), "readings": (), "weights": ("up", "down")}
    measured = sg.measure(spec, trials=LAYERS, seed=9, **chosen).weight_mso
    null = sg.predict(spec, trials=1, **chosen).weight_mso
    for kind in ("up", "down"):
        centred = measured[kind].values - measured[kind].mean
        variance = float((centred**2).mean())
        error = math.sqrt((float((centred**4).mean()) - variance**2) / LAYERS)
        predicted_variance = null[kind].sd ** 2
        assert abs(variance - predicted_variance) < 5 * error + granted * predicted_variance, kind
        assert abs(variance - (4 / 3) ** 2 * predicted_variance) > 5 * error + granted * predicted_variance, kind
        if twin:
            other = sg.predict(dataclasses.replace(spec, init=twin), trials=1, **chosen).weight_mso[kind].sd ** 2
            assert abs(variance - other) > 5 * error, kind
        assert np.isfinite(measured[kind].values).all()


def test_at_top_1_a_token_still_meets_its_routed_and_its_shared_expert():
    predicted = sg.predict(sg.LayerSpec(d_model=6, d_ff=8, n_experts=4, top_k=1, n_shared_experts=2))
    assert predicted.activation_mso["token"]["output"].mean is None
    assert predicted.shared.activation_mso["token"]["output"].mean == pytest.approx(1 / 6)


CHANCE = (lambda square: (1 - square) * (1 - 2 * square), lambda square: (1 - square) ** 2, lambda square: 1 - square)


@pytest.mark.parametrize(("d", "f"), [(3, 8), (4, 16), (8, 24)])
def test_the_floor_of_linear_experts_in_closed_form(d, f):
    """Hidden vectors of two tokens at cosine rho are samples of correlated normals, whose E cos^2 is Q of f dimensions, exactly; its first
    order, rho^2 + (1 - rho^2)(1 - 2 rho^2)/f, is near, and with (1 - rho^2)^2 or 1 - rho^2 in place of it is not."""
    spec = sg.LayerSpec(d_model=d, d_ff=f, n_experts=4, top_k=4, router="soft", activation="identity", inputs="sphere")
    tokens = 10**7
    sd = sg.predict(spec, tokens=tokens, trials=1, readings=("all",)).activation_mso["all"]["output"].sd

    def spread(cosine_squared) -> float:
        def covariance(rho):
            return 2 * (output_alignment(d, np.sqrt(cosine_squared(rho))) - 1 / d) ** 2 / ((d + 2) * (d - 1))

        return math.sqrt((over_cosines(covariance, d) * (1 - 1 / tokens) + 2 * (d - 1) / (d**2 * (d + 2)) / tokens) / 6)

    exact = spread(lambda rho: output_alignment(f, rho))
    assert sd == pytest.approx(exact, rel=1e-9)
    first, *twins = (spread(lambda rho, chance=chance: rho**2 + chance(rho**2) / f) for chance in CHANCE)
    assert all(abs(twin / exact - 1) > max(0.01, 2 * abs(first / exact - 1)) for twin in twins)

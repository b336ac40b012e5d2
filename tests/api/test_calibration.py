"""Measured against predicted (law N7): every number by hand, p-values uniform under the null, and what is said in words."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats as oracle

import simgap as sg
from simgap.api.calibration import Asked, Comparison, compare, compare_all, is_overlap, sentence, verdict
from simgap.nulls import Prediction, mean_overlap, null_of, vector_overlap, weight_overlap
from simgap.quantities import READINGS, ROUTED, SHARED, SITES, Quantity
from simgap.stats import LEVEL, Estimate, moment_matched_p
from simgap.theory.gap_law import gap_p, ratio_p
from simgap.theory.mso_law import mso_distribution, mso_p
from simgap.theory.pearson import matched_law

# Two-sided 5 sigma.
FIVE_SIGMA = math.erfc(5 / math.sqrt(2))
NULL = Prediction(0.125, 0.01, "exact", "exact", "N2", (), 100)


def test_an_overlap_by_hand():
    found = compare(Estimate(0.15, 0.02, 10, 100), NULL)
    assert (found.mean, found.null) == (0.15, 0.125)
    assert found.excess == pytest.approx(1.2, rel=1e-15)
    assert found.scaled_excess == pytest.approx(0.025 / 0.875, rel=1e-13)
    assert found.z == pytest.approx(2.5, rel=1e-13)
    assert found.z_unit == "null sd"
    assert found.effective_dimension == pytest.approx(20 / 3, rel=1e-15)
    assert found.why == ""
    # The Beta law with mean 1/8 and variance 1e-4: a + b = (1/8)(7/8)/1e-4 - 1.
    size = 0.125 * 0.875 / 1e-4 - 1
    assert found.p == pytest.approx(2 * oracle.beta(0.125 * size, 0.875 * size).sf(0.15), rel=1e-9)


def test_a_gap_may_lie_outside_the_unit_interval():
    """No Beta law, no scaled excess and no dimension there: p is the normal's."""
    found = compare(Estimate(1.5, 0.1, 10, 100), Prediction(1.0, 0.2, "exact", "exact", "N3", (), 100), overlap=False)
    assert (found.excess, found.z_unit) == (1.5, "null sd")
    assert found.z == pytest.approx(2.5)
    assert found.p == pytest.approx(2 * oracle.norm.sf(2.5), rel=1e-12)
    assert (found.scaled_excess, found.effective_dimension) == (None, None)
    zero = compare(Estimate(0.01, 0.1, 10, 100), Prediction(0.0, 0.2, "exact", "exact", "N3", (), 100), overlap=False)
    assert zero.excess is None
    assert zero.z == pytest.approx(0.05)


def test_lost_pairs_widen_the_null():
    whole, quarter = (compare(Estimate(0.15, None, 10, pairs), NULL) for pairs in (100, 25))
    assert quarter.z == pytest.approx(whole.z / 2, rel=1e-13)
    assert quarter.p > whole.p


@pytest.mark.parametrize("pairs", [0, 100, 101, 5000])
def test_more_pairs_than_the_null_has_do_not_narrow_it(pairs):
    """Token readings count a pair on every token; the null's sd counts experts."""
    assert compare(Estimate(0.15, None, 10, pairs), NULL).z == pytest.approx(2.5, rel=1e-13)


def test_without_a_null_sd_the_unit_is_the_sem_and_p_is_students():
    found = compare(Estimate(0.15, 0.01, 6, 100), dataclasses.replace(NULL, sd=None, sd_kind=None))
    assert found.z_unit == "sem"
    assert found.z == pytest.approx(2.5)
    assert found.p == pytest.approx(2 * oracle.t(5).sf(2.5), rel=1e-10)
    assert found.excess == pytest.approx(1.2)


def test_one_trial_without_a_null_sd_has_no_z_and_says_why():
    found = compare(Estimate(0.15, None, 1, 100), dataclasses.replace(NULL, sd=None, sd_kind=None))
    assert (found.z, found.z_unit, found.p) == (None, None, None)
    assert found.why == "no spread is known: one trial, and no law for the sd"
    assert found.excess == pytest.approx(1.2)
    assert found.as_dict()["why"] == found.why


def test_what_is_missing_on_either_side_stays_missing_with_its_reason():
    unmeasured = compare(Estimate.missing("not measured"), NULL)
    assert unmeasured == Comparison(None, 0.125, why="not measured")
    no_null = compare(Estimate(0.2, 0.01, 5, 10), Prediction.missing("no law"))
    assert no_null == Comparison(0.2, None, effective_dimension=5.0, why="no law", pairs=10)
    assert "why" not in compare(Estimate(0.15, 0.02, 10, 100), NULL).as_dict()


def test_an_overlap_of_zero_has_no_effective_dimension():
    found = compare(Estimate(0.0, 0.0, 3, 100), NULL)
    assert (found.excess, found.effective_dimension) == (0, None)
    assert found.scaled_excess == pytest.approx(-1 / 7)


def test_an_overlap_of_zero_has_a_p():
    """Of a law that is continuous, that of what round-off leaves nothing of; of others, Cantelli's 2 sd^2 / (sd^2 + mean^2)."""
    found = compare(Estimate(0.0, None, 1, 100), NULL)
    assert found.p == pytest.approx(2e-4 / (1e-4 + 0.125**2), rel=1e-12)
    assert compare(Estimate(0.0, None, 1, 100), dataclasses.replace(NULL, sd=0.125)).p == 1
    isotropic = Prediction(1 / 64, math.sqrt(2 * 63 / (64**2 * 66)), "exact", "exact", "N1", (), 1, isotropic=True)
    found = compare(Estimate(0.0, None, 1, 1), isotropic, experts=2)
    assert found.p == pytest.approx(2 * oracle.beta(0.5, 31.5).cdf(2.0**-104), rel=1e-9)
    assert 0 < found.p < 1e-13


def test_zeros_that_chance_gives_are_not_called_rare():
    """Gated ReLU vectors of two entries, one token: two of the three ways that one is not dead leave an entry 0, so that of 9 equally
    frequent pairs 2 never meet. A continuous law gives them p = 0."""
    spec = sg.LayerSpec(d_model=4, d_ff=2, n_experts=2, top_k=2, router="soft", gated=True, activation="relu")
    chosen = {"tokens": 1, "sites": ("hidden",), "readings": ("mean",), "weights": ()}
    values = sg.measure(spec, trials=900, seed=3, **chosen).activation_mso["mean"]["hidden"].values
    values = values[~np.isnan(values)]
    null = sg.predict(spec, trials=1, **chosen).activation_mso["mean"]["hidden"]
    assert abs((values == 0).mean() - 2 / 9) < 5 * math.sqrt(2 / 9 * 7 / 9 / len(values))
    assert compare(Estimate(0.0, None, 1, 1), null, experts=2).p > 0.05
    assert moment_matched_p(0.0, null.mean, null.sd) == 0


@pytest.mark.parametrize("trials", [1, 3])
def test_p_of_isotropic_pairs_is_that_of_so_many_trials(trials):
    """Law N1B at 4 experts: 6 pairs of each trial, and of as many trials as were measured; a p of another number of trials is another."""
    sd = math.sqrt(2 * 15 / (16**2 * 18) / (6 * trials))
    null = Prediction(1 / 16, sd, "exact", "exact", "N1", (), 6 * trials, isotropic=True)
    found = compare(Estimate(0.11, None, trials, 6 * trials), null, experts=4)
    assert found.p == pytest.approx(mso_p(0.11, 16, 6, trials, 4), rel=1e-12)
    for other in (trials + 1, 6 * trials):
        assert abs(found.p / mso_p(0.11, 16, 6, other, 4) - 1) > 0.2


@pytest.mark.parametrize("trials", [1, 3])
def test_p_of_gap_and_ratio_is_that_of_their_sides(trials):
    """Of all pairs of isotropic vectors: the laws N1B of either side, at the trials that were measured; lost pairs widen the output's."""
    spec = sg.LayerSpec(d_model=6, d_ff=9, n_experts=4)
    null = sg.predict(spec, tokens=8, trials=trials)
    laws = [mso_distribution(n, 6, trials, 4) for n in (6, 54)]
    for name, value, p_of in (("gap", 0.3, gap_p), ("ratio", 20.0, ratio_p)):
        found = compare(Estimate(value, None, trials, 6 * trials), getattr(null, name), overlap=False, experts=4)
        assert found.p == p_of(np.array([value]), *laws)[0]
        fewer = compare(Estimate(value, None, trials, 3 * trials), getattr(null, name), overlap=False, experts=4)
        assert fewer.z == pytest.approx(found.z / math.sqrt(2), rel=1e-12)
        output = matched_law(1 / 6, null.activation_mso["mean"]["output"].sd * math.sqrt(2))
        assert fewer.p == p_of(np.array([value]), output, laws[1])[0]
        across = compare(Estimate(value, None, trials, 6 * trials), getattr(null, name), overlap=False)
        pairs = [matched_law(side.mean, side.sd) for side in getattr(null, name).sides]
        assert across.p == p_of(np.array([value]), *pairs)[0]


def test_in_one_dimension_gap_and_ratio_are_those_of_the_weights_alone():
    spec = sg.LayerSpec(d_model=1, d_ff=7, n_experts=2)
    null = sg.predict(spec, tokens=8, trials=1)
    p = mso_p(0.4, 7, 1, 1, 2)
    assert compare(Estimate(0.6, None, 1, 1), null.gap, overlap=False, experts=2).p == pytest.approx(p, rel=1e-12)
    assert compare(Estimate(2.5, None, 1, 1), null.ratio, overlap=False, experts=2).p == pytest.approx(p, rel=1e-12)


SPEC = sg.LayerSpec(d_model=6, d_ff=9, n_experts=4, n_shared_experts=1)


def test_a_whole_gap_in_the_same_shape():
    # As many pairs with the shared expert as without it: only what they are pairs of tells them apart.
    spec = dataclasses.replace(SPEC, n_experts=3)
    measured, predicted = sg.measure(spec, tokens=8, trials=3), sg.predict(spec, tokens=8, trials=3)
    found = sg.calibrate(measured, predicted)
    for side, m, p in ((found, measured, predicted), (found.shared, measured.shared, predicted.shared)):
        nulls = dict(p.items())
        assert [path for path, _ in side.items()] == [path for path, _ in m.items()]
        # Pairs with a shared expert are not all pairs of anything.
        experts = 0 if m is measured.shared else 3
        for (path, judged), (_, value) in zip(side.items(), m.items(), strict=True):
            assert judged == compare(value, nulls[path], overlap=path[0] not in ("gap", "ratio"), experts=experts)
        others = [compare(value, nulls[path], path[0] not in ("gap", "ratio"), 3 - experts) for path, value in m.items()]
        assert [judged for _, judged in side.items()] != others
    assert found.activation_mso["mean"]["output"].excess == pytest.approx(6 * measured.activation_mso["mean"]["output"].mean)


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_many_at_once_have_the_bits_of_each_alone(trials):
    # Laws of every kind, experts without a token, one dimension in which all is equal, and upcycled ones that have no law.
    changes = [{}, {"d_ff": 1}, {"router": "sigmoid", "activation": "relu"}, {"init": "upcycled"}, {"n_experts": 16, "d_model": 16}]
    asked = []
    for seed in range(6):
        for change in changes:
            spec = dataclasses.replace(SPEC, **change)
            nulls = sg.predict(spec, tokens=8, trials=trials)
            for quantity, value in sg.measure(spec, tokens=8, trials=trials, seed=seed).values.items():
                asked.append(Asked(value, nulls[quantity], is_overlap(quantity), spec.n_experts))
    found = compare_all(asked)
    assert found == [compare(*one) for one in asked]
    assert compare_all(asked[100:5:-3]) == found[100:5:-3]
    assert compare_all([]) == []
    assert {one.z_unit for one in found} == ({None, "null sd"} if trials == 1 else {None, "null sd", "sem"})


def test_gaps_that_do_not_belong_together_are_refused():
    measured = sg.measure(SPEC, tokens=8, trials=3)
    with pytest.raises(ValueError, match="measured, predicted: expected gaps of one spec, got two different ones"):
        sg.calibrate(measured, sg.predict(dataclasses.replace(SPEC, d_ff=10), tokens=8, trials=3))
    with pytest.raises(ValueError, match="predicted: expected tokens = 8 as measured, got 1024"):
        sg.calibrate(measured, sg.predict(SPEC, trials=3))
    with pytest.raises(ValueError, match="predicted: expected trials = 3 as measured, got 4"):
        sg.calibrate(measured, sg.predict(SPEC, tokens=8, trials=4))


# 1500 layers, fixed beforehand; each is one draw of p, so Kolmogorov's distance has the same line for every null.
DRAWS = 1500


def p_values(n_experts: int, prepare=None, experts: int = 0) -> dict[str, np.ndarray]:
    """p of the mean output overlap and of the weight overlap of each of DRAWS layers, one trial each."""
    spec = sg.LayerSpec(d_model=16, d_ff=4, n_experts=n_experts, top_k=n_experts, router="soft", activation="relu")
    chosen = {"weights": ("up",), "sites": ("output",), "readings": ("mean",)}
    measured = sg.measure(spec, tokens=12, trials=DRAWS, seed=8, prepare=prepare, **chosen)
    null = sg.predict(spec, tokens=12, trials=1, **chosen)
    sides = {
        "output": (measured.activation_mso["mean"]["output"], null.activation_mso["mean"]["output"]),
        "up": (measured.weight_mso["up"], null.weight_mso["up"]),
    }
    return {
        name: np.array([compare(Estimate(v, None, 1, p.pairs), p, experts=experts).p for v in m.values.tolist() if not math.isnan(v)])
        for name, (m, p) in sides.items()
    }


@pytest.mark.parametrize("n_experts, experts", [(2, 0), (8, 0), (2, 2), (8, 8)])
def test_p_is_uniform_under_the_null(n_experts, experts):
    """One pair: the Beta law is exact. 28 pairs: it is matched in two moments, or where they are known to be all pairs by law N1B, and
    what is left stays under the same line."""
    for name, p in p_values(n_experts, experts=experts).items():
        assert len(p) > 0.99 * DRAWS
        assert oracle.kstest(p, "uniform").pvalue > FIVE_SIGMA, name


def test_p_is_not_uniform_for_experts_that_share_something():
    """The biased twin, by the same test."""

    def tied(weights):
        common = weights.down[:, :1]
        return dataclasses.replace(weights, up=weights.up + 0.5 * weights.up[:, :1], down=torch.add(weights.down, common, alpha=0.5))

    for name, p in p_values(8, tied).items():
        assert oracle.kstest(p, "uniform").pvalue < FIVE_SIGMA, name


def spoken(value: Estimate, null: Prediction) -> str:
    measured = sg.measure(SPEC, tokens=4, trials=1, weights=("up",), sites=("output",), readings=("mean",))
    judged = sg.calibrate(measured, sg.predict(SPEC, tokens=4, trials=1))
    return sentence(measured, dataclasses.replace(judged, values={Quantity("activation_mso", "mean", "output"): compare(value, null)}))


SUPPOSED = "independent, sign-symmetric, equally scaled weights give, at the level 0.001"


@pytest.mark.parametrize(
    "mean, said",
    [
        (0.13, "1.04 times its null, z 0.5 null sd, p 0.61: nothing to explain at the level 0.001"),
        (0.25, f"2 times its null, z 12.5 null sd, p 8.1e-25: more than {SUPPOSED}"),
        (0.95, f"7.6 times its null, z 82.5 null sd, p < 1e-300: more than {SUPPOSED}"),
        (0.0625, f"0.5 times its null, z -6.2 null sd, p 4.3e-14: less than {SUPPOSED}"),
    ],
)
def test_the_sentence(mean, said):
    assert spoken(Estimate(mean, None, 1, 100), NULL) == f"output overlap is {said}"


def test_the_sentence_where_something_is_missing():
    upcycled = "output overlap is 0.25; no null to hold it against: experts share a base"
    assert spoken(Estimate(0.25, None, 1, 100), Prediction.missing("experts share a base")) == upcycled
    assert spoken(Estimate.missing("no trial"), NULL) == "output overlap was not measured: no trial"
    measured = sg.measure(SPEC, tokens=4, trials=1, sites=("hidden",), readings=("token",))
    judged = sg.calibrate(measured, sg.predict(SPEC, tokens=4, trials=1))
    assert sentence(measured, judged) == "output overlap was not measured: mean output not asked for"


def test_the_verdict_turns_at_one_in_a_thousand():
    assert LEVEL == 1e-3
    assert verdict(3.0, 1.001e-3) == "nothing to explain at the level 0.001"
    more = "more than independent, sign-symmetric, equally scaled weights give, at the level 0.001"
    assert verdict(3.0, 1e-3) == verdict(3.0, 0.0) == more
    assert verdict(-3.0, 0.999e-3) == more.replace("more", "less")
    assert verdict(2.0, 0.04, level=0.05, of="vectors alone") == "more than vectors alone give, at the level 0.05"


def test_the_unit_of_z_is_said():
    assert "z 2.5 null sd, p " in str(compare(Estimate(0.15, 0.01, 6, 100), NULL))
    assert "z 2.5 sem, p 0.054: nothing" in str(compare(Estimate(0.15, 0.01, 6, 100), dataclasses.replace(NULL, sd=None, sd_kind=None)))


def test_what_no_law_is_written_for_has_none():
    """A site, reading or weight that is added to what can be asked for, and to nothing else."""
    spec = sg.LayerSpec(d_model=6, d_ff=9, n_experts=4, n_shared_experts=1, norm="rmsnorm", gated=True)
    new = [Quantity("activation_mso", reading, "new") for reading in READINGS] + [Quantity("activation_mso", "new", site) for site in SITES]
    new += [Quantity("weight_mso", site="new"), Quantity("new"), Quantity("gap", "new")]
    for quantity in (q.on(side) for q in new for side in (ROUTED, SHARED)):
        # By the road that every null takes, and by the file that is asked for what its metric has not got.
        values = [null_of(spec, sg.RunSpec(), quantity)]
        values += [file.null(spec, sg.RunSpec(), quantity) for file in (weight_overlap,) if quantity.metric == "weight_mso"]
        values += [
            file.null(spec, sg.RunSpec(), quantity) for file in (mean_overlap, vector_overlap) if quantity.metric == "activation_mso"
        ]
        for value in values:
            assert value.why.startswith("no law"), quantity
            assert (value.mean, value.sd, value.kind, value.error) == (None,) * 4, quantity
            judged = compare(Estimate(0.1, 0.01, 5, 10), value, is_overlap(quantity))
            assert (judged.null, judged.excess, judged.z, judged.p, judged.why) == (None, None, None, None, value.why)
    assert not is_overlap(Quantity("cka", "new"))


def test_uneven_losses_widen_the_null_by_the_trials_they_hit():
    """Two trials, one with all 10 pairs and one with 1: the mean of two means has variance v (1/10 + 1) / 4, not v / 11."""
    null = Prediction(0.1, 0.02, "exact", "exact", "N2", (), 20)
    even = compare(Estimate.of(np.array([0.2, 0.2]), np.array([10, 10])), null)
    uneven = compare(Estimate.of(np.array([0.2, 0.2]), np.array([10, 1])), null)
    assert even.z == pytest.approx(5)
    assert uneven.z == pytest.approx(5 / math.sqrt(20 * 1.1 / 4))
    assert even.null_kind == "exact"


def test_predictions_are_found_where_none_are_given():
    spec = sg.LayerSpec(d_model=6, d_ff=10, n_experts=4, n_shared_experts=1)
    measured = sg.measure(spec, tokens=9, trials=3, sites="output", readings="mean", weights="up")
    judged = sg.calibrate(measured)
    assert judged == sg.calibrate(measured, sg.predict(spec, tokens=9, trials=3))
    assert list(judged.values) == list(measured.values)
    assert judged["shared gap"].z is not None
    assert sg.calibrate(measured.shared)["shared activation_mso mean output"] == judged["shared activation_mso mean output"]
    assert measured.shared.gap.mean == measured["shared gap"].mean
    assert measured.shared.shared is None

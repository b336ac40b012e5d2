"""Chance levels of routing: a router that chooses at random has them, one that reads tokens has not."""

import math

import numpy as np
import pytest

import simgap as sg
from simgap.api.batch import Request, gathered, measure_batch
from simgap.api.calibration import Asked, compare_all, p_of
from simgap.metrics.routing import QUANTITIES, largest_coactivation, load_statistics, tokens_shared
from simgap.nulls.routing import balanced, null
from simgap.selection import select
from simgap.stats import Estimate
from simgap.theory.pearson import Standard

NAMES = ("load_entropy", "effective_experts", "max_violation", "max_coactivation")
RUN = {"tokens": 128, "metrics": "routing"}
SEEDS = 400


def p_values(router, trials=2):
    """Of each statistic, over layers that differ in their seed."""
    spec, routing = sg.LayerSpec(d_model=4, d_ff=2, n_experts=6, top_k=2, router=router), select(metrics="routing")
    null = sg.predict(spec, trials=trials, **RUN)
    runs = [sg.RunSpec(tokens=RUN["tokens"], trials=trials, seed=seed) for seed in range(SEEDS)]
    layers = zip(runs, measure_batch([Request(spec, run) for run in runs], routing), strict=True)
    judged = [sg.calibrate(gathered(spec, run, sums, routing), null) for run, sums in layers]
    return {name: np.array([one[f"routing {name}"].p for one in judged]) for name in NAMES}


def test_a_router_that_chooses_at_random_is_balanced():
    """400 layers, fixed beforehand; the rate of p below a level within 5 sigma of it."""
    for name, p in p_values("uniform").items():
        for level in (0.05, 0.01):
            assert abs(np.mean(p < level) - level) < 5 * math.sqrt(level * (1 - level) / SEEDS), name


def test_a_router_that_reads_tokens_is_not():
    for name, p in p_values("linear").items():
        assert np.mean(p < 0.05) > 0.5, name


@pytest.mark.parametrize("tokens, experts, trials", [(60, 8, 1), (60, 8, 3), (128, 6, 1)])
def test_far_out_the_rate_is_that_of_the_level(tokens, experts, trials):
    """6,000 layers of balanced routing, fixed beforehand: few choices, loads that are whole numbers, p from the draws. The draws' own error
    counts. p may be too large, where the statistic takes few values."""
    layers = 6000
    chosen = np.argpartition(np.random.default_rng(0).random((layers, tokens, experts), np.float32), 2, -1)[..., :2]
    taken = np.stack([np.bincount(of.ravel(), minlength=experts) for of in chosen])
    found = (*load_statistics(taken), largest_coactivation(tokens_shared(chosen, experts), taken))
    spec, run = sg.LayerSpec(d_model=4, d_ff=2, n_experts=experts, top_k=2), sg.RunSpec(tokens=tokens, trials=trials)
    by_gamma = []
    for quantity, values in zip(QUANTITIES, found, strict=False):
        of_all = null(spec, run, quantity)
        asked = [Asked(Estimate.of(row), of_all, overlap=False) for row in values.reshape(-1, trials)]
        p = np.array([one.p for one in compare_all(asked)])
        for level in (0.05, 0.01, 0.001):
            error = math.sqrt(level * (1 - level) * (1 / len(asked) + 1 / len(of_all.draws)))
            assert np.mean(p <= level) < level + 5 * error, (quantity, level)
        by_gamma.append(np.mean(by_the_gamma_law(values.reshape(-1, trials).mean(1), of_all) <= 0.001))
    # The twin: the gamma law alone.
    if trials == 1:
        assert max(by_gamma) > 0.001 + 5 * math.sqrt(0.001 * (1 / layers + 1 / 1024))


def by_the_gamma_law(values, one):
    """Two-sided p under the law of Pearson's type III of the null's mean, sd and skew."""
    g = abs(one.skew)
    law = Standard("gamma", (4 / g**2,), one.mean - 2 * one.sd / g, one.sd * g / 2)
    return p_of(values if one.skew > 0 else 2 * one.mean - values, law)


def test_even_loads_are_beyond_all_draws_and_no_less_likely_than_that():
    """Of the side where the skewed law ends no p of 0 is said."""
    even = np.stack([np.arange(64) % 8, np.arange(1, 65) % 8], 1)
    one = sg.measure_arrays(routing=even, metrics="routing")["routing load_entropy"]
    assert one.mean == pytest.approx(math.log(8))
    assert (one.p, one.bound) == (2 / 1025, 1024)


def test_a_skewed_statistic_is_not_held_against_a_normal_law():
    """The twin of the first test: MaxVio of one trial has a skewness near 1, and z alone rejects too often far out."""
    values = balanced(6, ((2, 128),))[2]
    z = (values - values.mean()) / values.std(ddof=1)
    assert (z**3).mean() > 5 * math.sqrt(6 / len(z))
    assert np.mean(z > 3) > 5 * 0.00135


def test_the_published_chance_level_of_maxvio():
    """0.140, sd 0.025, at 64 experts, 8 of them on each of 2,048 tokens: the tables' own simulation, to 5 standard errors of ours."""
    values = balanced(64, ((8, 2048),))[2]
    assert abs(values.mean() - 0.140) < 5 * 0.025 / math.sqrt(len(values)) + 0.0005
    assert values.std(ddof=1) == pytest.approx(0.025, rel=5 / math.sqrt(2 * len(values)) + 0.02)


def test_entropy_of_many_tokens_is_that_of_chi_squared():
    """2 n (log E - H) is chi^2 on E - 1 degrees of freedom where each token takes one expert."""
    entropy = balanced(8, ((1, 4096),))[0]
    scaled = 2 * 4096 * (math.log(8) - entropy)
    assert abs(scaled.mean() - 7) < 5 * math.sqrt(14 / len(scaled))
    assert abs(scaled.mean() - 8) > 5 * math.sqrt(14 / len(scaled))


def test_what_has_no_chance_level_has_none():
    spec = sg.LayerSpec(d_model=4, d_ff=2, n_experts=6, top_k=2)
    assert sg.predict(spec, metrics="routing")["routing dropped_tokens"].why == "no law: what a router drops is its own rule"
    many = sg.predict(spec, tokens=10**8, metrics="routing")["routing load_entropy"]
    assert (many.mean, many.why) == (None, "no law: balanced routing of 100000000 tokens over 6 experts is not simulated")
    # All experts on every token: nothing varies.
    even = sg.predict(sg.LayerSpec(d_model=4, d_ff=2, n_experts=3, top_k=3), tokens=32, metrics="routing")
    assert (even["routing load_entropy"].sd, even["routing max_violation"].mean) == (0.0, 0.0)


def test_the_verdict_names_what_it_supposes():
    spec = sg.LayerSpec(d_model=4, d_ff=2, n_experts=6, top_k=2)
    run = {"tokens": 2048, "trials": 2, "metrics": "routing"}
    judged = sg.calibrate(sg.measure(spec, **run), sg.predict(spec, **run))
    assert "more than balanced, independent choices of experts give" in str(judged["routing max_violation"])

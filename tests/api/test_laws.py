"""Measured means against laws N1, N2 and N4, over the full cross of activations, routers and input kinds.

Sample size fixed beforehand: 32 experts (496 pairs) and 32 trials leave a standard error of 1.1% of the null, up to 1.7% where idle experts
lose pairs. The line is 5 sigma: |z| < 5 where the null's sd is exact, and the same two-sided p where the spread has to be estimated from
the trials.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch

import simgap as sg
from simgap.specs import ACTIVATIONS, InputKind, InputSpec, RouterKind
from simgap.stats import Estimate, student_p

D, F, EXPERTS, TOKENS, TRIALS = 16, 24, 32, 128, 32
FIVE_SIGMA = math.erfc(5 / math.sqrt(2))
INPUTS = {
    "gaussian": InputSpec("gaussian", mean=0.1),
    "sphere": InputSpec("sphere"),
    "powerlaw": InputSpec("powerlaw", alpha=1.0),
    "clusters": InputSpec("clusters", n_clusters=4, separation=0.8),
    "student": InputSpec("student", dof=3.0),
}
ROUTERS = get_args(RouterKind)
Cell = tuple[str, str, str]


def specs() -> Iterator[tuple[Cell, sg.LayerSpec]]:
    """Every activation, router and input kind; gates, norms and inits take turns, so that each meets each of them."""
    turns = itertools.cycle(
        itertools.product((False, True), ("none", "layernorm", "rmsnorm"), ("kaiming_normal", "xavier_uniform", "orthogonal"))
    )
    for (activation, router, inputs), (gated, norm, init) in zip(itertools.product(ACTIVATIONS, ROUTERS, INPUTS), turns, strict=False):
        chosen = {"activation": activation, "router": router, "inputs": INPUTS[inputs], "gated": gated, "norm": norm, "init": init}
        top_k = EXPERTS if router == "soft" else 2
        yield (activation, router, inputs), sg.LayerSpec(d_model=D, d_ff=F, n_experts=EXPERTS, top_k=top_k, **chosen)


@pytest.fixture(scope="module")
def cross() -> dict[Cell, tuple[sg.Gap, sg.Gap]]:
    found = {}
    threads = torch.get_num_threads()
    # Cells too small to share: one thread is quicker, and gives the same bits.
    torch.set_num_threads(1)
    for seed, (cell, spec) in enumerate(specs()):
        readings = ("mean", "all") if spec.router.kind == "soft" else ("mean", "token")
        tokens = TOKENS // 16 if spec.router.kind == "soft" else TOKENS
        chosen = {"tokens": tokens, "trials": TRIALS, "readings": readings}
        # Only the sites that have a law.
        lawful = sg.predict(spec, **chosen).activation_mso["mean"]
        chosen["sites"] = [site for site, prediction in lawful.items() if prediction.mean is not None]
        found[cell] = sg.measure(spec, seed=seed, **chosen), sg.predict(spec, **chosen)
    torch.set_num_threads(threads)
    return found


def five_sigma(measured: Estimate, law: float, sd: float | None) -> bool:
    """Whether a measured mean lies inside 5 sigma of a law."""
    if sd is not None:
        return abs(measured.mean - law) < 5 * sd
    return student_p((measured.mean - law) / measured.sem, measured.trials - 1) > FIVE_SIGMA


def exact_sd(prediction) -> float | None:
    return prediction.sd if prediction.sd_kind == "exact" else None


def test_the_cross_is_full():
    assert len(dict(specs())) == len(ACTIVATIONS) * len(ROUTERS) * len(INPUTS) >= 150
    assert set(INPUTS) == set(get_args(InputKind)) - {"file"}


def test_every_predicted_mean_is_measured_within_five_sigma(cross):
    outside, checked = [], 0
    for cell, (measured, predicted) in cross.items():
        for (path, m), (_, p) in zip(measured.items(), predicted.items(), strict=True):
            if p.mean is None or m.mean is None or p.kind != "exact":
                continue
            checked += 1
            # Pairs lost to idle experts widen the null; the exact sd is for all of them.
            sd = exact_sd(p) if m.pairs == p.pairs else None
            if not five_sigma(m, p.mean, sd):
                outside.append((cell, path, m.mean, m.sem, p.mean))
    assert outside == []
    assert checked > 2000


def test_standard_errors_are_at_most_two_percent_of_the_null(cross):
    """By the null's own spread over the pairs that are left, so that chance in an estimated error does not decide."""
    for cell, (measured, predicted) in cross.items():
        for m, p in (
            *((measured.weight_mso[part], predicted.weight_mso[part]) for part in ("up", "down")),
            (measured.activation_mso["mean"]["output"], predicted.activation_mso["mean"]["output"]),
        ):
            assert p.sd * math.sqrt(p.pairs / m.pairs) < 0.02 * p.mean, cell


@pytest.mark.parametrize(
    "name, wrong",
    [("1/(d+2)", 1 / (D + 2)), ("1/d^2", 1 / D**2), ("1/f", 1 / F), ("law + 10%", 1.1 / D)],
)
def test_wrong_output_laws_fail(cross, name, wrong):
    """Power of the same test against each wrong law: computed from the sample size, and seen over the cells."""
    sd = next(iter(cross.values()))[1].activation_mso["mean"]["output"].sd
    power = 0.5 * math.erfc((5 - abs(1 / D - wrong) / sd) / math.sqrt(2))
    complete = [(m, p) for m, p in cross.values() if m.gap.pairs == p.gap.pairs]
    rejected = [not five_sigma(m.activation_mso["mean"]["output"], wrong, sd) for m, _ in complete]
    assert power > 0.99, name
    assert len(rejected) > 100
    assert sum(rejected) / len(rejected) > 0.99, name


@pytest.mark.parametrize("name, wrong", [("1/(d f + 2)", None), ("1/d^2", 1 / D**2), ("1/f", 1 / F), ("law + 10%", 1.1 / (D * F))])
def test_wrong_weight_laws_fail(cross, name, wrong):
    """1/(N+2) is within the error at N = 384, and must pass: the test is not a machine that says no."""
    rejected = [not five_sigma(m.weight_mso["up"], wrong or 1 / (D * F + 2), exact_sd(p.weight_mso["up"])) for m, p in cross.values()]
    share = sum(rejected) / len(rejected)
    assert share == 0 if wrong is None else share > 0.99, name


def test_layernorm_null_is_not_one_over_f(cross):
    """N4 against its neighbours 1/f and 1/(f-2): the mean over all LayerNorm cells tells them apart."""
    normed = [m.activation_mso["mean"]["normed"] for m, _ in cross.values() if m.spec.norm == "layernorm"]
    mean = sum(e.mean for e in normed) / len(normed)
    sem = math.sqrt(sum(e.sem**2 for e in normed)) / len(normed)
    assert len(normed) > 50
    assert abs(mean - 1 / (F - 1)) < 5 * sem
    assert abs(mean - 1 / F) > 8 * sem
    assert abs(mean - 1 / (F - 2)) > 8 * sem


def test_z_scores_spread_as_they_should(cross):
    """Over the cells, z of the mean output has mean 0 and standard deviation 1: the null's sd is right, not only its mean."""
    zs = [
        (m.activation_mso["mean"]["output"].mean - 1 / D) / p.activation_mso["mean"]["output"].sd
        for m, p in cross.values()
        if p.activation_mso["mean"]["output"].sd_kind == "exact" and m.gap.pairs == p.gap.pairs
    ]
    n = len(zs)
    mean = sum(zs) / n
    spread = math.sqrt(sum((z - mean) ** 2 for z in zs) / (n - 1))
    assert n > 80
    assert abs(mean) < 5 / math.sqrt(n)
    assert abs(spread - 1) < 5 / math.sqrt(2 * n)


def output_z(prepare) -> tuple[float, float]:
    """z of the mean-vector and of the token overlap of outputs of linear experts, after a change of the weights."""
    spec = sg.LayerSpec(d_model=D, d_ff=F, n_experts=EXPERTS, top_k=2, activation="identity")
    chosen = {"tokens": TOKENS, "trials": TRIALS, "readings": ("mean", "token"), "sites": ("output",)}
    calibration = sg.calibrate(sg.measure(spec, prepare=prepare, **chosen), sg.predict(spec, **chosen))
    return tuple(calibration.activation_mso[reading]["output"].z for reading in ("mean", "token"))


def test_a_router_that_reads_w_down_breaks_the_law():
    """N2 lets a router read W_up and never W_down: one that scores tokens by the experts' outputs sends them where outputs align."""

    def by_output(weights):
        rows = weights.up.mT @ weights.down[..., 0, :, None]
        return dataclasses.replace(weights, router=rows.squeeze(-1).contiguous())

    def by_hidden(weights):
        return dataclasses.replace(weights, router=weights.up[:, :, 0].contiguous())

    assert min(output_z(by_output)) > 5
    assert max(map(abs, output_z(by_hidden))) < 5


def test_experts_that_share_w_down_break_the_law():
    def shared(weights):
        return dataclasses.replace(weights, down=weights.down + weights.down[:, :1])

    assert min(output_z(shared)) > 5

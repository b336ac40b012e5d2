"""Directions of mean outputs less their mean, by loops, and beside law T7B."""

import math

import numpy as np
import pytest

import simgap as sg

NAME = "centred_mso output"


def plainly(means):
    """The mean over pairs."""
    units = [m / np.linalg.norm(m) for m in means]
    centre = sum(units) / len(units)
    left = [u - centre for u in units]
    values = [(a @ b) ** 2 / ((a @ a) * (b @ b)) for i, a in enumerate(left) for b in left[:i]]
    return sum(values) / len(values)


def drawn(seed=0):
    g = np.random.default_rng(seed)
    return g.standard_normal((200, 2, 16)) * 10.0 ** g.integers(-3, 4, (200, 1, 1)), g.random((200, 7)).argsort(1)[:, :2]


def test_it_is_what_loops_give():
    h, routing = drawn()
    one = sg.measure_arrays(h, routing, quantities=NAME, null="isotropic")[NAME]
    assert one.mean == pytest.approx(plainly([h[routing == e].mean(0) for e in range(7)]), rel=1e-12)
    assert one.null == pytest.approx(sg.theory.null_centred_directions(16, 7))
    assert one.supposes == "independent experts in a round space"
    assert sg.measure_arrays(h, routing, quantities=NAME)[NAME].why.startswith("no law: signs are not those of vectors less a mean")


def test_lengths_do_not_matter():
    h, routing = drawn()
    scaled = h * np.arange(1.0, 8)[routing][..., None]
    both = [sg.measure_arrays(x, routing, quantities=NAME)[NAME].mean for x in (h, scaled)]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_an_idle_expert_leaves_the_trial_out():
    h, routing = drawn()
    m = sg.measure_arrays(h, routing, n_experts=8, quantities=NAME)
    assert m[NAME].mean is None
    spec = sg.LayerSpec(d_model=16, d_ff=8, n_experts=6, top_k=1)
    few = sg.measure(spec, tokens=16, trials=8, quantities=NAME)[NAME]
    whole = sg.measure(spec, tokens=16, trials=8, quantities="activation_mso mean output")["activation_mso mean output"]
    idle = whole.per_trial < 15
    assert 0 < idle.sum() < 8
    assert np.isnan(few.values[idle]).all()
    assert not np.isnan(few.values[~idle]).any()
    assert "expert" in few.dropped_at


def test_untrained_layers_meet_the_law():
    """200 layers, fixed beforehand: mean and spread within 5 standard errors and what the law leaves out; 1/d is refused."""
    spec = sg.LayerSpec(d_model=16, d_ff=24, n_experts=8, top_k=2, activation="relu")
    m = sg.measure(spec, tokens=100, trials=200, quantities=NAME)
    p = sg.predict(spec, tokens=100, trials=200, quantities=NAME)[NAME]
    one = m[NAME]
    assert (p.kind, p.sd_kind, p.law, p.error) == ("leading", "leading", "T7B", 2 / 16**3)
    assert abs(one.mean - p.mean) < 5 * one.sem + p.error
    assert abs(one.mean - 1 / 16) > 5 * one.sem + p.error
    # The variance is right to 3/d; a standard deviation strays by itself / sqrt(2 n).
    assert one.sem == pytest.approx(p.sd, rel=1.5 / 16 + 5 / math.sqrt(400))
    assert sg.calibrate(m)[NAME].p > 1e-6


def test_where_there_is_no_law():
    def null(**fields):
        return sg.predict(sg.LayerSpec(**({"d_model": 16, "d_ff": 24, "n_experts": 8} | fields)), quantities=NAME)[NAME]

    assert null(init="kaiming_uniform").why == "no law: W_down of init kaiming_uniform has no uniform direction"
    assert "upcycled" in null(init="upcycled").why
    assert null(d_model=4).why == "no law: centred directions have one from width 8"
    assert null(n_experts=5).sd is None
    assert (null(n_experts=2).mean, null(n_experts=2).sd) == (1.0, 0.0)
    assert null(init="orthogonal").mean == null().mean


def test_a_mean_that_was_taken_out_before_leaves_no_null():
    h, routing = drawn()
    means = np.array([h[routing == e].mean(0) for e in range(7)])
    with pytest.raises(ValueError, match="vectors: expected means that are independent, got such that a common mean was taken out of"):
        sg.mean_mso(h - means.mean(0), routing)
    for null in ("law", "isotropic"):
        m = sg.measure_arrays(h - h.mean((0, 1)), routing, metrics=["mean_overlap", "centred_overlap"], null=null)
        assert m["activation_mso mean output"].why.startswith("no law: a common mean was taken out of them")
    assert m[NAME].why == m["activation_mso mean output"].why
    assert sg.measure_arrays(h, routing, metrics="mean_overlap")["activation_mso mean output"].null is not None

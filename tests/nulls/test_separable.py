"""The null of separable second moments for a user's own weights: where rows and columns have scales, in any basis."""

import math

import numpy as np
import pytest
import torch

import simgap as sg


def held(w, name="weight_mso up"):
    return sg.measure_arrays(weights=w if isinstance(w, dict) else {"up": w}, quantities=name, null="separable")[name]


def drawn(g, experts=8, rows=32, columns=16):
    """Rows of own scales, and columns of a power law that a turn hides from the basis."""
    turn = np.linalg.qr(g.standard_normal((columns, columns)))[0]
    scales = np.arange(1, columns + 1) ** -0.8, np.linspace(1, 2, rows)
    return (g.standard_normal((experts, rows, columns)) * scales[0] * scales[1][:, None]) @ turn


def test_independent_experts_meet_it():
    """30 layers, fixed beforehand: the mean is the null's within 5 standard errors and the error that it states, where 1/N and fair signs
    are far off; z spreads by no more than 1."""
    g, off, twins, z = np.random.default_rng(0), [], [], []
    for _ in range(30):
        w = drawn(g)
        one = held(w)
        off.append(one.mean - one.null)
        twins.append((one.mean - 1 / w[0].size, one.mean - sg.weight_mso(w).null))
        z.append(one.z)
    assert one.null_kind == "leading"
    assert abs(np.mean(off)) < 5 * np.std(off) / math.sqrt(30) + one.null_error
    assert 0 < one.null_error < 0.3 * one.null
    for twin in np.transpose(twins):
        assert abs(twin.mean()) > 5 * twin.std() / math.sqrt(30) + one.null_error
    assert np.std(z) < 1 + 5 / math.sqrt(60)


def test_it_is_the_same_transposed_and_in_float32():
    w = drawn(np.random.default_rng(1))
    one = held(w)
    for other in (torch.from_numpy(w).mT.contiguous().mT, w.astype(np.float32), np.asfortranarray(w)):
        assert held(other).null == pytest.approx(one.null, rel=1e-6)
    assert held({"down": w.transpose(0, 2, 1)}, "weight_mso down").null == pytest.approx(one.null, rel=1e-12)


def test_matrices_side_by_side_have_shares_of_their_own():
    g = np.random.default_rng(2)
    up, down = g.standard_normal((4, 32, 16)), 5 * g.standard_normal((4, 16, 32))
    one = held({"up": up, "down": down}, "weight_mso all")
    share = 1 / 26
    assert one.null == pytest.approx((share**2 + (1 - share) ** 2) / 512, rel=0.05)
    assert one.null != pytest.approx(1 / 1024, rel=0.5)


def test_experts_that_are_alike_stand_out():
    w = drawn(np.random.default_rng(3))
    w[1] = w[0]
    one = held(w)
    assert one.p < 1e-3
    assert "more than independent matrices with second moments of rows and columns like these give" in str(one)


def test_what_it_has_nothing_for():
    g = np.random.default_rng(4)
    w = g.standard_normal((3, 8, 4))
    w[1] = 0
    assert held(w).null is not None
    assert held(w[:2]).null is None
    assert (
        held({"up": w, "down": g.standard_normal((3, 4, 8))}, "weight_mso all").why
        == "null = separable: one of an expert's matrices is zero"
    )
    h, routing = g.standard_normal((20, 2, 8)), g.random((20, 3)).argsort(1)[:, :2]
    one = sg.measure_arrays(h, routing, metrics="mean_overlap", null="separable")["activation_mso mean output"]
    assert one.why == "null = separable: not of mean vectors; law, signs, isotropic, random_groups are"

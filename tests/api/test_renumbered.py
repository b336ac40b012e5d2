"""A user's weights with units in any order: what the second null is, what it says beside signs, and what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.api.overlap import SecondNull
from simgap.api.renumbered import DOUBT, verdict_of_both

E, F, D = 8, 64, 16


def independent(seed=0, experts=E):
    return np.random.default_rng(seed).standard_normal((experts, F, D))


def every_order(w):
    """Mean over pairs of cos^2, over all orders of two experts' units: by loops."""
    units = range(w.shape[1])
    total, count = 0.0, 0
    for a, b in itertools.combinations(w, 2):
        norms = math.fsum(x * x for x in a.flat) * math.fsum(x * x for x in b.flat)
        orders = list(itertools.permutations(units))
        total += (
            math.fsum(math.fsum(float(a[i] @ b[j]) for i, j in zip(units, order, strict=True)) ** 2 for order in orders)
            / norms
            / len(orders)
        )
        count += 1
    return total / count


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("kind", ["numpy", "float32", "list", "transposed"])
def test_its_mean_is_that_of_every_order(axis, kind):
    w = np.random.default_rng(1).standard_normal((3, 4, 5)) + 0.3
    w = w if kind != "float32" else w.astype(np.float32)
    given = {"numpy": w, "float32": torch.from_numpy(w), "list": list(w), "transposed": w.swapaxes(1, 2)}[kind]
    found = sg.weight_mso(given, units=3 - axis if kind == "transposed" else axis)
    (second,) = found.beside
    assert second.null == pytest.approx(every_order(w.astype(float) if axis == 1 else w.astype(float).swapaxes(1, 2)), rel=1e-10)
    assert second.excess == pytest.approx(found.mean / second.null, rel=1e-12)
    assert second.z == pytest.approx((found.mean - second.null) / second.null_sd, rel=1e-12)
    assert (second.name, second.law, second.draws) == ("renumbered", "T8", 0)


def test_without_units_nothing_else_changes():
    w = independent()
    alone, both = sg.weight_mso(w), sg.weight_mso(w, units=1)
    assert alone.beside == ()
    assert [getattr(alone, name) for name in ("mean", "null", "null_sd", "p")] == [
        getattr(both, name) for name in ("mean", "null", "null_sd", "p")
    ]
    assert f"; {both.beside[0]}: nothing to explain at the level 0.001" in str(both)


def test_independent_experts_in_any_space_are_within_it():
    """Rotated outliers and a common mean, which signs exceed."""
    rng = np.random.default_rng(2)
    rotated = independent() * np.where(np.arange(D) < 2, 10, 1) @ np.linalg.qr(rng.standard_normal((D, D)))[0]
    mean = rng.standard_normal(D)
    for w in (rotated, independent() + mean - mean.mean()):
        found = sg.weight_mso(w, units=1)
        assert found.p < 1e-3 < found.beside[0].p
        assert found.verdict.startswith("more than signs give, no more than units in any order do: a space that experts share")


def test_a_common_ancestor_exceeds_both():
    found = sg.weight_mso(independent() + np.random.default_rng(3).standard_normal((F, D)), units=1)
    assert max(found.p, found.beside[0].p) < 1e-10
    assert found.verdict.startswith("more than both nulls give: units of the same number are alike, as a common ancestor")


def test_with_its_units_in_another_order_it_does_not():
    rng = np.random.default_rng(4)
    w = independent() + rng.standard_normal((F, D))
    for expert in range(E):
        w[expert] = w[expert, rng.permutation(F)]
    assert sg.weight_mso(w, units=1).beside[0].p > 1e-3


def test_units_of_one_size_exceed_it_alone():
    """Scales of units that experts have in common are no agreement of signs."""
    found = sg.weight_mso(independent() * np.exp(np.random.default_rng(5).standard_normal((F, 1))), units=1, draws=1999)
    assert found.beside[0].p == 1 / 2000 < 1e-3 < found.p
    assert found.beside[0].draws == found.draws == 1999
    assert found.verdict.startswith(
        "more than units in any order give, no more than signs do: units of the same number have one size or shape"
    )


def test_few_large_units_are_named():
    w = independent()
    w[:, 0] *= 20
    found = sg.weight_mso(w, units=1)
    assert found.beside[0].doubt == DOUBT
    assert str(found.beside[0]).endswith(f"({DOUBT})")
    assert sg.weight_mso(w, units=1, draws=19).beside[0].doubt == ""
    assert sg.weight_mso(independent(), units=1).beside[0].doubt == ""


def second(p, doubt=""):
    return SecondNull("renumbered", 0.01, 0.001, 1.0, 0.0, p, "", "", "T8", doubt=doubt)


@pytest.mark.parametrize(
    ("signs", "renumbered", "doubt", "begins"),
    [
        (0.5, 0.5, "", "nothing to explain"),
        (0.5, 0.5, "few", "nothing to explain"),
        (1e-9, 0.5, "", "more than signs give, no more"),
        (0.5, 1e-9, "", "more than units in any order give, no more"),
        (1e-9, 1e-9, "", "more than both nulls give"),
        (1e-9, 1e-9, "few", "cannot tell"),
        (0.5, 1e-9, "few", "cannot tell"),
        (1e-9, 0.5, "few", "cannot tell"),
    ],
)
def test_verdicts(signs, renumbered, doubt, begins):
    assert verdict_of_both(signs, second(renumbered, doubt)).startswith(begins)


@pytest.mark.parametrize(
    ("weights", "units", "message"),
    [
        (np.ones((3, 4, 5)), 0, "units: expected a whole number, at least 1"),
        (np.ones((3, 4, 5)), True, "units: expected a whole number, at least 1"),
        (np.ones((3, 4, 5)), 3, "units: expected the axis of hidden units, 1 for .*, 2 for .*, got 3"),
        (np.ones((3, 20)), 1, "units: expected the axis of hidden units, .* got 1 for shape \\(3, 20\\)"),
        (np.ones((3, 4, 5, 2)), 1, "units: expected the axis of hidden units, .* for shape \\(3, 4, 5, 2\\)"),
        (np.ones((3, 1, 5)), 1, "units: expected at least 2 hidden units along axis 1, got shape \\(3, 1, 5\\)"),
        (np.full((3, 4, 5), np.nan), 1, "weights: expert 0 holds a value that is not finite"),
        (np.zeros((3, 4, 5)), 1, "weights: fewer than 2 experts have a non-zero vector"),
    ],
)
def test_what_is_refused(weights, units, message):
    with pytest.raises(ValueError, match=message):
        sg.weight_mso(weights, units=units)


def test_an_expert_of_zeros_is_left_out_of_both():
    w = independent()
    kept = sg.weight_mso(w[1:], units=1)
    w[0] = 0
    found = sg.weight_mso(w, units=1)
    assert (found.pairs, found.dropped) == (21, 1)
    assert found.beside[0].null == pytest.approx(kept.beside[0].null, rel=1e-12)
    assert found.beside[0].p == pytest.approx(kept.beside[0].p, rel=1e-9)


def test_no_p_is_smaller_than_one_order_among_all():
    w = np.random.default_rng(6).standard_normal((1, 3, 40)).repeat(2, 0)
    assert sg.weight_mso(w, units=1).beside[0].p == pytest.approx(1 / 6, rel=1e-12)


def test_units_that_are_all_alike_explain_nothing():
    unit = np.random.default_rng(7).standard_normal(40)
    w = np.tile(unit - unit.mean(), (2, 5, 1))
    second = sg.weight_mso(w, units=1).beside[0]
    assert (second.null, second.null_sd, second.p) == (pytest.approx(1), 0, 1)


def test_every_matrix_by_name():
    """`measure_arrays` knows which axis its matrices' units are along, and puts them side by side."""
    w = independent()
    up, down = w[..., :10], w[..., 10:].swapaxes(1, 2).copy()
    with pytest.raises(ValueError, match="weights down: expected d_ff = 64, d_model = 10"):
        sg.measure_arrays(weights={"up": up, "down": down}, null="renumbered")
    matrices = {"up": up, "gate": independent(8)[..., :10], "down": independent(9)[..., :10].swapaxes(1, 2)}
    wide = np.concatenate([up, independent(8)[..., :10], independent(9)[..., :10]], 2)
    m = sg.measure_arrays(weights=matrices, null="renumbered")
    for name, whole in (("up", up), ("down", independent(9)[..., :10]), ("all", wide)):
        expected = sg.weight_mso(whole, units=1)
        found = m[f"weight_mso {name}"]
        assert (found.mean, found.null) == pytest.approx((expected.mean, expected.beside[0].null), rel=1e-10)
        assert found.z == pytest.approx(expected.beside[0].z, rel=1e-6)
        assert found.supposes.startswith("hidden units in any order")


def test_other_quantities_have_no_such_null():
    rng = np.random.default_rng(10)
    routing = np.array([rng.permutation(E)[:2] for _ in range(40)])
    m = sg.measure_arrays(rng.standard_normal((40, 2, D)), routing, weights={"up": independent()}, null="renumbered")
    assert m["weight_mso up"].p is not None
    vectors = "not of vectors on a token; law, signs, isotropic, other_token, permuted, random_groups are"
    for name, why in (("activation_mso token output", vectors), ("gap", "of overlaps of weights alone")):
        assert m[name].why == f"null = renumbered: {why}"


def test_orders_are_drawn_for_arrays_too():
    weights = independent()
    weights[:, 0] *= 20
    by_law = sg.measure_arrays(weights={"up": weights}, null="renumbered")["weight_mso up"]
    drawn = sg.measure_arrays(weights={"up": weights}, null="renumbered", draws=199)["weight_mso up"]
    alone = sg.weight_mso(weights, units=1, draws=199).beside[0]
    assert by_law.p is None
    assert (drawn.mean, drawn.null) == pytest.approx((by_law.mean, alone.null))
    # Two tails of what is one tail there.
    assert drawn.p == pytest.approx(min(1.0, 2 * min(alone.p, 1 + 1 / 200 - alone.p)))
    same = np.stack([weights[0]] * 3)
    copies = sg.measure_arrays(weights={"up": same}, null="renumbered", draws=199)["weight_mso up"]
    assert (copies.p, copies.bound) == (pytest.approx(2 / 200), 199)


def test_every_matrix_has_no_p_where_few_units_rule():
    large = independent()
    large[:, 0] *= 20
    one = np.random.default_rng(11).standard_normal((2, 16, 8000))
    one[1, 0] = one[0, 0]
    for weights in (large, one):
        found = sg.measure_arrays(weights={"up": weights}, null="renumbered")["weight_mso up"]
        assert found.null is not None
        assert found.p is None

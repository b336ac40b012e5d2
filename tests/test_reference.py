"""The oracle itself, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from tests import reference


@pytest.mark.parametrize(
    ("u", "v", "expected"),
    [
        ([1, 0], [1, 1], 0.5),
        ([3, 4], [4, 3], 576 / 625),
        ([1, 2], [-2, 1], 0.0),
        ([1, 2], [-3, -6], 1.0),
        ([1e-200, 0], [1e-200, 1e-200], 0.5),
        ([1e200, 1e200], [1e-200, 0], 0.5),
        ([5e-324, 0], [5e-324, 5e-324], 0.5),
    ],
)
def test_cos2(u, v, expected):
    assert reference.cos2(u, v) == pytest.approx(expected, rel=4e-16, abs=0)
    assert reference.cos2(v, u) == pytest.approx(expected, rel=4e-16, abs=0)


@pytest.mark.parametrize("bad", [[0, 0], [math.nan, 1], [1, math.inf], [-math.inf, 0]])
def test_cos2_is_undefined_for_zero_and_for_what_is_not_finite(bad):
    assert math.isnan(reference.cos2(bad, [1, 2]))
    assert math.isnan(reference.cos2([1, 2], bad))


def test_cos2_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="2 and 3 entries"):
        reference.cos2([1, 2], [1, 2, 3])


def test_pair_overlaps_and_their_mean():
    vectors = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    assert reference.pair_overlaps(vectors) == pytest.approx({(0, 1): 0.5, (0, 2): 0.0, (1, 2): 0.5})
    assert reference.mean_overlap(vectors) == (pytest.approx(1 / 3), 3)


def test_mean_overlap_leaves_out_undefined_pairs():
    assert reference.mean_overlap([[1, 0], [0, 0], [1, 1], [math.nan, 1]]) == (pytest.approx(0.5), 1)
    mean, pairs = reference.mean_overlap([[1, 0], [0, 0]])
    assert math.isnan(mean)
    assert pairs == 0


def test_token_overlap():
    vectors = np.array([[[1.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [4.0, 3.0]], [[1.0, 0.0], [0.0, 0.0]]])
    means, counts = reference.token_overlap(vectors)
    assert means == pytest.approx([0.5, 0.9216, math.nan], nan_ok=True)
    assert counts == [1, 1, 0]
    means, counts = reference.token_overlap(vectors, present=[[True, True], [True, False], [True, True]])
    assert means == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
    assert counts == [1, 0, 0]


def test_token_overlap_of_three_slots_averages_over_the_pairs_left():
    vectors = np.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    assert reference.token_overlap(vectors) == ([pytest.approx(1 / 3)], [3])
    assert reference.token_overlap(vectors, [[True, False, True]]) == ([0.0], [1])


X = [1.0, 2.0]
W_UP = [[1.0, 0.0], [0.0, -1.0]]
W_GATE = [[0.0, 1.0], [1.0, 0.0]]
W_DOWN = [[1.0, 2.0], [3.0, 4.0]]


def test_expert_forward_plain():
    sites = reference.expert_forward(X, W_UP, W_DOWN, "relu")
    assert list(sites) == ["pre", "hidden", "output"]
    np.testing.assert_array_equal(sites["pre"], [1, -2])
    np.testing.assert_array_equal(sites["hidden"], [1, 0])
    np.testing.assert_array_equal(sites["output"], [1, 3])


def test_expert_forward_gated():
    sites = reference.expert_forward(X, W_UP, W_DOWN, "identity", W_gate=W_GATE)
    np.testing.assert_array_equal(sites["pre"], [2, 1])
    np.testing.assert_array_equal(sites["hidden"], [2, -2])
    np.testing.assert_array_equal(sites["output"], [-2, -2])


def test_expert_forward_of_a_rectangular_expert():
    sites = reference.expert_forward([1.0, 1.0], [[1, 0], [0, 2], [1, 1]], [[1, 0, 1], [0, 1, 0]], "identity")
    np.testing.assert_array_equal(sites["hidden"], [1, 2, 2])
    np.testing.assert_array_equal(sites["output"], [3, 2])


def test_layernorm():
    sites = reference.expert_forward([1.0, 3.0], [[1, 0], [0, 1]], W_DOWN, "identity", norm="layernorm", gain=[2, 3], bias=[0, 1])
    unit = 1 / math.sqrt(1 + 1e-5)
    np.testing.assert_allclose(sites["normed"], [-2 * unit, 3 * unit + 1], rtol=4e-16)
    np.testing.assert_allclose(sites["output"], [4 * unit + 2, 6 * unit + 4], rtol=4e-16)


def test_rmsnorm():
    sites = reference.expert_forward([3.0, 4.0], [[1, 0], [0, 1]], [[1, 0], [0, 1]], "identity", norm="rmsnorm")
    np.testing.assert_allclose(sites["normed"], np.array([3, 4]) / math.sqrt(12.5 + 1e-6), rtol=4e-16)
    np.testing.assert_array_equal(sites["output"], sites["normed"])


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="'batchnorm'"):
        reference.expert_forward(X, W_UP, W_DOWN, "relu", norm="batchnorm")


@pytest.mark.parametrize(
    ("name", "at_one", "at_minus_one"),
    [
        ("identity", 1.0, -1.0),
        ("relu", 1.0, 0.0),
        ("gelu", 0.8413447460685429, -0.15865525393145707),
        ("gelu_tanh", 0.8411919906082768, -0.15880800939172324),
        ("silu", 0.7310585786300049, -0.2689414213699951),
        ("tanh", 0.7615941559557649, -0.7615941559557649),
        ("erf", 0.8427007929497149, -0.8427007929497149),
    ],
)
def test_activations(name, at_one, at_minus_one):
    act = reference.ACTIVATIONS[name]
    assert act(1.0) == pytest.approx(at_one, rel=4e-16)
    assert act(-1.0) == pytest.approx(at_minus_one, rel=1e-15)
    assert act(0.0) == 0
    assert math.isfinite(act(800.0))
    assert math.isfinite(act(-800.0))


def test_mean_vectors():
    vectors = np.array([[[1.0, 2.0], [5.0, 6.0], [9.0, 9.0]], [[3.0, 4.0], [7.0, 8.0], [9.0, 9.0]]])
    means = reference.mean_vectors(vectors, [[0, 1], [-1, 0]])
    np.testing.assert_array_equal(means, [[2, 3], [5, 6], [math.nan, math.nan]])

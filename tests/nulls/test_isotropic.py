"""The null of a round space for a user's own arrays, against every sign and order of their entries."""

import itertools
import math

import numpy as np
import pytest

import simgap as sg

WIDTH = 4
ORDERS = np.array(list(itertools.permutations(range(WIDTH))))
FLIPS = np.array(list(itertools.product((1, -1), repeat=WIDTH)))


def every(vectors, signs=True):
    """One expert's vectors (n, WIDTH), moved by every order and sign, the same on all tokens: (moves, n, WIDTH)."""
    moved = vectors[:, ORDERS].transpose(1, 0, 2)
    return (moved[:, None] * FLIPS[None, :, None]).reshape(-1, *vectors.shape) if signs else moved


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mean_and_sd(left, right):
    """Of the sum over tokens of cos^2 of two experts; one may stay as it is."""
    values = (np.einsum("tw,mtw->mt", units(left), units(right)) ** 2).sum(1)
    return values.mean(), values.var()


def test_two_experts_on_their_tokens():
    """Three experts: pairs that share one are uncorrelated, so that variances add."""
    g = np.random.default_rng(0)
    h, routing = g.standard_normal((9, 2, WIDTH)) ** 3, np.tile([[0, 1], [2, 1], [2, 0]], (3, 1))
    h[0, 0] = 0
    h += np.where(h.any(2, keepdims=True), 0.5 * g.standard_normal((3, WIDTH))[routing], 0)
    one = sg.measure_arrays(h, routing, quantities="activation_mso token", null="isotropic")["activation_mso token output"]
    total, pairs = 0.0, 8
    for e, f in ((0, 1), (1, 2), (0, 2)):
        met = [t for t in range(9) if t and {e, f} == set(routing[t])]
        left, right = ([h[t, list(routing[t]).index(x)] for t in met] for x in (e, f))
        mean, variance = mean_and_sd(np.array(left), every(np.array(right)))
        assert mean == pytest.approx(len(met) / WIDTH)
        total += variance
    assert (one.null, one.pairs) == (1 / WIDTH, pairs)
    assert (one.mean - one.null) / one.z == pytest.approx(math.sqrt(total) / pairs)
    assert one.supposes == "independent experts in a round space"


@pytest.mark.parametrize("site", ["output", "normed"])
def test_means(site):
    h = np.random.default_rng(1).standard_normal((6, 2, WIDTH)) ** 3
    if site == "normed":
        h -= h.mean(2, keepdims=True)
    routing = np.tile([0, 1], (6, 1))
    name = f"activation_mso mean {site}"
    one = sg.measure_arrays(h, routing, site=site, quantities=name, null="isotropic")[name]
    left, right = h.mean(0)
    mean, variance = mean_and_sd(left[None], every(right[None], signs=site == "output"))
    assert one.null == pytest.approx(mean) == pytest.approx(1 / (WIDTH - (site == "normed")))
    assert ((one.mean - one.null) / one.z) ** 2 == pytest.approx(variance)


def test_weights_and_blocks_of_unequal_scale():
    g = np.random.default_rng(2)
    weights = {"up": 1e3 * g.standard_normal((2, 2, 2)) ** 3, "down": g.standard_normal((2, 2, 2))}
    weights["up"][0] *= 1e-3
    m = sg.measure_arrays(weights=weights, quantities="weight_mso", null="isotropic")
    flat = {role: w.reshape(2, 1, WIDTH) for role, w in weights.items()}
    for role in ("up", "down"):
        mean, variance = mean_and_sd(flat[role][0], every(flat[role][1]))
        one = m[f"weight_mso {role}"]
        assert (one.null, ((one.mean - one.null) / one.z) ** 2) == (pytest.approx(mean), pytest.approx(variance))
    moved = [every(flat[role][1])[:, 0] for role in ("up", "down")]
    dots = np.add.outer(*(each @ flat[role][0, 0] for role, each in zip(flat, moved, strict=True)))
    values = dots**2 / np.prod([sum((flat[role][e] ** 2).sum() for role in flat) for e in (0, 1)])
    one = m["weight_mso all"]
    assert one.null == pytest.approx(values.mean())
    assert one.null != pytest.approx(1 / 8, rel=0.01)
    assert ((one.mean - one.null) / one.z) ** 2 == pytest.approx(values.var())


def test_the_spread_of_sparse_weights():
    """20 arrays of 40 experts, fixed beforehand: the squares of what each pair is off by add up to the law's variance of the sum, within 5
    standard errors over arrays (20 of them: 0.9999 of Student's t). The twin, the spread of Gaussian entries, is refused."""
    g, off, twin = np.random.default_rng(3), [], []
    upper = np.triu_indices(40, 1)
    for _ in range(20):
        w = g.standard_normal((40, 8, 8)) * (g.random((40, 8, 8)) < 0.2)
        one = sg.measure_arrays(weights={"up": w}, quantities="weight_mso up", null="isotropic")["weight_mso up"]
        rows = units(w.reshape(40, 64))
        squares = (((rows @ rows.T)[upper] ** 2 - 1 / 64) ** 2).sum()
        off.append(squares - ((one.mean - one.null) / one.z * one.pairs) ** 2)
        twin.append(squares - one.pairs * 2 * 63 / (64**2 * 66))
    assert abs(np.mean(off)) < 5 * np.std(off, ddof=1) / math.sqrt(20)
    assert abs(np.mean(twin)) > 5 * np.std(twin, ddof=1) / math.sqrt(20)


def test_a_mass_of_exact_zeros_is_no_small_p():
    """Two axes meet with probability 1/64 and else overlap by exactly 0."""
    w = np.zeros((2, 8, 8))
    w[0, 0, 0] = w[1, 3, 3] = 1
    one = sg.measure_arrays(weights={"up": w}, quantities="weight_mso up", null="isotropic")["weight_mso up"]
    assert (one.mean, one.null) == (0, 1 / 64)
    assert one.p > 0.5


def test_what_it_says_nothing_of():
    g = np.random.default_rng(4)
    h, routing = g.standard_normal((30, 2, 64)), g.random((30, 4)).argsort(1)[:, :2]
    m = sg.measure_arrays(h, routing, weights={"up": g.standard_normal((4, 16, 64))}, metrics=["gap", "routing"], null="isotropic")
    whys = {one.why for name, one in m.values.items() if one.null is None}
    assert whys == {"null = isotropic: of overlaps alone"}
    rectified = sg.measure_arrays(abs(h), routing, metrics="mean_overlap", null="isotropic")["activation_mso mean output"]
    assert "rectified" in rectified.why
    narrow = h[..., :3] - h[..., :3].mean(2, keepdims=True)
    normed = sg.measure_arrays(narrow, routing, site="normed", metrics="vector_overlap", null="isotropic")["activation_mso token normed"]
    assert normed.why == "null = isotropic: in fewer than 4 dimensions nothing varies"

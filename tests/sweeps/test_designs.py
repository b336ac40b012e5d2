"""Designs: the cells that a grid, a zip, a walk around a base, and random and even points have."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.specs import LayerSpec, RouterSpec
from simgap.sweeps import Range, grid, one_at_a_time, random_design, sobol_design, zip_grid

BASE = LayerSpec(d_model=8, d_ff=16, n_experts=4)
SPREAD = [random_design, sobol_design]


def built(**fields):
    try:
        return LayerSpec(**{"d_model": 8, "d_ff": 16, "n_experts": 4} | fields)
    except ValueError:
        return None


def distinct(layers):
    return list(dict.fromkeys(layer for layer in layers if layer is not None))


widths = st.lists(st.integers(1, 20), min_size=1, max_size=4)
counts = st.lists(st.integers(-1, 6), min_size=1, max_size=4)
kinds = st.lists(st.sampled_from(["linear", "soft", "hash"]), min_size=1, max_size=3)


@settings(max_examples=60)
@given(widths, counts, kinds)
def test_a_grid_is_the_product(d_model, top_k, router):
    cells = grid(BASE, d_model=d_model, top_k=top_k, router=router)
    points = list(itertools.product(d_model, top_k, router))
    layers = [built(d_model=d, top_k=k, router=r) for d, k, r in points]
    assert list(cells) == distinct(layers)
    assert len(cells.left_out) == layers.count(None)


@settings(max_examples=60)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.lists(st.integers(1, 5), min_size=n, max_size=n)] * 2)), st.integers(1, 5))
def test_a_zip_pairs_values(columns, experts):
    cells = zip_grid(BASE, top_k=columns[0], d_model=columns[1], n_shared_experts=experts)
    layers = [built(top_k=k, d_model=d, n_shared_experts=experts) for k, d in zip(*columns, strict=True)]
    assert list(cells) == distinct(layers)


@settings(max_examples=60)
@given(widths, counts)
def test_one_at_a_time_keeps_to_the_axes(d_model, top_k):
    cells = one_at_a_time(BASE, d_model=d_model, top_k=top_k)
    assert list(cells) == distinct([BASE, *(built(d_model=d) for d in d_model), *(built(top_k=k) for k in top_k)])


def test_without_axes_there_is_the_base():
    for design in (grid, zip_grid, one_at_a_time):
        assert list(design(BASE)) == [BASE]


def test_fields_that_follow():
    cells = grid(BASE, d_model=[4, 8], d_ff=lambda s: 4 * s.d_model, n_experts=lambda s: s.d_ff // 4)
    assert [(spec.d_model, spec.d_ff, spec.n_experts) for spec in cells] == [(4, 16, 4), (8, 32, 8)]
    routed = grid(BASE, {"router.temperature": lambda s: s.router.temperature + s.d_model, "router": lambda s: "hash"}, d_model=[4])
    assert routed[0].router == RouterSpec(kind="hash", temperature=5.0)


def test_where_keeps_what_holds_before_layers_are_built():
    cells = grid(
        BASE, {"router.temperature": [0.5, 1.0]}, top_k=[1, 2, 9], where=lambda s: s.top_k <= s.n_experts and s.router.temperature < 1
    )
    assert [(spec.top_k, spec.router.temperature) for spec in cells] == [(1, 0.5), (2, 0.5)]
    assert cells.left_out == ()
    unsoft = grid(BASE, router=["linear", "soft", "hash"], where=lambda s: s.router != "soft")
    assert [spec.router.kind for spec in unsoft] == ["linear", "hash"]
    assert unsoft.left_out == ()
    assert [spec.router.kind for spec in grid(BASE, router=["linear", "hash"], where=lambda s: s.router == "hash")] == ["hash"]
    with pytest.raises(AttributeError, match=r"a layer has no field 'd_modle'; did you mean 'd_model'\?"):
        grid(BASE, where=lambda s: s.d_modle > 3)


AXES = {
    "d_model": Range(3, 9),
    "n_experts": Range(4, 256, log=True),
    "router.temperature": Range(0.25, 4.0, log=True),
    "inputs.mean": Range(0.0, 2.5),
    "activation": ["silu", "erf", "tanh"],
}


@pytest.mark.parametrize("design", SPREAD)
def test_points_are_within_their_ranges_and_belong_to_their_seed(design):
    cells = design(BASE, AXES, n=200, seed=3)
    assert len(cells) == 200
    assert {spec.d_model for spec in cells} == set(range(3, 10))
    assert all(4 <= spec.n_experts <= 256 and 0.25 <= spec.router.temperature <= 4 and 0 <= spec.inputs.mean <= 2.5 for spec in cells)
    assert {spec.activation for spec in cells} == set(AXES["activation"])
    again, other = design(BASE, AXES, n=200, seed=3), design(BASE, AXES, n=200, seed=4)
    assert again.keys.tolist() == cells.keys.tolist()
    assert not set(other.keys.tolist()) & set(cells.keys.tolist())
    assert design(BASE, AXES, n=50, seed=3).keys.tolist() == cells.keys[:50].tolist()


def test_even_points_are_even():
    """64 points of a scrambled Sobol sequence: 32 in either half of every axis, 16 in every quarter; random ones are not."""

    def quarters(design):
        cells = design(BASE, {"inputs.mean": Range(0.0, 1.0), "router.noise": Range(0.0, 1.0)}, n=64, seed=1)
        shares = np.array([(spec.inputs.mean, spec.router.noise) for spec in cells])
        return [np.bincount((4 * column).astype(int), minlength=4).tolist() for column in shares.T]

    assert quarters(sobol_design) == [[16] * 4] * 2
    assert quarters(random_design) != [[16] * 4] * 2


@settings(max_examples=40)
@given(st.integers(-50, 50), st.integers(0, 12))
def test_a_range_of_whole_numbers_covers_both_ends_evenly(low, length):
    """A hundred even shares for each number; a range that left out its end would miss it altogether."""
    shares = (np.arange(100 * (length + 1)) / (100 * (length + 1))).tolist()
    found = [Range(low, low + length).at(share, whole=True) for share in shares]
    values, times = np.unique(found, return_counts=True)
    assert values.tolist() == list(range(low, low + length + 1))
    assert abs(times - 100).max() <= 1


@given(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308), st.floats(0, 1, exclude_max=True), st.booleans(), st.booleans())
def test_no_share_leaves_its_range(a, b, share, log, whole):
    low, high = min(a, b), max(a, b)
    if log:
        low, high = sorted((abs(a) + 1e-300, abs(b) + 1e-300))
    if whole and not Range(low, high).holds_whole():
        low = math.floor(low)
    if log and low == 0:
        low = 1
        high = max(high, 1)
    found = Range(low, high, log).at(share, whole)
    assert low <= found <= high
    assert type(found) is int if whole else isinstance(found, float | int)


def test_the_middle_of_a_range():
    assert Range(1, 4, log=True).at(0.5, whole=False) == pytest.approx(2.0)
    assert Range(1, 4).at(0.5, whole=False) == 2.5
    assert Range(1e-300, 1e300, log=True).at(0.5, whole=False) == pytest.approx(1.0)
    assert Range(-1.5e308, 1.5e308).at(0.5, whole=False) == 0.0
    # Whole numbers from 1 to 7: the ratio 8 in three equal parts.
    assert [Range(1, 7, log=True).at(share, whole=True) for share in (0.0, 0.33, 0.34, 0.66, 0.67, 0.999)] == [1, 1, 2, 3, 4, 7]


@pytest.mark.parametrize(
    ("low", "high", "log", "message"),
    [
        (2, 1, False, "expected low <= high, got low = 2, high = 1"),
        (0, 1, True, "expected 0 < low <= high"),
        (math.nan, 1, False, "expected finite numbers, got nan"),
        (0, math.inf, False, "expected finite numbers, got inf"),
        (0, 10**400, False, "expected finite numbers, got 1000"),
        ("0", 1, False, "expected finite numbers, got '0'"),
        (True, 2, False, "expected finite numbers, got True"),
        (1, 2, "no", "expected log = True or False, got 'no'"),
    ],
)
def test_what_is_no_range(low, high, log, message):
    with pytest.raises(ValueError, match=rf"^range: {message}"):
        Range(low, high, log)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid(BASE, d_modle=[3]), r"^a layer has no field 'd_modle'; did you mean 'd_model'\?$"),
        (lambda: grid(BASE, d_model=[]), r"^d_model: expected at least one value, got none$"),
        (lambda: grid(BASE, d_model={4, 8}), r"^d_model: expected a list of values, which has an order; got set$"),
        (lambda: grid(BASE, d_model={"low": 4}), r"^d_model: expected a list of values"),
        (lambda: grid(BASE, d_model=Range(4, 8)), r"^d_model: a Range is for random_design and sobol_design"),
        (lambda: grid(BASE, d_model=itertools.count(1)), r"^d_model: expected at most 10,000,000 values, got more$"),
        (lambda: grid(BASE, {"d_model": [4]}, d_model=[8]), r"^d_model: given twice$"),
        (lambda: grid(BASE, {"router.kind": ["hash"]}, router=["linear"]), r"^router: given twice$"),
        (lambda: grid(BASE, router=[RouterSpec()]), r"^router: expected names of kinds; .* such as 'router\.temperature'$"),
        (lambda: grid(BASE, [4, 8]), r"^axes: expected a mapping"),
        (lambda: grid(BASE, where="top_k < 2"), r"^where: expected a function of a cell, got str$"),
        (lambda: grid("BASE"), r"^spec: expected a LayerSpec"),
        (
            lambda: grid(BASE, **{name: range(1000) for name in ("d_model", "d_ff", "n_experts", "top_k")}),
            r"this grid has 1,000,000,000,000$",
        ),
        (lambda: zip_grid(BASE, d_model=[4, 8], d_ff=[2, 3, 4]), r"^zip_grid: expected axes of one length, got d_model of 2, d_ff of 3$"),
        (lambda: random_design(BASE, d_model=Range(4.2, 4.8), n=3), r"^d_model: no whole number from 4\.2 to 4\.8$"),
        (lambda: random_design(BASE, activation=Range(0, 1), n=3), r"^activation: a Range is of numbers"),
        (lambda: random_design(BASE, router=Range(0, 1), n=3), r"^router: a Range is of numbers"),
        (lambda: random_design(BASE, d_model=Range(4, 8), n=10**12), r"^n: expected a number of cells from 1 to 10,000,000, got 10+$"),
        (lambda: random_design(BASE, d_model=Range(4, 8), n=True), r"^n: expected a number of cells"),
        (lambda: random_design(BASE, d_model=Range(4, 8), n=3, seed=-1), r"^seed: expected a whole number, at least 0, got -1$"),
        (lambda: sobol_design(BASE, n=4), r"^sobol_design: expected at least one axis$"),
    ],
)
def test_slips(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_field_that_follows_from_a_later_one_is_refused():
    """The base layer's d_ff would be taken for it."""
    with pytest.raises(ValueError, match=r"n_experts: d_ff follows from others itself and comes later; put it before"):
        grid(BASE, d_model=[4, 16], n_experts=lambda s: s.d_ff // 8, d_ff=lambda s: 4 * s.d_model)
    right = grid(BASE, d_model=[4, 16], d_ff=lambda s: 4 * s.d_model, n_experts=lambda s: s.d_ff // 8)
    assert [(spec.d_ff, spec.n_experts) for spec in right] == [(16, 2), (64, 8)]

"""Law R4: the losses in loops over tokens, experts and sets; gradients by automatic differentiation; ends of the range by search."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from simgap.theory.coupling import balanced_path_range, mass_coupling, mass_gradient, path_coupling, product_coupling


def shares(seed, tokens, experts):
    generator = np.random.default_rng(seed)
    return [generator.dirichlet(np.full(experts, 0.5), tokens) for _ in range(2)]


@pytest.mark.parametrize("experts, k", [(3, 1), (4, 2), (4, 4)])
def test_the_losses_by_loops(experts, k):
    s, t = shares(experts + k, 5, experts)
    mass = product = 0.0
    paths = {}
    for a, b in zip(s, t, strict=True):
        mass += sum(sorted(a)[-k:]) * sum(sorted(b)[-k:])
        product += max(sum(chosen) for chosen in itertools.combinations([x * y for x in a for y in b], k))
        for (i, x), (j, y) in itertools.product(enumerate(a), enumerate(b)):
            paths[i, j] = paths.get((i, j), 0.0) + x * y
    # Sums of at most 80 terms of size 1.
    assert mass_coupling(s, t, k) == pytest.approx(-mass / 5, abs=1e-14)
    assert product_coupling(s, t, k) == pytest.approx(-product / 5, abs=1e-14)
    assert path_coupling(s, t) == pytest.approx(-sum((p / 5) ** 2 for p in paths.values()), abs=1e-14)
    if k > 1:
        assert mass_coupling(s, t, k) < product_coupling(s, t, k)
    else:
        assert mass_coupling(s, t, 1) == pytest.approx(product_coupling(s, t, 1), abs=1e-15)


@pytest.mark.parametrize("k", [1, 2])
def test_relabelling_in_fractions(k):
    """Every relabelling of one token in both layers: two losses stand still exactly, the third takes several values."""
    s = np.array([[Fraction(x, 11) for x in row] for row in [(6, 3, 2), (1, 3, 7)]], dtype=object)
    t = np.array([[Fraction(x, 13) for x in row] for row in [(1, 4, 8), (9, 3, 1)]], dtype=object)
    found = [set(), set(), set()]
    for p, q in itertools.product(itertools.permutations(range(3)), repeat=2):
        a, b = s.copy(), t.copy()
        a[0], b[0] = a[0, list(p)], b[0, list(q)]
        for values, value in zip(found, (mass_coupling(a, b, k), product_coupling(a, b, k), path_coupling(a, b)), strict=True):
            values.add(value)
    assert [len(values) for values in found[:2]] == [1, 1]
    assert len(found[2]) > 10
    assert all(isinstance(value, Fraction) for values in found for value in values)


def test_balanced_paths_stay_in_range():
    """All routings of six one-hot tokens over three experts with balanced loads, in both layers."""
    low, high = balanced_path_range(Fraction(3))
    eye = np.array([[Fraction(int(i == j)) for j in range(3)] for i in range(3)], dtype=object)
    first = eye[[0, 0, 1, 1, 2, 2]]
    values = {path_coupling(first, eye[list(order)]) for order in set(itertools.permutations([0, 0, 1, 1, 2, 2]))}
    assert min(values) == low == Fraction(-1, 3)
    assert max(values) < high == Fraction(-1, 9)
    uniform = np.full((2, 3), Fraction(1, 3), dtype=object)
    assert path_coupling(uniform, uniform) == high


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_gradient_by_automatic_differentiation(k):
    generator = np.random.default_rng(k)
    z = torch.tensor(generator.standard_normal(5), requires_grad=True)
    s = torch.softmax(z, 0)
    (-0.6 * s.topk(k).values.sum()).backward()
    claimed = mass_gradient(s.detach().numpy(), 0.6, k)
    assert claimed == pytest.approx(z.grad.numpy(), abs=1e-14)
    assert claimed.sum() == pytest.approx(0, abs=1e-15)
    assert (claimed < 0).sum() == k
    assert claimed / s.detach().numpy() != pytest.approx(z.grad.numpy(), abs=1e-2)


def test_layers_of_different_widths_and_a_top_out_of_range():
    s, t = np.full((1, 2), 1 / 2), np.full((1, 3), 1 / 3)
    assert mass_coupling(s, t, 2) == pytest.approx(-4 / 6, rel=1e-15)
    assert mass_gradient(t[0], 1.0, 3) == pytest.approx(np.zeros(3), abs=1e-16)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k: expected 1 to 3 experts, got {k}"):
            mass_gradient(t[0], 1.0, k)


@pytest.mark.parametrize(
    "s, t, k, match",
    [
        (np.ones(3), np.ones((1, 3)), 1, r"expected \(tokens, experts\) arrays"),
        (np.ones((2, 3)), np.ones((1, 3)), 1, r"got \(2, 3\) and \(1, 3\)"),
        (np.ones((0, 3)), np.ones((0, 3)), 1, r"got \(0, 3\)"),
        (np.ones((2, 3)), np.ones((2, 3)), 4, "k: expected 1 to 3 experts, got 4"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, "got 0"),
    ],
)
def test_other_shapes_are_refused(s, t, k, match):
    for coupling in (mass_coupling, product_coupling):
        with pytest.raises(ValueError, match=match):
            coupling(s, t, k)
    if 1 <= k <= 3:
        with pytest.raises(ValueError, match=match):
            path_coupling(s, t)

"""Law N5 against sums over coordinate subspaces, against law N1's Beta at rank 1, and against draws."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from simgap.theory.subspace_null import null_subspace_edge, null_subspace_overlap, null_subspace_variance

SIGMA = 5.0


@pytest.mark.parametrize("d, r1, r2", [(4, 1, 1), (5, 2, 3), (5, 3, 2), (6, 4, 4), (3, 3, 1)])
def test_the_mean_over_coordinate_subspaces_is_exact(d, r1, r2):
    """Subsets of axes have E P = (r/d) I like uniform subspaces, so the mean, not the variance, is the law's: a count of common axes."""
    fixed = set(range(r2))
    shared = [Fraction(len(fixed & set(chosen)), min(r1, r2)) for chosen in combinations(range(d), r1)]
    assert sum(shared) / len(shared) == null_subspace_overlap(Fraction(d), Fraction(r1), Fraction(r2))
    # Not so for subspaces that all hold the first axis.
    tilted = [Fraction(len(fixed & set(chosen)), min(r1, r2)) for chosen in combinations(range(d), r1) if 0 in chosen]
    assert r1 == d or sum(tilted) / len(tilted) != null_subspace_overlap(Fraction(d), Fraction(r1), Fraction(r2))


@pytest.mark.parametrize("d", [2, 3, 64])
def test_rank_one_is_a_squared_cosine(d):
    law = scipy.stats.beta(0.5, (d - 1) / 2)
    assert null_subspace_overlap(d, 1) == pytest.approx(law.mean(), rel=1e-14)
    assert null_subspace_variance(d, 1) == pytest.approx(law.var(), rel=1e-13)


@pytest.mark.parametrize("d, r", [(2, 1), (7, 3), (9, 8)])
def test_complements_have_the_same_spread(d, r):
    """||U1'U2||^2 of complements differs from r2 - ||U1'U2||^2 by nothing random, so the unnormalised variances agree."""
    for other in (1, d - 1):
        one = null_subspace_variance(Fraction(d), Fraction(r), Fraction(other)) * min(r, other) ** 2
        turned = null_subspace_variance(Fraction(d), Fraction(d - r), Fraction(other)) * min(d - r, other) ** 2
        assert one == turned


def test_the_whole_space_overlaps_fully():
    assert null_subspace_overlap(5, 5, 2) == null_subspace_overlap(5, 2, 5) == 1
    assert null_subspace_variance(5, 5, 2) == 0


@pytest.mark.parametrize("d, r1, r2", [(5, 2, 2), (8, 3, 5)])
def test_against_draws(d, r1, r2):
    """Principal angles by singular values of U1'U2, 20 000 pairs: means at d + 1 and spreads 15% off lie more than 5 sigma away."""
    generator = np.random.default_rng(d)
    pairs = 20_000
    u1, u2 = (np.linalg.qr(generator.standard_normal((pairs, d, r)))[0] for r in (r1, r2))
    overlap = (np.linalg.svd(u1.transpose(0, 2, 1) @ u2, compute_uv=False) ** 2).mean(1)
    error = overlap.std(ddof=1) / math.sqrt(pairs)
    assert abs(overlap.mean() - null_subspace_overlap(d, r1, r2)) < SIGMA * error
    assert abs(overlap.mean() - null_subspace_overlap(d + 1, r1, r2)) > SIGMA * error
    squares = (overlap - null_subspace_overlap(d, r1, r2)) ** 2
    error = squares.std(ddof=1) / math.sqrt(pairs)
    assert abs(squares.mean() - null_subspace_variance(d, r1, r2)) < SIGMA * error
    assert abs(squares.mean() - 1.15 * null_subspace_variance(d, r1, r2)) > SIGMA * error


@pytest.mark.parametrize(
    "ranks, name",
    [((0,), "rank"), ((6,), "rank"), ((np.int64(6),), "rank"), ((1.5,), "rank"), ((math.nan,), "rank"),
     ((2, 0), "other_rank"), ((2, 6), "other_rank"), ((2, np.int32(6)), "other_rank")],
)  # fmt: skip
def test_ranks_out_of_range_are_refused(ranks, name):
    for law in (null_subspace_overlap, null_subspace_variance, null_subspace_edge):
        with pytest.raises(ValueError, match=rf"^{name}: expected a whole number in 1..5, got"):
            law(5, *ranks)


def test_a_line_has_one_subspace():
    assert null_subspace_overlap(1, 1) == 1
    with pytest.raises(ValueError, match=r"^d_model: expected at least 2"):
        null_subspace_variance(1, 1)


def largest(d, r1, r2, draws):
    """The largest squared cosine of a uniform subspace with the first r2 axes, in so many draws."""
    generator = np.random.default_rng([d, r1])
    return np.array([np.linalg.norm(np.linalg.qr(generator.standard_normal((d, r1)))[0][:r2], 2) ** 2 for _ in range(draws)])


@pytest.mark.parametrize("shares", [(8, 8), (16, 4)], ids=str)
def test_the_edge_is_approached_from_below(shares):
    """Over d = 16 to 1,024 the mean is below the edge, by 1 to 4.5 times d^(-2/3) of it: within 5 sigma, and by no less. Edges of other
    forms are not approached at that rate."""
    others = (lambda p, q: 2 * (p + q)), (lambda p, q: max(p, q)), (lambda p, q: 2 * (p + q) * (1 - (p + q) / 2) + 0.05)
    missed = np.zeros(len(others), bool)
    for d, draws in ((16, 400), (64, 200), (256, 100), (1024, 25)):
        r1, r2 = (d // share for share in shares)
        values = largest(d, r1, r2, draws)

        def fits(edge, values=values, d=d):
            short, error = (1 - values.mean() / edge) * d ** (2 / 3), values.std(ddof=1) / math.sqrt(len(values)) / edge * d ** (2 / 3)
            return 1 - SIGMA * error < short < 4.5 + SIGMA * error and short > 0

        assert fits(null_subspace_edge(d, r1, r2)), d
        missed |= [not fits(edge(r1 / d, r2 / d)) for edge in others]
    assert missed.all()


def test_edges_by_hand():
    assert null_subspace_edge(64, 8) == pytest.approx(4 * 8 * 56 / 64**2, rel=1e-14)
    assert null_subspace_edge(64, 8, 24) == null_subspace_edge(64, 24, 8)
    assert null_subspace_edge(64, 32) == null_subspace_edge(64, 40, 30) == 1
    assert null_subspace_edge(64, 63, 1) == pytest.approx(1)
    np.testing.assert_allclose(null_subspace_edge(512, [8, 16]), [0.061523, 0.12109], rtol=1e-4)

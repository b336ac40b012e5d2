"""Law N5 against sums over coordinate subspaces, against law N1's Beta at rank 1, and against draws."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from simgap.theory.subspace_null import null_subspace_overlap, null_subspace_variance

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
    for law in (null_subspace_overlap, null_subspace_variance):
        with pytest.raises(ValueError, match=rf"^{name}: expected a whole number in 1..5, got"):
            law(5, *ranks)


def test_a_line_has_one_subspace():
    assert null_subspace_overlap(1, 1) == 1
    with pytest.raises(ValueError, match=r"^d_model: expected at least 2"):
        null_subspace_variance(1, 1)

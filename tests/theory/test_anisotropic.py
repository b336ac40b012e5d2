"""Law T5 against closed forms, plain quadrature of another integral, and draws."""

import itertools
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st

from simgap.theory.anisotropic import anisotropic_shares, anisotropic_spread, null_anisotropic_mso, spectrum_bound
from simgap.theory.weight_null import null_variance

SIGMA, RELATIVE = 5.0, 1e-10


@pytest.mark.parametrize("ratio", [1.0, 4.0, 1e4, 1e8, 1e16])
def test_two_directions(ratio):
    """E a g^2 / (a g^2 + b h^2) = sqrt(a) / (sqrt(a) + sqrt(b)): g/h is a Cauchy variable."""
    a, b = ratio, 1.0
    found = anisotropic_shares([a, b])
    assert found == pytest.approx([math.sqrt(v) / (math.sqrt(a) + math.sqrt(b)) for v in (a, b)], rel=RELATIVE)
    assert null_anisotropic_mso([a, b], other=[b, a]) == pytest.approx(2 * found[0] * found[1], rel=RELATIVE)


@pytest.mark.parametrize("ratio, first, second", [(3.0, 1, 2), (100.0, 1, 7), (1e-4, 2, 6), (1e8, 4, 4), (1e8, 300, 4)])
def test_two_eigenvalues_many_times(ratio, first, second):
    """The share of a group is E r b / (r b + 1 - b), b of Beta(m/2, n/2): an integral over [0, 1], here over the quantiles' angle."""

    def integrand(angle):
        b = math.sin(angle) ** 2
        density = math.exp(
            first * math.log(math.sin(angle)) + second * math.log(math.cos(angle)) - log_beta - math.log(math.sin(angle) * math.cos(angle))
        )
        return ratio * b / (ratio * b + 1 - b) * 2 * density

    log_beta = math.lgamma(first / 2) + math.lgamma(second / 2) - math.lgamma((first + second) / 2)
    # The integrand turns where ratio b is 1 - b, and the density peaks where b is m / (m + n).
    turns = sorted({math.atan(ratio**-0.5), math.atan(math.sqrt(first / second))})
    edges = [1e-300, *turns, math.pi / 2 - 1e-12]
    whole = sum(scipy.integrate.quad(integrand, *ends, epsabs=0, epsrel=1e-12, limit=400)[0] for ends in itertools.pairwise(edges))
    assert first * anisotropic_shares([ratio, 1.0], [first, second])[0] == pytest.approx(whole, rel=RELATIVE)


def test_the_reference_values():
    assert null_anisotropic_mso([100, 1], [1, 7]) == pytest.approx(0.5559, abs=5e-5)
    assert null_anisotropic_mso([900, 1], [2, 30]) == pytest.approx(0.4425, abs=5e-5)


@given(st.lists(st.floats(1e-8, 1.0), min_size=1, max_size=12), st.integers(0, 10**6))
def test_shares(values, seed):
    """They add to 1, follow the eigenvalues, less than in proportion, and do not know the scale, the order or zeros."""
    found = anisotropic_shares(values)
    order = np.argsort(values)
    assert found.sum() == pytest.approx(1, rel=RELATIVE)
    assert (np.diff(found[order]) >= -1e-12).all()
    assert (np.diff((found / values)[order]) <= 1e-12 * (found / values).max()).all()
    assert spectrum_bound(values) * (1 + 1e-12) >= found @ found >= 1 / len(values) * (1 - 1e-12)
    shuffled = np.random.default_rng(seed).permutation(len(values))
    assert anisotropic_shares(1e5 * np.array(values)[shuffled]) == pytest.approx(found[shuffled], rel=RELATIVE)
    assert anisotropic_shares([*values, 0.0]) == pytest.approx([*found, 0.0], rel=RELATIVE)


def test_repeated_eigenvalues_are_counted():
    apart = anisotropic_shares(np.repeat([5.0, 1.0, 1e-6], [2, 3, 4]))
    assert np.repeat(anisotropic_shares([5.0, 1.0, 1e-6], [2, 3, 4]), [2, 3, 4]) == pytest.approx(apart, rel=RELATIVE)
    # As many as a large layer's weights.
    assert anisotropic_shares([1.0, 0.25], [1e7, 4e7]) == pytest.approx([0.5e-7, 0.125e-7], rel=1e-6)
    assert anisotropic_shares([1.0, 0.25], [1e7, 4e7]) @ [1e7, 4e7] == pytest.approx(1, rel=RELATIVE)


def test_the_bound_is_attained_by_equal_eigenvalues_alone():
    assert null_anisotropic_mso([3, 0], [5, 9]) == pytest.approx(spectrum_bound([3, 0], [5, 9]), rel=RELATIVE) == pytest.approx(0.2)
    assert null_anisotropic_mso([3, 2.9], [5, 9]) < spectrum_bound([3, 2.9], [5, 9]) * (1 - 1e-6)
    # Of two spectra there is none.
    assert null_anisotropic_mso([100, 1], other=[1, 100]) > 2 * 100 / 101**2


@pytest.mark.parametrize("d", [2, 3, 64])
def test_a_round_space_has_the_spread_of_beta(d):
    found = anisotropic_spread([7.0], [d])
    assert found.variance == pytest.approx(null_variance(d), rel=1e-9)
    assert found.covariance == pytest.approx(0, abs=1e-12)
    assert found.of_mean(5) == pytest.approx(null_variance(d) / 10, rel=1e-9)


@pytest.mark.parametrize("eigenvalues", [[100.0] + [1.0] * 7, (np.arange(1, 13) ** -2.0).tolist()])
def test_the_spread_against_draws(eigenvalues):
    """Means over all pairs of 6 vectors, and over those of 3 with 3 others, 20 000 times: variances within 5 standard errors, without the
    covariance beyond."""
    g = np.random.default_rng(3).standard_normal((20_000, 6, len(eigenvalues))) * np.sqrt(eigenvalues)
    g /= np.linalg.norm(g, axis=2, keepdims=True)
    gram = (g @ g.transpose(0, 2, 1)) ** 2
    upper = np.triu_indices(6, 1)
    spread = anisotropic_spread(eigenvalues)
    assert spread.mean == pytest.approx(null_anisotropic_mso(eigenvalues), rel=RELATIVE)
    for means, law, pairs in (
        (gram[:, upper[0], upper[1]].mean(1), spread.of_mean(6), 15),
        (gram[:, :3, 3:].mean((1, 2)), spread.of_mean(3, 3), 9),
    ):
        squares = (means - spread.mean) ** 2
        error = squares.std(ddof=1) / math.sqrt(len(squares))
        assert abs(squares.mean() - law) < SIGMA * error
        assert abs(squares.mean() - spread.variance / pairs) > SIGMA * error


def test_thousands_of_eigenvalues_take_a_moment():
    """A tenth of a second at leisure; here of the processor's time, with room for a slow one."""
    values = 10 ** np.random.default_rng(0).uniform(-8, 0, 4096)
    anisotropic_shares(values)
    start = time.process_time()
    assert anisotropic_shares(values).sum() == pytest.approx(1, rel=RELATIVE)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([],), r"^eigenvalues: expected finite numbers of at least 0, not all of them 0, got \[\]$"),
        (([0.0, 0.0],), "^eigenvalues: "),
        (([1.0, -1.0],), "^eigenvalues: "),
        (([1.0, math.inf],), "^eigenvalues: "),
        (([1.0, 2.0], [1]), r"^counts: expected 2 numbers of at least 1, got \[1\]$"),
        (([1.0, 2.0], [1, 0.5]), "^counts: "),
        (([1.0, 2.0], None, [1.0]), "^other: expected 2 eigenvalues, got 1$"),
    ],
)
def test_what_is_no_spectrum(arguments, message):
    with pytest.raises(ValueError, match=message):
        null_anisotropic_mso(*arguments)


@pytest.mark.parametrize("least", [1e-130, 1e-140, 1e-150, 1e-180, 1e-300])
@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.filterwarnings("error")
def test_tiny_eigenvalues_end_and_leave_no_float64(least, count):
    shares = anisotropic_shares([1.0, least], [1, count])
    assert shares[0] == pytest.approx(1.0, abs=1e-12)
    assert 0 <= shares[1] <= 1.001 * least**0.5
    spread = anisotropic_spread([1.0, least], [1, count])
    assert spread.mean == pytest.approx(1.0, abs=1e-12)
    assert spread.variance <= 1e-12


BITS = """
import numpy as np
from simgap.stats import pearson
from simgap.theory.anisotropic import anisotropic_spread, null_anisotropic_mso

values = np.exp(np.random.default_rng(0).standard_normal(12_000))
spread = anisotropic_spread(values)
for value in (null_anisotropic_mso(values), spread.mean, spread.variance, spread.covariance, pearson(values, values**2)):
    print(value.hex())
"""


def test_the_bits_do_not_know_how_many_threads_numpy_has():
    """numpy cuts the product of two rows of more than 10,000 by its threads."""
    found = [
        subprocess.run(
            [sys.executable, "-c", BITS], env={**os.environ, "OPENBLAS_NUM_THREADS": n}, capture_output=True, text=True, check=True
        ).stdout
        for n in ("1", "2")
    ]
    assert found[0] == found[1]
    assert found[0].count("0x") == 5

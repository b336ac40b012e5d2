"""What whitening by others leaves: closed forms in the plane, and its ends."""

import numpy as np
import pytest

from simgap.theory.anisotropic import null_anisotropic_mso
from simgap.theory.whitened import null_whitened_mso, whitened_spectrum


@pytest.mark.parametrize("p", [1.0, 2.0, 10.0])
def test_two_directions_keep_the_root_of_their_ratio(p):
    # Shares of p^2 and 1 are p and 1 over their sum; whitened, p and 1; their shares are the roots.
    root = p**0.5
    assert null_whitened_mso([p * p, 1], ridge=1e-12) == pytest.approx((p + 1) / (root + 1) ** 2, rel=1e-9)


def test_a_round_space_stays_round_and_a_large_ridge_does_nothing():
    assert null_whitened_mso([3.0], [16]) == pytest.approx(1 / 16, rel=1e-9)
    spectrum, counts = [50.0, 1.0], [2, 10]
    assert null_whitened_mso(spectrum, counts, 1e9) == pytest.approx(null_anisotropic_mso(spectrum, counts), rel=1e-6)


def test_more_ridge_leaves_more():
    found = [null_whitened_mso(np.arange(1, 33.0) ** -1.0, None, ridge) for ridge in (1e-6, 1e-3, 0.1, 1.0, 10.0)]
    assert found == sorted(found)
    assert 1 / 32 < found[0] < 1.01 / 32


def test_spectrum_by_hand():
    assert whitened_spectrum([4, 1], [0.5, 0.25], 1, 4) == [4 / 0.75, 2]

import numpy as np
import pytest

import simgap.theory as theory

NUMBER = "expected a number, or an array of them, got"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: theory.null_anisotropic_mso(["a"]), rf"^eigenvalues: {NUMBER} \['a'\]$"),
        (lambda: theory.anisotropic_shares([[1.0], [1.0, 2.0]]), rf"^eigenvalues: {NUMBER} \[\[1.0\]"),
        (lambda: theory.null_anisotropic_mso([1, 2], other="wide"), rf"^other: {NUMBER} 'wide'$"),
        (lambda: theory.null_mso("a"), rf"^width: {NUMBER} 'a'$"),
        (lambda: theory.null_weight_mso(64, ["a"]), rf"^d_ff: {NUMBER} \['a'\]$"),
        (lambda: theory.null_jacobian_alignment(None, 4), rf"^d_model: {NUMBER} None$"),
        (lambda: theory.null_gap(64, 1 + 2j), rf"^d_ff: {NUMBER} \(1\+2j\)$"),
        (lambda: theory.dual_map(["relu"], 0.5), r"^activation: expected a name or an Activation, got \['relu'\]$"),
    ],
)
def test_what_is_no_number_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_other_refusals_stay():
    with pytest.raises(ValueError, match=r"^eigenvalues: expected finite numbers"):
        theory.null_anisotropic_mso([-1, 2])
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        theory.null_mso(64, wide=1)
    with pytest.raises(TypeError, match="required positional argument"):
        theory.null_weight_mso(64)
    assert theory.null_mso("64") == 1 / 64
    with np.errstate(all="raise"):
        assert theory.null_anisotropic_mso([1, 1]) == pytest.approx(0.5)

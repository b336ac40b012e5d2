"""What is scaled so that float64 holds its sums and squares, and what is left as it is."""

import numpy as np
import pytest
import torch

from simgap.api.scales import middling, squarable, summable

INDICES = torch.tensor([[0, 1], [1, -1]])


@pytest.mark.parametrize("size", [0.0, 1e-300, 1.0, 1e288])
def test_what_sums_stay_finite_of_is_itself(size):
    vectors = torch.full((2, 2, 3), size, dtype=torch.float64)
    assert summable(vectors, INDICES) is vectors
    assert summable(vectors.float(), INDICES).dtype == torch.float32


@pytest.mark.parametrize("sign", [1, -1])
def test_large_vectors_are_scaled_by_a_power_of_two(sign):
    vectors = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 2, 3)))
    vectors[1, 0, 2] = sign * 1.5e308
    scaled = summable(vectors, INDICES)
    assert torch.equal(scaled * 2.0**64, vectors)
    # The largest float64 as often as there are numbers of 64 bits: what is not scaled has no such sum.
    assert np.isfinite(float(scaled.abs().max()) * 2.0**63)
    with np.errstate(over="ignore"):
        assert np.isinf(np.float64(vectors.abs().max()) * 2.0**63)


def test_neither_padding_nor_what_is_not_finite_scales():
    vectors = torch.ones(2, 2, 3, dtype=torch.float64)
    vectors[1, 1] = 1e308
    assert summable(vectors, INDICES) is vectors
    vectors[1, 1, 0] = torch.nan
    assert summable(vectors, INDICES) is vectors
    vectors[0, 0, 0] = torch.inf
    assert torch.isinf(summable(vectors, INDICES)[0, 0, 0])


def test_an_expert_has_one_scale_in_all_its_matrices():
    g = np.random.default_rng(1)
    up, down = (torch.from_numpy(g.standard_normal(shape)) for shape in ((3, 4, 5), (3, 5, 4)))
    given = {"up": up, "down": down.float()}
    assert squarable(given) is given
    up[1] *= 1e250
    up[2] = 0
    down[2] = 0
    scaled = squarable({"up": up, "down": down})
    sizes = torch.stack([matrix.abs().amax((1, 2)) for matrix in scaled.values()]).amax(0)
    assert sizes.tolist() == [1, 1, 0]
    for e in (0, 1):
        assert float(scaled["down"][e].norm() / scaled["up"][e].norm()) == pytest.approx(float(down[e].norm() / up[e].norm()), rel=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-100, 1.0, 1e100])
def test_vectors_of_which_squares_are_numbers_are_themselves(size):
    vectors = torch.full((2, 2, 3), size, dtype=torch.float64)
    vectors[1, 1] = 1e300
    assert middling(vectors, INDICES) is vectors
    assert middling(vectors.float(), INDICES).dtype == torch.float32


@pytest.mark.parametrize("size", [1e-305, 1e-150, 1e150, 1e305])
def test_vectors_that_have_no_squares_are_scaled_by_a_power_of_two(size):
    vectors = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 2, 3))) * size
    scaled = middling(vectors, INDICES)
    assert torch.equal(scaled / vectors, torch.full((2, 2, 3), 2.0 ** (600 if size < 1 else -600), dtype=torch.float64))
    assert 1e-270 < float(scaled.square().max()) < 1e270

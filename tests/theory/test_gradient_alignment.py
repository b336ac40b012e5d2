"""Law R3 against finite differences of a loss, in plain numpy."""

import numpy as np
import pytest

from simgap.theory.gradient_alignment import gradient_cosine


def loss(weights, gates, hidden, residual, head):
    """A smooth loss of tokens: sum over t of log cosh and squares of the head's readings of y_t."""
    total = 0.0
    for t in range(len(residual)):
        y = residual[t] + sum(g * w @ h[t] for g, w, h in zip(gates, weights, hidden, strict=True))
        reading = head @ y
        total += float(np.log(np.cosh(reading)).sum() + 0.1 * (y[0] + t) ** 2)
    return total


def gradients(weights, gates, hidden, residual, head, step=1e-5):
    """Central differences, entry by entry: relative error about step^2 and 1e-16/step."""
    found = np.zeros_like(weights)
    for at in np.ndindex(weights.shape):
        moved = [weights.copy(), weights.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        found[at] = (loss(moved[0], gates, hidden, residual, head) - loss(moved[1], gates, hidden, residual, head)) / (2 * step)
    return found


def cos(left, right):
    left, right = np.ravel(left), np.ravel(right)
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def case(tokens, seed):
    random = np.random.default_rng(seed)
    weights, hidden = random.standard_normal((2, 3, 4)) / 3, random.standard_normal((2, tokens, 4))
    return weights, hidden, random.standard_normal((tokens, 3)), random.standard_normal((5, 3)) / 2


@pytest.mark.parametrize("gates", [(0.7, 0.2), (-0.7, 0.2), (0.3, -1.5), (-2.0, -0.1)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_one_token_against_finite_differences(gates, seed):
    weights, hidden, residual, head = case(1, seed)
    first, second = gradients(weights, gates, hidden, residual, head)
    claimed = gradient_cosine(*gates, cos(hidden[0], hidden[1]))
    assert cos(first, second) == pytest.approx(claimed, abs=1e-6)
    assert abs(claimed) == abs(cos(hidden[0], hidden[1]))


@pytest.mark.parametrize("seed", [0, 1])
def test_two_tokens_are_another_matter(seed):
    """The twin: neither the cosine of summed hidden vectors nor either token's own is that of the summed gradients."""
    weights, hidden, residual, head = case(2, seed)
    measured = cos(*gradients(weights, (0.7, 0.2), hidden, residual, head))
    for claimed in (cos(hidden[0].sum(0), hidden[1].sum(0)), cos(hidden[0, 0], hidden[1, 0]), cos(hidden[0, 1], hidden[1, 1])):
        assert abs(measured - gradient_cosine(0.7, 0.2, claimed)) > 1e-3


def test_arrays_and_extreme_gates():
    found = gradient_cosine(np.array([1e-300, -1e300]), np.array([1e-300, 1e300]), np.array([0.5, 0.25]))
    np.testing.assert_array_equal(found, [0.5, -0.25])


def test_a_gate_of_zero_has_no_gradient():
    with pytest.raises(ValueError, match="gate_e: expected gates other than 0, got 0"):
        gradient_cosine(0, 1, 0.5)
    with pytest.raises(ValueError, match="gate_v: expected gates other than 0"):
        gradient_cosine(1.0, np.array([1.0, 0.0]), 0.5)

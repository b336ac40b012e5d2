"""The load-balance loss against a loop, its gradient, its limits, and the loads that the routing metric counts."""

import doctest
import sys

import numpy as np
import pytest
import torch

from simgap.losses import load_balance
from simgap.metrics.routing import counts


def drawn(*shape, k=1, seed=0):
    """Probabilities and the k most probable experts."""
    p = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)
    return p, p.topk(k).indices


def loop(probabilities, indices, divide_by_k):
    n, experts = len(probabilities), len(probabilities[0])
    total = 0.0
    for e in range(experts):
        taken = sum(1 for row in indices for i in row if i == e)
        share = taken / n / (len(indices[0]) if divide_by_k else 1)
        total += share * sum(row[e] for row in probabilities) / n
    return experts * total


@pytest.mark.parametrize("divide_by_k", [True, False])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_it_is_the_loop_layer_by_layer(k, divide_by_k):
    p, indices = drawn(3, 2, 7, 5, k=k)
    indices[0, 1, 4, -1] = -1
    found = load_balance(p, indices, divide_by_k)
    assert found.shape == (3, 2)
    for layer in np.ndindex(3, 2):
        assert float(found[layer]) == pytest.approx(loop(p[layer].tolist(), indices[layer].tolist(), divide_by_k), rel=1e-14)


@pytest.mark.parametrize("k", [1, 3])
def test_its_gradient_goes_through_the_probabilities(k):
    p, indices = drawn(2, 6, 4, k=k, seed=1)
    logits = p.log().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: load_balance(logits.softmax(-1), indices), logits)
    (gradient,) = torch.autograd.grad(load_balance(logits.softmax(-1), indices).sum(), logits)
    assert float(gradient.abs().max()) > 1e-3


def test_a_step_down_moves_probability_from_the_busier_expert():
    logits = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    load_balance(logits.softmax(-1), torch.tensor([[0]] * 5 + [[1]])).backward()
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1] < 0).all()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_balanced_is_one_or_k(k):
    """Either side uniform is enough: the other one adds up to 1."""
    experts, n = 4, 8
    even = torch.full((n, experts), 1 / experts, dtype=torch.float64)
    round_robin = (torch.arange(n)[:, None] + torch.arange(k)) % experts
    first = torch.arange(k).expand(n, k)
    other, _ = drawn(n, experts, seed=2)
    for p, indices in ((even, round_robin), (even, first), (other, round_robin)):
        assert float(load_balance(p, indices)) == pytest.approx(1, rel=1e-14)
        assert float(load_balance(p, indices, divide_by_k=False)) == pytest.approx(k, rel=1e-14)


def test_collapsed_is_the_number_of_experts():
    sure = torch.eye(4, dtype=torch.float64)[[2] * 9]
    assert float(load_balance(sure, torch.full((9, 1), 2))) == 4
    # All on the same two: each slot's share is a half.
    two = torch.tensor([[2, 0]]).expand(9, 2)
    assert float(load_balance(sure, two)) == 2
    assert float(load_balance(sure, two, divide_by_k=False)) == 4


def test_choices_that_disagree_with_probabilities_are_below_one():
    p = torch.tensor([[0.9, 0.1]], dtype=torch.float64).expand(5, 2)
    assert float(load_balance(p, torch.ones(5, 1, dtype=torch.int64))) == pytest.approx(0.2)


def test_its_loads_are_those_of_the_routing_metric():
    p, indices = drawn(3, 50, 6, k=2, seed=3)
    share = torch.from_numpy(counts(indices, 6)).double() / (50 * 2)
    assert torch.allclose(load_balance(p, indices), 6 * (share * p.mean(1)).sum(-1), rtol=1e-14)


@pytest.mark.parametrize(
    "p, indices, message",
    [
        (torch.ones(4), torch.zeros(1, 1, dtype=torch.int64), r"probabilities: expected floats \(\.\.\., n, E\), at least one, got \(4,\)"),
        (torch.ones(4, 2, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.int64), r"probabilities: expected floats .* torch\.int64"),
        (torch.ones(0, 2), torch.zeros(0, 1, dtype=torch.int64), r"probabilities: .* at least one, got \(0, 2\)"),
        (torch.ones(4, 2), torch.zeros(3, 1, dtype=torch.int64), r"indices: expected whole numbers \(4, 'k'\), .* got \(3, 1\)"),
        (torch.ones(4, 2), torch.zeros(4, 1), r"indices: expected whole numbers .* torch\.float32"),
        (torch.ones(4, 2), torch.zeros(4, 0, dtype=torch.int64), r"indices: expected whole numbers .* got \(4, 0\)"),
        (torch.ones(4, 2), torch.full((4, 1), 2), r"indices: expected -1 to 1, the experts of probabilities, got 2"),
        (torch.ones(4, 2), torch.full((4, 1), -2), r"indices: expected -1 to 1, the experts of probabilities, got -2"),
    ],
)
def test_bad_input_is_named(p, indices, message):
    with pytest.raises(ValueError, match=message):
        load_balance(p, indices)


def test_its_example():
    found = doctest.testmod(sys.modules["simgap.losses.load_balance"])
    assert found.attempted
    assert not found.failed

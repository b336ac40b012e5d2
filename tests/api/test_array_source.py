"""The orders that arrays are permuted in: the same for the same arrays however they are given, others for others."""

import numpy as np
import pytest
import torch

from simgap.api.array_source import ArraySource
from simgap.specs import LayerSpec

N, K, WIDTH, EXPERTS = 60, 2, 5, 4
SPEC = LayerSpec(d_model=WIDTH, d_ff=WIDTH, n_experts=EXPERTS, top_k=K)


def drawn(seed):
    """Vectors (n, k, width) and their routing, which is the same at any seed."""
    h = np.random.default_rng([86, seed]).standard_normal((N, K, WIDTH))
    routing = np.random.default_rng(86).random((N, EXPERTS)).argsort(1)[:, :K]
    return h, routing


def source(h, routing):
    return ArraySource(SPEC, torch.from_numpy(routing)[None], "output", torch.as_tensor(h))


def order(h, routing, number=0):
    """Which vector of the kept ones each slot has after permuting."""
    permuted = source(h, routing).permuted(number).vectors
    kept = torch.from_numpy(routing >= 0)
    before, after = torch.as_tensor(h)[kept].double(), permuted[kept].double()
    return (after[:, None] == before[None]).all(-1).int().argmax(1).tolist()


def test_other_vectors_on_the_same_routing_are_put_in_other_orders():
    (h, routing), (other, _) = drawn(0), drawn(1)
    assert order(h, routing) == order(h.copy(), routing.copy())
    assert order(h, routing) != order(other, routing)
    assert order(h, routing) != order(h, routing, 1)
    # Experts keep their own vectors.
    owner = routing.ravel()
    assert (owner[order(h, routing)] == owner).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda h, routing: (np.ascontiguousarray(h.T).T, routing),
        lambda h, routing: (2.0**-70 * h, routing),
        lambda h, routing: (torch.from_numpy(h).float(), routing),
        lambda h, routing: (
            np.concatenate([h, np.full((N, 1, WIDTH), np.nan)], 1),
            np.concatenate([routing, np.full((N, 1), -1)], 1),
        ),
    ],
    ids=["layout", "size", "format", "padding"],
)
def test_the_way_that_vectors_are_given_changes_no_order(change):
    h, routing = drawn(2)
    h = h.astype(np.float32).astype(float)
    assert order(*change(h, routing)) == order(h, routing)


def test_vectors_of_one_number():
    routing = np.array([[0, -1]])
    assert ArraySource(SPEC, torch.from_numpy(routing)[None], "output", torch.ones(1, 2, 1)).permuted(0).vectors.shape == (1, 2, 1)

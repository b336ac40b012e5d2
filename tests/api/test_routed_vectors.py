"""Vectors, routing and mask as one value: what each function asks of them, all ask in the same words."""

import re

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.api.routed_vectors import RoutedVectors

CALLS = {
    "mean_mso": sg.mean_mso,
    "token_mso": lambda vectors, routing, **given: sg.token_mso(vectors, routing=routing, **given),
    "measure_arrays": sg.measure_arrays,
}
VECTORS, ROUTING = np.random.default_rng(0).standard_normal((4, 3, 2, 5)), np.tile([0, 1], (4, 3, 1))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vectors": VECTORS[0, 0]}, "vectors: expected (..., k, width) with at least one token, k >= "),
        ({"vectors": VECTORS[:0], "routing": ROUTING[:0]}, "vectors: expected (..., k, width) with at least one token, k >= "),
        ({"routing": ROUTING[0]}, "routing: expected (4, 3, 2), the shape of vectors without their width, got (3, 2)"),
        ({"routing": ROUTING.T}, "routing: expected (4, 3, 2), the shape of vectors without their width, got (2, 3, 4)"),
        ({"routing": ROUTING - 2}, "routing: expected indices from 0, or -1 for none, got -2 to -1"),
        ({"routing": ROUTING * 0 - 1}, "routing: expected indices from 0, or -1 for none, got none"),
        ({"routing": ROUTING * 1.0}, "routing: expected whole numbers, an expert's index or -1 for none, got dtype torch.float64"),
        ({"mask": np.zeros((4, 3), int)}, "routing: expected indices from 0, or -1 for none, got none that the mask keeps"),
        ({"mask": np.ones(4, int)}, "mask: expected (4, 3), one to a token, or (4, 3, 2), one to a vector, got (4,)"),
    ],
)
def test_a_fault_has_one_message(call, given, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
        call(**{"vectors": VECTORS, "routing": ROUTING} | given)
    assert "\n" not in str(error.value)


def test_a_routing_that_has_to_be_there():
    for call in (lambda: sg.mean_mso(VECTORS, None), lambda: sg.measure_arrays(VECTORS), lambda: sg.measure_arrays(mask=[1])):
        with pytest.raises(ValueError, match=r"^routing: expected \(\.\.\., k\) integers, which expert each vector came from, got none"):
            call()
    with pytest.raises(ValueError, match=r"^routing: expected \(\.\.\., k\), not empty, got \(3,\)"):
        sg.measure_arrays(routing=np.arange(3), metrics="routing")


def test_what_is_kept_and_what_is_left_of_the_tokens():
    routing = ROUTING.copy()
    routing[0, 1] = -1
    routing[3, 2, 0] = 10**12
    mask = np.ones((4, 3, 2), int)
    mask[2] = 0
    mask[3, 0, 1] = 0
    routed = RoutedVectors.of(VECTORS, routing, mask)
    expected = np.where(mask > 0, routing, -1)
    assert np.array_equal(routed.kept(), expected >= 0)
    reached, numbered = routed.experts()
    assert reached.tolist() == [0, 1, 10**12]
    assert np.array_equal(np.append(reached, -1)[numbered], expected)
    # A token that the router dropped is still a token, and one that the mask leaves out is none.
    h, indices = routed.of_tokens()
    there = mask.any(-1)
    assert np.array_equal(h, VECTORS[there])
    assert np.array_equal(indices, expected[there])
    assert RoutedVectors.of(VECTORS, ROUTING, np.ones((4, 3), bool)).kept() is None
    alone = RoutedVectors.of_routing(torch.from_numpy(routing), mask)
    assert np.array_equal(alone.of_tokens()[1], indices)
    assert alone.vectors.shape == (4, 3, 2, 0)


def test_whether_a_token_may_name_an_expert_twice():
    assert RoutedVectors.of(VECTORS, ROUTING * 0, None, repeats=True).experts()[0].tolist() == [0]
    with pytest.raises(ValueError, match=r"got expert 0 twice at token \(0, 0\)"):
        RoutedVectors.of(VECTORS, ROUTING * 0, None)

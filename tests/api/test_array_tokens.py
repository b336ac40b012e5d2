"""What is given beside the vectors of a layer: checked by name, masked with its tokens."""

import numpy as np
import pytest

import simgap as sg

RNG = np.random.default_rng(0)
VECTORS, INPUTS, GATES, ROUTER = (
    RNG.standard_normal((40, 2, 12)),
    RNG.standard_normal((40, 12)),
    RNG.random((40, 2)),
    RNG.standard_normal((3, 12)),
)
ROUTING = np.stack([RNG.permutation(3)[:2] for _ in range(40)])
MANY = "input_pca_participation_ratio"


def measured(**more):
    return sg.measure_arrays(VECTORS, ROUTING, **more)


def test_inputs_and_gates_of_padded_tokens_are_not_read():
    mask = np.arange(40) < 30
    inputs, gates = INPUTS.copy(), GATES.copy()
    inputs[30:], gates[30:] = np.nan, np.nan
    whole = sg.measure_arrays(VECTORS[:30], ROUTING[:30], inputs=INPUTS[:30], gates=GATES[:30], quantities=MANY)
    assert measured(mask=mask, inputs=inputs, gates=gates, quantities=MANY)[MANY].mean == whole[MANY].mean


def test_gates_weigh():
    assert measured(inputs=INPUTS, quantities=MANY)[MANY].mean != measured(inputs=INPUTS, gates=GATES, quantities=MANY)[MANY].mean
    ones = np.ones((40, 2))
    assert measured(inputs=INPUTS, quantities=MANY)[MANY].mean == measured(inputs=INPUTS, gates=ones, quantities=MANY)[MANY].mean


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"inputs": INPUTS[:39]}, r"inputs: expected \(40, d_model\), got \(39, 12\)"),
        ({"inputs": INPUTS[:, :5]}, "inputs: expected d_model = 12, as the other arrays have, got 5"),
        ({"gates": -GATES}, "gates: expected numbers of at least 0"),
        ({"gates": GATES[:, :1]}, r"gates: expected \(40, 2\), got \(40, 1\)"),
        ({"router": ROUTER[:2]}, "router: expected a row to each of 3 experts, got 2"),
        ({"router": ROUTER[0]}, r"router: expected \(E, d_model\), got \(12,\)"),
        ({"inputs": np.where(np.arange(12) == 3, np.inf, INPUTS)}, "inputs: expected finite numbers"),
        ({"activation": "silo"}, "activation: expected one of identity, relu"),
    ],
)
def test_refusals_name_the_argument(more, line):
    with pytest.raises(ValueError, match=line):
        measured(**more, metrics="subspace")


def test_nothing_beside_no_routing():
    with pytest.raises(ValueError, match="expected routing too"):
        sg.measure_arrays(weights={"up": RNG.standard_normal((3, 5, 12))}, router=ROUTER)

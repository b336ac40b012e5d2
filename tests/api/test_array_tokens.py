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
        ({"inputs": INPUTS * 1e200}, "inputs: expected numbers below"),
        ({"activation": "silo"}, "activation: expected one of identity, relu"),
    ],
)
def test_refusals_name_the_argument(more, line):
    with pytest.raises(ValueError, match=line):
        measured(**more, metrics="subspace")


def test_nothing_beside_no_routing():
    with pytest.raises(ValueError, match="expected routing too"):
        sg.measure_arrays(weights={"up": RNG.standard_normal((3, 5, 12))}, router=ROUTER)


def test_gates_of_no_expert_are_not_read():
    routing, gates, nothing = ROUTING.copy(), GATES.copy(), GATES.copy()
    routing[::3, 1] = -1
    gates[::3, 1], nothing[::3, 1] = np.nan, 0.0
    said = [sg.measure_arrays(VECTORS, routing, inputs=INPUTS, gates=each, metrics=["subspace", "ablation"]) for each in (gates, nothing)]
    assert [one.mean for one in said[0].values.values()] == [one.mean for one in said[1].values.values()]


WEIGHTS = {"up": RNG.standard_normal((3, 10, 12)), "gate": RNG.standard_normal((3, 10, 12)), "down": RNG.standard_normal((3, 12, 10))}
JACOBIANS = {"weights": WEIGHTS, "activation": "silu", "metrics": "jacobian"}


def means(**more):
    return [one.mean for one in sg.measure_arrays(routing=ROUTING, **JACOBIANS | more).values.values()]


def test_jacobians_without_gates_weigh_all_tokens_alike():
    assert means(inputs=INPUTS) == pytest.approx(means(inputs=INPUTS, gates=np.ones((40, 2))), rel=1e-12)
    assert means(inputs=INPUTS) != pytest.approx(means(inputs=INPUTS, gates=GATES), rel=1e-3)


def test_jacobians_of_arrays_of_different_dtypes():
    narrow = {role: matrix.astype(np.float32) for role, matrix in WEIGHTS.items()}
    mixed = narrow | {"down": WEIGHTS["down"]}
    whole = means(inputs=INPUTS)
    for inputs, weights in ((INPUTS.astype(np.float32), WEIGHTS), (INPUTS, narrow), (INPUTS.astype(np.float16), mixed)):
        assert means(inputs=inputs, weights=weights) == pytest.approx(whole, rel=0.05, abs=1e-3)


def test_an_expert_of_no_gate_has_no_mean_jacobian():
    gates = np.where(ROUTING == 1, 0.0, GATES)
    said = sg.measure_arrays(routing=ROUTING, inputs=INPUTS, gates=gates, **JACOBIANS)
    assert (said["jacobian_mso mean"].pairs, said["jacobian_spectrum leading"].pairs) == (1, 2)


def test_activations_know_the_size_of_weights():
    with pytest.raises(ValueError, match="activation: expected weights of which the largest of each expert"):
        means(inputs=INPUTS, weights={role: matrix * 1e-200 for role, matrix in WEIGHTS.items()})


def test_gates_of_which_no_square_is_known_weigh_nothing():
    """A square of 1e-200 is 0 in float64."""
    said = sg.measure_arrays(VECTORS, ROUTING, gates=np.where(ROUTING == 1, 1e-200, GATES), metrics=["subspace", "similarity"])
    assert said["pca_effective_rank output"].pairs == 2

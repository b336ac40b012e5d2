"""How often untrained layers stand out from simulated ones: as often as the level says, which Student's t does not give."""

import math
from dataclasses import replace

import numpy as np
import pytest

import simgap as sg
from simgap.api.calibration import compare
from simgap.nulls import simulated
from simgap.selection import select
from simgap.stats import Estimate, student_p

SPEC = sg.LayerSpec(d_model=8, d_ff=4, n_experts=2, top_k=2)
(UP,), REPETITIONS, LAYERS = select("weight_mso up").asked, 500, 16


@pytest.fixture(scope="module")
def of_layers():
    """The overlap of W_up in so many layers, simulated once."""
    count = REPETITIONS * (LAYERS + 3)
    return simulated.layers(SPEC, "for a rate", 1, count, (UP,))[UP].values


@pytest.mark.parametrize("trials, levels", [(1, (2 / 17, 4 / 17)), (3, (0.05, 2 / 969))])
def test_the_rate_of_the_null(of_layers, monkeypatch, trials, levels):
    """500 repetitions, fixed beforehand: p within 5 sigma of its level; the twin, Student's t, calls far too many extreme."""
    monkeypatch.setattr(simulated, "MOST_LAYERS", LAYERS)
    p, student = [], []
    for row in of_layers.reshape(REPETITIONS, -1):
        monkeypatch.setattr(simulated, "layers", lambda *asked, row=row: {UP: Estimate.of(row[:LAYERS])})
        null = simulated.of_layer(SPEC, sg.RunSpec(tokens=1, trials=trials), UP, (UP,))
        one = compare(Estimate.of(row[LAYERS : LAYERS + trials]), null)
        p.append(one.p)
        student.append(student_p(one.z, LAYERS - 1))
    for level in levels:
        assert abs(np.mean(np.array(p) <= level + 1e-12) - level) < 5 * math.sqrt(level * (1 - level) / REPETITIONS), level
    assert np.mean(np.array(student) < 0.001) > 0.001 + 5 * math.sqrt(0.001 / REPETITIONS)


def test_layers_are_those_that_are_simulated_alone():
    """In groups as one by one, and the first of many as the first of few."""
    spec, asked = replace(SPEC, n_experts=4), (UP, *select("activation_mso token output").asked)
    few, many = (simulated.layers(spec, "k", 20, count, asked) for count in (3, 40))
    for quantity in asked:
        assert few[quantity].values.tolist() == many[quantity].values[:3].tolist()
        assert len(set(many[quantity].values.tolist())) == 40

"""How often arrays whose experts know nothing of each other stand out from the same arrays on other tokens."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.api.array_source import ArraySource
from simgap.api.calibration import compare
from simgap.nulls import permuted
from simgap.observe import observe
from simgap.selection import select
from simgap.settings import own_settings
from simgap.sources import Work
from simgap.stats import Estimate, student_p
from simgap.sums import Values

TOKENS, WIDTH, REPETITIONS, DRAWS = 24, 200, 400, 20
(TOKEN,) = select("activation_mso token output").asked
SPEC = sg.LayerSpec(d_model=WIDTH, d_ff=WIDTH, n_experts=2, top_k=2)


def plainly(source, *asked):
    """The mean squared cosine of the two vectors on each token."""
    a, b = source.vectors.numpy().transpose(1, 0, 2)
    squared = np.einsum("nd,nd->n", a, b) ** 2 / (np.einsum("nd,nd->n", a, a) * np.einsum("nd,nd->n", b, b))
    return SimpleNamespace(quantities={TOKEN: Values(np.array([squared.sum()]), np.array([TOKENS]), np.array([TOKENS]))})


def test_plainly_is_what_is_observed():
    h = torch.from_numpy(np.random.default_rng(1).standard_normal((TOKENS, 2, WIDTH)))
    source = ArraySource(SPEC, torch.arange(2).expand(1, TOKENS, 2), "output", h)
    mine, theirs = (of(source, (TOKEN,), Work()).quantities[TOKEN] for of in (plainly, observe))
    assert mine.total[0] / mine.pairs[0] == pytest.approx(theirs.total[0] / theirs.pairs[0], rel=1e-12)


@own_settings
def test_the_rate_of_the_null(monkeypatch):
    """400 arrays, fixed beforehand, in which two experts each have one large coordinate on a token: their overlap is a matter of few
    tokens, and skewed. p is within 5 sigma of its level; the twin, Student's t, calls far too many extreme."""
    monkeypatch.setattr(permuted, "MOST_DRAWS", DRAWS)
    monkeypatch.setattr(permuted, "observe", plainly)
    g, p, student = np.random.default_rng(0), [], []
    for _ in range(REPETITIONS):
        h = 0.02 * g.standard_normal((TOKENS, 2, WIDTH))
        h[np.arange(TOKENS)[:, None], np.arange(2), g.integers(0, WIDTH, (TOKENS, 2))] += 1
        source = ArraySource(SPEC, torch.arange(2).expand(1, TOKENS, 2), "output", torch.from_numpy(h))
        values = plainly(source).quantities[TOKEN]
        one = compare(Estimate.of(values.total / values.pairs), permuted.permuted(source, (TOKEN,), Work())[TOKEN])
        p.append(one.p)
        student.append(student_p(one.z, DRAWS - 1))
    for level in (2 / 21, 4 / 21, 10 / 21):
        assert abs(np.mean(np.array(p) <= level + 1e-12) - level) < 5 * math.sqrt(level * (1 - level) / REPETITIONS), level
    assert np.mean(np.array(student) < 0.001) > 0.001 + 5 * math.sqrt(0.001 / REPETITIONS)


def test_few_permutations_give_no_small_p():
    """Experts that are alike on each token, far from all permutations."""
    h = np.random.default_rng(0).standard_normal((100, 1, 16)).repeat(2, 1)
    one = sg.measure_arrays(h, np.tile([0, 1], (100, 1)), metrics="vector_overlap", null="permuted")["activation_mso token output"]
    assert one.z > 10
    assert one.p == 2 / 100
    assert str(one).endswith("p <= 0.02 by 99 draws: beyond all of them; the level 0.001 asks for more draws or trials")

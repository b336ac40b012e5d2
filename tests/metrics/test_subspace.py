"""The subspace metric against principal components of each expert's routed vectors, taken whole."""

import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest
from scipy.linalg import subspace_angles

import simgap as sg
from simgap.moe import draws_of, open_inputs, simulate

SPEC = sg.LayerSpec(d_model=12, d_ff=16, n_experts=4, top_k=2, activation="silu")
RUN = sg.RunSpec(tokens=80, trials=1, seed=3, dtype="float64")
SOME = [
    "subspace_overlap rank_8",
    "subspace_geodesic variance_90",
    "pca_effective_rank",
    "input_subspace_overlap",
    "input_pca_participation_ratio",
]


def expected(spec=SPEC, run=RUN):
    """By site: covariances of each expert's routed rows, weighted by their gates."""
    draws = draws_of(spec, run.seed, range(1))
    layer = simulate(draws, run, open_inputs(draws))
    (block,) = layer.blocks(("pre", "hidden", "output"), tokens=run.tokens)
    indices, gates = layer.indices[0].numpy(), layer.gates[0].numpy()
    covariances = {}
    for site in ("pre", "hidden", "output", ""):
        covariances[site] = []
        for e in range(spec.n_experts):
            token, slot = np.nonzero(indices == e)
            rows = layer.x[0].numpy()[token] if not site else block.rows[site][0].numpy()[block.index[0].numpy()[token, slot]]
            covariances[site].append(np.cov(rows.T, aweights=gates[token, slot], ddof=0))
    return covariances


def leading(covariance, count):
    return np.linalg.eigh(covariance)[1][:, ::-1][:, :count]


def test_against_components_of_whole_arrays():
    gap = sg.measure(SPEC, tokens=80, trials=1, seed=3, dtype="float64", quantities=SOME)
    of_site = expected()
    for site, name in (
        ("output", "subspace_overlap rank_8 output"),
        ("hidden", "subspace_overlap rank_8 hidden"),
        ("", "input_subspace_overlap rank_8"),
    ):
        pairs = [np.cos(subspace_angles(leading(a, 8), leading(b, 8))) ** 2 for a, b in combinations(of_site[site], 2)]
        assert gap[name].mean == pytest.approx(np.mean(pairs), rel=1e-9)
        assert gap[name].pairs == 6
    counts, eigenvalues = [], [np.linalg.eigvalsh(c)[::-1] for c in of_site["output"]]
    for values in eigenvalues:
        counts.append(int(np.argmax(values.cumsum() >= 0.9 * values.sum())) + 1)
    bases = [leading(c, count) for c, count in zip(of_site["output"], counts, strict=True)]
    geodesic = [math.sqrt((subspace_angles(a, b) ** 2).sum()) for a, b in combinations(bases, 2)]
    assert gap["subspace_geodesic variance_90 output"].mean == pytest.approx(np.mean(geodesic), rel=1e-8)
    shares = [values / values.sum() for values in eigenvalues]
    entropies = [-(share * np.log(share)).sum() for share in shares]
    assert gap["pca_effective_rank output"].mean == pytest.approx(np.mean(np.exp(entropies)), rel=1e-8)
    inputs = [np.trace(c) ** 2 / np.trace(c @ c) for c in of_site[""]]
    assert gap["input_pca_participation_ratio"].mean == pytest.approx(np.mean(inputs), rel=1e-8)


def test_the_same_bits_in_any_company():
    few, more = (sg.measure(SPEC, tokens=300, trials=trials, quantities=SOME) for trials in (1, 3))
    for quantity, estimate in few.values.items():
        if estimate.mean is not None:
            assert estimate.values[0] == more[str(quantity)].values[0], quantity


def test_law_of_outputs_in_a_round_space_and_none_in_another():
    """r/d exactly; with outlier coordinates the law is not named, and untrained layers of that space hold (law N5)."""
    run = {"tokens": 200, "trials": 20, "quantities": "subspace_overlap rank_8 output"}
    spec = sg.LayerSpec(d_model=32, d_ff=32, n_experts=4, top_k=2)
    (row,) = sg.calibrate(sg.measure(spec, **run)).values.values()
    assert (row.null, row.null_kind) == (8 / 32, "exact")
    assert abs(row.z) < 5
    uneven = dataclasses.replace(spec, space=sg.SpaceSpec(outliers=4, scale=10.0))
    (row,) = sg.calibrate(sg.measure(uneven, **run)).values.values()
    assert row.null_kind == "simulated"
    assert abs(row.z) < 5
    # What the round law would have said: half the overlap are four coordinates that all experts have.
    assert row.mean > 1.5 * 8 / 32


def test_too_few_tokens_or_directions_are_named():
    gap = sg.measure(SPEC, tokens=6, trials=1, quantities="subspace_overlap rank_8 output")
    estimate = gap["subspace_overlap rank_8 output"]
    assert estimate.mean is None
    narrow = sg.measure(dataclasses.replace(SPEC, d_model=6), tokens=50, trials=1, quantities="subspace_overlap rank_8 output")
    assert "width of at least 8" in narrow["subspace_overlap rank_8 output"].why
    one = sg.measure(SPEC, tokens=1, trials=1, quantities="pca_effective_rank output")
    assert one["pca_effective_rank output"].mean is None


def test_arrays_are_held_against_random_groups():
    """Experts that write into subspaces of their own stand out of groups dealt anew; experts that share one do not."""
    rng = np.random.default_rng(0)
    routing = np.stack([rng.permutation(4)[:2] for _ in range(400)])
    own = np.stack([np.linalg.qr(rng.standard_normal((24, 6)))[0] for _ in range(4)])
    codes = rng.standard_normal((400, 2, 6))
    for bases, apart in ((own, True), (own[:1].repeat(4, 0), False)):
        vectors = np.einsum("nkwr,nkr->nkw", bases[routing], codes) + 0.3 * rng.standard_normal((400, 2, 24))
        gap = sg.measure_arrays(vectors, routing, quantities="subspace_overlap rank_8")
        (row,) = gap.values.values()
        assert (row.z < -5) == apart, row
        assert apart or abs(row.z) < 5
    assert "random groups" in str(gap)

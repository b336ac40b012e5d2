"""CKA against its definitions, written as sums over tuples of tokens, and on layers of which the answer is known."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

import simgap as sg
from simgap.metrics.cka import LEAST_TOKENS, alignment, centred, most_tokens, order
from simgap.moe import draws_of, open_inputs, simulate

SPEC = sg.LayerSpec(d_model=6, d_ff=8, n_experts=4, top_k=2, activation="relu")
RUN = {"tokens": 40, "trials": 2, "seed": 3}


def biased(x, y):
    """|Y'X|^2 / (|X'X| |Y'Y|) of centred columns."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


def unbiased_hsic(x, y):
    """Over ordered tuples of different tokens: K_ij L_ij - 2 K_ij L_ik + K_ij L_kl, each averaged."""
    kx, ky, m = x @ x.T, y @ y.T, len(x)
    pairs, triples, fours = (list(itertools.permutations(range(m), size)) for size in (2, 3, 4))
    first = np.mean([kx[i, j] * ky[i, j] for i, j in pairs])
    second = np.mean([kx[i, j] * ky[i, q] for i, j, q in triples])
    return first - 2 * second + np.mean([kx[i, j] * ky[q, r] for i, j, q, r in fours])


@pytest.mark.parametrize("m", [4, 5, 7])
def test_against_the_definitions(m):
    rng = np.random.default_rng(m)
    x, y = rng.standard_normal((m, 3)) + 2, rng.standard_normal((m, 5)) - 1
    found = alignment(centred(x), centred(y))
    assert found[0] == pytest.approx(biased(x, y), rel=1e-12)
    expected = unbiased_hsic(x, y) / math.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))
    assert found[1] == pytest.approx(expected, rel=1e-10)
    # Neither a scale, a rotation nor a common vector is seen.
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    assert alignment(centred(1e-200 * (x @ q + 5)), centred(y)) == pytest.approx(found, rel=1e-8)


def test_what_has_none():
    rng = np.random.default_rng(0)
    few, constant, fine = rng.standard_normal((LEAST_TOKENS - 1, 3)), np.ones((9, 3)), rng.standard_normal((9, 3))
    assert np.isnan(alignment(centred(few), centred(few))).all()
    assert np.isnan(alignment(centred(constant), centred(fine))[0])


def test_debiased_is_around_zero_for_vectors_that_know_nothing_of_each_other_and_biased_is_not():
    rng = np.random.default_rng(1)
    pairs = [alignment(*(centred(rng.standard_normal((24, 40))) for _ in range(2))) for _ in range(200)]
    mean, sem = np.mean(pairs, 0), np.std(pairs, 0, ddof=1) / math.sqrt(200)
    assert abs(mean[1]) < 5 * sem[1]
    # sqrt(p q / ((n + p)(n + q))), p = q = 40, n = 24, less one for the mean.
    assert abs(mean[0] - 40 / (40 + 23)) < 0.02


@pytest.mark.parametrize("reading", ["token", "all"])
def test_a_layers_values_are_those_of_its_vectors(reading):
    m = sg.measure(SPEC, **RUN, metrics="cka", sites=("hidden", "output"), readings=reading, dtype="float64")
    assert [str(quantity) for quantity in m.values] == [
        f"{kind} {reading} {site}" for kind in ("cka", "cka_debiased") for site in ("hidden", "output")
    ]
    draws = draws_of(SPEC, 3, range(2))
    layer = simulate(draws, sg.RunSpec(tokens=40, dtype="float64"), open_inputs(draws))
    for t in range(2):
        x, up, down = layer.x[t].numpy(), layer.weights.up[t].numpy(), layer.weights.down[t].numpy()
        values = {"hidden": [], "output": []}
        for i, j in itertools.combinations(range(4), 2):
            tokens = [n for n in range(40) if reading == "all" or {i, j} <= set(layer.indices[t, n].tolist())]
            if len(tokens) < LEAST_TOKENS:
                continue
            hidden = [np.maximum(x[tokens] @ up[e].T, 0) for e in (i, j)]
            values["hidden"].append(alignment(*map(centred, hidden)))
            values["output"].append(alignment(*(centred(h @ down[e].T) for h, e in zip(hidden, (i, j), strict=True))))
        for site, pairs in values.items():
            assert m[f"cka {reading} {site}"].values[t] == pytest.approx(np.mean(pairs, 0)[0], rel=1e-10)
            assert m[f"cka_debiased {reading} {site}"].values[t] == pytest.approx(np.mean(pairs, 0)[1], rel=1e-9)
            assert m[f"cka {reading} {site}"].per_trial[t] == len(pairs)


@pytest.mark.bits
def test_the_same_bits_for_any_threads_blocks_and_budget(torch_threads):
    spec, run = (
        sg.LayerSpec(d_model=40, d_ff=2100, n_experts=3, top_k=2),
        {"tokens": 1300, "trials": 1, "metrics": "cka", "sites": "output"},
    )
    torch_threads(1)
    held = sg.measure(spec, **run)
    assert most_tokens(3) == 1024 < 1300
    torch_threads(2)
    for memory in ("2GiB", "90MiB"):
        other = sg.measure(spec, **run, memory=memory)
        assert [value.values.tobytes() for value in other.values.values()] == [value.values.tobytes() for value in held.values.values()]
    assert len(set(order(np.arange(10_000)).tolist())) == 10_000


def twins(weights):
    """Experts 0 and 1 alike."""
    up, down = weights.up.clone(), weights.down.clone()
    up[:, 1], down[:, 1] = up[:, 0], down[:, 0]
    return dataclasses.replace(weights, up=up, down=down)


def test_twins_are_seen_and_untrained_experts_are_not():
    spec, run = sg.LayerSpec(d_model=16, d_ff=16, n_experts=2, top_k=2, activation="relu"), {"tokens": 64, "trials": 4}
    asked = {"metrics": "cka", "sites": "output", "readings": "token"}
    null = sg.predict(spec, **run, **asked)
    assert "199 layers simulated" in null["cka token output"].hypotheses
    untrained = sg.calibrate(sg.measure(spec, **run, **asked, seed=5), null)
    alike = sg.calibrate(sg.measure(spec, **run, **asked, seed=5, prepare=twins), null)
    for kind in ("cka", "cka_debiased"):
        assert untrained[f"{kind} token output"].p > 1e-3
        assert alike[f"{kind} token output"].mean == pytest.approx(1, abs=1e-6)
        assert alike[f"{kind} token output"].p == 2 / 4000
        assert "more than independent untrained experts give" in str(alike[f"{kind} token output"])


def test_what_no_layer_has_has_no_null():
    spec = sg.LayerSpec(d_model=4, d_ff=4, n_experts=3, top_k=1)
    p = sg.predict(spec, tokens=20, trials=2, metrics="cka", sites=("output", "normed"), readings="token")
    assert p["cka token output"].why == "no law: not every simulated layer has such a pair"
    assert p["cka token normed"].why == "norm = none: there is no normed site"


def test_a_sweeps_null_is_that_of_its_own_layer(tmp_path):
    """Two layers that laws read alike, beside each other and alone; and one too large to be simulated for a null."""
    cells = sg.grid(SPEC, **{"router.temperature": [0.5, 2.0]})
    asked = {"quantities": "cka all output", "trials": 2, "tokens": 24}
    frame = sg.sweep(cells, **asked, out=tmp_path / "both", engine="inprocess", progress=False).frame()
    alone = [sg.predict(spec, **asked)["cka all output"].mean for spec in cells]
    assert frame["predicted_mean"].tolist() == alone
    assert alone[0] != alone[1]
    large = sg.predict(sg.LayerSpec(d_model=8192, d_ff=8192, n_experts=8), quantities="cka all output")["cka all output"]
    assert large.why == "no law: layers of 1.07e+09 parameters on 1024 tokens are not simulated for a null"

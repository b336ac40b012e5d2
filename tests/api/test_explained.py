"""The ladder of an overlap against loops, against layers whose rungs are known, and what it refuses."""

from itertools import combinations, permutations

import numpy as np
import pytest

import simgap as sg
from simgap.api.explanation import whitened_in_words
from simgap.api.rungs import Spread
from simgap.theory.anisotropic import null_anisotropic_mso
from tests import reference

NAMES = ("round space", "common mean", "shared space", "like size", "on a token", "one expert")


def layer(seed, experts=16, k=4, n=2000, d=32, f=64, scales=1.0, bias=0.0, meeting=0.0):
    """Untrained ReLU experts; scales: of output coordinates; bias: common to all; meeting: a share of a vector that experts have in common
    on a token."""
    rng = np.random.default_rng(seed)
    up, down = rng.standard_normal((experts, f, d)) / d**0.5, rng.standard_normal((experts, d, f)) * (2 / f) ** 0.5
    x = rng.standard_normal((n, d))
    x *= d**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    routing = np.argsort(rng.random((n, experts)), 1)[:, :k]
    h = np.empty((n, k, d))
    for e in range(experts):
        t, slot = np.nonzero(routing == e)
        h[t, slot] = np.maximum(x[t] @ up[e].T, 0) @ down[e].T
    h = (h + meeting * rng.standard_normal((n, 1, d))) * scales
    return h + bias * rng.standard_normal(d), routing


def near(rung, value):
    assert abs(rung.value - value) < 5 * rung.error, (rung, value)


def test_every_rung_by_loops():
    # Three tokens of three documents, and all experts on each: the partners of a vector are all that there are.
    rng = np.random.default_rng(0)
    vectors, routing = rng.standard_normal((3, 6, 5)), np.stack([rng.permutation(6) for _ in range(3)])
    found = sg.explain(vectors, routing)
    at = {(t, e): vectors[t, list(routing[t]).index(e)] for t in range(3) for e in range(6)}
    same = {(e, f): np.mean([reference.cos2(at[t, e], at[t, f]) for t in range(3)]) for e, f in combinations(range(6), 2)}
    other = {(e, f): np.mean([reference.cos2(at[t, e], at[s, f]) for t, s in permutations(range(3), 2)]) for e, f in same}
    own = [np.mean([reference.cos2(at[t, e], at[s, e]) for t, s in permutations(range(3), 2)]) for e in range(6)]

    def jackknife(values):
        without = [np.mean([value for pair, value in values.items() if e not in pair]) for e in range(6)]
        return np.sqrt(5 / 6 * np.sum((without - np.mean(without)) ** 2))

    for name, values in (("on a token", same), ("shared space", other), ("like size", other)):
        assert found[name].value == pytest.approx(np.mean(list(values.values())), rel=1e-12)
        assert found[name].error == pytest.approx(jackknife(values), rel=1e-9)
    assert found["one expert"].value == pytest.approx(np.mean(own), rel=1e-12)
    assert found["one expert"].factor == pytest.approx(np.mean(own) / found["shared space"].value, rel=1e-12)
    assert found["round space"].value == 0.2
    assert found["shared space"].factor == pytest.approx(5 * found["shared space"].value, rel=1e-12)
    assert found.gain == pytest.approx(found["on a token"].value - found["like size"].value, rel=1e-9)
    # T3: half the sum of squares of the pairs' shares of the gain.
    assert found.gain_sd == pytest.approx(np.sqrt(sum(((same[pair] - other[pair]) / 15) ** 2 for pair in same)), rel=1e-9)
    assert "common mean: left out, it takes 4 documents" in found.notes


def test_a_round_layer_has_nothing_to_explain():
    found = sg.explain(*layer(1))
    for name in ("common mean", "shared space", "like size", "on a token"):
        near(found[name], 1 / 32)
    assert abs(found.z) < 5
    assert "there is nothing to explain" in found.paragraph
    # Untrained ReLU experts resemble themselves, and the factor says so.
    assert found["one expert"].factor > 2


def test_outliers_are_the_shared_space():
    scales = np.where(np.arange(32) < 4, 10.0, 1.0)
    found = sg.explain(*layer(2, scales=scales))
    near(found["common mean"], 1 / 32)
    # Law T5: the outputs are isotropic but for the scales.
    near(found["shared space"], null_anisotropic_mso(scales**2))
    assert found["shared space"].factor > 5
    assert abs(found["on a token"].factor - 1) < 5 * found["on a token"].factor_error
    assert "is directions that they share without meeting" in found.paragraph
    assert "no more than chance" in found.paragraph


def test_a_bias_is_the_common_mean():
    found = sg.explain(*layer(3, bias=1.0))
    h, _ = layer(3, bias=1.0)
    m = (h / np.linalg.norm(h, axis=-1, keepdims=True)).mean((0, 1))
    near(found["common mean"], 1 / 32 + (1 - 1 / 32) * (m @ m) ** 2)
    assert found["common mean"].factor > 5
    assert found["shared space"].factor == pytest.approx(1, abs=0.1)
    assert "is a mean that all experts share" in found.paragraph


def test_what_experts_have_in_common_on_a_token_is_meeting():
    # A share of 5% of the squares, in the vectors of all experts.
    found = sg.explain(*layer(4, experts=32, k=8, meeting=(0.05 / 0.95) ** 0.5))
    near(found["shared space"], 1 / 32)
    # cos of two vectors is 0.05 on average, so that cos^2 gains about 0.05^2 on 1/32.
    assert found.z > 5
    assert found["on a token"].factor == pytest.approx(1 + 32 * 0.05**2, rel=0.05)
    assert "experts do alike on the same token" in found.paragraph


def test_a_layer_like_a_trained_one():
    # 64 experts, 8 to a token, a power law with outliers and a mean: the rungs come in their places.
    scales = np.arange(1, 65) ** -0.3
    scales[:2] *= 5
    found = sg.explain(*layer(5, experts=64, k=8, d=64, scales=scales, bias=0.3))
    values = [rung.value for rung in found.ladder()]
    assert values[:3] == sorted(values[:3])
    assert values[3:] == pytest.approx([values[2]] * 2, rel=0.1)
    assert found["common mean"].factor > 1.1
    assert found["shared space"].factor > 1.5
    assert abs(found.z) < 5
    assert np.prod([rung.factor for rung in found.ladder()[1:]]) * found["round space"].value == pytest.approx(found["on a token"].value)


def test_documents_masks_and_axes():
    h, routing = layer(6, n=600)
    documents = np.arange(600) // 20
    found = sg.explain(h, routing, documents=documents)
    assert not any("own document" in note for note in found.notes)
    shaped = sg.explain(h.reshape(30, 20, 4, 32), routing.reshape(30, 20, 4), documents=documents.reshape(30, 20))
    assert shaped == found
    mask = np.arange(600) % 3 > 0
    broken = np.where(mask[:, None, None], h, np.nan)
    masked = sg.explain(broken, routing, mask=mask, documents=documents)
    assert masked["on a token"].value != found["on a token"].value
    assert masked.pairs == found.pairs * 2 // 3


def test_it_shows_itself(tmp_path):
    found = sg.explain(*layer(7, n=300, experts=7))
    lines = str(found).splitlines()
    assert [line.split("  ")[0] for line in lines[1:7]] == list(NAMES)
    assert lines[7:] == [found.paragraph, *found.notes]
    assert "<table>" in found._repr_html_()
    assert list(found.to_frame()["name"]) == list(NAMES)
    assert found.as_dict()["rows"][0]["value"] == 1 / 32
    with pytest.raises(KeyError):
        found["no rung"]
    for path in found.figure(tmp_path / "ladder"):
        assert path.stat().st_size > 1000


def test_left_out_experts_make_the_error():
    rng = np.random.default_rng(8)
    values, weights = rng.random((5, 5)), rng.random((5, 5))
    values, weights = values + values.T, weights + weights.T
    values[0, 1] = values[1, 0] = np.nan
    found = Spread.of_pairs(values, weights)

    def mean(experts):
        pairs = [(e, f) for e, f in combinations(experts, 2) if (e, f) != (0, 1)]
        return sum(values[p] * weights[p] for p in pairs) / sum(weights[p] for p in pairs)

    assert found.value == pytest.approx(mean(range(5)))
    assert found.without == pytest.approx([mean([f for f in range(5) if f != e]) for e in range(5)])
    assert Spread.fixed(2.0, 5).error == 0
    assert found.over(Spread.fixed(2.0, 5)).error == pytest.approx(found.error / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": np.zeros(60, int)}, r"^documents: expected other tokens .*, got none: all tokens are of one document"),
        ({"strata": np.arange(60)}, r"^documents: expected other tokens .*: no pair of experts meets on two tokens"),
        ({"routing": None}, r"^routing: expected \(\.\.\., k\) integers"),
        (
            {"routing": np.tile(np.arange(4), (60, 1))},
            r"^routing: expected experts enough .*: 4 experts meet, and fewer than 5 say nothing",
        ),
        ({"vectors": np.ones((60, 4, 8))}, r"^vectors: expected experts that say different things on different tokens"),
        ({"vectors": np.full((60, 4, 8), np.nan)}, r"^vectors: not finite at token 0 slot 0"),
        ({"vectors": np.zeros((60, 4, 8))}, r"^documents: expected other tokens .*, got none: no pair of experts meets"),
        ({"vectors": np.ones((60, 4))}, r"^vectors: expected \(\.\.\., k, width\)"),
    ],
)
def test_what_is_refused(change, message):
    h, routing = layer(9, experts=8, n=60, d=8)
    with pytest.raises(ValueError, match=message):
        sg.explain(**({"vectors": h, "routing": routing} | change))


def test_tokens_that_repeat_are_a_doubt():
    h, routing = layer(10, n=100)
    found = sg.explain(np.tile(h, (5, 1, 1)), np.tile(routing, (5, 1)))
    assert any("80% of the tokens repeat others" in note for note in found.notes)


def test_whitening_stands_beside():
    scales = np.where(np.arange(32) < 4, 10.0, 1.0)
    found = sg.explain(*layer(11, scales=scales))
    assert [rung.name for rung in found.ladder("whitened")] == ["shared space", "like size", "on a token"]
    # A space with outliers is made nearly round, and has no other null than its own shared space.
    assert found["whitened shared space"].value < 0.3 * found["shared space"].value
    assert found["whitened shared space"].factor is None
    assert abs(found.whitened_z) < 5
    assert 0 < found.whitened_p <= 1
    assert "calibrated on simulated layers of 8 to 64 experts in width 32." in found.paragraph
    assert "uncalibrated: the simulated ones were layers of 8 to 64 experts" in whitened_in_words(found.rows, 1.0, 0.2, 65)
    assert "whitened" in str(found).splitlines()[0]


def test_outliers_hide_what_whitening_sees():
    scales = np.where(np.arange(32) < 4, 10.0, 1.0)
    h, routing = layer(12, experts=32, k=8, n=1000)
    # On the small coordinates alone experts have something in common on a token.
    common = np.random.default_rng(0).standard_normal((1000, 1, 32)) * (np.arange(32) >= 4)
    found = sg.explain((h + 0.5 * common) * scales, routing)
    assert found.z < 5 < found.whitened_z


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"experts": 7}, "it takes 8 experts that meet, got 7"),
        ({"n": 20, "experts": 8}, "vectors of other experts are"),
    ],
)
def test_whitening_is_left_out_by_name(shape, why):
    found = sg.explain(*layer(13, **({"n": 200} | shape)))
    assert found.whitened_z is None
    assert not found.ladder("whitened")
    assert any(note.startswith("whitened: left out, ") and why in note for note in found.notes)


def test_it_is_a_function_whatever_has_been_imported():
    import simgap.api.explained
    from simgap import explain

    assert explain is sg.explain is simgap.api.explained.explain


def test_a_named_activation_tells_how_pre_activations_correlate():
    # Independent pre-activations but for a share that experts have in common on a token: correlation 0.3.
    rng = np.random.default_rng(14)
    n, k, d = 400, 4, 512
    pre = 0.3**0.5 * rng.standard_normal((n, 1, d)) + 0.7**0.5 * rng.standard_normal((n, k, d))
    h, routing = np.maximum(pre, 0), np.argsort(rng.random((n, 8)), 1)[:, :k]
    found = sg.explain(h, routing, activation="relu")
    # A width of 512 is off by O(1/d).
    assert found.correlation == pytest.approx(0.3, abs=0.01)
    assert f"that is {found.correlation:.3g} (law L2)" in found.paragraph
    assert sg.explain(h, routing).correlation is None

    def square_and_one(x):
        return x * x + 1

    # Whose vectors overlap by 4/9 at least.
    small = sg.explain(h, routing, activation=square_and_one)
    assert small.correlation is None
    assert any(note.startswith("correlation: left out, no correlation gives an overlap as small as") for note in small.notes)
    with pytest.raises(ValueError, match=r"^activation: expected one of"):
        sg.explain(h, routing, activation="rellu")


def test_near_copies_behind_one_coordinate_stand_out_whitened_alone():
    rng = np.random.default_rng(12)
    experts, n, d = 12, 3000, 16
    own = np.maximum(rng.standard_normal((n, 8)) @ rng.standard_normal((experts + 1, 8, 24)), 0) @ rng.standard_normal((experts + 1, 24, d))
    own[1] = own[0] + 0.3 * own[experts]
    routing = np.argsort(rng.random((n, experts)), 1)[:, :2]
    h = own[routing, np.arange(n)[:, None]] * np.where(np.arange(d) == 0, 100.0, 1.0)
    found = sg.explain(h, routing)
    assert found.top(1, reading="whitened")[["expert", "other"]].to_numpy().tolist() == [[0, 1]]
    assert found.top(1, reading="whitened")["p_adjusted"][0] < 0.01
    assert 'Whitened, experts 0 and 1 stand out from all pairs: .top(reading="whitened") lists them.' in found.paragraph
    assert "Of single pairs" not in found.paragraph
    by_tokens = sg.token_mso(h, routing=routing)
    # Signs know the pair's own overlap, and other tokens do not.
    columns = ["expert", "other", "tokens", "overlap", "null", "score", "p_adjusted"]
    assert found.by_pair()[columns].equals(by_tokens.by_pair()[columns])
    assert "what is alike behind them is hardly seen: sg.explain whitens them" in by_tokens.verdict
    with pytest.raises(ValueError, match=r"^reading: expected raw or whitened, got 'other'"):
        found.by_pair("other")


def test_an_error_is_not_known_where_all_pairs_are_of_one_expert():
    # Each of the others meets the first on two tokens.
    rng = np.random.default_rng(13)
    routing = np.stack([np.zeros(32, int), 1 + np.arange(32) % 16], 1)
    found = sg.explain(rng.standard_normal((32, 2, 6)), routing)
    assert found["on a token"].error is None
    assert found["on a token"].factor_error is None
    assert 0 < found["on a token"].value < 1

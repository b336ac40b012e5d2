"""Why a simulated layer's outputs overlap as they do: of the vectors that are measured, and of no others."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import simgap as sg
from simgap.api.explained_layer import KeptVectors
from simgap.cli import main
from simgap.moe import draws_of, open_inputs, simulate
from simgap.observe import observe
from simgap.selection import select
from simgap.sources import Work

SPEC = sg.LayerSpec(d_model=16, d_ff=32, n_experts=8, top_k=2)
TOKEN = ["activation_mso token output"]
RUN = {"tokens": 600, "trials": 2, "seed": 3}
FLAGS = ["--d-model", "16", "--d-ff", "32", "--n-experts", "8", "--tokens", "300", "--trials", "2", "--quantities", *TOKEN]


def vectors_of(spec, **run):
    """Of the first trial, by a forward of its own."""
    run = sg.RunSpec(**run)
    draws = draws_of(spec, run.seed, range(1))
    layer = simulate(draws, run, open_inputs(draws))
    (block,) = layer.blocks(("output",), False, tokens=run.tokens)
    k = layer.indices.shape[-1]
    return block.rows["output"][0][block.index[0, :, :k].clamp(min=0)], layer.indices[0]


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, n_shared_experts=1, gated=True, activation="silu"),
        replace(SPEC, router="expert_choice"),
        replace(SPEC, inputs=sg.InputSpec(document_tokens=20, document_correlation=0.9)),
    ],
)
def test_it_is_that_of_the_vectors_of_the_first_trial(spec):
    m = sg.measure(spec, quantities=TOKEN, explain=True, **RUN)
    vectors, routing = vectors_of(spec, **RUN)
    documents = np.arange(RUN["tokens"]) // spec.inputs.document_tokens
    expected = sg.explain(vectors, routing, documents=documents)
    assert m.explanation.rows == expected.rows
    assert (m.explanation.p, m.explanation.paragraph) == (expected.p, expected.paragraph)
    assert m.explanation.notes[0].startswith("of trial 0: the outputs of its routed experts on 600 tokens")
    # The same forward: the overlap of the ladder's last rung, over the pairs that it looks at, is the first trial's.
    assert m.explanation["on a token"].value == pytest.approx(m[TOKEN[0]].values[0], rel=0.1)


def test_no_measured_value_depends_on_it():
    for quantities in (None, ["weight_mso up"], ["activation_mso mean output"]):
        plain = sg.measure(SPEC, quantities=quantities, **RUN)
        found = sg.measure(SPEC, quantities=quantities, explain=True, **RUN)
        assert [value.mean for value in plain.values.values()] == [value.mean for value in found.values.values()]
        assert plain.explanation is None
    again = sg.measure(SPEC, quantities=["weight_mso up"], explain=True, **(RUN | {"trials": 5}))
    assert again.explanation.rows == found.explanation.rows


def test_a_streamed_layer_is_explained_from_its_blocks():
    spec = sg.LayerSpec(d_model=64, d_ff=4096, n_experts=8, top_k=2)
    held, streamed = (sg.measure(spec, quantities=TOKEN, tokens=200, trials=1, memory=memory, explain=True) for memory in ("2GiB", "60MiB"))
    assert held.explanation.rows == streamed.explanation.rows
    assert held[TOKEN[0]].mean == streamed[TOKEN[0]].mean


def test_blocks_are_put_together():
    run = sg.RunSpec(tokens=100, trials=1)
    draws = draws_of(SPEC, 0, range(1))
    keepers = KeptVectors(), KeptVectors()
    for keeper, tokens in zip(keepers, (100, 32), strict=True):
        observe(simulate(draws, run, open_inputs(draws)), select(TOKEN).observed, Work(), tokens, keeper=keeper)
    assert [len(keeper.vectors) for keeper in keepers] == [1, 4]
    assert torch.equal(torch.cat(keepers[0].vectors), torch.cat(keepers[1].vectors))


def test_a_round_layer_has_nothing_to_explain_and_outliers_are_recovered():
    of = {"quantities": TOKEN, "tokens": 4000, "trials": 1, "explain": True}
    m = sg.measure(replace(SPEC, n_experts=16), **of)
    assert "That is what a round space gives: there is nothing to explain." in m.explanation.paragraph
    assert "no more than chance" in m.explanation.paragraph
    large = replace(SPEC, n_experts=16, space=sg.SpaceSpec(outliers=2))
    found = sg.measure(large, **of).explanation
    space = found["shared space"]
    # The errors are of 16 experts.
    assert abs(space.value - sg.predict(large)[TOKEN[0]].mean) < 5 * space.error
    assert space.factor > 3
    assert abs(found["on a token"].factor - 1) < 5 * found["on a token"].factor_error
    assert "of it, on the log scale, is directions that they share without meeting" in found.paragraph
    # Held against a round layer's shared space the outliers show.
    round_space = m.explanation["shared space"]
    assert abs(round_space.value - sg.predict(large)[TOKEN[0]].mean) > 5 * round_space.error


def test_where_it_is_shown():
    m = sg.measure(SPEC, quantities=TOKEN, explain=True, **RUN)
    table = str(m)
    assert table.index("activation token output") < table.index("\nround space ") < table.index("of trial 0: the outputs")
    assert "on a token" in m._repr_html_()
    assert sg.calibrate(m).explanation is m.explanation
    assert m.as_dict()["explanation"]["rows"][0]["name"] == "round space"
    assert "explanation" not in sg.measure(SPEC, quantities=TOKEN, **RUN).as_dict()


def test_flag(capsys):
    assert main(["measure", *FLAGS, "--explain"]) == 0
    assert "of trial 0: the outputs of its routed experts on 300 tokens" in capsys.readouterr().out
    assert main(["measure", *FLAGS, "--explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["explanation"]["rows"][-1]["name"] == "one expert"
    with pytest.raises(SystemExit):
        main(["measure", *FLAGS, "--explain", "--top-k", "1"])
    assert capsys.readouterr().err.startswith("simgap measure: error: explain: expected top_k >= 2")


@pytest.mark.parametrize(
    ("spec", "run", "said"),
    [
        (replace(SPEC, top_k=1), {}, "^explain: expected top_k >= 2, since .*, got top_k = 1$"),
        (replace(SPEC, n_experts=4), {}, "^explain: expected n_experts >= 5, since experts are the sample, got 4$"),
        (
            replace(SPEC, inputs=sg.InputSpec(document_tokens=50)),
            {"tokens": 50},
            "^explain: expected tokens of two documents or more .* = 50$",
        ),
        (
            SPEC,
            {"tokens": 200_000, "memory": "64MiB"},
            "^explain: the ladder of 200000 tokens in 16 dimensions needs some .*, the budget is",
        ),
        (SPEC, {"explain": "yes"}, "^explain: expected True or False, got 'yes'$"),
    ],
)
def test_what_is_refused(spec, run, said):
    with pytest.raises(ValueError, match=said):
        sg.measure(spec, quantities=TOKEN, **({"explain": True, "tokens": 100, "trials": 1} | run))

"""One plan for equal questions, and another where anything that it depends on has changed."""

import dataclasses

import pytest

import simgap as sg
from simgap.api import plan as subject
from simgap.api.plan import plan_of
from simgap.moe import plan_block
from simgap.selection import select

SPEC, RUN = sg.LayerSpec(d_model=32, d_ff=64, n_experts=8, top_k=2), sg.RunSpec(tokens=300, trials=4)
TOKEN, ROOM = select("activation_mso token output"), 64 << 30


def test_the_same_question_is_planned_once(monkeypatch):
    seen = []
    group_bytes = subject.group_bytes
    monkeypatch.setattr(subject, "group_bytes", lambda *asked: seen.append(asked) or group_bytes(*asked))
    plan_of.cache_clear()
    for seed in range(3):
        sg.measure(SPEC, tokens=30, trials=2, seed=seed)
    once = len(seen)
    assert once > 0
    for change in ({"tokens": 31}, {"trials": 3}, {"dtype": "float64"}, {"memory": "1GiB"}, {"quantities": "gap"}):
        before = len(seen)
        sg.measure(SPEC, **{"tokens": 30, "trials": 2} | change)
        assert len(seen) > before, change


def test_a_machine_of_less_memory_is_asked_anew(monkeypatch):
    """A plan made for one limit is none for another, nor is what one machine refuses refused by the next."""
    expected = sg.measure(SPEC, tokens=30, trials=2)["gap"]
    monkeypatch.setattr("simgap.machine.memory", lambda: 1 << 20)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^memory: one trial of this layer .*, the machine has 1 MiB$"):
            sg.measure(SPEC, tokens=30, trials=2)
    monkeypatch.setattr("simgap.machine.memory", lambda: ROOM)
    assert sg.measure(SPEC, tokens=30, trials=2)["gap"] == expected


def test_prepared_and_orthogonal_weights_are_held_whatever_was_planned_before():
    spec, run = sg.LayerSpec(d_model=40, d_ff=2100, n_experts=4, top_k=2), sg.RunSpec(tokens=150, trials=1)
    tight = dataclasses.replace(run, memory=subject.memory_needed(spec, run, TOKEN)[0] - 1)
    assert plan_of((spec,), tight, TOKEN, False, ROOM).streamed
    with pytest.raises(ValueError, match="prepared weights are held and not streamed"):
        plan_of((spec,), tight, TOKEN, True, ROOM)
    for whole in ((dataclasses.replace(spec, init="orthogonal"),), (spec, dataclasses.replace(spec, init="orthogonal"))):
        with pytest.raises(ValueError, match="orthogonal weights are drawn whole and not streamed"):
            plan_of(whole, tight, TOKEN, False, ROOM)


@pytest.mark.parametrize("n_experts", [2, 8, 300])
def test_blocks_that_need_no_look_at_the_router_are_those_that_a_look_would_give(n_experts):
    """Within the budget of the largest number of groups side by side, even where one expert has every token."""
    spec, known = dataclasses.replace(SPEC, n_experts=n_experts), set()
    held, _ = subject.memory_needed(spec, RUN, TOKEN)
    for memory in (held, held * 3 // 2, 4 * held, 20 * held, 200 * held):
        run = dataclasses.replace(RUN, memory=memory)
        plan = plan_of((spec,), run, TOKEN, False, ROOM)
        trials, beside = -(-run.trials // plan.groups), min(plan.at_once, plan.groups)
        looked = plan_block(spec, run, trials, plan.needs.sites, plan.budget // beside - plan.needs.bytes * trials, lambda tokens: tokens)
        assert plan.tokens in (None, looked.tokens)
        known.add(plan.tokens)
    # Of two experts each is counted on for all tokens anyway.
    assert known == ({300} if n_experts == 2 else {None, 300})

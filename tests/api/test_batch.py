"""Layers measured in one program have the bits of each alone, trials added later those of one run, and errors say what measure says."""

import dataclasses
import json
import random
from typing import get_args

import numpy as np
import pytest

import simgap as sg
from simgap.api import batch as subject
from simgap.api.batch import Request, batch_key, check_sums, cost_key, estimates, gathered, measure_batch
from simgap.api.plan import memory_needed, plan_of
from simgap.moe import draws_of, group_numbers, open_inputs, simulate
from simgap.moe.budget import GROUP_SIZE
from simgap.observe import observe
from simgap.quantities import Quantity
from simgap.selection import ranges, select
from simgap.sources import Work
from simgap.specs import ACTIVATIONS, AUTOREGRESSIVE, InputKind, field_names
from simgap.stats import Estimate
from simgap.sums import Skipped, Sums, cut
from simgap.sweeps.plan import estimated_seconds

INITS = ("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal", "upcycled")
ROUTERS = ("linear", "noisy", "sigmoid", "uniform", "hash", "expert_choice")
INPUTS = ("gaussian", "sphere", "powerlaw", "clusters", "student", "file")

# Every quantity that is observed, on each side.
QUANTITIES = tuple(quantity for quantity, _ in ranges().values())
# What the requests of a call share. Small odd sizes, because they fill no vector; one column, because a library sums it in its own way.
SHAPES = {
    "plain": ({"d_model": 8, "d_ff": 16, "n_experts": 4, "top_k": 2}, {"tokens": 64}),
    "one column": ({"d_model": 1, "d_ff": 5, "n_experts": 4, "top_k": 2, "n_shared_experts": 1}, {"tokens": 17}),
    "one hidden unit": ({"d_model": 9, "d_ff": 1, "n_experts": 3, "top_k": 2, "n_shared_experts": 1, "gated": True}, {"tokens": 30}),
    "few hidden units, shared": ({"d_model": 9, "d_ff": 2, "n_experts": 6, "top_k": 3, "n_shared_experts": 2}, {"tokens": 50}),
    "normed": ({"d_model": 9, "d_ff": 33, "n_experts": 5, "top_k": 2, "norm": "layernorm", "norm_affine": "shared"}, {"tokens": 40}),
    "gated, float64": ({"d_model": 9, "d_ff": 12, "n_experts": 3, "top_k": 1, "gated": True}, {"tokens": 33, "dtype": "float64"}),
    "soft": ({"d_model": 9, "d_ff": 16, "n_experts": 3, "top_k": 3, "norm": "rmsnorm", "n_shared_experts": 1}, {"tokens": 20}),
    "long": ({"d_model": 9, "d_ff": 4, "n_experts": 4, "top_k": 2, "n_shared_experts": 1}, {"tokens": 2100}),
    "one token": ({"d_model": 9, "d_ff": 8, "n_experts": 8, "top_k": 2}, {"tokens": 1}),
}
LESS = [{}, {"readings": ("mean",), "sites": ("output",)}, {"readings": ("token", "mean"), "sites": ("pre", "hidden", "output")}]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("inputs") / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((2500, 9)).astype(np.float32))
    return str(path)


def mixed(name: str, rows: str, count: int = 8) -> list[Request]:
    """Requests of one shape that differ in everything else, the same in every run."""
    fields, run = SHAPES[name]
    chosen = random.Random(name)  # noqa: S311 - a fixed mix, not a secret
    found = []
    for at in range(count):
        soft = fields["top_k"] == fields["n_experts"] and at % 2 == 0
        inputs = chosen.choice(INPUTS if fields["d_model"] == 9 else INPUTS[:-1])
        affine = chosen.choice(["per_expert", "shared"]) if "norm_affine" in fields else "none"
        spec = sg.LayerSpec(
            **fields | {"norm_affine": affine},
            norm_affine_std=chosen.choice([0.1, 0.3]),
            activation=chosen.choice(ACTIVATIONS),
            init=chosen.choice(INITS),
            init_correlation=chosen.choice([0.3, 0.9]),
            router=sg.RouterSpec(
                "soft" if soft else chosen.choice(ROUTERS),
                temperature=chosen.choice([0.5, 1, 2]),
                noise=chosen.choice([0.5, 1]),
                bias=chosen.choice([0.1, 0.5]),
                capacity=chosen.choice([0.1, 0.3, 1.5]),
            ),
            inputs=sg.InputSpec(inputs, path=rows if inputs == "file" else "", mean=chosen.choice([0, 0, 1.5, 30])),
        )
        spec = dataclasses.replace(spec, **spaced(spec, at, bias=0.5 * (name == "long")))
        found.append(Request(spec, sg.RunSpec(**run, trials=chosen.choice([1, 2, 3, 5]), seed=chosen.randrange(50))))
    return found


def spaced(spec: sg.LayerSpec, at: int, bias: float) -> dict:
    """Spaces of all kinds, massive tokens and documents, in turn."""
    spaces = [
        sg.SpaceSpec(bias=bias),
        sg.SpaceSpec(outliers=1, scaled="both", bias=bias),
        sg.SpaceSpec("powerlaw", rotated=True, bias=2 * bias),
        sg.SpaceSpec("lognormal", scaled="inputs", bias=bias),
        sg.SpaceSpec("powerlaw", scaled="both", rotated=True, bias=bias),
    ]
    more: dict = {"massive": 0.1} if at % 3 == 1 and spec.inputs.kind != "file" else {}
    if at % 3 == 2 and spec.inputs.kind in AUTOREGRESSIVE:
        more = {"document_tokens": 7, "document_correlation": 0.5}
    return {"space": spaces[at % len(spaces)], "inputs": dataclasses.replace(spec.inputs, **more)}


def bits(gap: sg.Gap) -> tuple:
    """Everything that a Gap says, and the bits of every trial."""
    quantities = [*gap.items(), *(gap.shared.items() if gap.shared else ())]
    return gap.as_dict(), [(path, value.values.tobytes(), value.per_trial.tobytes(), value.dropped_at) for path, value in quantities]


def alone(request: Request, **wanted) -> tuple:
    return bits(sg.measure(request.spec, **request.run.to_dict(), **wanted))


def stored(sums: Sums) -> Sums:
    """Sums as a file gives them back."""
    return Sums.from_plain(json.loads(json.dumps(sums.to_plain(), allow_nan=False)), ranges())


# Every shape in full, and the others for less than all where time is no matter.
QUICK = [(name, LESS[0]) for name in SHAPES] + [(name, wanted) for name in ("normed", "soft") for wanted in LESS[1:]]
SLOW = [(name, wanted) for name in SHAPES for wanted in LESS if (name, wanted) not in QUICK]


@pytest.mark.parametrize(
    "name, wanted",
    [
        *(pytest.param(*case, marks=pytest.mark.bits) for case in QUICK),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_together_has_the_bits_of_alone(torch_threads, rows, name, wanted):
    requests = mixed(name, rows)
    assert len({batch_key(request.spec, request.run) for request in requests}) == 1
    torch_threads(1)
    expected = [alone(request, **wanted) for request in requests]
    for threads, order in ((1, range(len(requests))), (2, [5, 0, 7, 3, 1, 6, 2, 4]), (1, [2, 4])):
        torch_threads(threads)
        asked = [requests[at] for at in order]
        found = measure_batch(asked, select(**wanted))
        for at, request, sums in zip(order, asked, found, strict=True):
            assert bits(gathered(request.spec, request.run, sums, select(**wanted))) == expected[at]
            assert stored(sums).to_plain() == sums.to_plain()
            assert bits(gathered(request.spec, request.run, stored(sums), select(**wanted))) == expected[at]
    other = dataclasses.replace(requests[0].run, seed=requests[0].run.seed + 1)
    (twin,) = measure_batch([Request(requests[0].spec, other)], select(**wanted))
    assert bits(gathered(requests[0].spec, other, twin, select(**wanted)))[1] != expected[0][1]


def test_the_mixes_leave_nothing_out(rows):
    specs = [request.spec for name in SHAPES for request in mixed(name, rows)]
    assert {spec.init for spec in specs} == set(INITS)
    assert {spec.router.kind for spec in specs} == {*ROUTERS, "soft"}
    assert {spec.inputs.kind for spec in specs} == set(INPUTS)
    assert {spec.activation for spec in specs} == set(ACTIVATIONS)
    gaps = [gathered(q.spec, q.run, t) for name in SHAPES for q, t in zip(mixed(name, rows), measure_batch(mixed(name, rows)), strict=True)]
    assert sum(gap.routing["idle_experts"] > 0 for gap in gaps) > 3
    assert sum(gap.routing["dropped_tokens"] > 0 for gap in gaps) > 2
    assert sum(gap.shared.activation_mso["token"]["hidden"].dropped > 0 for gap in gaps if gap.shared) > 3


@pytest.mark.bits
@pytest.mark.parametrize("name", SHAPES)
def test_trials_added_later_have_the_bits_of_one_run(rows, name):
    requests = [request for request in mixed(name, rows, 12) if request.run.trials > 1][:5]
    chosen = random.Random(f"{name} cut")  # noqa: S311
    cuts = [chosen.randint(1, request.run.trials - 1) for request in requests]
    begun = [Request(q.spec, dataclasses.replace(q.run, trials=a)) for q, a in zip(requests, cuts, strict=True)]
    added = [Request(q.spec, q.run, a) for q, a in zip(requests, cuts, strict=True)]
    earlier = [stored(sums) for sums in measure_batch(begun)]
    for request, before, after in zip(requests, earlier, measure_batch(added), strict=True):
        whole = before.followed_by(stored(after))
        assert bits(gathered(request.spec, request.run, whole)) == alone(request)
        with pytest.raises(ValueError, match=f"other: expected trials from {request.run.trials} on, got them from {after.first} on"):
            whole.followed_by(after)
    shifted = dataclasses.replace(earlier[0], first=7)
    with pytest.raises(ValueError, match=r"sums: expected trials 0 to .*, got trials 7 to"):
        check_sums(requests[0].spec, begun[0].run, shifted)


def test_followed_by_refuses_another_layer(rows):
    (few,) = measure_batch(mixed("plain", rows, 1))
    run = dataclasses.replace(mixed("plain", rows, 1)[0].run, trials=few.trials + 1)
    for spec, wanted in (
        (sg.LayerSpec(d_model=8, d_ff=16, n_experts=5, top_k=2), {}),
        (mixed("plain", rows, 1)[0].spec, {"sites": ("pre",)}),
    ):
        (more,) = measure_batch([Request(spec, run, few.trials)], select(**wanted))
        with pytest.raises(ValueError, match="other: expected the same quantities of as many experts"):
            few.followed_by(more)
    with pytest.raises(ValueError, match=r"sums: expected trials 0 to .* of 5 experts, got .* of 4 experts"):
        check_sums(sg.LayerSpec(d_model=8, d_ff=16, n_experts=5, top_k=2), mixed("plain", rows, 1)[0].run, few)


@pytest.mark.parametrize("change", [{}, {"init": "upcycled", "norm": "rmsnorm"}, {"router": "expert_choice", "n_shared_experts": 1}])
def test_streamed_layers_go_together_too(torch_threads, change):
    spec = sg.LayerSpec(d_model=40, d_ff=2100, n_experts=4, top_k=2, **change)
    run = sg.RunSpec(tokens=150, trials=2, seed=3)
    other = dataclasses.replace(spec, activation="relu")
    expected = [alone(Request(layer, run)) for layer in (spec, other)]
    (begun,) = measure_batch([Request(other, dataclasses.replace(run, trials=1))])
    held, least = memory_needed(spec, dataclasses.replace(run, trials=3))
    for memory, threads in ((held - 1, 1), (held - 1, 2), (least, 1), (least, 2)):
        torch_threads(threads)
        tight = dataclasses.replace(run, memory=memory)
        found = measure_batch([Request(spec, tight), Request(other, tight, 1)])
        assert bits(gathered(spec, run, found[0])) == expected[0]
        assert bits(gathered(other, run, begun.followed_by(found[1]))) == expected[1]


def test_memory_needed_is_where_a_layer_begins_to_be_streamed_and_to_be_refused(monkeypatch):
    spec, run = sg.LayerSpec(d_model=40, d_ff=2100, n_experts=4, top_k=2), sg.RunSpec(tokens=150, trials=1)
    held, least = memory_needed(spec, run)
    streamed = []
    plan = subject.plan_stream
    monkeypatch.setattr(subject, "plan_stream", lambda *arguments: streamed.append(1) or plan(*arguments))
    sg.measure(spec, tokens=150, trials=1, memory=held)
    assert not streamed
    sg.measure(spec, tokens=150, trials=1, memory=held - 1)
    assert streamed
    for memory in (least, least - 1):
        tight = dataclasses.replace(run, memory=memory)
        if memory == least:
            assert memory_needed(spec, tight) == (held, least)
            continue
        with pytest.raises(ValueError, match=r"memory: one trial of this layer .* needs at least .*, the budget is"):
            memory_needed(spec, tight)
        with pytest.raises(ValueError, match=r"memory: one trial of this layer .* needs at least .*, the budget is"):
            measure_batch([Request(spec, tight)])
    whole = dataclasses.replace(spec, init="orthogonal")
    held, least = memory_needed(whole, run)
    assert held == least
    with pytest.raises(ValueError, match="orthogonal weights are drawn whole and not streamed"):
        memory_needed(whole, dataclasses.replace(run, memory=held - 1))


def test_many_groups_and_one_have_the_same_bits(monkeypatch, rows):
    requests = mixed("few hidden units, shared", rows)
    expected = [sums.to_plain() for sums in measure_batch(requests)]
    numbers = group_numbers(requests[0].spec, requests[0].run, True)
    for size in (numbers, 3 * numbers):
        monkeypatch.setitem(GROUP_SIZE, "cpu", size)
        plan_of.cache_clear()
        assert [sums.to_plain() for sums in measure_batch(requests)] == expected


def test_where_vectors_are_undefined_does_not_depend_on_blocks():
    """Blocks of 128 tokens, of 1,024, or all in one: a place is named for each 1,024 tokens of a trial, in the order of the trials."""
    spec = sg.LayerSpec(d_model=3, d_ff=2, n_experts=3, top_k=2, n_shared_experts=1, activation="relu", router="expert_choice")
    draws = draws_of(spec, 0, [4, 5])
    run = sg.RunSpec(tokens=2100)
    found = []
    for tokens in (1024, 128, 2100):
        layer = simulate(draws, run, open_inputs(draws))
        (sums,) = cut([observe(layer, select().of(spec), Work(), tokens)], [4], [2])
        found.append(sums)
    assert all(other.to_plain() == found[0].to_plain() for other in found[1:])
    quantity = Quantity("activation_mso", "token", "hidden")
    assert found[0].skipped[quantity].count == 6
    trials, tokens = zip(*((name[:8], int(name.split()[3])) for name in found[0].skipped[quantity].names), strict=True)
    assert trials == ("trial 4:",) * 3
    assert [token // 1024 for token in tokens] == [0, 1, 2]


OVERFLOWING = sg.InputSpec(mean=1e30)


def test_vectors_that_are_not_finite_raise_what_measure_raises(rows):
    fields, run = SHAPES["plain"]
    fine, broken = (sg.LayerSpec(**fields, gated=True, inputs=inputs) for inputs in (sg.InputSpec(), OVERFLOWING))
    for wanted in LESS:
        with pytest.raises(ValueError, match="not finite") as expected:
            sg.measure(broken, **run, trials=1, **wanted)
        with pytest.raises(ValueError, match=r"vectors? .*trial 0") as found:
            measure_batch([Request(fine, sg.RunSpec(**run, trials=1)), Request(broken, sg.RunSpec(**run, trials=1))], select(**wanted))
        assert str(found.value) == str(expected.value)
        with pytest.raises(ValueError, match=r"vectors? .*trial 2"):
            measure_batch([Request(fine, sg.RunSpec(**run, trials=1)), Request(broken, sg.RunSpec(**run, trials=3), 2)], select(**wanted))


def test_a_bad_file_raises_what_measure_raises(rows):
    spec = sg.LayerSpec(d_model=8, d_ff=16, n_experts=4, inputs=sg.InputSpec("file", path=rows))
    with pytest.raises(ValueError, match="has rows of width 9, but d_model is 8"):
        measure_batch([Request(sg.LayerSpec(d_model=8, d_ff=16, n_experts=4), sg.RunSpec()), Request(spec, sg.RunSpec())])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Request({}, sg.RunSpec()), "spec: expected a LayerSpec, got dict"),
        (lambda: Request(sg.LayerSpec(), None), "run: expected a RunSpec, got NoneType"),
        (lambda: Request(sg.LayerSpec(), sg.RunSpec(trials=3), 3), "first: expected a trial from 0 to 2, got 3"),
        (lambda: Request(sg.LayerSpec(), sg.RunSpec(trials=3), -1), "first: expected a trial from 0 to 2, got -1"),
        (lambda: Request(sg.LayerSpec(), sg.RunSpec(trials=3), True), "first: expected a trial from 0 to 2, got True"),
        (
            lambda: measure_batch([Request(sg.LayerSpec(d_model=d), sg.RunSpec()) for d in (3, 4)]),
            "requests: expected one batch key, got several",
        ),
        (lambda: measure_batch([Request(sg.LayerSpec(), sg.RunSpec())], select(sites=("in",))), "sites: expected some of"),
        (lambda: measure_batch([Request(sg.LayerSpec(), sg.RunSpec(device="cuda:99"))]), "device: "),
    ],
)
def test_bad_requests_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_no_requests_have_no_sums():
    assert measure_batch([]) == []


def test_what_a_batch_key_is():
    spec, run = sg.LayerSpec(d_model=8, d_ff=16, norm="rmsnorm"), sg.RunSpec()
    shared = [
        {"activation": "relu"},
        {"init": "upcycled"},
        {"router": sg.RouterSpec(temperature=2.0)},
        {"router": sg.RouterSpec("hash")},
        {"inputs": sg.InputSpec("sphere")},
        {"init_correlation": 0.5},
        {"space": sg.SpaceSpec("powerlaw", rotated=True, scaled="both")},
        {"inputs": sg.InputSpec(massive=0.1, document_tokens=3)},
    ]
    apart = [{"d_model": 9}, {"d_ff": 17}, {"n_experts": 9}, {"top_k": 3}, {"n_shared_experts": 1}, {"gated": True}, {"norm": "layernorm"}]
    apart += [{"norm_affine": "shared"}, {"space": sg.SpaceSpec(bias=0.5)}]
    assert {batch_key(dataclasses.replace(spec, **change), run) for change in shared} == {batch_key(spec, run)}
    assert len({batch_key(dataclasses.replace(spec, **change), run) for change in apart} | {batch_key(spec, run)}) == len(apart) + 1
    for name, value in (("seed", 5), ("trials", 3), ("memory", "1GiB")):
        assert batch_key(spec, dataclasses.replace(run, **{name: value})) == batch_key(spec, run)
    for name, value in (("tokens", 5), ("dtype", "float64"), ("device", "cuda")):
        assert batch_key(spec, dataclasses.replace(run, **{name: value})) != batch_key(spec, run)
    hash(batch_key(spec, run))


def test_layers_of_one_cost_key_need_the_same_memory():
    """What a plan takes for alike: each field alone, at one value or more, from layers with and without what others depend on."""
    run, parted = sg.RunSpec(tokens=50, trials=1), set()
    changes = [
        {"d_model": 9}, {"d_ff": 3000}, {"n_experts": 9}, {"top_k": 3}, {"n_shared_experts": 1}, {"activation": "relu"}, {"gated": True},
        {"norm": "layernorm"}, {"norm": "rmsnorm", "norm_affine": "shared"}, {"norm_affine_std": 0.5}, {"init": "upcycled"},
        {"init": "orthogonal"}, {"init_correlation": 0.5}, {"router": "hash"}, {"router": sg.RouterSpec(temperature=2.0)},
        *({"inputs": sg.InputSpec(kind)} for kind in get_args(InputKind) if kind != "file"),
        {"inputs": sg.InputSpec("clusters", n_clusters=100)}, {"inputs": sg.InputSpec("file", path="x.npy")},
        {"inputs": sg.InputSpec(massive=0.5, document_tokens=4, document_correlation=0.5)},
        {"space": sg.SpaceSpec("powerlaw")}, {"space": sg.SpaceSpec("powerlaw", rotated=True)}, {"space": sg.SpaceSpec(bias=1.0)},
    ]  # fmt: skip
    assert {name for change in changes for name in change} == set(field_names(sg.LayerSpec)), "a new field is here too"
    for base in (sg.LayerSpec(d_model=8, d_ff=16), sg.LayerSpec(d_model=8, d_ff=2100, norm="layernorm", n_shared_experts=2)):
        for change in changes:
            other = dataclasses.replace(base, **change)
            if cost_key(other, run) == cost_key(base, run):
                assert memory_needed(other, run) == memory_needed(base, run), change
                assert estimated_seconds(other, run, select()) == estimated_seconds(base, run, select()), change
            else:
                parted |= set(change) if len(change) == 1 else set()
    assert parted.isdisjoint({"activation", "init_correlation", "norm_affine_std", "router"})


@pytest.mark.parametrize("trials", [1, 2, 3, 7, 8, 9, 100, 1000])
def test_estimates_are_those_of_each_row(trials):
    generator = np.random.default_rng(trials)
    pairs = generator.integers(0, 9, (len(QUANTITIES), trials))
    pairs[:20], pairs[20, 0] = np.maximum(pairs[:20], 1), 0
    total = generator.random(pairs.shape) * pairs
    skipped = {QUANTITIES[1]: Skipped(5, ("a", "b", "c")), QUANTITIES[30]: Skipped(1, ("d",))}
    empty = np.zeros((trials, 2), np.int64)
    one = Sums(0, QUANTITIES, total, pairs, pairs + 1, empty, empty[:, 0], skipped)
    # Among others, and alone.
    other = dataclasses.replace(one, total=total[:, ::-1] / 2, pairs=pairs[:, ::-1], skipped={})
    found, _, again = estimates([one, other, one])
    assert estimated_bits(found) == estimated_bits(again) == estimated_bits(estimates([one])[0])
    texts = {QUANTITIES[1]: "a, b, c and 2 more", QUANTITIES[30]: "d"}
    for row, path in enumerate(QUANTITIES):
        values = np.full(trials, np.nan)
        values[pairs[row] > 0] = total[row][pairs[row] > 0] / pairs[row][pairs[row] > 0]
        expected = Estimate.of(values, pairs[row], trials, texts.get(path, ""))
        assert found[path] == expected
        assert found[path].values.tobytes() == expected.values.tobytes()
        assert found[path].per_trial.tolist() == expected.per_trial.tolist()
    assert any(np.isnan(found[path].values).any() for path in QUANTITIES)


def estimated_bits(found: dict) -> list:
    return [(path, value, value.values.tobytes(), value.per_trial.tobytes()) for path, value in found.items()]


def test_estimates_of_many_layers_are_those_of_each(rows):
    runs = [dataclasses.replace(request.run, trials=3) for request in mixed("few hidden units, shared", rows)]
    requests = [Request(request.spec, run) for request, run in zip(mixed("few hidden units, shared", rows), runs, strict=True)]
    sums = measure_batch(requests)
    together = estimates(sums)
    assert [estimated_bits(found) for found in together] == [estimated_bits(estimates([one])[0]) for one in sums]
    assert len({str(estimated_bits(found)) for found in together}) == len(requests)


def test_estimates_of_unlike_layers_are_refused(rows):
    spec, run = mixed("plain", rows)[0].spec, sg.RunSpec(tokens=8, trials=2)
    (whole,), (longer,), (fewer,) = (
        measure_batch([Request(spec, run)]),
        measure_batch([Request(spec, dataclasses.replace(run, trials=3))]),
        measure_batch([Request(spec, run)], select(sites=("output",))),
    )
    for unlike in ([whole, longer], [whole, fewer], []):
        with pytest.raises(ValueError, match="sums: expected some, all of the same quantities over as many trials"):
            estimates(unlike)

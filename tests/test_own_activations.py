"""A user's own activations: what enters their names, what is refused, and that layers of them are measured and predicted."""

import copy
import functools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import simgap as sg
from simgap import theory
from simgap.own_activations import full_name, function_of, in_place, of_arrays

POWER = 2
TABLE = {"power": 2}


def helper(x):
    return x.clamp(min=0)


def through_helper(x):
    return helper(x) ** POWER


def raised(p):
    return lambda x: x.clamp(min=0) ** p


@pytest.fixture(scope="module", autouse=True)
def squared():
    return sg.activation("squared_relu", lambda x: x.clamp(min=0) ** 2)


def test_a_name_stands_for_a_function(squared):
    assert squared == full_name("squared_relu")
    spec = sg.LayerSpec(activation="squared_relu")
    assert spec == sg.LayerSpec(activation=squared)
    assert spec.activation == squared
    assert spec.key() != sg.LayerSpec(activation="relu").key()
    x = torch.tensor([-1.0, 0.5, 3.0])
    assert in_place(squared)(x) is x
    assert x.tolist() == [0.0, 0.25, 9.0]
    assert of_arrays(squared)(np.array([[-1.0], [3.0]])).tolist() == [[0.0], [9.0]]


def test_layout_and_place_do_not_enter_the_name(squared):
    again = sg.activation(
        "squared_relu",
        # The same function.
        lambda x: (x.clamp(min = 0)
                   ** 2),
    )  # fmt: skip
    assert again == squared
    of_another_name, and_another = (
        sg.activation("other", lambda x: x.clamp(min=0) ** 2),
        sg.activation("other", lambda x: x.clamp(min=0) ** 3),
    )
    assert of_another_name.partition("#")[2] == squared.partition("#")[2]
    assert and_another != of_another_name
    assert full_name("other") == and_another
    assert function_of(of_another_name)(torch.tensor([2.0])).item() == 4.0


def test_what_a_function_reads_enters_its_name(monkeypatch):
    names = {sg.activation("power", lambda x, p=p: x.clamp(min=0) ** p) for p in (2, 3)}
    names |= {sg.activation("power", raised(p)) for p in (2, 3)}
    names.add(sg.activation("power", through_helper))
    monkeypatch.setitem(globals(), "POWER", 3)
    names.add(sg.activation("power", through_helper))
    monkeypatch.setitem(globals(), "helper", lambda x: x.clamp(min=1))
    names.add(sg.activation("power", through_helper))
    assert len(names) == 7


def test_libraries_enter_by_name():
    first = sg.activation("by_torch", lambda x: torch.nn.functional.mish(x.to(x.dtype)) * torch.ones((), dtype=torch.float32).to(x.dtype))
    assert sg.LayerSpec(activation="by_torch").activation == first


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("squared relu", lambda x: x, "name: expected a name such as 'squared_relu', got 'squared relu'"),
        ("silu", lambda x: x, "name: 'silu' is an activation of simgap's"),
        ("own", torch.nn.SiLU(), "function: expected a Python function, got SiLU"),
        ("own", functools.partial(torch.clamp, min=0), "function: expected a Python function, got partial"),
        ("own", lambda x: x ** TABLE["power"], "function: 'own: TABLE' reads dict {'power': 2}, of which a key can hold no plain value"),
        ("own", lambda x: x.mean() + 0 * x, "'own' of a number depends on the numbers beside it, or on chance"),
        ("own", lambda x: torch.rand_like(x), "'own' of a number depends on the numbers beside it, or on chance"),
        ("own", lambda x: x.double(), "gave torch.float64 of shape (257,), expected as many of the same"),
        ("own", lambda x: x[None], "gave torch.float32 of shape (1, 257)"),
        ("own", lambda x: 1.0, "gave float, expected"),
        ("own", lambda x: x.sqrt(), "'own' is not finite at -8"),
        ("own", lambda x: x.nope(), "'own' cannot be computed of a tensor: AttributeError"),
    ],
)
def test_what_is_none(name, function, message):
    with pytest.raises(ValueError, match=r"^(name|function): ") as refused:
        sg.activation(name, function)
    assert message in str(refused.value)


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match=r"^activation: expected one of identity, .*, got 'squared_rely'"):
        sg.LayerSpec(activation="squared_rely")
    with pytest.raises(ValueError, match=r"^activation: expected one of identity, .*, got \['relu'\]"):
        sg.LayerSpec(activation=["relu"])
    elsewhere = sg.LayerSpec(d_model=4, d_ff=4, activation="elsewhere#0123456789abcdef")
    message = r"^activation: 'elsewhere#0123456789abcdef' is not known in this process; call sg\.activation\('elsewhere', \.\.\.\)"
    for call in (sg.measure, sg.predict):
        with pytest.raises(ValueError, match=message):
            call(elsewhere, tokens=8, trials=1)
    other = sg.LayerSpec(d_model=4, d_ff=4, activation="squared_relu#0123456789abcdef")
    with pytest.raises(ValueError, match="in this process; 'squared_relu' is another function here; call"):
        sg.measure(other, tokens=8, trials=1)


def test_the_same_bits_however_it_is_measured():
    """Streamed or held, with more trials or fewer, in pieces or not."""
    spec = sg.LayerSpec(d_model=33, d_ff=1031, activation="squared_relu")
    whole = sg.measure(spec, tokens=70, trials=2)
    for other in (sg.measure(spec, tokens=70, trials=1), sg.measure(spec, tokens=70, trials=2, memory="8MiB")):
        for (path, value), (_, mine) in zip(other.items(), whole.items(), strict=True):
            assert value.values.tobytes() == mine.values[: value.values.size].tobytes(), path


LAYER = {"d_model": 24, "d_ff": 32, "n_experts": 6}


def test_laws_meet_what_is_measured():
    """z at 40 trials fixed beforehand: of 28 quantities none beyond 5, and the overlap on a token refuses ReLU's law."""
    for name, function, exact in (
        ("squared_relu", lambda x: x.clamp(min=0) ** 2, ("A5", "exact")),
        ("cube", lambda x: x**3, ("N1", "exact")),
    ):
        sg.activation(name, function)
        spec = sg.LayerSpec(activation=name, norm="layernorm", **LAYER)
        m, p = sg.measure(spec, tokens=512, trials=40), sg.predict(spec, tokens=512, trials=40)
        hidden = p.activation_mso["token"]["hidden"]
        assert (hidden.law, hidden.kind) == exact
        assert sum(hypothesis.startswith("activation ") for hypothesis in hidden.hypotheses) == 1
        checked = 0
        for path, value in m.items():
            null = dict(p.items())[path]
            if value.mean is not None and null.kind == "exact":
                spread = null.sd if null.sd is not None else value.sem
                assert abs(value.mean - null.mean) < 5 * max(spread, value.sem), (name, path)
                checked += 1
        assert checked >= 14
        relu = sg.predict(sg.LayerSpec(activation="relu", **LAYER)).activation_mso["token"]["hidden"].mean
        measured = m.activation_mso["token"]["hidden"]
        assert abs(measured.mean - relu) > 5 * measured.sem


def test_silent_vectors():
    """Of three squared ReLUs all are 0 with probability 1/8: their pairs are dropped, and the law knows it."""
    spec = sg.LayerSpec(d_model=64, d_ff=3, n_experts=6, activation="squared_relu", inputs="sphere")
    m = sg.measure(spec, tokens=256, trials=200, sites="hidden", readings="all", weights=())
    measured, null = m.activation_mso["all"]["hidden"], sg.predict(spec, tokens=256, trials=200).activation_mso["all"]["hidden"]
    assert measured.dropped > 0
    assert abs(measured.mean - null.mean) < 5 * measured.sem
    assert abs(measured.mean - null.mean * 7 / 8) > 5 * measured.sem


def test_where_no_law_holds():
    sg.activation("hard_swish", lambda x: torch.nn.functional.hardswish(x))
    p = sg.predict(sg.LayerSpec(activation="hard_swish", **LAYER))
    assert p.activation_mso["mean"]["output"].mean == pytest.approx(1 / 24)
    assert p.activation_mso["token"]["output"].sd is None
    for reading in ("mean", "token", "all"):
        hidden = p.activation_mso[reading]["hidden"]
        assert hidden.mean is None
        assert "is not smooth on either side of 0" in hidden.why
    gated = sg.predict(sg.LayerSpec(activation="hard_swish", gated=True, **LAYER)).activation_mso["mean"]["hidden"]
    assert (gated.mean, gated.law) == (pytest.approx(1 / 32), "A7")


def test_theory_by_name(squared):
    for name in ("squared_relu", squared):
        assert theory.dual_map(name, 0.5) == pytest.approx(theory.dual_map(lambda x: np.maximum(x, 0) ** 2, 0.5), abs=1e-12)
    with pytest.raises(ValueError, match="activation: 'gone#0123456789abcdef' is not known in this process"):
        theory.dual_map("gone#0123456789abcdef", 0.5)


def test_a_pickled_layer_takes_it_along(tmp_path):
    """With what it reads; by its name alone it is refused."""
    specs = [sg.LayerSpec(d_model=8, d_ff=8, activation=sg.activation("carried", own)) for own in (through_helper, raised(3))]
    (tmp_path / "specs.pickle").write_bytes(pickle.dumps(specs))
    program = """
import pickle, simgap
specs = pickle.load(open("specs.pickle", "rb"))
for spec in specs:
    print(spec.key(), simgap.measure(spec, trials=1, tokens=9).activation_mso["token"]["hidden"].mean)
print(simgap.predict(specs[0]).activation_mso["token"]["hidden"].mean)
simgap.measure(simgap.LayerSpec(activation="carried#0123456789abcdef"), trials=1)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    expected = [(s.key(), sg.measure(s, trials=1, tokens=9).activation_mso["token"]["hidden"].mean) for s in specs]
    assert told.stdout.split() == [
        *(str(each) for pair in expected for each in pair),
        str(sg.predict(specs[0]).activation_mso["token"]["hidden"].mean),
    ]
    assert "ValueError: activation: 'carried#0123456789abcdef' is not known in this process" in told.stderr


def test_copies_and_pickles_are_equal(squared):
    for spec in (sg.LayerSpec(d_ff=3), sg.LayerSpec(activation=squared, inputs=sg.InputSpec(mean=1.0))):
        assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == copy.copy(spec) == spec  # noqa: S301


def test_workers_have_it(tmp_path, squared):
    """And the frame of what they recorded can be read by a process that does not."""
    cells = sg.grid(sg.LayerSpec(d_ff=8, activation="squared_relu"), d_model=[4, 8])
    run = sg.sweep(cells, trials=2, tokens=16, out=tmp_path / "run", engine="local", workers=1)
    assert (run.done, run.set_aside) == (2, ())
    program = "import simgap; print(*simgap.collect('run').activation.unique())"
    read = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120)
    assert read.stdout.strip() == squared

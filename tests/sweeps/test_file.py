"""Sweep files: what they say, and that nothing in them does more than be refused in one line."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.selection import select
from simgap.specs import LayerSpec, RouterSpec
from simgap.sweeps import Range, grid, sobol_design, zip_grid
from simgap.sweeps.file import MOST_BYTES, SweepFile, read_file

WHOLE = """
trials = 10
memory = "512MiB"
quantities = ["weight_mso up", "activation_mso", "gap"]
max_parameters = 5e4
[layer]
d_model = 16
n_experts = 4
router.kind = "sigmoid"
router.temperature = 0.5
[[design]]
where = ["top_k <= n_experts", "d_ff>=d_model", "router.kind != hash", "gated == false"]
[design.axes]
d_model = [8, 16, 128]
d_ff = {times = 4, of = "d_model"}
top_k = [1, 2, 5]
router = ["linear", "hash"]
"router.temperature" = [0.5, 1.0]
[[design]]
kind = "sobol"
n = 30
seed = 3
[design.layer]
d_ff = 8
"inputs.mean" = 0.5
[design.axes]
n_experts = {low = 2, high = 256, log = true}
router.kind = ["linear", "noisy"]
router.noise = {low = 0.5, high = 2}
"""


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.toml"

    def written(text):
        path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        return path

    return written


def test_a_file_says_what_the_functions_do(write):
    found = read_file(write(WHOLE))
    base = LayerSpec(d_model=16, n_experts=4, router=RouterSpec(kind="sigmoid", temperature=0.5))
    axes = {"d_model": [8, 16, 128], "top_k": [1, 2], "router": ["linear"], "router.temperature": [0.5, 1.0]}
    first = grid(base, axes, d_ff=lambda s: 4 * s.d_model)
    other = LayerSpec(d_model=16, d_ff=8, n_experts=4, router=base.router, inputs=grid(base, {"inputs.mean": 0.5})[0].inputs)
    second = {"n_experts": Range(2, 256, log=True), "router": ["linear", "noisy"], "router.noise": Range(0.5, 2)}
    wanted = (first + sobol_design(other, second, n=30, seed=3)).at_most(5e4)
    assert found.cells.keys.tolist() == wanted.keys.tolist()
    assert list(found.cells) == list(wanted)
    assert found.cells.left_out == wanted.left_out
    assert len(found.cells.left_out) > 2
    assert found.run == {"trials": 10, "memory": "512MiB"}
    assert found.selection == select(["weight_mso up", "activation_mso", "gap"])


def test_kinds_of_designs(write):
    text = "[layer]\nd_model = 8\n[[design]]\nkind = '{}'\n{}[design.axes]\nd_ff = [16, 32]\nn_experts = [4, 8]\n"
    shapes = {}
    for kind, more in (("grid", ""), ("zip", ""), ("one_at_a_time", ""), ("random", "n = 9\nseed = 1\n"), ("sobol", "n = 4\n")):
        shapes[kind] = [(spec.d_ff, spec.n_experts) for spec in read_file(write(text.format(kind, more))).cells]
    assert shapes["grid"] == [(16, 4), (16, 8), (32, 4), (32, 8)]
    assert shapes["zip"] == [(16, 4), (32, 8)]
    assert shapes["one_at_a_time"] == [(512, 8), (16, 8), (32, 8), (512, 4)]
    assert sorted(shapes["random"]) == sorted(shapes["sobol"]) == shapes["grid"]
    assert [spec.d_ff for spec in read_file(write("[[design]]")).cells] == [512]
    assert read_file(write("﻿[[design]]\naxes.gated = [true, false]")).cells.names == ("gated",)
    assert read_file(write("[[design]]")).selection == select()
    assert read_file(write("quantities = 'gap'\n[[design]]")).selection == select("gap")
    assert read_file(write("metrics = 'gap'\n[[design]]")).selection == select(metrics="gap")


def test_fields_that_follow_follow_exactly(write):
    """A tenth of thirty is three, and a field may follow from one that follows."""
    axes = """[design.axes]
    d_model = {times = 0.1, plus = 1, of = "n_experts"}
    n_experts = [30, 60]
    d_ff = {times = 2.5, of = "d_model"}
    "router.temperature" = {times = 0.5, of = "n_experts"}
    """
    found = read_file(write("[[design]]\n" + axes.replace("2.5", "2"))).cells
    assert [(spec.d_model, spec.d_ff, spec.router.temperature) for spec in found] == [(4, 8, 15.0), (7, 14, 30.0)]
    with pytest.raises(
        ValueError, match=r"sweep\.toml: \[design 1\]: axes: d_ff: what follows from d_model = 7 is 17\.5, not a whole number$"
    ):
        read_file(write("[[design]]\n" + axes))


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("d_model < d_ff", [(16, 32)]),
        ("d_ff<=d_model", [(128, 16), (128, 128)]),
        ("d_ff >= 32.5", [(128, 128)]),
        ("d_ff == d_model", [(128, 128)]),
        ("d_ff != 16", [(16, 32), (128, 128)]),
        ("d_ff > 1.6e1", [(16, 32), (128, 128)]),
    ],
)
def test_where(write, line, kept):
    text = f"[[design]]\nkind = 'zip'\nwhere = {json.dumps(line)}\n[design.axes]\nd_model = [16, 128, 128]\nd_ff = [32, 16, 128]\n"
    assert [(spec.d_model, spec.d_ff) for spec in read_file(write(text)).cells] == kept


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("router == linear", ["linear"]),
        ("router.kind != 'linear'", ["hash"]),
        ("gated == true", []),
        ("norm_affine != none", []),
        ("router.temperature > 0.5", ["linear", "hash"]),
    ],
)
def test_where_with_names(write, line, kept):
    text = f'[[design]]\nwhere = ["{line}"]\n[design.axes]\nrouter = ["linear", "hash"]\n'
    assert [spec.router.kind for spec in read_file(write(text)).cells] == kept


DESIGN = "[[design]]\n"
AXES = "[[design]]\n[design.axes]\n"
SLIPS = [
    ("trails = 3\n[[design]]", r"a sweep file has no key 'trails'; did you mean 'trials'\?"),
    ("", r"design: expected at least one \[\[design\]\], in double brackets"),
    ("[design]", r"design: expected at least one \[\[design\]\]"),
    ("design = [3]", r"\[design 1\]: expected a table, got 3"),
    ("trials = 0\n[[design]]", r"trials: expected a whole number, at least 1, got 0"),
    ("tokens = 1.5\n[[design]]", r"tokens: expected a whole number"),
    ("device = ['cpu']\n[[design]]", r"device: expected 'cpu'"),
    ("dtype = ['float32']\n[[design]]", r"dtype: expected one of"),
    ("memory = true\n[[design]]", r"memory: expected bytes"),
    ("metrics = 3\n[[design]]", r"metrics: expected a list of names, got 3"),
    ("quantities = ['gpa']\n[[design]]", r"quantities: none is called 'gpa'; did you mean 'gap'\?"),
    ("metrics = ['weight_mso up']\n[[design]]", r"metrics: 'weight_mso up' names quantities, .*; write quantities = \['weight_mso up'\]"),
    ("quantities = []\n[[design]]", r"quantities: expected names"),
    ("metrics = []\n[[design]]", r"metrics: expected some of"),
    ("max_parameters = nan\n[[design]]", r"max_parameters: expected a finite number, got nan"),
    ("max_parameters = 0\n[[design]]", r"max_parameters: expected a number above 0, got 0"),
    ("layer = 3\n[[design]]", r"\[layer\]: expected a table of fields, got 3"),
    ("[layer]\nd_modle = 3\n[[design]]", r"\[layer\]: a layer has no field 'd_modle'; did you mean 'd_model'\?"),
    ("[layer]\nd_model = [3]\n[[design]]", r"\[layer\]: d_model: expected a whole number, got \[3\]"),
    ("[layer]\nd_model = 3.0\n[[design]]", r"\[layer\]: d_model: expected a whole number, got 3\.0"),
    ("[layer]\nd_model = 9223372036854775808\n[[design]]", r"\[layer\]: d_model: expected a finite number"),
    ("[layer]\ngated = 1\n[[design]]", r"\[layer\]: gated: expected true or false, got 1"),
    ("[layer]\ninputs.path = 1\n[[design]]", r"\[layer\]: inputs\.path: expected text, got 1"),
    ("[layer]\ninputs = {kind = 'file', path = 'x.txt'}\n[[design]]", r"\[layer\]: inputs\.path: expected a \.npy or \.safetensors file"),
    ("[layer]\nrouter = 'soft'\n[[design]]", r"\[layer\]: top_k: the soft router uses every expert"),
    ("[layer]\nrouter.kindd = 'soft'\n[[design]]", r"\[layer\]: a layer has no field 'router\.kindd'; did you mean 'router\.kind'\?"),
    ("[layer]\nrouter = {kind = 'hash'}\n'router.kind' = 'hash'\n[[design]]", r"\[layer\]: router\.kind: given twice"),
    (DESIGN + "axs = 3", r"\[design 1\]: a design has no key 'axs'; did you mean 'axes'\?"),
    (DESIGN + "kind = 'gird'", r"\[design 1\]: kind: expected one of grid, .*, got 'gird'; did you mean 'grid'\?"),
    (DESIGN + "kind = {}", r"\[design 1\]: kind: expected one of grid"),
    (DESIGN + "n = 3", r"\[design 1\]: n: is for kind = 'random' or 'sobol', got kind = 'grid'"),
    (DESIGN + "kind = 'random'", r"\[design 1\]: n: kind = 'random' needs a number of cells"),
    (DESIGN + "kind = 'sobol'\nn = 1000000000000", r"\[design 1\]: n: kind = 'sobol' needs a number of cells from 1 to 10,000,000"),
    (DESIGN + "kind = 'random'\nn = 3\nseed = -1", r"\[design 1\]: seed: expected a whole number, at least 0, got -1"),
    (DESIGN + "kind = 'sobol'\nn = 3", r"\[design 1\]: sobol_design: expected at least one axis"),
    (DESIGN + DESIGN + "[design.axes]\nd_modle = [3]", r"\[design 2\]: axes: a layer has no field 'd_modle'; did you mean 'd_model'\?"),
    (DESIGN + "[design.layer]\nd_model = 0", r"\[design 1\]: layer: d_model: expected a whole number, at least 1, got 0"),
    (AXES + "activation = ['silu', 'rleu']", r"\[design 1\]: axes: activation: expected one of .*, got 'rleu'; did you mean 'relu'\?"),
    (AXES + "activation = [['silu']]", r"axes: activation: expected one of .*, got \['silu'\]"),
    (AXES + "d_model = ['3']", r"axes: d_model: expected a whole number, got '3'"),
    (AXES + "d_model = [1979-05-27]", r"axes: d_model: expected a whole number, got datetime"),
    (AXES + "'router.noise' = [inf]", r"axes: router\.noise: expected a finite number, got inf"),
    (AXES + "d_model = []", r"d_model: expected at least one value, got none"),
    (AXES + "router = ['hash']\n'router.kind' = ['hash']", r"axes: router\.kind: given twice"),
    (AXES + "d_model = {low = 2, high = 4}", r"axes: d_model: low and high are for kind = 'random' or 'sobol', got kind = 'grid'"),
    (AXES + "d_model = {lo = 2}", r"axes: d_model: expected values, .*, got \{'lo': 2\}"),
    (AXES + "d_model = {of = 'd_ff'}", r"axes: d_model: expected times or plus beside of"),
    (AXES + "d_model = {times = 2, of = 'd_model'}", r"axes: d_model: of: expected another field"),
    (AXES + "d_model = {times = 2, of = 'gated'}", r"axes: d_model: of: expected numbers, but gated is none"),
    (AXES + "d_model = {times = 2, of = 3}", r"axes: d_model: a layer has no field '3'"),
    (AXES + "d_model = {times = 'x', of = 'd_ff'}", r"axes: d_model: times: expected a finite number, got 'x'"),
    (AXES + "d_model = {times = 1e300, of = 'd_ff'}", r"axes: d_model: what follows from d_ff = 512 is too large"),
    (AXES + "d_model = {times = 2, off = 1, of = 'd_ff'}", r"axes: d_model: a field that follows has no key 'off'; did you mean 'of'\?"),
    (AXES + "d_ff = {times = 2, of = 'top_k'}\ntop_k = {times = 2, of = 'd_ff'}", r"of: top_k follows from another itself"),
    (DESIGN + "kind = 'zip'\n[design.axes]\nd_ff = [2, 3]\nd_model = [2, 3, 4]", r"\[design 1\]: zip_grid: expected axes of one length"),
    (DESIGN + "kind = 'random'\nn = 3\n[design.axes]\nd_ff = {low = 2}", r"axes: d_ff: expected low and high, got no high"),
    (DESIGN + "kind = 'random'\nn = 3\n[design.axes]\nd_ff = {low = 2, high = 1}", r"axes: d_ff: range: expected low <= high"),
    (DESIGN + "kind = 'random'\nn = 3\n[design.axes]\nd_ff = {low = 2, high = 3, log = 1}", r"axes: d_ff: range: expected log"),
    (DESIGN + "kind = 'random'\nn = 3\n[design.axes]\ngated = {low = 0, high = 1}", r"gated: a Range is of numbers"),
    (DESIGN + "where = 3", r"\[design 1\]: where: expected a list of texts"),
    (DESIGN + "where = 'd_model'", r"\[design 1\]: where: expected FIELD OP FIELD-or-value with one of < <= > >= == !=, got 'd_model'"),
    (DESIGN + "where = 'd_modle < 3'", r"where: a layer has no field 'd_modle'; did you mean 'd_model'\?"),
    (DESIGN + "where = 'd_model < n_expert'", r"where: 'n_expert' is neither a field nor a number; did you mean 'n_experts'\?"),
    (DESIGN + "where = 'd_model < nan'", r"where: 'nan' is neither a field nor a number"),
    (DESIGN + "where = '__import__(\"os\").abort() < 3'", r"where: expected FIELD OP FIELD-or-value"),
    (DESIGN + "where = 'd_model.__class__ == 3'", r"where: a layer has no field 'd_model\.__class__'"),
    (DESIGN + "where = 'activation < silu'", r"where: activation has no order: expected == or !="),
    (DESIGN + "where = 'activation == rleu'", r"where: activation: expected one of .*; did you mean 'relu'\?"),
    (DESIGN + "where = 'activation == norm'", r"where: activation and norm cannot be compared"),
    (DESIGN + "where = 'd_model == gated'", r"where: d_model and gated cannot be compared"),
    ("x = = 3", r"not TOML: Invalid value \(at line 1, column 5\)"),
    ("[[design]]\nx = [" + "[" * 60_000, r"not TOML: nested too deeply"),
    ("x = " + "9" * 5000, r"not TOML: Exceeds the limit"),
    ("a." * 40_000 + "b = 1", r"line 1: expected at most 1000 points, got 40000; break the list"),
    (b"x = '\xff'", r"not TOML: byte 5 is no UTF-8"),
    ("#" * (MOST_BYTES + 1), r"a sweep file has at most 256 KiB, this one has more"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), SLIPS)
def test_slips_are_named(write, text, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"sweep\.toml: (.*: )?{message}") as met:
        read_file(write(text))
    assert "\n" not in str(met.value)
    assert len(str(met.value)) < 400
    assert time.perf_counter() - start < 5


def test_a_trillion_cells_are_refused_before_they_are_counted_out(write):
    start = time.perf_counter()
    values = ", ".join(map(str, range(1, 1001)))
    axes = "".join(f"{name} = [{values}]\n" for name in ("d_model", "d_ff", "n_experts", "top_k"))
    with pytest.raises(ValueError, match=r"a sweep has at most 10,000,000 cells, these designs have 1,000,000,000,000$"):
        read_file(write(AXES + axes))
    many = "[[design]]\nkind = 'random'\nn = 9000000\n[design.axes]\nd_model = {low = 1, high = 1e9}\n"
    with pytest.raises(ValueError, match=r"a sweep has at most 10,000,000 cells, these designs have 18,000,000$"):
        read_file(write(2 * many))
    assert time.perf_counter() - start < 5


def test_what_cannot_be_read(tmp_path):
    for path, message in ((tmp_path, "not a regular file"), (tmp_path / "none.toml", "No such file or directory")):
        with pytest.raises(ValueError, match=rf"^{path}: cannot be read: {message}$"):
            read_file(path)


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)


names = st.sampled_from(
    ["kind", "n", "seed", "where", "axes", "layer", "low", "high", "log", "times", "of", "d_model", "router", "router.noise"]
)
scalars = st.sampled_from(
    [True, -1, 0, 1, 3, 2**64, 0.5, 1e300, float("nan"), "", "random", "zip", "hash", "d_ff", "d_ff < 3", "1", "router"]
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8)
axes = st.dictionaries(names, values, max_size=3)
tables = st.dictionaries(names, values | axes, max_size=4)
files = st.fixed_dictionaries(
    {"design": st.lists(tables, max_size=2) | values}, optional={"layer": axes, "trials": values, "metrics": values, "quantities": values}
)


@settings(max_examples=250)
@given(files)
def test_any_table_is_read_or_refused(write, table):
    assert_read_or_refused(write("\n".join(f"{key} = {toml(value)}" for key, value in table.items())))


words = ["d_model", "kind", " = ", "[4, 8]", "{low = 2", ", ", "}", "]", "\n", '"', "'''", "random", "1e999", "\x00", "é", "."]
pieces = st.sampled_from(["[[design]]\n", "[design.axes]\n", "[layer]\n", *words])


@settings(max_examples=250)
@given(st.lists(pieces, max_size=12).map("".join) | st.binary(max_size=40))
def test_any_text_is_read_or_refused(write, text):
    assert_read_or_refused(write(text))


def assert_read_or_refused(path):
    try:
        found, message = read_file(path), ""
    except ValueError as error:
        found, message = None, str(error)
    assert isinstance(found, SweepFile) or message.startswith(f"{path}: ")


def test_equal_to_a_zip(write):
    text = "[[design]]\nkind = 'zip'\n[design.axes]\nd_model = [4, 8]\nd_ff = [8, 16]\ngated = true\n"
    wanted = zip_grid(LayerSpec(), d_model=[4, 8], d_ff=[8, 16], gated=True)
    assert read_file(write(text)).cells.keys.tolist() == wanted.keys.tolist()

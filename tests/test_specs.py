"""Specs: what they accept, what they refuse and how they say it."""

import dataclasses

import numpy as np
import pytest

from simgap.specs import InputSpec, LayerSpec, RouterSpec, RunSpec, SpaceSpec, field_names

NOT_WHOLE = (True, 2.0, "2", None, 1.5, np.float64(2.0), np.bool_(True), -1)
NOT_REAL = (True, "1", None, float("nan"), float("inf"), -float("inf"), 1j, -1.0)


@pytest.mark.parametrize("name", ["d_model", "d_ff", "n_experts", "top_k", "n_shared_experts"])
@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_layer_refuses_what_is_no_size(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected a whole number, at least \d.* got "):
        LayerSpec(**{name: value})


@pytest.mark.parametrize("name", ["tokens", "trials", "seed"])
@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_run_refuses_what_is_no_count(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected a whole number, at least \d, got "):
        RunSpec(**{name: value})


@pytest.mark.parametrize("name", ["d_model", "d_ff", "n_experts", "top_k"])
def test_layer_sizes_are_not_zero(name):
    with pytest.raises(ValueError, match=rf"^{name}: expected a whole number, at least [12].* got 0$"):
        LayerSpec(**{name: 0})


@pytest.mark.parametrize("name", ["tokens", "trials"])
def test_run_counts_are_not_zero(name):
    with pytest.raises(ValueError, match=rf"^{name}: expected a whole number, at least 1, got 0$"):
        RunSpec(**{name: 0})


@pytest.mark.parametrize("value", [True, 2.5, "8", None, 0, -3], ids=repr)
def test_clusters_are_a_whole_number(value):
    with pytest.raises(ValueError, match=r"^inputs\.n_clusters: expected a whole number, at least 1, got "):
        InputSpec(kind="clusters", n_clusters=value)


@pytest.mark.parametrize("name", ["temperature", "noise", "bias", "capacity"])
@pytest.mark.parametrize("value", NOT_REAL, ids=repr)
def test_router_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^router\.{name}: expected a finite number (above|at least) (0|1e-06), got "):
        RouterSpec(**{name: value})


@pytest.mark.parametrize("name", ["temperature", "capacity"])
def test_router_divisors_are_above_zero(name):
    with pytest.raises(ValueError, match=rf"^router\.{name}: expected a finite number (above 0|at least 1e-06), got 0"):
        RouterSpec(**{name: 0.0})


@pytest.mark.parametrize("name", ["alpha", "separation", "dof", "mean", "massive", "massive_scale", "document_correlation"])
@pytest.mark.parametrize("value", NOT_REAL, ids=repr)
def test_input_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^inputs\.{name}: expected a finite number (above|at least) [02]"):
        InputSpec(**{name: value})


@pytest.mark.parametrize("name", ["alpha", "spread", "scale", "bias"])
@pytest.mark.parametrize("value", NOT_REAL, ids=repr)
def test_space_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^space\.{name}: expected a finite number (above|at least) 0, got "):
        SpaceSpec(**{name: value})


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: SpaceSpec(outliers=-1), r"space\.outliers: expected a whole number, at least 0, got -1"),
        (lambda: SpaceSpec(outliers=1, scale=0.0), r"space\.scale: expected a finite number above 0, got 0\.0"),
        (lambda: SpaceSpec("powerlaw", rotated=1), r"space\.rotated: expected true or false, got 1"),
        (lambda: SpaceSpec(rotated=True), r"space\.rotated: a round space has no directions to rotate; give space = 'powerlaw' or .*"),
        (lambda: SpaceSpec(scaled="output"), r"space\.scaled: expected one of .*, got 'output'; did you mean 'outputs'\?"),
        (lambda: LayerSpec(d_model=4, space=SpaceSpec(outliers=5)), r"space\.outliers: expected at most d_model = 4, got 5"),
        (lambda: InputSpec(massive=1.5), r"inputs\.massive: expected a finite number at least 0 and at most 1, got 1\.5"),
        (lambda: InputSpec(document_tokens=0), r"inputs\.document_tokens: expected a whole number, at least 1, got 0"),
        (
            lambda: InputSpec(document_correlation=0.5),
            r"inputs\.document_correlation: a document of one token has none before it; give inputs\.document_tokens",
        ),
        (
            lambda: InputSpec("student", document_tokens=8, document_correlation=0.5),
            r"inputs\.document_correlation: expected inputs of gaussian, sphere, powerlaw for it, got inputs = 'student'",
        ),
        (
            lambda: InputSpec("file", path="x.npy", massive=0.1),
            r"inputs\.massive: the rows of a file are taken as they are, got massive = 0\.1",
        ),
        (
            lambda: InputSpec("file", path="x.npy", document_tokens=2),
            r"inputs\.document_tokens: the rows of a file .*, got document_tokens = 2",
        ),
    ],
)
def test_spaces_and_documents_that_do_not_exist(build, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build()


@pytest.mark.parametrize("name", ["norm_affine_std", "init_correlation"])
@pytest.mark.parametrize("value", NOT_REAL, ids=repr)
def test_layer_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected a finite number at least 0"):
        LayerSpec(**{name: value})


def test_numbers_with_a_ceiling():
    with pytest.raises(ValueError, match=r"^init_correlation: expected a finite number at least 0 and at most 1, got 1\.1$"):
        LayerSpec(init_correlation=1.1)
    with pytest.raises(ValueError, match=r"^inputs\.separation: expected a finite number at least 0 and at most 1, got 2$"):
        InputSpec(separation=2)
    with pytest.raises(ValueError, match=r"^inputs\.dof: expected a finite number above 2, got 2$"):
        InputSpec(kind="student", dof=2)


@pytest.mark.parametrize(
    "name, typo, meant",
    [
        ("activation", "sillu", "silu"),
        ("activation", "GELU", ""),
        ("norm", "layer_norm", "layernorm"),
        ("norm_affine", "per-expert", "per_expert"),
        ("init", "kaiming", "kaiming_normal"),
        ("router", "lineer", "linear"),
        ("inputs", "gausian", "gaussian"),
        ("space", "power_law", "powerlaw"),
    ],
)
def test_unknown_names_are_met_with_the_nearest(name, typo, meant):
    ending = f"; did you mean '{meant}'\\?$" if meant else "$"
    with pytest.raises(ValueError, match=rf"^{name}: expected one of .*, got '{typo}'{ending}"):
        LayerSpec(**{name: typo})


def test_unknown_dtype_is_met_with_the_nearest():
    with pytest.raises(ValueError, match=r"^dtype: expected one of float32, float64, got 'float23'; did you mean 'float32'\?$"):
        RunSpec(dtype="float23")


@pytest.mark.parametrize("value", [None, 3, ["silu"]], ids=repr)
def test_a_choice_is_a_name(value):
    with pytest.raises(ValueError, match=r"^activation: expected one of identity, "):
        LayerSpec(activation=value)


@pytest.mark.parametrize("value", [1, 0, "yes", None], ids=repr)
def test_gated_is_true_or_false(value):
    with pytest.raises(ValueError, match=r"^gated: expected true or false, got "):
        LayerSpec(gated=value)


def test_fields_that_contradict_each_other():
    with pytest.raises(ValueError, match=r"^top_k: expected at most n_experts = 4, got 5$"):
        LayerSpec(n_experts=4, top_k=5)
    with pytest.raises(ValueError, match=r"^n_experts: .* at least 2 .*overlap is between experts.*, got 1$"):
        LayerSpec(n_experts=1, top_k=1)
    with pytest.raises(ValueError, match=r"^top_k: the soft router uses every expert, expected top_k = n_experts = 8, got 2$"):
        LayerSpec(router="soft")
    with pytest.raises(ValueError, match=r"^norm_affine: a gain and bias need a norm, got norm_affine = 'shared' with norm = 'none'$"):
        LayerSpec(norm_affine="shared")
    with pytest.raises(ValueError, match=r"^norm: layernorm needs d_ff >= 2 .*, got d_ff = 1$"):
        LayerSpec(norm="layernorm", d_ff=1)


def test_the_neighbours_of_a_contradiction_are_accepted():
    assert LayerSpec(n_experts=4, top_k=4, router="soft").router.kind == "soft"
    assert LayerSpec(norm="layernorm", d_ff=2, norm_affine="shared").norm_affine == "shared"
    assert LayerSpec(norm="rmsnorm", d_ff=1).d_ff == 1
    assert LayerSpec(n_experts=2, top_k=1).top_k == 1


@pytest.mark.parametrize("value", [3, None, {"kind": "linear"}, RouterSpec], ids=repr)
def test_router_and_inputs_take_a_name_or_a_spec(value):
    with pytest.raises(ValueError, match=r"^router: expected a kind's name or RouterSpec, got "):
        LayerSpec(router=value)
    with pytest.raises(ValueError, match=r"^inputs: expected a kind's name or InputSpec, got "):
        LayerSpec(inputs=value)
    with pytest.raises(ValueError, match=r"^space: expected a kind's name or SpaceSpec, got "):
        LayerSpec(space=value)


def test_names_become_specs():
    spec = LayerSpec(router="hash", inputs="sphere", norm=None)
    assert spec.router == RouterSpec(kind="hash")
    assert spec.inputs == InputSpec(kind="sphere")
    assert spec.norm == "none"
    assert spec == LayerSpec(router=RouterSpec("hash"), inputs=InputSpec("sphere"))


def test_paths_belong_to_files():
    with pytest.raises(ValueError, match=r"^inputs\.path: expected a \.npy or \.safetensors file for inputs = 'file', got ''$"):
        LayerSpec(inputs="file")
    with pytest.raises(ValueError, match=r"^inputs\.path: expected a \.npy or \.safetensors file .*, got 'x\.csv'$"):
        InputSpec(kind="file", path="x.csv")
    with pytest.raises(ValueError, match=r"^inputs\.path: given, but inputs = 'gaussian' reads no file"):
        InputSpec(path="x.npy")
    with pytest.raises(ValueError, match=r"^inputs\.path: given, but inputs = 'sphere' reads no file"):
        InputSpec(kind="sphere", tensor="h")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "cpu:0", "", "cpu\n", 0, None], ids=repr)
def test_bad_devices(device):
    with pytest.raises(ValueError, match=r"^device: expected 'cpu', 'cuda' or 'cuda:N', got "):
        RunSpec(device=device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:12"])
def test_good_devices(device):
    assert RunSpec(device=device).device == device


@pytest.mark.parametrize("memory", ["", "2 XB", "GiB", "-1GiB", "1e9", "1,5GB", "nan", None, True, 1.5, b"1"], ids=repr)
def test_bad_memory(memory):
    with pytest.raises(ValueError, match=r"^memory: expected bytes or a size such as '2GiB', got "):
        RunSpec(memory=memory)


@pytest.mark.parametrize("memory", [0, "0", "0GiB", "0.5", "0.5b", -1], ids=repr)
def test_less_than_a_byte(memory):
    with pytest.raises(ValueError, match=r"^memory: expected at least one byte, got "):
        RunSpec(memory=memory)


@pytest.mark.parametrize(
    ("spec", "name", "meant"),
    [
        (LayerSpec, "n_expert", "n_experts"),
        (LayerSpec, "hidden_size", "d_model"),
        (LayerSpec, "intermediate_size", "d_ff"),
        (LayerSpec, "num_experts", "n_experts"),
        (LayerSpec, "num_local_experts", "n_experts"),
        (LayerSpec, "num_experts_per_tok", "top_k"),
        (RouterSpec, "temprature", "temperature"),
        (InputSpec, "clusters", "n_clusters"),
        (RunSpec, "trial", "trials"),
    ],
)
def test_an_unknown_field_is_met_with_the_nearest(spec, name, meant):
    with pytest.raises(ValueError, match=f"^{spec.__name__} has no field '{name}'; did you mean '{meant}'\\?$"):
        spec(**{name: 8})


def test_field_names_are_the_documented_ones():
    assert field_names(RunSpec) == ("tokens", "trials", "seed", "device", "dtype", "memory")
    assert {"d_model", "d_ff", "n_experts", "top_k", "n_shared_experts", "activation", "gated", "norm", "init", "router", "inputs"} <= set(
        field_names(LayerSpec)
    )


def test_parameters_counts_every_matrix():
    assert LayerSpec(d_model=3, d_ff=5, n_experts=2, top_k=1).parameters == 2 * 2 * 15
    assert LayerSpec(d_model=3, d_ff=5, n_experts=2, top_k=1, n_shared_experts=4, gated=True).parameters == 6 * 3 * 15


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16, np.uint64])
def test_numpy_integers_are_whole_numbers(kind):
    spec = LayerSpec(d_model=kind(16), d_ff=kind(32), n_experts=kind(4), top_k=kind(2), n_shared_experts=kind(1))
    plain = LayerSpec(d_model=16, d_ff=32, n_experts=4, top_k=2, n_shared_experts=1)
    assert spec == plain
    assert spec.key() == plain.key()
    assert type(spec.d_model) is int
    run = RunSpec(tokens=kind(9), trials=kind(3), seed=kind(7))
    assert run.key() == RunSpec(tokens=9, trials=3, seed=7).key()


def test_numpy_floats_and_integers_are_numbers():
    assert (
        LayerSpec(router=RouterSpec(temperature=np.float64(2)), inputs=InputSpec(mean=1)).key()
        == LayerSpec(router=RouterSpec(temperature=2), inputs=InputSpec(mean=1.0)).key()
    )
    assert type(RouterSpec(temperature=np.float32(0.5)).temperature) is float


def test_specs_are_frozen():
    for spec, name in ((LayerSpec(), "d_model"), (RouterSpec(), "kind"), (InputSpec(), "kind"), (SpaceSpec(), "kind"), (RunSpec(), "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError, match=name):
            setattr(spec, name, 1)


@pytest.mark.parametrize(
    "name, build",
    [
        (r"inputs\.path", lambda: InputSpec(path=None)),
        (r"inputs\.path", lambda: InputSpec(kind="file", path=b"a.npy")),
        (r"inputs\.mean", lambda: InputSpec(mean=10**400)),
        (r"inputs\.mean", lambda: InputSpec(mean=np.array([1.0, 2.0]))),
        ("d_model", lambda: LayerSpec(d_model=np.array([1, 2]))),
        ("memory", lambda: RunSpec(memory="9" * 400)),
    ],
)
def test_values_of_a_wrong_type_name_their_field(name, build):
    with pytest.raises(ValueError, match=f"^{name}: "):
        build()

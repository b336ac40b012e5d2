"""Keys of specs: what they tell apart, and that they stay."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.specs import ACTIVATIONS, InputSpec, LayerSpec, RouterSpec, RunSpec, SpaceSpec, field_names

# Keys name records on disk, so they must outlive a process and a release. These two change only with the fields or their defaults; when
# they do, records written before are no longer found, and the changelog has to say so.
DEFAULT_LAYER_KEY = "188a43061aae3c47"
DEFAULT_RUN_KEY = "28cf66768e4fc6b3"
# Layers that were recorded before layers had a space, massive tokens and documents.
RECORDED = {
    "8f97511684aa2af5": LayerSpec(d_model=64, d_ff=256, n_experts=16, top_k=4, gated=True, norm="layernorm", norm_affine="shared"),
    "b9efed2e74aef3fe": LayerSpec(init="upcycled", init_correlation=0.5, router=RouterSpec("noisy", temperature=2.0)),
    "736d900bc776cf4f": LayerSpec(inputs=InputSpec("powerlaw", alpha=2.0, mean=0.5)),
    "d1cc1518f9e19767": LayerSpec(inputs=InputSpec("clusters", n_clusters=4), n_shared_experts=2, activation="relu"),
}


router_specs = st.builds(
    RouterSpec,
    kind=st.sampled_from(["linear", "noisy", "sigmoid", "uniform", "hash", "expert_choice"]),
    temperature=st.sampled_from([0.5, 1.0]),
    capacity=st.sampled_from([1.0, 2]),
)
input_specs = st.builds(InputSpec, kind=st.sampled_from(["gaussian", "sphere", "student"]), mean=st.sampled_from([0, 0.25]))
layer_specs = st.builds(
    LayerSpec,
    d_model=st.sampled_from([1, 64]),
    d_ff=st.sampled_from([2, 256]),
    n_experts=st.sampled_from([4, 8]),
    top_k=st.integers(1, 4),
    n_shared_experts=st.integers(0, 1),
    activation=st.sampled_from(ACTIVATIONS),
    gated=st.booleans(),
    norm=st.sampled_from(["none", "layernorm", "rmsnorm", None]),
    init=st.sampled_from(["kaiming_normal", "upcycled"]),
    router=router_specs,
    inputs=input_specs,
)


@settings(max_examples=60)
@given(layer_specs, layer_specs)
def test_keys_and_hashes_follow_equality(a, b):
    assert (a == b) == (a.key() == b.key())
    assert len({a, b}) == (1 if a == b else 2)
    twin = dataclasses.replace(a)
    assert twin == a
    assert hash(twin) == hash(a)
    assert twin.key() == a.key()
    assert len(a.key()) == 16
    assert set(a.key()) <= set("0123456789abcdef")


OTHER = {
    "d_model": 64, "d_ff": 256, "n_experts": 16, "top_k": 1, "n_shared_experts": 1, "activation": "relu", "gated": True, "norm": "rmsnorm",
    "norm_affine": "shared", "norm_affine_std": 0.2, "init": "orthogonal", "init_correlation": 0.5, "router": "hash", "inputs": "sphere",
    "space": "powerlaw",
}  # fmt: skip
OTHER_ROUTER = {"kind": "noisy", "temperature": 2.0, "noise": 0.5, "bias": 0.2, "capacity": 2.0}
OTHER_INPUTS = {
    "kind": "student", "alpha": 2.0, "n_clusters": 4, "separation": 0.1, "dof": 7.0, "mean": 1.0, "massive": 0.1, "massive_scale": 7.0,
    "document_tokens": 16, "document_correlation": 0.5,
}  # fmt: skip
OTHER_SPACE = {
    "kind": "lognormal", "scaled": "both", "alpha": 2.0, "spread": 0.5, "outliers": 3, "scale": 7.0, "rotated": True, "bias": 1.0,
}  # fmt: skip
INNER = {
    "router": (RouterSpec(), OTHER_ROUTER),
    "inputs": (InputSpec(document_tokens=4), OTHER_INPUTS),
    "space": (SpaceSpec("powerlaw"), OTHER_SPACE),
}
OTHER_RUN = {"tokens": 1, "trials": 1, "seed": 1, "device": "cuda", "dtype": "float64"}


def test_the_table_of_changes_misses_no_field():
    assert set(OTHER) == set(field_names(LayerSpec))
    assert set(OTHER_ROUTER) == set(field_names(RouterSpec))
    assert set(OTHER_INPUTS) == set(field_names(InputSpec)) - {"path", "tensor"}
    assert set(OTHER_SPACE) == set(field_names(SpaceSpec))
    assert set(OTHER_RUN) == set(field_names(RunSpec)) - {"memory"}


@given(st.data())
@settings(max_examples=60)
def test_one_other_field_is_another_key(data):
    base = LayerSpec(norm="layernorm")
    name = data.draw(st.sampled_from(sorted(OTHER)))
    changed = dataclasses.replace(base, **{name: OTHER[name]})
    assert changed != base
    assert changed.key() != base.key()
    inner = data.draw(st.sampled_from(sorted(INNER)))
    start, other = INNER[inner]
    name = data.draw(st.sampled_from(sorted(other)))
    base = dataclasses.replace(base, **{inner: start})
    deeper = dataclasses.replace(base, **{inner: dataclasses.replace(start, **{name: other[name]})})
    assert deeper != base
    assert deeper.key() != base.key()


def test_every_single_change_gives_its_own_key():
    base = LayerSpec(norm="layernorm")
    specs = [base, *(dataclasses.replace(base, **{name: value}) for name, value in OTHER.items())]
    for inner, (start, other) in INNER.items():
        specs += [dataclasses.replace(base, **{inner: dataclasses.replace(start, **{n: v})}) for n, v in other.items()]
    assert len({spec.key() for spec in specs}) == len(specs)
    runs = [RunSpec(), *(RunSpec(**{name: value}) for name, value in OTHER_RUN.items())]
    assert len({run.key() for run in runs}) == len(runs)


def test_layers_keep_the_keys_that_they_had():
    assert [spec.key() for spec in RECORDED.values()] == list(RECORDED)


def test_memory_is_in_no_key():
    assert RunSpec(memory="1GiB").key() == RunSpec(memory=12345).key() == RunSpec().key()
    assert RunSpec(memory="1GiB") != RunSpec(memory="3GiB")


def test_keys_are_the_same_in_every_process():
    assert LayerSpec().key() == DEFAULT_LAYER_KEY
    assert RunSpec().key() == DEFAULT_RUN_KEY
    program = "from simgap.specs import LayerSpec, RunSpec; print(LayerSpec().key(), RunSpec().key(), 'torch' in __import__('sys').modules)"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=60)
    assert told.stdout.split() == [DEFAULT_LAYER_KEY, DEFAULT_RUN_KEY, "False"]


def test_a_zero_of_either_sign_is_one_key():
    minus, plus = LayerSpec(inputs=InputSpec(mean=-0.0)), LayerSpec(inputs=InputSpec(mean=0.0))
    assert minus == plus
    assert minus.key() == plus.key()


def test_a_file_enters_the_key_by_its_content(tmp_path):
    a, b, other = (tmp_path / name for name in ("a.npy", "b.npy", "other.npy"))
    np.save(a, np.eye(4))
    shutil.copy(a, b)
    np.save(other, 2 * np.eye(4))
    specs = [LayerSpec(d_model=4, inputs=InputSpec(kind="file", path=str(path))) for path in (a, b, other)]
    assert specs[0] != specs[1]
    assert specs[0].key() == specs[1].key()
    assert specs[2].key() != specs[0].key()
    assert len(specs[0].inputs.file_hash()) == 64
    before = specs[1].key()
    np.save(b, 3 * np.eye(4))
    assert specs[1].key() != before
    assert InputSpec(kind="file", path=a) == InputSpec(kind="file", path=str(a))
    assert InputSpec().file_hash() == ""


@pytest.mark.parametrize("settled", [False, True])
def test_a_file_that_changes_while_its_content_is_hashed(tmp_path, monkeypatch, settled):
    """Its key would be of neither content, or of one that the file had no more."""
    path, digest = tmp_path / "x.npy", hashlib.file_digest
    np.save(path, np.eye(4))
    if settled:
        os.utime(path, (1, 1))

    def meddled(file, name):
        found = digest(file, name)
        np.save(path, np.eye(5))
        return found

    monkeypatch.setattr(hashlib, "file_digest", meddled)
    with pytest.raises(ValueError, match=r"^inputs\.path: '.*x\.npy' changed while it was read$"):
        InputSpec(kind="file", path=path).file_hash()


def test_a_path_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert InputSpec(kind="file", path="~/x.npy").path == str(tmp_path / "x.npy")


def test_a_file_that_is_not_there(tmp_path):
    spec = InputSpec(kind="file", path=tmp_path / "none.npy")
    with pytest.raises(ValueError, match=r"^inputs\.path: cannot read '.*none\.npy': No such file or directory$"):
        spec.file_hash()

"""Rectified vectors are refused by name; others are not."""

import math

import numpy as np
import pytest

import simgap as sg

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((200, 2, 128))
ROUTING = np.argsort(RNG.random((200, 6)), 1)[:, :2]
ERF = np.vectorize(math.erf)

RECTIFIED = {
    "relu": np.maximum(Z, 0),
    "squared relu": np.maximum(Z, 0) ** 2,
    "sparse relu": np.maximum(Z - 2, 0),
    "silu": Z / (1 + np.exp(-Z)),
    "gelu": Z * (1 + ERF(Z / math.sqrt(2))) / 2,
    "minus relu": -np.maximum(Z, 0),
    "relu, far from one": np.maximum(Z, 0) * 1e200,
    "relu, a rare odd entry": np.where(RNG.random(Z.shape) < 0.002, -1, np.maximum(Z, 0)),
}
OTHERS = {
    "outputs": Z,
    "swiglu": Z / (1 + np.exp(-Z)) * RNG.standard_normal(Z.shape),
    "outlier coordinates": Z * np.where(np.arange(128) < 2, 100, 1),
    "one large positive coordinate": Z + np.where(np.arange(128) == 3, 50, 0),
    "heavy tails": RNG.standard_t(3, Z.shape),
    "frozen": RNG.standard_normal((6, 128))[ROUTING] + 0 * Z,
    "a common bias": Z + RNG.standard_normal(128),
    "mostly zeros": np.where(RNG.random(Z.shape) < 0.99, 0, Z),
    "a few entries": np.abs(Z[..., :8]),
}


@pytest.mark.parametrize("name", RECTIFIED)
def test_rectified_vectors_are_refused(name):
    with pytest.raises(ValueError, match=r"vectors: expected vectors whose signs could be either, got rectified ones.*kind=\"normed\""):
        sg.token_mso(RECTIFIED[name])
    with pytest.raises(ValueError, match="vectors: expected vectors whose signs could be either"):
        sg.mean_mso(RECTIFIED[name], ROUTING)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_not(name):
    assert sg.token_mso(OTHERS[name], routing=ROUTING).pairs <= 200
    assert sg.mean_mso(OTHERS[name], ROUTING).pairs <= 15


def test_after_a_layernorm_they_pass():
    hidden = np.maximum(Z, 0)
    hidden -= hidden.mean(-1, keepdims=True)
    hidden /= hidden.std(-1, keepdims=True)
    assert sg.token_mso(hidden, kind="normed").p > 1e-3
    assert sg.mean_mso(hidden, ROUTING, kind="normed").p > 1e-3


def test_weights_of_one_sign_are_refused():
    with pytest.raises(ValueError, match="weights: expected vectors whose signs could be either"):
        sg.weight_mso(np.abs(Z[:8].reshape(8, -1)))
    assert sg.weight_mso(Z[:8].reshape(8, -1)).pairs == 28


def test_what_is_padding_is_not_looked_at():
    kept = np.arange(200) < 100
    vectors = np.where(kept[:, None, None], Z, np.abs(Z))
    assert sg.token_mso(vectors, mask=kept).pairs == 100
    with pytest.raises(ValueError, match="rectified"):
        sg.token_mso(vectors, mask=~kept)


def test_one_column_of_a_matrix_that_leans_to_one_side_is_no_rectifier():
    """Flattened, it comes once in each row, and a step of a row's length would see nothing else; all columns are still refused."""
    weights = np.random.default_rng(3).standard_normal((4, 512, 512))
    weights[:, :, 0] += 6
    assert sg.weight_mso(weights).p < 1e-3
    with pytest.raises(ValueError, match="got rectified ones"):
        sg.weight_mso(np.abs(weights))

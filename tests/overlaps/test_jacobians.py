"""Inner products of Jacobians against automatic differentiation of each expert."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simgap.overlaps import jacobians as subject
from simgap.sources import ExpertMaps

ACTIVATIONS = {
    "identity": lambda x: 1 * x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "erf": torch.erf,
}
EPS = {"none": 0.0, "layernorm": 1e-5, "rmsnorm": 1e-6}
D, F_, M = 12, 20, 9


def expert(rng, name, gated, norm, dtype=torch.float64):
    """An expert, and the function that it is, written out."""
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(dtype)  # noqa: E731
    gate, up, down, gain, bias = draw(F_, D), draw(F_, D), draw(D, F_), 1 + 0.3 * draw(F_), draw(F_)
    act = ACTIVATIONS[name]

    def function(x):
        hidden = act(gate @ x) * (up @ x) if gated else act(up @ x)
        if norm == "layernorm":
            hidden = F.layer_norm(hidden, (F_,), gain, bias, EPS[norm])
        elif norm == "rmsnorm":
            hidden = hidden / torch.sqrt((hidden**2).mean() + EPS[norm]) * gain + bias
        return down @ hidden

    outer = down.mT if norm == "none" else down.mT * gain[:, None]
    return ExpertMaps((gate, up) if gated else (up,), outer, act, norm, EPS[norm]), function


def both(name, gated, norm):
    rng = np.random.default_rng(D)
    x = torch.from_numpy(rng.standard_normal((M, D)))
    experts, functions = zip(*(expert(rng, name, gated, norm) for _ in range(2)), strict=True)
    true = [torch.func.vmap(torch.func.jacrev(function))(x) for function in functions]
    return x, experts, true


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_against_automatic_differentiation(name, gated, norm):
    x, experts, true = both(name, gated, norm)
    at = [subject.slopes(each, x) for each in experts]
    sizes = [matrix.flatten(1).norm(dim=1) for matrix in true]
    products = subject.inner_products(*experts, *at)
    assert ((products - (true[0] * true[1]).sum((1, 2))).abs() / (sizes[0] * sizes[1])).max() < 1e-10
    own = subject.inner_products(experts[0], experts[0], at[0], at[0])
    assert torch.allclose(own.sqrt(), sizes[0], rtol=1e-10)
    assert (subject.jacobians(experts[1], at[1]) - true[1]).abs().max() < 1e-10 * sizes[1].max()
    gates = torch.rand(M, dtype=torch.float64)
    mean = experts[0].outer.mT @ subject.mean_parts(experts[0], at[0], gates)
    expected = (gates[:, None, None] * true[0]).sum(0)
    assert (mean - expected).norm() < 1e-10 * expected.norm()
    some = torch.tensor([5, 0])
    assert torch.allclose(subject.inner_products(*experts, *(each.of(some) for each in at)), products[some], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_a_norm_that_is_taken_for_none_is_seen(norm):
    """The control: without what the norm takes out the same comparison fails by far."""
    x, experts, true = both("silu", True, norm)
    plain = [dataclasses.replace(each, norm="none") for each in experts]
    at = [subject.slopes(each, x) for each in plain]
    cos = [(true[0] * true[1]).sum((1, 2)) / (true[0].flatten(1).norm(dim=1) * true[1].flatten(1).norm(dim=1))]
    own = [subject.inner_products(one, one, its, its) for one, its in zip(plain, at, strict=True)]
    assert (subject.inner_products(*plain, *at) / (own[0] * own[1]).sqrt() - cos[0]).abs().max() > 1e-3


def test_more_rows_than_are_made_at_a_time(monkeypatch):
    x, experts, true = both("gelu", True, "layernorm")
    monkeypatch.setattr(subject, "ROWS", 7)
    at = [subject.slopes(each, x) for each in experts]
    assert torch.allclose(subject.inner_products(*experts, *at), (true[0] * true[1]).sum((1, 2)), rtol=1e-9)


@pytest.mark.parametrize("large", [64, 4])
def test_singular_values_with_and_without_the_product(large):
    rng = np.random.default_rng(1)
    outer, part = (torch.from_numpy(rng.standard_normal((F_, D))) for _ in range(2))
    values, square = subject.singular_values(outer, part, 5, large)
    true = np.linalg.svd((outer.mT @ part).numpy(), compute_uv=False)
    assert len(values) == (D if large == 64 else 5)
    np.testing.assert_allclose(values, true[: len(values)], rtol=1e-10)
    assert square == pytest.approx((true**2).sum(), rel=1e-12)


def test_the_cheaper_form_by_its_multiplications():
    # Every pair of 8 experts on 1,024 tokens; 64 experts of which a token meets 8.
    assert subject.cheapest(28, 8, 28 * 1024, 8 * 1024, 2048, 512) == "pairs"
    assert subject.cheapest(2016, 64, 28 * 1024, 8 * 1024, 2048, 512) == "tokens"
    assert subject.cheapest(2016, 64, 28 * 65536, 8 * 65536, 2048, 512) == "pairs"

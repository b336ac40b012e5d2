"""The one forward of experts, recorded by autograd: the same bits, and the gradients of the formula written out."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import simgap as sg
from simgap.moe import draw_weights, draws_of
from simgap.moe import experts as subject
from simgap.moe import weights as layout
from simgap.moe.dispatch import everywhere

S, N = 2, 5
SITES = ("pre", "hidden", "normed", "output")
FORMULAS = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "erf": torch.erf,
}


def leaky_square(z):
    return torch.where(z > 0, z * z, 0.1 * z)


def layer(monkeypatch, **fields):
    """Sizes at which a product is summed in stretches, hidden units in blocks and experts in tasks."""
    monkeypatch.setattr(layout, "HIDDEN_BLOCK", 16)
    spec = sg.LayerSpec(**{"d_model": 300, "d_ff": 40, "n_experts": 3, "top_k": 2} | fields)
    draws = draws_of(spec, 1, range(S))
    x = torch.randn(S, N, spec.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return spec, draws, draw_weights(draws, "float64"), x


def run(draws, weights, x, spec):
    tokens = everywhere(torch.zeros(len(x), N, 1, dtype=torch.int64), spec.n_experts).tokens
    sites = SITES if spec.norm != "none" else ("pre", "hidden", "output")
    found = subject.run_experts(draws, weights, slice(0, spec.n_experts), x, tokens, sites)
    return {site: value[:, :, :N] for site, value in found.items()}


def written_out(spec, weights, x, function):
    def up(matrix):
        return torch.einsum("snd,sefd->senf", x, matrix)

    pre = up(weights.up if weights.gate is None else weights.gate)
    hidden = function(pre) if weights.gate is None else function(pre) * up(weights.up)
    if spec.norm == "layernorm":
        hidden = F.layer_norm(hidden, (spec.d_ff,), eps=subject.NORM_EPS["layernorm"])
    elif spec.norm == "rmsnorm":
        hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + subject.NORM_EPS["rmsnorm"])
    if weights.gain is not None:
        hidden = hidden * weights.gain[:, :, None] + weights.bias[:, :, None]
    return torch.einsum("senf,sedf->send", hidden, weights.down)


def asking(weights, x):
    names = [f.name for f in dataclasses.fields(weights) if isinstance(getattr(weights, f.name), torch.Tensor) and f.name != "router"]
    leaves = {name: getattr(weights, name).detach().clone().requires_grad_() for name in names}
    return dataclasses.replace(weights, **leaves), x.clone().requires_grad_(), leaves


CASES = [
    *({"activation": name} for name in FORMULAS),
    {"gated": True, "norm": "rmsnorm", "norm_affine": "per_expert"},
    {"norm": "layernorm", "norm_affine": "shared"},
]


@pytest.mark.parametrize("fields", CASES, ids=str)
@pytest.mark.parametrize("tasks", [False, True])
def test_gradients_are_those_of_the_formula_and_bits_those_without(monkeypatch, fields, tasks):
    spec, draws, weights, x = layer(monkeypatch, **fields)
    if tasks:
        monkeypatch.setattr(subject, "experts_at_once", lambda *_: 2)
    plain = run(draws, weights, x, spec)
    asked, given, leaves = asking(weights, x)
    found = run(draws, asked, given, spec)
    for site, value in plain.items():
        assert torch.equal(found[site].detach(), value), site
        assert not value.requires_grad
    direction = torch.randn(found["output"].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mine = torch.autograd.grad((found["output"] * direction).sum(), [given, *leaves.values()])
    function = FORMULAS[spec.activation]
    theirs = torch.autograd.grad((written_out(spec, asked, given, function) * direction).sum(), [given, *leaves.values()])
    for name, one, other in zip(["x", *leaves], mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12 * float(other.abs().max())), name
        assert float(other.abs().max()) > 0


def test_an_activation_of_ones_own_is_differentiable(monkeypatch):
    name = sg.activation("leaky_square", leaky_square)
    spec, draws, weights, x = layer(monkeypatch, activation=name)
    asked, given, leaves = asking(weights, x)
    found = run(draws, asked, given, spec)["output"]
    assert torch.equal(found.detach(), run(draws, weights, x, spec)["output"])
    mine = torch.autograd.grad(found.square().sum(), list(leaves.values()))
    theirs = torch.autograd.grad(written_out(spec, asked, given, leaky_square).square().sum(), list(leaves.values()))
    assert all(torch.allclose(one, other, rtol=1e-10) for one, other in zip(mine, theirs, strict=True))

"""Inner products of experts' Jacobians dE(x)/dx on many tokens, without a Jacobian.

A plain expert has J = B' D W: W = W_up (f, d), D = diag(act'(W x)), B = W_down' (f, d), a row to a hidden unit. For two of them

    <J_i, J_j> = sum_ab D_i[a] (B_i B_j')[a,b] (W_i W_j')[a,b] D_j[b],

one matrix to a pair of experts and one bilinear form to a token. A gated expert, act(W_gate x) * (W_up x), has two such terms: slopes
act'(W_gate x) * (W_up x) on W_gate and act(W_gate x) on W_up. A norm behind it, with n its unscaled result and sigma its scale, has the
Jacobian (1/sigma) (I - 1 1'/f - n n'/f), without 1 1'/f for RMSNorm; its gain belongs to B. So J is 1/sigma times the above less a b' for
each direction c of 1 and n, where a = B' c / f and b = sum_r W_r' D_r c.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.batch_invariant import matmul
from simgap.sources import ExpertMaps

# Rows of a pair's matrix that are made at a time, and tokens whose slopes are.
ROWS, TOKENS = 2048, 1024


@dataclass(frozen=True)
class Slopes:
    """What is its own of each of m tokens in an expert's Jacobians: factors, of the rows of each inner matrix; directions c that a norm
    takes out, with a and b of each (None where it is 1: then it is the same on all tokens); scale, 1/sigma."""

    factors: tuple[Float[Tensor, "m f"], ...]
    directions: tuple[Float[Tensor, "m f"], ...]
    left: tuple[Float[Tensor, "m d"], ...]
    right: tuple[Float[Tensor, "m d"], ...]
    scale: Float[Tensor, " m"]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.factors, *self.directions, *self.left, *self.right, self.scale)

    def as_long_as(self, tokens: int) -> "Slopes":
        """Memory for so many tokens."""
        factors, directions, left, right = (
            tuple(part.new_empty(tokens, part.shape[1]) for part in parts)
            for parts in (self.factors, self.directions, self.left, self.right)
        )
        return Slopes(factors, directions, left, right, self.scale.new_empty(tokens))

    def of(self, tokens: Tensor | slice) -> "Slopes":
        """Of some of the tokens."""
        factors, directions, left, right = (
            tuple(part[tokens] for part in parts) for parts in (self.factors, self.directions, self.left, self.right)
        )
        return Slopes(factors, directions, left, right, self.scale[tokens])


def slopes(expert: ExpertMaps, x: Float[Tensor, "m d"]) -> Slopes:
    """What the Jacobians at m tokens are made of. O(m f d), in little more memory than the result."""
    first = _slopes(expert, x[:TOKENS])
    if len(x) <= TOKENS:
        return first
    whole = first.as_long_as(len(x))
    for start in range(0, len(x), TOKENS):
        part = first if not start else _slopes(expert, x[start : start + TOKENS])
        for held, values in zip(whole.tensors, part.tensors, strict=True):
            held[start : start + TOKENS] = values
    return whole


def _slopes(expert: ExpertMaps, x: Float[Tensor, "m d"]) -> Slopes:
    read = [_product(x, matrix) for matrix in expert.inner]
    values, slope = _with_slope(expert.act, read[0])
    factors = (slope,) if len(read) == 1 else (slope * read[1], values)
    if expert.norm == "none":
        return Slopes(factors, (), (), (), x.new_ones(len(x)))
    hidden = values if len(read) == 1 else values * read[1]
    directions = []
    if expert.norm == "layernorm":
        hidden = hidden - hidden.mean(-1, keepdim=True)
        directions.append(torch.ones_like(hidden))
    scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + expert.eps)
    directions.append(hidden * scale)
    width = hidden.shape[-1]
    left = tuple(_product(c, expert.outer.mT) / width for c in directions)
    right = tuple(_sum(_product(c * each, matrix.mT) for each, matrix in zip(factors, expert.inner, strict=True)) for c in directions)
    return Slopes(factors, tuple(directions), left, right, scale[:, 0])


def inner_products(one: ExpertMaps, other: ExpertMaps, at_one: Slopes, at_other: Slopes) -> Float[Tensor, " m"]:
    """<J_one, J_other> on each of the same m tokens, in float64. O(r^2 f^2 (d + m)), r = 1 or 2 inner matrices."""
    total = torch.zeros_like(at_one.scale, dtype=torch.float64)
    pieces = [slice(start, start + TOKENS) for start in range(0, len(total), TOKENS)]
    for start in range(0, len(one.outer), ROWS):
        rows = slice(start, start + ROWS)
        outer = _product(one.outer[rows], other.outer)
        for (left, at_left), (right, at_right) in product(*(_terms(*each) for each in ((one, at_one), (other, at_other)))):
            table = _product(left[rows], right).mul_(outer).mT
            for piece in pieces:
                total[piece] += (_product(at_left[piece, rows], table).mul_(at_right[piece])).sum(-1, dtype=torch.float64)
    if at_one.directions or at_other.directions:
        for piece in pieces:
            total[piece] += _taken_out(one, other, at_one.of(piece), at_other.of(piece))
    return total * at_one.scale.double() * at_other.scale.double()


def _taken_out(one: ExpertMaps, other: ExpertMaps, at_one: Slopes, at_other: Slopes) -> Float[Tensor, " m"]:
    """What the directions of norms change of it."""
    total = torch.zeros_like(at_one.scale, dtype=torch.float64)
    for expert, own, beside in ((one, at_one, at_other), (other, at_other, at_one)):
        for a, b in zip(beside.left, beside.right, strict=True):
            total -= _form(expert, own, a, b)
    for (a, b), (c, d) in product(*(zip(at.left, at.right, strict=True) for at in (at_one, at_other))):
        total += (a * c).sum(-1, dtype=torch.float64) * (b * d).sum(-1, dtype=torch.float64)
    return total


def jacobians(expert: ExpertMaps, at: Slopes) -> Float[Tensor, "m d d"]:
    """The Jacobians themselves, rows outputs and columns inputs: of few tokens, for which a pair's matrix costs more. O(m r f d^2)."""
    total = sum(matmul(expert.outer.mT * each[:, None, :], matrix.expand(len(each), -1, -1)) for matrix, each in _terms(expert, at))
    for a, b in zip(at.left, at.right, strict=True):
        total = total - a[:, :, None] * b[:, None, :]
    return total * at.scale[:, None, None]


def mean_parts(expert: ExpertMaps, at: Slopes, gates: Float[Tensor, " m"]) -> Float[Tensor, "f d"]:
    """The sum over tokens of gate times (the part of J right of B'): a matrix A with sum of gates J = B' A, which adds up over tokens."""
    weight = (gates * at.scale)[:, None]
    total = _sum((weight * each).sum(0, dtype=torch.float64).to(matrix)[:, None] * matrix for matrix, each in _terms(expert, at))
    for c, b in zip(at.directions, at.right, strict=True):
        total = total - _product((c * weight).mT, b.mT) / c.shape[-1]
    return total


def _terms(expert: ExpertMaps, at: Slopes) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(expert.inner, at.factors, strict=True)


def _form(expert: ExpertMaps, at: Slopes, a: Float[Tensor, "m d"], b: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """a' (B' D W) b on each token, before a norm."""
    outer = _product(a, expert.outer)
    return _sum((outer * each * _product(b, matrix)).sum(-1, dtype=torch.float64) for matrix, each in _terms(expert, at))


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)


def _product(left: Float[Tensor, "m q"], right: Float[Tensor, "p q"]) -> Float[Tensor, "m p"]:
    """left right', with bits that hang on nothing beside."""
    return matmul(left[None], right.mT[None])[0]


def _with_slope(act: Callable[[Tensor], Tensor], z: Float[Tensor, "m f"]) -> tuple[Float[Tensor, "m f"], Float[Tensor, "m f"]]:
    """act(z) and act'(z), the latter by autograd, since a user's own activation says no slope."""
    flat = z.detach().reshape(-1).clone().requires_grad_()
    with torch.enable_grad():
        values = act(flat)
        (slope,) = torch.autograd.grad(values.sum(), flat)
    return values.detach().view_as(z), slope.view_as(z)


def singular_values(
    outer: Float[Tensor, "f d"], part: Float[Tensor, "f d"], most: int, large: int
) -> tuple[Float[np.ndarray, " r"], float]:
    """Singular values of outer' part, descending, in float64: all of them up to d = `large`, beyond the `most` largest, for which the
    product is never formed; and the sum of the squares of all."""
    d = outer.shape[1]
    if d <= large:
        values = torch.linalg.svdvals(_product(outer.mT, part.mT).double()).cpu().numpy()
        return values, float((values**2).sum())
    from scipy.sparse.linalg import LinearOperator, svds

    def times(left: Tensor, right: Tensor) -> Callable[[np.ndarray], np.ndarray]:
        """v -> left' right v."""
        return lambda v: (left.mT @ (right @ torch.from_numpy(v).to(right).view(-1))).double().cpu().numpy()

    # Begun at a vector that is the same each time.
    operator = LinearOperator((d, d), matvec=times(outer, part), rmatvec=times(part, outer), dtype=np.float64)
    values = svds(operator, most, v0=np.cos(np.arange(d)), return_singular_vectors=False)
    squares = (_product(outer.mT, part[:, start : start + ROWS].mT).square().sum(dtype=torch.float64) for start in range(0, d, ROWS))
    return np.sort(values)[::-1], float(sum(squares))


def cheapest(pairs: int, own: int, meetings: int, rows: int, f: int, d: int, matrices: int = 1) -> str:
    """ "pairs" or "tokens": whether a matrix to each pair of experts costs less than a Jacobian to each of an expert's tokens, by their
    multiplications. pairs: of experts that meet; own: experts; meetings: of two experts on a token; rows: tokens of all experts."""
    by_pairs = (pairs + own) * (1 + matrices**2) * f * f * d + (meetings + rows) * (matrices * f) ** 2
    by_tokens = rows * matrices * f * d * d + (meetings + rows) * d * d
    return "pairs" if by_pairs <= by_tokens else "tokens"

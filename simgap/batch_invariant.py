"""Batch-invariant arithmetic: the bits of a number do not depend on what is computed beside it.

A library picks the order of a sum by the shape and the place in memory of what it is given: by the number of rows of a product, by how many
bytes a row begins after a multiple of 16 or 64 (MKL, unless its CBWR mode is set, which is the user's), by whether a number falls to a
vector instruction or to the scalar loop after it. How many rows there are, and where each lies, depends on the trials, the tokens and the
memory budget beside. So everything that is not exactly rounded goes through here, in shapes and places that depend on nothing else:

- rows, terms and columns of a product come in multiples of ALIGNED, with zeros, which no sum sees, and every row of every factor begins
  at a multiple of 64 bytes;
- a product adds up at most CONTRACTION terms; longer sums are sums of products, in order;
- decompositions take one matrix a call;
- functions of one number work on whole vectors.

What IEEE 754 rounds exactly (+, -, *, /, sqrt) needs none of this, nor do reductions over the last axis, which torch does row by row.
The tests put rows of all shapes at many places, on every instruction set that the machine can be told to use.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Rows, terms and columns of a product come in multiples of this. A product of a few rows rounds otherwise than one of many; so does a row
# that begins elsewhere than at a whole vector register, none of which is wider than 64 bytes, or 16 numbers of float32.
ALIGNED = 16
BYTES = 64
# Terms that one product adds up. Beyond, a library sums a product of few rows in another order than one of many (MKL, from 768 terms in
# float32 and 384 in float64).
CONTRACTION = {torch.float32: 512, torch.float64: 256}
# Numbers that a function takes at a time, a multiple of every vector register and of the loops unrolled over them.
VECTOR = 64


def rounded_up(n: int) -> int:
    """The smallest multiple of ALIGNED that is at least n, and not 0."""
    return max(1, -(-n // ALIGNED)) * ALIGNED


def matmul(left: Float[Tensor, "*b m k"], right: Float[Tensor, "*b k n"]) -> Float[Tensor, "*b m n"]:
    """left right, for every matrix of a batch."""
    flat = [matrix.reshape(-1, *matrix.shape[-2:]) for matrix in (left, right)]
    return sum_of_products(flat[0], [flat[1]]).view(*left.shape[:-1], right.shape[-1])


def sum_of_products(
    rows: Float[Tensor, "b m k"], weights: Iterable[Tensor], transposed: bool = False, out: Tensor | None = None
) -> Float[Tensor, "b m n"]:
    """rows W, or rows W' where `transposed`, of a W that comes in blocks of its terms: the sum of their products, in their order.

    weights: blocks (b, k', n), or (b, n, k') where `transposed`, whose terms k' come to k together; each is done with when the next is
    asked for. out: memory for the result, which is filled and returned; else the result may be a view with rows further apart than they are
    wide. What lies aligned is read where it lies, all else is copied with zeros around it. What autograd records is not done in place, and
    `out` is then let be. Raises ValueError for no blocks, or none of at least one term.
    """
    total, columns, read, most = None, 0, 0, CONTRACTION[rows.dtype]
    for weight in weights:
        columns, terms = (weight.shape[1], weight.shape[2]) if transposed else (weight.shape[2], weight.shape[1])
        for start in range(0, terms, most):
            stop = min(start + most, terms)
            left = aligned(rows[..., read + start : read + stop])
            right = aligned(weight[..., start:stop]).mT if transposed else aligned(weight[:, start:stop])
            if total is not None:
                total = torch.baddbmm(total, left, right) if recorded(total, left, right) else total.baddbmm_(left, right)
            elif out is not None and _is_aligned(out) and out.is_contiguous() and not recorded(left, right):
                total = torch.bmm(left, right, out=out)
            else:
                total = torch.bmm(left, right)
        read += terms
    if total is None:
        raise ValueError("weights: expected at least one block, of at least one term")
    product = total[:, : rows.shape[1], :columns]
    return product if out is None or total is out or recorded(product) else out.copy_(product)


def recorded(*tensors: Tensor) -> bool:
    """Whether autograd takes note of what is done with these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def aligned(matrix: Float[Tensor, "b p q"]) -> Float[Tensor, "b P Q"]:
    """The matrix with zeros after its rows and columns, up to multiples of ALIGNED, in memory of which every row begins at a multiple of 64
    bytes: itself where it is so."""
    if _is_aligned(matrix):
        return matrix
    b, p, q = matrix.shape
    padded = matrix.new_zeros(b, rounded_up(p), rounded_up(q))
    padded[:, :p, :q] = matrix
    return padded


def _is_aligned(matrix: Tensor) -> bool:
    b, p, q = matrix.shape
    along, down, across = matrix.stride()
    whole = p and q and not (p % ALIGNED or q % ALIGNED)
    apart = across == 1 and down >= q and not down % ALIGNED and (b == 1 or not along % ALIGNED)
    return bool(whole and apart and not matrix.data_ptr() % BYTES)


def apply(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """function(values), number by number, in the place of contiguous values unless autograd records them; the function may work in place
    or not."""
    flat = values.view(-1)
    whole = len(flat) // VECTOR * VECTOR
    parts = (flat[:whole], 0), (flat[whole:], VECTOR - len(flat) + whole)
    if recorded(values):
        applied = [function(F.pad(part, (0, padding)).clone())[: len(part)] for part, padding in parts if len(part)]
        return torch.cat(applied).view_as(values)
    for part, padding in parts:
        if len(part):
            # The last few are padded: vector instructions would leave them to scalar ones.
            result = function(F.pad(part, (0, padding)) if padding else part)
            if result.data_ptr() != part.data_ptr():
                part.copy_(result[: len(part)])
    return values


def one_by_one(function: Callable[[Tensor], tuple[Tensor, ...]], matrices: Float[Tensor, "*b p q"]) -> list[Tensor]:
    """The results of a decomposition, each for all matrices, one matrix a call: in a batch of odd sizes each begins elsewhere in a
    vector register."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    results = zip(*(function(matrix.clone()) for matrix in flat), strict=True)
    return [torch.stack(parts).view(*matrices.shape[:-2], *parts[0].shape) for parts in results]

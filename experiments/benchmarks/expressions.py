"""The same numbers as others would write them: torch, eager and compiled, numpy, and a plain loop in numba."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from simgap.kernels.compiled import kernel
from simgap.threads import pool

Expression = Callable[[Tensor], Tensor]
# Numbers that one task of the numba loop reads, and that are laid out in float64 at a time.
AT_ONCE, IN_DOUBLE = 1 << 22, 1 << 20


def normalise_bmm(h: Float[Tensor, "n k width"]) -> Float[Tensor, " n"]:
    """Mean squared cosine over the pairs of each token: normalise, then one product. float32."""
    unit = F.normalize(h, dim=-1)
    return _over_pairs(torch.bmm(unit, unit.mT).square())


def gram_bmm(h: Float[Tensor, "n k width"]) -> Float[Tensor, " n"]:
    """The product first, then a division by its diagonal: no second array. float32."""
    return _over_pairs(_cos2(torch.bmm(h, h.mT)))


def pairwise(h: Float[Tensor, "n k width"]) -> Float[Tensor, " n"]:
    """A sum for every pair, in float32, for a compiler to fuse."""
    return _pairwise(list(h.unbind(1)))


def pairwise_double(h: Float[Tensor, "n k width"]) -> Float[Tensor, " n"]:
    """`pairwise` summed in float64."""
    return _pairwise([v.double() for v in h.unbind(1)])


def broadcast(h: Float[Tensor, "n k width"]) -> Float[Tensor, " n"]:
    """All k^2 products in one expression, in float32. Only for a compiler: eager, it lays them out."""
    return _over_pairs(_cos2((h[:, :, None] * h[:, None]).sum(-1)))


COMPILED: dict[str, Expression] = {f.__name__: f for f in (pairwise, pairwise_double, broadcast, normalise_bmm, gram_bmm)}


def compiled(h: Float[Tensor, "n k width"]) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    """Every expression of COMPILED compiled for this very shape, and why the others could not be."""
    functions: dict[str, Callable[[], Tensor]] = {}
    missing: dict[str, str] = {}
    # A function is compiled for so many shapes only, and then runs eagerly.
    torch.compiler.reset()
    for name, expression in COMPILED.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function = torch.compile(expression, dynamic=False)
                function(h)
        except Exception as error:  # whatever a compiler's absence raises
            missing[name] = " ".join(str(error).split())[:200]
        else:
            functions[name] = lambda function=function: function(h)  # type: ignore[misc]
    return functions, missing


def numpy_matmul(h: Float[np.ndarray, "n k width"]) -> Float[np.ndarray, " n"]:
    return _over_pairs_numpy(np.matmul(h, h.transpose(0, 2, 1)))


def numpy_einsum(h: Float[np.ndarray, "n k width"]) -> Float[np.ndarray, " n"]:
    return _over_pairs_numpy(np.einsum("nik,njk->nij", h, h))


def numba_loop(h: Float[np.ndarray, "n k width"]) -> Float[np.ndarray, " n"]:
    """Pair by pair in float64, tokens shared among all threads."""
    cos2 = np.empty(len(h))
    step = max(1, AT_ONCE // (h.shape[1] * h.shape[2]))
    with pool() as (task_map, _):
        list(task_map(lambda start: _loop(h[start : start + step], cos2[start : start + step]), range(0, len(h), step)))
    return cos2


def gram_double(vectors: Float[Tensor, "E N"]) -> Float[Tensor, "E E"]:
    """Inner products in float64, a stretch of columns converted at a time."""
    experts, size = vectors.shape
    total = torch.zeros(experts, experts, dtype=torch.float64, device=vectors.device)
    part = torch.empty(experts, IN_DOUBLE // experts, dtype=torch.float64, device=vectors.device)
    for start in range(0, size, part.shape[1]):
        columns = vectors[:, start : start + part.shape[1]]
        converted = part[:, : columns.shape[1]].copy_(columns)
        total.addmm_(converted, converted.T)
    return total


def gram_single(vectors: Float[Tensor, "E N"]) -> Float[Tensor, "E E"]:
    """Inner products in float32."""
    return torch.mm(vectors, vectors.T)


def means_single(vectors: Float[Tensor, "n k width"], routing: Int[Tensor, "n k"], n_experts: int) -> Float[Tensor, "E width"]:
    """Mean vector of each expert by index_add_ in float32."""
    width = vectors.shape[-1]
    total = torch.zeros(n_experts, width, device=vectors.device).index_add_(0, routing.view(-1), vectors.view(-1, width))
    return total / torch.bincount(routing.view(-1), minlength=n_experts)[:, None]


def means_double(vectors: Float[Tensor, "n k width"], routing: Int[Tensor, "n k"], n_experts: int) -> Float[Tensor, "E width"]:
    """Mean vector of each expert by index_add_ in float64, a stretch of tokens converted at a time."""
    width = vectors.shape[-1]
    rows, experts = vectors.view(-1, width), routing.view(-1)
    total = torch.zeros(n_experts, width, dtype=torch.float64, device=vectors.device)
    part = torch.empty(max(1, IN_DOUBLE // width), width, dtype=torch.float64, device=vectors.device)
    for start in range(0, len(rows), len(part)):
        some = rows[start : start + len(part)]
        total.index_add_(0, experts[start : start + len(part)], part[: len(some)].copy_(some))
    return total / torch.bincount(experts, minlength=n_experts)[:, None]


def _cos2(table: Float[Tensor, "n k k"]) -> Float[Tensor, "n k k"]:
    norms = table.diagonal(dim1=1, dim2=2)
    return table.square() / norms[:, :, None] / norms[:, None, :]


def _over_pairs(cos2: Float[Tensor, "n k k"]) -> Float[Tensor, " n"]:
    k = cos2.shape[-1]
    return (cos2.sum((1, 2)) - cos2.diagonal(dim1=1, dim2=2).sum(-1)) / (k * (k - 1))


def _pairwise(vectors: list[Tensor]) -> Float[Tensor, " n"]:
    k = len(vectors)
    squares = [(v * v).sum(-1) for v in vectors]
    cos2 = [(vectors[i] * vectors[j]).sum(-1).square() / (squares[i] * squares[j]) for i in range(k) for j in range(i + 1, k)]
    return torch.stack(cos2).mean(0)


def _over_pairs_numpy(table: Float[np.ndarray, "n k k"]) -> Float[np.ndarray, " n"]:
    k = table.shape[-1]
    norms = np.diagonal(table, axis1=1, axis2=2)
    cos2 = table**2 / norms[:, :, None] / norms[:, None, :]
    return (cos2.sum((1, 2)) - np.diagonal(cos2, axis1=1, axis2=2).sum(-1)) / (k * (k - 1))


@kernel(fastmath={"reassoc", "contract"})
def _dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@kernel()
def _loop(h, cos2):
    n, k, _ = h.shape
    squares = np.empty(k)
    for t in range(n):
        total = 0.0
        for i in range(k):
            squares[i] = _dot(h[t, i], h[t, i])
            for j in range(i):
                total += _dot(h[t, i], h[t, j]) ** 2 / (squares[i] * squares[j])
        cos2[t] = total / (k * (k - 1) // 2)

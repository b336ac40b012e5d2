"""Overlap on a token: how alike are the vectors that the router adds up?"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simgap.kernels.token_overlap import token_cos2 as token_cos2_kernel

# Beyond this many vectors on a token a Gram product beats the kernel's pairwise loop.
KERNEL_MAX = 16
# Numbers held at a time in each array of the torch path.
GATHERED = 1 << 22


def token_cos2(
    rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"], lead: int | None = None
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    r"""Per token, the mean of cos^2 over pairs of its vectors, and the number of pairs.

    .. math:: \frac{1}{|P_t|} \sum_{(i, j) \in P_t} \cos^2(v_{t,i}, v_{t,j})

    rows: vectors, numbered; index: the row of each of the m vectors of each token, -1 for none. Pairs are all i < j, or with `lead` those
    of one of the first `lead` vectors with one of the others. Dimensionless, in [0, 1]; 1/width for independent sign-symmetric vectors
    (law N1). A zero vector has no pairs; a token without pairs gets 0 and count 0; a vector that is not finite makes its token NaN.
    O(n m^2 width); the numba kernel on CPU up to m = 16, a float64 Gram product in chunks elsewhere. Raises ValueError for an index out of
    range.
    """
    n, m = index.shape
    if n and m and not -1 <= int(index.min()) <= int(index.max()) < len(rows):
        raise ValueError(f"index: expected rows from 0 to {len(rows) - 1}, or -1, got {int(index.min())} to {int(index.max())}")
    if lead is not None and not 0 <= lead <= m:
        raise ValueError(f"lead: expected 0 to {m}, the vectors on a token, got {lead}")
    if rows.device.type == "cpu" and m <= KERNEL_MAX:
        cos2, pairs = np.empty(n), np.empty(n, np.int64)
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        token_cos2_kernel(rows.numpy(), np.ascontiguousarray(index.numpy()), -1 if lead is None else lead, cos2, pairs)
        return cos2, pairs
    return token_cos2_torch(rows, index, lead)


def token_cos2_torch(
    rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"], lead: int | None = None
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """`token_cos2` as tensor operations, on any device."""
    n, m = index.shape
    paired = torch.ones(m, m, dtype=torch.bool, device=rows.device).triu(1)
    if lead is not None:
        paired[lead:] = False
        paired[:, :lead] = False
    if len(rows) == 0:
        return np.zeros(n), np.zeros(n, np.int64)
    cos2, pairs = [], []
    step = tokens_at_once(m, rows.shape[-1])
    for start in range(0, n, step):
        at = index[start : start + step]
        vectors = rows[at.clamp(min=0)].double()
        largest = vectors.abs().amax(-1, keepdim=True)
        defined = (at >= 0) & (largest[..., 0] != 0)
        vectors = vectors / torch.where(largest > 0, largest, 1.0)
        table = torch.bmm(vectors, vectors.mT)
        norms = torch.where(defined, table.diagonal(dim1=1, dim2=2), 1.0)
        table = table.square_().div_(norms[:, :, None]).div_(norms[:, None, :]).clamp_(max=1)
        exists = defined[:, :, None] & defined[:, None, :] & paired
        count = exists.sum((1, 2))
        mean = torch.where(exists, table, 0.0).sum((1, 2)) / count.clamp(min=1)
        broken = ((at >= 0) & ~torch.isfinite(largest[..., 0])).any(1)
        cos2.append(torch.where(broken, torch.nan, mean).cpu().numpy())
        pairs.append(count.cpu().numpy())
    return (np.concatenate(cos2), np.concatenate(pairs)) if cos2 else (np.empty(0), np.empty(0, np.int64))


def tokens_at_once(m: int, width: int) -> int:
    """Tokens whose vectors and tables of products the torch path holds together."""
    return max(1, GATHERED // (m * max(m, width)))


def undefined_vectors(rows: Float[Tensor, "R width"], index: Int[Tensor, "n m"], first: int = 0, most: int = 3) -> tuple[str, bool]:
    """Where the first vectors that are zero or not finite sit, as "token 4 slot 1, ...", and whether any of them is not finite.

    first: the number of the first token.
    """
    at = index.clamp(min=0)
    largest = rows.abs().amax(-1)
    exists = index >= 0
    broken = exists & ~torch.isfinite(largest)[at]
    bad = broken if broken.any() else exists & (largest == 0)[at]
    places = bad.nonzero()[:most].tolist()
    return ", ".join(f"token {first + t} slot {j}" for t, j in places), bool(broken.any())

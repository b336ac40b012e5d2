"""A user's vectors, routing and mask, read once: all that takes them asks the same of them, and refuses it in the same words."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.api.as_tensor import as_indices, as_tensor
from simgap.api.padding import compacted, indices_of_kept, kept_by_all, kept_by_mask, masked_vectors, refuse_repeated


@dataclass(frozen=True)
class RoutedVectors:
    """vectors: (..., k, width) as they lie in memory, of width 0 for a routing alone. indices: (..., k) on the CPU, whose each is, -1 for
    none and for what a mask leaves out; None without a routing. unmasked: (..., k), what masks keep; None where that is everything."""

    vectors: Float[Tensor, "*tokens k width"]
    indices: Int[Tensor, "*tokens k"] | None
    unmasked: Bool[np.ndarray, "*tokens k"] | None

    @classmethod
    def of(cls, vectors: Any, routing: Any, mask: Any, *, least: int = 1, repeats: bool = False) -> "RoutedVectors":
        """least: the fewest vectors to a token. repeats: whether a token may name an expert twice.

        Raises ValueError for shapes that do not fit, for vectors that are masked in part, and for what is no index and no mask.
        """
        data, unmasked = masked_vectors("vectors", vectors)
        h = as_tensor("vectors", data)
        if h.ndim < 3 or h.shape[-2] < least or not h.numel():
            expected = f"(..., k, width) with at least one token, k >= {least}, width >= 1"
            raise ValueError(f"vectors: expected {expected}, got shape {tuple(h.shape)}")
        return cls._of(h, unmasked, routing, mask, repeats)

    @classmethod
    def of_routing(cls, routing: Any, mask: Any) -> "RoutedVectors":
        """Without vectors. Raises ValueError as `of`."""
        indices = as_indices("routing", _required(routing))
        if indices.ndim < 2 or not indices.numel():
            raise ValueError(f"routing: expected (..., k), not empty, got {tuple(indices.shape)}")
        return cls._of(torch.empty(*indices.shape, 0), None, indices, mask, False)

    @classmethod
    def _of(cls, h: Tensor, unmasked: np.ndarray | None, routing: Any, mask: Any, repeats: bool) -> "RoutedVectors":
        shape, indices = tuple(h.shape[:-1]), None
        if mask is not None:
            unmasked = kept_by_all(unmasked, kept_by_mask(mask, shape))
        if routing is not None:
            indices = as_indices("routing", routing).cpu()
            if tuple(indices.shape) != shape:
                raise ValueError(f"routing: expected {shape}, the shape of vectors without their width, got {tuple(indices.shape)}")
            indices = indices_of_kept(indices, unmasked)
            if not repeats:
                refuse_repeated(indices)
        return cls(h, indices, unmasked)

    def kept(self) -> Bool[np.ndarray, "*tokens k"] | None:
        """Which vectors are there, by routing and masks; None where all are."""
        return self.unmasked if self.indices is None else kept_by_all((self.indices >= 0).numpy())

    def experts(self) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, "*tokens k"]]:
        """The experts that the routing names, ascending, and the indices numbered anew by their positions among them, so that an index of
        any size costs nothing; -1 stays. ValueError where it names none."""
        reached, numbered = compacted(_required(self.indices).numpy())
        if not len(reached):
            self._refuse()
        return reached, numbered

    def of_tokens(self) -> tuple[Float[Tensor, "n k width"], Int[Tensor, "n k"]]:
        """Vectors, and indices on their device, of the tokens that no mask leaves out whole. ValueError where the routing names nobody."""
        h, indices = self.vectors.flatten(0, -3), _required(self.indices).flatten(0, -2)
        if not bool((indices >= 0).any()):
            self._refuse()
        if (kept := self.kept_tokens()) is not None:
            tokens = torch.from_numpy(kept)
            h, indices = h[tokens.to(h.device)], indices[tokens]
        return h, indices.to(h.device)

    def kept_tokens(self) -> Bool[np.ndarray, " n"] | None:
        """Which tokens no mask leaves out whole; None where there is no mask."""
        return None if self.unmasked is None else np.asarray(self.unmasked.reshape(-1, self.unmasked.shape[-1]).any(1))

    def _refuse(self) -> NoReturn:
        masked = "" if self.unmasked is None else " that the mask keeps"
        raise ValueError(f"routing: expected indices from 0, or -1 for none, got none{masked}")


def _required(routing: Any) -> Any:
    if routing is None:
        raise ValueError("routing: expected (..., k) integers, which expert each vector came from, got none")
    return routing

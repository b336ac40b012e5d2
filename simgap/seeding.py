"""One stream of random numbers per (role, trial, expert, block): never shared, never global, the same on every machine and in any order."""

import hashlib
from typing import Any, Literal, get_args

import numpy as np
from numpy.random.bit_generator import ISeedSequence

Role = Literal[
    "up", "gate", "down", "base_up", "base_gate", "base_down", "affine", "router", "router_noise", "router_bias",
    "inputs", "inputs_mean", "inputs_clusters", "permutation", "test",
]  # fmt: skip


ROLES = frozenset(get_args(Role))


class _Label(ISeedSequence):
    """A label as numpy's bit generators want their seed: as many words of its BLAKE2b hash as they ask for, 64 bytes at most."""

    def __init__(self, label: str) -> None:
        self.label = label

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        size = n_words * np.dtype(dtype).itemsize
        return np.frombuffer(hashlib.blake2b(self.label.encode(), digest_size=size).digest(), dtype)


def stream(seed: int, role: Role, *, trial: int = 0, expert: int = 0, block: int = 0) -> np.random.Generator:
    """The generator that belongs to one label, and to no other.

    The 192 bits of SFC64's state are the BLAKE2b hash of the label, so two labels share a stream with probability 2^-192. A layer asks for
    thousands of streams, and this costs a sixth of numpy's SeedSequence; SFC64, because its raw words feed the normal kernel faster than
    numpy's other generators do. Order of calls, threads and device do not enter.

    Nor does the shape of what is drawn: layers of different widths and one seed begin with the same numbers, so give them different seeds
    where they are to be independent.
    """
    if role not in ROLES:
        raise ValueError(f"role: expected one of {', '.join(sorted(ROLES))}, got {role!r}")
    return np.random.Generator(np.random.SFC64(_Label(f"simgap {seed} {role} {trial} {expert} {block}")))  # type: ignore[arg-type]

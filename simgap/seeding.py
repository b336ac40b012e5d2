"""One stream of random numbers per (role, trial, expert, block): never shared, never global, the same on every machine and in any order."""

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt64
from numpy.random.bit_generator import ISeedSequence

Role = Literal[
    "up", "gate", "down", "base_up", "base_gate", "base_down", "affine", "router", "router_noise", "router_bias",
    "inputs", "inputs_mean", "inputs_clusters", "inputs_massive", "rotation", "output_bias", "permutation", "signs", "swap",
    "proof", "test",
]  # fmt: skip


ROLES = frozenset(get_args(Role))


class Label(NamedTuple):
    """What a stream belongs to."""

    seed: int
    role: Role
    trial: int = 0
    expert: int = 0
    block: int = 0


def stream(seed: int, role: Role, trial: int = 0, expert: int = 0, block: int = 0) -> np.random.Generator:
    """The generator that belongs to one label, and to no other.

    The 192 bits of SFC64's state are the BLAKE2b hash of the label, so two labels share a stream with probability 2^-192. A layer asks for
    thousands of streams, and this costs a sixth of numpy's SeedSequence; SFC64, because it is numpy's fastest generator. Order of calls,
    threads and device do not enter.

    Nor does the shape of what is drawn: layers of different widths and one seed begin with the same numbers, so give them different seeds
    where they are to be independent.
    """
    return np.random.Generator(np.random.SFC64(_Words(_text(seed, role, trial, expert, block))))  # type: ignore[arg-type]


def words(labels: Iterable[Label]) -> UInt64[np.ndarray, "S 3"]:
    """The words that seed the SFC64 of each label's stream: for a kernel that draws from many streams at once."""
    digests = b"".join(hashlib.blake2b(_text(*label), digest_size=24).digest() for label in labels)
    return np.frombuffer(digests, np.uint64).reshape(-1, 3)


def derived(seed: int, name: str) -> int:
    """A seed of 63 bits that belongs to this seed and name, and with probability 1 - 2^-63 to no other: one root for many layers, whose
    streams would otherwise begin alike."""
    return int.from_bytes(hashlib.blake2b(f"simgap seed {seed} {name}".encode(), digest_size=8).digest()) >> 1


class _Words(ISeedSequence):
    """A label as numpy's bit generators want their seed: as many words of its hash as they ask for, 64 bytes at most."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.frombuffer(hashlib.blake2b(self.text, digest_size=n_words * np.dtype(dtype).itemsize).digest(), dtype)


def _text(seed: int, role: Role, trial: int, expert: int, block: int) -> bytes:
    if role not in ROLES:
        raise ValueError(f"role: expected one of {', '.join(sorted(ROLES))}, got {role!r}")
    return f"simgap {seed} {role} {trial} {expert} {block}".encode()

"""One stream of random numbers per (role, trial, expert, block): never shared, never global, the same on every machine and in any order."""

from typing import Literal, get_args

import numpy as np

Role = Literal[
    "up", "gate", "down", "base_up", "base_gate", "base_down", "affine", "router", "router_noise", "router_bias",
    "inputs", "inputs_mean", "inputs_clusters", "permutation", "test",
]  # fmt: skip
ROLE_CODES = {role: code for code, role in enumerate(get_args(Role))}


def stream(seed: int, role: Role, *, trial: int = 0, expert: int = 0, block: int = 0) -> np.random.Generator:
    """The generator that belongs to one label, and to no other.

    The label's four words are the spawn key of a numpy SeedSequence, so two labels share a stream with probability 2^-128. SFC64, because
    its raw words feed the normal kernel faster than numpy's other generators do. Order of calls, threads and device do not enter. Nor does the
    shape of what is drawn: layers of different width and one seed begin with the same numbers, so give them different seeds where they
    are to be independent.
    """
    words = (ROLE_CODES[role], trial, expert, block)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=words)))

"""Where the vectors of a layer come from: what a metric sees of a source, and the blocks of tokens in which it sees it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from simgap.quantities import Quantity
from simgap.specs import LayerSpec
from simgap.threads import Map, in_order

# Tokens that a held layer computes at a time. Part of how undefined vectors are counted.
TOKEN_BLOCK = 1024


@dataclass(frozen=True)
class Needs:
    """What a metric looks at: the sites whose vectors it reads, whether of every expert on every token, whether it reads the routing of the
    tokens at all, whether weights, the rows of the router, the tokens themselves, the experts as functions of a token, which labels of the
    tokens, whether the scores of the router, and the bytes that it keeps of a trial."""

    sites: tuple[str, ...] = ()
    every: bool = False
    routing: bool = False
    weights: bool = False
    router: bool = False
    inputs: bool = False
    experts: bool = False
    labels: tuple[str, ...] = ()
    scores: bool = False
    bytes: int = 0


@dataclass(frozen=True)
class Block:
    """A block of tokens through the experts of `s` trials.

    first: the number of the first token. x (s, n, d): the tokens. indices, gates (s, n, k): the routed experts of each and their gate
    weights, -1 and 0 for none. rows: per site (s, R, width), the computed vectors. owner (s, R): the expert whose token a row stands for,
    shared experts after the routed ones; -1 for padding. index (s, n, k + n_shared): the row of every active expert of a token, routed ones
    first, -1 for none. every (s, n, E): the row of every routed expert for every token, where each computed them all; None otherwise.
    scores (s, n, E): what a token's experts are the highest of; logits (s, n, E): of which the gates are the softmax over the experts of a
    token. None where tokens do not choose experts by scores, NaN for a trial beside others that do.
    """

    first: int
    x: Float[Any, "s n d"]
    indices: Int[Any, "s n k"]
    gates: Float[Any, "s n k"]
    rows: dict[str, Float[Any, "s R width"]]
    owner: Int[Any, "s R"]
    index: Int[Any, "s n m"]
    every: Int[Any, "s n E"] | None
    scores: Float[Any, "s n E"] | None = None
    logits: Float[Any, "s n E"] | None = None


@runtime_checkable
class ExpertWeights(Protocol):
    """Weights that are held, streamed or read: one block of hidden units at a time."""

    @property
    def trials(self) -> tuple[int, ...]: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def hidden_blocks(self) -> int: ...
    def pieces(self, role: Any, block: int, rows: range, columns: range) -> tuple[Iterator[Float[Any, "s E m"]], range, range]:
        """Experts' flattened weights of one block of hidden units, piece by piece, and which of those in a piece are the experts of `rows`
        and of `columns`."""

    def units(self, t: int, e: int) -> list[Float[Any, "f d"]]:
        """The matrices of an expert of a trial, by its place among them, a row to a hidden unit, in the order of `roles`."""


@dataclass(frozen=True)
class ExpertMaps:
    """One expert as a function of a token: inner, what reads it: (W_up,), or (W_gate, W_up) where gated, each (f, d); outer (f, d), W_down
    transposed, its rows times the norm's gain; act, of tensors, number by number, out of place; norm: "none", "layernorm" or "rmsnorm", and
    the eps of it. What is added whatever the token, a bias, is not here."""

    inner: tuple[Float[Any, "f d"], ...]
    outer: Float[Any, "f d"]
    act: Callable[[Any], Any]
    norm: str = "none"
    eps: float = 0.0


@runtime_checkable
class Source(Protocol):
    """Layers of one shape, `s` trials of them at once: their weights, their routing, and their tokens block by block."""

    @property
    def spec(self) -> LayerSpec: ...
    @property
    def trials(self) -> tuple[int, ...]: ...
    @property
    def tokens(self) -> int: ...
    @property
    def indices(self) -> Int[Any, "s n k"]: ...
    @property
    def taken(self) -> Int[np.ndarray, "s E"]:
        """The tokens that each routed expert takes; see `counts`."""

    @property
    def weights(self) -> ExpertWeights: ...
    @property
    def router(self) -> Float[Any, "s E d"] | None:
        """A row to each routed expert, of a router that has weights."""

    @property
    def output_of_means(self) -> Callable[[Float[Any, "s E f"], Map], Float[Any, "s E d"]] | None:
        """Mean outputs from the means of what W_down reads; None for a source that has outputs and no W_down."""

    @property
    def experts(self) -> Callable[[int, int], ExpertMaps] | None:
        """Of a trial, by its place among them, and a routed expert; None for a source that has vectors and no functions."""

    @property
    def token_labels(self) -> Mapping[str, Int[np.ndarray, "s n _"]]:
        """What is known of each token by name, from 0, -1 for none: its "domain", its "token_type", its experts in the layer before,
        "previous", or in another routing, "trace"."""

    def blocks(self, sites: Collection[str], every: bool, task_map: Map, tokens: int) -> Iterable[Block]: ...


@dataclass(frozen=True)
class Work:
    """How work is shared: a map over tasks, and how many tables of pairs of many experts are made side by side."""

    task_map: Map = in_order
    tables: int = 1


def counts(indices: Int[Any, "s n k"], n_experts: int) -> Int[np.ndarray, "s E"]:
    """How many tokens each expert of each trial takes."""
    table = indices.cpu().numpy()
    s = len(table)
    # One more bin to a trial, for the slots of tokens that have fewer experts.
    bins = np.where(table < 0, n_experts, table) + (n_experts + 1) * np.arange(s)[:, None, None]
    return np.bincount(bins.ravel(), minlength=s * (n_experts + 1)).reshape(s, n_experts + 1)[:, :n_experts]


def missing_site(spec: LayerSpec, quantity: Quantity) -> str:
    """Why a layer has not got the site of a quantity, or nothing."""
    return "norm = none: there is no normed site" if quantity.site == "normed" and spec.norm == "none" else ""

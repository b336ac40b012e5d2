"""What is simulated: plain, frozen values that say everything about a layer and a run, and are refused at once if they cannot be built."""

import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from typing import Any, ClassVar, Literal, Self, get_args

from simgap.checks import choice, nearest, parse_bytes, whole_number
from simgap.own_activations import FULL, arrived, carried, full_name

Activation = Literal["identity", "relu", "gelu", "gelu_tanh", "silu", "tanh", "erf"]
Norm = Literal["none", "layernorm", "rmsnorm"]
Affine = Literal["none", "per_expert", "shared"]
Init = Literal["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal", "upcycled"]
RouterKind = Literal["linear", "noisy", "sigmoid", "uniform", "hash", "expert_choice", "soft"]
InputKind = Literal["gaussian", "sphere", "powerlaw", "clusters", "student", "file"]
SpaceKind = Literal["round", "powerlaw", "lognormal"]
Scaled = Literal["outputs", "inputs", "both"]
Dtype = Literal["float32", "float64"]

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
NORMS: tuple[str, ...] = get_args(Norm)
AFFINES: tuple[str, ...] = get_args(Affine)
INITS: tuple[str, ...] = get_args(Init)
ODD_ACTIVATIONS = ("identity", "tanh", "erf")
GAUSSIAN_INITS = ("kaiming_normal", "xavier_normal")
# Inputs whose tokens may correlate within a document.
AUTOREGRESSIVE = ("gaussian", "sphere", "powerlaw")
# No file system tells times of change apart less finely.
SETTLED_NS = 2_000_000_000
_SORTED_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Named:
    """A dataclass whose unknown fields are met with the nearest that there is."""

    # Without its own dictionary, a layer takes half of the memory: a sweep holds a hundred thousand.
    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __new__(cls, *args: Any, **values: Any) -> Self:
        if unknown := values.keys() - cls.__dataclass_fields__:
            name = next(name for name in values if name in unknown)
            raise ValueError(f"{cls.__name__} has no field {name!r}{nearest(name, field_names(cls))}")
        return object.__new__(cls)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and records hold them."""
        # A tenth of the time of asdict, which copies deeply what is plain.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class RouterSpec(Named):
    """How tokens find experts. Every router may read the tokens and its own weights; none reads W_down.

    kind: linear (softmax, top-k), noisy (linear plus Gaussian noise on the logits), sigmoid (scores sigmoid, a bias that acts on the
    selection only), uniform (k distinct experts at random), hash (by token position, the same in every trial), expert_choice (each expert
    takes its best tokens; a token may get fewer experts or none), soft (every expert for every token).
    temperature: divides the logits, at least 1e-6. noise: standard deviation of the logit noise, >= 0 (noisy). bias: standard deviation of
    the selection bias, >= 0 (sigmoid). capacity: tokens an expert takes, in units of tokens x top_k / n_experts, > 0 (expert_choice).
    """

    kind: RouterKind = "linear"
    temperature: float = 1.0
    noise: float = 1.0
    bias: float = 0.1
    capacity: float = 1.0

    def __post_init__(self) -> None:
        choice("router", self.kind, get_args(RouterKind))
        _number(self, "router.temperature", low=1e-6)
        _number(self, "router.noise", low=0.0)
        _number(self, "router.bias", low=0.0)
        _number(self, "router.capacity", low=0.0, open_low=True)


@dataclass(frozen=True, slots=True)
class InputSpec(Named):
    """The law of a token x in R^d_model, scaled so that E ||x||^2 = d_model before the common mean is added.

    kind: gaussian (isotropic), sphere (uniform, radius sqrt(d_model)), powerlaw (Gaussian, covariance spectrum i^-alpha), clusters
    (Gaussian mixture of n_clusters centres that hold the share `separation` of the variance), student (i.i.d. t entries, dof > 2), file
    (rows of a .npy or .safetensors matrix, drawn without replacement, taken as they are).
    mean: root mean square entry of a vector common to all tokens of a trial, >= 0.
    massive: share of tokens, in [0, 1], that are massive_scale > 0 times as long, as the first token of a text is in trained models.
    document_tokens: tokens of a document, which follow each other; document_correlation: in [0, 1], of a token with the one before it in
    its document (gaussian, sphere, powerlaw; each entry is autoregressive, before a sphere's length is taken).
    """

    kind: InputKind = "gaussian"
    alpha: float = 1.0
    n_clusters: int = 8
    separation: float = 0.5
    dof: float = 5.0
    mean: float = 0.0
    path: str = ""
    tensor: str = ""
    massive: float = 0.0
    massive_scale: float = 100.0
    document_tokens: int = 1
    document_correlation: float = 0.0

    def __post_init__(self) -> None:
        choice("inputs", self.kind, get_args(InputKind))
        _number(self, "inputs.alpha", low=0.0)
        _integer(self, "inputs.n_clusters", low=1)
        _number(self, "inputs.separation", low=0.0, high=1.0)
        _number(self, "inputs.dof", low=2.0, open_low=True)
        _number(self, "inputs.mean", low=0.0)
        _number(self, "inputs.massive", low=0.0, high=1.0)
        _number(self, "inputs.massive_scale", low=0.0, open_low=True)
        _integer(self, "inputs.document_tokens", low=1)
        _number(self, "inputs.document_correlation", low=0.0, high=1.0)
        if self.document_correlation and self.document_tokens == 1:
            raise ValueError("inputs.document_correlation: a document of one token has none before it; give inputs.document_tokens")
        if self.document_correlation and self.kind not in AUTOREGRESSIVE:
            kinds = ", ".join(AUTOREGRESSIVE)
            raise ValueError(f"inputs.document_correlation: expected inputs of {kinds} for it, got inputs = {self.kind!r}")
        if self.kind == "file" and (self.massive or self.document_tokens > 1):
            name = "massive" if self.massive else "document_tokens"
            raise ValueError(f"inputs.{name}: the rows of a file are taken as they are, got {name} = {getattr(self, name)}")
        if isinstance(self.path, str | os.PathLike):
            object.__setattr__(self, "path", os.path.expanduser(os.fspath(self.path)))
        for name in ("path", "tensor"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"inputs.{name}: expected text, got {getattr(self, name)!r}")
        if self.kind == "file" and not self.path.endswith((".npy", ".safetensors")):
            raise ValueError(f"inputs.path: expected a .npy or .safetensors file for inputs = 'file', got {self.path!r}")
        if self.tensor and self.path.endswith(".npy"):
            raise ValueError(f"inputs.tensor: a .npy file holds one array and no names, got {self.tensor!r}")
        if self.kind != "file" and (self.path or self.tensor):
            raise ValueError(f"inputs.path: given, but inputs = {self.kind!r} reads no file; use inputs = 'file'")

    def file_hash(self) -> str:
        """SHA-256 of the file's content, in hex; empty where no file is read. Raises ValueError where it cannot be read, or changes."""
        if self.kind != "file":
            return ""
        try:
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"inputs.path: cannot read {self.path!r}: not a regular file")
            # A file written a moment ago may be written again before its time of change shows it: that one is read anew.
            of_content = _content_hash if abs(time.time_ns() - status.st_mtime_ns) < SETTLED_NS else _settled_hash
            return of_content(self.path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError as error:
            raise ValueError(f"inputs.path: cannot read {self.path!r}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class SpaceSpec(Named):
    """The space of d_model dimensions that all experts read from and write to: how large its directions are, as in trained models.

    kind: round (all alike), powerlaw (mean squares i^-alpha, i = 1, 2, ...), lognormal (sizes exp(spread z), z the quantiles of a normal
    law). outliers: the first so many directions are `scale` > 0 times as large again. Sizes have mean square 1. Directions are coordinates,
    or where `rotated` those of one random orthogonal matrix, drawn for each trial, that all experts share.
    scaled: outputs (the rows of W_down), inputs (the columns of W_up and W_gate), or both.
    bias: root mean square entry, >= 0, of a vector of random direction that is added to the output of every expert of a trial; untrained
    outputs have entries of about 1 under a Kaiming init.
    """

    kind: SpaceKind = "round"
    scaled: Scaled = "outputs"
    alpha: float = 1.0
    spread: float = 1.0
    outliers: int = 0
    scale: float = 10.0
    rotated: bool = False
    bias: float = 0.0

    def __post_init__(self) -> None:
        choice("space", self.kind, get_args(SpaceKind))
        choice("space.scaled", self.scaled, get_args(Scaled))
        _number(self, "space.alpha", low=0.0)
        _number(self, "space.spread", low=0.0)
        _integer(self, "space.outliers", low=0)
        _number(self, "space.scale", low=0.0, open_low=True)
        _number(self, "space.bias", low=0.0)
        if not isinstance(self.rotated, bool):
            raise ValueError(f"space.rotated: expected true or false, got {self.rotated!r}")
        if self.rotated and not self.uneven:
            raise ValueError("space.rotated: a round space has no directions to rotate; give space = 'powerlaw' or space.outliers")

    @property
    def uneven(self) -> bool:
        """Whether its directions differ in size."""
        return self.kind != "round" or self.outliers > 0

    def scales(self, side: str) -> bool:
        """Whether the directions of one side, "outputs" or "inputs", differ in size."""
        return self.uneven and self.scaled in (side, "both")


@dataclass(frozen=True, slots=True)
class LayerSpec(Named):
    """One MoE layer: n_experts routed experts y = W_down norm(act(W_up x)), or W_down norm(act(W_gate x) * W_up x) where gated.

    Shapes: W_up, W_gate (E, d_ff, d_model), W_down (E, d_model, d_ff). norm acts on the hidden vector; norm_affine gives it a gain
    1 + N(0, norm_affine_std^2) and a bias N(0, norm_affine_std^2), drawn per expert or shared by all. n_shared_experts more experts see
    every token. init_correlation (in [0, 1]) is the correlation between the entries of two experts under init = "upcycled": one shared
    base plus noise. router, inputs and space take a kind's name, or a RouterSpec, an InputSpec and a SpaceSpec. activation may be one of
    the user's own, see `simgap.activation`.

    Raises ValueError naming the field, what was expected and what came.
    """

    d_model: int = 128
    d_ff: int = 512
    n_experts: int = 8
    top_k: int = 2
    n_shared_experts: int = 0
    activation: Activation = "silu"
    gated: bool = False
    norm: Norm = "none"
    norm_affine: Affine = "none"
    norm_affine_std: float = 0.1
    init: Init = "kaiming_normal"
    init_correlation: float = 0.9
    # One for all layers, since they are frozen.
    router: RouterSpec = field(default_factory=cache(RouterSpec))
    inputs: InputSpec = field(default_factory=cache(InputSpec))
    space: SpaceSpec = field(default_factory=cache(SpaceSpec))

    def __post_init__(self) -> None:
        for name, kind in NESTED.items():
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, kind(kind=value))
            elif not isinstance(value, kind):
                raise ValueError(f"{name}: expected a kind's name or {kind.__name__}, got {value!r}")
        if self.norm is None:
            object.__setattr__(self, "norm", "none")
        _integer(self, "d_model", low=1)
        _integer(self, "d_ff", low=1)
        _integer(self, "n_experts", low=2, why="overlap is between experts")
        _integer(self, "top_k", low=1)
        _integer(self, "n_shared_experts", low=0)
        if self.activation not in ACTIVATIONS:
            # One of the user's own has the hash of its source in its name.
            object.__setattr__(self, "activation", full_name(self.activation))
            if not isinstance(self.activation, str) or not FULL.fullmatch(self.activation):
                choice("activation", self.activation, ACTIVATIONS)
        choice("norm", self.norm, NORMS)
        choice("norm_affine", self.norm_affine, AFFINES)
        choice("init", self.init, INITS)
        if not isinstance(self.gated, bool):
            raise ValueError(f"gated: expected true or false, got {self.gated!r}")
        _number(self, "norm_affine_std", low=0.0)
        _number(self, "init_correlation", low=0.0, high=1.0)
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k: expected at most n_experts = {self.n_experts}, got {self.top_k}")
        if self.router.kind == "soft" and self.top_k != self.n_experts:
            raise ValueError(f"top_k: the soft router uses every expert, expected top_k = n_experts = {self.n_experts}, got {self.top_k}")
        if self.space.outliers > self.d_model:
            raise ValueError(f"space.outliers: expected at most d_model = {self.d_model}, got {self.space.outliers}")
        if self.norm == "none" and self.norm_affine != "none":
            raise ValueError(f"norm_affine: a gain and bias need a norm, got norm_affine = {self.norm_affine!r} with norm = 'none'")
        if self.norm == "layernorm" and self.d_ff < 2:
            raise ValueError(f"norm: layernorm needs d_ff >= 2 (one entry is its own mean), got d_ff = {self.d_ff}")

    @property
    def parameters(self) -> int:
        """Weights of the routed and shared experts' matrices; the router, gains and biases are not counted."""
        return (3 if self.gated else 2) * self.d_model * self.d_ff * (self.n_experts + self.n_shared_experts)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, as JSON and records hold them."""
        return Named.to_dict(self) | {name: getattr(self, name).to_dict() for name in NESTED}

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.activation in ACTIVATIONS:
            return object.__reduce_ex__(self, protocol)
        # Where it is unpickled, an activation of the user's own is to be known.
        return _arrived, (self.activation, carried(self.activation), tuple(Named.to_dict(self).values()))

    def key(self) -> str:
        """A stable name of this layer: 16 hex digits of the SHA-256 of its fields, a file of inputs by its content and not its path.

        Fields that came later do not enter while they have their defaults, so that layers keep the keys that they had before.
        """
        plain = self.to_dict()
        plain["inputs"] = _without_defaults(plain["inputs"], InputSpec, LATER_INPUTS) | {"path": self.inputs.file_hash()}
        plain["space"] = _without_defaults(plain["space"], SpaceSpec, SpaceSpec.__dataclass_fields__)
        if not plain["space"]:
            del plain["space"]
        return _digest(plain)


NESTED: dict[str, type] = {"router": RouterSpec, "inputs": InputSpec, "space": SpaceSpec}
# Fields that layers did not always have.
LATER_INPUTS = ("massive", "massive_scale", "document_tokens", "document_correlation")


@dataclass(frozen=True)
class RunSpec(Named):
    """How a layer is measured: tokens per trial, independent trials, root seed, device ("cpu", "cuda", "cuda:1"), dtype and memory budget.

    memory is bytes, or text such as "2GiB"; it never changes a result, so it does not enter the key.
    """

    tokens: int = 1024
    trials: int = 10
    seed: int = 0
    device: str = "cpu"
    dtype: Dtype = "float32"
    memory: int | str = "2GiB"

    def __post_init__(self) -> None:
        _integer(self, "tokens", low=1)
        _integer(self, "trials", low=1)
        _integer(self, "seed", low=0)
        choice("dtype", self.dtype, get_args(Dtype))
        if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", str(self.device)):
            raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {self.device!r}")
        object.__setattr__(self, "device", str(self.device))
        parse_bytes(self.memory)

    @property
    def memory_bytes(self) -> int:
        return parse_bytes(self.memory)

    def key(self) -> str:
        """16 hex digits of the SHA-256 of everything that can change a result; the memory budget cannot."""
        return _digest({name: value for name, value in self.to_dict().items() if name != "memory"})


def field_names(spec: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(spec))


def _arrived(activation: str, packed: tuple[Any, ...], values: tuple[Any, ...]) -> LayerSpec:
    arrived(activation, packed)
    return LayerSpec(*values)


def _without_defaults(plain: dict[str, Any], spec: type[Named], later: Iterable[str]) -> dict[str, Any]:
    """The values without those of `later` fields that are their defaults."""
    return {name: value for name, value in plain.items() if name not in later or value != spec.__dataclass_fields__[name].default}


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(_SORTED_JSON(plain).encode()).hexdigest()[:16]


def _content_hash(path: str, *looked: int) -> str:
    """The hash of the file that looked so. Raises ValueError where it is another by the time that it is read."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        now = os.fstat(file.fileno())
    if (now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size) != looked:
        raise ValueError(f"inputs.path: {path!r} changed while it was read")
    return digest


@lru_cache(64)
def _settled_hash(path: str, *looked: int) -> str:
    """A large file is read once for all the cells of a sweep, not once for each."""
    return _content_hash(path, *looked)


def _integer(spec: object, name: str, low: int, why: str = "") -> None:
    attribute = name.rpartition(".")[2]
    value = getattr(spec, attribute)
    if type(value) is int and value >= low:
        return
    object.__setattr__(spec, attribute, whole_number(name, value, low, why))


def _number(spec: object, name: str, low: float, high: float = math.inf, open_low: bool = False) -> None:
    attribute = name.rpartition(".")[2]
    value = getattr(spec, attribute)
    # As it is, most often; cells of one value share it.
    if type(value) is float and low < value < high:
        return
    try:
        boolean = isinstance(value, bool | str) or getattr(getattr(value, "dtype", None), "kind", "") == "b"
        # Adding zero makes one zero of the two, so that equal specs have one key.
        number = math.nan if boolean else float(value) + 0.0
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number) or not low <= number <= high or (open_low and number == low):
        span = f"above {low:g}" if open_low else f"at least {low:g}" + ("" if math.isinf(high) else f" and at most {high:g}")
        raise ValueError(f"{name}: expected a finite number {span}, got {value!r}")
    object.__setattr__(spec, attribute, number)

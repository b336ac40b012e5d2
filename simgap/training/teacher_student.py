"""A task whose specialisation is known: a teacher to each region of the input space, and an MoE layer that learns from answers alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from simgap.batch_invariant import matmul, sum_of_products
from simgap.checks import whole_number
from simgap.losses import load_balance
from simgap.moe import Draw, Weights, draw_weights, draws_of, route
from simgap.moe.dispatch import everywhere, routed_only
from simgap.moe.experts import run_experts
from simgap.seeding import derived, stream
from simgap.settings import own_settings
from simgap.specs import InputSpec, LayerSpec, RouterSpec
from simgap.stats import normalised_mutual_information

# Linear teachers whose answers have entries of unit variance, as Gaussian inputs have.
TEACHERS = LayerSpec(d_model=8, d_ff=8, n_experts=4, top_k=1, activation="identity", init="xavier_normal")
# The same layer, to learn them with a router that ends nearly hard.
STUDENTS = replace(TEACHERS, init="kaiming_normal", router=RouterSpec(temperature=0.1))
# The router's temperature has fallen to its last after this share of the steps; the rate falls to 0 over the last share.
ANNEALED, DECAYED = 0.7, 0.2
# Restarts are compared by the mean loss of this last share of the steps.
CLOSING = 0.05
FRESH_TOKENS, PERMUTATIONS = 8192, 20


@dataclass(frozen=True)
class Task:
    """Teachers, a layer of one trial: weights.router has their directions, unit vectors (1, M, d_model), and the region of x is that of
    the direction with which its product is largest."""

    spec: LayerSpec
    weights: Weights
    seed: int

    def answers(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """What each token's teacher says of it, and the region that the token lies in."""
        draws = [Draw(self.spec, self.seed, 0)]
        region = route(draws, x[None], self.weights.router).indices
        return _outputs(draws, self.weights, x[None], region, torch.ones_like(region, dtype=x.dtype))[0], region[0, :, 0]


class Specialisation(NamedTuple):
    """What fresh tokens say of a student, as `measure` would use it.

    nmi: normalised mutual information of the first expert of a token and its region. null: its mean where regions are shuffled. loss:
    squared error over squared answers (0 as the teachers, 1 as an output of zero). single: the same of the best of its experts alone on all
    tokens. linear: of the best linear map of these tokens. load: the share of tokens whose first expert it is, for each.
    """

    nmi: float
    null: float
    loss: float
    single: float
    linear: float
    load: tuple[float, ...]


@dataclass(frozen=True)
class Trained:
    """A trained student: its weights (one trial, router included), the loss at each step, the closing loss of each restart, which restart
    it is, and what fresh tokens say of it."""

    spec: LayerSpec
    weights: Weights
    losses: Float[np.ndarray, " steps"]
    closing: tuple[float, ...]
    restart: int
    specialisation: Specialisation

    @property
    def nmi(self) -> float:
        return self.specialisation.nmi

    @property
    def router(self) -> Tensor | None:
        """Its rows (1, E, d_model)."""
        return self.weights.router


@own_settings
def teachers(spec: LayerSpec = TEACHERS, seed: int = 0, dtype: str = "float32", device: str = "cpu") -> Task:
    """The task of a seed: n_experts teachers, experts of the spec, on Gaussian inputs cut by as many random directions.

    Raises ValueError for a spec whose regions are not those of directions: another router than "linear", top_k other than 1, shared
    experts, other inputs than Gaussian.

    >>> from simgap.training import teachers
    >>> import torch
    >>> answers, region = teachers(seed=1).answers(torch.eye(8))
    >>> answers.shape, region.shape
    (torch.Size([8, 8]), torch.Size([8]))
    """
    _check_layer("teachers", spec, ("linear",))
    if spec.top_k != 1:
        raise ValueError(f"teachers.top_k: a token has one teacher, expected 1, got {spec.top_k}")
    own = derived(seed, "teachers")
    weights = draw_weights(draws_of(spec, own, [0]), dtype, device)
    rows = weights.router
    if rows is None:
        raise ValueError("teachers.router: expected a router with weights")
    return Task(spec, replace(weights, router=rows / rows.norm(dim=-1, keepdim=True)), own)


@own_settings
def train(
    spec: LayerSpec,
    task: Task,
    steps: int = 1000,
    seed: int = 0,
    *,
    restarts: int = 2,
    tokens: int = 256,
    rate: float = 1e-2,
    balance: float = 0.01,
    temperature: float = 1.0,
    learn_router: bool = True,
    progress: Callable[[float], object] | bool = False,
) -> Trained:
    """A student of the task: a layer of this spec, trained by Adam from a random start on fresh Gaussian tokens at every step.

    Loss: squared error over squared answers, plus `balance` times the load-balance loss. Only answers are shown, never a region. Of
    `restarts` starts, trained side by side on the same tokens, that of the lowest closing loss (the mean of the last twentieth, balance
    not counted) is kept.

    Router: "linear" of any top_k, or "soft". Its temperature goes geometrically from `temperature` to spec.router.temperature over the
    first 0.7 of the steps. With top_k = 1 an expert's output is weighed by its probability among all experts while it trains (Switch
    Transformers, arXiv 2101.03961), else the weight, 1 for every token, would teach the router nothing; with more, by its probability among
    the chosen, as `measure` does. A low last temperature makes both alike. At a very high one "soft" is a dense layer: all
    experts at 1 / E. learn_router=False leaves the router as drawn. `rate` falls to 0 over the last fifth.

    The same arguments give the same bits, under the conditions of `measure`. dtype and device are the task's. progress as in `measure`, in
    steps. Raises ValueError naming the argument for what cannot be run, and for a loss that is not finite, with its step.

    >>> from simgap.training import STUDENTS, teachers, train
    >>> few = train(STUDENTS, teachers(seed=1), steps=10, seed=1)
    >>> len(few.losses), len(few.closing)
    (10, 2)
    """
    _check_layer("spec", spec, ("linear", "soft"))
    if spec.d_model != task.spec.d_model:
        raise ValueError(f"spec.d_model: expected the teachers' {task.spec.d_model}, got {spec.d_model}")
    for name, number in (("steps", steps), ("restarts", restarts), ("tokens", tokens)):
        whole_number(name, number, 1)
    for name, value, low in (("rate", rate, "above 0"), ("balance", balance, "at least 0"), ("temperature", temperature, "above 0")):
        if not 0 <= value < float("inf") or (value == 0 and low == "above 0"):
            raise ValueError(f"{name}: expected a finite number {low}, got {value!r}")
    draws = draws_of(spec, derived(seed, "students"), range(restarts))
    x = task.weights.up
    drawn = draw_weights(draws, str(x.dtype).removeprefix("torch."), str(x.device))
    with torch.enable_grad(), _progress(progress, steps) as report:
        weights, losses = _descend(draws, _leaves(drawn, learn_router), task, seed, losses=np.empty((steps, restarts)), tokens=tokens,
                                   rate=rate, balance=balance, temperature=temperature, report=report)  # fmt: skip
    closing = losses[-max(1, round(CLOSING * steps)) :].mean(0)
    best = int(closing.argmin())
    kept = replace(_each(weights, lambda value: value.detach()[best : best + 1].clone()), trials=(best,))
    return Trained(spec, kept, losses[:, best], tuple(closing.tolist()), best, specialisation(spec, kept, task, seed))


@own_settings
def specialisation(spec: LayerSpec, weights: Weights, task: Task, seed: int = 0, tokens: int = FRESH_TOKENS) -> Specialisation:
    """How well the experts of a layer (one trial) have divided the task's regions among them, on fresh tokens of the seed."""
    own = derived(seed, "fresh tokens")
    x = _tokens(task, own, 0, tokens)
    answers, region = task.answers(x)
    draws = [Draw(spec, own, 0)]
    routing = route(draws, x[None], weights.router)
    found = _outputs(draws, weights, x[None], routing.indices, routing.weights)
    alone = run_experts(draws, weights, slice(0, spec.n_experts), x[None], everywhere(routing.indices, spec.n_experts).tokens, ("output",))
    every = alone["output"][0, :, :tokens]
    wide, wide_answers = x.double(), answers.double()
    # By normal equations: Gaussian tokens are well conditioned, and torch's lstsq has not the same bits every time.
    linear = matmul(wide, matmul(torch.linalg.inv(matmul(wide.mT, wide)), matmul(wide.mT, wide_answers)))
    expert, regions = routing.indices[0, :, 0].cpu().numpy(), region.cpu().numpy()
    shuffled = stream(own, "permutation")
    load = np.bincount(expert, minlength=spec.n_experts) / tokens
    return Specialisation(
        nmi=normalised_mutual_information(expert, regions),
        null=float(np.mean([normalised_mutual_information(expert, shuffled.permutation(regions)) for _ in range(PERMUTATIONS)])),
        loss=float(_error(found, answers)[0]),
        single=float(_error(every, answers).min()),
        linear=float(_error(linear[None], wide_answers)[0]),
        load=tuple(load.tolist()),
    )


def as_trials(students: Sequence[Trained]) -> Callable[[Weights], Weights]:
    """A `prepare` for `measure`, of the students' spec: trial t is the layer of students[t].

    >>> import simgap as sg
    >>> from simgap.training import STUDENTS, as_trials, teachers, train
    >>> few = [train(STUDENTS, teachers(seed=seed), steps=5, seed=seed, restarts=1) for seed in range(2)]
    >>> len(sg.measure(STUDENTS, trials=2, tokens=64, quantities="weight_mso up", prepare=as_trials(few))["weight_mso up"].values)
    2
    """

    def prepare(weights: Weights) -> Weights:
        if max(weights.trials) >= len(students):
            raise ValueError(f"trials: expected at most {len(students)}, as many as there are students, got trial {max(weights.trials)}")
        own = [students[trial].weights for trial in weights.trials]
        parts = {name: torch.cat([getattr(student, name) for student in own]).to(like) for name, like in _parts(weights).items()}
        return _with(weights, parts)

    return prepare


def _descend(
    draws: list[Draw], weights: Weights, task: Task, seed: int, *, losses: np.ndarray, tokens: int, rate: float, balance: float,
    temperature: float, report: Callable[[float], object],
) -> tuple[Weights, np.ndarray]:  # fmt: skip
    """Adam on all starts at once: no number of one enters another's, since their losses are added and Adam is entrywise."""
    spec, steps, own = draws[0].spec, len(losses), derived(seed, "training tokens")
    if weights.router is None:
        raise ValueError("spec.router: expected a router with weights")
    leaves = [value for value in _parts(weights).values() if value.requires_grad]
    adam = torch.optim.Adam(leaves, lr=rate)
    cooling = spec.router.temperature / temperature
    for step in range(steps):
        x = _tokens(task, own, step, tokens)
        answers, _ = task.answers(x)
        every = x.expand(len(draws), -1, -1)
        now = temperature * cooling ** min(1.0, step / (ANNEALED * steps))
        probabilities = torch.softmax(sum_of_products(every, [weights.router], transposed=True) / now, -1)
        top = probabilities.topk(spec.top_k)
        gates = top.values if spec.top_k == 1 else top.values / top.values.sum(-1, keepdim=True)
        error = _error(_outputs(draws, weights, every, top.indices, gates), answers)
        losses[step] = error.detach().cpu().numpy()
        if not np.isfinite(losses[step]).all():
            at = int(np.flatnonzero(~np.isfinite(losses[step]))[0])
            raise ValueError(f"rate: the loss of restart {at} is {losses[step, at]} at step {step} of {steps}; expected less than {rate!r}")
        adam.param_groups[0]["lr"] = rate * min(1.0, (steps - step) / (DECAYED * steps))
        adam.zero_grad()
        (error + balance * load_balance(probabilities, top.indices)).sum().backward()
        adam.step()
        report(1)
    return weights, losses


def _outputs(
    draws: list[Draw], weights: Weights, x: Float[Tensor, "s n d"], indices: Int[Tensor, "s n k"], gates: Float[Tensor, "s n k"]
) -> Float[Tensor, "s n d"]:
    """The layer's output: each token's experts, weighed by its gates."""
    experts = draws[0].spec.n_experts
    plan = routed_only(indices, experts)
    rows = run_experts(draws, weights, slice(0, experts), x, plan.tokens, ("output",))["output"].flatten(1, 2)
    places = plan.index.flatten(1)[..., None].expand(-1, -1, rows.shape[-1])
    return (gates[..., None] * rows.gather(1, places).view(*indices.shape, -1)).sum(2)


def _error(found: Float[Tensor, "s n d"], answers: Float[Tensor, "n d"]) -> Float[Tensor, " s"]:
    """Squared error over squared answers."""
    return (found - answers).square().sum((1, 2)) / answers.square().sum()


def _tokens(task: Task, seed: int, block: int, tokens: int) -> Float[Tensor, "n d"]:
    drawn = stream(seed, "inputs", block=block).standard_normal((tokens, task.spec.d_model))
    return torch.from_numpy(drawn).to(task.weights.up)


def _parts(weights: Weights) -> dict[str, Tensor]:
    return {field.name: value for field in fields(weights) if isinstance(value := getattr(weights, field.name), Tensor)}


def _with(weights: Weights, parts: dict[str, Any]) -> Weights:
    return replace(weights, **parts)


def _each(weights: Weights, change: Callable[[Tensor], Tensor]) -> Weights:
    return _with(weights, {name: change(value) for name, value in _parts(weights).items()})


def _leaves(drawn: Weights, learn_router: bool) -> Weights:
    """The drawn weights as what autograd is asked for."""
    asked = _each(drawn, lambda value: value.clone().requires_grad_())
    return asked if learn_router else replace(asked, router=drawn.router)


def _check_layer(name: str, spec: LayerSpec, kinds: tuple[str, ...]) -> None:
    if spec.router.kind not in kinds:
        raise ValueError(f"{name}.router: expected {' or '.join(kinds)}, got {spec.router.kind!r}")
    if spec.n_shared_experts:
        raise ValueError(f"{name}.n_shared_experts: expected 0, got {spec.n_shared_experts}")
    if spec.inputs != InputSpec():
        raise ValueError(
            f"{name}.inputs: regions are of Gaussian inputs, expected the default, got {spec.inputs.kind!r} or one with changes"
        )


@contextmanager
def _progress(progress: Callable[[float], object] | bool, steps: int) -> Iterator[Callable[[float], object]]:
    if callable(progress):
        yield progress
    else:
        with tqdm(total=steps, disable=not progress, desc="train", unit="step") as bar:
            yield bar.update

"""What theorems on independent experts have in common: a law, and the situation in which it is simulated, its hypothesis or a breach."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from proofs.statement import Check, Wrong


@dataclass(frozen=True)
class Law:
    """of: the law. situation: how the experts of the simulation are made."""

    of: Callable[..., Any]
    situation: str


def polynomial(law: Any) -> Check:
    """The certified way of a law that has no number to enclose."""
    return Check.not_applicable("a polynomial law, derived exactly")


def broken(law: Any, why: str, situations: Iterable[str]) -> list[Wrong]:
    """Controls that break a hypothesis in the simulation alone. why: what the derivation takes as given."""
    return [Wrong(situation, replace(law, situation=situation), ways=("numeric",), why=why) for situation in situations]

"""What a number of a layer is called: a Quantity, whose text is the column, the flag and the name in a sweep file alike."""

from collections.abc import Sequence
from typing import NamedTuple

from simgap.checks import nearest

# The pairs of routed experts, or those of a routed with a shared one.
ROUTED, SHARED = "routed", "shared"
WEIGHT_KINDS = ("up", "gate", "down", "all")
READINGS = ("mean", "token", "all")
SITES = ("pre", "hidden", "normed", "output")


class Quantity(NamedTuple):
    """One number of a layer by its names; the text of it is "activation_mso mean output", "weight_mso up", "gap", "shared gap".

    metric: the first word. reading: which vectors are compared, or which number of several it is. site: where the vectors are, or which
    matrix. side: "routed", or "shared" for the pairs of a routed with a shared expert. "" where a name does not apply.
    """

    metric: str
    reading: str = ""
    site: str = ""
    side: str = ROUTED

    def __str__(self) -> str:
        return " ".join(self.path) if self.side == ROUTED else " ".join((self.side, *self.path))

    @property
    def path(self) -> tuple[str, ...]:
        """The names that apply, without the side: the place in a Gap."""
        return tuple(name for name in self[:3] if name)

    def on(self, side: str) -> "Quantity":
        return self._replace(side=side)


def chosen_names(argument: str, names: Sequence[str] | str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names asked for, in the known order; ValueError for one that does not exist."""
    if not isinstance(names, str | Sequence):
        raise ValueError(f"{argument}: expected some of {', '.join(known)}, got {names!r}")
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in known:
            raise ValueError(f"{argument}: expected some of {', '.join(known)}, got {name!r}{nearest(str(name), known)}")
    return tuple(name for name in known if name in names)

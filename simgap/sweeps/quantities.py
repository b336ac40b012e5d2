"""Which quantities a sweep records: names such as "weight_mso up" or "activation_mso mean output", whole branches, gap and ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

from simgap.gap.shape import READINGS, SITES, WEIGHT_KINDS
from simgap.specs import nearest

PATHS: tuple[tuple[str, ...], ...] = (
    *(("weight_mso", kind) for kind in WEIGHT_KINDS),
    *(("activation_mso", reading, site) for reading in READINGS for site in SITES),
    ("gap",),
    ("ratio",),
)


@dataclass(frozen=True)
class Quantities:
    """The quantities asked for, and the sites, readings and matrices that `measure` must look at to give them."""

    paths: tuple[tuple[str, ...], ...]
    sites: tuple[str, ...]
    readings: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return [" ".join(path) for path in self.paths]

    @property
    def looked_at(self) -> dict[str, tuple[str, ...]]:
        """As keyword arguments of `measure` and `predict`."""
        return {"sites": self.sites, "readings": self.readings, "weights": self.weights}


def quantities(names: Sequence[str] | str | None = None) -> Quantities:
    """The quantities of these names, in the order of a Gap; None is all of them. "activation_mso mean" is that reading at every site.

    Raises ValueError for a name that begins no quantity's (the nearest is suggested).
    """
    if names is None:
        asked = set(PATHS)
    else:
        if not isinstance(names, str | Sequence) or not names:
            raise ValueError(f"metrics: expected names such as 'weight_mso up', got {names!r}")
        asked = {path for name in ([names] if isinstance(names, str) else names) for path in _named(name)}
    paths = tuple(path for path in PATHS if path in asked)
    # The gap and the ratio are of mean outputs and W_up.
    needed = asked | ({("weight_mso", "up"), ("activation_mso", "mean", "output")} if asked & {("gap",), ("ratio",)} else set())
    sites = tuple(site for site in SITES if any(path[0] == "activation_mso" and path[-1] == site for path in needed))
    readings = tuple(reading for reading in READINGS if any(path[:2] == ("activation_mso", reading) for path in needed))
    weights = tuple(kind for kind in WEIGHT_KINDS if ("weight_mso", kind) in needed)
    return Quantities(paths, sites, readings, weights)


def _named(name: object) -> list[tuple[str, ...]]:
    parts = tuple(name.split()) if isinstance(name, str) else ()
    found = [path for path in PATHS if parts and path[: len(parts)] == parts]
    if not found:
        options = sorted({" ".join(path[:n]) for path in PATHS for n in range(1, len(path) + 1)})
        raise ValueError(f"metrics: no quantity is called {name!r}{nearest(str(name), options)}")
    return found

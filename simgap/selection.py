"""What is asked for: the metrics that there are, found by looking into their folder, and the quantities of them that a user names."""

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from simgap.checks import nearest
from simgap.null_names import OF_LAYERS, check_null_of_layer
from simgap.quantities import READINGS, ROUTED, SHARED, SITES, WEIGHT_KINDS, Quantity, chosen_names
from simgap.sources import Needs
from simgap.specs import LayerSpec


@functools.cache
def metrics() -> dict[str, Any]:
    """Every metric by its name, that of its file in simgap/metrics."""
    import simgap.metrics as folder

    modules = [importlib.import_module(f"{folder.__name__}.{file.name}") for file in pkgutil.iter_modules(folder.__path__)]
    known = [module for module in modules if hasattr(module, "QUANTITIES")]
    return {module.__name__.rpartition(".")[2]: module for module in sorted(known, key=lambda module: (module.ORDER, module.__name__))}


@functools.cache
def metric_of() -> dict[Quantity, str]:
    """The name of the metric that each routed quantity belongs to, in the order of a Gap."""
    return {quantity: name for name, metric in metrics().items() for quantity in metric.QUANTITIES}


@functools.cache
def ranges() -> dict[str, tuple[Quantity, tuple[float, float]]]:
    """Every quantity that is observed, on each side that it has, by its text, and the least and the largest that one value can be."""
    observed = [(q, metrics()[name]) for q, name in metric_of().items() if hasattr(metrics()[name], "RANGE")]
    return {str(q.on(side)): (q.on(side), metric.RANGE) for q, metric in observed for side in metric.SIDES}


@functools.lru_cache(maxsize=256)
def by_metric(quantities: tuple[Quantity, ...]) -> tuple[tuple[Any, tuple[Quantity, ...]], ...]:
    """The metrics of these quantities, each with those that are its own."""
    parts: dict[str, list[Quantity]] = {}
    for quantity in quantities:
        parts.setdefault(metric_of()[quantity], []).append(quantity)
    return tuple((metrics()[name], tuple(part)) for name, part in parts.items())


@dataclass(frozen=True)
class Selection:
    """asked: the quantities of routed experts that a user wants, in the order of a Gap. observed: those that a source must be looked at
    for: the asked ones that are not derived from others, and what the derived ones are made of where nothing else says. null: the name of
    what they are held against. kept: sites whose vectors are kept of the first trial as well."""

    asked: tuple[Quantity, ...]
    observed: tuple[Quantity, ...]
    null: str = "law"
    kept: tuple[str, ...] = ()

    @functools.cached_property
    def texts(self) -> list[str]:
        return [str(quantity) for quantity in self.asked]

    def of(self, spec: LayerSpec) -> tuple[Quantity, ...]:
        """What there is of the observed ones in a layer."""
        return tuple(q for q in self.observed if not metrics()[metric_of()[q]].missing(spec, q))

    def needs(self, spec: LayerSpec) -> Needs:
        """What all metrics together look at in a layer."""
        needs = needs_of(spec, self.of(spec))
        return replace(needs, sites=tuple(site for site in SITES if site in (*needs.sites, *self.kept))) if self.kept else needs

    def sides(self, spec: LayerSpec) -> list[Quantity]:
        """The asked quantities of a layer: of its routed experts, then those of pairs with its shared ones."""
        sides = [ROUTED, SHARED] if spec.n_shared_experts else [ROUTED]
        return [q.on(side) for side in sides for q in self.asked if side in metrics()[metric_of()[q]].SIDES]


@functools.lru_cache(maxsize=256)
def needs_of(spec: LayerSpec, quantities: tuple[Quantity, ...]) -> Needs:
    """What the metrics of these quantities look at in a layer."""
    needs = [metric.needs(spec, part) for metric, part in by_metric(quantities)]
    sites = {site for one in needs for site in one.sites}
    return Needs(
        sites=tuple(site for site in SITES if site in sites),
        every=any(one.every for one in needs),
        routing=any(one.routing for one in needs),
        weights=any(one.weights for one in needs),
        router=any(one.router for one in needs),
        inputs=any(one.inputs for one in needs),
        experts=any(one.experts for one in needs),
        labels=tuple(sorted({name for one in needs for name in one.labels})),
        scores=any(one.scores for one in needs),
        bytes=sum(one.bytes for one in needs),
    )


@functools.lru_cache(maxsize=256)
def _selection(asked: frozenset[Quantity], with_inputs: bool, null: str) -> Selection:
    known = metric_of()
    derived = {q for q in asked if hasattr(metrics()[known[q]], "derive")}
    inputs = {part for q in derived for part in metrics()[known[q]].INPUTS} if with_inputs else set()
    observed = (asked - derived) | inputs
    return Selection(tuple(q for q in known if q in asked), tuple(q for q in known if q in observed), null)


def select(
    quantities: Sequence[str] | str | None = None,
    *,
    metrics: Sequence[str] | str | None = None,
    sites: Sequence[str] | str = SITES,
    readings: Sequence[str] | str = READINGS,
    weights: Sequence[str] | str = WEIGHT_KINDS,
    null: str = "law",
) -> Selection:
    """The quantities that are asked for, and what they are held against.

    quantities: their texts, such as "weight_mso up", or how texts begin: "activation_mso mean" is that reading at every site. Without them,
    all of the named metrics (by default those that a Gap has always had) at these sites, in these readings and of these matrices. null:
    "law", what theory gives, "simulated", what untrained layers of the same spec give, or "isotropic", what a round space gives.

    Raises ValueError for a name that does not exist (the nearest is suggested), and for both quantities and metrics.
    """
    known = metric_of()
    sites, readings, weights = (
        # Without a word of the user's all of them are meant.
        every if names is every else chosen_names(argument, names, every)
        for argument, names, every in (("sites", sites, SITES), ("readings", readings, READINGS), ("weights", weights, WEIGHT_KINDS))
    )
    if null not in OF_LAYERS:
        check_null_of_layer(null)
    if quantities is not None:
        if metrics is not None:
            raise ValueError("metrics, quantities: expected one of the two, got both")
        if not isinstance(quantities, str | Sequence) or not quantities:
            raise ValueError(f"quantities: expected names such as 'weight_mso up', got {quantities!r}")
        asked: set[Quantity] = set()
        for name in [quantities] if isinstance(quantities, str) else quantities:
            begun = _begun_by(name) if isinstance(name, str) else ()
            if not begun:
                paths = [quantity.path for quantity in known]
                options = sorted({" ".join(path[:n]) for path in paths for n in range(1, len(path) + 1)})
                raise ValueError(f"quantities: none is called {name!r}{nearest(str(name), options)}")
            asked.update(begun)
        return _selection(frozenset(asked), True, null)
    names = _metrics(metrics)

    def wanted(quantity: Quantity) -> bool:
        if quantity.metric == "weight_mso":
            return quantity.site in weights
        return (not quantity.site or quantity.site in sites) and (quantity.reading not in READINGS or quantity.reading in readings)

    return _selection(frozenset(q for q, name in known.items() if name in names and wanted(q)), metrics is not None, null)


def _metrics(names: Sequence[str] | str | None) -> set[str]:
    known = metrics()
    if names is None:
        return {name for name, metric in known.items() if metric.DEFAULT}
    if not isinstance(names, str | Sequence) or not names:
        raise ValueError(f"metrics: expected some of {', '.join(known)}, got {names!r}")
    chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in known:
            if isinstance(name, str) and _begun_by(name):
                raise ValueError(f"metrics: {name!r} names quantities, not a metric; write quantities = {chosen!r}")
            raise ValueError(f"metrics: expected some of {', '.join(known)}, got {name!r}{nearest(str(name), list(known))}")
    return set(chosen)


@functools.lru_cache(maxsize=256)
def _begun_by(name: str) -> tuple[Quantity, ...]:
    """The quantities whose text begins with these words."""
    parts = tuple(name.split())
    return tuple(quantity for quantity in metric_of() if parts and quantity.path[: len(parts)] == parts)

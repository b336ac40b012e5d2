"""The null of each quantity, in a file of its metric's name: which law holds for which layer, under what hypotheses."""

import importlib
import importlib.util
from functools import cache
from typing import Any

from simgap.null_names import kind_of, not_judged
from simgap.nulls.prediction import Prediction
from simgap.quantities import ROUTED, Quantity
from simgap.selection import Selection, metric_of
from simgap.sources import Work
from simgap.specs import LayerSpec, RunSpec

__all__ = ["Prediction", "null_by_name", "null_of", "nulls_of_arrays", "reads_whole_spec"]


@cache
def _null_file(metric: str) -> Any:
    name = f"simgap.nulls.{metric}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _named_file(null: str) -> Any:
    return importlib.import_module(f"simgap.nulls.{null}")


def reads_whole_spec(selection: Selection) -> bool:
    """Whether a null of these depends on more of a spec than the laws read: its file says so by WHOLE_SPEC."""
    files = (_null_file(metric_of()[quantity]) for quantity in selection.asked)
    return selection.null == "simulated" or any(getattr(file, "WHOLE_SPEC", False) for file in files)


def null_by_name(spec: LayerSpec, run: RunSpec, quantity: Quantity, selection: Selection) -> Prediction:
    """The null of a quantity of a simulated layer that the selection names."""
    if selection.null == "law":
        return null_of(spec, run, quantity)
    prediction: Prediction = _named_file(selection.null).of_layer(spec, run, quantity, selection.of(spec))
    return prediction


def null_of(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    """What untrained experts give of a quantity. A metric without a null file has no law, whatever its quantity is called."""
    metric = metric_of().get(quantity.on(ROUTED))
    file = None if metric is None else _null_file(metric)
    return Prediction.missing("no law") if file is None else file.null(spec, run, quantity)


def nulls_of_arrays(source: Any, selection: Selection, null: str, work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """What chance gives a user's own arrays, by the null of this name. A metric whose file has none for arrays has no law. draws: of a null
    that is drawn; 0 for as many as are cheap, or none where it has a law too."""
    if null not in ("law", "signs"):
        predictions = _named(source, selection.observed, null, work, draws)
        return {q: predictions.get(q, Prediction.missing(f"null = {null}: {not_judged(null, kind_of(q))}")) for q in selection.asked}
    files = {quantity: _null_file(metric_of()[quantity]) for quantity in selection.asked}
    # Those without a law are drawn together.
    controls: dict[str, list[Quantity]] = {}
    for quantity, file in files.items():
        if null == "law" and hasattr(file, "CONTROL"):
            controls.setdefault(file.CONTROL, []).append(quantity)
    drawn = [_named(source, tuple(quantities), control, work, 0) for control, quantities in controls.items()]
    known = {quantity: one for each in drawn for quantity, one in each.items()}

    def of(quantity: Quantity) -> Prediction:
        if null == "signs" and not kind_of(quantity):
            return Prediction.missing(f"null = signs: {not_judged(null)}")
        function = getattr(files[quantity], "of_arrays", None)
        return known.get(quantity, Prediction.missing("no law")) if function is None else function(source, quantity, work)

    return {quantity: of(quantity) for quantity in selection.asked}


def _named(source: Any, observed: tuple[Quantity, ...], null: str, work: Work, draws: int) -> dict[Quantity, Prediction]:
    """By a function in the file of the null's name, or of its kind."""
    kind = "permuted" if null == "random_groups" else null
    predictions: dict[Quantity, Prediction] = getattr(_named_file(kind), null)(source, observed, work, draws)
    return predictions

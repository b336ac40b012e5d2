"""The null of each quantity, in a file of its metric's name: which law holds for which layer, under what hypotheses."""

import importlib
import importlib.util
from functools import cache
from typing import Any

from simgap.nulls.prediction import Prediction
from simgap.nulls.simulated import of_untrained
from simgap.quantities import ROUTED, Quantity
from simgap.selection import Selection, metric_of
from simgap.sources import Work
from simgap.specs import LayerSpec, RunSpec

__all__ = ["NULLS_OF_ARRAYS", "Prediction", "null_by_name", "null_of", "nulls_of_arrays", "reads_whole_spec"]
NULLS_OF_ARRAYS = ("law", "signs", "isotropic", "other_token", "renumbered", "separable", "permuted", "random_groups")
# What these say nothing of.
OTHERS = {
    "isotropic": "derived values, nor of other metrics than overlaps",
    "separable": "other values than overlaps of weights",
    "other_token": "other values than overlaps of vectors on a token",
}


@cache
def _null_file(metric: str) -> Any:
    name = f"simgap.nulls.{metric}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def reads_whole_spec(selection: Selection) -> bool:
    """Whether a null of these depends on more of a spec than the laws read: its file says so by WHOLE_SPEC."""
    files = (_null_file(metric_of()[quantity]) for quantity in selection.asked)
    return selection.null == "simulated" or any(getattr(file, "WHOLE_SPEC", False) for file in files)


def null_by_name(spec: LayerSpec, run: RunSpec, quantity: Quantity, selection: Selection) -> Prediction:
    """The null of a quantity that the selection names."""
    if selection.null == "simulated":
        return of_untrained(spec, run, quantity, selection.of(spec))
    return null_of(spec, run, quantity)


def null_of(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    """What untrained experts give of a quantity. A metric without a null file has no law, whatever its quantity is called."""
    metric = metric_of().get(quantity.on(ROUTED))
    file = None if metric is None else _null_file(metric)
    return Prediction.missing("no law") if file is None else file.null(spec, run, quantity)


def nulls_of_arrays(source: Any, selection: Selection, null: str, work: Work, draws: int = 0) -> dict[Quantity, Prediction]:
    """What chance gives a user's own arrays, by the null of this name. A metric whose file has none for arrays has no law. draws: of a null
    that is drawn; 0 for as many as are cheap."""
    if null in ("permuted", "random_groups"):
        from simgap.nulls.permuted import drawn_anew

        found = drawn_anew(source, selection.observed, work, null, draws)
        return {q: found.get(q, Prediction.missing(f"null = {null}: not of derived values")) for q in selection.asked}
    if null == "renumbered":
        from simgap.nulls.renumbered import of_weights

        return of_weights(source, selection.asked, work)
    if null in OTHERS:
        # A function in the file of its name.
        found = getattr(importlib.import_module(f"simgap.nulls.{null}"), null)(source, selection.observed, work)
        return {q: found.get(q, Prediction.missing(f"null = {null}: not of {OTHERS[null]}")) for q in selection.asked}

    def of(quantity: Quantity) -> Prediction:
        if null == "signs" and quantity.metric not in ("weight_mso", "activation_mso"):
            return Prediction.missing("null = signs: not of other values than overlaps")
        function = getattr(_null_file(metric_of()[quantity]), "of_arrays", None)
        return Prediction.missing("no law") if function is None else function(source, quantity, work)

    return {quantity: of(quantity) for quantity in selection.asked}

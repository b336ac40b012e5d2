"""The null of each quantity, in a file of its metric's name: which law holds for which layer, under what hypotheses."""

import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any

from simgap.nulls.prediction import Prediction
from simgap.quantities import ROUTED, Quantity
from simgap.selection import metric_of
from simgap.specs import LayerSpec, RunSpec

__all__ = ["Prediction", "null_of", "reads_whole_spec"]


@cache
def _null_file(metric: str) -> Any:
    name = f"simgap.nulls.{metric}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def reads_whole_spec(quantities: Sequence[Quantity]) -> bool:
    """Whether a null of these depends on more of a spec than the laws read: its file says so by WHOLE_SPEC."""
    return any(getattr(_null_file(metric_of()[quantity.on(ROUTED)]), "WHOLE_SPEC", False) for quantity in quantities)


def null_of(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    """What untrained experts give of a quantity. A metric without a null file has no law, whatever its quantity is called."""
    metric = metric_of().get(quantity.on(ROUTED))
    file = None if metric is None else _null_file(metric)
    return Prediction.missing("no law") if file is None else file.null(spec, run, quantity)

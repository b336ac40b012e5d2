"""The null of each quantity, in a file of its metric's name: which law holds for which layer, under what hypotheses."""

import importlib
import importlib.util
from functools import cache
from typing import Any

from simgap.nulls.prediction import Prediction
from simgap.quantities import ROUTED, Quantity
from simgap.selection import metric_of
from simgap.specs import LayerSpec, RunSpec

__all__ = ["Prediction", "null_of"]


@cache
def _null_file(metric: str) -> Any:
    name = f"simgap.nulls.{metric}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def null_of(spec: LayerSpec, run: RunSpec, quantity: Quantity) -> Prediction:
    """What untrained experts give of a quantity. A metric without a null file has no law, whatever its quantity is called."""
    metric = metric_of().get(quantity.on(ROUTED))
    file = None if metric is None else _null_file(metric)
    return Prediction.missing("no law") if file is None else file.null(spec, run, quantity)

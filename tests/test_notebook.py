"""Values in a notebook: whatever a name holds, none of it is HTML."""

from pathlib import Path

import pytest

from simgap import notebook
from simgap.api.calibration import Comparison
from simgap.nulls import Prediction
from simgap.stats import Estimate
from simgap.sweeps import Run


def test_text():
    assert notebook.text("a < b & 'c'\nd") == "<pre>a &lt; b &amp; &#x27;c&#x27;\nd</pre>"


def test_tables():
    rows = "<tr><th>q</th><th>&lt;b&gt;</th></tr><tr><td>gap</td><td>1.5</td></tr><tr><td>x</td><td>None</td></tr>"
    assert notebook.table([("q", "<b>"), ("gap", 1.5), ("x", None)], ["n < 3"]) == f"<table>{rows}</table><div>n &lt; 3</div>"
    assert notebook.table([]) == "<table></table>"


@pytest.mark.parametrize(
    "value",
    [Comparison(None, 0.5, why="a < b"), Prediction.missing("a < b"), Estimate.missing("a < b"), Run(Path("a < b"), 2, 2, 0, 0.0)],
    ids=lambda value: type(value).__name__,
)
def test_values_show_what_print_shows(value):
    assert value._repr_html_() == notebook.text(value)
    assert "a &lt; b</pre>" in value._repr_html_()

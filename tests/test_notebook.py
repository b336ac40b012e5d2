"""Values in a notebook: whatever a name holds, none of it is HTML."""

from simgap import notebook


def test_text():
    assert notebook.text("a < b & 'c'\nd") == "<pre>a &lt; b &amp; &#x27;c&#x27;\nd</pre>"


def test_tables():
    rows = "<tr><th>q</th><th>&lt;b&gt;</th></tr><tr><td>gap</td><td>1.5</td></tr><tr><td>x</td><td>None</td></tr>"
    assert notebook.table([("q", "<b>"), ("gap", 1.5), ("x", None)], ["n < 3"]) == f"<table>{rows}</table><div>n &lt; 3</div>"
    assert notebook.table([]) == "<table></table>"

"""Who may import whom, and what importing costs."""

import subprocess
import sys

import pytest
from importlinter.cli import lint_imports


def test_import_contracts_hold(capsys):
    assert lint_imports() == 0, capsys.readouterr().out


def modules_after(code: str) -> set[str]:
    """Top-level modules loaded by running some code in a fresh interpreter."""
    script = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code", ["import simgap", "import simgap.theory", "import simgap; simgap.predict(simgap.LayerSpec())", "import simgap.cli"]
)
def test_importing_loads_nothing_heavy(code):
    assert not modules_after(code) & {"torch", "numba", "scipy", "matplotlib"}, code


def test_the_public_face():
    import simgap

    assert set(simgap.__all__) <= set(dir(simgap))
    assert all(getattr(simgap, name) is not None for name in simgap.__all__)
    assert modules_after("import simgap; assert simgap.theory.null_mso(4) == 1/4; simgap.sweeps, simgap.metrics")
    with pytest.raises(AttributeError, match="module 'simgap' has no attribute 'mesure'"):
        simgap.mesure  # noqa: B018

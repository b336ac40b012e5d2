"""Who may import whom, and what importing costs."""

import subprocess
import sys

import pytest


def test_import_contracts_hold():
    # In a process of its own: it sets up logging anew, and would silence the loggers of this one.
    run = subprocess.run([sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"],
                         capture_output=True, text=True, timeout=120)  # fmt: skip
    assert run.returncode == 0, run.stdout


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

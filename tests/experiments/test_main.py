"""The command of the experiments as a process of its own, in the surroundings of notebooks, containers and old terminals all at once."""

import os
import subprocess
import sys

import pytest

from experiments.__main__ import main

SURROUNDINGS = {
    "MPLBACKEND": "module://no_such_notebook.backend_inline",
    "HOME": "/proc",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    # Those of libraries, on a Python to come, are not ours.
    "PYTHONWARNINGS": "error::RuntimeWarning",
}


@pytest.mark.slow
def test_surroundings_do_not_break_an_artefact(tmp_path):
    """That its figure is the same is a test of figures."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    environment = os.environ | SURROUNDINGS | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    command = [sys.executable, "-m", "experiments", "theory", "dual_maps", "--preset", "smoke", "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".csv", ".md", ".png", ".pdf"}


def test_artefacts_are_listed_without_their_docstrings(capsys, monkeypatch):
    import experiments.theory.dual_maps as module

    assert main([]) == 0
    first = module.__doc__.splitlines()[0]
    assert f"  dual_maps      {first}\n" in capsys.readouterr().out
    monkeypatch.setattr(module, "__doc__", None)
    assert main([]) == 0
    assert "  dual_maps\n" in capsys.readouterr().out

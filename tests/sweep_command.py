"""A sweep file, and what tests of the command that runs it ask of its output."""

import pytest

from simgap.cli import main
from simgap.sweeps import runner
from simgap.sweeps.worker import compute

TEXT = """
tokens = 8
trials = 2
quantities = ["weight_mso up", "activation_mso mean output"]
max_parameters = 1000
[layer]
d_model = 6
n_experts = 4
[[design]]
[design.axes]
d_ff = [8, 10, 12, 99]
top_k = [1, 2, 5]
"""


def refusal(capsys, *argv, status=2):
    """The one line on stderr, past the list of cells left out, of a command that ends with this status and prints nothing else."""
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *argv])
    assert ended.value.code == status
    shown, err = capsys.readouterr()
    assert shown == ""
    lines = err.splitlines()
    assert all(line.startswith("  ") or line.endswith(" left out:") for line in lines[:-1])
    return lines[-1]


def stopping(monkeypatch, after, error):
    """Have the runner meet an error in place of its task number `after`."""
    tasks = []

    def stopped(task):
        tasks.append(task)
        if len(tasks) > after:
            raise error
        return compute(task)

    monkeypatch.setattr(runner, "compute", stopped)

"""`simgap explain`: files in, the ladder out, one line for what is refused."""

import json

import numpy as np
import pytest

import simgap as sg
from simgap.cli import main
from tests.api.test_explained import layer


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    h, routing = layer(0, n=300)
    np.save("h.npy", h.astype(np.float32))
    np.save("routing.npy", routing)
    np.save("documents.npy", np.arange(300) // 10)
    return h.astype(np.float32), routing


def test_it_prints_what_the_function_gives(files, capsys, tmp_path):
    found = sg.explain(*files, documents=np.arange(300) // 10)
    assert main(["explain", "h.npy", "--routing", "routing.npy", "--documents", "documents.npy"]) == 0
    assert capsys.readouterr().out == f"{found}\n"
    assert main(["explain", "h.npy", "--routing", "routing.npy", "--documents", "documents.npy", "--json", "--figure", "ladder"]) == 0
    assert json.loads(capsys.readouterr().out) == found.as_dict()
    assert (tmp_path / "ladder.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["h.npy"], "the following arguments are required: --routing"),
        (["none.npy", "--routing", "routing.npy"], "vectors: cannot read 'none.npy': No such file or directory"),
        (["h.npy", "--routing", "h.npy"], "routing: expected whole numbers"),
        (["routing.npy", "--routing", "routing.npy"], "vectors: expected (..., k, width)"),
        (["h.npy", "--routing", "routing.npy", "--documents", "bad.npy"], "documents: cannot read 'bad.npy'"),
    ],
)
def test_what_is_refused_is_one_line(files, capsys, arguments, message, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 100)
    with pytest.raises(SystemExit) as ended:
        main(["explain", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("simgap explain: error: ")
    assert message in said
    assert said.count("\n") == 1

"""The guide and its pages: what they show is run, and the values that they print are those that come out."""

import ast
import contextlib
import doctest
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

import simgap.theory.dual_map  # noqa: F401
from simgap import own_activations, spaces
from simgap.api import arrays
from simgap.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# What no test here can run: a shell of its own, a cluster.
SHOWN = ("sh",)
# A gigabyte of weights is drawn.
LONG = ("kernels.md",)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def snippets(page: Path) -> list[tuple[str, str]]:
    """The language and the text of every block between fences."""
    return [(language, text) for _, language, text in FENCE.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow if page.name in LONG else (), id=page.name) for page in PAGES])
def test_every_snippet_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    names: dict[str, object] = {}
    printed = ""
    for language, text in snippets(page):
        if language == "python":
            run(text, names)
        elif language == "toml":
            (tmp_path / text.split()[1]).write_text(text)
        elif language == "console":
            for line in text.splitlines():
                assert line.startswith("$ simgap "), line
                assert main(shlex.split(line)[2:]) == 0
        elif language == "text":
            # What the snippet above printed last.
            alike(text, printed)
        else:
            assert language in SHOWN, language
        printed = capsys.readouterr().out


def run(text: str, names: dict[str, object]) -> None:
    """Run statement by statement; where a number follows an expression in a comment, it is the expression's, to the digits written."""
    lines = text.splitlines()
    for statement in ast.parse(text).body:
        code = ast.Module([statement], [])
        shown = re.search(r"#\s*(-?\d[\d.e+-]*)", lines[statement.end_lineno - 1])
        if not isinstance(statement, ast.Expr) or shown is None:
            exec(compile(code, "snippet", "exec"), names)  # noqa: S102
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            value = eval(compile(ast.Expression(statement.value), "snippet", "eval"), names)  # noqa: S307
        found = re.match(r"[-\d.e+]+", printed.getvalue() or str(value))
        assert found, lines[statement.end_lineno - 1]
        assert f"{float(found[0]):.4g}" == f"{float(shown[1]):.4g}", lines[statement.end_lineno - 1]


NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def alike(shown: str, printed: str) -> None:
    """What a page shows is what was printed, numbers up to 2 percent: the last digits are another CPU's."""
    lines = printed.splitlines()[-len(shown.splitlines()) :]
    assert [NUMBER.sub("#", line.rstrip()) for line in shown.splitlines()] == [NUMBER.sub("#", line.rstrip()) for line in lines]
    expected, found = ([float(number) for number in NUMBER.findall(text)] for text in (shown, "\n".join(lines)))
    assert found == pytest.approx(expected, rel=0.02, abs=0)


def test_other_words_and_numbers_are_noticed():
    alike("z 204.9, p < 1e-300\n", "first\nz 204.8, p < 1e-300\n")
    for other in ("z 209.8, p < 1e-300", "z 204.9, p < 1e-200", "z 204.9, q < 1e-300"):
        with pytest.raises(AssertionError):
            alike("z 204.9, p < 1e-300\n", other)


def test_a_wrong_number_is_noticed():
    with pytest.raises(AssertionError, match="2"):
        run("1 + 1  # 3: three", {})
    run("1 + 1  # 2: two\nprint('2 times', 3)  # 2 times 3", {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8"))
    for path, anchor in links:
        if not path.startswith("http"):
            target = page.parent / path if path else page
            assert target.exists(), path
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], anchor


@pytest.mark.parametrize(
    "module",
    [
        own_activations,
        spaces,
        arrays,
        *(sys.modules[f"simgap.theory.{name}"] for name in ("dual_map", "anisotropic", "routing_chance", "subspace_null")),
    ],
    ids=lambda module: module.__name__,
)
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert not found.failed


def test_the_guide_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 1600

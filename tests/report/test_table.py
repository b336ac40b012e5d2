"""Tables: Markdown for people, CSV at full precision for programs."""

import csv
import math

from simgap.report.table import Table


def full() -> Table:
    return Table(
        "Overlaps",
        ["name", "a|b", "count"],
        [["x | y", 1 / 3, 7], [None, None, None], ["plain", 1.5e-9, True]],
        notes=["First note.", "Second | note."],
        sections=[Table("More", ["u"], [[2.0]], sections=[Table("Deepest", ["v"], [["w"]])]), Table("Last", ["u"])],
    )


def test_markdown_to_the_letter():
    assert full().markdown() == (
        "# Overlaps\n\n"
        "| name | a\\|b | count |\n"
        "| --- | --- | --- |\n"
        "| x \\| y | 0.3333 | 7 |\n"
        "| - | - | - |\n"
        "| plain | 1.5e-09 | True |\n\n"
        "First note.\n\n"
        "Second | note.\n\n"
        "## More\n\n| u |\n| --- |\n| 2 |\n\n"
        "### Deepest\n\n| v |\n| --- |\n| w |\n\n"
        "## Last\n\n| u |\n| --- |\n"
    )


def test_every_row_of_markdown_has_every_column():
    rows = [line for line in full().markdown().splitlines() if line.startswith("|")]
    unescaped = [row.replace("\\|", "").count("|") - 1 for row in rows]
    assert unescaped == [3] * 5 + [1] * 8


def test_files_and_their_names(tmp_path):
    paths = full().write(tmp_path / "results" / "table")
    assert [path.name for path in paths] == ["table.md", "table.csv", "table_1.csv", "table_2.csv"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["table.csv", "table.md", "table_1.csv", "table_2.csv"]
    assert paths[0].read_text(encoding="utf-8") == full().markdown()


def test_csv_keeps_every_bit(tmp_path):
    numbers = [1 / 3, math.pi * 1e-9, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0]
    _, path = Table("t", ["value"], [[number] for number in numbers]).write(tmp_path / "t")
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["value"]
    assert [float(row[0]).hex() for row in rows] == [number.hex() for number in numbers]


def test_csv_quotes_what_needs_it_and_leaves_none_empty(tmp_path):
    cells = [["a,b", 'say "x"', "x | y", "two\nlines", "é"], [None, 0, "", 0.0, False]]
    _, path = Table("t", list("abcde"), cells).write(tmp_path / "t")
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [list("abcde"), cells[0], ["", "0", "", "0.0", "False"]]


def test_writing_changes_neither_table_nor_cells(tmp_path):
    table = full()
    table.write(tmp_path / "t")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    table.write(tmp_path / "t")
    assert table == full()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_dot_in_a_name_is_part_of_the_name(tmp_path):
    for name in ("lambda_0.5", "lambda_0.7"):
        Table(name, ["a"], [[1]]).write(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lambda_0.5.csv", "lambda_0.5.md", "lambda_0.7.csv", "lambda_0.7.md"]
